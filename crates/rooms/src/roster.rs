//! Who is in the room: a state machine without clock or network.
//!
//! It is fed with presence values, signs of life and the state of the own relay, and says who
//! joined, changed and left. A peer passes through three steps:
//!
//! 1. Its first valid value makes it present: [`Output::Joined`].
//! 2. Newer values change it ([`Output::Updated`], [`Output::Announced`]) and keep it alive, as
//!    does anything received over its session ([`Input::Heard`]).
//! 3. Its goodbye, or silence for longer than the window, ends it: [`Output::Left`]. Only a
//!    strictly newer value brings it back, as a new join.
//!
//! Silence is measured on a clock that stops while the own relay is away and for [`GRACE`]
//! after it: an own outage makes nobody else leave.

use std::time::Duration;

use iroh::EndpointId;
use iroh_rooms_sorted::{SortedMap, SortedSet};

use crate::{
    event::{Changed, LeftReason, Peer},
    presence::RoomState,
};

/// A peer with a session is gone after this silence.
pub const SILENCE: Duration = Duration::from_secs(9);
/// A peer that never had a session is gone when its presence is not renewed for this long.
pub const PRESENCE_EXPIRY: Duration = Duration::from_secs(30);
/// The same of a peer of which others told, and never itself: two of its heartbeats. It may have
/// been gone when they did.
pub const HEARSAY_EXPIRY: Duration = Duration::from_secs(20);
/// The same of a peer of iroh-live, which writes its presence only when it changes.
pub const FOREIGN_EXPIRY: Duration = Duration::from_secs(120);
/// How long the clock of silence stands still after the own relay is back.
pub const GRACE: Duration = Duration::from_secs(20);
/// The clock of silence goes on by at most this much at a time, and is looked at twice a second: who
/// was suspended has heard nothing meanwhile, and nobody has left for that.
const STEP_MAX: Duration = Duration::from_secs(2);
/// Peers in a room. A surplus peer is refused and counted.
pub const MAX_PEERS: usize = 1024;

/// What the roster learns.
#[derive(Debug)]
pub enum Input<'a> {
    /// A valid presence value of a peer, strictly newer than the last.
    Presence {
        /// Whose.
        peer: EndpointId,
        /// The value.
        state: &'a RoomState,
        /// Whether another peer passed it on.
        repeated: bool,
        /// The machine's clock, milliseconds since 1970, for [`Peer::joined_at`].
        wall_ms: u64,
    },
    /// The session with a peer stands, or carried something.
    Heard(EndpointId),
    /// A broadcast of a peer is announced on its session.
    Live(EndpointId, &'a str),
    /// A broadcast is no longer announced.
    Unlive(EndpointId, &'a str),
    /// A peer closed its session with a goodbye, or was shown out.
    Gone(EndpointId, LeftReason),
    /// The own relay connection is up, or not.
    Relay(bool),
    /// Time passed.
    Tick,
}

/// What the roster concludes.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A peer is here.
    Joined(Peer),
    /// A peer changed.
    Updated(Peer, Vec<Changed>),
    /// A peer has new broadcasts.
    Announced(Peer, Vec<String>),
    /// A peer is gone.
    Left(Peer, LeftReason),
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    /// Broadcasts by presence, and those announced on the session.
    listed: SortedSet<String>,
    live: SortedSet<String>,
    had_session: bool,
    /// The window of silence without a session.
    expiry: Duration,
    /// On the clock of silence.
    heard: Duration,
}

/// The peers of a room. Time goes in as the duration since any fixed instant.
#[derive(Debug, Default)]
pub struct Roster {
    peers: SortedMap<EndpointId, Entry>,
    clock: SilenceClock,
    refused: u64,
}

impl Roster {
    /// Takes one input and returns what follows from it, in order.
    pub fn handle(&mut self, input: Input<'_>, now: Duration) -> Vec<Output> {
        let clock = self.clock.advance(now);
        match input {
            Input::Presence {
                peer,
                state,
                repeated,
                wall_ms,
            } => self.presence(peer, state, repeated, wall_ms, clock),
            Input::Heard(peer) => {
                if let Some(entry) = self.peers.get_mut(&peer) {
                    entry.heard = clock;
                    entry.had_session = true;
                }
                Vec::new()
            }
            Input::Live(peer, name) => self.change_live(peer, |live| live.insert(name.to_owned())),
            Input::Unlive(peer, name) => self.change_live(peer, |live| live.remove(name)),
            Input::Gone(peer, reason) => self.remove(peer, reason).into_iter().collect(),
            Input::Relay(up) => {
                self.clock.set_running(up, now);
                Vec::new()
            }
            Input::Tick => self.expire(clock),
        }
    }

