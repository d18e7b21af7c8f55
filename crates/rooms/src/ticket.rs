//! Tickets: the few bytes by which a room is found.
//!
//! The encoding is iroh-live's `{ bootstrap, topic_id }` in postcard, followed by one extension
//! block that its decoder ignores: the relays of the bootstrap peers and, for a room with a
//! doorman, the room id. See `docs/wire.md`.

use std::{fmt, str::FromStr};

use iroh::{EndpointId, RelayUrl};
use iroh_gossip::TopicId;
use iroh_tickets::{ParseError, Ticket};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Bootstrap peers a ticket may name.
pub const MAX_BOOTSTRAP: usize = 8;
/// Relays a ticket may name.
pub const MAX_RELAYS: usize = 4;
/// Size of a ticket's bytes, before base32.
pub const MAX_BYTES: usize = 1024;

const ROOM_VAR: &str = "IROH_LIVE_ROOM";
const TOPIC_VAR: &str = "IROH_LIVE_TOPIC";
const EXTENSION_VERSION: u8 = 1;

/// A key to a room: its gossip topic, and whom to ask first.
///
/// Whoever holds it can enter. `Display` and `FromStr` give the text form, `room…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomTicket {
    /// Peers to contact first, at most [`MAX_BOOTSTRAP`].
    pub bootstrap: Vec<EndpointId>,
    /// The gossip topic.
    pub topic_id: TopicId,
    /// Relays through which the bootstrap peers are reached, at most [`MAX_RELAYS`].
    pub relays: Vec<RelayUrl>,
    /// For each bootstrap peer with a known relay: its index and that relay's index.
    pub addrs: Vec<(u8, u8)>,
    /// Set on the ticket of a room with a doorman.
    pub room_id: Option<[u8; 32]>,
}

#[derive(Serialize, Deserialize)]
struct Base {
    bootstrap: Vec<EndpointId>,
    topic_id: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Extension {
    relays: Vec<String>,
    addrs: Vec<(u8, u8)>,
    room_id: Option<[u8; 32]>,
}

impl RoomTicket {
    /// A ticket of a new room: a random topic and nobody to ask.
    pub fn generate() -> Self {
        Self::new(TopicId::from_bytes(rand::random()), [])
    }

    /// A ticket for a topic and bootstrap peers; those beyond [`MAX_BOOTSTRAP`] are left out.
    pub fn new(topic_id: TopicId, bootstrap: impl IntoIterator<Item = EndpointId>) -> Self {
        Self {
            bootstrap: bootstrap.into_iter().take(MAX_BOOTSTRAP).collect(),
            topic_id,
            relays: Vec::new(),
            addrs: Vec::new(),
            room_id: None,
        }
    }

    /// Reads `IROH_LIVE_ROOM` (a ticket), or else `IROH_LIVE_TOPIC` (64 hex digits).
    pub fn new_from_env() -> Result<Self, Error> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        if let Some(ticket) = var(ROOM_VAR) {
            return ticket
                .parse()
                .map_err(|error| Error::InvalidTicket(format!("{ROOM_VAR}: {error}")));
        }
        let topic = var(TOPIC_VAR).ok_or_else(|| {
            Error::InvalidTicket(format!(
                "neither {ROOM_VAR} (a ticket) nor {TOPIC_VAR} (64 hex digits) is set"
            ))
        })?;
        parse_topic(&topic)
            .map(|topic| Self::new(topic, []))
            .ok_or_else(|| Error::InvalidTicket(format!("{TOPIC_VAR} is not 64 hex digits")))
    }

    /// Adds a peer with the relay it is reached through, as long as there is room for both.
    pub fn add_peer(&mut self, peer: EndpointId, relay: Option<&RelayUrl>) {
        if self.bootstrap.len() >= MAX_BOOTSTRAP || self.bootstrap.contains(&peer) {
            return;
        }
        self.bootstrap.push(peer);
        if let Some(relay) = relay.and_then(|relay| self.add_relay(relay)) {
            self.addrs.push(((self.bootstrap.len() - 1) as u8, relay));
        }
    }

    /// Names a relay, and returns its index; `None` when there is no room for it.
    pub fn add_relay(&mut self, relay: &RelayUrl) -> Option<u8> {
        if let Some(index) = self.relays.iter().position(|known| known == relay) {
            return Some(index as u8);
        }
        if self.relays.len() >= MAX_RELAYS {
            return None;
        }
        self.relays.push(relay.clone());
        Some((self.relays.len() - 1) as u8)
    }

    /// The relay of a bootstrap peer, where the ticket knows it.
    pub fn relay_of(&self, peer: &EndpointId) -> Option<&RelayUrl> {
        let index = self.bootstrap.iter().position(|id| id == peer)?;
        let (_, relay) = self
            .addrs
            .iter()
            .find(|(peer, _)| usize::from(*peer) == index)?;
        self.relays.get(usize::from(*relay))
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.bootstrap.len() > MAX_BOOTSTRAP {
            return Err("more than 8 bootstrap peers");
        }
        if self.relays.len() > MAX_RELAYS {
            return Err("more than 4 relays");
        }
        let known = |(peer, relay): &(u8, u8)| {
            usize::from(*peer) < self.bootstrap.len() && usize::from(*relay) < self.relays.len()
        };
        if self.addrs.len() > MAX_BOOTSTRAP || !self.addrs.iter().all(known) {
            return Err("an address points beyond its lists");
        }
        Ok(())
    }

