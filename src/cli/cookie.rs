//! `pycket cookie`: Tornado's signed values by hand.
//!
//! Arguments and a cookie flow in, a verdict or a signed value flows out. The rules are those of
//! [`crate::cookie::signed`]; here is only where secret, name and time come from.

pub(super) mod question;
pub(super) mod show;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use self::question::Question;
use super::{CONFIG_VARIABLE, Configuration, Failure, configure};
use crate::clock::{self, Timestamp};
use crate::cookie::SigningVersion;
use crate::cookie::signed::Keyring;

/// Holds the secret where nothing else does.
pub(super) const SECRET_VARIABLE: &str = "PYCKET_SECRET";

/// The name, age and minimum where neither flag nor configuration has them.
const DEFAULT_NAME: &str = "PYCKET_ID";
const DEFAULT_MAX_AGE_DAYS: u32 = 31;
const DEFAULT_MIN_VERSION: u8 = 1;

const NANOS_PER_MILLI: i128 = 1_000_000;
const NANOS_PER_SEC: i128 = 1_000_000_000;
const SECS_PER_DAY: i128 = 24 * 60 * 60;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether a cookie is valid, and why not
    #[command(after_help = VERIFY_HELP)]
    Verify(Verify),
    /// Sign a value as the proxy and Tornado do
    #[command(after_help = SIGN_HELP)]
    Sign(Sign),
}

const VERIFY_HELP: &str = "\
The cookie is the bare signed value. NAME=VALUE, a whole `Cookie:` or `Set-Cookie:`
line, and a value in double quotes with octal escapes (\\174) are taken apart first.
Write `--` before a cookie that begins with a hyphen.

  pycket cookie verify --secret 'the secret' '2|1:0|10:1300000000|9:PYCKET_ID|...'
  echo \"$COOKIE\" | pycket cookie verify --config pycket.toml --output json

Other users of the machine can see arguments: PYCKET_SECRET and --config keep a
secret from them.

Exit codes: 0 valid, 1 not valid, 2 wrong arguments, 78 wrong configuration.";

const SIGN_HELP: &str = "\
The value is any bytes; the proxy's own are session ids. Write `--` before a value
that begins with a hyphen.

  pycket cookie sign --secret 'the secret' 2c7ae81f-0176-4076-bc2a-7efc4aeb7ac5

Other users of the machine can see arguments: PYCKET_SECRET and --config keep a
secret from them.

Exit codes: 0 fine, 2 wrong arguments, 78 wrong configuration.";

#[derive(Args, Debug)]
pub(super) struct Verify {
    #[command(flatten)]
    secrets: Secrets,
    /// Name of the cookie
    #[arg(
        long,
        allow_hyphen_values = true,
        help = "Name of the cookie [default: PYCKET_ID, or the configuration's]"
    )]
    name: Option<String>,
    /// The moment to check at, in seconds since 1970; fractions count [default: now]
    #[arg(long, value_name = "UNIX_SECONDS", allow_hyphen_values = true, value_parser = nanos)]
    at: Option<i128>,
    /// The most days since it was signed [default: 31, or the configuration's]
    #[arg(long, value_name = "DAYS", allow_hyphen_values = true, value_parser = nanos)]
    max_age_days: Option<i128>,
    /// The oldest version that is accepted, 1 or 2 [default: 1, or the configuration's]
    #[arg(long, value_name = "VERSION", allow_hyphen_values = true, value_parser = version)]
    min_version: Option<u8>,
    /// How the verdict is written
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The cookie [default: from the standard input, without the newline at its end]
    cookie: Option<OsString>,
}

