//! `[cookies]`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::parse::{self, Wrong};
use super::secret::{self, Given};
use super::section::Section;
use super::tree::{Entry, Node, Origin, Value};
use super::units;
use crate::clock::Timestamp;
use crate::cookie::signed::Keyring;
use crate::cookie::{CookiePolicy, Expires, Expiry, SameSite, Secure, SigningVersion};

/// The usual place of the secret.
const SECRET_VARIABLE: &str = "PYCKET_SECRET";

/// HMAC's key should be as long as its output (RFC 2104 section 3): 32 bytes with SHA-256.
const GOOD_SECRET_BYTES: usize = 32;

const DAY: Duration = Duration::from_hours(24);

/// Reads `[cookies]`. `None` when there is no usable secret.
///
/// `forward` is whether the application makes the cookie, too, where no key says so.
pub(super) fn read(mut section: Section<'_, '_>, forward: bool) -> Option<CookiePolicy> {
    let keyring = keyring(&mut section);
    let policy = CookiePolicy {
        forward: section.read("forward", parse::boolean).unwrap_or(forward),
        name: section
            .read("name", parse::text)
            .unwrap_or_else(|| "PYCKET_ID".to_owned()),
        // The attributes are checked without a secret too, so that all mistakes show at once.
        keyring: keyring.clone().unwrap_or_else(|| Keyring::single(b"")),
        version: section
            .read("version", version)
            .unwrap_or(SigningVersion::V2),
        min_version: section
            .read("min_version", parse::integer(1, 2))
            .unwrap_or(1),
        max_age_days: section
            .read("max_age_days", parse::integer(1, 36_500))
            .unwrap_or(31),
        path: section
            .read("path", parse::text)
            .unwrap_or_else(|| "/".to_owned()),
        domain: section.read("domain", parse::text),
        secure: section.read("secure", secure).unwrap_or(Secure::Auto),
        http_only: section.read("httponly", parse::boolean).unwrap_or(true),
        same_site: section
            .read("samesite", same_site)
            .unwrap_or(Some(SameSite::Lax)),
        partitioned: section.read("partitioned", parse::boolean).unwrap_or(false),
        expiry: expiry(&mut section),
    };
    for problem in policy.problems() {
        let wrong = Wrong {
            wrong: problem.message,
            right: None,
        };
        section.reader().problem_between(&[problem.key], wrong);
    }
    section.finish();
    keyring.map(|_| policy)
}

fn version(node: &Node) -> Result<SigningVersion, Wrong> {
    match parse::as_integer(&node.value) {
        Some(1) => Ok(SigningVersion::V1),
        Some(2) => Ok(SigningVersion::V2),
        None if node.value.as_text() == Some("same") => Ok(SigningVersion::Same),
        Some(_) | None => Err(Wrong::new("unknown value", "2, 1 or \"same\"")),
    }
}

fn secure(node: &Node) -> Result<Secure, Wrong> {
    match parse::as_boolean(&node.value) {
        Some(true) => Ok(Secure::Always),
        Some(false) => Ok(Secure::Never),
        None if node.value.as_text() == Some("auto") => Ok(Secure::Auto),
        None => Err(Wrong::new("unknown value", "\"auto\", true or false")),
    }
}

fn same_site(node: &Node) -> Result<Option<SameSite>, Wrong> {
    if parse::as_boolean(&node.value) == Some(false) {
        return Ok(None);
    }
    parse::choice(&[
        ("Lax", Some(SameSite::Lax)),
        ("Strict", Some(SameSite::Strict)),
        ("None", Some(SameSite::None)),
    ])(node)
}

fn expiry(section: &mut Section<'_, '_>) -> Expiry {
    let at = section.read("expires", moment);
    let days = section.read("expires_days", parse::integer(1, 36_500));
    if at.is_some() && days.is_some() {
        let wrong = Wrong::new("stands beside `expires`", "keep one of the two");
        section
            .reader()
            .problem_between(&["cookies.expires_days", "cookies.expires"], wrong);
    }
    Expiry {
        expires: at.map(Expires::At).or(days.map(Expires::Days)),
        max_age: section.read("max_age", max_age),
    }
}

fn moment(node: &Node) -> Result<Timestamp, Wrong> {
    let forms = "a date with its offset, 2030-01-01T00:00:00Z, or seconds since 1970";
    let parsed = if let Value::Moment(moment) = &node.value {
        units::timestamp(moment)
    } else if let Some(seconds) = parse::as_integer(&node.value) {
        u64::try_from(seconds)
            .ok()
            // RFC 6265 section 5.1.1: years have four digits.
            .filter(|seconds| *seconds < END_OF_YEAR_9999)
            .map(Timestamp::from_secs)
    } else if let Value::Untyped(text) = &node.value {
        text.parse()
            .ok()
            .and_then(|moment| units::timestamp(&moment))
    } else {
        None
    };
    parsed.ok_or_else(|| Wrong::new("not a moment", forms))
}

/// 10000-01-01T00:00:00Z in seconds since 1970.
const END_OF_YEAR_9999: u64 = 253_402_300_800;

