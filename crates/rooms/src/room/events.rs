//! The view of a room, and the cursors that read its events.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use iroh::EndpointId;
use iroh_rooms_moq::{RemoteBroadcast, Session};
use iroh_rooms_sorted::{SortedMap, SortedSet};
use tokio::sync::broadcast;

use super::{Options, lock};
use crate::{
    chat,
    event::{Changed, EndReason, Event, LeftReason, Peer},
};

/// Events waiting for one cursor; the oldest are dropped beyond, and the cursor makes up for
/// who came and went.
const EVENTS_CAP: usize = 256;
/// Departures remembered to tell slow cursors the reason.
const DEPARTED_CAP: usize = 256;

type Subscribed = SortedMap<(EndpointId, String), (RemoteBroadcast, Option<Session>)>;

/// What a room looks like now.
#[derive(Debug)]
pub(super) struct View {
    pub(super) me: Peer,
    pub(super) chat: chat::Log,
    peers: SortedMap<EndpointId, Peer>,
    subscribed: Subscribed,
    departed: VecDeque<(EndpointId, LeftReason)>,
    /// `None` once the room is closed.
    events: Option<broadcast::Sender<Event>>,
}

impl View {
    pub(super) fn new(me: EndpointId, options: &Options) -> Self {
        Self {
            me: Peer {
                id: me,
                participant_id: None,
                display_name: options.display_name.clone(),
                presence: options.presence.clone(),
                broadcasts: Vec::new(),
                joined_at: super::actor::wall_micros() / 1000,
            },
            chat: chat::Log::default(),
            peers: SortedMap::new(),
            subscribed: SortedMap::new(),
            departed: VecDeque::new(),
            events: Some(broadcast::Sender::new(EVENTS_CAP)),
        }
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    pub(super) fn peer(&self, id: &EndpointId) -> Option<&Peer> {
        self.peers.get(id)
    }

    pub(super) fn is_subscribed(&self, peer: EndpointId, name: &str) -> bool {
        self.subscribed.contains_key(&(peer, name.to_owned()))
    }

    /// The names of a peer's broadcasts that are subscribed.
    pub(super) fn subscribed(&self, peer: EndpointId) -> Vec<String> {
        let of_peer = self.subscribed.keys().filter(|(id, _)| *id == peer);
        of_peer.map(|(_, name)| name.clone()).collect()
    }

    /// Takes an event into the view and tells the cursors.
    pub(super) fn emit(&mut self, event: Event) {
        match &event {
            Event::PeerJoined { peer } | Event::PeerUpdated { peer, .. } => {
                self.peers.insert(peer.id, peer.clone());
            }
            Event::PeerLeft { peer, reason } => {
                self.peers.remove(&peer.id);
                if self.departed.len() >= DEPARTED_CAP {
                    self.departed.pop_front();
                }
                self.departed.push_back((peer.id, *reason));
            }
            Event::BroadcastSubscribed {
                peer,
                name,
                broadcast,
                session,
            } => {
                let reading = (broadcast.clone(), session.clone());
                self.subscribed.insert((peer.id, name.clone()), reading);
            }
            Event::BroadcastEnded { peer, name, .. } => {
                self.subscribed.remove(&(peer.id, name.clone()));
            }
            _ => {}
        }
        if let Some(events) = &self.events {
            // No cursor listens: nobody misses it.
            let _ = events.send(event);
        }
    }

    /// Ends all cursors once they have read what is left.
    pub(super) fn close(&mut self) {
        self.events = None;
    }
}

/// A cursor of a room's events.
///
/// It begins with those who are present. If it is too slow, it gets [`Event::Lagged`] and then
/// what brings it up to date: every joined keeps exactly one left.
#[derive(Debug)]
pub struct RoomEvents {
    view: Arc<Mutex<View>>,
    receiver: Option<broadcast::Receiver<Event>>,
    /// Delivered before the receiver is read on.
    queue: VecDeque<Event>,
    /// What the reader of this cursor knows.
    known: SortedMap<EndpointId, Peer>,
    known_broadcasts: SortedSet<(EndpointId, String)>,
}

impl RoomEvents {
    pub(super) fn new(view: Arc<Mutex<View>>) -> Self {
        let mut events = Self {
            view,
            receiver: None,
            queue: VecDeque::new(),
            known: SortedMap::new(),
            known_broadcasts: SortedSet::new(),
        };
        events.catch_up();
        events
    }

