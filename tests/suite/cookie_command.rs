//! `pycket cookie`: the signed value by hand, against the recorded values and as people use it.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::program;

const SECRET: &str = "Python rocks!";
/// The cookie of the documentation: value `a`, signed at 1300000000.
const COOKIE: &str = "2|1:0|10:1300000000|9:PYCKET_ID|4:YQ==|22ee738c8b37068826c7452d40ae646e323db483eddd8b6e64202b8a0923ae78";

/// What a command of `pycket cookie` says.
struct Said {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Said {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("the output is text")
    }

    fn json(&self) -> Value {
        assert_eq!(self.text().lines().count(), 1);
        serde_json::from_slice(&self.stdout).expect("the output is JSON")
    }
}

/// Runs `pycket cookie` with these arguments, variables and standard input.
fn cookie_with(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &[(&str, &str)],
    input: &[u8],
) -> Said {
    let mut child = program()
        .arg("cookie")
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A command that has its cookie as argument, or wrong ones, ends without reading.
    let _unread = child.stdin.take().expect("it is piped").write_all(input);
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("it ends");
    Said {
        code: status.code(),
        stdout,
        stderr: String::from_utf8(stderr).expect("messages are text"),
    }
}

fn cookie<const N: usize>(arguments: [&str; N], input: impl AsRef<[u8]>) -> Said {
    cookie_with(arguments.map(OsString::from), &[], input.as_ref())
}

fn vectors(part: &str) -> Vec<Value> {
    let text = include_str!("../vectors/tornado_signed_values.json");
    let vectors: Value = serde_json::from_str(text).expect("the vectors are JSON");
    vectors[part].as_array().expect("it is a list").clone()
}

fn bytes_of(case: &Value, key: &str) -> Option<Vec<u8>> {
    let text = case[key].as_str()?;
    Some(STANDARD.decode(text).expect("it is base64"))
}

/// `--name` and the secrets of a case.
fn flags_of(case: &Value) -> Vec<String> {
    let mut flags = vec![
        "--name".to_owned(),
        case["name"].as_str().unwrap().to_owned(),
    ];
    if let Some(secret) = case["secret"].as_str() {
        flags.extend(["--secret".to_owned(), secret.to_owned()]);
    } else {
        for (version, secret) in case["secrets"].as_object().unwrap() {
            let secret = secret.as_str().unwrap();
            flags.extend(["--key".to_owned(), format!("{version}={secret}")]);
        }
    }
    flags
}

/// The value that a case has; `None` for an invalid one. Where reading may be stricter than
/// Tornado's, it is.
fn expected_of(case: &Value) -> Option<Vec<u8>> {
    if case.get("strict_expected_b64").is_some() {
        bytes_of(case, "strict_expected_b64")
    } else {
        bytes_of(case, "expected_b64")
    }
}

#[test]
fn recorded_values_read_as_in_tornado() {
    let cases = vectors("decode");
    let mut valid = 0;
    for case in &cases {
        let mut arguments = vec![
            "verify".to_owned(),
            "--output".to_owned(),
            "json".to_owned(),
        ];
        arguments.extend(flags_of(case));
        arguments.extend(["--at".to_owned(), case["now"].to_string()]);
        arguments.extend([
            "--max-age-days".to_owned(),
            case["max_age_days"].to_string(),
        ]);
        if !case["min_version"].is_null() {
            arguments.extend(["--min-version".to_owned(), case["min_version"].to_string()]);
        }
        let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
        let value = bytes_of(case, "cookie_b64").unwrap_or_default();
        let expected = expected_of(case);

        let mut with_argument = arguments.clone();
        with_argument.extend([OsString::from("--"), OsString::from_vec(value.clone())]);
        let with_newline = [&value[..], b"\n"].concat();
        for said in [
            cookie_with(with_argument, &[], b""),
            cookie_with(arguments, &[], &with_newline),
        ] {
            let note = format!("{}: {} {}", case["id"], case["note"], said.stderr);
            let answer = said.json();
            assert_eq!(answer["valid"], expected.is_some(), "{note}");
            assert_eq!(said.code, Some(i32::from(expected.is_none())), "{note}");
            assert_eq!(bytes_of(&answer, "value_base64"), expected, "{note}");
            if expected.is_some() {
                let is_v2 = value.starts_with(b"2|");
                assert_eq!(answer["version"], if is_v2 { 2 } else { 1 }, "{note}");
                assert_eq!(answer["key_version"].is_u64(), is_v2, "{note}");
                assert!(answer["timestamp"].is_u64(), "{note}");
                valid += 1;
            } else {
                assert!(!answer["reason"].as_str().unwrap().is_empty(), "{note}");
            }
        }
    }
    assert_eq!((cases.len(), valid), (115, 2 * 38));
}

