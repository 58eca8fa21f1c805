use insta::assert_snapshot;

use super::*;
use crate::session::{Announcement, Claim, Occasion, Patch, Taken};

const ID: SessionId = SessionId::from_bytes([7; 16]);
const KEY: &[u8] = b"07070707-0707-0707-0707-070707070707:pycket";
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

/// What Python 3.8 and later write.
const FOO_BAR: &[u8] = b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94\x8c\x03foo\x94\x8c\x03bar\x94s.";
/// `{'t': (1, 2), 'n': 1, 3: 4}`, protocol 2.
const TUPLE: &[u8] =
    b"\x80\x02}q\0(X\x01\0\0\0tq\x01K\x01K\x02\x86q\x02X\x01\0\0\0nq\x03K\x01K\x03K\x04u.";

fn own() -> Rules {
    Rules {
        place: Place::OwnRecord,
        protocol: Protocol::COMMON,
    }
}

fn same(names: &[&str]) -> Rules {
    Rules {
        place: Place::SameRecord(names.iter().map(|&name| name.to_owned()).collect()),
        protocol: Protocol::COMMON,
    }
}

fn records(values: &'static [u8]) -> Records {
    Records::read(Some(&Bytes::from_static(values)), None).unwrap()
}

fn json(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap()
}

fn occasion() -> Occasion<'static> {
    Occasion {
        delivered: &[],
        first_entry: 1,
        target: None,
        now: NOW,
    }
}

fn set(pairs: &[(&str, &str)]) -> Patch {
    Patch {
        set: pairs
            .iter()
            .map(|&(name, value)| (name.to_owned(), Some(json(value))))
            .collect(),
        ..Patch::default()
    }
}

fn announce(name: &str, value: &str, append: bool) -> Patch {
    Patch {
        announce: vec![Announcement {
            name: name.to_owned(),
            value: json(value),
            append,
        }],
        ..Patch::default()
    }
}

fn change(records: &Records, rules: &Rules, patch: &Patch) -> Result<Change, PycketError> {
    let before = records.session(rules, &ID, NOW);
    let after = patch.apply(&before, &occasion()).unwrap();
    records.change(rules, (&before, &after), KEY, false)
}

/// What the dictionary in `blob` holds.
fn view(blob: &Bytes) -> View {
    Pickle::read(blob).unwrap().view()
}

