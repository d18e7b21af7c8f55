//! How a room with a doorman is named: by its id, by a name, by a ticket.

use iroh::{EndpointId, SecretKey};
use iroh_gossip::TopicId;

use crate::{Error, RoomTicket, ticket::parse_topic};

/// Characters of a room's name, in its composed form.
pub const MAX_NAME_CHARS: usize = 128;
/// From so many base32 characters on, what begins like a ticket is one.
const TICKET_CHARS: usize = 40;
/// Characters of a room id in z-base-32,
const Z32_CHARS: usize = 52;
/// and in hex.
const HEX_CHARS: usize = 64;

/// What a text that names a room comes to: the room's id, and for a name the topic of its gossip too.
///
/// # Errors
///
/// `INVALID_TICKET` and `INVALID_ARGUMENT`, as [`StateRoom::open`](super::StateRoom::open) has them.
pub fn resolve(room: &str) -> Result<(EndpointId, Option<TopicId>), Error> {
    let address = Address::parse(room)?;
    Ok((address.id, address.topic_secret.as_ref().map(topic)))
}

/// The topic of a room's gossip.
pub(super) fn topic(secret: &[u8; 32]) -> TopicId {
    TopicId::from_bytes(blake3::derive_key(
        "iroh-rooms 2026-11 gossip topic",
        secret,
    ))
}

/// Whom to ask for, and what is known of it before it is asked.
#[derive(Clone)]
pub(super) struct Address {
    /// The id of the room: the key that its door is found under.
    pub(super) id: EndpointId,
    /// The secret of that key, where it is known.
    pub(super) key: Option<SecretKey>,
    /// What topic and proofs are derived from, where it is known.
    pub(super) topic_secret: Option<[u8; 32]>,
    /// Relays that a ticket names.
    pub(super) relays: Vec<iroh::RelayUrl>,
    /// Nobody else can know it yet.
    pub(super) is_fresh: bool,
}

impl Address {
    /// Of a new room that nobody else can know yet.
    pub(super) fn fresh() -> Self {
        let key = SecretKey::from_bytes(&rand::random());
        Self {
            id: key.public(),
            key: Some(key),
            topic_secret: Some(rand::random()),
            relays: Vec::new(),
            is_fresh: true,
        }
    }

    /// Of a room that all who know the name can enter, and stand at the door of.
    pub(super) fn of_name(name: &str) -> Result<Self, Error> {
        let name = normal(name);
        if !(1..=MAX_NAME_CHARS).contains(&name.chars().count()) {
            return Err(Error::InvalidArgument(format!(
                "a room's name has 1 to {MAX_NAME_CHARS} characters"
            )));
        }
        let secret = blake3::derive_key("iroh-rooms 2026-11 named room", name.as_bytes());
        let derive = |what: &[u8]| *blake3::keyed_hash(&secret, what).as_bytes();
        let key = SecretKey::from_bytes(&derive(b"room key"));
        Ok(Self {
            id: key.public(),
            key: Some(key),
            topic_secret: Some(derive(b"topic secret")),
            relays: Vec::new(),
            is_fresh: false,
        })
    }

    /// Of the room that a text names: a link or ticket, a room id, or else a name. What looks like one
    /// of the first and is none is refused: a mistyped id never becomes a name.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let base32 = |c: char| c.is_ascii_alphabetic() || ('2'..='7').contains(&c);
        let looks_like_ticket = text
            .strip_prefix("room")
            .is_some_and(|rest| rest.len() >= TICKET_CHARS && rest.chars().all(base32));
        if text.contains("#room=") || looks_like_ticket {
            return Self::of_ticket(&text.parse()?);
        }
        let one_word = text.chars().all(|c| c.is_ascii_alphanumeric());
        let id = match text.len() {
            HEX_CHARS if one_word => {
                parse_topic(text).and_then(|it| EndpointId::from_bytes(it.as_bytes()).ok())
            }
            Z32_CHARS if one_word => EndpointId::from_z32(text).ok(),
            _ => return Self::of_name(text),
        };
        id.map(Self::of_id)
            .ok_or_else(|| Error::InvalidArgument(format!("{text:?} is not a room id")))
    }

    fn of_id(id: EndpointId) -> Self {
        Self {
            id,
            key: None,
            topic_secret: None,
            relays: Vec::new(),
            is_fresh: false,
        }
    }

    fn of_ticket(ticket: &RoomTicket) -> Result<Self, Error> {
        let id = ticket.room_id.ok_or_else(|| {
            Error::InvalidTicket("this is the ticket of a room without a doorman".into())
        })?;
        let id = EndpointId::from_bytes(&id)
            .map_err(|_| Error::InvalidTicket("its room id is not a key".into()))?;
        Ok(Self {
            relays: ticket.relays.clone(),
            ..Self::of_id(id)
        })
    }
}

/// Canonical composition, so that the same name typed on two keyboards is the same name. In a browser
/// the caller has done it: JavaScript has the tables.
fn normal(name: &str) -> String {
    #[cfg(not(target_family = "wasm"))]
    {
        use unicode_normalization::UnicodeNormalization;
        name.nfc().collect()
    }
    #[cfg(target_family = "wasm")]
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> EndpointId {
        Address::parse(text).expect(text).id
    }

    #[test]
    fn ids_names_tickets_and_links_are_told_apart() {
        let key = SecretKey::from_bytes(&[3; 32]).public();
        assert_eq!(id(&key.to_z32()), key);
        assert_eq!(id(&key.to_string()), key);
        let mut ticket = RoomTicket::generate();
        ticket.room_id = Some(*key.as_bytes());
        assert_eq!(id(&ticket.to_string()), key);
        assert_eq!(id(&format!("https://example.org/#room={ticket}")), key);
        assert_eq!(id("room-service"), id(" room-service "));
        assert_ne!(id("room-service"), id("Room-service"));
        assert_eq!(id("caf\u{e9}"), id("cafe\u{301}"), "the same name");
        for (text, code) in [
            (RoomTicket::generate().to_string(), "INVALID_TICKET"),
            (format!("room{}", "a".repeat(60)), "INVALID_TICKET"),
            ("https://example.org/#room=x".into(), "INVALID_TICKET"),
            ("y".repeat(51) + "9", "INVALID_ARGUMENT"),
            ("y".repeat(51) + "l", "INVALID_ARGUMENT"),
            ("02".to_owned() + &"0".repeat(62), "INVALID_ARGUMENT"),
            ("0".repeat(63) + "o", "INVALID_ARGUMENT"),
            (String::new(), "INVALID_ARGUMENT"),
            ("x".repeat(129), "INVALID_ARGUMENT"),
        ] {
            let error = Address::parse(&text).err().expect(&text);
            assert_eq!(error.code(), code, "{text}");
        }
    }

    #[test]
    fn a_name_gives_key_and_secret_and_nothing_in_common_with_another() {
        let (a, b) = (
            Address::of_name("a").unwrap(),
            Address::of_name("b").unwrap(),
        );
        assert_eq!(a.key.as_ref().map(SecretKey::public), Some(a.id));
        assert_ne!(a.id, b.id);
        assert_ne!(a.topic_secret, b.topic_secret);
        assert_ne!(a.topic_secret.unwrap(), a.key.unwrap().to_bytes());
    }
}
