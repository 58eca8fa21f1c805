use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_300_000_000);
const CHECK: Check<'_> = Check {
    name: "PYCKET_ID",
    max_age_days: 31,
    min_version: 1,
};

fn keyring() -> Keyring {
    Keyring::single(b"Python rocks!")
}

fn versioned(keys: &[(u32, &str)], signing: u32) -> Keyring {
    let keys = keys
        .iter()
        .map(|&(version, secret)| (version, secret.as_bytes().to_vec()))
        .collect();
    Keyring::versioned(keys, signing).unwrap()
}

/// Signs a version 2 value whose fields are wrong in a way that needs the secret.
fn sign_fields(fields: &str) -> String {
    let mut text = fields.to_owned();
    let mac = mac::<Hmac<Sha256>>(b"Python rocks!").chain_update(fields);
    text.push_str(&base16ct::lower::encode_string(
        &mac.finalize().into_bytes(),
    ));
    text
}

fn reason(value: &str) -> Invalid {
    keyring()
        .verify(CHECK, value.as_bytes(), NOW)
        .expect_err("it is invalid")
}

// --- the recorded values of Tornado 6.6.1 ---

fn vectors() -> Json {
    serde_json::from_str(include_str!(
        "../../../tests/vectors/tornado_signed_values.json"
    ))
    .unwrap()
}

fn bytes_of(case: &Json, key: &str) -> Option<Vec<u8>> {
    let text = case[key].as_str()?;
    Some(STANDARD.decode(text).unwrap())
}

/// A decimal number with up to three decimals, in thousandths.
fn thousandths(number: &Json) -> i64 {
    let text = number.to_string();
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
    format!("{whole}{decimals:0<3}").parse().unwrap()
}

fn keyring_of(case: &Json, signing: Option<u32>) -> Keyring {
    if let Some(secret) = case["secret"].as_str() {
        return match signing {
            // The plain secret writes 0; the same secret under a number writes that.
            Some(version) => versioned(&[(version, secret)], version),
            None => Keyring::single(secret.as_bytes()),
        };
    }
    let secrets: BTreeMap<u32, Vec<u8>> = case["secrets"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(version, secret)| {
            let secret = secret.as_str().unwrap().as_bytes().to_vec();
            (version.parse().unwrap(), secret)
        })
        .collect();
    let signing = signing.unwrap_or(*secrets.keys().next().unwrap());
    Keyring::versioned(secrets, signing).unwrap()
}

#[test]
fn recorded_values_read_as_in_tornado() {
    const NANOS_PER_MILLI: i64 = 1_000_000;
    const NANOS_PER_THOUSANDTH_DAY: i64 = 86_400 * NANOS_PER_MILLI;
    let vectors = vectors();
    let cases = vectors["decode"].as_array().unwrap();
    let mut of_whole_days = 0;
    for case in cases {
        let now = thousandths(&case["now"]);
        let days = thousandths(&case["max_age_days"]);
        let name = case["name"].as_str().unwrap();
        let min_version = case["min_version"].as_u64().unwrap_or(1);
        let min_version = u8::try_from(min_version).unwrap();
        let value = bytes_of(case, "cookie_b64").unwrap();
        let keyring = keyring_of(case, None);
        let expected = if case.get("strict_expected_b64").is_some() {
            bytes_of(case, "strict_expected_b64")
        } else {
            bytes_of(case, "expected_b64")
        };
        let bytes = |verified: Verified| verified.value.as_bytes().to_vec();

        let max_age = days * NANOS_PER_THOUSANDTH_DAY;
        let window = Window::of_nanos(max_age.into(), (now * NANOS_PER_MILLI).into());
        let signed = keyring.open(name, min_version, &value);
        let verified = signed.and_then(|signed| signed.accept(name, window));
        let found = verified.ok().map(bytes);
        assert_eq!(found, expected, "{}: {}", case["id"], case["note"]);

        // Tornado takes half and negative days; a configuration has whole ones.
        if days < 0 || days % 1000 != 0 {
            continue;
        }
        of_whole_days += 1;
        let check = Check {
            name,
            max_age_days: u32::try_from(days / 1000).unwrap(),
            min_version,
        };
        let now = Timestamp::from_millis(u64::try_from(now).unwrap());
        let found = keyring.verify(check, &value, now).ok().map(bytes);
        assert_eq!(found, expected, "{}: {}", case["id"], case["note"]);
    }
    assert_eq!((cases.len(), of_whole_days), (115, 113));
}

