//! What the driver's errors mean: what has happened, and whether it can be told.

use fred::error::{Error, ErrorKind};

use super::super::StoreError;
use super::super::breaker::Access;

/// Whether Redis does not know the script that was named. It has run nothing then.
pub(super) fn is_no_script(error: &Error) -> bool {
    has_code(error.details(), "NOSCRIPT")
}

/// Sorts an error by what it says about the store and about the operation.
pub(super) fn classify(error: &Error, access: Access) -> StoreError {
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