    /// A peer by id.
    pub fn get(&self, peer: &EndpointId) -> Option<&Peer> {
        self.peers.get(peer).map(|entry| &entry.peer)
    }

    /// Everyone, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().map(|entry| &entry.peer)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// How long a peer has been silent.
    pub fn silent_for(&self, peer: &EndpointId, now: Duration) -> Option<Duration> {
        let entry = self.peers.get(peer)?;
        Some(self.clock.now(now).saturating_sub(entry.heard))
    }

    /// Peers refused because the room is full.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn presence(
        &mut self,
        id: EndpointId,
        state: &RoomState,
        repeated: bool,
        wall_ms: u64,
        clock: Duration,
    ) -> Vec<Output> {
        if state.is_leaving() {
            return self.remove(id, LeftReason::Left).into_iter().collect();
        }
        let expiry = if state.is_foreign() {
            FOREIGN_EXPIRY
        } else if repeated {
            HEARSAY_EXPIRY
        } else {
            PRESENCE_EXPIRY
        };
        let listed: SortedSet<String> = state
            .broadcasts
            .iter()
            .filter(|name| !is_internal(name))
            .cloned()
            .collect();
        let Some(entry) = self.peers.get_mut(&id) else {
            if self.peers.len() >= MAX_PEERS {
                self.refused += 1;
                return Vec::new();
            }
            let names: Vec<String> = listed.iter().cloned().collect();
            let peer = Peer {
                id,
                participant_id: state.participant_id.clone(),
                display_name: state.display_name.clone(),
                presence: state.presence(),
                broadcasts: names.clone(),
                joined_at: wall_ms,
            };
            let entry = Entry {
                peer: peer.clone(),
                listed,
                live: SortedSet::new(),
                had_session: false,
                expiry,
                heard: clock,
            };
            self.peers.insert(id, entry);
            let mut outputs = vec![Output::Joined(peer.clone())];
            if !names.is_empty() {
                outputs.push(Output::Announced(peer, names));
            }
            return outputs;
        };
        entry.heard = clock;
        // Who was heard itself before stays so.
        entry.expiry = expiry.max(entry.expiry.min(PRESENCE_EXPIRY));
        entry.listed = listed;
        let mut changed = Vec::new();
        let mut set = |is_new: bool, field| {
            if is_new {
                changed.push(field);
            }
        };
        let presence = state.presence();
        set(
            entry.peer.participant_id != state.participant_id,
            Changed::ParticipantId,
        );
        set(
            entry.peer.display_name != state.display_name,
            Changed::DisplayName,
        );
        set(entry.peer.presence != presence, Changed::Presence);
        entry.peer.participant_id = state.participant_id.clone();
        entry.peer.display_name = state.display_name.clone();
        entry.peer.presence = presence;
        entry.settle(changed)
    }

    fn change_live(
        &mut self,
        peer: EndpointId,
        change: impl FnOnce(&mut SortedSet<String>) -> bool,
    ) -> Vec<Output> {
        match self.peers.get_mut(&peer) {
            Some(entry) => {
                if change(&mut entry.live) {
                    entry.settle(Vec::new())
                } else {
                    Vec::new()
                }
            }
            None => Vec::new(),
        }
    }

    fn remove(&mut self, peer: EndpointId, reason: LeftReason) -> Option<Output> {
        self.peers
            .remove(&peer)
            .map(|entry| Output::Left(entry.peer, reason))
    }

    fn expire(&mut self, clock: Duration) -> Vec<Output> {
        let silent: Vec<EndpointId> = self
            .peers
            .iter()
            .filter(|(_, entry)| {
                let window = if entry.had_session {
                    SILENCE
                } else {
                    entry.expiry
                };
                clock.saturating_sub(entry.heard) > window
            })
            .map(|(id, _)| *id)
            .collect();
        silent
            .into_iter()
            .filter_map(|peer| self.remove(peer, LeftReason::Timeout))
            .collect()
    }
}

