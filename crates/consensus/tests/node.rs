//! Members in one process, with a network that delivers at once unless told otherwise. What faults
//! do to them is the simulator's to find out; here is what they do for their users, and to liars.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use iroh_rooms_consensus::conf::Conf;
use iroh_rooms_consensus::keys::{Ed25519, Hash, Key, Keys, Signature, digest};
use iroh_rooms_consensus::machine::{Newcomer, Why};
use iroh_rooms_consensus::raft::{Entry, Kind, Message, Position, Snapshot, Token};
use iroh_rooms_consensus::session::{Payload, Proposal, SessionId};
use iroh_rooms_consensus::state::{Change, State};
use iroh_rooms_consensus::wire::{Body, Check, Chunk, Envelope, Frame, Lineage};
use iroh_rooms_consensus::{Approval, Config, Event, Input, Node, Outcome, Verdict, Welcome};
use proptest::prelude::*;

const ROOM: Hash = [9; 32];

fn keys(seed: u8) -> Arc<dyn Keys> {
    Arc::new(Ed25519::new(iroh_base_key(seed)))
}

fn iroh_base_key(seed: u8) -> iroh_base::SecretKey {
    iroh_base::SecretKey::from_bytes(&[seed; 32])
}

struct Room {
    now: u64,
    nodes: BTreeMap<Key, Node>,
    signers: BTreeMap<Key, Arc<dyn Keys>>,
    events: BTreeMap<Key, Vec<Event>>,
    queue: VecDeque<(Key, Key, Vec<u8>)>,
    host: bool,
    /// Under which id newcomers look for it.
    door: Hash,
    /// Who hears nothing and is not heard.
    cut: Vec<Key>,
    welcomes: BTreeMap<Key, Welcome>,
    refusals: Vec<(Key, &'static str)>,
}

impl Room {
    fn new(state: State, host: bool) -> (Self, Key) {
        Self::founded(state, |config| Config { host, ..config })
    }

    fn founded(state: State, with: impl Fn(Config) -> Config) -> (Self, Key) {
        let mut room = Self {
            now: 1_000,
            nodes: BTreeMap::new(),
            signers: BTreeMap::new(),
            events: BTreeMap::new(),
            queue: VecDeque::new(),
            host: false,
            door: ROOM,
            cut: Vec::new(),
            welcomes: BTreeMap::new(),
            refusals: Vec::new(),
        };
        let config = with(room.config(1));
        room.host = config.host;
        let key = config.keys.key();
        let node = Node::create(config, state, "founder", 2, [1; 32], room.now).unwrap();
        room.nodes.insert(key, node);
        room.pass(1_000);
        (room, key)
    }

    fn json() -> (Self, Key) {
        Self::new(State::json(b"{}").unwrap(), false)
    }

    fn config(&mut self, seed: u8) -> Config {
        let keys = keys(seed);
        self.signers.insert(keys.key(), keys.clone());
        Config {
            host: self.host,
            ..Config::new(keys, self.door, u64::from(seed) * 77)
        }
    }

    fn give(&mut self, to: Key, input: Input) {
        self.give_all(to, vec![input]);
    }

    fn give_all(&mut self, to: Key, inputs: Vec<Input>) {
        let Some(node) = self.nodes.get_mut(&to) else {
            return;
        };
        let outputs = node.handle_all(inputs, self.now);
        for send in outputs.send {
            self.queue.push_back((to, send.to, send.bytes));
        }
        for event in outputs.events {
            match &event {
                Event::Admitted(key, _, welcome) => {
                    self.welcomes.insert(*key, *welcome.clone());
                }
                Event::Refused(key, _, code) => self.refusals.push((*key, code)),
                _ => {}
            }
            self.events.entry(to).or_default().push(event);
        }
    }

    fn settle(&mut self) {
        while let Some((from, to, bytes)) = self.queue.pop_front() {
            if !self.cut.contains(&from) && !self.cut.contains(&to) {
                self.give(to, Input::Receive(from, bytes));
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now += 100;
            for key in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.give(key, Input::Tick);
            }
            self.settle();
        }
    }

    fn ask(&mut self, door: Key, seed: u8, name: &str) -> Key {
        let key = self.config(seed).keys.key();
        let newcomer = Newcomer {
            key,
            participant: name.to_owned(),
            priority: 2,
            nonce: [seed; 32],
            replaces: None,
        };
        self.give(door, Input::Admit(newcomer));
        self.settle();
        key
    }

