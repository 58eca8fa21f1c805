//! The native record: values and notifications of one session together.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version: 1 |
//! | 1 | kind: 0 a session, 1 moved to another id |
//! | 16 | digest of the record's key: the first bytes of SHA-256 over `pycket key`, NUL, key |
//! | 4 | CRC-32 (IEEE) of all other bytes of the record |
//!
//! A session goes on with
//!
//! | bytes | what |
//! |---|---|
//! | 16 | public id |
//! | 8 | created, milliseconds since the Unix epoch |
//! | 8 | refreshed, likewise |
//! | 4 | idle lifetime chosen by the application, seconds; 0 is none |
//! | 1 | persist: 0 as configured, 1 yes, 2 no |
//! | 4 + n | values: length, then the text of [`Values`] |
//! | 4 + n | notifications: length, then a JSON list of entries; nothing when none waits |
//!
//! and one that has moved with the 16 bytes of the new id. Numbers are unsigned, most significant
//! byte first. Nothing may follow.
//!
//! The digest of the key makes an answer that belongs to another session a failure instead of a
//! leak; the checksum does the same for bytes that changed on the way.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{FormatError, Stored};
use crate::clock::Timestamp;
use crate::session::{
    Claim, Entry, EntryId, Json, JsonError, Notifications, Opaque, PublicId, Session, SessionId,
    Values,
};

const VERSION: u8 = 1;
const KIND_SESSION: u8 = 0;
const KIND_MOVED: u8 = 1;
/// Version, kind, digest of the key.
const BEFORE_CHECKSUM: usize = 18;
const HEADER: usize = BEFORE_CHECKSUM + 4;
/// What a session's record has beside header, values and notifications.
const SESSION_FIELDS: usize = 45;

/// Writes the record of `session` for `key`.
pub fn encode(key: &[u8], session: &Session) -> Bytes {
    let values = session.values.as_bytes();
    let notifications = encode_notifications(&session.notifications);
    let mut record = header(
        key,
        KIND_SESSION,
        SESSION_FIELDS + values.len() + notifications.len(),
    );
    record.put_slice(session.public_id.as_bytes());
    record.put_u64(session.created.as_millis());
    record.put_u64(session.refreshed.as_millis());
    let idle = session.idle_timeout.map_or(0, |idle| idle.as_secs());
    record.put_u32(u32::try_from(idle).unwrap_or(u32::MAX));
    record.put_u8(match session.persist {
        None => 0,
        Some(true) => 1,
        Some(false) => 2,
    });
    for part in [values.as_ref(), notifications.as_ref()] {
        // A record's limit is far below 4 GiB; a length that does not fit is never stored.
        record.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
        record.put_slice(part);
    }
    seal(record)
}

/// Bytes of the record that [`encode`] writes for `session`, under whatever key.
pub fn encoded_len(session: &Session) -> usize {
    HEADER
        + SESSION_FIELDS
        + session.values.as_bytes().len()
        + encode_notifications(&session.notifications).len()
}

/// Writes the record that leads from `key` to the id `to`.
pub fn encode_moved(key: &[u8], to: &SessionId) -> Bytes {
    let mut record = header(key, KIND_MOVED, 16);
    record.put_slice(to.as_bytes());
    seal(record)
}

/// Reads the record that answered under `key`. The values share the record's memory.
///
/// # Errors
///
/// [`FormatError`] for everything that [`encode`] would not have written for that key, and for
/// records of more than `max_bytes`.
pub fn decode(key: &[u8], record: &Bytes, max_bytes: usize) -> Result<Stored, FormatError> {
    if record.len() > max_bytes {
        return Err(FormatError::TooLarge {
            size: record.len(),
            limit: max_bytes,
        });
    }
    let mut rest = record.as_ref();
    let [version, kind] = take_array(&mut rest)?;
    if version != VERSION {
        return Err(FormatError::UnknownVersion(version));
    }
    if take_array::<16>(&mut rest)? != key_digest(key) {
        return Err(FormatError::OtherKey);
    }
    let checksum = u32::from_be_bytes(take_array(&mut rest)?);
    if checksum_of(record) != Some(checksum) {
        return Err(FormatError::Checksum);
    }
    let stored = match kind {
        KIND_SESSION => Stored::Session(decode_session(record, &mut rest)?),
        KIND_MOVED => Stored::Moved(SessionId::from_bytes(take_array(&mut rest)?)),
        _ => return Err(FormatError::UnknownVersion(version)),
    };
    if !rest.is_empty() {
        return Err(FormatError::Length);
    }
    Ok(stored)
}

