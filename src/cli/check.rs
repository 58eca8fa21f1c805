//! `pycket check`: says what would run.

use std::io::{self, Write};

use crate::config::{Config, summary};

/// Writes the summary of a configuration that was loaded without a mistake.
pub(super) fn check(config: &Config, out: &mut impl Write) -> io::Result<()> {
    write!(out, "ok\n\n{}", summary(config))
}
