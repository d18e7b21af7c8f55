//! The world of one run: peers, the network between them, and their clocks. `members.rs` has what they
//! do, `faults.rs` what is done to them.

mod faults;
mod members;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use iroh_rooms_consensus::keys::{Hash, Key, Keys, Signature};
use iroh_rooms_consensus::machine::Newcomer;
use iroh_rooms_consensus::recovery::Record;
use iroh_rooms_consensus::session::Payload;
use iroh_rooms_consensus::state::{Change, State};
use iroh_rooms_consensus::wire::Lane;
use iroh_rooms_consensus::{
    Approval, Config, Event, Input, Mutation, Node, Outcome, Status, Welcome, ended_digest,
};

use crate::Rng;
use crate::check::{Checker, Rotation, Rule, Violation, Write, is_together};

/// How a run is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The rule that is broken.
    pub mutation: Option<Mutation>,
    /// Tell what happens.
    pub trace: bool,
}

/// What happened in a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Milliseconds that passed in it.
    pub simulated: u64,
    /// How often each fault was done.
    pub faults: BTreeMap<&'static str, u64>,
    /// Writes that were proposed,
    pub proposed: u64,
    /// acknowledged,
    pub acknowledged: u64,
    /// and of these lost where that is allowed: by a lossy recovery, or a fork.
    pub lost: u64,
    /// Epochs begun by survivors without loss.
    pub takeovers: u64,
    /// Epochs begun by one survivor because a person asked.
    pub lossy: u64,
    /// Runs in which two lineages met.
    pub forks: u64,
    /// Runs that began with two founders of the same room.
    pub twins: u64,
    /// Members that joined or came back.
    pub joins: u64,
    /// Leaders that stood at the door.
    pub doormen: u64,
    /// Moves of the door to another id that were acknowledged.
    pub rotations: u64,
    /// Milliseconds from the end of all faults until the room was one again.
    pub healed: u64,
}

/// Everyone proposes for so long, and things go wrong; then they heal,
const CHAOS_MS: u64 = 45_000;
/// and within this the room is one again.
const HEAL_MS: u64 = 240_000;
/// Without anyone at the door for so long, a person asks a member to go on alone.
const PATIENCE_MS: u64 = 50_000;
const ROOM: Hash = [7; 32];
/// Moves of the door in one run, at most: fewer than the ids that a room remembers of it.
const ROTATIONS: usize = 8;
/// How many may vote.
const VOTERS: [usize; 4] = [3, 5, 5, 7];

/// Keys whose signatures cost nothing. Nobody forges in here; a signature still tells who made it
/// over what.
struct SimKeys(Key);