/// Reads what follows the header of `record`.
fn decode_session(record: &Bytes, rest: &mut &[u8]) -> Result<Session, FormatError> {
    let public_id = PublicId::from_bytes(take_array(rest)?);
    let created = Timestamp::from_millis(u64::from_be_bytes(take_array(rest)?));
    let refreshed = Timestamp::from_millis(u64::from_be_bytes(take_array(rest)?));
    let idle = u32::from_be_bytes(take_array(rest)?);
    let persist = match take_array(rest)? {
        [0] => None,
        [1] => Some(true),
        [_] => Some(false),
    };
    let values = Values::from_canonical(record.slice_ref(take_part(rest)?));
    let notifications = decode_notifications(take_part(rest)?).map_err(FormatError::Content)?;
    Ok(Session {
        public_id,
        created,
        refreshed,
        idle_timeout: (idle > 0).then(|| Duration::from_secs(idle.into())),
        persist,
        values,
        opaque: Opaque::default(),
        notifications,
    })
}

fn header(key: &[u8], kind: u8, body: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + body);
    record.put_u8(VERSION);
    record.put_u8(kind);
    record.put_slice(&key_digest(key));
    record.put_u32(0);
    record
}

/// Puts the checksum in its place.
fn seal(mut record: Vec<u8>) -> Bytes {
    if let (Some(checksum), Some(place)) = (
        checksum_of(&record),
        record.get_mut(BEFORE_CHECKSUM..HEADER),
    ) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
    Bytes::from(record)
}

/// The checksum of all bytes but its own; `None` when there is no room for it.
fn checksum_of(record: &[u8]) -> Option<u32> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(record.get(..BEFORE_CHECKSUM)?);
    crc.update(record.get(HEADER..)?);
    Some(crc.finalize())
}

fn key_digest(key: &[u8]) -> [u8; 16] {
    let digest = Sha256::new()
        .chain_update(b"pycket key\0")
        .chain_update(key)
        .finalize();
    let mut short = [0; 16];
    for (slot, byte) in short.iter_mut().zip(digest) {
        *slot = byte;
    }
    short
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FormatError> {
    let (array, after) = rest.split_first_chunk().ok_or(FormatError::Length)?;
    *rest = after;
    Ok(*array)
}

/// A length, then that many bytes.
fn take_part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FormatError> {
    let length = u32::from_be_bytes(take_array(rest)?);
    let length = usize::try_from(length).map_err(|_wide| FormatError::Length)?;
    let (part, after) = rest.split_at_checked(length).ok_or(FormatError::Length)?;
    *rest = after;
    Ok(part)
}

/// One entry as the record's JSON holds it.
#[derive(Serialize, Deserialize)]
struct StoredEntry<'a> {
    id: u64,
    name: String,
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    append: bool,
    made: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// Token and deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claim: Option<(u64, u64)>,
}

fn encode_notifications(notifications: &Notifications) -> Vec<u8> {
    if notifications.is_empty() {
        return Vec::new();
    }
    let entries: Vec<StoredEntry<'_>> = notifications
        .entries()
        .iter()
        .map(|entry| StoredEntry {
            id: entry.id.0,
            name: entry.name.clone(),
            value: serde_json::from_str(entry.value.as_str())
                .expect("a Json holds the text of a JSON value"),
            append: entry.append,
            made: entry.made.as_millis(),
            target: entry.target.clone(),
            claim: entry
                .claim
                .map(|claim| (claim.token, claim.until.as_millis())),
        })
        .collect();
    serde_json::to_vec(&entries).expect("plain data with text keys, written into a Vec")
}

