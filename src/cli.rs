//! The command line: what is asked for, and what is printed. The only place that prints.
//!
//! Arguments and environment flow in, text and an exit code flow out; each command has a module of
//! its own. Errors go to the standard error, results to the standard output.

mod check;
mod cookie;
mod demo;
mod keygen;
mod migrate;
mod run;
mod session;
mod stores;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{
    self, Colours, Config, Flags, Problems, Sources, Warning, report, report_warning,
};
use crate::store::StoreError;
use crate::telemetry::chain;

/// Exit code when something could not start or serve.
const FAILED: u8 = 1;

/// Exit code of a configuration that can't be used: `EX_CONFIG` of sysexits.h. Wrong arguments
/// are 2, which is clap's.
const BAD_CONFIGURATION: u8 = 78;

/// Exit code of wrong arguments, the same as clap's.
const WRONG_ARGUMENTS: u8 = 2;

/// Names the configuration file where no flag does.
const CONFIG_VARIABLE: &str = "PYCKET_CONFIG";

/// A reverse proxy that gives web applications sessions and one-time notifications.
#[derive(Debug, Parser)]
#[command(
    name = "pycket",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 fine, 1 could not start or serve, 2 wrong arguments, 78 wrong configuration.\n\
                  `pycket cookie verify` has 1 for a cookie that is not valid.\n\
                  `pycket --help` says what an application sees and answers.",
    after_long_help = include_str!("cli/help.txt")
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Run(Configuration),
    /// Check the configuration and say what would run
    Check(Configuration),
    /// Make a secret to sign cookies with
    Keygen,
    /// Say what is wrong with a cookie, or sign one
    #[command(subcommand)]
    Cookie(cookie::Command),
    /// Look into the store, and mend it
    #[command(subcommand)]
    Session(session::Command),
    /// Copy or move all sessions to another store or format
    Migrate(migrate::Migrate),
    /// Run the proxy in front of a small application, to try it out
    Demo {
        /// Where to listen
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
    },
    /// Print a script that completes arguments in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Where the configuration comes from: a flag wins over a variable, that over the file, and that