    fn join(&mut self, door: Key, seed: u8) -> Key {
        let key = self.ask(door, seed, &format!("p{seed}"));
        let welcome = self.welcomes.remove(&key).expect("admitted");
        let welcome = Welcome::decode(&welcome.encode()).expect("its own bytes");
        let config = self.config(seed);
        let node = Node::join(config, welcome, self.now).expect("a good welcome");
        self.nodes.insert(key, node);
        for other in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.give(other, Input::Link(key, true));
            self.give(key, Input::Link(other, true));
        }
        self.pass(1_000);
        assert!(self.nodes[&key].status().ready);
        key
    }

    fn change(&mut self, by: Key, ticket: u64, change: Change) {
        self.propose(by, ticket, Payload::Change(change));
        self.settle();
    }

    fn propose(&mut self, by: Key, ticket: u64, payload: Payload) {
        let propose = Input::Propose {
            ticket,
            payload,
            base: None,
        };
        self.give(by, propose);
    }

    fn outcomes(&self, of: Key) -> Vec<(u64, Outcome)> {
        let events = self.events.get(&of).into_iter().flatten();
        let outcomes = events.filter_map(|it| match it {
            Event::Outcome(ticket, outcome) => Some((*ticket, outcome.clone())),
            _ => None,
        });
        outcomes.collect()
    }

    fn text(&self, of: Key) -> String {
        String::from_utf8(self.nodes[&of].machine().state.bytes()).unwrap()
    }
}

fn merge(text: &str) -> Change {
    Change::Merge(text.as_bytes().to_vec())
}

