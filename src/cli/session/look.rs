//! What a place has under an id.

use crate::archive::{Found, Kept};
use crate::cli::Failure;
use crate::cli::stores::Place;
use crate::clock::Timestamp;
use crate::session::{PublicId, SessionId};
use crate::store::{Left, StoreError};

/// A session that was found.
pub(super) struct Looked {
    /// The id that it is kept under, to which the one that was asked for may have led.
    pub(super) id: SessionId,
    pub(super) kept: Box<Kept>,
    /// How long it is still kept.
    pub(super) left: Left,
}

/// What is kept under an id.
pub(super) enum Seen {
    Nothing,
    Session(Box<Looked>),
    /// The session goes on under another id.
    Moved(SessionId),
    /// Something that is no session, and why.
    Unreadable(StoreError),
}

impl Seen {
    /// The public id, where it is known.
    pub(super) fn public_id(&self) -> Option<PublicId> {
        match self {
            Self::Session(looked) => Some(looked.kept.session.public_id),
            Self::Nothing | Self::Moved(_) | Self::Unreadable(_) => None,
        }
    }
}

/// Looks under one id. Records of any size are read: whoever looks wants to see them.
pub(super) async fn look_at(
    place: &Place,
    id: &SessionId,
    now: Timestamp,
) -> Result<Seen, Failure> {
    let kept = match place.archive.look(id, usize::MAX, now).await {
        Ok(Found::Session(kept) | Found::Old(kept)) => kept,
        Ok(Found::Moved(to)) => return Ok(Seen::Moved(to)),
        Ok(Found::Missing) => return Ok(Seen::Nothing),
        Err(error @ StoreError::Corrupt(_)) => return Ok(Seen::Unreadable(error)),
        Err(error) => return Err(place.failed(error)),
    };
    let left = place.archive.left(id).await;
    Ok(match left.map_err(|error| place.failed(error))? {
        Some(left) => Seen::Session(Box::new(Looked {
            id: id.clone(),
            kept,
            left,
        })),
        None => Seen::Nothing,
    })
}

/// Looks for a session, whose id may lead on to another.
pub(super) async fn look(
    place: &Place,
    id: &SessionId,
    now: Timestamp,
) -> Result<Option<Looked>, Failure> {
    let mut id = id.clone();
    for _ in 0..4 {
        match look_at(place, &id, now).await? {
            Seen::Session(looked) => return Ok(Some(*looked)),
            Seen::Moved(to) => id = to,
            Seen::Nothing => return Ok(None),
            Seen::Unreadable(error) => return Err(place.failed(error)),
        }
    }
    Ok(None)
}

/// Looks through all places for the session with this public id. It is a digest of the id that the
/// session began with; one that was renewed has another id, and says itself who it is.
pub(super) async fn find(
    places: &[Place],
    public: PublicId,
    page: u32,
) -> Result<Option<SessionId>, Failure> {
    for is_renewed in [false, true] {
        for place in places {
            if is_renewed && place.archive.is_pycket() {
                continue;
            }
            let failed = |error| place.failed(error);
            let mut walk = place.archive.walk(None).map_err(failed)?;
            loop {
                let listed = walk.list(page).await.map_err(failed)?;
                for id in listed.ids {
                    let found = if is_renewed {
                        let seen = look_at(place, &id, Timestamp::default()).await?;
                        seen.public_id() == Some(public)
                    } else {
                        id.public_id() == public
                    };
                    if found {
                        return Ok(Some(id));
                    }
                }
                if listed.next.is_none() {
                    break;
                }
            }
        }
    }
    Ok(None)
}