#[derive(Args, Debug)]
pub(super) struct Sign {
    #[command(flatten)]
    secrets: Secrets,
    /// Which key signs [default: the highest]
    #[arg(long, value_name = "VERSION", conflicts_with = "config")]
    signing_key_version: Option<u32>,
    /// Name of the cookie
    #[arg(
        long,
        allow_hyphen_values = true,
        help = "Name of the cookie [default: PYCKET_ID, or the configuration's]"
    )]
    name: Option<String>,
    /// The moment of signing, in seconds since 1970 [default: now]
    #[arg(long, value_name = "UNIX_SECONDS", allow_hyphen_values = true, value_parser = nanos)]
    at: Option<i128>,
    /// Version of the signed value [default: 2, or the configuration's]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    version: Option<u8>,
    /// How the result is written
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The value [default: from the standard input, without the newline at its end]
    value: Option<OsString>,
}

/// Where the secrets come from: one of these, or `PYCKET_SECRET`.
#[derive(Args, Debug)]
struct Secrets {
    /// The secret
    #[arg(
        long,
        help = "The secret [default: $PYCKET_SECRET]",
        allow_hyphen_values = true,
        value_parser = hidden(),
        conflicts_with_all = ["keys", "config"]
    )]
    secret: Option<Hidden>,
    /// A secret with its key version; may repeat
    #[arg(
        long = "key",
        value_name = "VERSION=SECRET",
        value_parser = hidden(),
        conflicts_with = "config"
    )]
    keys: Vec<Hidden>,
    /// The configuration file
    #[arg(
        long,
        short,
        value_name = "FILE",
        help = "Configuration file whose [cookies] count [default: $PYCKET_CONFIG]"
    )]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For a person
    Text,
    /// One JSON object
    Json,
}

/// The bytes of an argument that must not be printed.
#[derive(Clone)]
struct Hidden(Vec<u8>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// Takes every text: clap would repeat what it refuses.
fn hidden() -> impl TypedValueParser<Value = Hidden> {
    OsStringValueParser::new().map(|text| Hidden(text.into_encoded_bytes()))
}

/// What the command goes by, from the flags or from a configuration.
struct Rules {
    keyring: Keyring,
    name: String,
    max_age_nanos: i128,
    min_version: u8,
    version: SigningVersion,
}

/// Runs one of the commands.
pub(super) fn run(
    command: Command,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let environment = environment.into_iter().collect();
    match command {
        Command::Verify(options) => verify(options, environment, out),
        Command::Sign(options) => sign(options, environment, out),
    }
}

fn verify(
    options: Verify,
    environment: Vec<(OsString, OsString)>,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let rules = options.secrets.rules(None, environment)?;
    let max_age_nanos = match options.max_age_days {
        Some(nanodays) => nanodays.saturating_mul(SECS_PER_DAY),
        None => rules.max_age_nanos,
    };
    let question = Question {
        keyring: &rules.keyring,
        name: options.name.as_deref().unwrap_or(&rules.name),
        min_version: options.min_version.unwrap_or(rules.min_version),
        max_age_nanos,
        now_nanos: options.at.unwrap_or_else(now_nanos),
    };
    let cookie = input(options.cookie)?;

    let answer = question.ask(&cookie);

    let text = match options.output {
        Output::Text => show::text(&question, &answer),
        Output::Json => show::json(&answer),
    };
    match out.write_all(text.as_bytes()) {
        // Whoever closed the output may still want to know by the exit code.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(ExitCode::from(u8::from(answer.is_err())))
}

/// What `sign --output json` says.
#[derive(Serialize)]
struct Made<'a> {
    signed: &'a str,
    name: &'a str,
    version: u8,
    key_version: Option<u32>,
    timestamp: u64,
}

fn sign(
    options: Sign,
    environment: Vec<(OsString, OsString)>,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let signing = options.signing_key_version;
    let rules = options.secrets.rules(signing, environment)?;
    let name = options.name.as_deref().unwrap_or(&rules.name);
    let now = moment(options.at.unwrap_or_else(now_nanos))?;
    let version = options.version.unwrap_or(match rules.version {
        SigningVersion::V1 => 1,
        SigningVersion::V2 | SigningVersion::Same => 2,
    });
    let value = input(options.value)?;
    let signed = if version == 1 {
        rules.keyring.sign_v1(name, &value, now).ok_or_else(|| {
            wrong(
                "version 1 of the signed value can't say which key signed it: \
                 give one secret with --secret, without a key version",
            )
        })?
    } else {
        rules.keyring.sign(name, &value, now)
    };
    let text = match options.output {
        Output::Text => signed,
        Output::Json => show::object(&Made {
            signed: &signed,
            name,
            version,
            key_version: (version != 1).then(|| rules.keyring.signing_key_version()),
            timestamp: now.as_secs(),
        }),
    };
    writeln!(out, "{text}")?;
    Ok(ExitCode::SUCCESS)
}

impl Secrets {
    /// The secrets, and what stands beside them in a configuration.
    fn rules(
        self,
        signing: Option<u32>,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Rules, Failure> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_encoded_bytes())
        };
        let keyring = if let Some(Hidden(secret)) = self.secret {
            plain(secret, signing)?
        } else if !self.keys.is_empty() {
            versioned(&self.keys, signing)?
        } else if self.config.is_some() || variable(CONFIG_VARIABLE).is_some() {
            if signing.is_some() {
                return Err(wrong(
                    "--signing-key-version goes with --key: the configuration has its own",
                ));
            }
            return configured(self.config, environment);
        } else if let Some(secret) = variable(SECRET_VARIABLE).filter(|secret| !secret.is_empty()) {
            plain(secret.to_vec(), signing)?
        } else {
            return Err(wrong(
                "there is no secret: give --secret, --key VERSION=SECRET, --config or PYCKET_SECRET",
            ));
        };
        Ok(Rules {
            keyring,
            name: DEFAULT_NAME.to_owned(),
            max_age_nanos: days(DEFAULT_MAX_AGE_DAYS),
            min_version: DEFAULT_MIN_VERSION,
            version: SigningVersion::V2,
        })
    }
}

