//! The signals that are structured fields (RFC 9651).

use std::num::NonZeroU32;
use std::time::Duration;

use sfv::{BareItem, Dictionary, Item, List, ListEntry, Parser};

use super::error::{Fault, Rule};
use super::{Lines, check_name};
use crate::contract::ContractPolicy;
use crate::session::Taken;

/// What `X-Session-Control` says.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) clear: bool,
    pub(super) renew: bool,
    pub(super) destroy: bool,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) persist: Option<bool>,
}

/// Reads `X-Session-Delete`.
pub(super) fn names(lines: &Lines<'_>, policy: &ContractPolicy) -> Result<Vec<String>, Fault> {
    match taken(lines, policy)? {
        Taken::Nothing => Ok(Vec::new()),
        Taken::All => Err(Fault::whole(Rule::Star)),
        Taken::Names(names) => Ok(names),
    }
}

/// Reads `X-Notifications-Taken`: names, or the token `*` for all.
pub(super) fn taken(lines: &Lines<'_>, policy: &ContractPolicy) -> Result<Taken, Fault> {
    let mut list = List::new();
    for (number, line) in lines.iter().enumerate() {
        list = Parser::new(line.as_bytes())
            .parse_list_with_visitor(list)
            .map_err(|error| syntax(number, &error))?;
    }
    let mut all = false;
    let mut names = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let name = member(entry, Rule::NotName).and_then(|value| match value {
            BareItem::Token(token) if token.as_str() == "*" => {
                all = true;
                Ok(None)
            }
            BareItem::Token(token) => Ok(Some(token.as_str())),
            BareItem::String(string) => Ok(Some(string.as_str())),
            BareItem::DisplayString(string) => Ok(Some(string.as_str())),
            BareItem::Decimal(_)
            | BareItem::Integer(_)
            | BareItem::ByteSequence(_)
            | BareItem::Boolean(_)
            | BareItem::Date(_) => Err(Rule::NotName),
        });
        match name {
            Ok(Some(name)) => {
                check_name(name, policy).map_err(|rule| Fault::member(index, rule))?;
                names.push(name.to_owned());
            }
            Ok(None) => {}
            Err(rule) => return Err(Fault::member(index, rule)),
        }
    }
    Ok(if all {
        Taken::All
    } else if names.is_empty() {
        Taken::Nothing
    } else {
        Taken::Names(names)
    })
}

/// Reads `X-Session-Control`.
pub(super) fn control(lines: &Lines<'_>, _policy: &ContractPolicy) -> Result<Control, Fault> {
    let mut dictionary = Dictionary::new();
    for (number, line) in lines.iter().enumerate() {
        dictionary = Parser::new(line.as_bytes())
            .parse_dictionary_with_visitor(dictionary)
            .map_err(|error| syntax(number, &error))?;
    }
    let mut control = Control::default();
    for (index, (key, entry)) in dictionary.iter().enumerate() {
        control
            .set(key.as_str(), entry)
            .map_err(|rule| Fault::member(index, rule))?;
    }
    Ok(control)
}

impl Control {
    fn set(&mut self, key: &str, entry: &ListEntry) -> Result<(), Rule> {
        let boolean = || {
            member(entry, Rule::NotBoolean)?
                .as_boolean()
                .ok_or(Rule::NotBoolean)
        };
        match key {
            "clear" => self.clear = boolean()?,
            "renew" => self.renew = boolean()?,
            "destroy" => self.destroy = boolean()?,
            "persist" => self.persist = Some(boolean()?),
            "ttl" => self.idle_timeout = Some(seconds(member(entry, Rule::NotSeconds)?)?),
            _ => return Err(Rule::UnknownControl),
        }
        Ok(())
    }
}

fn seconds(value: &BareItem) -> Result<Duration, Rule> {
    value
        .as_integer()
        .and_then(|seconds| u32::try_from(i64::from(seconds)).ok())
        .and_then(NonZeroU32::new)
        .map(|seconds| Duration::from_secs(seconds.get().into()))
        .ok_or(Rule::NotSeconds)
}

/// The value of a member that is one item without parameters.
fn member(entry: &ListEntry, otherwise: Rule) -> Result<&BareItem, Rule> {
    match entry {
        ListEntry::Item(Item { bare_item, params }) if params.is_empty() => Ok(bare_item),
        ListEntry::Item(_) => Err(Rule::Parameter),
        ListEntry::InnerList(_) => Err(otherwise),
    }
}

/// The parser's verdict, whose texts are fixed phrases.
fn syntax(line: usize, error: &sfv::Error) -> Fault {
    let byte = error.index().unwrap_or_default();
    Fault::at(line, byte, Rule::Structured(format!("{error:#}")))
}
