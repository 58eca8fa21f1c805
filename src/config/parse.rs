//! Readers of single values: each says what is wrong and what would be right.

use std::time::Duration;

use http::HeaderName;
use http::uri::Authority;

use super::tree::{Node, Origin, Table, Value, parse_value};
use super::units::{self, UnitError};

/// Why a value is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) wrong: String,
    pub(super) right: Option<String>,
}

impl Wrong {
    pub(super) fn new(wrong: impl Into<String>, right: impl Into<String>) -> Self {
        Self {
            wrong: wrong.into(),
            right: Some(right.into()),
        }
    }

    /// A value of another type than the key wants.
    fn expected(what: &str, found: &Value, right: impl Into<String>) -> Self {
        Self::new(format!("expected {what}, found {}", found.kind()), right)
    }
}

type Parsed<T> = Result<T, Wrong>;

/// Text that is not empty.
pub(super) fn text(node: &Node) -> Parsed<String> {
    match node.value.as_text() {
        Some("") => Err(Wrong::new(
            "the text is empty",
            "leave the key out, or give it a value",
        )),
        Some(text) => Ok(text.to_owned()),
        None => Err(Wrong::expected(
            "text",
            &node.value,
            "put it in double quotes",
        )),
    }
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node) -> Parsed<bool> {
    as_boolean(&node.value)
        .ok_or_else(|| Wrong::expected("true or false", &node.value, "write `true` or `false`"))
}

/// `true` or `false`, if it is one of them.
pub(super) fn as_boolean(value: &Value) -> Option<bool> {
    if let Value::Boolean(yes) = value {
        Some(*yes)
    } else if let Value::Untyped(text) = value {
        text.parse().ok()
    } else {
        None
    }
}

/// A whole number, if it is one.
pub(super) fn as_integer(value: &Value) -> Option<i128> {
    if let Value::Integer(number) = value {
        Some(*number)
    } else if let Value::Untyped(text) = value {
        text.parse().ok()
    } else {
        None
    }
}

/// A whole number from `min` to `max`, both included.
pub(super) fn integer<T>(min: T, max: T) -> impl Fn(&Node) -> Parsed<T>
where
    T: Copy + PartialOrd + std::fmt::Display + TryFrom<i128>,
{
    move |node| {
        let range = format!("a whole number from {min} to {max}");
        let number = as_integer(&node.value)
            .ok_or_else(|| Wrong::expected("a number", &node.value, &range))?;
        T::try_from(number)
            .ok()
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| Wrong::new(format!("{number} is out of range"), &range))
    }
}

/// A duration from `min` to `max`, both included.
pub(super) fn duration(min: Duration, max: Duration) -> impl Fn(&Node) -> Parsed<Duration> {
    move |node| {
        let range = format!(
            "from {} to {}",
            units::show_duration(min),
            units::show_duration(max)
        );
        let units = "units are ms, s, m, h, d and w";
        let quantity = quantity(node, units::parse_duration, ["30s", "30m"], units)?;
        if (min..=max).contains(&quantity) {
            Ok(quantity)
        } else {
            let wrong = format!("{} is out of range", units::show_duration(quantity));
            Err(Wrong::new(wrong, range))
        }
    }
}

/// A size in bytes from `min` to `max`, both included.
pub(super) fn size(min: usize, max: usize) -> impl Fn(&Node) -> Parsed<usize> {
    move |node| {
        let range = format!(
            "from {} to {}",
            units::show_size(min),
            units::show_size(max)
        );
        let units = "units are B, KiB, MiB and GiB";
        let quantity = quantity(node, units::parse_size, ["4096B", "64KiB"], units)?;
        if (min..=max).contains(&quantity) {
            Ok(quantity)
        } else {
            let wrong = format!("{} is out of range", units::show_size(quantity));
            Err(Wrong::new(wrong, range))
        }
    }
}

