//! Chat: one track in a broadcast, one group of one frame for each message.
//!
//! Nothing in a frame says who wrote it: the sender is the peer whose session carries the track.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use iroh::EndpointId;
use iroh_rooms_moq::{Broadcast, Frame, TrackConfig, TrackOptions, TrackWriter};

use crate::{
    Error,
    event::{ChatMessage, Peer},
    presence::check_size,
};

/// The broadcast a room publishes for its chat when the application names none.
pub const BROADCAST: &str = "chat";
/// The track of the messages.
pub const TRACK: &str = "chat";
/// Bytes of a message.
pub const MAX_MESSAGE: usize = 4096;
/// How long a message is kept for those who come later.
pub const HISTORY: Duration = Duration::from_secs(300);
/// Messages kept here, own ones and others'.
pub const MAX_HISTORY: usize = 1000;
const PRIORITY: u8 = 10;
/// Messages of one peer remembered to tell repeats.
const MAX_SEEN: usize = 1024;

/// The track in which a broadcast says what is in it, as hang has it.
pub(crate) const CATALOG_TRACK: &str = "catalog.json";
const CATALOG: &str = r#"{"chat":{"message":{"name":"chat","priority":10}}}"#;

/// The options with which a chat is read: all that is kept, in order.
pub fn track_options() -> TrackOptions {
    TrackOptions {
        priority: PRIORITY,
        max_age: HISTORY,
        start: Some(0),
        ordered: true,
    }
}

/// Writes a chat track into a broadcast.
#[derive(Debug)]
pub struct ChatPublisher {
    track: TrackWriter,
    /// Held open for late readers.
    _catalog: Option<TrackWriter>,
    last_micros: u64,
}

impl ChatPublisher {
    /// Adds the chat track to an application's broadcast, and a catalog that names it unless the
    /// broadcast has one. One that it has must say `"chat": {"message": {"name": "chat"}}`, as
    /// hang's does: peers find the chat by it.
    pub fn new(broadcast: &Broadcast) -> Result<Self, Error> {
        let config = TrackConfig {
            priority: PRIORITY,
            max_age: HISTORY,
        };
        let track = broadcast.track(TRACK, config)?;
        let mut catalog = broadcast.track(CATALOG_TRACK, config).ok();
        if let Some(catalog) = &mut catalog {
            catalog.write(Bytes::from_static(CATALOG.as_bytes()), None)?;
        }
        Ok(Self {
            track,
            _catalog: catalog,
            last_micros: 0,
        })
    }

    /// Writes a message. `micros` is the clock since 1970; timestamps are made to increase.
    pub(crate) fn send(
        &mut self,
        me: &Peer,
        text: &str,
        micros: u64,
    ) -> Result<ChatMessage, Error> {
        let micros = micros.max(self.last_micros + 1);
        let frame = Bytes::copy_from_slice(text.as_bytes());
        let group = self
            .track
            .write(frame, Some(Duration::from_micros(micros)))?;
        self.last_micros = micros;
        Ok(message(me, text.to_owned(), micros, group))
    }
}

/// The track that a catalog names for the chat.
pub(crate) fn named_in_catalog(catalog: &[u8]) -> Option<String> {
    let catalog: serde_json::Value = serde_json::from_slice(catalog).ok()?;
    let name = catalog.get("chat")?.get("message")?.get("name")?.as_str()?;
    Some(name.to_owned())
}

/// Refuses a text that no peer would accept.
pub fn check_text(text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::InvalidArgument(
            "a chat message needs at least one character".into(),
        ));
    }
    check_size("the chat message", text.len(), MAX_MESSAGE)
}

fn message(peer: &Peer, text: String, micros: u64, group: u64) -> ChatMessage {
    ChatMessage {
        id: format!("{}-{micros}-{group}", peer.id),
        peer: peer.clone(),
        text,
        timestamp: micros / 1000,
    }
}

