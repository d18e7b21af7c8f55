//! What can go wrong, in words that callers act on.

use std::sync::Arc;

use iroh::endpoint::{ConnectError, ConnectionError};

/// Why an operation of this crate failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer could not be reached or the QUIC handshake failed.
    #[error("cannot connect to the peer: {0:#}")]
    Connect(Arc<ConnectError>),
    /// Something did not happen in its time.
    #[error("timed out: {0}")]
    Timeout(&'static str),
    /// The peer broke the MoQ protocol, or no version fits both sides.
    #[error("MoQ protocol error: {0}")]
    Protocol(String),
    /// The session ended.
    #[error("session closed: {0}")]
    Session(SessionError),
    /// This endpoint's MoQ, the scope or the broadcast is closed on this side.
    #[error("{0} is closed")]
    Closed(&'static str),
    /// Writing failed because the track or group does not take more.
    #[error("cannot write: {0}")]
    Write(String),
    /// A name or option that cannot be used.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// A frame, group or datagram beyond its limit.
    #[error("too large: the limit is {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The peer has no such broadcast or track.
    #[error("the peer does not offer {0}")]
    NotAnnounced(String),
    /// The track was ended with an error.
    #[error("track closed with code {code}: {reason}")]
    TrackClosed {
        /// The code the writer gave, or the protocol's.
        code: u32,
        /// The same in words.
        reason: String,
    },
    /// This reader was too slow: what it asked for is gone.
    #[error("too slow: the data is no longer held")]
    Lagged,
    /// Too much at once; named is what.
    #[error("limit reached: {0}")]
    Limit(&'static str),
}

impl Error {
    /// A stable name for the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Connect(_) => "CONNECT_FAILED",
            Error::Timeout(_) => "TIMEOUT",
            Error::Protocol(_) => "PROTOCOL",
            Error::Session(_) => "SESSION_CLOSED",
            Error::Closed(_) => "CLOSED",
            Error::Write(_) => "WRITE_FAILED",
            Error::InvalidArgument(_) => "INVALID_ARGUMENT",
            Error::TooLarge { .. } => "TOO_LARGE",
            Error::NotAnnounced(_) => "NOT_ANNOUNCED",
            Error::TrackClosed { .. } => "TRACK_CLOSED",
            Error::Lagged => "LAGGED",
            Error::Limit(_) => "INTERNAL",
        }
    }
}

/// Why a broadcast could not be subscribed to.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The peer never announced it, or it cannot exist under that name.
    #[error("the broadcast is not announced")]
    NotAnnounced,
    /// The scope is closed on this side.
    #[error("the scope is closed")]
    Closed,
    /// The session with the peer ended before the announcement came.
    #[error("session closed: {0}")]
    SessionClosed(SessionError),
}

impl SubscribeError {
    /// A stable name for the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            SubscribeError::NotAnnounced => "NOT_ANNOUNCED",
            SubscribeError::Closed => "CLOSED",
            SubscribeError::SessionClosed(_) => "SESSION_CLOSED",
        }
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionError {
    /// The close code; see [`crate::close`]. Zero if the connection was lost without one.
    pub code: u32,
    /// The words that came with the code, or what happened to the connection.
    pub reason: String,
    /// Who or what ended it.
    pub cause: Cause,
}

/// Who or what ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This side closed it.
    Local,
    /// The peer closed it.
    Peer,
    /// Nothing was heard for the idle timeout.
    Timeout,
    /// The connection broke otherwise.
    Transport,
}

impl std::fmt::Display for SessionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.cause {
            Cause::Local => write!(f, "closed here with code {}", self.code)?,
            Cause::Peer => write!(f, "closed by the peer with code {}", self.code)?,
            Cause::Timeout => return f.write_str("timed out"),
            Cause::Transport => return write!(f, "connection lost: {}", self.reason),
        }
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for SessionError {}

impl SessionError {
    /// This side closed with `code`.
    pub(crate) fn local(code: u32, reason: &str) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            cause: Cause::Local,
        }
    }
}

impl From<ConnectionError> for SessionError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self {
                // Codes on the wire have 62 bits, ours are small: anything larger is foreign.
                code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
                cause: Cause::Peer,
            },
            ConnectionError::LocallyClosed => Self::local(crate::close::NORMAL, ""),
            ConnectionError::TimedOut => Self {
                code: 0,
                reason: "timed out".to_owned(),
                cause: Cause::Timeout,
            },
            other => Self {
                code: 0,
                reason: other.to_string(),
                cause: Cause::Transport,
            },
        }
    }
}

impl From<SessionError> for Error {
    fn from(error: SessionError) -> Self {
        Error::Session(error)
    }
}

/// What a failed read or write of a track means.
pub(crate) fn from_moq(error: moq_net::Error) -> Error {
    use moq_net::{Error as E, StreamError as S};
    let closed = |code: u32, reason: &dyn std::fmt::Display| Error::TrackClosed {
        code,
        reason: reason.to_string(),
    };
    match error {
        E::App(code) => closed(u32::from(code), &"ended by its writer"),
        E::Stream(S::App(code)) => closed(u32::from(code), &"ended by its writer"),
        E::Stream(S::TooFarBehind | S::Evicted | S::Old) => Error::Lagged,
        E::Old | E::Lagged | E::Evicted => Error::Lagged,
        E::NotFound | E::Unroutable | E::Stream(S::NotFound | S::Unroutable) => {
            Error::NotAnnounced("this track".to_owned())
        }
        E::FrameTooLarge | E::GroupTooLarge | E::Stream(S::FrameTooLarge | S::GroupTooLarge) => {
            Error::TooLarge {
                limit: moq_net::group::MAX_CACHE_BYTES,
            }
        }
        E::Transport(reason) => Error::Session(SessionError {
            code: 0,
            reason,
            cause: Cause::Transport,
        }),
        E::Session(error) => Error::Session(SessionError {
            code: error.to_code(),
            reason: error.to_string(),
            cause: Cause::Peer,
        }),
        E::Stream(error) => closed(error.to_code(), &error),
        E::Timeout => Error::Timeout("the track"),
        E::Closed => Error::Closed("the track"),
        E::Cancel | E::Dropped | E::SessionClosed | E::GoingAway => closed(1, &error),
        other => Error::Protocol(other.to_string()),
    }
}