/// over the defaults.
#[derive(Args, Clone, Debug)]
struct Configuration {
    /// The configuration file; without one, the defaults hold
    #[arg(
        long,
        short,
        value_name = "FILE",
        help = "Configuration file [default: $PYCKET_CONFIG]"
    )]
    config: Option<PathBuf>,
    /// Where to listen: address and port, a unix socket, or systemd; may repeat [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// The application
    #[arg(
        long,
        value_name = "URL",
        help = "The application [default: http://127.0.0.1:9000]"
    )]
    upstream: Option<String>,
    /// The store: memory, redis or memcached [default: memory]
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Configuration(#[from] Problems),
    #[error("can't read the configuration file {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the environment variable {0} is not UTF-8")]
    Variable(String),
    /// Arguments that are wrong together; said without what could be a secret.
    #[error("{0}")]
    Arguments(String),
    #[error("can't read the standard input")]
    Input(#[source] io::Error),
    #[error("can't write the result")]
    Output(#[from] io::Error),
    #[error("the operating system gives no randomness")]
    Randomness(#[source] getrandom::Error),
    /// What was asked for is not there.
    #[error("{0}")]
    Missing(String),
    /// A store fails.
    #[error("{place}")]
    Store {
        /// Which.
        place: String,
        #[source]
        source: StoreError,
    },
    #[error("{0}")]
    Run(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Runs the command that the arguments name; `main` does nothing else.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are "errors" of code 0. Nothing is left to do when nobody reads.
            let _unread = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    match execute(arguments.command, environment) {
        Ok(code) => code,
        Err(failure) => fail(&failure),
    }
}

fn execute(
    command: Command,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(options) => {
            let environment: Vec<_> = environment.into_iter().collect();
            let file = file_of(&options, &readable(environment.clone())?);
            let load = || configure(options.clone(), environment.clone());
            let (config, warnings) = load()?;
            show_warnings(&warnings);
            run::run(config, file, load).map_err(Failure::Run)?;
        }
        Command::Check(options) => {
            let (config, warnings) = configure(options, environment)?;
            show_warnings(&warnings);
            check::check(&config, &mut io::stdout().lock())?;
        }
        Command::Keygen => keygen::keygen(&mut io::stdout().lock())?,
        Command::Cookie(command) => {
            return cookie::run(command, environment, &mut io::stdout().lock());
        }
        Command::Session(command) => {
            return session::run(command, environment, &mut io::stdout().lock());
        }
        Command::Migrate(options) => {
            let environment = environment.into_iter().collect();
            return migrate::run(&options, environment, &mut io::stdout().lock());
        }
        Command::Demo { listen } => demo::demo(listen).map_err(Failure::Run)?,
        Command::Completions { shell } => {
            // Collected first: clap_complete panics when its writer fails.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "pycket", &mut script);
            io::stdout().lock().write_all(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn configure(
    options: Configuration,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(Config, Vec<Warning>), Failure> {
    let environment = readable(environment)?;
    let file = match file_of(&options, &environment) {
        Some(path) => Some(read_configuration(path)?),
        None => None,
    };
    let sources = Sources {
        file,
        environment,
        flags: Flags {
            listen: options.listen,
            upstream: options.upstream,
            engine: options.engine,
        },
        processors: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        read_file: &|path: &Path| std::fs::read(path),
    };
    Ok(config::load(sources)?)
}

/// The configuration file that is named.
fn file_of(options: &Configuration, environment: &[(String, String)]) -> Option<PathBuf> {
    options.config.clone().or_else(|| {
        let variable = environment.iter().find(|(name, _)| name == CONFIG_VARIABLE);
        variable.map(|(_, path)| PathBuf::from(path))
    })
}

fn read_configuration(path: PathBuf) -> Result<(String, String), Failure> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path.to_string_lossy().into_owned(), text)),
        Err(source) => Err(Failure::File { path, source }),
    }
}

/// The variables as text. One that is not UTF-8 is an error where it would mean a key; others
/// are left out, and count as not set where a secret names them.
fn readable(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, Failure> {
    let mut readable = Vec::new();
    for (name, value) in environment {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => readable.push((name, value)),
            Err(_) if name.starts_with("PYCKET_") => return Err(Failure::Variable(name)),
            Err(_) => {}
        }
    }
    Ok(readable)
}

fn show_warnings(warnings: &[Warning]) {
    let mut stderr = io::stderr().lock();
    let colours = colours();
    for warning in warnings {
        // A warning that nobody can read is no reason not to run, or to fail.
        let _unread = write!(stderr, "{}", report_warning(warning, colours));
    }
}

/// Says why, and gives the exit code.
fn fail(failure: &Failure) -> ExitCode {
    if let Failure::Output(error) = failure
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        // Whoever reads the output has closed it, as `head` does: that is their choice.
        return ExitCode::SUCCESS;
    }
    let (code, text) = explain(failure, colours());
    // Where nobody reads the reason, the code still says it.
    let _unread = write!(io::stderr().lock(), "{text}");
    ExitCode::from(code)
}

/// The exit code of a failure, and why, in whole lines.
fn explain(failure: &Failure, colours: Colours) -> (u8, String) {
    match failure {
        Failure::Configuration(problems) => (BAD_CONFIGURATION, report(problems, colours)),
        Failure::File { .. } | Failure::Variable(_) => (BAD_CONFIGURATION, plain(failure)),
        // Not 1: nothing was said about a cookie.
        Failure::Arguments(_) | Failure::Input(_) => (WRONG_ARGUMENTS, plain(failure)),
        Failure::Output(_)
        | Failure::Randomness(_)
        | Failure::Missing(_)
        | Failure::Store { .. }
        | Failure::Run(_) => (FAILED, plain(failure)),
    }
}

fn plain(failure: &Failure) -> String {
    format!("error: {}\n", chain(failure))
}

/// Colours where a person reads, and did not say otherwise (<https://no-color.org>).
fn colours() -> Colours {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stderr().is_terminal() && !unwanted {
        Colours::On
    } else {
        Colours::Off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_are_read() {
        let arguments = [
            "pycket", "check", "-c", "x", "--listen", "a", "--listen", "b",
        ];
        let parsed = Arguments::try_parse_from(arguments).unwrap();
        let Command::Check(options) = parsed.command else {
            panic!("{parsed:?}");
        };
        assert_eq!(options.config, Some(PathBuf::from("x")));
        assert_eq!(options.listen, ["a", "b"]);
    }

    #[test]
    fn the_help_fits_a_terminal() {
        let too_long: Vec<&str> = include_str!("cli/help.txt")
            .lines()
            .filter(|line| line.chars().count() > 80)
            .collect();
        assert!(too_long.is_empty(), "{too_long:?}");
    }

    #[test]
    fn causes_are_told_in_one_line() {
        let failure = Failure::File {
            path: PathBuf::from("pycket.toml"),
            source: io::Error::other("gone"),
        };
        assert_eq!(
            plain(&failure),
            "error: can't read the configuration file pycket.toml: gone\n"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_of_ours_that_is_not_text_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;

        let bad = || OsString::from_vec(vec![0xff]);
        let set = |name: &str| readable([(OsString::from(name), bad())]);
        assert!(matches!(set("PYCKET_LISTEN"), Err(Failure::Variable(_))));
        assert!(set("OTHER").unwrap().is_empty());
    }
}