#[test]
fn recorded_values_are_written_as_by_tornado() {
    let mut count = 0;
    for case in vectors("encode") {
        // Tornado writes lengths in characters, and can't read the value itself.
        if case["note"].as_str().unwrap().contains("broken length") {
            continue;
        }
        count += 1;
        let mut arguments = vec!["sign".to_owned()];
        arguments.extend(flags_of(&case));
        arguments.extend(["--at".to_owned(), case["timestamp"].to_string()]);
        arguments.extend(["--version".to_owned(), case["version"].to_string()]);
        if !case["key_version"].is_null() {
            let number = case["key_version"].to_string();
            arguments.extend(["--signing-key-version".to_owned(), number]);
        }
        let value = bytes_of(&case, "value_b64").unwrap();
        let mut expected = bytes_of(&case, "signed_b64").unwrap();
        expected.push(b'\n');

        let with_newline = [&value[..], b"\n"].concat();
        let arguments = arguments.into_iter().map(OsString::from);
        let said = cookie_with(arguments, &[], &with_newline);

        assert_eq!(said.code, Some(0), "{case} {}", said.stderr);
        assert_eq!(said.stdout, expected, "{case}");
    }
    assert_eq!(count, 33);
}

#[test]
fn a_person_reads_what_is_wrong() {
    let at = |moment, value| cookie(["verify", "--secret", SECRET, "--at", moment, value], "");
    let valid = at("1300086400", COOKIE);
    assert_eq!(valid.code, Some(0));
    insta::assert_snapshot!(valid.text(), @r"
        valid
        value        a
        version      2
        key version  0
        signed       2011-03-13 07:06:40 UTC, 1 day ago
        expires      2011-04-13 07:06:40 UTC, in 30 days
        ");
    let expired = at("1310000000.5", COOKIE);
    assert_eq!(expired.code, Some(1));
    insta::assert_snapshot!(expired.text(), @r"
        not valid: signed too long ago
        hint: it was signed on 2011-03-13 07:06:40 UTC, 115 days 17 hours ago, and was valid until 2011-04-13 07:06:40 UTC
        ");
    let tampered = COOKIE.replace("YQ==", "Yg==");
    let forged = at("1300086400", &tampered);
    assert_eq!(forged.code, Some(1));
    insta::assert_snapshot!(forged.text(), @r"
        not valid: the signature does not match
        hint: another secret signed it, or it was changed afterwards
        ");
    assert_eq!(
        at("1300086400", "").text(),
        "not valid: the value is empty\n"
    );
    for said in [valid, expired, forged] {
        assert_eq!(said.stderr, "");
    }
}

#[test]
fn what_was_signed_now_is_valid_now() {
    let signed = cookie(
        ["sign", "--secret", "-x", "--output", "json", "--", "-a"],
        "",
    );
    let answer = signed.json();
    assert_eq!(answer["name"], "PYCKET_ID");
    assert_eq!(
        (&answer["version"], &answer["key_version"]),
        (&json!(2), &json!(0))
    );
    let line = format!(
        "Cookie: a=1; PYCKET_ID=\"{}\"",
        answer["signed"].as_str().unwrap()
    );
    let said = cookie(["verify", "--secret=-x", "--output", "json"], line);
    let expected = json!({
        "valid": true,
        "value_base64": "LWE=",
        "version": 2,
        "key_version": 0,
        "timestamp": answer["timestamp"],
    });
    assert_eq!((said.code, said.json()), (Some(0), expected));
}

#[test]
fn no_moment_makes_it_fail() {
    let moments = [
        "-1",
        "-1e300",
        "1e300",
        "0",
        "1300000000.0005",
        "99999999999999999999",
    ];
    for moment in moments {
        let said = cookie(["verify", "--secret", SECRET, "--at", moment, COOKIE], "");
        let is_late = matches!(moment, "1e300" | "99999999999999999999");
        assert_eq!(
            said.code,
            Some(i32::from(is_late)),
            "{moment} {}",
            said.stderr
        );
    }
}

#[test]
fn the_secret_comes_from_a_variable_or_a_configuration() {
    let verify = |arguments: &[&str], environment: &[(&str, &str)]| {
        let arguments = ["verify", "--at", "1300000000"].iter().chain(arguments);
        let arguments = arguments.chain([&COOKIE]).map(OsString::from);
        cookie_with(arguments, environment, b"").code
    };
    let directory = tempfile::tempdir().expect("there is room");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        path.into_os_string().into_string().expect("it is text")
    };
    let cookies = format!("[cookies]\nsecret = '{SECRET}'");
    let good = write("good", &cookies);
    let other_name = write("name", &format!("{cookies}\nname = 'OTHER'"));
    let numbered = write(
        "keys",
        &format!("[cookies.secrets]\n0 = '{SECRET}'\n7 = 'x'"),
    );
    let bad = write("bad", "[cookies]\nsecrets = 7");

    assert_eq!(verify(&[], &[("PYCKET_SECRET", SECRET)]), Some(0));
    assert_eq!(verify(&[], &[("PYCKET_SECRET", "x")]), Some(1));
    assert_eq!(
        verify(&["--secret", SECRET], &[("PYCKET_SECRET", "x")]),
        Some(0)
    );
    assert_eq!(verify(&["--config", &good], &[]), Some(0));
    assert_eq!(verify(&["--config", &numbered], &[]), Some(0));
    assert_eq!(verify(&[], &[("PYCKET_CONFIG", &good)]), Some(0));
    assert_eq!(verify(&["--config", &other_name], &[]), Some(1));
    let named = ["--config", &other_name, "--name", "PYCKET_ID"];
    assert_eq!(verify(&named, &[]), Some(0));
    assert_eq!(verify(&["--config", &bad], &[]), Some(78));
    assert_eq!(verify(&["--config", "/no/such/file"], &[]), Some(78));
}

#[test]
fn wrong_arguments_are_told_without_the_secrets_in_them() {
    let cases: [(&[&str], &str); 9] = [
        (&["verify", "x"], "there is no secret"),
        (&["verify", "--key", "hunter2"], "VERSION=SECRET"),
        (&["verify", "--key", "hunter2=="], "VERSION=SECRET"),
        (&["verify", "--key", "1=hunter2", "--key", "1=x"], "twice"),
        (
            &["verify", "--key", "1=hunter2", "--secret", "hunter2"],
            "cannot be used",
        ),
        (
            &["verify", "--secret", "hunter2", "--at", "noon"],
            "not a number",
        ),
        (
            &["sign", "--key", "1=hunter2", "--version", "1", "a"],
            "version 1",
        ),
        (
            &[
                "sign",
                "--key",
                "1=hunter2",
                "--signing-key-version",
                "2",
                "a",
            ],
            "key version 2",
        ),
        (&["sign", "--secret", "hunter2", "--at", "-1", "a"], "1970"),
    ];
    for (arguments, reason) in cases {
        let said = cookie_with(arguments.iter().map(OsString::from), &[], b"");
        assert_eq!(said.code, Some(2), "{arguments:?} {}", said.stderr);
        assert!(
            said.stderr.contains(reason),
            "{arguments:?} {}",
            said.stderr
        );
        assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
        assert_eq!(said.stdout, b"");
    }
}

#[test]
fn only_one_newline_of_the_input_goes() {
    let code = |input: String| {
        let flags = ["verify", "--secret", SECRET, "--at", "1300000000"];
        cookie(flags, input).code
    };
    assert_eq!(code(COOKIE.to_owned()), Some(0));
    assert_eq!(code(format!("{COOKIE}\n")), Some(0));
    assert_eq!(code(format!("{COOKIE}\n\n")), Some(1));
    assert_eq!(code(format!("{COOKIE}\r\n")), Some(1));
    assert_eq!(code(format!(" {COOKIE}\n")), Some(1));
}