    fn decode_extension(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        match bytes.split_first() {
            None => return Ok(()),
            Some((&EXTENSION_VERSION, rest)) => {
                let (extension, rest) = postcard::take_from_bytes::<Extension>(rest)?;
                if !rest.is_empty() {
                    return Err(ParseError::verification_failed("bytes after the end"));
                }
                for relay in &extension.relays {
                    let relay = relay
                        .parse()
                        .map_err(|_| ParseError::verification_failed("a relay is not a URL"))?;
                    self.relays.push(relay);
                }
                self.addrs = extension.addrs;
                self.room_id = extension.room_id;
            }
            Some(_) => {
                return Err(ParseError::verification_failed(
                    "made by a newer version: update iroh-rooms",
                ));
            }
        }
        self.check().map_err(ParseError::verification_failed)
    }
}

impl Ticket for RoomTicket {
    const KIND: &'static str = "room";

    fn encode_bytes(&self) -> Vec<u8> {
        let base = Base {
            bootstrap: self.bootstrap.clone(),
            topic_id: *self.topic_id.as_bytes(),
        };
        // Postcard fails only on types of unknown length; these have none.
        let mut bytes = postcard::to_stdvec(&base).unwrap_or_default();
        if !self.relays.is_empty() || self.room_id.is_some() {
            let extension = Extension {
                relays: self.relays.iter().map(ToString::to_string).collect(),
                addrs: self.addrs.clone(),
                room_id: self.room_id,
            };
            bytes.push(EXTENSION_VERSION);
            bytes.extend(postcard::to_stdvec(&extension).unwrap_or_default());
        }
        bytes
    }

    fn decode_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MAX_BYTES {
            return Err(ParseError::verification_failed("longer than 1 KiB"));
        }
        let (base, rest) = postcard::take_from_bytes::<Base>(bytes)?;
        let mut ticket = Self {
            bootstrap: base.bootstrap,
            topic_id: TopicId::from_bytes(base.topic_id),
            relays: Vec::new(),
            addrs: Vec::new(),
            room_id: None,
        };
        ticket.check().map_err(ParseError::verification_failed)?;
        ticket.decode_extension(rest)?;
        Ok(ticket)
    }
}

impl fmt::Display for RoomTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encode_string())
    }
}

impl FromStr for RoomTicket {
    type Err = Error;

    /// Reads the text form, alone or behind `#room=` of any URL.
    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let text = text.split_once("#room=").map_or(text, |(_, fragment)| {
            fragment.split('&').next().unwrap_or_default()
        });
        if text.len() > MAX_BYTES * 8 / 5 + Self::KIND.len() + 1 {
            return Err(Error::InvalidTicket("longer than 1 KiB".into()));
        }
        Self::decode_string(text).map_err(|error| Error::InvalidTicket(error.to_string()))
    }
}

/// Reads 64 hex digits as a topic.
pub fn parse_topic(text: &str) -> Option<TopicId> {
    let text = text.trim().as_bytes();
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(TopicId::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use proptest::prelude::*;

    use super::*;

    fn peer(seed: u8) -> EndpointId {
        SecretKey::from_bytes(&[seed; 32]).public()
    }

    #[test]
    fn plain_ticket_is_byte_for_byte_that_of_iroh_live() {
        let ticket = RoomTicket::new(TopicId::from_bytes([7; 32]), [peer(1)]);
        let mut expected = vec![1];
        expected.extend(peer(1).as_bytes());
        expected.extend([7; 32]);
        assert_eq!(ticket.encode_bytes(), expected);
    }

    #[test]
    fn relays_and_room_id_survive_the_round_trip() {
        let relay: RelayUrl = "http://127.0.0.1:3340".parse().expect("literal");
        let mut ticket = RoomTicket::generate();
        ticket.add_peer(peer(1), None);
        ticket.add_peer(peer(2), Some(&relay));
        ticket.room_id = Some([9; 32]);
        let read: RoomTicket = format!("https://example.org/x?y#room={ticket}&a=b")
            .parse()
            .expect("a ticket");
        assert_eq!(read, ticket);
        assert_eq!(read.relay_of(&peer(2)), Some(&relay));
        assert_eq!(read.relay_of(&peer(1)), None);
    }

    #[test]
    fn surplus_peers_are_left_out_not_encoded() {
        let ticket = RoomTicket::new(TopicId::from_bytes([0; 32]), (0..20).map(peer));
        assert_eq!(ticket.bootstrap.len(), MAX_BOOTSTRAP);
        assert!(ticket.to_string().parse::<RoomTicket>().is_ok());
    }

    #[test]
    fn bad_tickets_say_why() {
        for (text, why) in [
            ("", "wrong prefix"),
            ("blobaaaa", "wrong prefix"),
            ("room", ""),
            ("room!!!!", "invalid"),
            (&format!("room{}", "a".repeat(4000)), "longer than 1 KiB"),
        ] {
            let error = text.parse::<RoomTicket>().expect_err(text);
            assert_eq!(error.code(), "INVALID_TICKET");
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn environment_names_the_variable_at_fault() {
        let var = |set: &'static str, value: String| {
            move |name: &str| (name == set).then(|| value.clone())
        };
        let ticket = RoomTicket::generate();
        let read = RoomTicket::from_vars(var(ROOM_VAR, ticket.to_string())).expect("a ticket");
        assert_eq!(read, ticket);
        let read = RoomTicket::from_vars(var(TOPIC_VAR, "ab".repeat(32))).expect("a topic");
        assert_eq!(read.topic_id, TopicId::from_bytes([0xab; 32]));
        for (set, value) in [(ROOM_VAR, "x"), (TOPIC_VAR, "abc"), ("OTHER", "")] {
            let error = RoomTicket::from_vars(var(set, value.into())).expect_err(set);
            let name = if set == "OTHER" { ROOM_VAR } else { set };
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = RoomTicket::decode_bytes(&bytes);
        }
    }
}