#[test]
fn recorded_values_are_written_as_by_tornado() {
    let vectors = vectors();
    let mut count = 0;
    for case in vectors["encode"].as_array().unwrap() {
        // Tornado writes lengths in characters, and can't read the value itself.
        if case["note"]
            .as_str()
            .unwrap()
            .contains("broken length prefix")
        {
            continue;
        }
        count += 1;
        let key_version = case["key_version"].as_u64();
        let keyring = keyring_of(case, key_version.map(|version| version.try_into().unwrap()));
        let name = case["name"].as_str().unwrap();
        let value = bytes_of(case, "value_b64").unwrap();
        let now = Timestamp::from_secs(case["timestamp"].as_u64().unwrap());

        let signed = match case["version"].as_u64() {
            Some(1) => keyring.sign_v1(name, &value, now).unwrap(),
            _ => keyring.sign(name, &value, now),
        };

        let expected = bytes_of(case, "signed_b64").unwrap();
        assert_eq!(signed.into_bytes(), expected, "{case}");
    }
    assert_eq!(count, 33);
}

// --- what is verified, and why not ---

#[test]
fn a_value_tells_its_version_key_version_and_time() {
    let keys = versioned(&[(1, "one"), (12, "twelve")], 12);
    let v2 = keys
        .verify(CHECK, keys.sign("PYCKET_ID", b"a", NOW).as_bytes(), NOW)
        .unwrap();
    assert_eq!(v2.version, 2);
    assert_eq!(v2.key_version, Some(12));
    assert_eq!(v2.timestamp_secs, 1_300_000_000);

    let v1 = keyring().sign_v1("PYCKET_ID", b"a", NOW).unwrap();
    let v1 = keyring().verify(CHECK, v1.as_bytes(), NOW).unwrap();
    assert_eq!(v1.version, 1);
    assert_eq!(v1.key_version, None);
    assert_eq!(v1.timestamp_secs, 1_300_000_000);
}

#[test]
fn every_secret_verifies_and_one_signs() {
    let old = versioned(&[(1, "one")], 1);
    let both = versioned(&[(1, "one"), (2, "two")], 2);
    let by_old = old.sign("PYCKET_ID", b"a", NOW);
    let by_both = both.sign("PYCKET_ID", b"a", NOW);
    assert!(both.verify(CHECK, by_old.as_bytes(), NOW).is_ok());
    assert!(by_both.starts_with("2|1:2|"));
    assert_eq!(
        old.verify(CHECK, by_both.as_bytes(), NOW).unwrap_err(),
        Invalid::UnknownKeyVersion(2)
    );
}

#[test]
fn the_signing_secret_must_be_among_the_keys() {
    let keys = BTreeMap::from([(1, b"one".to_vec())]);
    let error = Keyring::versioned(keys, 2).unwrap_err();
    insta::assert_snapshot!(error, @"there is no secret with key version 2 to sign with");
}

#[test]
fn version_1_does_not_go_with_key_versions() {
    let keys = versioned(&[(0, "Python rocks!")], 0);
    assert_eq!(keys.sign_v1("PYCKET_ID", b"a", NOW), None);
    let v1 = keyring().sign_v1("PYCKET_ID", b"a", NOW).unwrap();
    assert_eq!(
        keys.verify(CHECK, v1.as_bytes(), NOW).unwrap_err(),
        Invalid::NoKeyVersion
    );
}

#[test]
fn a_version_below_the_minimum_is_refused() {
    let check = Check {
        min_version: 2,
        ..CHECK
    };
    let v1 = keyring().sign_v1("PYCKET_ID", b"a", NOW).unwrap();
    assert_eq!(
        keyring().verify(check, v1.as_bytes(), NOW).unwrap_err(),
        Invalid::VersionTooOld(1)
    );
    let v2 = keyring().sign("PYCKET_ID", b"a", NOW);
    assert!(keyring().verify(check, v2.as_bytes(), NOW).is_ok());
}