fn decode_notifications(text: &[u8]) -> Result<Notifications, JsonError> {
    if text.is_empty() {
        return Ok(Notifications::default());
    }
    let entries: Vec<StoredEntry<'_>> =
        serde_json::from_slice(text).map_err(|error| JsonError::from_serde(&error, 0))?;
    let entries = entries.into_iter().map(|entry| Entry {
        id: EntryId(entry.id),
        name: entry.name,
        value: Json::from_canonical(entry.value.get()),
        append: entry.append,
        made: Timestamp::from_millis(entry.made),
        target: entry.target,
        claim: entry.claim.map(|(token, until)| Claim {
            token,
            until: Timestamp::from_millis(until),
        }),
    });
    Ok(Notifications::from_entries(entries.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Announcement, Occasion, Patch};
    use proptest::prelude::*;

    const KEY: &[u8] = b"pycket:2c7ae81f-0176-4076-bc2a-7efc4aeb7ac5";
    const MAX: usize = 65536;

    fn sample() -> Session {
        let id = SessionId::parse(b"2c7ae81f-0176-4076-bc2a-7efc4aeb7ac5").unwrap();
        let patch = Patch {
            set: vec![("user".to_owned(), Some(Json::string("alice")))],
            announce: vec![Announcement {
                name: "flash".to_owned(),
                value: Json::string("é"),
                append: true,
            }],
            idle_timeout: Some(Duration::from_mins(1)),
            persist: Some(false),
            ..Patch::default()
        };
        let occasion = Occasion {
            delivered: &[],
            first_entry: u64::MAX,
            target: Some("/cart"),
            now: Timestamp::from_millis(1_700_000_000_123),
        };
        let mut session = patch
            .apply(&Session::begin(&id, occasion.now), &occasion)
            .unwrap();
        let claim = Claim {
            token: 7,
            until: Timestamp::from_secs(1_700_000_090),
        };
        session.notifications.claim(&[EntryId(u64::MAX)], claim);
        session
    }

    /// Version 1 as it was first written. This must be read for ever.
    #[test]
    fn the_first_records_are_still_read() {
        let hex: Vec<String> = encode(KEY, &sample())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        insta::assert_snapshot!(hex.concat(), @"010034f6d140d3c1fd5395dad91c05d050740266c5b0ac57ea3233dc3987fbb6b4d0930727760000018bcfe5687b0000018bcfe5687b0000003c02000000107b2275736572223a22616c696365227d0000008b5b7b226964223a31383434363734343037333730393535313631352c226e616d65223a22666c617368222c2276616c7565223a225c7530306539222c22617070656e64223a747275652c226d616465223a313730303030303030303132332c22746172676574223a222f63617274222c22636c61696d223a5b372c313730303030303039303030305d7d5d");
        assert_eq!(
            decode(KEY, &encode(KEY, &sample()), MAX),
            Ok(Stored::Session(sample()))
        );
    }

    #[test]
    fn a_record_that_answers_under_another_key_is_refused() {
        let record = encode(KEY, &sample());
        assert_eq!(decode(b"other", &record, MAX), Err(FormatError::OtherKey));
    }

    #[test]
    fn a_moved_record_leads_to_the_new_id() {
        let to = SessionId::from_bytes([9; 16]);
        let record = encode_moved(KEY, &to);
        assert_eq!(decode(KEY, &record, MAX), Ok(Stored::Moved(to)));
    }

    #[test]
    fn unknown_versions_and_oversize_are_refused() {
        let mut record = encode(KEY, &sample()).to_vec();
        assert!(matches!(
            decode(KEY, &Bytes::from(record.clone()), 10),
            Err(FormatError::TooLarge { limit: 10, .. })
        ));
        record[0] = 2;
        assert_eq!(
            decode(KEY, &Bytes::from(record), MAX),
            Err(FormatError::UnknownVersion(2))
        );
    }

    #[test]
    fn every_truncation_and_every_addition_is_refused() {
        let record = encode(KEY, &sample());
        for length in 0..record.len() {
            assert!(
                decode(KEY, &record.slice(..length), MAX).is_err(),
                "{length}"
            );
        }
        let mut longer = record.to_vec();
        longer.push(0);
        assert!(decode(KEY, &Bytes::from(longer), MAX).is_err());
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let record = encode(KEY, &sample());
        for bit in 0..record.len() * 8 {
            let mut flipped = record.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(KEY, &Bytes::from(flipped), MAX).is_err(), "{bit}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(record: Vec<u8>) {
            prop_assert!(decode(KEY, &Bytes::from(record), MAX).is_err());
        }

        #[test]
        fn what_is_encoded_is_decoded(
            created: u64,
            values in proptest::collection::btree_map(".{0,6}", ".{0,6}", 0..5),
        ) {
            let id = SessionId::from_bytes([1; 16]);
            let mut session = Session::begin(&id, Timestamp::from_millis(created));
            let values = values.into_iter().map(|(k, v)| (k, Json::string(&v))).collect();
            session.values = Values::from_map(&values);
            let record = encode(KEY, &session);
            prop_assert_eq!(record.len(), encoded_len(&session));
            prop_assert_eq!(decode(KEY, &record, MAX), Ok(Stored::Session(session)));
        }
    }
}
