//! Fuzz targets. A member of the room may say anything that it can sign.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::keys::{Hash, Key, Keys, Signature, decode, digest, encode};
use crate::machine::{Machine, Newcomer};
use crate::session::Payload;
use crate::state::{Change, State, canonical};
use crate::storage::{Saved, sealed};
use crate::wire::{Body, Envelope, Frame};
use crate::{Config, Event, Input, Node, Welcome};

/// A name, and what takes any bytes and panics when it has found something.
pub type Target = (&'static str, fn(&[u8]));

/// The targets.
pub const TARGETS: &[Target] = &[
    ("consensus-node", node),
    ("consensus-frame", frame),
    ("consensus-snapshot", snapshot),
    ("consensus-state", state),
];

/// Signatures that cost nothing: here the member itself is the liar, not who pretends to be it.
struct Cheap(Key);

impl Keys for Cheap {
    fn key(&self) -> Key {
        self.0
    }
    fn sign(&self, bytes: &[u8]) -> Signature {
        Signature(self.0, digest("", &[bytes]))
    }
    fn verify(&self, key: &Key, bytes: &[u8], signature: &Signature) -> bool {
        *signature == Signature(*key, digest("", &[bytes]))
    }
}

const ROOM: Hash = [5; 32];

struct Room {
    now: u64,
    nodes: Vec<Node>,
    queue: VecDeque<(usize, usize, Vec<u8>)>,
    welcome: Option<Welcome>,
}

impl Room {
    fn give(&mut self, to: usize, input: Input) {
        let Some(node) = self.nodes.get_mut(to) else {
            return;
        };
        let outputs = node.handle(input, self.now);
        for send in outputs.send {
            self.queue
                .push_back((to, usize::from(send.to[0]), send.bytes));
        }
        for event in outputs.events {
            if let Event::Admitted(.., welcome) = event {
                self.welcome = Some(*welcome);
            }
        }
    }

    fn settle(&mut self) {
        // Liars may set off more than ends by itself.
        for _ in 0..2_000 {
            let Some((from, to, bytes)) = self.queue.pop_front() else {
                break;
            };
            self.give(to, Input::Receive([from as u8; 32], bytes));
        }
        self.queue.clear();
    }

    fn pass(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.now += 100;
            for at in 0..self.nodes.len() {
                self.give(at, Input::Tick);
            }
            self.settle();
        }
    }
}

fn config(id: u8) -> Config {
    Config::new(Arc::new(Cheap([id; 32])), ROOM, u64::from(id) + 1)
}

fn room() -> Option<Room> {
    let state = State::json(b"{}").ok()?;
    let founder = Node::create(config(0), state, "0", 2, [1; 32], 1_000)?;
    let mut room = Room {
        now: 1_000,
        nodes: vec![founder],
        queue: VecDeque::new(),
        welcome: None,
    };
    room.pass(2);
    for id in 1..3_u8 {
        let newcomer = Newcomer {
            key: [id; 32],
            participant: id.to_string(),
            priority: 2,
            nonce: [id; 32],
            replaces: None,
        };
        room.give(0, Input::Admit(newcomer));
        room.settle();
        let node = Node::join(config(id), room.welcome.take()?, room.now)?;
        room.nodes.push(node);
        for other in 0..room.nodes.len() {
            room.give(other, Input::Link([id; 32], true));
            room.give(usize::from(id), Input::Link([other as u8; 32], true));
        }
        room.pass(62);
    }
    Some(room)
}

/// The third member says what the input has: bodies that it signs, frames that it does not, and
/// silence in between. The others live on.
fn node(input: &[u8]) {
    let mut room = room().expect("a room without liars comes about");
    let mut rest = input;
    while let [kind, length, tail @ ..] = rest {
        let (said, next) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = next;
        let to = usize::from(kind & 1);
        let liar = room.nodes[2].status();
        match kind >> 1 & 3 {
            0 => room.give(to, Input::Receive([2; 32], said.to_vec())),
            1 => room.pass(u64::from(*length) % 32),
            _ => {
                let Some(body) = decode::<Body>(said) else {
                    continue;
                };
                let to_id = room.nodes[to].status().id;
                let envelope = Envelope::new(liar.epoch, liar.id, to_id, &body);
                room.give(
                    to,
                    Input::Receive([2; 32], Frame::Envelope(envelope).encode()),
                );
            }
        }
        room.settle();
    }
    let change = Payload::Change(Change::Merge(b"{\"a\":1}".to_vec()));
    room.give(
        0,
        Input::Propose {
            ticket: 1,
            payload: change,
            base: None,
        },
    );
    room.pass(5);
}

/// What members and the door send is read again from its bytes.
fn frame(input: &[u8]) {
    if let Some(frame) = Frame::decode(input) {
        assert_eq!(Frame::decode(&frame.encode()), Some(frame));
    }
    if let Some(body) = decode::<Body>(input) {
        assert_eq!(decode(&encode(&body)), Some(body));
    }
    if let Some(welcome) = Welcome::decode(input) {
        let _ = Node::join(config(1), welcome, 1);
    }
}

/// A snapshot is read again from its bytes, and so is what was kept on disk: as it is, and with the
/// hash that belongs to it.
fn snapshot(input: &[u8]) {
    if let Some(machine) = Machine::load(input) {
        let again = Machine::load(&machine.store()).expect("what was stored loads");
        assert_eq!(again.store(), machine.store());
    }
    let _ = Saved::load(input, &ROOM);
    if let Ok(saved) = Saved::load(&sealed(input), &ROOM) {
        assert_eq!(Saved::load(&saved.store(), &ROOM), Ok(saved));
    }
}

/// JSON is written as it was read, and what is refused leaves no trace.
fn state(input: &[u8]) {
    if let Ok(value) = canonical::parse(input) {
        let text = canonical::write(&value);
        assert_eq!(canonical::size(&value), text.len());
        assert_eq!(canonical::parse(&text).as_ref(), Ok(&value));
    }
    // A state and two changes of it, apart at the zeros.
    let mut parts = input.split(|byte| *byte == 0);
    let Some(Ok(mut state)) = parts.next().map(State::json) else {
        return;
    };
    for (at, part) in parts.take(4).enumerate() {
        let change = match at % 2 {
            0 => Change::Merge(part.to_vec()),
            _ => Change::Patch(part.to_vec()),
        };
        let before = state.bytes();
        if state.apply(&change, None).is_err() {
            assert_eq!(state.bytes(), before, "a refused change left a trace");
        }
        if let State::Json(value, bound) = &state {
            assert!(canonical::size(value) <= *bound, "the bound is too low");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_take_anything() {
        for (_, target) in TARGETS {
            for input in [
                &b""[..],
                b"\0",
                b"{}\0{\"a\":1}\0[]",
                &[2, 31, 6, 3, 9, 9, 9],
            ] {
                target(input);
            }
        }
    }
}
