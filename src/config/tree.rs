//! The configuration as a tree of values, each with the place it comes from.
//!
//! File, environment and flags all become [`Node`]s, so that whoever reads a key does not care
//! where its value stands. Nodes hold secrets: they have no `Debug`.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue, Error};
use toml::value::Datetime;

/// Values under their names.
pub(super) type Table = BTreeMap<String, Entry>;

/// A value and where its name stands.
pub(super) struct Entry {
    pub(super) key: Origin,
    pub(super) node: Node,
}

/// A value and where it stands.
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

/// Where something stands.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the file, at these bytes.
    File(Range<usize>),
    /// In this environment variable.
    Variable(String),
    /// In this flag.
    Flag(&'static str),
}

/// What a value is.
pub(super) enum Value {
    /// Text of a variable or a flag, whose type is the one that its key wants.
    Untyped(String),
    Text(String),
    /// Saturated; no key takes numbers so large.
    Integer(i128),
    Float,
    Boolean(bool),
    Moment(Datetime),
    List(Vec<Node>),
    Table(Table),
}

impl Value {
    /// Text, of a known type or not.
    pub(super) fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) | Self::Untyped(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// What to call it in "expected text, found ...".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Untyped(_) | Self::Text(_) => "text",
            Self::Integer(_) => "a number",
            Self::Float => "a fraction",
            Self::Boolean(_) => "true or false",
            Self::Moment(_) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Reads a TOML document.
///
/// # Errors
///
/// Every mistake of syntax, with its span; the rest of the document is not looked at.
pub(super) fn parse_document(text: &str) -> Result<Table, Vec<Error>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        Ok(from_table(table.into_inner(), &Origin::File))
    } else {
        Err(errors)
    }
}

/// Reads one TOML value, which all stands at `origin`.
///
/// # Errors
///
/// The first mistake of syntax.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Result<Value, Error> {
    let value = DeValue::parse(text)?;
    Ok(from_value(value.into_inner(), &|_| origin.clone()))
}

type Locate<'a> = &'a dyn Fn(Range<usize>) -> Origin;

fn from_table(table: DeTable<'_>, locate: Locate<'_>) -> Table {
    table
        .into_iter()
        .map(|(key, value)| {
            let entry = Entry {
                key: locate(key.span()),
                node: Node {
                    origin: locate(value.span()),
                    value: from_value(value.into_inner(), locate),
                },
            };
            (key.into_inner().into_owned(), entry)
        })
        .collect()
}

fn from_value(value: DeValue<'_>, locate: Locate<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(number.as_str(), number.radix());
            Value::Integer(parsed.unwrap_or(i128::MAX))
        }
        DeValue::Float(_) => Value::Float,
        DeValue::Boolean(yes) => Value::Boolean(yes),
        DeValue::Datetime(moment) => Value::Moment(moment),
        DeValue::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item| Node {
                    origin: locate(item.span()),
                    value: from_value(item.into_inner(), locate),
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(from_table(table, locate)),
    }
}