#[test]
fn a_dictionary_is_shown_as_json_and_by_kind() {
    let session = records(TUPLE).session(&own(), &ID, NOW);
    assert_eq!(session.values.as_bytes(), &br#"{"n":1}"#[..]);
    assert_eq!(
        session.opaque.names,
        BTreeMap::from([("t".to_owned(), "tuple")])
    );
    assert_eq!(session.opaque.unnamed, 1);
    assert_eq!((session.created, session.refreshed), (NOW, NOW));
}

#[test]
fn what_is_not_named_is_written_as_it_was() {
    let change = change(&records(TUPLE), &own(), &set(&[("n", "2")])).unwrap();
    let view = view(&change.values.unwrap());
    assert_eq!(view.values, BTreeMap::from([("n".to_owned(), json("2"))]));
    assert_eq!((view.opaque.len(), view.unnamed), (1, 1));
    assert_eq!((change.notifications, change.notes), (None, Notes::Keep));
}

#[test]
fn a_patch_that_repeats_what_is_so_writes_nothing() {
    let change = change(&records(FOO_BAR), &own(), &set(&[("foo", "\"bar\"")])).unwrap();
    assert_eq!(change, Change::default());
}

#[test]
fn opaque_values_can_be_replaced_deleted_and_cleared() {
    let replaced = change(&records(TUPLE), &own(), &set(&[("t", "[1,2]")])).unwrap();
    let replaced = view(&replaced.values.unwrap());
    assert_eq!((replaced.values.len(), replaced.opaque.len()), (2, 0));

    let patch = Patch {
        delete: vec!["t".to_owned()],
        ..Patch::default()
    };
    let deleted = change(&records(TUPLE), &own(), &patch).unwrap();
    let deleted = view(&deleted.values.unwrap());
    assert_eq!((deleted.values.len(), deleted.opaque.len()), (1, 0));
    assert_eq!(deleted.unnamed, 1);

    let patch = Patch {
        clear: true,
        ..Patch::default()
    };
    let cleared = change(&records(TUPLE), &own(), &patch).unwrap();
    assert_eq!(view(&cleared.values.unwrap()), View::default());
}

#[test]
fn notifications_have_a_record_of_their_own_or_their_names() {
    let records = records(FOO_BAR);
    let told = announce("flash", "\"hi\"", false);
    let change_own = change(&records, &own(), &told).unwrap();
    assert_eq!(change_own.values, None);
    let notifications = view(&change_own.notifications.unwrap());
    assert_eq!(notifications.values["flash"], json("\"hi\""));

    let change_same = change(&records, &same(&["flash"]), &told).unwrap();
    let values = view(&change_same.values.clone().unwrap()).values;
    assert_eq!(values.len(), 2);
    let again = Records::read(change_same.values.as_ref(), None).unwrap();
    let session = again.session(&same(&["flash"]), &ID, NOW);
    assert_eq!(session.values.as_bytes(), &br#"{"foo":"bar"}"#[..]);
    assert_eq!(session.notifications.entries().len(), 1);
}

#[test]
fn one_dictionary_has_no_room_for_a_name_of_both_kinds() {
    let records = records(FOO_BAR);
    let refusal = |patch| change(&records, &same(&["flash"]), &patch).unwrap_err();
    assert_snapshot!(
        refusal(announce("other", "1", false)),
        @r#""other" is no notification by storage.notification_names, so it can't wait as one: the Python library keeps values and notifications in one dictionary here; add the name there"#
    );
    assert_snapshot!(
        refusal(set(&[("flash", "1")])),
        @r#""flash" is a notification by storage.notification_names, so it can't be a value, too: the Python library keeps both in one dictionary here; use another name, or take it out there"#
    );
}

#[test]
fn clearing_values_leaves_notifications_among_them() {
    let both = change(
        &records(TUPLE),
        &same(&["flash"]),
        &announce("flash", "1", false),
    );
    let both = Records::read(both.unwrap().values.as_ref(), None).unwrap();
    let patch = Patch {
        clear: true,
        ..Patch::default()
    };
    let cleared = change(&both, &same(&["flash"]), &patch).unwrap();
    let cleared = view(&cleared.values.unwrap());
    assert_eq!(
        cleared.values,
        BTreeMap::from([("flash".to_owned(), json("1"))])
    );
    assert!(cleared.opaque.is_empty() && cleared.unnamed == 0);
}

/// A session that holds what the dictionary can't say, and its notes.
fn noted() -> (Records, Session, Bytes) {
    let records = records(FOO_BAR);
    let before = records.session(&own(), &ID, NOW);
    let mut after = announce("flash", "\"a\"", true)
        .apply(&before, &occasion())
        .unwrap();
    let claim = Claim {
        token: 9,
        until: NOW,
    };
    after.notifications.claim(&[EntryId(1)], claim);
    let second = Occasion {
        first_entry: 2,
        ..occasion()
    };
    let after = announce("flash", "\"b\"", true)
        .apply(&after, &second)
        .unwrap();
    let change = records
        .change(&own(), (&before, &after), KEY, false)
        .unwrap();
    let Notes::Write(notes) = change.notes else {
        panic!("{:?}", change.notes);
    };
    let records = Records::read(None, change.notifications.as_ref()).unwrap();
    (records, after, notes)
}

#[test]
fn notes_say_again_what_the_dictionary_can_not() {
    let (records, after, notes) = noted();
    let mut session = records.session(&own(), &ID, NOW);
    assert_eq!(
        session.notifications.by_name()["flash"],
        json(r#"["a","b"]"#)
    );
    annotate(&mut session, KEY, &notes).unwrap();
    assert_eq!(session.notifications, after.notifications);
    assert_eq!(session.notifications.held_by(9), [EntryId(1)]);

    // The one that was shown goes, the other stays.
    let mut shown = session.clone();
    shown.notifications.confirm(9);
    let change = records
        .change(&own(), (&session, &shown), KEY, true)
        .unwrap();
    let left = view(&change.notifications.unwrap());
    assert_eq!(left.values["flash"], json(r#"["b"]"#));
}

#[test]
fn notes_on_what_the_library_has_changed_since_count_no_more() {
    let (_, _, notes) = noted();
    let change = change(
        &Records::default(),
        &own(),
        &announce("flash", "\"new\"", false),
    );
    let records = Records::read(None, change.unwrap().notifications.as_ref()).unwrap();
    let mut session = records.session(&own(), &ID, NOW);
    let plain = session.clone();
    annotate(&mut session, KEY, &notes).unwrap();
    assert_eq!(session, plain);
}

#[test]
fn notes_of_another_session_are_an_error() {
    let (records, _, notes) = noted();
    let mut session = records.session(&own(), &ID, NOW);
    let error = annotate(&mut session, b"other:pycket", &notes).unwrap_err();
    assert!(matches!(error, PycketError::Notes(FormatError::OtherKey)));
}

#[test]
fn plain_notifications_need_no_notes_and_end_with_those_there_were() {
    let (records, _, notes) = noted();
    let mut before = records.session(&own(), &ID, NOW);
    annotate(&mut before, KEY, &notes).unwrap();
    let all: Vec<EntryId> = before
        .notifications
        .entries()
        .iter()
        .map(|e| e.id)
        .collect();
    let patch = Patch {
        taken: Taken::All,
        ..Patch::default()
    };
    let taken = Occasion {
        delivered: &all,
        ..occasion()
    };
    let after = patch.apply(&before, &taken).unwrap();
    let change = records
        .change(&own(), (&before, &after), KEY, true)
        .unwrap();
    assert_eq!(change.notes, Notes::Delete);
    assert_eq!(view(&change.notifications.unwrap()), View::default());
}

#[test]
fn two_proxies_give_a_notification_of_the_library_the_same_id() {
    let ids = [FOO_BAR, FOO_BAR].map(|blob| {
        let records = Records::read(None, Some(&Bytes::from_static(blob))).unwrap();
        records.session(&own(), &ID, NOW).notifications.entries()[0].id
    });
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn a_renewed_session_takes_everything_along() {
    let records = records(TUPLE);
    let before = records.session(&own(), &ID, NOW);
    let after = set(&[("user", "\"alice\"")])
        .apply(&before, &occasion())
        .unwrap();
    let whole = records.whole(&own(), (&before, &after), KEY).unwrap();
    let view_of = view(&whole.values.unwrap());
    assert_eq!((view_of.values.len(), view_of.opaque.len()), (2, 1));
    let same = records.whole(&own(), (&before, &before), KEY).unwrap();
    assert_eq!(view(&same.values.unwrap()).opaque.len(), 1);
    let nothing = Session::begin(&ID, NOW);
    let new = Records::default()
        .whole(&own(), (&nothing, &nothing), KEY)
        .unwrap();
    assert_eq!(new.values.unwrap(), &b"\x80\x02}."[..]);
    assert_eq!(new.notifications, None);
}

#[test]
fn what_is_no_dictionary_is_an_error_that_says_why() {
    let error = Records::read(Some(&Bytes::from_static(b"\x80\x02]q\0.")), None).unwrap_err();
    insta::assert_snapshot!(error, @"the pickled values can't be used");
    let source = std::error::Error::source(&error).unwrap();
    insta::assert_snapshot!(source, @"expected a plain dictionary at byte 6");
}

#[test]
fn what_python3_memcached_makes_of_a_pickle_is_read() {
    let blob = b"c_codecs\nencode\np0\n(V\x80\x03}q\x00X\x03\x00\x00\x00fooq\x01X\x03\x00\x00\x00barq\x02s.\np1\nVlatin1\np2\ntp3\nRp4\n.";
    let session = records(blob).session(&own(), &ID, NOW);
    assert_eq!(session.values.as_bytes(), &br#"{"foo":"bar"}"#[..]);
}