fn seal(key: &Key, bytes: &[u8]) -> Signature {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key.iter().take(2).chain(bytes) {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mut half = [0; 32];
    for (at, byte) in state.to_le_bytes().into_iter().enumerate() {
        if let Some(place) = half.get_mut(at) {
            *place = byte;
        }
    }
    Signature(*key, half)
}

impl Keys for SimKeys {
    fn key(&self) -> Key {
        self.0
    }
    fn sign(&self, bytes: &[u8]) -> Signature {
        seal(&self.0, bytes)
    }
    fn verify(&self, key: &Key, bytes: &[u8], signature: &Signature) -> bool {
        seal(key, bytes) == *signature
    }
}

/// Something on its way.
enum Happening {
    Frame(usize, Key, Vec<u8>),
    /// A hello at someone's door, under its id.
    Hello(usize, Hash, Newcomer),
    /// What a new incarnation says about its old one.
    Ended(usize, u64, Signature),
    /// Its answer.
    Answer(usize, Hash, Option<Box<Welcome>>),
}

#[derive(Default)]
struct Peer {
    node: Option<Node>,
    incarnation: u64,
    /// Handles nothing until then.
    frozen_until: u64,
    kept: Vec<(Key, Vec<u8>)>,
    back_at: u64,
    asked: Option<(u64, Hash)>,
    next_ask: u64,
    clock: u64,
    heard: u64,
    tickets: BTreeMap<u64, String>,
    next_ticket: u64,
    /// Whether each other peer's link is up, and since when it should be otherwise.
    links: BTreeMap<usize, (bool, Option<u64>)>,
    gone: BTreeSet<usize>,
    leaving: Option<u64>,
    silent: BTreeMap<usize, u64>,
    /// How its node was after it last did something.
    was: Option<Status>,
    /// The id of the door, as it knows it: what it comes back with.
    door: Hash,
    /// The member that it was before it crashed, if it remembers.
    old: Option<(Hash, u64)>,
}

/// A leader has proposed other voters; it and most others are to crash.
struct Doom {
    at: u64,
    leader: usize,
    /// Those who do not crash, and do not get what the leader sends after that proposal,
    spared: BTreeSet<usize>,
    /// except, if so, its heartbeats, which tell what is committed: they have a stream of their own.
    pulse: bool,
}

struct World {
    options: Options,
    rng: Rng,
    now: u64,
    peers: Vec<Peer>,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: BTreeMap<usize, Happening>,
    order: u64,
    blocked: BTreeSet<(usize, usize)>,
    loss: u64,
    duplicate: u64,
    delay: (u64, u64),
    checker: Checker,
    report: Report,
    incarnations: u64,
    writes: u64,
    doorless_since: u64,
    approval: Approval,
    voters: usize,
    doom: Option<Doom>,
    /// How likely, in a hundred, something goes wrong just when it matters.
    spite: u64,
    /// How likely, in a hundred, who knows only a former id of the door is told the present one.
    told: u64,
}

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Result<Report, Violation> {
    let mut world = World::new(seed, options);
    world.chaos()?;
    world.spite = 0;
    world.heal()?;
    world.report.simulated = world.now;
    Ok(world.report)
}

fn key_of(peer: usize) -> Key {
    let mut key = [0; 32];
    if let Some(first) = key.first_mut() {
        *first = peer as u8 + 1;
    }
    key
}

fn peer_of(key: &Key) -> usize {
    key.first().map_or(0, |it| usize::from(*it) - 1)
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        // Small rooms are where it is hard: a pair cannot lose one without losing its majority.
        let count = rng
            .pick(&[2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 7])
            .copied()
            .unwrap_or(3);
        let mut world = Self {
            options,
            now: 1_000_000,
            peers: (0..count)
                .map(|_| Peer {
                    door: ROOM,
                    ..Peer::default()
                })
                .collect(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            order: 0,
            blocked: BTreeSet::new(),
            loss: rng.pick(&[0, 0, 1, 5, 15]).copied().unwrap_or(0),
            duplicate: rng.pick(&[0, 0, 2, 10]).copied().unwrap_or(0),
            delay: rng
                .pick(&[(1, 5), (5, 40), (20, 120), (1, 300)])
                .copied()
                .unwrap_or((1, 5)),
            checker: Checker::default(),
            report: Report::default(),
            incarnations: 0,
            writes: 0,
            doorless_since: 1_000_000,
            approval: match rng.chance(15) {
                true => Approval::Majority,
                false => Approval::Guard,
            },
            doom: None,
            voters: rng.pick(&VOTERS).copied().unwrap_or(5),
            spite: rng.pick(&[0, 10, 30, 60]).copied().unwrap_or(0),
            told: rng.pick(&[5, 30, 100]).copied().unwrap_or(30),
            rng,
        };
        world.checker.voters = world.voters;
        world.found(0);
        if world.rng.chance(8) {
            world.found(1);
            world.report.twins = 1;
        }
        world
    }

    fn trace(&self, text: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{:>8} {}", self.now - 1_000_000, text());
        }
    }

    fn config(&mut self, peer: usize) -> Config {
        let keys = Arc::new(SimKeys(key_of(peer)));
        let mut config = Config::new(keys, ROOM, self.rng.draw());
        config.mutation = self.options.mutation;
        config.approval = self.approval;
        config.voters = self.voters;
        config
    }

    fn nonce(&mut self) -> Hash {
        let mut nonce = [0; 32];
        for byte in &mut nonce {
            *byte = self.rng.below(256) as u8;
        }
        nonce
    }

    fn found(&mut self, peer: usize) {
        let (config, nonce) = (self.config(peer), self.nonce());
        let state = State::json(br#"{"log":[]}"#).ok();
        let now = self.clock(peer);
        let node =
            state.and_then(|state| Node::create(config, state, &format!("p{peer}"), 2, nonce, now));
        self.install(peer, node);
    }

    fn install(&mut self, peer: usize, node: Option<Node>) {
        self.incarnations += 1;
        let (now, incarnation) = (self.now, self.incarnations);
        if let (Some(node), Some(it)) = (node, self.peers.get_mut(peer)) {
            it.node = Some(node);
            it.incarnation = incarnation;
            it.heard = now;
            it.links.clear();
            it.gone.clear();
            it.silent.clear();
            it.asked = None;
            it.leaving = None;
            it.was = None;
            it.old = None;
        }
        self.report.joins += 1;
    }

    fn clock(&self, peer: usize) -> u64 {
        self.now + self.peers.get(peer).map_or(0, |it| it.clock)
    }

    // --- The network --------------------------------------------------------------------------

    fn post(&mut self, from: usize, to: usize, happening: Happening) {
        if self.blocked.contains(&(from, to)) || self.rng.chance(self.loss) {
            return;
        }
        let after = self.rng.between(self.delay.0, self.delay.1);
        self.schedule(after, happening);
    }

    fn schedule(&mut self, after: u64, happening: Happening) {
        self.order += 1;
        let id = self.order as usize;
        self.queue.push(Reverse((self.now + after, self.order, id)));
        self.happenings.insert(id, happening);
    }

    fn deliver_due(&mut self) -> Result<(), Violation> {
        while let Some(Reverse((at, _, id))) = self.queue.peek().copied() {
            if at > self.now {
                break;
            }
            self.queue.pop();
            let Some(happening) = self.happenings.remove(&id) else {
                continue;
            };
            match happening {
                Happening::Frame(to, from, bytes) => {
                    let now = self.now;
                    let Some(peer) = self.peers.get_mut(to) else {
                        continue;
                    };
                    if peer.frozen_until > now {
                        // A frozen tab's buffers fill, and then the rest is lost.
                        if peer.kept.len() < 200 {
                            peer.kept.push((from, bytes));
                        }
                        continue;
                    }
                    peer.heard = now;
                    self.input(to, Input::Receive(from, bytes))?;
                }
                Happening::Hello(to, door, newcomer) => {
                    let here = self.peers.get(to).is_some_and(|it| {
                        let stands = it
                            .node
                            .as_ref()
                            .is_some_and(|it| it.machine().door() == door);
                        stands && it.frozen_until <= self.now
                    });
                    if here {
                        self.input(to, Input::Admit(newcomer))?;
                    }
                }
                Happening::Ended(to, id, signature) => {
                    let frozen = self
                        .peers
                        .get(to)
                        .is_none_or(|it| it.frozen_until > self.now);
                    if !frozen {
                        self.input(to, Input::Ended(id, signature))?;
                    }
                }
                Happening::Answer(to, nonce, welcome) => self.answered(to, nonce, welcome)?,
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        peer: usize,
        nonce: Hash,
        welcome: Option<Box<Welcome>>,
    ) -> Result<(), Violation> {
        let asked = self.peers.get(peer).and_then(|it| it.asked);
        if asked.is_none_or(|(_, it)| it != nonce) {
            return Ok(());
        }
        if let Some(it) = self.peers.get_mut(peer) {
            it.asked = None;
        }
        let Some(welcome) = welcome else {
            return Ok(());
        };
        let (id, epoch) = (
            welcome.attestation.id,
            welcome.records.last().map(Record::id),
        );
        let mut config = self.config(peer);
        config.room = self.peers.get(peer).map_or(ROOM, |it| it.door);
        let now = self.clock(peer);
        let node = Node::join(config, *welcome, now);
        let joined = node.is_some();
        self.install(peer, node);
        let incarnation = self.incarnations;
        if let (true, Some(epoch)) = (joined, epoch) {
            self.trace(|| format!("p{peer} joins as {id}"));
            self.checker.joined(epoch, id, incarnation)?;
        }
        Ok(())
    }

    // --- Time ---------------------------------------------------------------------------------

    fn tick(&mut self) -> Result<(), Violation> {
        for _ in 0..4 {
            self.now += 25;
            self.deliver_due()?;
        }
        for peer in 0..self.peers.len() {
            let now = self.now;
            let Some(it) = self.peers.get_mut(peer) else {
                continue;
            };
            if it.frozen_until > now {
                continue;
            }
            if !it.kept.is_empty() {
                it.heard = now;
                for (from, bytes) in std::mem::take(&mut it.kept) {
                    self.input(peer, Input::Receive(from, bytes))?;
                }
            }
            self.input(peer, Input::Tick)?;
            self.watch_links(peer)?;
            self.go_to_the_door(peer);
            let left = |it: &Peer| it.leaving.is_some_and(|at| now >= at + 3_000);
            if let Some(it) = self.peers.get_mut(peer)
                && left(it)
            {
                // It does not wait for ever for its leave to be confirmed.
                it.node = None;
                it.tickets.clear();
                it.leaving = None;
                it.back_at = now + 1_000;
            }
        }
        // The doorman probes its own door, and may meet another there.
        if (self.now / 100).is_multiple_of(50) {
            let doormen: Vec<usize> = (0..self.peers.len())
                .filter(|it| {
                    self.peers
                        .get(*it)
                        .and_then(|it| it.was.as_ref())
                        .is_some_and(|it| it.doorman)
                })
                .collect();
            for one in &doormen {
                for other in doormen.iter().filter(|other| *other != one) {
                    let frozen = self
                        .peers
                        .get(*one)
                        .is_some_and(|it| it.frozen_until > self.now);
                    if !frozen && !self.blocked.contains(&(*one, *other)) {
                        self.input(*one, Input::Meet(key_of(*other)))?;
                    }
                }
            }
        }
        Ok(())
    }

    // --- Healing ------------------------------------------------------------------------------

    fn heal(&mut self) -> Result<(), Violation> {
        self.blocked.clear();
        self.doom = None;
        self.told = 100;
        self.loss = 0;
        self.duplicate = 0;
        self.delay = (1, 20);
        let began = self.now;
        self.doorless_since = self.now;
        for peer in 0..self.peers.len() {
            let now = self.now;
            if let Some(it) = self.peers.get_mut(peer) {
                it.frozen_until = it.frozen_until.min(now + 3_000);
                it.back_at = it.back_at.min(now + 3_000);
            }
        }
        self.trace(|| "everything heals".to_owned());
        while self.now < began + HEAL_MS {
            self.tick()?;
            let members = self.members();
            if members.is_empty() && self.peers.iter().all(|it| it.node.is_none()) {
                // Nobody is left who has the room. That is its end, not a fault.
                return Ok(());
            }
            let door = self
                .peers
                .iter()
                .any(|it| it.node.is_some() && it.was.as_ref().is_some_and(|it| it.doorman));
            if door {
                self.doorless_since = self.now;
            }
            if self.now > self.doorless_since + PATIENCE_MS {
                self.doorless_since = self.now;
                if let Some(peer) = members.first().copied() {
                    self.trace(|| format!("a person asks p{peer} to go on alone"));
                    self.input(peer, Input::Recover)?;
                }
            }
            let nodes: Vec<&Node> = self
                .peers
                .iter()
                .filter_map(|it| it.node.as_ref())
                .collect();
            let whole = nodes.len() == self.peers.len() && is_together(&nodes);
            let idle = self.peers.iter().all(|it| it.tickets.is_empty());
            if whole && idle && door {
                self.report.healed = self.now - began;
                return self.finish();
            }
        }
        let state: Vec<String> = self
            .peers
            .iter()
            .enumerate()
            .map(|(at, it)| format!("\n  p{at}: {:?}", it.node.as_ref().map(Node::status)))
            .collect();
        let what = format!("after {} s:{}", HEAL_MS / 1_000, state.concat());
        Err(Violation::new(Rule::Together, what))
    }

    fn finish(&mut self) -> Result<(), Violation> {
        let Some(node) = self.peers.first().and_then(|it| it.node.as_ref()) else {
            return Ok(());
        };
        let lost = self.checker.history(node)?;
        self.report.lost = lost;
        Ok(())
    }
}