#[test]
fn members_agree_and_everyone_learns_what_became_of_a_change() {
    let (mut room, a) = Room::json();
    let (b, c) = (room.join(a, 2), room.join(a, 3));
    room.change(a, 1, merge(r#"{"x":1}"#));
    room.change(b, 1, merge(r#"{"y":2}"#));
    room.change(c, 1, merge(r#"{"x":null,"z":3.5}"#));
    room.change(c, 2, merge("not json"));
    room.pass(1_000);
    for member in [a, b, c] {
        assert_eq!(room.text(member), r#"{"y":2,"z":3.5}"#);
        assert!(matches!(
            room.outcomes(member)[0],
            (1, Outcome::Committed(_))
        ));
    }
    assert!(matches!(room.outcomes(c)[1], (2, Outcome::Rejected(_))));
    // Three vote in the end, and all the same three.
    room.pass(20_000);
    for member in [a, b, c] {
        assert_eq!(room.nodes[&member].status().conf.voters.len(), 3);
    }
}

#[test]
fn changes_that_come_at_once_and_meanwhile_travel_together() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    let propose = |ticket: u64| Input::Propose {
        ticket,
        payload: Payload::Change(merge(&format!(r#"{{"n{ticket}":1}}"#))),
        base: None,
    };
    room.give_all(b, (1..=20).map(propose).collect());
    assert_eq!(room.queue.len(), 1, "twenty in one message");
    for ticket in 21..=40 {
        room.give(b, propose(ticket));
    }
    assert_eq!(room.queue.len(), 2, "the others wait for an outcome");
    room.settle();
    room.pass(1_000);
    let outcomes = room.outcomes(b);
    let made = outcomes
        .iter()
        .filter(|(_, it)| matches!(it, Outcome::Committed(_)));
    let tickets: Vec<u64> = made.map(|(ticket, _)| *ticket).collect();
    assert_eq!(tickets, (1..=40).collect::<Vec<_>>());
    assert_eq!(room.text(a), room.text(b));
}

#[test]
fn a_signature_that_was_good_once_is_good_for_nothing_else() {
    let (author, other) = (keys(1), keys(2));
    let good = author.sign(b"this");
    for _ in 0..2 {
        assert!(other.verify(&author.key(), b"this", &good));
        assert!(author.verify(&author.key(), b"this", &good));
        let forged = Signature(good.1, good.0);
        for keys in [&author, &other] {
            assert!(!keys.verify(&author.key(), b"that", &good));
            assert!(!keys.verify(&other.key(), b"this", &good));
            assert!(!keys.verify(&author.key(), b"this", &forged));
        }
    }
}

#[test]
fn a_precondition_that_does_not_hold_is_a_rejection() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    let index = room.nodes[&b].machine().index;
    room.change(a, 1, merge(r#"{"turn":"b"}"#));
    let payload = Payload::Change(merge(r#"{"turn":"a"}"#));
    room.give(
        b,
        Input::Propose {
            ticket: 7,
            payload,
            base: Some(index),
        },
    );
    room.pass(1_000);
    assert_eq!(room.outcomes(b), [(7, Outcome::Rejected("stale".into()))]);
    assert_eq!(room.text(b), r#"{"turn":"b"}"#);
}

#[test]
fn the_lead_is_handed_over_and_a_leaver_is_gone_with_its_vote() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.pass(10_000);
    assert_eq!(room.nodes[&b].status().conf.voters.len(), 2);
    room.give(a, Input::Leave);
    room.pass(3_000);
    let over = |room: &Room, key| {
        room.events[&key]
            .iter()
            .any(|it| matches!(it, Event::Over(Why::Left, _)))
    };
    assert!(over(&room, a));
    assert!(room.nodes[&b].status().doorman);
    assert_eq!(room.nodes[&b].status().conf.voters.len(), 1);
    room.change(b, 1, merge(r#"{"alone":true}"#));
    assert!(matches!(room.outcomes(b)[0], (1, Outcome::Committed(_))));
    room.give(b, Input::Leave);
    room.pass(200);
    assert!(over(&room, b));
}

#[test]
fn the_door_refuses_a_taken_name_a_locked_room_and_who_was_kicked() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.ask(a, 3, "p2");
    assert_eq!(room.refusals.pop().unwrap().1, "participant-id-taken");
    room.ask(b, 3, "other");
    assert_eq!(
        room.refusals.pop().unwrap().1,
        "no-quorum",
        "b does not lead"
    );
    room.ask(a, 3, "");
    assert_eq!(room.refusals.pop().unwrap().1, "bad-id");
    // Only moderators lock and kick; that is the founder.
    room.propose(b, 1, Payload::Lock(true));
    room.pass(500);
    assert_eq!(
        room.outcomes(b),
        [(1, Outcome::Rejected("not a moderator".into()))]
    );
    room.propose(a, 1, Payload::Lock(true));
    room.pass(500);
    room.ask(a, 3, "other");
    assert_eq!(room.refusals.pop().unwrap().1, "denied");
    room.propose(a, 2, Payload::Lock(false));
    room.propose(a, 3, Payload::Kick(b));
    room.pass(2_000);
    assert!(
        room.events[&b]
            .iter()
            .any(|it| matches!(it, Event::Over(..)))
    );
    assert_eq!(room.nodes[&a].machine().members.len(), 1);
    room.ask(a, 2, "p2");
    assert_eq!(room.refusals.pop().unwrap().1, "denied");
}

#[test]
fn a_key_that_comes_back_is_a_new_member_with_a_new_id() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.join(a, 3);
    let before = room.nodes[&b].status().id;
    room.nodes.remove(&b);
    let b = room.join(a, 2);
    let after = room.nodes[&b].status().id;
    assert!(after > before);
    assert_eq!(room.nodes[&a].machine().members.len(), 3);
    room.change(b, 1, merge(r#"{"back":1}"#));
    room.pass(500);
    assert!(matches!(room.outcomes(b)[0], (1, Outcome::Committed(_))));
}

#[test]
fn the_application_decides_with_a_reducer_and_all_wait_for_it() {
    let (mut room, a) = Room::new(State::Opaque(b"0".to_vec()), true);
    let b = room.join(a, 2);
    for (ticket, text) in [(1, "3"), (2, "-9"), (3, "4")] {
        room.change(a, ticket, Change::Opaque(text.as_bytes().to_vec()));
    }
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().parse::<i64>().unwrap();
    for _ in 0..8 {
        for member in [a, b] {
            let asked = room
                .events
                .get_mut(&member)
                .map(std::mem::take)
                .unwrap_or_default();
            let (decide, rest): (Vec<_>, Vec<_>) = asked
                .into_iter()
                .partition(|it| matches!(it, Event::Decide { .. }));
            room.events.insert(member, rest);
            for event in decide {
                let Event::Decide { index, change, .. } = event else {
                    continue;
                };
                let sum =
                    number(&room.nodes[&member].machine().state.bytes()) + number(change.bytes());
                let verdict = match sum {
                    sum if sum < 0 => Verdict::Refuse("below zero".into()),
                    sum => Verdict::Accept(Some(sum.to_string().into_bytes())),
                };
                room.give(member, Input::Decided(index, verdict));
            }
        }
        room.pass(300);
    }
    assert_eq!((room.text(a), room.text(b)), ("7".into(), "7".into()));
    assert_eq!(
        room.outcomes(a)[1],
        (2, Outcome::Rejected("below zero".into()))
    );
    // One whose reducer throws does not guess, and votes no more.
    room.change(a, 4, Change::Opaque(b"1".to_vec()));
    room.pass(300);
    let index = room.events[&b].iter().find_map(|it| match it {
        Event::Decide { index, .. } => Some(*index),
        _ => None,
    });
    room.give(b, Input::Decided(index.unwrap(), Verdict::Failed));
    assert!(room.nodes[&b].status().degraded);
    assert_eq!(room.text(b), "7");
}

#[test]
fn one_of_a_pair_goes_on_when_the_other_is_gone_and_not_before() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.pass(10_000);
    room.change(b, 1, merge(r#"{"kept":1}"#));
    room.pass(500);
    room.cut.push(b);
    room.pass(20_000);
    assert!(!room.nodes[&a].status().doorman, "b may still be there");
    room.give(a, Input::Gone(b));
    room.pass(3_000);
    assert!(room.nodes[&a].status().doorman);
    assert!(
        room.events[&a]
            .iter()
            .any(|it| matches!(it, Event::Recovered(_, true)))
    );
    assert_eq!(room.text(a), r#"{"kept":1}"#);
    // b finds that the room went on without it.
    room.cut.clear();
    room.change(b, 2, merge(r#"{"late":1}"#));
    room.pass(3_000);
    let orphans = room.events[&b].iter().find_map(|it| match it {
        Event::Over(Why::Lost, orphans) => Some(orphans.clone()),
        _ => None,
    });
    assert_eq!(orphans.unwrap()[0].change, merge(r#"{"late":1}"#));
    assert!(room.outcomes(b).contains(&(2, Outcome::Unknown)));
}

#[test]
fn a_learner_goes_along_with_a_new_epoch() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.pass(10_000);
    // A learner: two vote, and a third would need time to be promoted.
    let c = room.join(a, 3);
    let voters = room.nodes[&a].status().conf.voters.len();
    assert_eq!(voters, 2);
    room.change(c, 1, merge(r#"{"kept":1}"#));
    room.pass(300);
    // It proposes, and before anyone has heard of it the room goes on without the leader.
    room.cut.push(a);
    room.change(c, 2, merge(r#"{"late":1}"#));
    room.give(b, Input::Gone(a));
    room.pass(45_000);
    let outcomes = room.outcomes(c);
    assert!(matches!(outcomes[0], (1, Outcome::Committed(_))));
    // That takes longer than anyone waits for an outcome. It is made all the same, once.
    assert_eq!(outcomes[1], (2, Outcome::Unknown));
    assert_eq!(room.text(b), r#"{"kept":1,"late":1}"#);
    assert_eq!(room.text(c), room.text(b));
}

#[test]
fn a_newcomer_believes_a_majority_and_not_the_door() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    room.pass(10_000);
    assert_eq!(room.nodes[&a].status().conf.voters.len(), 2);
    let key = room.ask(a, 3, "p3");
    let welcome = room.welcomes.remove(&key).expect("admitted");
    assert_eq!(welcome.attestation.signatures.len(), 2);
    let config = room.config(3);
    let join = |welcome: &Welcome| Node::join(config.clone(), welcome.clone(), 1).is_some();
    assert!(join(&welcome));
    // One voter alone, another nonce, another term.
    let mut alone = welcome.clone();
    alone.attestation.signatures.pop_last();
    assert!(!join(&alone));
    let mut replayed = welcome.clone();
    replayed.attestation.nonce = [0; 32];
    assert!(!join(&replayed));
    let mut older = welcome.clone();
    older.attestation.term += 1;
    assert!(!join(&older));
    // Someone else's.
    assert!(Node::join(room.config(4), welcome, 1).is_none());
    // Whom the voters do not follow any more gathers nothing.
    room.cut.push(b);
    room.ask(a, 5, "p5");
    room.pass(12_000);
    assert!(room.welcomes.is_empty());
}

#[test]
fn where_consent_is_needed_most_members_decide() {
    let (mut room, a) = Room::founded(State::json(b"{}").unwrap(), |config| Config {
        approval: Approval::Majority,
        ..config
    });
    let (b, c) = (room.join(a, 2), room.join(a, 3));
    let answer = |room: &mut Room, answers: [(Key, bool); 2]| {
        for (member, agrees) in answers {
            let asked = room.events.remove(&member).unwrap_or_default();
            for event in &asked {
                if let Event::Consider { proposal, .. } = event {
                    room.give(member, Input::Considered(*proposal, agrees));
                }
            }
            room.events.insert(member, asked);
        }
        room.settle();
        room.pass(300);
        for member in [a, b, c] {
            let seen = room.events.entry(member).or_default();
            seen.retain(|it| !matches!(it, Event::Consider { .. }));
        }
    };
    room.change(a, 1, merge(r#"{"x":1}"#));
    assert_eq!(room.text(a), "{}", "nobody has answered");
    answer(&mut room, [(b, true), (c, false)]);
    assert_eq!(room.text(c), r#"{"x":1}"#);
    // Its author alone is not enough, and what comes behind it waits for that.
    room.change(b, 1, merge(r#"{"x":2}"#));
    room.change(b, 2, merge(r#"{"y":2}"#));
    answer(&mut room, [(a, false), (c, false)]);
    let refused = Outcome::Rejected("not agreed to".into());
    assert_eq!(room.outcomes(b), [(1, refused.clone()), (2, refused)]);
    // Silence is no consent.
    room.change(c, 1, merge(r#"{"z":3}"#));
    room.pass(20_000);
    assert!(matches!(room.outcomes(c)[0], (1, Outcome::Rejected(_))));
    assert_eq!(room.text(a), r#"{"x":1}"#);
    // What is not about the state is for moderators alone.
    room.propose(a, 2, Payload::Lock(true));
    room.pass(500);
    assert!(room.nodes[&c].machine().locked);
}

#[test]
fn a_room_is_found_under_the_id_that_its_door_was_moved_to() {
    let (mut room, a) = Room::json();
    let b = room.join(a, 2);
    let rotate = |room: &mut Room, by, ticket| {
        room.propose(by, ticket, Payload::Rotate([77; 32]));
        room.pass(500);
    };
    rotate(&mut room, b, 1);
    assert!(matches!(room.outcomes(b)[0], (1, Outcome::Rejected(_))));
    rotate(&mut room, a, 1);
    for member in [a, b] {
        assert!(room.events[&member].contains(&Event::Rotated([77; 32])));
    }
    room.door = [77; 32];
    let c = room.join(a, 3);
    assert_eq!(room.nodes[&c].machine().door(), [77; 32]);
    // Under an id that the door never had there is another room.
    room.door = [78; 32];
    let key = room.ask(a, 4, "p4");
    let welcome = room.welcomes.remove(&key).expect("admitted");
    let config = room.config(4);
    let node = Node::join(config, welcome, room.now).expect("its records are good");
    room.nodes.insert(key, node);
    for other in [a, b, c] {
        room.give(other, Input::Link(key, true));
        room.give(key, Input::Link(other, true));
    }
    room.pass(1_000);
    let over = |it: &Event| matches!(it, Event::Over(Why::Lost, _));
    assert!(room.events[&key].iter().any(over));
}

#[test]
fn a_large_state_reaches_a_newcomer_in_chunks() {
    let (mut room, a) = Room::json();
    for at in 0..20 {
        room.change(
            a,
            at,
            merge(&format!(r#"{{"k{at}":"{}"}}"#, "x".repeat(60_000))),
        );
    }
    let b = room.join(a, 2);
    assert_eq!(room.text(a), room.text(b));
    // Beyond the limit a change is refused, and nothing else happens.
    for at in 20..75 {
        room.change(
            a,
            at,
            merge(&format!(r#"{{"k{at}":"{}"}}"#, "x".repeat(60_000))),
        );
    }
    let (_, last) = room.outcomes(a).pop().unwrap();
    assert!(matches!(last, Outcome::Rejected(why) if why.contains("4 MiB")));
}

// --- Liars ------------------------------------------------------------------------------------

/// A leader with two followers; the second is the liar.
fn with_a_liar() -> (Room, Key, Key, Key) {
    let (mut room, a) = Room::json();
    let (b, c) = (room.join(a, 2), room.join(a, 3));
    room.pass(15_000);
    (room, a, b, c)
}

fn lie(room: &mut Room, liar: Key, to: Key, body: &Body) {
    let status = room.nodes[&liar].status();
    let to_id = room.nodes[&to].status().id;
    let keys = room.signers[&liar].clone();
    let envelope = Envelope::new(&*keys, status.epoch, status.id, to_id, body);
    room.give(to, Input::Receive(liar, Frame::Envelope(envelope).encode()));
}

#[test]
fn nobody_speaks_or_proposes_for_another() {
    let (mut room, a, b, c) = with_a_liar();
    let epoch = room.nodes[&a].status().epoch;
    let keys = room.signers[&c].clone();
    // In the name of b, signed by c.
    let ids = (room.nodes[&b].status().id, room.nodes[&a].status().id);
    let envelope = Envelope::new(&*keys, epoch, ids.0, ids.1, &Body::Leave);
    room.give(a, Input::Receive(c, Frame::Envelope(envelope).encode()));
    assert_eq!(room.nodes[&a].refused().get("forged"), Some(&1));
    // A change of b's session, signed by c.
    let session = room.nodes[&b].session().unwrap();
    let payload = Payload::Change(merge(r#"{"forged":1}"#));
    let mut proposal = Proposal {
        session,
        sequence: 1,
        base: None,
        payload,
        signature: Signature::default(),
    };
    proposal.sign(&*keys, &ROOM, &epoch);
    lie(&mut room, c, a, &Body::Propose(vec![proposal]));
    room.pass(1_000);
    assert_eq!(room.nodes[&a].refused().get("forged"), Some(&2));
    assert_eq!(room.text(b), "{}");
    assert_eq!(room.nodes[&a].machine().members.len(), 3);
}

#[test]
fn a_change_that_is_sent_again_counts_once() {
    let (mut room, a, b, c) = with_a_liar();
    let epoch = room.nodes[&a].status().epoch;
    let session = room.nodes[&c].session().unwrap();
    let payload = Payload::Change(Change::Patch(
        br#"[{"op":"add","path":"/n","value":1}]"#.to_vec(),
    ));
    let mut proposal = Proposal {
        session,
        sequence: 1,
        base: None,
        payload,
        signature: Signature::default(),
    };
    let keys = room.signers[&c].clone();
    proposal.sign(&*keys, &ROOM, &epoch);
    for _ in 0..5 {
        lie(&mut room, c, a, &Body::Propose(vec![proposal.clone(); 3]));
        room.pass(200);
    }
    let made = room.events[&b]
        .iter()
        .filter(|it| matches!(it, Event::Changed { .. }))
        .count();
    assert_eq!(made, 1);
}

/// How often something was refused for this reason.
fn refused(room: &Room, by: Key, why: &str) -> u64 {
    room.nodes[&by].refused().get(why).copied().unwrap_or(0)
}

#[test]
fn what_no_member_may_say_changes_nothing() {
    let (mut room, a, b, c) = with_a_liar();
    // With four one listens.
    let d = room.join(a, 4);
    room.pass(15_000);
    let status = room.nodes[&b].status();
    let (ids, term) = (
        [a, b, c, d].map(|it| room.nodes[&it].status().id),
        status.term,
    );
    assert_eq!(
        (status.leader, status.conf.is_voter(ids[3])),
        (ids[0], false)
    );
    let raft = |term, kind| Body::Raft(Message { term, kind });
    let beat = |acknowledged| Kind::Heartbeat {
        commit: 0,
        acknowledged,
    };
    let append = |data: Vec<u8>| Kind::Append {
        previous: status.last,
        commit: status.last.index,
        entries: vec![Entry {
            term,
            config: false,
            data,
        }],
        acknowledged: u64::MAX,
    };
    let vote = Kind::Vote {
        pre: false,
        last: status.last,
        token: None,
    };
    let granted = |pre| Kind::VoteReply { pre, reject: false };
    let gone = Kind::TimeoutNow { token: None };
    let large = Change::Merge(vec![b' '; 64 * 1024 + 1]);
    let mut proposal = Proposal {
        session: room.nodes[&c].session().unwrap(),
        sequence: 1,
        base: None,
        payload: Payload::Change(large),
        signature: Signature::default(),
    };
    proposal.sign(&*room.signers[&c].clone(), &ROOM, &status.epoch);
    let lies = [
        (c, raft(1 << 63, beat(0)), "impossible term"),
        (c, raft(1 << 63, vote.clone()), "impossible term"),
        (c, raft(1 << 63, append(Vec::new())), "impossible term"),
        (c, raft(u64::MAX, granted(false)), "impossible term"),
        (c, raft(0, vote), "impossible term"),
        // Whoever speaks as the leader of this term is another.
        (c, raft(term, beat(u64::MAX)), "not the leader"),
        (c, raft(term, append(b"forged".to_vec())), "not the leader"),
        (c, raft(term, gone), "not the leader"),
        (d, raft(term, granted(true)), "not a voter"),
        (d, raft(term, granted(false)), "not a voter"),
        (d, Body::Removed, "not a voter"),
        (
            c,
            raft(term + 1, append(vec![0; 512 * 1024 + 1])),
            "too many entries",
        ),
    ];
    for (liar, body, why) in lies {
        let before = refused(&room, b, why);
        lie(&mut room, liar, b, &body);
        room.settle();
        assert_eq!(refused(&room, b, why), before + 1, "{why}: {body:?}");
    }
    // Longer than a frame may be, and a change that is too large.
    room.give(b, Input::Receive(c, vec![0; 1024 * 1024 + 1]));
    assert_eq!(refused(&room, b, "malformed"), 1);
    lie(&mut room, c, a, &Body::Propose(vec![proposal]));
    // Of another epoch, and signed: there is no such epoch here.
    let keys = room.signers[&c].clone();
    let elsewhere = Envelope::new(&*keys, [1; 32], ids[2], ids[1], &Body::Removed);
    room.give(b, Input::Receive(c, Frame::Envelope(elsewhere).encode()));
    room.pass(1_000);
    let after = room.nodes[&b].status();
    assert_eq!((after.term, after.leader), (term, ids[0]));
    assert_eq!((after.epoch, after.last), (status.epoch, status.last));
    assert!(room.nodes.values().all(|it| it.status().ready));
    room.change(b, 1, merge(r#"{"true":1}"#));
    room.pass(1_000);
    for key in [a, b, c, d] {
        assert_eq!(room.text(key), r#"{"true":1}"#);
    }
}

/// What travels in chunks, as a member writes it.
#[derive(serde::Serialize)]
enum Blob {
    Snapshot(u64, Snapshot),
}

#[test]
fn a_snapshot_that_is_none_is_not_taken_in() {
    let (mut room, a, b, c) = with_a_liar();
    room.change(a, 1, merge(r#"{"true":1}"#));
    room.pass(1_000);
    let status = room.nodes[&b].status();
    let forged = {
        let mut machine = room.nodes[&c].machine().clone();
        machine.index += 1_000;
        machine.state = State::json(br#"{"forged":1}"#).unwrap();
        machine
    };
    let position = |index| Position {
        term: status.term,
        index,
    };
    let snapshot = |index, conf: &Conf, data: Vec<u8>| Snapshot {
        position: position(index),
        conf: conf.clone(),
        data,
    };
    let (conf, data) = (&status.conf, forged.store());
    let mut elsewhere = forged.clone();
    elsewhere.room = [1; 32];
    let mut without = conf.clone();
    without.voters.retain(|it| *it != status.id);
    let term = status.term;
    let fakes = [
        (
            term,
            snapshot(forged.index, conf, data.clone()),
            "not the leader",
        ),
        (
            term,
            snapshot(forged.index + 1, conf, data.clone()),
            "not a snapshot",
        ),
        (
            term,
            snapshot(forged.index, conf, elsewhere.store()),
            "not a snapshot",
        ),
        (
            term,
            snapshot(forged.index, conf, b"garbage".to_vec()),
            "not a snapshot",
        ),
        (
            1 << 63,
            snapshot(forged.index, conf, data.clone()),
            "impossible term",
        ),
        (
            term + 1,
            snapshot(forged.index, &without, data.clone()),
            "not for me",
        ),
        (
            term + 1,
            snapshot(forged.index, &Conf::default(), data),
            "impossible configuration",
        ),
    ];
    let chunk = |data: Vec<u8>, hash, length, offset| {
        Body::Chunk(Chunk {
            hash,
            length,
            offset,
            data,
        })
    };
    for (term, snapshot, why) in fakes {
        let whole = postcard::to_stdvec(&Blob::Snapshot(term, snapshot)).unwrap();
        let length = whole.len() as u64;
        for (at, why) in [
            ([7; 32], "not a chunk"),
            (digest("iroh-rooms/blob/1", &[&whole]), why),
        ] {
            let before = refused(&room, b, why);
            lie(&mut room, c, b, &chunk(whole.clone(), at, length, 0));
            room.settle();
            assert_eq!(refused(&room, b, why), before + 1, "{why}");
        }
    }
    let message = Message {
        term: term + 1,
        kind: Kind::Snapshot(snapshot(forged.index, conf, forged.store())),
    };
    lie(&mut room, c, b, &Body::Raft(message));
    assert_eq!(refused(&room, b, "a snapshot in one piece"), 1);
    for (length, offset) in [(u64::MAX, 0), (9, u64::MAX), (9, 1), (16 << 20, 0), (0, 0)] {
        let before = refused(&room, b, "not a chunk");
        lie(&mut room, c, b, &chunk(vec![0; 9], [7; 32], length, offset));
        assert_eq!(
            refused(&room, b, "not a chunk"),
            before + 1,
            "{length} {offset}"
        );
    }
    room.pass(1_000);
    assert_eq!(room.nodes[&b].status().term, status.term);
    room.change(b, 2, merge(r#"{"still":1}"#));
    room.pass(1_000);
    for key in [a, b, c] {
        assert_eq!(room.text(key), r#"{"still":1,"true":1}"#);
    }
}

/// Numbers that matter to Raft, and any.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..30u64,
        Just(1 << 48),
        Just(u64::MAX),
        Just(u64::MAX - 1),
        any::<u64>()
    ]
}

fn position() -> impl Strategy<Value = Position> {
    (number(), number()).prop_map(|(term, index)| Position { term, index })
}

fn entry() -> impl Strategy<Value = Entry> {
    let data = proptest::collection::vec(any::<u8>(), 0..20);
    (number(), any::<bool>(), data).prop_map(|(term, config, data)| Entry { term, config, data })
}

fn token() -> impl Strategy<Value = Option<Token>> {
    let signature = Signature::default();
    proptest::option::of(number()).prop_map(move |it| it.map(|leader| Token { leader, signature }))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (any::<bool>(), position(), token()).prop_map(|(pre, last, token)| Kind::Vote {
            pre,
            last,
            token
        }),
        (any::<bool>(), any::<bool>()).prop_map(|(pre, reject)| Kind::VoteReply { pre, reject }),
        (
            position(),
            number(),
            proptest::collection::vec(entry(), 0..4),
            number()
        )
            .prop_map(|(previous, commit, entries, acknowledged)| Kind::Append {
                previous,
                commit,
                entries,
                acknowledged
            }),
        (number(), proptest::option::of(position()), number()).prop_map(
            |(index, reject, commit)| Kind::AppendReply {
                index,
                reject,
                commit
            }
        ),
        (number(), number()).prop_map(|(commit, acknowledged)| Kind::Heartbeat {
            commit,
            acknowledged
        }),
        number().prop_map(|commit| Kind::HeartbeatReply { commit }),
        token().prop_map(|token| Kind::TimeoutNow { token }),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let chunk = (
        any::<u8>(),
        number(),
        number(),
        proptest::collection::vec(any::<u8>(), 0..50),
    )
        .prop_map(|(hash, length, offset, data)| {
            Body::Chunk(Chunk {
                hash: [hash; 32],
                length,
                offset,
                data,
            })
        });
    prop_oneof![
        12 => (number(), kind()).prop_map(|(term, kind)| Body::Raft(Message { term, kind })),
        1 => chunk,
        1 => number().prop_map(Body::Who),
        1 => (number(), any::<[u8; 32]>()).prop_map(|(id, key)| Body::Member(id, key)),
        1 => Just(Body::Survey),
        1 => number().prop_map(|index| Body::Check(Check { index, chain: [0; 32], state: [0; 32] })),
        1 => any::<[u8; 32]>().prop_map(|hash| Body::Signed(hash, Signature::default())),
        1 => number().prop_map(|id| Body::Propose(vec![Proposal {
            session: SessionId { epoch: [1; 32], id },
            sequence: id,
            base: None,
            payload: Payload::Lock(true),
            signature: Signature::default(),
        }])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A member with a valid key can say anything. Nobody panics; and a follower that heard lies
    /// still has a room when the truth comes back, or is told to join anew.
    #[test]
    fn no_member_can_make_another_panic(lies in proptest::collection::vec((any::<bool>(), body()), 1..40)) {
        let (mut room, a, b, c) = with_a_liar();
        for (leader, body) in lies {
            lie(&mut room, c, if leader { a } else { b }, &body);
            room.settle();
        }
        room.pass(2_000);
    }

    #[test]
    fn no_bytes_make_anyone_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0..4000usize, bit in 0..8u8) {
        let (mut room, a, _, c) = with_a_liar();
        room.give(a, Input::Receive(c, bytes.clone()));
        // A true frame with one bit turned, at each level.
        let status = room.nodes[&c].status();
        let lineage = Frame::Lineage(Lineage { records: room.nodes[&a].records().to_vec(), active: true });
        let envelope = Envelope::new(&*room.signers[&c].clone(), status.epoch, status.id, 1, &Body::Survey);
        for frame in [lineage.encode(), Frame::Envelope(envelope).encode()] {
            let mut bent = frame;
            let at = at % bent.len();
            bent[at] ^= 1 << bit;
            room.give(a, Input::Receive(c, bent));
        }
        let body = Envelope { epoch: status.epoch, from: status.id, to: 1, hops: 0, body: bytes, signature: Signature::default() };
        room.give(a, Input::Receive(c, Frame::Envelope(body).encode()));
        room.pass(300);
    }
}