/// All that a proxy with this configuration would go by.
fn configured(
    config: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
) -> Result<Rules, Failure> {
    let options = Configuration {
        config,
        listen: Vec::new(),
        upstream: None,
        engine: None,
    };
    // What else could be better in it is the business of `check`.
    let (config, _warnings) = configure(options, environment)?;
    let policy = config.cookie;
    Ok(Rules {
        keyring: policy.keyring,
        name: policy.name,
        max_age_nanos: days(policy.max_age_days),
        min_version: policy.min_version,
        version: policy.version,
    })
}

/// One secret. Tornado signs with it under any number, too.
fn plain(secret: Vec<u8>, signing: Option<u32>) -> Result<Keyring, Failure> {
    match signing {
        None => Ok(Keyring::single(&secret)),
        Some(number) => keyring(BTreeMap::from([(number, secret)]), number),
    }
}

fn versioned(keys: &[Hidden], signing: Option<u32>) -> Result<Keyring, Failure> {
    let mut secrets = BTreeMap::new();
    for Hidden(text) in keys {
        let (number, secret) = split_key(text).ok_or_else(|| {
            // What stands there may be a secret whose number was forgotten.
            wrong("--key: expected VERSION=SECRET with a whole number, like 1=secret")
        })?;
        if secrets.insert(number, secret.to_vec()).is_some() {
            return Err(wrong(format!("--key: version {number} is given twice")));
        }
    }
    let highest = secrets.last_key_value().map_or(0, |(number, _)| *number);
    keyring(secrets, signing.unwrap_or(highest))
}

fn keyring(secrets: BTreeMap<u32, Vec<u8>>, signing: u32) -> Result<Keyring, Failure> {
    Keyring::versioned(secrets, signing).map_err(|error| wrong(error.to_string()))
}