impl Entry {
    /// Derives the peer's broadcasts anew and reports what changed.
    fn settle(&mut self, mut changed: Vec<Changed>) -> Vec<Output> {
        let names: Vec<String> = self.listed.union(&self.live).into_iter().collect();
        let new: Vec<String> = names
            .iter()
            .filter(|name| !self.peer.broadcasts.contains(name))
            .cloned()
            .collect();
        if names != self.peer.broadcasts {
            changed.push(Changed::Broadcasts);
            self.peer.broadcasts = names;
        }
        let mut outputs = Vec::new();
        if !changed.is_empty() {
            outputs.push(Output::Updated(self.peer.clone(), changed));
        }
        if !new.is_empty() {
            outputs.push(Output::Announced(self.peer.clone(), new));
        }
        outputs
    }
}

/// Names that the room itself uses; applications neither see nor publish them.
pub fn is_internal(name: &str) -> bool {
    name == crate::chat::BROADCAST || name.starts_with(crate::channel::PREFIX)
}

/// A clock that counts only while the own relay is up, and not for [`GRACE`] after a return. A step
/// counts for at most [`STEP_MAX`].
#[derive(Debug, Default)]
struct SilenceClock {
    counted: Duration,
    /// When it was last looked at.
    last: Duration,
    /// Since when it counts; `None` while it stands still. May lie in the future.
    since: Option<Duration>,
    was_up: bool,
}

impl SilenceClock {
    fn now(&self, now: Duration) -> Duration {
        let running = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let step = now.saturating_sub(self.last).min(STEP_MAX);
        self.counted + step.min(running)
    }

    fn advance(&mut self, now: Duration) -> Duration {
        self.counted = self.now(now);
        self.last = self.last.max(now);
        self.counted
    }

