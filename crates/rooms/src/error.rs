//! What can go wrong, with the stable codes of the TypeScript API.

use std::time::Duration;

/// Errors of this crate. [`Error::code`] is stable, the message is for people.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint could not be created.
    #[error("the endpoint could not start: {0}")]
    Endpoint(String),
    /// No relay answered in time.
    #[error(
        "no relay answered within {} s (tried {relays}): check the URL, that the relay runs, and that this network lets WebSockets through{reason}",
        .waited.as_secs()
    )]
    RelayUnreachable {
        /// The relays that were tried.
        relays: String,
        /// How long.
        waited: Duration,
        /// What the last attempt reported, with a leading separator, or empty.
        reason: String,
    },
    /// The text is no ticket of a room.
    #[error("not a room ticket: {0}")]
    InvalidTicket(String),
    /// An argument is outside its limits.
    #[error("{0}")]
    InvalidArgument(String),
    /// Something is larger than its limit.
    #[error("{what} has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The room or the endpoint is closed.
    #[error("the {0} is closed")]
    Closed(&'static str),
    /// A room is there already.
    #[error("a room of that name is open already: use `join`")]
    RoomExists,
    /// Nobody stands at the room's door.
    #[error(
        "nobody answered at the room's door: check the id or name, that someone is in the room, and that both sides use the same relays"
    )]
    RoomNotFound,
    /// The room does not let this participant in.
    #[error("the room does not let you in: {0}")]
    Refused(String),
    /// Someone else in the room has the participant id.
    #[error("another participant has that id: choose another one")]
    ParticipantIdTaken,
    /// A change was refused, for good.
    #[error("the change was refused: {0}")]
    UpdateRejected(String),
    /// It is not known whether a change was made.
    #[error("the answer was lost: the change may have been made, and may yet be")]
    UpdateUnknown,
    /// Too few of those who vote are there.
    #[error("too few voters are there: the state can be read, not changed")]
    NoQuorum,
    /// It took too long.
    #[error("{0}: no answer in time")]
    Timeout(&'static str),
    /// From the MoQ layer.
    #[error(transparent)]
    Moq(#[from] iroh_rooms_moq::Error),
    /// From the MoQ layer, subscribing.
    #[error(transparent)]
    Subscribe(#[from] iroh_rooms_moq::SubscribeError),
    /// From the presence layer.
    #[error("presence: {0}")]
    Presence(String),
}

impl Error {
    /// The stable code, SCREAMING_SNAKE, as in the TypeScript API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Endpoint(_) | Self::Presence(_) => "INTERNAL",
            Self::RelayUnreachable { .. } => "RELAY_UNREACHABLE",
            Self::InvalidTicket(_) => "INVALID_TICKET",
            Self::InvalidArgument(_) => "INVALID_ARGUMENT",
            Self::TooLarge { .. } => "TOO_LARGE",
            Self::Closed(_) => "CLOSED",
            Self::RoomExists => "ROOM_EXISTS",
            Self::RoomNotFound => "ROOM_NOT_FOUND",
            Self::Refused(_) => "REFUSED",
            Self::ParticipantIdTaken => "PARTICIPANT_ID_TAKEN",
            Self::UpdateRejected(_) => "UPDATE_REJECTED",
            Self::UpdateUnknown => "UPDATE_UNKNOWN",
            Self::NoQuorum => "NO_QUORUM",
            Self::Timeout(_) => "TIMEOUT",
            Self::Moq(error) => error.code(),
            Self::Subscribe(error) => error.code(),
        }
    }
}

impl From<iroh_rooms_kv::Error> for Error {
    fn from(error: iroh_rooms_kv::Error) -> Self {
        Self::Presence(error.to_string())
    }
}