/// `VERSION=SECRET`. One spelling for each number, as in the configuration.
fn split_key(text: &[u8]) -> Option<(u32, &[u8])> {
    let equals = text.iter().position(|&byte| byte == b'=')?;
    let (number, secret) = text.split_at_checked(equals)?;
    let number = std::str::from_utf8(number).ok()?;
    let version: u32 = number.parse().ok()?;
    let secret = secret.strip_prefix(b"=")?;
    (version.to_string() == number).then_some((version, secret))
}

/// The argument, or the standard input without the newline that `echo` writes.
fn input(argument: Option<OsString>) -> Result<Vec<u8>, Failure> {
    if let Some(argument) = argument {
        return Ok(argument.into_encoded_bytes());
    }
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(Failure::Input)?;
    bytes.pop_if(|last| *last == b'\n');
    Ok(bytes)
}

fn wrong(reason: impl Into<String>) -> Failure {
    Failure::Arguments(reason.into())
}

pub(super) fn now_nanos() -> i128 {
    i128::from(clock::now().as_millis()) * NANOS_PER_MILLI
}

pub(super) fn days(days: u32) -> i128 {
    i128::from(days) * SECS_PER_DAY * NANOS_PER_SEC
}

/// A moment that a value can be signed at.
fn moment(nanos: i128) -> Result<Timestamp, Failure> {
    u64::try_from(nanos / NANOS_PER_MILLI)
        .ok()
        .filter(|_| nanos >= 0)
        .map(Timestamp::from_millis)
        .ok_or_else(|| {
            wrong("--at: a signed value can't be dated so: before 1970, or too far ahead")
        })
}

/// A decimal number in billionths, as exact as Tornado's clock, which is a float. Numbers beyond
/// all use are the farthest that there is.
fn nanos(text: &str) -> Result<i128, &'static str> {
    let number: f64 = text.parse().or(Err("not a number"))?;
    if !number.is_finite() {
        return Err("not a finite number");
    }
    let digits = format!("{number:.9}").replace('.', "");
    let farthest = if number < 0.0 { i128::MIN } else { i128::MAX };
    Ok(digits.parse().unwrap_or(farthest))
}

/// A version of the signed value, also one that does not exist: with such a minimum no value is
/// valid, or each.
fn version(text: &str) -> Result<u8, &'static str> {
    let number: i64 = text.parse().or(Err("not a whole number"))?;
    Ok(u8::try_from(number.clamp(0, 255)).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_billionths() {
        assert_eq!(nanos("1302678400.5"), Ok(1_302_678_400_500_000_000));
        assert_eq!(nanos("0"), Ok(0));
        assert_eq!(nanos("-1"), Ok(-1_000_000_000));
        assert_eq!(nanos("-0.5"), Ok(-500_000_000));
        assert_eq!(nanos("1e3"), Ok(1_000_000_000_000));
        assert_eq!(nanos("1e300"), Ok(i128::MAX));
        assert_eq!(nanos("-1e300"), Ok(i128::MIN));
        for text in ["", "x", "nan", "inf", "-inf", "1,5", "1 "] {
            assert!(nanos(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_is_a_number_and_a_secret() {
        assert_eq!(split_key(b"0=a"), Some((0, &b"a"[..])));
        assert_eq!(split_key(b"12=a=b\xff"), Some((12, &b"a=b\xff"[..])));
        assert_eq!(split_key(b"7="), Some((7, &b""[..])));
        for text in [
            "",
            "a",
            "=a",
            "01=a",
            "+1=a",
            "-1=a",
            "4294967296=a",
            "\u{661}=a",
        ] {
            assert_eq!(split_key(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn values_are_dated_from_1970_on() {
        assert_eq!(moment(0).unwrap(), Timestamp::from_secs(0));
        let late = moment(1_300_000_000_999_999_999).unwrap();
        assert_eq!(late.as_secs(), 1_300_000_000);
        assert!(moment(-1).is_err() && moment(i128::MAX).is_err());
    }

    #[test]
    fn arguments_show_no_secret() {
        assert_eq!(format!("{:?}", Hidden(b"x".to_vec())), "Hidden(..)");
    }
}
