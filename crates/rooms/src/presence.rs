//! What peers say of themselves: the two presence values of `docs/wire.md`.

use iroh::{EndpointId, RelayUrl};
use iroh_gossip::TopicId;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Key of [`PeerState`], iroh-live's.
pub const PEER_STATE_KEY: &[u8] = b"s";
/// Key of [`RoomState`].
pub const ROOM_STATE_KEY: &[u8] = b"r";

/// Broadcasts that a peer may list.
pub const MAX_BROADCASTS: usize = 32;
/// Bytes of a broadcast's name.
pub const MAX_BROADCAST_NAME: usize = 64;
/// Bytes of a display name.
pub const MAX_DISPLAY_NAME: usize = 64;
/// Bytes of an application's presence, as JSON.
pub const MAX_PRESENCE: usize = 2048;
/// Bytes of a relay URL.
const MAX_RELAY_URL: usize = 256;
/// Bytes of an encoded value.
pub const MAX_VALUE: usize = 3072;

const VERSION: u8 = 1;
const FLAG_LEAVING: u8 = 1;

/// iroh-live's presence, byte for byte. Always written; read by its peers, and here in rooms with
/// [`crate::room::Compat::IrohLive`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerState {
    /// Names of the broadcasts.
    pub broadcasts: Vec<String>,
    /// The name to show.
    pub display_name: Option<String>,
}

impl PeerState {
    /// Reads a value; `None` unless it is well formed and within the limits of [`RoomState`].
    /// Nothing proves for which room it was signed.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_VALUE {
            return None;
        }
        let (state, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        let valid = rest.is_empty()
            && is_short(&state.display_name, MAX_DISPLAY_NAME)
            && are_names(&state.broadcasts);
        valid.then_some(state)
    }
}

/// The presence of this library: who I am in this room, proven.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomState {
    version: u8,
    member: [u8; 16],
    /// The name under which a doorman admitted this peer.
    pub participant_id: Option<String>,
    /// The name to show.
    pub display_name: Option<String>,
    /// Names of the broadcasts.
    pub broadcasts: Vec<String>,
    /// Where to dial this peer.
    pub relay_url: Option<String>,
    presence: Option<Vec<u8>>,
    flags: u8,
}

/// The secret that all who know a room's topic share; everything bound to the room comes from it.
#[derive(Clone, Copy)]
pub struct RoomKey([u8; 32]);

impl RoomKey {
    /// Derives the key from the topic.
    pub fn new(topic: &TopicId) -> Self {
        Self(blake3::derive_key(
            "iroh-rooms 2026-11 moq scope",
            topic.as_bytes(),
        ))
    }

    /// The bytes, for the MoQ scope.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The proof that `peer` knows the topic. Signatures name no room, so without it a value
    /// could be replayed from one room into another.
    fn member(&self, peer: &EndpointId) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"iroh-rooms/member/1");
        hasher.update(peer.as_bytes());
        let mut tag = [0; 16];
        hasher.finalize_xof().fill(&mut tag);
        tag
    }
}

impl RoomState {
    /// The state of `me`, with the proof for the room of `key`.
    pub fn new(key: &RoomKey, me: &EndpointId) -> Self {
        Self {
            version: VERSION,
            member: key.member(me),
            ..Self::default()
        }
    }

    /// What a peer of iroh-live says: nobody's room is proven by it.
    pub(crate) fn foreign(state: PeerState) -> Self {
        Self {
            display_name: state.display_name,
            broadcasts: state.broadcasts,
            ..Self::default()
        }
    }

    /// Whether it is what a peer of iroh-live says.
    pub(crate) fn is_foreign(&self) -> bool {
        self.version != VERSION
    }

    /// Whether the peer says goodbye.
    pub fn is_leaving(&self) -> bool {
        self.flags & FLAG_LEAVING != 0
    }

    /// Says goodbye, or not.
    pub fn set_leaving(&mut self, leaving: bool) {
        self.flags = if leaving { FLAG_LEAVING } else { 0 };
    }

    /// The application's presence.
    pub fn presence(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(self.presence.as_deref()?).ok()
    }

    /// Sets the application's presence; at most [`MAX_PRESENCE`] bytes of JSON.
    pub fn set_presence(&mut self, value: Option<&serde_json::Value>) -> Result<(), Error> {
        self.presence = match value {
            None => None,
            Some(value) => {
                let json = serde_json::to_vec(value)
                    .map_err(|error| Error::InvalidArgument(format!("presence: {error}")))?;
                check_size("the presence", json.len(), MAX_PRESENCE)?;
                Some(json)
            }
        };
        Ok(())
    }

    /// What iroh-live's peers see.
    pub fn peer_state(&self) -> PeerState {
        PeerState {
            broadcasts: self.broadcasts.clone(),
            display_name: self.display_name.clone(),
        }
    }

    /// The bytes of the value; refused above [`MAX_VALUE`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let bytes = postcard::to_stdvec(self)
            .map_err(|error| Error::InvalidArgument(format!("presence: {error}")))?;
        check_size(
            "name, broadcasts and presence together",
            bytes.len(),
            MAX_VALUE,
        )?;
        Ok(bytes)
    }

    /// Reads a value of `peer`; `None` unless it is well formed, within the limits and proves
    /// that the peer knows the room.
    pub fn decode(bytes: &[u8], key: &RoomKey, peer: &EndpointId) -> Option<Self> {
        if bytes.len() > MAX_VALUE {
            return None;
        }
        let (state, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        let valid = rest.is_empty()
            && state.version == VERSION
            // Compared in constant time by blake3.
            && blake3::Hash::from_bytes(widen(state.member)) == blake3::Hash::from_bytes(widen(key.member(peer)))
            && is_short(&state.participant_id, MAX_DISPLAY_NAME)
            && is_short(&state.display_name, MAX_DISPLAY_NAME)
            && is_short(&state.relay_url, MAX_RELAY_URL)
            && are_names(&state.broadcasts)
            && state.presence.as_ref().is_none_or(|json| json.len() <= MAX_PRESENCE)
            && (state.presence.is_none() || state.presence().is_some());
        valid.then_some(state)
    }

    /// The relay URL, parsed.
    pub fn relay(&self) -> Option<RelayUrl> {
        self.relay_url.as_ref()?.parse().ok()
    }
}

