//! What headers the contract has.

use http::HeaderName;

/// One header of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `X-Session`, to the application.
    Session,
    /// `X-Session-Id`, to the application.
    SessionId,
    /// `X-Session-State`, to the application.
    SessionState,
    /// `X-Session-Opaque`, to the application.
    SessionOpaque,
    /// `X-Notifications`, to the application.
    Notifications,
    /// `X-Session-Set`, a signal.
    SessionSet,
    /// `X-Session-Delete`, a signal.
    SessionDelete,
    /// `X-Session-Control`, a signal.
    SessionControl,
    /// `X-Notifications-Set`, a signal.
    NotificationsSet,
    /// `X-Notifications-Add`, a signal.
    NotificationsAdd,
    /// `X-Notifications-Taken`, a signal.
    NotificationsTaken,
}

impl Field {
    /// Every header of the contract.
    pub const ALL: [Self; 11] = [
        Self::Session,
        Self::SessionId,
        Self::SessionState,
        Self::SessionOpaque,
        Self::Notifications,
        Self::SessionSet,
        Self::SessionDelete,
        Self::SessionControl,
        Self::NotificationsSet,
        Self::NotificationsAdd,
        Self::NotificationsTaken,
    ];

    /// The signals: what an application answers with.
    pub(in crate::contract) const SIGNALS: [Self; 6] = [
        Self::SessionSet,
        Self::SessionDelete,
        Self::SessionControl,
        Self::NotificationsSet,
        Self::NotificationsAdd,
        Self::NotificationsTaken,
    ];

    /// What the configuration calls it: `session_set`.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::SessionId => "session_id",
            Self::SessionState => "session_state",
            Self::SessionOpaque => "session_opaque",
            Self::Notifications => "notifications",
            Self::SessionSet => "session_set",
            Self::SessionDelete => "session_delete",
            Self::SessionControl => "session_control",
            Self::NotificationsSet => "notifications_set",
            Self::NotificationsAdd => "notifications_add",
            Self::NotificationsTaken => "notifications_taken",
        }
    }

    /// The default name. Static, so that a clone of it counts no references.
    pub(super) const fn default_name(self) -> HeaderName {
        HeaderName::from_static(match self {
            Self::Session => "x-session",
            Self::SessionId => "x-session-id",
            Self::SessionState => "x-session-state",
            Self::SessionOpaque => "x-session-opaque",
            Self::Notifications => "x-notifications",
            Self::SessionSet => "x-session-set",
            Self::SessionDelete => "x-session-delete",
            Self::SessionControl => "x-session-control",
            Self::NotificationsSet => "x-notifications-set",
            Self::NotificationsAdd => "x-notifications-add",
            Self::NotificationsTaken => "x-notifications-taken",
        })
    }
}