fn quantity<T>(
    node: &Node,
    parse: impl Fn(&str) -> Result<T, UnitError>,
    examples: [&str; 2],
    units: &str,
) -> Parsed<T> {
    let [first, second] = examples;
    let written = match (as_integer(&node.value), node.value.as_text()) {
        (Some(number), _) => number.to_string(),
        (None, Some(text)) => text.to_owned(),
        (None, None) => {
            let right = format!("write \"{first}\" or \"{second}\"; {units}");
            return Err(Wrong::expected("text with a unit", &node.value, right));
        }
    };
    parse(&written).map_err(|error| {
        let right = match &error {
            UnitError::NoUnit => format!(
                "write \"{}\" or \"{}\"; {units}",
                // The same number with the two units of the examples.
                replace_number(first, &written),
                replace_number(second, &written),
            ),
            UnitError::NoNumber | UnitError::UnknownUnit(_) => {
                format!("write it like \"{first}\" or \"{second}\"; {units}")
            }
            UnitError::TooLarge => units.to_owned(),
        };
        Wrong::new(error.to_string(), right)
    })
}

fn replace_number(example: &str, number: &str) -> String {
    format!(
        "{number}{}",
        example.trim_start_matches(|c: char| c.is_ascii_digit())
    )
}

/// One of some words.
pub(super) fn choice<T: Copy>(options: &[(&'static str, T)]) -> impl Fn(&Node) -> Parsed<T> {
    move |node| {
        let found = text(node)?;
        options
            .iter()
            .find(|(word, _)| *word == found)
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| {
                let words = options.iter().map(|(word, _)| *word);
                Wrong::new(format!("unknown value `{found}`"), one_of(&found, words))
            })
    }
}

/// "did you mean ...?", or all the words there are.
fn one_of<'a>(found: &str, words: impl Iterator<Item = &'a str> + Clone) -> String {
    if let Some(near) = nearest(found, words.clone()) {
        return format!("did you mean \"{near}\"?");
    }
    let words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// The one of `words` that `found` is probably a slip of.
pub(super) fn nearest<'a>(found: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let folded = found.to_lowercase();
    words
        .map(|word| {
            (
                strsim::damerau_levenshtein(&folded, &word.to_lowercase()),
                word,
            )
        })
        // One slip in three letters; more is another word.
        .filter(|(distance, word)| *distance <= word.chars().count().max(3) / 3)
        .min()
        .map(|(_, word)| word)
}

/// The name of a header field (RFC 9110 section 5.1).
pub(super) fn header_name(node: &Node) -> Parsed<HeaderName> {
    parse_header_name(&text(node)?)
}

/// As [`header_name`], of text.
pub(super) fn parse_header_name(name: &str) -> Parsed<HeaderName> {
    HeaderName::try_from(name).ok().ok_or_else(|| {
        Wrong::new(
            "not the name of a header",
            "letters, digits and hyphens, like \"X-Remote-User\"",
        )
    })
}