#[test]
fn age_counts_in_milliseconds() {
    let last = NOW.after(Duration::from_hours(31 * 24));
    let next = last.after(Duration::from_millis(1));
    let v1 = keyring().sign_v1("PYCKET_ID", b"a", NOW).unwrap();
    for signed in [keyring().sign("PYCKET_ID", b"a", NOW), v1] {
        let at = |now| keyring().verify(CHECK, signed.as_bytes(), now);
        assert!(at(last).is_ok());
        assert_eq!(at(next).unwrap_err(), Invalid::Expired);
    }
}

#[test]
fn windows_are_the_same_in_nanoseconds_and_never_panic() {
    let ends = [i128::MIN, 0, 1, i128::MAX];
    for (max_age, now) in ends.iter().flat_map(|a| ends.map(|b| (*a, b))) {
        let window = Window::of_nanos(max_age, now);
        assert_eq!(window.newest_v1_secs > 0, now >= 0, "{max_age} {now}");
    }
    for now in [0, 1, 999, 1000, 1_300_000_000_500, u64::MAX] {
        let days = i128::from(31 * SECS_PER_DAY) * 1_000_000_000;
        let exact = Window::of_nanos(days, i128::from(now) * 1_000_000);
        assert_eq!(Window::new(31, Timestamp::from_millis(now)), exact);
    }
}

#[test]
fn what_does_not_count_still_says_when_it_was_signed_and_for_which_name() {
    let signed = keyring().sign("OTHER", b"a", NOW);
    let opened = keyring().open("PYCKET_ID", 1, signed.as_bytes()).unwrap();
    assert_eq!(opened.name, Some(&b"OTHER"[..]));
    assert_eq!(opened.timestamp_secs, 1_300_000_000);
    let window = Window::new(31, NOW.after(Duration::from_hours(32 * 24)));
    let refused = |name| opened.accept(name, window).unwrap_err();
    assert_eq!(refused("PYCKET_ID"), Invalid::OtherName);
    assert_eq!(refused("OTHER"), Invalid::Expired);
    assert_eq!(format!("{opened:?}"), "Signed(version 2, 4 bytes)");
}

#[test]
fn secrets_tell_their_numbers() {
    let keys = versioned(&[(12, "twelve"), (1, "one")], 12);
    assert_eq!(keys.key_versions(), [1, 12]);
    assert_eq!(keys.signing_key_version(), 12);
    assert_eq!(keyring().key_versions(), [0; 0]);
    assert_eq!(keyring().signing_key_version(), 0);
}

#[test]
fn only_version_1_looks_at_the_future() {
    let at_most = NOW.after(V1_FUTURE);
    let over = NOW.after(V1_FUTURE + Duration::from_secs(1));
    let v1 = |dated| keyring().sign_v1("PYCKET_ID", b"a", dated).unwrap();
    assert!(keyring().verify(CHECK, v1(at_most).as_bytes(), NOW).is_ok());
    assert_eq!(reason(&v1(over)), Invalid::Future);
    let v2 = keyring().sign("PYCKET_ID", b"a", over);
    assert!(keyring().verify(CHECK, v2.as_bytes(), NOW).is_ok());
}

#[test]
fn the_signature_is_checked_before_name_and_age() {
    let stranger = Keyring::single(b"another secret");
    let old = stranger.sign("OTHER", b"a", Timestamp::from_secs(1));
    assert_eq!(reason(&old), Invalid::Forged);
    let ours = keyring().sign("OTHER", b"a", Timestamp::from_secs(1));
    assert_eq!(reason(&ours), Invalid::OtherName);
}

#[test]
fn the_form_says_which_part_is_wrong() {
    let forged = "0".repeat(64);
    let cases = [
        (String::new(), Part::Fields),
        ("a|b|c|d".to_owned(), Part::Fields),
        ("YQ==|1300000000|00".to_owned(), Part::Signature),
        ("2|".to_owned(), Part::Signature),
        (
            format!("2|1:0|10:1300000000|9:PYCKET_ID|4:YQ==|{}", "A".repeat(64)),
            Part::Signature,
        ),
        (format!("2|{forged}"), Part::KeyVersion),
        (format!("2|10:4294967296|{forged}"), Part::KeyVersion),
        (
            sign_fields("2|1:0|20:18446744073709551616|9:PYCKET_ID|0:|"),
            Part::Timestamp,
        ),
        (
            sign_fields("2|1:0|10:1300000000|99:PYCKET_ID|0:|"),
            Part::Name,
        ),
        (sign_fields("2|1:0|10:1300000000|9:PYCKET_ID|"), Part::Value),
        (
            sign_fields("2|1:0|10:1300000000|9:PYCKET_ID|4:YR==|"),
            Part::Value,
        ),
        (
            sign_fields("2|1:0|10:1300000000|9:PYCKET_ID|0:|0:|"),
            Part::Excess,
        ),
    ];
    for (value, part) in cases {
        assert_eq!(reason(&value), Invalid::Malformed(part), "{value}");
    }
}

