//! What the driver's errors mean: what has happened, and whether it can be told.

use std::fmt;

use fred::error::{Error, ErrorKind};

use super::super::StoreError;
use super::super::breaker::Access;

/// Whether Redis does not know the script that was named. It has run nothing then.
pub(super) fn is_no_script(error: &Error) -> bool {
    has_code(error.details(), "NOSCRIPT")
}

/// What a node of a Redis Cluster answers when another one has the key. It has done nothing then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Redirect {
    /// Whether the other node is only about to get the slot: it takes this one command if `ASKING`
    /// stands before it. Else the slot has moved there for good.
    pub(in super::super) is_ask: bool,
    pub(in super::super) slot: u16,
    /// `None` is the host of the node that has answered.
    pub(in super::super) host: Option<String>,
    pub(in super::super) port: u16,
}

impl Redirect {
    /// Reads `MOVED 3999 127.0.0.1:6381`, the same with `ASK`. The host can be empty or, in
    /// IPv6, have colons of its own.
    fn parse(reply: &str) -> Option<Self> {
        let mut words = reply.split(' ');
        let (Some(kind), Some(slot), Some(address), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return None;
        };
        let is_ask = match kind {
            "MOVED" => false,
            "ASK" => true,
            _ => return None,
        };
        let (host, port) = address.rsplit_once(':')?;
        Some(Self {
            is_ask,
            slot: slot.parse().ok()?,
            host: (!host.is_empty()).then(|| host.to_owned()),
            port: port.parse().ok()?,
        })
    }
}

/// Read by those who have given one node as if it were a server of its own.
impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "it is a node of a Redis Cluster and another node has the key; \
             url = \"redis-cluster://...\" finds them all",
        )
    }
}

impl std::error::Error for Redirect {}

/// Sorts an error by what it says about the store and about the operation.
pub(super) fn classify(error: &Error, access: Access) -> StoreError {
    // The driver closes the connection at this answer, and gives it to all that wait on it. So it
    // may have been another command's.
    if access == Access::Write && has_code(error.details(), "CLUSTERDOWN") {
        return StoreError::ambiguous(text(error));
    }
    if let Some(failure) = from_reply(error) {
        return failure;
    }
    let cause = text(error);
    match error.kind() {
        // Refused by the driver's queue; it was never sent.
        ErrorKind::Backpressure => StoreError::unavailable(cause),
        ErrorKind::InvalidArgument
        | ErrorKind::InvalidCommand
        | ErrorKind::Config
        | ErrorKind::Url => StoreError::refused(cause),
        _ if access == Access::Write => StoreError::ambiguous(cause),
        ErrorKind::Timeout => StoreError::TimedOut,
        ErrorKind::Protocol | ErrorKind::Parse | ErrorKind::NotFound => StoreError::corrupt(cause),
        ErrorKind::Auth
        | ErrorKind::Routing
        | ErrorKind::IO
        | ErrorKind::Tls
        | ErrorKind::Canceled
        | ErrorKind::Unknown
        | ErrorKind::Cluster
        | ErrorKind::Sentinel => StoreError::unavailable(cause),
    }
}

/// What Redis answered, if it did. An error reply means that nothing was written: commands check
/// before they write, and the script writes last.
fn from_reply(error: &Error) -> Option<StoreError> {
    if !is_reply(error.details()) {
        return None;
    }
    let details = error.details();
    if let Some(redirect) = Redirect::parse(details) {
        return Some(StoreError::Refused(Box::new(redirect)));
    }
    let cause = text(error);
    // It will pass, and another attempt is safe.
    let passing = ["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"];
    Some(if passing.iter().any(|code| has_code(details, code)) {
        StoreError::unavailable(cause)
    } else if has_code(details, "WRONGTYPE") {
        StoreError::corrupt(cause)
    } else {
        StoreError::refused(cause)
    })
}

