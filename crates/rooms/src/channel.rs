//! Channels: small JSON messages between those who opened a channel of the same name.
//!
//! Each opener publishes an internal broadcast with a track for all and one for each peer it
//! wrote to alone. Messages are kept for [`REMEMBERED`], so that the first ones are not lost on
//! those who are still subscribing; there is no other history.

use std::time::Duration;

use bytes::Bytes;
use iroh::EndpointId;
use iroh_rooms_moq::{Broadcast, TrackConfig, TrackOptions, TrackWriter};
use iroh_rooms_sorted::SortedMap;
use tokio::sync::broadcast;

use crate::{
    Error, RoomHandle,
    presence::{check_name, check_size},
};

/// Internal broadcasts of channels start so.
pub(crate) const PREFIX: &str = "~";
/// Bytes of a channel's name.
pub const MAX_NAME: usize = 48;
/// Bytes of a message, as JSON.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Bytes of a message sent as a datagram.
pub const MAX_DATAGRAM: usize = 1100;
/// Channels that a room may have open.
pub const MAX_CHANNELS: usize = 32;
/// How long a message is kept for those who are just subscribing.
pub const REMEMBERED: Duration = Duration::from_secs(10);
/// Messages waiting for one reader; the oldest are dropped beyond.
pub(crate) const MESSAGES_CAP: usize = 256;
const PRIORITY: u8 = 20;
const TRACK_ALL: &str = "all";

/// A message of a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who sent it.
    pub from: EndpointId,
    /// The message: JSON text, checked.
    pub json: String,
}

/// A reader of a channel, and the way to write into it.
#[derive(Debug)]
pub struct Channel {
    pub(crate) name: String,
    pub(crate) room: RoomHandle,
    pub(crate) messages: broadcast::Receiver<Message>,
}

impl Channel {
    /// The next message of another peer; `None` when the room is closed. A slow reader loses
    /// the oldest.
    pub async fn recv(&mut self) -> Option<Message> {
        loop {
            match self.messages.recv().await {
                Ok(message) => return Some(message),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Sends to all, or to one peer alone; as a datagram it may be lost.
    ///
    /// A message to one peer travels over its session only, but any member of the room could ask
    /// for it: it is addressed, not secret.
    pub async fn send(
        &self,
        value: &serde_json::Value,
        to: Option<EndpointId>,
        datagram: bool,
    ) -> Result<(), Error> {
        self.room
            .channel_send(&self.name, value.to_string(), to, datagram)
            .await
    }
}

/// The name of the internal broadcast of a channel.
pub(crate) fn broadcast_name(channel: &str) -> Result<String, Error> {
    check_name("the channel's name", channel, MAX_NAME)?;
    Ok(format!("{PREFIX}{channel}"))
}

/// The tracks that a peer reads.
pub(crate) fn tracks_for(me: &EndpointId) -> [String; 2] {
    [TRACK_ALL.to_owned(), me.to_string()]
}

/// The options with which they are read.
pub(crate) fn track_options() -> TrackOptions {
    TrackOptions {
        priority: PRIORITY,
        max_age: REMEMBERED,
        start: Some(0),
        ordered: true,
    }
}

/// Reads a frame as a message, if it is one.
pub(crate) fn parse(from: EndpointId, data: &[u8]) -> Option<Message> {
    if data.len() > MAX_MESSAGE {
        return None;
    }
    let json = std::str::from_utf8(data).ok()?;
    serde_json::from_str::<serde::de::IgnoredAny>(json).ok()?;
    Some(Message {
        from,
        json: json.to_owned(),
    })
}

/// The writing half of an open channel.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) broadcast: Broadcast,
    all: TrackWriter,
    direct: SortedMap<EndpointId, TrackWriter>,
    last: Duration,
}

impl Writer {
    pub(crate) fn new() -> Result<Self, Error> {
        let broadcast = Broadcast::new();
        let all = broadcast.track(TRACK_ALL, config())?;
        Ok(Self {
            broadcast,
            all,
            direct: SortedMap::new(),
            last: Duration::ZERO,
        })
    }

    /// Makes the track of a peer before it asks for it.
    pub(crate) fn add_peer(&mut self, peer: EndpointId) -> Result<&mut TrackWriter, Error> {
        let broadcast = &mut self.broadcast;
        let track = || broadcast.track(&peer.to_string(), config());
        Ok(self.direct.entry(peer).or_try_insert_with(track)?)
    }

    pub(crate) fn remove_peer(&mut self, peer: &EndpointId) {
        if let Some(mut track) = self.direct.remove(peer) {
            track.finish();
        }
    }

    pub(crate) fn send(
        &mut self,
        json: String,
        to: Option<EndpointId>,
        datagram: bool,
        now: Duration,
    ) -> Result<(), Error> {
        let limit = if datagram { MAX_DATAGRAM } else { MAX_MESSAGE };
        check_size("the channel message", json.len(), limit)?;
        let track = match to {
            None => &mut self.all,
            Some(peer) => self
                .direct
                .get_mut(&peer)
                .ok_or_else(|| Error::InvalidArgument(format!("{peer} is not in the room")))?,
        };
        let now = now.max(self.last + Duration::from_micros(1));
        self.last = now;
        let data = Bytes::from(json);
        if datagram {
            track.datagram(data, Some(now))?;
        } else {
            track.write(data, Some(now))?;
        }
        Ok(())
    }
}

fn config() -> TrackConfig {
    TrackConfig {
        priority: PRIORITY,
        max_age: REMEMBERED,
    }
}
