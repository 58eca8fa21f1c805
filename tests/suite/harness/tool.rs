//! Programs that nobody here wrote, run to their end.

use std::process::{Command, Stdio};

use super::{Ended, Process};

/// Runs a program of a Debian package with these arguments, and waits for its end.
pub(crate) fn tool(program: &str, package: &str, arguments: &[&str]) -> Ended {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    Process::start(&mut command, package).wait()
}

/// Runs curl, which must succeed; what it wrote to stdout.
pub(crate) fn curl(arguments: &[&str]) -> String {
    let usual = [
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--noproxy",
        "*",
    ];
    let ended = tool("curl", "curl", &[&usual, arguments].concat());
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
    ended.stdout
}