/// Whether the text is an error reply. They begin with a code in capitals (`ERR`, `OOM`); the
/// driver's own texts are sentences.
fn is_reply(details: &str) -> bool {
    let code = details.split_whitespace().next().unwrap_or_default();
    code.len() > 1 && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// Before Redis 7, errors inside a script stand further back: `ERR Error running script (call to
/// f_...): @user_script:1: WRONGTYPE Operation ...`.
fn has_code(details: &str, code: &str) -> bool {
    details.split([' ', ':', '-']).any(|word| word == code)
}

/// What may be logged. For a command that it does not know, Redis repeats the arguments; of
/// what can't be parsed, the driver might repeat pieces.
pub(super) fn text(error: &Error) -> String {
    if matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Parse) {
        return error.kind().to_str().to_owned();
    }
    let details = error.details();
    let safe = details
        .split_once(", with args")
        .map_or(details, |cut| cut.0);
    safe.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(details: &'static str) -> Error {
        Error::new(ErrorKind::Unknown, details)
    }

    #[test]
    fn error_replies_mean_that_nothing_was_written() {
        for details in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "NOPERM this user has no permissions to run the 'set' command",
            "MISCONF Redis is configured to save RDB snapshots",
            "NOAUTH Authentication required.",
            "ERR unknown command",
        ] {
            let failure = classify(&reply(details), Access::Write);
            assert!(matches!(failure, StoreError::Refused(_)), "{details}");
        }
        let loading = classify(&reply("LOADING Redis is loading"), Access::Write);
        assert!(matches!(loading, StoreError::Unavailable(_)));
        for details in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR Error running script (call to f_5): @user_script:1: WRONGTYPE Operation",
        ] {
            let failure = classify(&reply(details), Access::Read);
            assert!(matches!(failure, StoreError::Corrupt(_)), "{details}");
        }
    }

    #[test]
    fn redirections_are_read_and_say_that_nothing_was_done() {
        let to = |is_ask, host: Option<&str>| Redirect {
            is_ask,
            slot: 3999,
            host: host.map(str::to_owned),
            port: 6381,
        };
        for (details, redirect) in [
            ("MOVED 3999 127.0.0.1:6381", to(false, Some("127.0.0.1"))),
            ("ASK 3999 db.internal:6381", to(true, Some("db.internal"))),
            (
                "MOVED 3999 2001:db8::1:6381",
                to(false, Some("2001:db8::1")),
            ),
            ("MOVED 3999 :6381", to(false, None)),
        ] {
            for access in [Access::Read, Access::Write] {
                let StoreError::Refused(cause) = classify(&reply(details), access) else {
                    panic!("{details}");
                };
                assert_eq!(cause.downcast_ref(), Some(&redirect), "{details}");
            }
        }
        for details in [
            "MOVED",
            "MOVED 3999",
            "MOVED x db:1",
            "ASK 3999 db",
            "ASK 1 db:1 x",
        ] {
            assert_eq!(Redirect::parse(details), None, "{details}");
        }
    }

    #[test]
    fn a_cluster_that_is_down_may_have_said_so_to_another_command() {
        let down = reply("CLUSTERDOWN The cluster is down");
        let write = classify(&down, Access::Write);
        assert!(matches!(write, StoreError::Ambiguous(_)), "{write:?}");
        let read = classify(&down, Access::Read);
        assert!(matches!(read, StoreError::Unavailable(_)), "{read:?}");
    }

    #[test]
    fn lost_connection_is_ambiguous_only_for_writes() {
        for kind in [ErrorKind::IO, ErrorKind::Canceled, ErrorKind::Timeout] {
            let lost = Error::new(kind, "Connection closed.");
            let write = classify(&lost, Access::Write);
            assert!(matches!(write, StoreError::Ambiguous(_)));
            let read = classify(&lost, Access::Read);
            assert!(matches!(
                read,
                StoreError::Unavailable(_) | StoreError::TimedOut
            ));
        }
        let full = Error::new(ErrorKind::Backpressure, "Max commands reached.");
        let full = classify(&full, Access::Write);
        assert!(matches!(full, StoreError::Unavailable(_)));
    }

    #[test]
    fn arguments_that_redis_repeats_are_cut_off() {
        let unknown = reply(
            "ERR unknown command 'EVALSHA', with args beginning with: 'secret' '1' 'secret' ",
        );
        insta::assert_snapshot!(text(&unknown), @"ERR unknown command 'EVALSHA'");
    }
}
