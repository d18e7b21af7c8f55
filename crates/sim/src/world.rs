//! The world of one run: peers, the network between them, their clocks, and who does what to them.

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
use crate::check::{Checker, Rule, Violation, Write, is_together, log_of};

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
    /// A hello at someone's door.
    Hello(usize, Newcomer),
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
            peers: (0..count).map(|_| Peer::default()).collect(),
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
                Happening::Hello(to, newcomer) => {
                    let frozen = self
                        .peers
                        .get(to)
                        .is_none_or(|it| it.frozen_until > self.now);
                    if !frozen {
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
        let config = self.config(peer);
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

    // --- Members ------------------------------------------------------------------------------

    fn input(&mut self, peer: usize, input: Input) -> Result<(), Violation> {
        let clock = self.clock(peer);
        let Some(it) = self.peers.get_mut(peer) else {
            return Ok(());
        };
        let Some(node) = it.node.as_mut() else {
            return Ok(());
        };
        let before = it.was.take().unwrap_or_else(|| node.status());
        let outputs = node.handle(input, clock);
        let heard = self.now.saturating_sub(it.heard);
        let status = node.status();
        let looked = self
            .checker
            .look(it.incarnation, node, &before, &status, heard);
        looked.map_err(|it| {
            let at = self.now - 1_000_000;
            Violation::new(it.rule, format!("p{peer} at {at}: {}", it.what))
        })?;
        let turns = self.spite > 0
            && ((status.leads && status.conf != before.conf) || (status.fenced && !before.fenced));
        // Of three voters, half of those after it may lack what two had before it.
        let likely = if status.conf.voters.len() == 3 { 60 } else { 0 };
        let appended = status.leads && status.last.index > before.last.index;
        let proposes = self.spite > 0
            && appended
            && node
                .log_after(before.last.index)
                .is_some_and(|log| log.iter().any(|it| it.config));
        it.was = Some(status);
        for send in outputs.send {
            let to = peer_of(&send.to);
            let doom = self
                .doom
                .as_ref()
                .filter(|it| it.leader == peer && it.spared.contains(&to));
            if doom.is_some_and(|it| !it.pulse || send.lane != Lane::Pulse) {
                continue;
            }
            let copies = 1 + u64::from(self.rng.chance(self.duplicate));
            for _ in 0..copies {
                self.post(
                    peer,
                    to,
                    Happening::Frame(to, key_of(peer), send.bytes.clone()),
                );
            }
        }
        for event in outputs.events {
            self.event(peer, event)?;
        }
        if turns && self.rng.chance(self.spite) {
            self.spite_at(peer);
        }
        if proposes && self.doom.is_none() && self.rng.chance(self.spite.max(likely)) {
            self.doom(peer);
            // What comes right behind may be committed together with it.
            self.write(peer)?;
            self.write(peer)?;
        }
        Ok(())
    }

    fn event(&mut self, peer: usize, event: Event) -> Result<(), Violation> {
        match event {
            Event::Admitted(key, nonce, welcome) => {
                if let Some(node) = self.peers.get(peer).and_then(|it| it.node.as_ref()) {
                    Checker::admitted(node, welcome.attestation.id, &key)?;
                }
                self.post(
                    peer,
                    peer_of(&key),
                    Happening::Answer(peer_of(&key), nonce, Some(welcome)),
                );
            }
            Event::Refused(key, nonce, code) => {
                self.trace(|| format!("p{peer} refuses p{}: {code}", peer_of(&key)));
                self.post(
                    peer,
                    peer_of(&key),
                    Happening::Answer(peer_of(&key), nonce, None),
                );
            }
            Event::Outcome(ticket, outcome) => self.outcome(peer, ticket, outcome)?,
            Event::Recovered(_, lossless) => {
                self.trace(|| format!("p{peer} recovered, lossless {lossless}"));
                match lossless {
                    true => self.report.takeovers += 1,
                    false => self.report.lossy += 1,
                }
            }
            Event::ForkDetected => {
                self.trace(|| format!("p{peer} sees a fork"));
                self.report.forks = 1;
            }
            Event::Doorman(_, true) => {
                self.trace(|| format!("p{peer} is the doorman"));
                self.report.doormen += 1;
            }
            Event::Divergence(index) => {
                let what = format!("p{peer} found divergence at {index}");
                return Err(Violation::new(Rule::SameState, what));
            }
            Event::IntegrityFault(index) => {
                let what = format!("p{peer} found another log at {index}");
                return Err(Violation::new(Rule::SameLog, what));
            }
            Event::Over(why, orphaned) => {
                self.trace(|| format!("p{peer} is over: {why:?}, {} orphaned", orphaned.len()));
                let now = self.now;
                if let Some(it) = self.peers.get_mut(peer) {
                    it.node = None;
                    it.tickets.clear();
                    it.back_at = now + 500;
                }
            }
            Event::Consider { proposal, .. } => {
                let agrees = self.rng.chance(95);
                self.input(peer, Input::Considered(proposal, agrees))?;
            }
            Event::QuorumLost => self.trace(|| format!("p{peer} lost the quorum")),
            Event::Ready => self.trace(|| format!("p{peer} is ready")),
            _ => {}
        }
        Ok(())
    }

    fn outcome(&mut self, peer: usize, ticket: u64, outcome: Outcome) -> Result<(), Violation> {
        let now = self.now;
        let Some(it) = self.peers.get_mut(peer) else {
            return Ok(());
        };
        let Some(name) = it.tickets.remove(&ticket) else {
            return Ok(());
        };
        let epoch = it.node.as_ref().map(|node| node.status().epoch);
        match (outcome, epoch) {
            (Outcome::Committed(index), Some(epoch)) => {
                self.report.acknowledged += 1;
                self.trace(|| format!("p{peer}'s {name} is acknowledged at {index}"));
                self.checker.acknowledged(&name, now, epoch, index)
            }
            (Outcome::Rejected(why), _) => {
                self.trace(|| format!("p{peer}'s {name} is rejected: {why}"));
                self.checker.rejected(&name);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, peer: usize) -> Result<(), Violation> {
        self.writes += 1;
        let name = format!("w{}", self.writes);
        let now = self.now;
        let based = self.rng.chance(10);
        let Some(it) = self.peers.get_mut(peer) else {
            return Ok(());
        };
        let Some(node) = it.node.as_ref() else {
            return Ok(());
        };
        let base = based.then(|| node.machine().index);
        it.next_ticket += 1;
        let ticket = it.next_ticket;
        it.tickets.insert(ticket, name.clone());
        let write = Write {
            asked: now,
            acknowledged: None,
            rejected: false,
        };
        self.checker.writes.insert(name.clone(), write);
        self.report.proposed += 1;
        let patch = format!(r#"[{{"op":"add","path":"/log/-","value":"{name}"}}]"#);
        let payload = Payload::Change(Change::Patch(patch.into_bytes()));
        self.input(
            peer,
            Input::Propose {
                ticket,
                payload,
                base,
            },
        )
    }

    // --- What drivers do ----------------------------------------------------------------------

    /// Tells a member which connections stand. A connection over a blocked path ends after a while,
    /// and a peer that cannot be dialled is called gone after some more.
    fn watch_links(&mut self, peer: usize) -> Result<(), Violation> {
        for other in 0..self.peers.len() {
            if other == peer {
                continue;
            }
            let path =
                !self.blocked.contains(&(peer, other)) && !self.blocked.contains(&(other, peer));
            let there = self.peers.get(other).is_some_and(|it| it.node.is_some());
            let frozen = self
                .peers
                .get(other)
                .is_some_and(|it| it.frozen_until > self.now + 10_000);
            let up = path && there && !frozen;
            let now = self.now;
            let Some(it) = self.peers.get_mut(peer) else {
                continue;
            };
            let (was, since) = it.links.get(&other).copied().unwrap_or((false, None));
            if was != up {
                let since = since.unwrap_or(now);
                let patience = if up { 200 } else { 2_000 };
                if now >= since + patience {
                    it.links.insert(other, (up, None));
                    self.input(peer, Input::Link(key_of(other), up))?;
                } else {
                    it.links.insert(other, (was, Some(since)));
                }
            } else {
                it.links.insert(other, (was, None));
            }
            let Some(it) = self.peers.get_mut(peer) else {
                continue;
            };
            if up {
                it.silent.remove(&other);
                it.gone.remove(&other);
            } else {
                let since = *it.silent.entry(other).or_insert(now);
                if now >= since + 6_000 && it.gone.insert(other) {
                    self.input(peer, Input::Gone(key_of(other)))?;
                }
            }
        }
        Ok(())
    }

    /// A peer without a room goes to the door, whoever stands there.
    fn go_to_the_door(&mut self, peer: usize) {
        let Some(it) = self.peers.get(peer) else {
            return;
        };
        let waits = it.asked.is_some_and(|(until, _)| until > self.now) || it.next_ask > self.now;
        if it.node.is_some() || it.back_at > self.now || waits {
            return;
        }
        if let Some((epoch, id)) = it.old {
            let signature = seal(&key_of(peer), &ended_digest(&epoch, id));
            for other in 0..self.peers.len() {
                self.post(peer, other, Happening::Ended(other, id, signature));
            }
        }
        let doormen: Vec<usize> = (0..self.peers.len())
            .filter(|other| {
                self.peers
                    .get(*other)
                    .and_then(|it| it.was.as_ref())
                    .is_some_and(|it| it.doorman)
            })
            .filter(|other| self.peers.get(*other).is_some_and(|it| it.node.is_some()))
            .collect();
        if let Some(it) = self.peers.get_mut(peer) {
            it.next_ask = self.now + 1_000;
        }
        let Some(door) = self.rng.pick(&doormen).copied() else {
            return;
        };
        let nonce = self.nonce();
        let priority = self.rng.below(4) as u8;
        let newcomer = Newcomer {
            key: key_of(peer),
            participant: format!("p{peer}"),
            priority,
            nonce,
            replaces: None,
        };
        let now = self.now;
        if let Some(it) = self.peers.get_mut(peer) {
            it.asked = Some((now + 8_000, nonce));
        }
        self.post(peer, door, Happening::Hello(door, newcomer));
    }

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

    // --- Chaos --------------------------------------------------------------------------------

    fn members(&self) -> Vec<usize> {
        let ready = |it: &Peer| it.was.as_ref().is_some_and(|it| it.ready) && it.node.is_some();
        (0..self.peers.len())
            .filter(|it| self.peers.get(*it).is_some_and(ready))
            .collect()
    }

    fn chaos(&mut self) -> Result<(), Violation> {
        let end = self.now + CHAOS_MS;
        // Some time to come together first, mostly.
        let calm = self.now
            + self
                .rng
                .pick(&[0, 4_000, 9_000, 16_000])
                .copied()
                .unwrap_or(0);
        let pace = self
            .rng
            .pick(&[700, 2_000, 5_000, 12_000])
            .copied()
            .unwrap_or(2_000);
        let busy = self.rng.pick(&[100, 300, 1_000]).copied().unwrap_or(300);
        let mut next_fault = calm;
        let mut next_write = self.now;
        while self.now < end {
            self.tick()?;
            self.meet_doom();
            if self.now >= next_write {
                next_write = self.now + self.rng.between(1, busy);
                let members = self.members();
                let awake: Vec<usize> = members
                    .into_iter()
                    .filter(|it| {
                        self.peers
                            .get(*it)
                            .is_some_and(|it| it.frozen_until <= self.now)
                    })
                    .collect();
                if let Some(peer) = self.rng.pick(&awake).copied() {
                    self.write(peer)?;
                }
            }
            if self.now >= next_fault {
                next_fault = self.now + self.rng.between(1, pace);
                self.fault()?;
            }
        }
        Ok(())
    }

    fn count(&mut self, fault: &'static str) {
        *self.report.faults.entry(fault).or_insert(0) += 1;
        self.trace(|| format!("fault: {fault}"));
    }

    fn fault(&mut self) -> Result<(), Violation> {
        let all: Vec<usize> = (0..self.peers.len()).collect();
        let Some(one) = self.rng.pick(&all).copied() else {
            return Ok(());
        };
        let Some(other) = self.rng.pick(&all).copied() else {
            return Ok(());
        };
        match self.rng.below(14) {
            0 | 1 => self.part(),
            2 => {
                self.blocked.insert((one, other));
                self.blocked.insert((other, one));
                self.count("cut link");
            }
            3 => {
                self.blocked.insert((one, other));
                self.count("one-way link");
            }
            4 => {
                // Only one reaches all.
                self.blocked = all
                    .iter()
                    .flat_map(|a| all.iter().map(move |b| (*a, *b)))
                    .filter(|(a, b)| *a != one && *b != one)
                    .collect();
                self.count("hub");
            }
            5 | 6 => {
                self.blocked.clear();
                self.count("heal");
            }
            7 | 8 => self.crash(one, 0),
            9 => {
                // Back at once under the same key.
                self.crash(one, 1);
            }
            10 => self.freeze(one),
            11 => {
                let by = self.rng.between(500, 20_000);
                if let Some(it) = self.peers.get_mut(one) {
                    it.clock += by;
                }
                self.count("clock jump");
            }
            12 => {
                let now = self.now;
                let graceful = self.rng.chance(60);
                if self.members().len() > 1 && self.members().contains(&one) {
                    if graceful {
                        self.input(one, Input::Leave)?;
                        if let Some(it) = self.peers.get_mut(one) {
                            it.leaving = Some(now);
                        }
                        self.count("leave");
                    } else {
                        self.input(one, Input::HandOver)?;
                        self.count("hand-over");
                    }
                }
            }
            _ => {
                self.loss = self.rng.pick(&[0, 0, 2, 10, 30]).copied().unwrap_or(0);
                self.duplicate = self.rng.pick(&[0, 0, 5, 20]).copied().unwrap_or(0);
                self.delay = self
                    .rng
                    .pick(&[(1, 5), (5, 40), (20, 120), (1, 300), (200, 900)])
                    .copied()
                    .unwrap_or((1, 5));
                self.count("weather");
            }
        }
        Ok(())
    }

    /// Two sides that cannot reach each other.
    fn part(&mut self) {
        let all = 0..self.peers.len();
        let side: BTreeSet<usize> = all.clone().filter(|_| self.rng.chance(50)).collect();
        let apart = |a, b| side.contains(&a) != side.contains(&b);
        self.blocked = all
            .clone()
            .flat_map(|a| all.clone().map(move |b| (a, b)))
            .filter(|(a, b)| apart(*a, *b))
            .collect();
        self.count("partition");
    }

    /// Something goes wrong when a leader has taken other voters into force, or a survivor has signed.
    fn spite_at(&mut self, peer: usize) {
        match self.rng.below(6) {
            0 => self.crash_unsent(peer),
            1 | 2 => {
                let other = self.rng.below(self.peers.len() as u64) as usize;
                self.crash_unsent(peer);
                self.crash(other, 0);
            }
            3 => self.freeze(peer),
            _ => self.part(),
        }
    }

    /// What a leader sends behind a proposal of other voters reaches all but those who are to go on
    /// without it: one, or half.
    fn doom(&mut self, leader: usize) {
        let at = self.now + self.rng.between(50, 1_500);
        let voters = self.peers.get(leader).and_then(|it| it.was.as_ref());
        let voters = voters.map_or(0, |it| it.conf.voters.len());
        // Half of those who vote after it: two if a fourth comes, one if a third goes.
        let pulse = voters >= 3 && self.rng.chance(70);
        let count = if pulse {
            1 + self.rng.below(2) as usize
        } else {
            1
        };
        let mut others: Vec<usize> = (0..self.peers.len()).filter(|it| *it != leader).collect();
        let mut spared = BTreeSet::new();
        while spared.len() < count && !others.is_empty() {
            let next = self.rng.below(others.len() as u64) as usize;
            spared.insert(others.swap_remove(next));
        }
        self.trace(|| format!("p{leader} proposes voters; its entries do not reach {spared:?}"));
        self.doom = Some(Doom {
            at,
            leader,
            spared,
            pulse,
        });
    }

    fn meet_doom(&mut self) {
        let Some(doom) = self.doom.take_if(|it| self.now >= it.at) else {
            return;
        };
        self.count("doom");
        self.crash_unsent(doom.leader);
        for other in 0..self.peers.len() {
            let crashes = other != doom.leader && !doom.spared.contains(&other);
            if crashes && (doom.pulse || self.rng.chance(70)) {
                self.crash(other, 0);
            }
        }
    }

    /// A crash that takes with it what was on its way from there.
    fn crash_unsent(&mut self, peer: usize) {
        let key = key_of(peer);
        let stays = |it: &Happening| !matches!(it, Happening::Frame(_, from, _) if *from == key);
        self.happenings.retain(|_, it| stays(it));
        self.crash(peer, 0);
    }

    /// Hears and does nothing for a while, as a page in the background.
    fn freeze(&mut self, peer: usize) {
        let until = self.now + self.rng.between(500, 25_000);
        if let Some(it) = self.peers.get_mut(peer) {
            it.frozen_until = until;
        }
        self.count("freeze");
    }

    /// Ends a peer's program; everything it knew is gone. The last one that has the room stays.
    fn crash(&mut self, peer: usize, reload: u64) {
        let members = self.members();
        if members.len() < 2 && members.contains(&peer) {
            return;
        }
        let wait = if reload == 1 {
            50
        } else {
            self.rng.between(1_000, 30_000)
        };
        let now = self.now;
        let remembers = self.rng.chance(70);
        if let Some(it) = self.peers.get_mut(peer) {
            let Some(node) = it.node.take() else { return };
            let status = node.status();
            it.old = (remembers && status.id > 0).then_some((status.epoch, status.id));
            it.was = None;
            it.tickets.clear();
            it.kept.clear();
            it.asked = None;
            it.frozen_until = 0;
            it.back_at = now + wait;
        }
        self.trace(|| format!("p{peer} crashes"));
        self.count(if reload == 1 { "reload" } else { "crash" });
    }

    // --- Healing ------------------------------------------------------------------------------

    fn heal(&mut self) -> Result<(), Violation> {
        self.blocked.clear();
        self.doom = None;
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
        let lost = self.checker.history(&log_of(node), node.records())?;
        self.report.lost = lost;
        Ok(())
    }
}
