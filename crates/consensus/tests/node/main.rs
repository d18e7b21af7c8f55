//! Members in one process, with a network that delivers at once unless told otherwise. What faults
//! do to them is the simulator's to find out; here is what they do for their users (`members.rs`), and
//! what liars cannot do to them (`liars.rs`, and `noise.rs` with all that a member can say).

mod liars;
mod members;
mod noise;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use iroh_rooms_consensus::conf::Conf;
use iroh_rooms_consensus::keys::{Ed25519, Hash, Key, Keys, Signature, digest};
use iroh_rooms_consensus::limits::{TERM, TERM_STEP};
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