fn max_age(node: &Node) -> Result<u64, Wrong> {
    let duration = parse::duration(Duration::from_secs(1), DAY * 36_500)(node)?;
    if duration.subsec_nanos() == 0 {
        Ok(duration.as_secs())
    } else {
        Err(Wrong::new("`Max-Age` counts whole seconds", "\"1h\""))
    }
}

/// The secrets, from one of the places where they can be.
fn keyring(section: &mut Section<'_, '_>) -> Option<Keyring> {
    let signing = section.read("signing_key_version", parse::integer(0, u32::MAX));
    let single = secret::read(section, "secret");
    let versions = section.free_table("secrets");
    let has_single = section.reader().is_given("cookies.secret");
    let has_versions = section.reader().is_given("cookies.secrets");
    if has_single && has_versions {
        let wrong = Wrong::new(
            "stands beside [cookies.secrets]",
            "move it there, under a key version that the others do not use",
        );
        section
            .reader()
            .problem_between(&["cookies.secret", "cookies.secrets"], wrong);
    }
    if has_versions {
        let keyring = versioned(section, versions, signing);
        // Afterwards: one of the versions may be read from that variable.
        warn_of_unused_variable(section);
        return keyring;
    }
    if section.reader().is_given("cookies.signing_key_version") {
        let wrong = Wrong::new(
            "has no effect without [cookies.secrets]",
            "remove it, or give the secrets by key version",
        );
        section
            .reader()
            .problem_between(&["cookies.signing_key_version"], wrong);
    }
    let given = if has_single {
        warn_of_unused_variable(section);
        single?
    } else {
        from_usual_variable(section)?
    };
    warn_of_short(section, "secret", &given);
    Some(Keyring::single(&given.bytes))
}

fn versioned(
    section: &mut Section<'_, '_>,
    versions: Vec<(String, Entry)>,
    signing: Option<u32>,
) -> Option<Keyring> {
    let mut secrets = BTreeMap::new();
    let mut complete = true;
    for (name, entry) in versions {
        let key = format!("secrets.{name}");
        // One spelling for each number: "1" and "01" would be two keys of one version.
        let version = name
            .parse()
            .ok()
            .filter(|version: &u32| version.to_string() == name);
        let Some(version) = version else {
            let wrong = Wrong::new("not a key version", "a whole number, like 1");
            section.wrong(&key, &entry.key, wrong);
            complete = false;
            continue;
        };
        match secret::from_node(section, &key, entry.node) {
            Some(given) => {
                warn_of_short(section, &key, &given);
                secrets.insert(version, given.bytes);
            }
            None => complete = false,
        }
    }
    if !complete || section.reader().is_wrong("cookies.signing_key_version") {
        return None;
    }
    let newest = secrets.last_key_value().map(|(version, _)| *version);
    let Some(signing) = signing.or(newest) else {
        let wrong = Wrong::new(
            "there is no secret in it",
            "1 = { env = \"PYCKET_SECRET\" }",
        );
        section
            .reader()
            .problem_between(&["cookies.secrets"], wrong);
        return None;
    };
    Keyring::versioned(secrets, signing)
        .map_err(|error| {
            let wrong = Wrong::new(error.to_string(), "one of the keys of [cookies.secrets]");
            section
                .reader()
                .problem_between(&["cookies.signing_key_version"], wrong);
        })
        .ok()
}

/// Where no key says where the secret is.
fn from_usual_variable(section: &mut Section<'_, '_>) -> Option<Given> {
    let origin = Origin::Variable(SECRET_VARIABLE.to_owned());
    let found = section.reader().variable(SECRET_VARIABLE);
    let wrong = match found {
        Some(text) if !text.is_empty() => {
            let bytes = text.into_bytes();
            return Some(Given { bytes, origin });
        }
        Some(_) => "the secret is empty",
        None => "there is no secret to sign cookies with",
    };
    let right = format!(
        "export {SECRET_VARIABLE}=$(pycket keygen)\n\
         or, under [cookies]: secret = {{ file = \"/etc/pycket/secret\" }}\n\
         every copy of the proxy needs the same one"
    );
    let wrong = Wrong::new(wrong, right);
    section.reader().problem_between(&["cookies.secret"], wrong);
    None
}

fn warn_of_unused_variable(section: &mut Section<'_, '_>) {
    let reader = section.reader();
    if !reader.has_used(SECRET_VARIABLE) && reader.variable(SECRET_VARIABLE).is_some() {
        let origin = Origin::Variable(SECRET_VARIABLE.to_owned());
        let wrong = Wrong::new(
            "this variable has no effect: the secret is configured elsewhere",
            "unset it, or set secret = { env = \"PYCKET_SECRET\" }",
        );
        reader.warn(&origin, "cookies.secret", wrong);
    }
}

fn warn_of_short(section: &mut Section<'_, '_>, name: &str, given: &Given) {
    let length = given.bytes.len();
    if length < GOOD_SECRET_BYTES {
        let wrong = Wrong::new(
            format!("the secret is short: {length} bytes, whoever guesses it can forge cookies"),
            format!("at least {GOOD_SECRET_BYTES} random bytes: `pycket keygen` makes them"),
        );
        let key = section.key(name);
        section.reader().warn(&given.origin, &key, wrong);
    }
}