    /// To be told right after [`SilenceClock::advance`].
    fn set_running(&mut self, up: bool, now: Duration) {
        match (self.since, up) {
            (None, true) => {
                let grace = if self.was_up { GRACE } else { Duration::ZERO };
                self.since = Some(now + grace);
                self.was_up = true;
            }
            (Some(_), false) => self.since = None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use iroh_gossip::TopicId;
    use proptest::prelude::*;

    use super::*;
    use crate::presence::RoomKey;

    fn id(seed: u8) -> EndpointId {
        SecretKey::from_bytes(&[seed; 32]).public()
    }

    fn state(seed: u8, name: &str, broadcasts: &[&str]) -> RoomState {
        let mut state = RoomState::new(&RoomKey::new(&TopicId::from_bytes([0; 32])), &id(seed));
        state.display_name = Some(name.into());
        state.broadcasts = broadcasts.iter().map(ToString::to_string).collect();
        state
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn up() -> Roster {
        let mut roster = Roster::default();
        roster.handle(Input::Relay(true), s(0));
        roster
    }

    fn present(roster: &mut Roster, seed: u8, state: &RoomState, now: Duration) -> Vec<Output> {
        told(roster, seed, state, false, now)
    }

    fn told(
        roster: &mut Roster,
        seed: u8,
        state: &RoomState,
        repeated: bool,
        now: Duration,
    ) -> Vec<Output> {
        let presence = Input::Presence {
            peer: id(seed),
            state,
            repeated,
            wall_ms: 1,
        };
        roster.handle(presence, now)
    }

    /// Time as the room's actor sees it pass, up to and with a moment.
    fn wait(roster: &mut Roster, from: Duration, to: Duration) -> Vec<Output> {
        let mut outputs = Vec::new();
        let mut now = from;
        while now < to {
            now = (now + Duration::from_millis(500)).min(to);
            outputs.extend(roster.handle(Input::Tick, now));
        }
        outputs
    }

    #[test]
    fn a_peer_is_complete_when_it_joins_and_joins_once() {
        let mut roster = up();
        let outputs = present(&mut roster, 1, &state(1, "Ada", &["camera", "chat"]), s(0));
        let [Output::Joined(peer), Output::Announced(_, names)] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!(peer.display_name.as_deref(), Some("Ada"));
        assert_eq!(
            names,
            &["camera"],
            "the room's own broadcasts are not shown"
        );
        assert!(present(&mut roster, 1, &state(1, "Ada", &["camera", "chat"]), s(5)).is_empty());
    }

    #[test]
    fn changes_are_updates_not_leaves() {
        let mut roster = up();
        present(&mut roster, 1, &state(1, "Ada", &["camera"]), s(0));
        let outputs = present(&mut roster, 1, &state(1, "Bo", &[]), s(1));
        let [Output::Updated(peer, changed)] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!(changed, &[Changed::DisplayName, Changed::Broadcasts]);
        assert!(peer.broadcasts.is_empty());
    }

    #[test]
    fn a_session_may_tell_of_a_broadcast_before_presence_does() {
        let mut roster = up();
        present(&mut roster, 1, &state(1, "Ada", &[]), s(0));
        let outputs = roster.handle(Input::Live(id(1), "camera"), s(0));
        assert!(
            matches!(&outputs[..], [Output::Updated(..), Output::Announced(_, names)] if names == &["camera"])
        );
        assert!(present(&mut roster, 1, &state(1, "Ada", &["camera"]), s(1)).is_empty());
        assert!(
            roster
                .handle(Input::Unlive(id(1), "camera"), s(2))
                .is_empty()
        );
        let outputs = present(&mut roster, 1, &state(1, "Ada", &[]), s(3));
        assert!(matches!(&outputs[..], [Output::Updated(..)]));
    }

    #[test]
    fn goodbye_is_at_once_and_silence_after_its_window() {
        let mut roster = up();
        present(&mut roster, 1, &state(1, "Ada", &[]), s(0));
        let mut leaving = state(1, "Ada", &[]);
        leaving.set_leaving(true);
        let outputs = present(&mut roster, 1, &leaving, s(1));
        assert!(matches!(&outputs[..], [Output::Left(_, LeftReason::Left)]));
        assert!(
            roster
                .handle(Input::Gone(id(1), LeftReason::Left), s(1))
                .is_empty(),
            "once"
        );

        present(&mut roster, 1, &state(1, "Ada", &[]), s(2));
        assert!(wait(&mut roster, s(2), s(32)).is_empty());
        assert!(
            !wait(&mut roster, s(32), s(33)).is_empty(),
            "no session: 30 s"
        );

        present(&mut roster, 1, &state(1, "Ada", &[]), s(40));
        roster.handle(Input::Heard(id(1)), s(41));
        assert!(wait(&mut roster, s(41), s(50)).is_empty());
        let outputs = wait(&mut roster, s(50), s(51));
        assert!(matches!(
            &outputs[..],
            [Output::Left(_, LeftReason::Timeout)]
        ));
    }

    #[test]
    fn an_own_outage_makes_nobody_else_leave() {
        let mut roster = up();
        present(&mut roster, 1, &state(1, "Ada", &[]), s(0));
        roster.handle(Input::Heard(id(1)), s(1));
        assert!(wait(&mut roster, s(1), s(4)).is_empty());
        roster.handle(Input::Relay(false), s(4));
        assert!(wait(&mut roster, s(4), s(600)).is_empty());
        roster.handle(Input::Relay(true), s(600));
        assert!(
            wait(&mut roster, s(600), s(626)).is_empty(),
            "3 s before, 6 s after the grace"
        );
        assert!(!wait(&mut roster, s(626), s(627)).is_empty());
    }

    #[test]
    fn a_return_within_the_window_is_no_leave_and_a_later_one_is_a_join() {
        let mut roster = up();
        present(&mut roster, 1, &state(1, "Ada", &[]), s(0));
        roster.handle(Input::Heard(id(1)), s(0));
        assert!(wait(&mut roster, s(0), s(9)).is_empty());
        assert!(present(&mut roster, 1, &state(1, "Ada", &[]), s(9)).is_empty());
        assert!(wait(&mut roster, s(9), s(18)).is_empty());
        let left = wait(&mut roster, s(18), s(40));
        assert!(matches!(&left[..], [Output::Left(_, LeftReason::Timeout)]));
        let back = present(&mut roster, 1, &state(1, "Ada", &[]), s(40));
        assert!(matches!(&back[..], [Output::Joined(_)]));
    }

    #[test]
    fn who_was_suspended_takes_nobody_for_gone() {
        let mut roster = up();
        present(&mut roster, 1, &state(1, "Ada", &[]), s(0));
        roster.handle(Input::Heard(id(1)), s(1));
        assert!(roster.handle(Input::Tick, s(3600)).is_empty());
        assert!(wait(&mut roster, s(3600), s(3607)).is_empty());
        assert!(!wait(&mut roster, s(3607), s(3608)).is_empty());
    }

    #[test]
    fn a_peer_of_iroh_live_has_two_minutes_without_a_session() {
        let mut roster = up();
        let foreign = |name: &str| {
            RoomState::foreign(crate::presence::PeerState {
                broadcasts: vec!["camera".into()],
                display_name: Some(name.into()),
            })
        };
        let outputs = present(&mut roster, 1, &foreign("Ada"), s(0));
        assert!(matches!(
            &outputs[..],
            [Output::Joined(_), Output::Announced(..)]
        ));
        assert!(wait(&mut roster, s(0), s(120)).is_empty());
        let outputs = present(&mut roster, 1, &foreign("Bo"), s(120));
        assert!(matches!(&outputs[..], [Output::Updated(..)]));
        roster.handle(Input::Heard(id(1)), s(120));
        assert!(wait(&mut roster, s(120), s(129)).is_empty());
        assert!(
            !wait(&mut roster, s(129), s(130)).is_empty(),
            "with a session 9 s"
        );
    }

    #[test]
    fn who_is_known_from_others_alone_has_a_shorter_window() {
        let ada = state(1, "Ada", &[]);
        let mut roster = up();
        told(&mut roster, 1, &ada, true, s(0));
        assert!(wait(&mut roster, s(0), s(10)).is_empty());
        told(&mut roster, 1, &ada, true, s(10));
        assert!(wait(&mut roster, s(10), s(30)).is_empty());
        let outputs = wait(&mut roster, s(30), s(31));
        assert!(matches!(
            &outputs[..],
            [Output::Left(_, LeftReason::Timeout)]
        ));

        // Whoever has spoken, once, has the whole of it, whoever tells of it afterwards.
        told(&mut roster, 1, &ada, true, s(40));
        present(&mut roster, 1, &ada, s(50));
        told(&mut roster, 1, &ada, true, s(60));
        assert!(wait(&mut roster, s(60), s(90)).is_empty());
        assert!(!wait(&mut roster, s(90), s(91)).is_empty());
    }

    #[test]
    fn a_full_room_refuses_and_counts() {
        let mut roster = up();
        for n in 0..MAX_PEERS as u32 + 3 {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&n.to_be_bytes());
            let peer = SecretKey::from_bytes(&seed).public();
            let state = RoomState::default();
            roster.handle(
                Input::Presence {
                    peer,
                    state: &state,
                    repeated: false,
                    wall_ms: 0,
                },
                s(0),
            );
        }
        assert_eq!((roster.len(), roster.refused()), (MAX_PEERS, 3));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Presence(u8, u8),
        Leaving(u8),
        Heard(u8),
        Live(u8, bool),
        Gone(u8),
        Relay(bool),
        Wait(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let peer = 1u8..4;
        prop_oneof![
            (peer.clone(), 0u8..4).prop_map(|(peer, n)| Step::Presence(peer, n)),
            peer.clone().prop_map(Step::Leaving),
            peer.clone().prop_map(Step::Heard),
            (peer.clone(), any::<bool>()).prop_map(|(peer, on)| Step::Live(peer, on)),
            peer.prop_map(Step::Gone),
            any::<bool>().prop_map(Step::Relay),
            (0u8..40).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Joined and left alternate for each peer, and what is between them is of a present peer.
        #[test]
        fn every_joined_has_exactly_one_left(steps in proptest::collection::vec(step(), 0..80)) {
            let mut roster = Roster::default();
            let mut here = SortedSet::new();
            let mut now = s(0);
            for step in steps {
                let outputs = match step {
                    Step::Presence(peer, n) => {
                        let names: Vec<&str> = ["a", "b", "c"].into_iter().take(n.into()).collect();
                        present(&mut roster, peer, &state(peer, "x", &names), now)
                    }
                    Step::Leaving(peer) => {
                        let mut state = state(peer, "x", &[]);
                        state.set_leaving(true);
                        present(&mut roster, peer, &state, now)
                    }
                    Step::Heard(peer) => roster.handle(Input::Heard(id(peer)), now),
                    Step::Live(peer, true) => roster.handle(Input::Live(id(peer), "d"), now),
                    Step::Live(peer, false) => roster.handle(Input::Unlive(id(peer), "d"), now),
                    Step::Gone(peer) => roster.handle(Input::Gone(id(peer), LeftReason::Left), now),
                    Step::Relay(up) => roster.handle(Input::Relay(up), now),
                    Step::Wait(seconds) => {
                        let before = now;
                        now += s(seconds.into());
                        wait(&mut roster, before, now)
                    }
                };
                for output in outputs {
                    match output {
                        Output::Joined(peer) => prop_assert!(here.insert(peer.id)),
                        Output::Left(peer, _) => prop_assert!(here.remove(&peer.id)),
                        Output::Updated(peer, changed) => {
                            prop_assert!(here.contains(&peer.id) && !changed.is_empty());
                        }
                        Output::Announced(peer, names) => {
                            prop_assert!(here.contains(&peer.id) && !names.is_empty());
                        }
                    }
                }
                prop_assert_eq!(here.len(), roster.len());
            }
        }
    }
}