fn is_short(text: &Option<String>, limit: usize) -> bool {
    text.as_ref().is_none_or(|text| text.len() <= limit)
}

fn are_names(names: &[String]) -> bool {
    names.len() <= MAX_BROADCASTS && names.iter().all(|name| check_broadcast_name(name).is_ok())
}

fn widen(tag: [u8; 16]) -> [u8; 32] {
    let mut wide = [0; 32];
    wide[..16].copy_from_slice(&tag);
    wide
}

/// Refuses what is no name of a broadcast.
pub fn check_broadcast_name(name: &str) -> Result<(), Error> {
    check_name("the broadcast's name", name, MAX_BROADCAST_NAME)
}

/// Refuses names that are empty, long, or more than one plain part of a path.
pub(crate) fn check_name(what: &'static str, name: &str, limit: usize) -> Result<(), Error> {
    let odd = |c: char| c.is_control() || c == '/' || c == '*';
    if name.is_empty() || name.starts_with('.') || name.chars().any(odd) {
        return Err(Error::InvalidArgument(format!(
            "{what} {name:?}: use 1 to {limit} bytes without '/', '*' and control characters, and no dot in front"
        )));
    }
    check_size(what, name.len(), limit)
}

/// Refuses what is larger than its limit.
pub fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), Error> {
    if size > limit {
        return Err(Error::TooLarge { what, size, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn peer(seed: u8) -> EndpointId {
        SecretKey::from_bytes(&[seed; 32]).public()
    }

    fn key(seed: u8) -> RoomKey {
        RoomKey::new(&TopicId::from_bytes([seed; 32]))
    }

    #[test]
    fn a_value_is_read_back_by_those_who_know_the_room() {
        let mut state = RoomState::new(&key(1), &peer(1));
        state.display_name = Some("Ada".into());
        state.broadcasts = vec!["camera".into()];
        state
            .set_presence(Some(&json!({ "typing": true })))
            .expect("small");
        let bytes = state.encode().expect("small");
        let read = RoomState::decode(&bytes, &key(1), &peer(1)).expect("valid");
        assert_eq!(read, state);
        assert_eq!(read.presence(), Some(json!({ "typing": true })));
        assert!(!read.is_leaving());
    }

    #[test]
    fn a_value_from_another_room_or_peer_is_refused() {
        let bytes = RoomState::new(&key(1), &peer(1)).encode().expect("small");
        assert!(RoomState::decode(&bytes, &key(2), &peer(1)).is_none());
        assert!(RoomState::decode(&bytes, &key(1), &peer(2)).is_none());
    }

    #[test]
    fn limits_are_errors_for_the_writer_and_refusals_for_the_reader() {
        let mut state = RoomState::new(&key(1), &peer(1));
        let long = json!("x".repeat(MAX_PRESENCE));
        assert_eq!(
            state.set_presence(Some(&long)).expect_err("long").code(),
            "TOO_LARGE"
        );
        state.display_name = Some("x".repeat(MAX_DISPLAY_NAME + 1));
        let bytes = state.encode().expect("within the value's limit");
        assert!(RoomState::decode(&bytes, &key(1), &peer(1)).is_none());
        let mut state = RoomState::new(&key(1), &peer(1));
        state.broadcasts = vec!["a/b".into()];
        let mut bytes = state.encode().expect("small");
        assert!(RoomState::decode(&bytes, &key(1), &peer(1)).is_none());
        state.broadcasts.clear();
        bytes = state.encode().expect("small");
        bytes.push(0);
        assert!(RoomState::decode(&bytes, &key(1), &peer(1)).is_none());
    }

    #[test]
    fn what_a_peer_of_iroh_live_says_is_read_within_the_limits() {
        // Postcard, by hand: two names, and "Ada".
        let bytes = b"\x02\x06camera\x06screen\x01\x03Ada";
        let state = PeerState::decode(bytes).expect("valid");
        assert_eq!(state.broadcasts, ["camera", "screen"]);
        assert_eq!(state.display_name.as_deref(), Some("Ada"));
        assert_eq!(postcard::to_stdvec(&state).expect("small"), bytes);
        assert!(RoomState::foreign(state).is_foreign());
        assert!(!RoomState::new(&key(1), &peer(1)).is_foreign());

        let encode = |state: &PeerState| postcard::to_stdvec(state).expect("encodes");
        let mut state = PeerState {
            broadcasts: Vec::new(),
            display_name: Some("x".repeat(MAX_DISPLAY_NAME + 1)),
        };
        assert!(PeerState::decode(&encode(&state)).is_none());
        state.display_name = None;
        state.broadcasts = vec!["x".into(); MAX_BROADCASTS + 1];
        assert!(PeerState::decode(&encode(&state)).is_none());
        state.broadcasts = vec!["a/b".into()];
        assert!(PeerState::decode(&encode(&state)).is_none());
        state.broadcasts.clear();
        let mut long = encode(&state);
        assert!(PeerState::decode(&long).is_some());
        long.push(0);
        assert!(PeerState::decode(&long).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = RoomState::decode(&bytes, &key(1), &peer(1));
            let _ = PeerState::decode(&bytes);
        }
    }
}