#[test]
fn a_signature_has_exactly_its_length() {
    for v1 in [false, true] {
        let signed = either_version(b"a", v1);
        for value in [format!("{signed}0"), format!("{signed}00")] {
            assert_eq!(reason(&value), Invalid::Malformed(Part::Signature));
        }
        let (cut, _) = signed.split_at(signed.len() - 2);
        assert_eq!(reason(cut), Invalid::Malformed(Part::Signature));
    }
}

#[test]
fn reasons_read_as_sentences() {
    insta::assert_snapshot!(reason("3|a|b"), @"unknown version 3 of the signed value: expected 1 or 2");
    insta::assert_snapshot!(reason("a|b"), @"malformed: expected three fields with a bar between them");
    insta::assert_snapshot!(reason("2|0|00"), @"malformed: the signature is not 64 (in version 1, 40) lower-case hexadecimal digits");
}

#[test]
fn a_name_may_hold_the_separators() {
    let check = Check {
        name: "a|1:b",
        ..CHECK
    };
    let signed = keyring().sign("a|1:b", b"a", NOW);
    assert!(keyring().verify(check, signed.as_bytes(), NOW).is_ok());
}

#[test]
fn debug_shows_neither_keys_nor_values() {
    let signed = keyring().sign("PYCKET_ID", b"a secret id", NOW);
    let verified = keyring().verify(CHECK, signed.as_bytes(), NOW).unwrap();
    assert_eq!(format!("{:?}", verified.value), "Value(11 bytes)");
    assert_eq!(format!("{:?}", keyring()), "Keyring(..)");
    let keys = versioned(&[(1, "one"), (2, "two")], 2);
    assert_eq!(format!("{keys:?}"), "Keyring(2 keys, 2 signs)");
}

// --- laws ---

fn either_version(value: &[u8], v1: bool) -> String {
    if v1 {
        keyring().sign_v1("PYCKET_ID", value, NOW).unwrap()
    } else {
        keyring().sign("PYCKET_ID", value, NOW)
    }
}

proptest! {
    #[test]
    fn what_is_signed_verifies(
        name in "[!-~]{0,20}",
        value in prop::collection::vec(any::<u8>(), 0..100),
        v1: bool,
    ) {
        let check = Check { name: &name, ..CHECK };
        let signed = if v1 {
            keyring().sign_v1(&name, &value, NOW).unwrap()
        } else {
            keyring().sign(&name, &value, NOW)
        };
        let verified = keyring().verify(check, signed.as_bytes(), NOW).unwrap();
        prop_assert_eq!(verified.value.as_bytes(), value);
    }

    #[test]
    fn one_flipped_bit_makes_it_invalid(
        value in prop::collection::vec(any::<u8>(), 0..60),
        v1: bool,
        at: prop::sample::Index,
        bit in 0..8,
    ) {
        let mut signed = either_version(&value, v1).into_bytes();
        let at = at.index(signed.len());
        signed[at] ^= 1_u8 << bit;
        prop_assert!(keyring().verify(CHECK, &signed, NOW).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_panic(
        value: Vec<u8>,
        version in prop::sample::select(vec!["", "1|", "2|", "2|1:0|", "2|99999999999999999999:"]),
    ) {
        let value = [version.as_bytes(), &value].concat();
        prop_assert!(keyring().verify(CHECK, &value, NOW).is_err());
    }

    #[test]
    fn signed_nonsense_never_panics(fields in "[0-9:|a-zA-Z+=]{0,40}") {
        let value = sign_fields(&format!("2|1:0|{fields}|"));
        let _unused = keyring().verify(CHECK, value.as_bytes(), NOW);
    }
}