    /// The next event; `None` when the room is closed. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        use broadcast::error::RecvError;
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(self.note(event));
            }
            match self.receiver.as_mut()?.recv().await {
                Ok(event) => return Some(self.note(event)),
                Err(RecvError::Lagged(missed)) => self.lag(missed),
                Err(RecvError::Closed) => self.receiver = None,
            }
        }
    }

    /// The next event, if there is one.
    pub fn try_recv(&mut self) -> Option<Event> {
        use broadcast::error::TryRecvError;
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(self.note(event));
            }
            match self.receiver.as_mut()?.try_recv() {
                Ok(event) => return Some(self.note(event)),
                Err(TryRecvError::Lagged(missed)) => self.lag(missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    fn note(&mut self, event: Event) -> Event {
        match &event {
            Event::PeerJoined { peer } | Event::PeerUpdated { peer, .. } => {
                self.known.insert(peer.id, peer.clone());
            }
            Event::PeerLeft { peer, .. } => {
                self.known.remove(&peer.id);
            }
            Event::BroadcastSubscribed { peer, name, .. } => {
                self.known_broadcasts.insert((peer.id, name.clone()));
            }
            Event::BroadcastEnded { peer, name, .. } => {
                self.known_broadcasts.remove(&(peer.id, name.clone()));
            }
            _ => {}
        }
        event
    }

    fn lag(&mut self, missed: u64) {
        // What still waits in the receiver is skipped as well: the view has it.
        let waiting = self.receiver.as_ref().map_or(0, broadcast::Receiver::len) as u64;
        self.queue.push_back(Event::Lagged {
            missed: missed + waiting,
        });
        self.catch_up();
    }

    /// Subscribes anew, and queues what leads from what is known to what is.
    fn catch_up(&mut self) {
        let view = lock(&self.view);
        self.receiver = view.events.as_ref().map(broadcast::Sender::subscribe);
        let mut reading = self.known_broadcasts.clone();
        for (id, peer) in &self.known {
            // Someone who left and came back meanwhile has another time of joining.
            let now = view
                .peers
                .get(id)
                .filter(|now| now.joined_at == peer.joined_at);
            for (_, name) in self
                .known_broadcasts
                .iter()
                .filter(|(owner, _)| owner == id)
            {
                if now.is_none() || !view.is_subscribed(*id, name) {
                    let reason = if now.is_some() {
                        EndReason::Unpublished
                    } else {
                        EndReason::PeerLeft
                    };
                    let peer = now.unwrap_or(peer).clone();
                    self.queue.push_back(Event::BroadcastEnded {
                        peer,
                        name: name.clone(),
                        reason,
                    });
                    reading.remove(&(*id, name.clone()));
                }
            }
            if now.is_none() {
                let departed = view.departed.iter().rev().find(|(gone, _)| gone == id);
                let reason = departed.map_or(LeftReason::Timeout, |(_, reason)| *reason);
                self.queue.push_back(Event::PeerLeft {
                    peer: peer.clone(),
                    reason,
                });
            }
        }
        for (id, peer) in &view.peers {
            let known = self
                .known
                .get(id)
                .filter(|known| known.joined_at == peer.joined_at);
            match known {
                None => self
                    .queue
                    .push_back(Event::PeerJoined { peer: peer.clone() }),
                Some(known) => {
                    let changed = differences(known, peer);
                    if !changed.is_empty() {
                        self.queue.push_back(Event::PeerUpdated {
                            peer: peer.clone(),
                            changed,
                        });
                    }
                }
            }
            let names: Vec<String> = peer
                .broadcasts
                .iter()
                .filter(|name| known.is_none_or(|known| !known.broadcasts.contains(name)))
                .cloned()
                .collect();
            if !names.is_empty() {
                self.queue.push_back(Event::BroadcastAnnounced {
                    peer: peer.clone(),
                    names,
                });
            }
        }
        for ((id, name), (broadcast, session)) in &view.subscribed {
            let Some(peer) = view.peers.get(id) else {
                continue;
            };
            if !reading.contains(&(*id, name.clone())) {
                self.queue.push_back(Event::BroadcastSubscribed {
                    peer: peer.clone(),
                    name: name.clone(),
                    broadcast: broadcast.clone(),
                    session: session.clone(),
                });
            }
        }
    }
}

fn differences(before: &Peer, after: &Peer) -> Vec<Changed> {
    [
        (
            before.participant_id != after.participant_id,
            Changed::ParticipantId,
        ),
        (
            before.display_name != after.display_name,
            Changed::DisplayName,
        ),
        (before.presence != after.presence, Changed::Presence),
        (before.broadcasts != after.broadcasts, Changed::Broadcasts),
    ]
    .into_iter()
    .filter_map(|(differs, field)| differs.then_some(field))
    .collect()
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    fn peer(seed: u8, joined_at: u64) -> Peer {
        Peer {
            id: SecretKey::from_bytes(&[seed; 32]).public(),
            participant_id: None,
            display_name: None,
            presence: None,
            broadcasts: Vec::new(),
            joined_at,
        }
    }

    fn view() -> Arc<Mutex<View>> {
        let me = SecretKey::from_bytes(&[99; 32]).public();
        Arc::new(Mutex::new(View::new(me, &Options::default())))
    }

    fn drain(events: &mut RoomEvents) -> Vec<Event> {
        std::iter::from_fn(|| events.try_recv()).collect()
    }

    #[test]
    fn a_cursor_begins_with_those_present_and_misses_nothing() {
        let view = view();
        lock(&view).emit(Event::PeerJoined { peer: peer(1, 1) });
        let mut events = RoomEvents::new(view.clone());
        lock(&view).emit(Event::PeerJoined { peer: peer(2, 2) });
        let seen = drain(&mut events);
        assert!(
            matches!(&seen[..], [Event::PeerJoined { peer: a }, Event::PeerJoined { peer: b }]
            if a.joined_at == 1 && b.joined_at == 2)
        );
    }

    #[test]
    fn a_slow_cursor_is_told_and_brought_up_to_date() {
        let view = view();
        let reason = LeftReason::Left;
        lock(&view).emit(Event::PeerJoined { peer: peer(1, 1) });
        lock(&view).emit(Event::PeerJoined { peer: peer(2, 1) });
        let mut events = RoomEvents::new(view.clone());
        assert_eq!(drain(&mut events).len(), 2);
        lock(&view).emit(Event::PeerLeft {
            peer: peer(1, 1),
            reason,
        });
        lock(&view).emit(Event::PeerLeft {
            peer: peer(2, 1),
            reason,
        });
        lock(&view).emit(Event::PeerJoined { peer: peer(2, 5) });
        lock(&view).emit(Event::PeerJoined { peer: peer(3, 5) });
        for _ in 0..EVENTS_CAP {
            lock(&view).emit(Event::Error {
                code: "X".into(),
                message: String::new(),
            });
        }
        let seen = drain(&mut events);
        let Some((Event::Lagged { missed }, rest)) = seen.split_first() else {
            panic!("{seen:?}")
        };
        assert_eq!(*missed, EVENTS_CAP as u64 + 4);
        let left = rest.iter().filter(|e| {
            matches!(
                e,
                Event::PeerLeft {
                    reason: LeftReason::Left,
                    ..
                }
            )
        });
        let joined = rest
            .iter()
            .filter(|e| matches!(e, Event::PeerJoined { peer } if peer.joined_at == 5));
        assert_eq!((left.count(), joined.count(), rest.len()), (2, 2, 4));
    }

    #[tokio::test]
    async fn a_closed_room_ends_its_cursors_after_what_is_left() {
        let view = view();
        let mut events = RoomEvents::new(view.clone());
        lock(&view).emit(Event::PeerJoined { peer: peer(1, 1) });
        lock(&view).close();
        assert!(events.recv().await.is_some());
        assert!(events.recv().await.is_none());
        assert!(
            RoomEvents::new(view).recv().await.is_some(),
            "who was there"
        );
    }
}