/// What was said: the last [`MAX_HISTORY`] messages, by time.
#[derive(Debug, Default)]
pub(crate) struct Log {
    messages: VecDeque<ChatMessage>,
    seen: std::collections::BTreeMap<EndpointId, BTreeSet<(u64, u64)>>,
}

impl Log {
    /// Takes a frame of a peer's chat track. `None` when it is a repeat; `Err` when it is not a
    /// message.
    pub(crate) fn accept(&mut self, peer: &Peer, frame: &Frame) -> Result<Option<ChatMessage>, ()> {
        if frame.index != 0 {
            return Err(());
        }
        let text = std::str::from_utf8(&frame.data).map_err(|_| ())?;
        check_text(text).map_err(|_| ())?;
        let micros = u64::try_from(frame.timestamp.as_micros()).map_err(|_| ())?;
        let seen = self.seen.entry(peer.id).or_default();
        if !seen.insert((micros, frame.group)) {
            return Ok(None);
        }
        if seen.len() > MAX_SEEN {
            seen.pop_first();
        }
        let message = message(peer, text.to_owned(), micros, frame.group);
        self.insert(message.clone());
        Ok(Some(message))
    }

    /// Keeps a message in its place by time; those of one sender stay in their order.
    pub(crate) fn insert(&mut self, message: ChatMessage) {
        let at = self
            .messages
            .partition_point(|kept| kept.timestamp <= message.timestamp);
        self.messages.insert(at, message);
        if self.messages.len() > MAX_HISTORY {
            self.messages.pop_front();
        }
    }

    /// What is kept, oldest first.
    pub(crate) fn history(&self) -> Vec<ChatMessage> {
        self.messages.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    fn peer(seed: u8) -> Peer {
        Peer {
            id: SecretKey::from_bytes(&[seed; 32]).public(),
            participant_id: None,
            display_name: None,
            presence: None,
            broadcasts: Vec::new(),
            joined_at: 0,
        }
    }

    fn frame(text: &[u8], micros: u64, group: u64, index: u64) -> Frame {
        let timestamp = Duration::from_micros(micros);
        Frame {
            data: Bytes::copy_from_slice(text),
            timestamp,
            group,
            index,
        }
    }

    #[test]
    fn a_message_counts_once_and_a_new_instance_anew() {
        let mut log = Log::default();
        let hello = frame(b"hello", 5_000, 0, 0);
        assert!(log.accept(&peer(1), &hello).expect("valid").is_some());
        assert!(
            log.accept(&peer(1), &hello).expect("valid").is_none(),
            "after a reconnect"
        );
        assert!(
            log.accept(&peer(2), &hello).expect("valid").is_some(),
            "another peer"
        );
        assert!(
            log.accept(&peer(1), &frame(b"again", 9_000, 0, 0))
                .expect("valid")
                .is_some()
        );
        assert_eq!(log.history().len(), 3);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut log = Log::default();
        for bad in [
            frame(b"", 1, 0, 0),
            frame(&[0xff], 1, 1, 0),
            frame(&[b'x'; MAX_MESSAGE + 1], 1, 2, 0),
            frame(b"second frame", 1, 3, 1),
        ] {
            assert!(log.accept(&peer(1), &bad).is_err());
        }
        assert!(
            log.accept(&peer(1), &frame(&[b'x'; MAX_MESSAGE], 1, 4, 0))
                .is_ok()
        );
        assert_eq!(
            check_text(&"x".repeat(MAX_MESSAGE + 1))
                .expect_err("long")
                .code(),
            "TOO_LARGE"
        );
    }

    #[test]
    fn history_is_by_time_and_bounded() {
        let mut log = Log::default();
        for n in (0..MAX_HISTORY as u64 + 10).rev() {
            let _ = log.accept(&peer(1), &frame(b"x", n * 1000, n, 0));
        }
        let history = log.history();
        assert_eq!(history.len(), MAX_HISTORY);
        assert!(history.is_sorted_by_key(|message| message.timestamp));
    }
}
