//! `response_headers`, at the top and in routes: fields that answers get.

use http::{HeaderName, HeaderValue};

use super::parse::{self, Wrong};
use super::section::Section;
use super::tree::Node;
use crate::contract::Names;

/// What frames a message, says what its body is made of, or belongs to one connection.
const FRAMING: [&str; 15] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "date",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields and their values.
pub(super) type Fields = Vec<(HeaderName, HeaderValue)>;

/// Reads the table. A route has that at the top `above` it: what it does not name stays as there.
pub(super) fn read(section: &mut Section<'_, '_>, names: &Names, above: Option<&Fields>) -> Fields {
    let mut fields = above.cloned().unwrap_or_default();
    let mut own: Vec<HeaderName> = Vec::new();
    for (name, entry) in section.free_table("response_headers") {
        let key = format!("response_headers.{name}");
        let header = header(&name, names, &own);
        let value = value(&entry.node, above.is_some());
        match (header, value) {
            (Ok(header), Ok(value)) => {
                fields.retain(|(other, _)| *other != header);
                fields.extend(value.map(|value| (header.clone(), value)));
                own.push(header);
            }
            (Err(wrong), _) => section.wrong(&key, &entry.key, wrong),
            (_, Err(wrong)) => section.wrong(&key, &entry.node.origin, wrong),
        }
    }
    fields
}

fn header(name: &str, names: &Names, own: &[HeaderName]) -> Result<HeaderName, Wrong> {
    let header = parse::parse_header_name(name)?;
    let text = header.as_str();
    let wrong = if FRAMING.contains(&text) {
        "this header is not to be added: HTTP itself says in it how this message is sent"
    } else if text == "set-cookie" {
        "cookies are set by the application and by the proxy, not by the configuration"
    } else if names.is_reserved(&header) {
        "this header belongs to the header contract, and no client sees it"
    } else if own.contains(&header) {
        "this header is named twice: capitals do not count"
    } else {
        return Ok(header);
    };
    Err(Wrong::new(wrong, "remove it"))
}

/// The value; `None` where a route does without what stands above.
fn value(node: &Node, is_route: bool) -> Result<Option<HeaderValue>, Wrong> {
    if parse::as_boolean(&node.value) == Some(false) {
        let wrong = "only a route can do without a header that stands at the top";
        return if is_route {
            Ok(None)
        } else {
            Err(Wrong::new(wrong, "remove it"))
        };
    }
    let text = parse::text(node)?;
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let value = HeaderValue::try_from(text.as_str()).ok();
    let value = value.filter(|_| is_plain && !text.is_empty() && text.trim() == text);
    value.map(Some).ok_or_else(|| {
        Wrong::new(
            "not the value of a header",
            "visible ASCII and spaces between, like \"nosniff\"",
        )
    })
}
