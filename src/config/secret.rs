//! Secrets: text, `{ env = "NAME" }` or `{ file = "path" }`. No message repeats one.

use super::parse::{self, Wrong};
use super::section::Section;
use super::tree::{Node, Origin, Value};

/// The ways to give a secret, for messages.
const FORMS: &str = "\"text\", { env = \"NAME\" } or { file = \"path\" }";

/// A secret, and where it was given.
pub(super) struct Given {
    pub(super) bytes: Vec<u8>,
    pub(super) origin: Origin,
}

/// Reads a secret under `name`. `None` when it is not there, or wrong.
pub(super) fn read(section: &mut Section<'_, '_>, name: &'static str) -> Option<Given> {
    let node = section.take(name)?;
    from_node(section, name, node)
}

/// Reads the secret that stands at a node. `None` when it is wrong.
pub(super) fn from_node(section: &mut Section<'_, '_>, name: &str, node: Node) -> Option<Given> {
    let origin = node.origin;
    let bytes = if let Value::Table(entries) = node.value {
        let mut table = section.inline(name, entries);
        let bytes = referred(&mut table);
        table.finish();
        bytes
    } else if let Some(text) = node.value.as_text() {
        Ok(text.as_bytes().to_vec())
    } else {
        let wrong = format!("expected a secret, found {}", node.value.kind());
        Err(Wrong::new(wrong, FORMS))
    };
    match bytes {
        Ok(bytes) if bytes.is_empty() => {
            let wrong = Wrong::new("the secret is empty", "make one with `pycket keygen`");
            section.wrong(name, &origin, wrong);
            None
        }
        Ok(bytes) => Some(Given { bytes, origin }),
        Err(wrong) => {
            section.wrong(name, &origin, wrong);
            None
        }
    }
}

/// A secret that stands elsewhere.
fn referred(table: &mut Section<'_, '_>) -> Result<Vec<u8>, Wrong> {
    let variable = table.read("env", parse::text);
    let file = table.take("file");
    match (variable, file) {
        (Some(variable), None) => from_variable(table, &variable),
        (None, Some(file)) => from_file(table, &file),
        _ => Err(Wrong::new("it does not say where the secret is", FORMS)),
    }
}

fn from_variable(section: &mut Section<'_, '_>, variable: &str) -> Result<Vec<u8>, Wrong> {
    let value = section.reader().variable(variable);
    value.map(String::into_bytes).ok_or_else(|| {
        Wrong::new(
            format!("environment variable {variable} is not set"),
            format!("export {variable}=$(pycket keygen)"),
        )
    })
}

/// The newline with which editors and `echo` end a file is not part of the secret.
fn from_file(section: &mut Section<'_, '_>, node: &Node) -> Result<Vec<u8>, Wrong> {
    let path = parse::text(node)?;
    let path = section.reader().resolve(&path, &node.origin);
    let mut bytes = section.reader().read_file(&path).map_err(|error| {
        let wrong = format!("can't read {}: {error}", path.display());
        Wrong::new(
            wrong,
            "relative paths count from the configuration file's directory",
        )
    })?;
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    Ok(bytes)
}
