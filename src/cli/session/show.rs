//! How sessions read, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::Output;
use super::look::{Looked, Seen};
use crate::cli::cookie::show::{date, object, printable, span};
use crate::cli::stores::Place;
use crate::clock::Timestamp;
use crate::config::RoutePolicy;
use crate::format::native;
use crate::session::{Entry, Json, Session, SessionId};
use crate::store::Left;
use crate::telemetry::chain;

/// All that is shown of one session.
pub(super) struct Card<'a> {
    pub(super) place: &'a Place,
    pub(super) found: &'a Looked,
    pub(super) now: Timestamp,
    pub(super) remark: Option<&'a str>,
    pub(super) values: bool,
    pub(super) secrets: bool,
}

/// One session as JSON.
#[derive(Serialize)]
struct Told<'a> {
    session: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    place: &'a str,
    created: Option<u64>,
    last_use: Option<u64>,
    expires_in_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remark: Option<&'a str>,
    values: Vec<Item>,
    unnamed_values: usize,
    notifications: Vec<Item>,
}

/// A value or a notification.
#[derive(Serialize)]
struct Item {
    name: String,
    r#type: &'static str,
    /// What keeps it from being JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<serde_json::Value>,
}

impl Card<'_> {
    pub(super) fn json(&self) -> String {
        let session = &self.found.kept.session;
        let (created, last_use) = times(self.place, session);
        let id = &self.found.id;
        object(&Told {
            session: session.public_id.to_string(),
            id: self.secrets.then(|| id_text(id)),
            key: self.secrets.then(|| self.place.archive.key(id)),
            place: self.place.role,
            created: created.map(Timestamp::as_secs),
            last_use: last_use.map(Timestamp::as_secs),
            expires_in_seconds: seconds(self.found.left),
            remark: self.remark,
            values: self.value_items(),
            unnamed_values: session.opaque.unnamed,
            notifications: self.notification_items(),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let session = &self.found.kept.session;
        let (created, last_use) = times(self.place, session);
        let mut line = |subject: &str, what: &str| {
            // Writing to a String can't fail, here and below.
            let _infallible = writeln!(text, "{subject:<14} {what}");
        };
        line("session", &session.public_id.to_string());
        if self.secrets {
            line("id", &id_text(&self.found.id));
            line("key", &self.place.archive.key(&self.found.id));
        }
        line(self.place.role, &self.place.name);
        line("created", &moment(created, self.now));
        line("last use", &moment(last_use, self.now));
        line("expires", &end(self.found.left, self.now));
        if let Some(remark) = self.remark {
            line("remark", remark);
        }
        let values = self.value_items();
        line("values", &values.len().to_string());
        for item in &values {
            item.write(&mut text);
        }
        let unnamed = session.opaque.unnamed;
        if unnamed > 0 {
            let _infallible = writeln!(text, "  and {unnamed} whose name is no text");
        }
        let waiting = self.notification_items();
        let _infallible = writeln!(text, "{:<14} {}", "notifications", waiting.len());
        for item in &waiting {
            item.write(&mut text);
        }
        let hides = !values.is_empty() || !waiting.is_empty();
        if hides && !self.values {
            text.push_str("--values shows what they are\n");
        }
        text
    }

    fn value_items(&self) -> Vec<Item> {
        let session = &self.found.kept.session;
        let values = session.values.to_map().unwrap_or_default();
        let told = values
            .iter()
            .map(|(name, value)| Item::told(name, value, self.values));
        let opaque = session.opaque.names.iter();
        let opaque = opaque.map(|(name, kind)| Item::opaque(name, kind));
        let mut items: Vec<Item> = told.chain(opaque).collect();
        items.sort_by(|one, other| one.name.cmp(&other.name));
        items
    }

    fn notification_items(&self) -> Vec<Item> {
        let entries = self.found.kept.session.notifications.entries().iter();
        let told = entries.map(|entry| Item {
            state: Some(state(entry, self.now)),
            ..Item::told(&entry.name, &entry.value, self.values)
        });
        let hidden = self.place.archive.hidden(&self.found.kept).into_iter();
        let hidden = hidden.map(|(name, kind)| Item {
            state: Some("not shown by the proxy".to_owned()),
            ..Item::opaque(&name, kind)
        });
        told.chain(hidden).collect()
    }
}

impl Item {
    fn told(name: &str, value: &Json, show: bool) -> Self {
        let text = value.as_str();
        Self {
            name: name.to_owned(),
            r#type: type_of(text),
            kind: None,
            bytes: Some(text.len()),
            state: None,
            value: show.then(|| value.to_value()),
        }
    }

    fn opaque(name: &str, kind: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            r#type: "opaque",
            kind: Some(kind),
            bytes: None,
            state: None,
            value: None,
        }
    }

    fn write(&self, out: &mut String) {
        let name = printable(self.name.as_bytes());
        let what = match self.kind {
            Some(kind) => format!("opaque, Python's {kind}"),
            None => self.r#type.to_owned(),
        };
        let size = self
            .bytes
            .map_or_else(|| "-".to_owned(), |bytes| format!("{bytes} B"));
        let mut line = format!("  {name:<20} {what:<10} {size:>8}");
        if let Some(state) = &self.state {
            line.push_str("  ");
            line.push_str(state);
        }
        if let Some(value) = &self.value {
            line.push_str("  ");
            line.push_str(Json::from_value(value).as_str());
        }
        let _infallible = writeln!(out, "{}", line.trim_end());
    }
}

