//! What happens in a room, in the words of the TypeScript API.

use iroh::EndpointId;
use iroh_rooms_moq::{RemoteBroadcast, Session};
use serde::Serialize;
use serde_json::value::RawValue;

/// A peer, as it was when the event happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its endpoint id.
    pub id: EndpointId,
    /// The name under which a doorman admitted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub participant_id: Option<String>,
    /// The name to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The application's presence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<serde_json::Value>,
    /// Names of its broadcasts, sorted.
    pub broadcasts: Vec<String>,
    /// When it was first seen here, in milliseconds since 1970 by this machine's clock.
    pub joined_at: u64,
}

/// A field of [`Peer`] that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Changed {
    /// [`Peer::participant_id`].
    ParticipantId,
    /// [`Peer::display_name`].
    DisplayName,
    /// [`Peer::presence`].
    Presence,
    /// [`Peer::broadcasts`].
    Broadcasts,
}

/// Why a peer is no longer here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LeftReason {
    /// It said goodbye.
    Left,
    /// Nothing was heard from it for the silence window.
    Timeout,
    /// The doorman showed it out.
    Kicked,
}

/// Why a broadcast ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EndReason {
    /// Its peer withdrew it.
    Unpublished,
    /// Its peer is gone.
    PeerLeft,
}

/// How an endpoint is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Not yet reachable.
    Connecting,
    /// Reachable.
    Connected,
    /// The relay is lost; it comes back by itself.
    Reconnecting,
    /// Closed.
    Disconnected,
}

/// A chat message.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatMessage {
    /// Who wrote it, as the session that carried it proves.
    pub peer: Peer,
    /// The text, 1 to 4,096 bytes.
    pub text: String,
    /// The writer's clock, in milliseconds since 1970.
    pub timestamp: u64,
    /// Unique within the room.
    pub id: String,
}

/// A change that was handed back.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// Where it was; nothing if it was not made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Whose it is.
    pub author: EndpointId,
    /// Of which kind.
    pub kind: ChangeKind,
    /// The change.
    pub change: Box<RawValue>,
}

/// How a change is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// JSON to merge, RFC 7396.
    Merge,
    /// A JSON patch, RFC 6902.
    Patch,
    /// What the application's reducer understands.
    Opaque,
}

/// Why a room is over for a participant of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Ending {
    /// A moderator removed it.
    Kicked,
    /// Another program with the same key took its place.
    Replaced,
    /// It lost the room, and was not let in again.
    Refused,
}

/// Something that happened in a room.
///
/// Every `PeerJoined` has exactly one `PeerLeft`, and is complete: it carries what the peer says
/// of itself. Updating or unpublishing is not leaving.
#[derive(Debug, Clone, Serialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum Event {
    /// A peer is here.
    PeerJoined {
        /// The peer.
        peer: Peer,
    },
    /// What a peer says of itself changed.
    PeerUpdated {
        /// The peer, after the change.
        peer: Peer,
        /// What changed.
        changed: Vec<Changed>,
    },
    /// A peer is gone.
    PeerLeft {
        /// The peer, as last seen.
        peer: Peer,
        /// Why.
        reason: LeftReason,
    },
    /// A peer has new broadcasts.
    BroadcastAnnounced {
        /// The peer.
        peer: Peer,
        /// The new names.
        names: Vec<String>,
    },
    /// A peer's broadcast can be read.
    BroadcastSubscribed {
        /// The peer.
        peer: Peer,
        /// The broadcast's name.
        name: String,
        /// The broadcast.
        #[serde(skip)]
        broadcast: RemoteBroadcast,
        /// The session that carries it now.
        #[serde(skip)]
        session: Option<Session>,
    },
    /// A peer's broadcast ended.
    BroadcastEnded {
        /// The peer.
        peer: Peer,
        /// The broadcast's name.
        name: String,
        /// Why.
        reason: EndReason,
    },
    /// Somebody else said something.
    ChatMessage(ChatMessage),
    /// The connection changed.
    Status {
        /// The new status.
        status: Status,
    },
    /// Another participant stands at the door of the room, or nobody at the moment.
    DoormanChanged {
        /// Its endpoint.
        #[serde(skip_serializing_if = "Option::is_none")]
        doorman: Option<EndpointId>,
        /// Its name.
        #[serde(skip_serializing_if = "Option::is_none")]
        participant_id: Option<String>,
        /// Whether it is this one.
        #[serde(rename = "self")]
        is_self: bool,
    },
    /// Too few of those who vote are there: the state can be read, not changed.
    QuorumLost {
        /// Voters that cannot be reached.
        missing: Vec<EndpointId>,
        /// Whether those that are left may go on by themselves, if the missing ones stay away.
        eligible: bool,
    },
    /// The state can be changed again.
    QuorumRestored,
    /// Those who are left went on without the missing.
    Recovered {
        /// The new epoch, as hex.
        epoch: String,
        /// Whether nothing that was acknowledged is missing.
        lossless: bool,
        /// Members that it goes on without.
        dropped: usize,
    },
    /// What this participant was in was given up for another course of the room, or it was away for
    /// too long. It joins again by itself.
    Superseded {
        /// Changes made here that the others may not have.
        orphaned: Vec<Orphan>,
    },
    /// The room went on in two courses; one of them will give way.
    ForkDetected,
    /// Another participant came to another state: its rules are not the same.
    Divergence {
        /// Where.
        index: u64,
    },
    /// Another participant has another log, although it is committed: someone lies.
    IntegrityFault {
        /// Where.
        index: u64,
    },
    /// The room has another id; the old one leads nowhere.
    Rotated {
        /// The new one, in z-base-32.
        id: String,
    },
    /// The room is over for this participant. The last event.
    Ended {
        /// Why.
        reason: Ending,
    },
    /// The reader was too slow: events were dropped. Joined and left peers are made up for by
    /// the events that follow, chat by the history.
    Lagged {
        /// How many.
        missed: u64,
    },
    /// Something failed that nobody asked for.
    Error {
        /// A stable code.
        code: String,
        /// For people.
        message: String,
    },
}
