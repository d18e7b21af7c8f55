//! Chat: one track in a broadcast, one group of one frame for each message.
//!
//! Nothing in a frame says who wrote it: the sender is the peer whose session carries the track.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use bytes::Bytes;
use iroh::EndpointId;
use iroh_rooms_moq::{Broadcast, Frame, TrackConfig, TrackOptions, TrackWriter};
use iroh_rooms_sorted::{SortedMap, SortedSet};

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
/// Peers of whom messages are remembered; who was silent longest is forgotten beyond, and what it
/// repeats would be taken for new.
const MAX_SEEN_PEERS: usize = 1024;
/// How far a writer's clock may be ahead of this one's; what is later is refused. Without it a
/// peer could date its messages so that nobody else's ever stand in the history.
const MAX_AHEAD: Duration = Duration::from_secs(600);

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

/// The text of a chat track's frame; `None` if that is no message.
pub fn read(frame: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(frame).ok()?;
    check_text(text).is_ok().then_some(text)
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
    seen: SortedMap<EndpointId, Seen>,
    accepted: u64,
}

/// What one peer has said.
#[derive(Debug, Default)]
struct Seen {
    /// By timestamp and group, or by group and text where no timestamp travels.
    messages: SortedSet<(u64, u64)>,
    /// The number of its last message among all.
    last: u64,
}

impl Log {
    /// Takes a frame of a peer's chat track; `now` is the clock in microseconds since 1970. `None`
    /// when it is a repeat; `Err` when it is not a message. One that is not `timed`, since its
    /// version of MoQ carries no timestamps, was written now.
    pub(crate) fn accept(
        &mut self,
        peer: &Peer,
        frame: &Frame,
        timed: bool,
        now: u64,
    ) -> Result<Option<ChatMessage>, ()> {
        if frame.index != 0 {
            return Err(());
        }
        let text = read(&frame.data).ok_or(())?;
        let (micros, once) = if timed {
            let micros = u64::try_from(frame.timestamp.as_micros()).map_err(|_| ())?;
            (micros, (micros, frame.group))
        } else {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            (now, (frame.group, hasher.finish()))
        };
        if Duration::from_micros(micros.saturating_sub(now)) > MAX_AHEAD {
            return Err(());
        }
        if self.seen.len() >= MAX_SEEN_PEERS && !self.seen.contains_key(&peer.id) {
            let silent = self.seen.iter().min_by_key(|(_, seen)| seen.last);
            if let Some(silent) = silent.map(|(peer, _)| *peer) {
                self.seen.remove(&silent);
            }
        }
        let seen = self.seen.entry(peer.id).or_default();
        if !seen.messages.insert(once) {
            return Ok(None);
        }
        if seen.messages.len() > MAX_SEEN {
            seen.messages.pop_first();
        }
        self.accepted += 1;
        seen.last = self.accepted;
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

    const NOW: u64 = 10_000_000;

    fn peer(seed: u8) -> Peer {
        numbered(seed.into())
    }

    fn numbered(number: u32) -> Peer {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        Peer {
            id: SecretKey::from_bytes(&seed).public(),
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
        assert!(
            log.accept(&peer(1), &hello, true, NOW)
                .expect("valid")
                .is_some()
        );
        assert!(
            log.accept(&peer(1), &hello, true, NOW)
                .expect("valid")
                .is_none(),
            "after a reconnect"
        );
        assert!(
            log.accept(&peer(2), &hello, true, NOW)
                .expect("valid")
                .is_some(),
            "another peer"
        );
        assert!(
            log.accept(&peer(1), &frame(b"again", 9_000, 0, 0), true, NOW)
                .expect("valid")
                .is_some()
        );
        assert_eq!(log.history().len(), 3);
    }

    #[test]
    fn without_timestamps_a_message_counts_once_by_group_and_text() {
        let mut log = Log::default();
        let mut say = |text: &[u8], group, arrived| {
            let frame = frame(text, arrived, group, 0);
            log.accept(&peer(1), &frame, false, arrived).expect("valid")
        };
        let hello = say(b"hello", 0, NOW).expect("new");
        assert_eq!(hello.timestamp, NOW / 1000, "written when it came");
        assert!(say(b"hello", 1, NOW + 5).is_some(), "said twice");
        for (text, group) in [(b"hello", 0), (b"hello", 1)] {
            assert!(say(text, group, NOW + 9).is_none(), "after a reconnect");
        }
        assert!(say(b"after a new start", 0, NOW + 20).is_some());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut log = Log::default();
        for bad in [
            frame(b"", 1, 0, 0),
            frame(&[0xff], 1, 1, 0),
            frame(&[b'x'; MAX_MESSAGE + 1], 1, 2, 0),
            frame(b"second frame", 1, 3, 1),
            frame(b"from the future", NOW + 600_000_001, 5, 0),
            frame(b"from the end of time", u64::MAX, 6, 0),
        ] {
            assert!(log.accept(&peer(1), &bad, true, NOW).is_err());
        }
        assert!(
            log.accept(&peer(1), &frame(&[b'x'; MAX_MESSAGE], 1, 4, 0), true, NOW)
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
            let _ = log.accept(&peer(1), &frame(b"x", n * 1000, n, 0), true, NOW);
        }
        let history = log.history();
        assert_eq!(history.len(), MAX_HISTORY);
        assert!(history.is_sorted_by_key(|message| message.timestamp));
    }

    #[test]
    fn what_is_remembered_of_peers_is_bounded() {
        let mut log = Log::default();
        // Later than the rest, of which only so many are remembered.
        let hello = frame(b"hello", NOW, 0, 0);
        for number in 0..MAX_SEEN_PEERS as u32 + 10 {
            // The first one goes on talking, and is not forgotten for those who come and go.
            let again = frame(b"again", number.into(), u64::from(number) + 1, 0);
            assert!(
                log.accept(&numbered(0), &again, true, NOW)
                    .expect("valid")
                    .is_some()
            );
            let _ = log.accept(&numbered(number), &hello, true, NOW);
        }
        assert_eq!(log.seen.len(), MAX_SEEN_PEERS);
        assert!(
            log.accept(&numbered(0), &hello, true, NOW)
                .expect("valid")
                .is_none()
        );
    }
}