/// The lines of a list.
pub(super) struct Rows {
    pub(super) output: Output,
    pub(super) secrets: bool,
    /// How many places there are to tell apart.
    pub(super) places: usize,
}

/// One line of a list as JSON.
#[derive(Serialize)]
struct Row<'a> {
    session: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    place: &'a str,
    created: Option<u64>,
    last_use: Option<u64>,
    expires_in_seconds: Option<u64>,
    /// Names only.
    values: Vec<String>,
    notifications: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

impl Rows {
    pub(super) fn head(&self) -> String {
        if self.output == Output::Json {
            return String::new();
        }
        let (session, last, end) = ("SESSION", "LAST USE", "EXPIRES");
        let mut head = format!("{session:<22}  {last:<24}  {end:<24}  VALUES  NOTIFICATIONS");
        if self.places > 1 {
            head.push_str("  PLACE   ");
        }
        if self.secrets {
            head.push_str("  KEY");
        }
        head + "\n"
    }

    pub(super) fn row(&self, place: &Place, id: &SessionId, seen: &Seen, now: Timestamp) -> String {
        let public_id = seen.public_id().unwrap_or_else(|| id.public_id());
        let mut row = Row {
            session: public_id.to_string(),
            id: self.secrets.then(|| id_text(id)),
            key: self.secrets.then(|| place.archive.key(id)),
            place: place.role,
            created: None,
            last_use: None,
            expires_in_seconds: None,
            values: Vec::new(),
            notifications: 0,
            moved_to: None,
            unreadable: None,
        };
        let text = match seen {
            Seen::Session(looked) => {
                let session = &looked.kept.session;
                let (created, last_use) = times(place, session);
                row.created = created.map(Timestamp::as_secs);
                row.last_use = last_use.map(Timestamp::as_secs);
                row.expires_in_seconds = seconds(looked.left);
                let told = session.values.to_map().unwrap_or_default();
                let names = told.into_keys();
                row.values = names.chain(session.opaque.names.keys().cloned()).collect();
                row.notifications = session.notifications.entries().len();
                let last = last_use.map_or_else(|| "-".to_owned(), |at| ago(at, now));
                let end = match looked.left {
                    Left::For(left) => ago(now.after(left), now),
                    Left::Forever => "never".to_owned(),
                };
                let (values, notifications) = (row.values.len(), row.notifications);
                format!("{last:<24}  {end:<24}  {values:>6}  {notifications:>13}")
            }
            Seen::Moved(to) => {
                let to = to.public_id().to_string();
                let text = format!("an old id, which leads to another for a while: {to}");
                row.moved_to = Some(to);
                text
            }
            Seen::Unreadable(error) => {
                let why = chain(error);
                let text = format!("unreadable: {why}");
                row.unreadable = Some(why);
                text
            }
            Seen::Nothing => String::new(),
        };
        if self.output == Output::Json {
            return object(&row);
        }
        let mut line = format!("{:<22}  {text}", row.session);
        if self.places > 1 {
            let _infallible = write!(line, "  {:<8}", place.role);
        }
        if let Some(key) = row.key {
            line.push_str("  ");
            line.push_str(&key);
        }
        line
    }
}

/// What else there is to say of a session that was found.
pub(super) fn remark(found: &Looked, policy: &RoutePolicy, now: Timestamp) -> Option<String> {
    let session = &found.kept.session;
    let (size, limit) = (
        native::encoded_len(session),
        policy.session.limits.max_record_bytes,
    );
    if policy.session.lifetimes.is_over(session, now) {
        Some("it is over session.max_lifetime: the proxy does not take it".to_owned())
    } else if size > limit {
        Some(format!(
            "its record has {size} bytes; session.max_record allows {limit}: the proxy does not take it"
        ))
    } else {
        None
    }
}

fn id_text(id: &SessionId) -> String {
    String::from_utf8_lossy(&id.text()).into_owned()
}

/// When it began and when it was last written, where the format keeps that.
fn times(place: &Place, session: &Session) -> (Option<Timestamp>, Option<Timestamp>) {
    if place.archive.is_pycket() {
        (None, None)
    } else {
        (Some(session.created), Some(session.refreshed))
    }
}

fn seconds(left: Left) -> Option<u64> {
    match left {
        Left::For(left) => Some(left.as_secs()),
        Left::Forever => None,
    }
}

fn ago(moment: Timestamp, now: Timestamp) -> String {
    span(i128::from(moment.as_secs()), i128::from(now.as_secs()))
}

fn moment(moment: Option<Timestamp>, now: Timestamp) -> String {
    match moment {
        Some(at) => format!("{}, {}", date(i128::from(at.as_secs())), ago(at, now)),
        None => "this format does not say".to_owned(),
    }
}

fn end(left: Left, now: Timestamp) -> String {
    match left {
        Left::For(left) => moment(Some(now.after(left)), now),
        Left::Forever => "never, unless it is changed".to_owned(),
    }
}

/// What becomes of a notification.
fn state(entry: &Entry, now: Timestamp) -> String {
    match (&entry.claim, &entry.target) {
        (Some(claim), _) if claim.until > now => {
            format!("held by a request, free {}", ago(claim.until, now))
        }
        (_, Some(target)) => format!("waits for {}", printable(target.as_bytes())),
        (_, None) => "waits".to_owned(),
    }
}

/// What a JSON text is, by how it begins.
fn type_of(json: &str) -> &'static str {
    match json.bytes().next() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }
}