/// Splits `host[:port]`; an IPv6 address loses its brackets.
pub(super) fn host_and_port(text: &str, default_port: u16) -> Option<(String, u16)> {
    let authority: Authority = text.parse().ok()?;
    let host = authority.host();
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let after_host = text.strip_prefix(authority.host())?;
    let port = match after_host.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None if after_host.is_empty() => default_port,
        None => return None,
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// The items of a list: a TOML list, one single text, or text with commas from a variable.
pub(super) fn items(node: Node) -> Parsed<Vec<Node>> {
    let origin = node.origin;
    if let Value::Untyped(text) = &node.value
        && !text.trim_start().starts_with('[')
    {
        let words = text.split(',').map(str::trim);
        let items = words.filter(|word| !word.is_empty()).map(|word| Node {
            origin: origin.clone(),
            value: Value::Untyped(word.to_owned()),
        });
        return Ok(items.collect());
    }
    let value = typed(node.value, &origin)?;
    if let Value::List(items) = value {
        Ok(items)
    } else if let Value::Text(_) = value {
        Ok(vec![Node { origin, value }])
    } else {
        Err(Wrong::expected(
            "a list",
            &value,
            "put it in brackets: [...]",
        ))
    }
}

/// A table: a TOML table, or one inline from a variable.
pub(super) fn table(node: Node) -> Parsed<Table> {
    let value = typed(node.value, &node.origin)?;
    if let Value::Table(table) = value {
        Ok(table)
    } else {
        Err(Wrong::expected(
            "a table",
            &value,
            "write it as { key = value }",
        ))
    }
}

/// Reads text from a variable as TOML.
fn typed(value: Value, origin: &Origin) -> Parsed<Value> {
    let Value::Untyped(text) = value else {
        return Ok(value);
    };
    parse_value(&text, origin).map_err(|error| {
        let wrong = format!("not a TOML value: {}", error.message());
        Wrong::new(wrong, "write it as in the file, on one line")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: Value) -> Node {
        Node {
            origin: Origin::Flag("--x"),
            value,
        }
    }

    fn wrong<T>(parsed: Parsed<T>) -> String {
        let wrong = parsed.err().unwrap();
        format!("{}; {}", wrong.wrong, wrong.right.unwrap())
    }

    #[test]
    fn a_bare_number_is_suggested_with_units() {
        let seconds = Duration::from_secs;
        let parse = duration(seconds(1), seconds(60));
        insta::assert_snapshot!(wrong(parse(&node(Value::Integer(30)))), @r#"the unit is missing; write "30s" or "30m"; units are ms, s, m, h, d and w"#);
        insta::assert_snapshot!(wrong(size(1, 4096)(&node(Value::Integer(64)))), @r#"the unit is missing; write "64B" or "64KiB"; units are B, KiB, MiB and GiB"#);
    }

    #[test]
    fn a_range_includes_both_ends() {
        let parse = integer(1_u8, 3);
        assert_eq!(parse(&node(Value::Integer(1))), Ok(1));
        assert_eq!(parse(&node(Value::Integer(3))), Ok(3));
        insta::assert_snapshot!(wrong(parse(&node(Value::Integer(0)))), @"0 is out of range; a whole number from 1 to 3");
        insta::assert_snapshot!(wrong(parse(&node(Value::Integer(4)))), @"4 is out of range; a whole number from 1 to 3");
        insta::assert_snapshot!(wrong(parse(&node(Value::Integer(-1)))), @"-1 is out of range; a whole number from 1 to 3");
        insta::assert_snapshot!(wrong(parse(&node(Value::Integer(i128::MAX)))), @"170141183460469231731687303715884105727 is out of range; a whole number from 1 to 3");
    }

    #[test]
    fn a_slip_of_a_word_is_named() {
        let parse = choice(&[("page", 1), ("always", 2), ("ack", 3)]);
        let of = |text: &str| wrong(parse(&node(Value::Text(text.to_owned()))));
        insta::assert_snapshot!(of("pgae"), @r#"unknown value `pgae`; did you mean "page"?"#);
        insta::assert_snapshot!(of("Page"), @r#"unknown value `Page`; did you mean "page"?"#);
        insta::assert_snapshot!(of("never"), @r#"unknown value `never`; "page", "always" or "ack""#);
    }

    #[test]
    fn a_variable_takes_the_type_of_its_key() {
        let untyped = |text: &str| node(Value::Untyped(text.to_owned()));
        assert_eq!(integer(0, 9)(&untyped("7")), Ok(7));
        assert_eq!(boolean(&untyped("false")), Ok(false));
        assert_eq!(text(&untyped("7")), Ok("7".to_owned()));
        assert_eq!(items(untyped("a, b,")).unwrap().len(), 2);
        assert_eq!(items(untyped("['a,b']")).unwrap().len(), 1);
        assert_eq!(table(untyped("{ a = 1, b = 2 }")).unwrap().len(), 2);
        assert!(table(untyped("a")).is_err());
        assert!(boolean(&untyped("yes")).is_err());
    }
}
