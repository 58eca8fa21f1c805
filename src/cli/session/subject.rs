//! Which session an argument names.

use std::ffi::OsString;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::cli::Failure;
use crate::cli::cookie::question::{Question, Refusal};
use crate::cli::cookie::{days, now_nanos};
use crate::cookie::CookiePolicy;
use crate::session::{PublicId, SessionId};

/// A session, and what is to be said of the way it was named.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) id: SessionId,
    pub(super) remark: Option<String>,
}

/// What an argument is.
#[derive(Debug)]
pub(super) enum Named {
    Session(Subject),
    /// What logs have, which leads to no key.
    Public(PublicId),
}

/// The argument's bytes; with `-`, those of the standard input.
pub(super) fn text(argument: OsString) -> Result<Vec<u8>, Failure> {
    let mut bytes = argument.into_encoded_bytes();
    if bytes == b"-" {
        bytes.clear();
        let mut input = std::io::stdin().lock();
        input.read_to_end(&mut bytes).map_err(Failure::Input)?;
    }
    Ok(bytes.trim_ascii().to_vec())
}

/// Tells what `text` is: an id, a key, a public id, or a cookie, which must be signed by us.
pub(super) fn read(
    text: &[u8],
    policy: &CookiePolicy,
    id_of_key: impl Fn(&[u8]) -> Option<SessionId>,
) -> Result<Named, Failure> {
    let known = SessionId::parse(text).ok().or_else(|| id_of_key(text));
    if let Some(id) = known {
        return Ok(Named::Session(Subject { id, remark: None }));
    }
    if text.len() == PublicId::TEXT_LEN
        && let Ok(bytes) = URL_SAFE_NO_PAD.decode(text)
        && let Ok(bytes) = bytes.try_into()
    {
        return Ok(Named::Public(PublicId::from_bytes(bytes)));
    }
    if !text.contains(&b'|') && !text.contains(&b'=') {
        return Err(Failure::Arguments(
            "this names no session: expected its cookie, its id (36 characters like \
             01234567-89ab-cdef-0123-456789abcdef), its key in the store (the prefix and the id) or \
             its public id (22 characters)"
                .to_owned(),
        ));
    }
    from_cookie(text, policy)
}

fn from_cookie(text: &[u8], policy: &CookiePolicy) -> Result<Named, Failure> {
    let question = |max_age_nanos| Question {
        keyring: &policy.keyring,
        name: &policy.name,
        min_version: policy.min_version,
        max_age_nanos,
        now_nanos: now_nanos(),
    };
    // However old, it names a session; only whether the proxy takes it depends on that.
    let verified = question(i128::MAX).ask(text).map_err(|refusal| {
        let said = said(&refusal);
        Failure::Missing(format!("the cookie is not valid: {said}"))
    })?;
    let id = SessionId::parse(verified.value.as_bytes()).map_err(|error| {
        Failure::Missing(format!(
            "the cookie is signed, and what was signed is {error}"
        ))
    })?;
    let today = question(days(policy.max_age_days)).ask(text);
    let remark = today
        .err()
        .map(|refusal| format!("the proxy does not take the cookie: {}", said(&refusal)));
    Ok(Named::Session(Subject { id, remark }))
}

fn said(refusal: &Refusal) -> String {
    match &refusal.hint {
        Some(hint) => format!("{}; {hint}", refusal.reason),
        None => refusal.reason.clone(),
    }
}
