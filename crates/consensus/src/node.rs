//! One member of a room.
//!
//! 1. It begins as the founder of a room ([`Node::create`]), or with a [`Welcome`] from the doorman
//!    ([`Node::join`]); then its state arrives as a snapshot, and [`Event::Ready`] tells so.
//! 2. [`Node::handle`] takes what happens: ticks, frames, links, proposals. Everything is done when it
//!    returns, except what the application has to decide ([`Event::Decide`]).
//! 3. The leader is the doorman: it admits newcomers, and removes and promotes members.
//! 4. Without a quorum the survivors may begin a new epoch (`takeover.rs`).
//! 5. It ends with [`Event::Over`]: left, removed, or superseded by another lineage. A node that is
//!    over answers nothing; to come back, join anew.

mod apply;
mod blob;
mod config;
mod consent;
mod door;
mod epoch;
mod interface;
mod lead;
mod propose;
mod receive;
mod send;
mod takeover;

use std::collections::VecDeque;

use crate::conf::Conf;
use crate::keys::{Hash, Key, Signature, decode, digest, encode};
use crate::limits;
use crate::machine::{Applied, Command, Machine, Member, Newcomer, Why};
use crate::raft::{Entry, Kind, Message, Position, Raft, Snapshot, TICK_MS, Token};
use crate::recovery::{Base, Record, Report};
use crate::session::{Payload, Proposal, Session, SessionId};
use crate::state::{Change, State};
use crate::storage::Saved;
use crate::wire::{Body, Check, Chunk, Envelope, Frame, Lane, Lineage};
use iroh_rooms_sorted::{SortedMap, SortedSet};

use blob::Assembly;
#[cfg(feature = "mutations")]
pub use config::Mutation;
pub use config::{Approval, Config, Recovery};
use consent::{Asked, Considered};
use door::Guest;
pub use interface::{Event, Input, Orphan, Outcome, Outputs, Send, Status, Verdict, Welcome};
use propose::Pending;
use send::Transfer;

/// A gap between two inputs after which a leader gives up leading before anything else: its tab was
/// frozen, and others have elected another. The shortest election timeout.
const RESUME_GAP_MS: u64 = 1_500;
/// Ticks made up for at once after a gap.
const TICKS_AT_ONCE: u64 = 5;
/// Without a leader for so long, the quorum counts as lost.
pub const QUORUM_LOST_MS: u64 = 5_000;
/// Who was admitted, or follows a new epoch, and hears of no leader for so long is not in it.
const SNAPSHOT_WAIT_MS: u64 = 10_000;
/// How often the same is told to the same peer at the most.
const REPEAT_MS: u64 = 1_000;

/// A member of a room.
pub struct Node {
    config: Config,
    /// The id of the door as the application knows it.
    door: Hash,
    me: u64,
    records: Vec<Record>,
    epoch: Hash,
    raft: Raft,
    machine: Machine,
    /// The state is there.
    ready: bool,
    over: Option<Why>,
    degraded: bool,

    now: u64,
    next_tick: u64,
    rng: u64,

    to_apply: VecDeque<(u64, Entry)>,
    /// The index that the application is deciding about.
    deciding: Option<u64>,
    /// The machine in the snapshot that Raft is being given.
    incoming: Option<Machine>,
    /// Up to where changes were told.
    shown: u64,
    acknowledged: u64,
    recent: VecDeque<(u64, Key, Change)>,
    recent_bytes: usize,
    checks: SortedMap<u64, Check>,
    claims: SortedMap<u64, Check>,

    /// Members that the machine does not know yet, or any more.
    roster: SortedMap<u64, Key>,
    /// Who votes, as whoever named the room said it, until its state has arrived.
    named: SortedSet<u64>,
    /// Appends to learners that wait for the commit of their entries.
    held: Vec<(u64, Message)>,
    links: SortedSet<Key>,
    /// Through whom a member was last heard, where it was not directly.
    routes: SortedMap<u64, Key>,
    heard: SortedMap<u64, u64>,
    gone: SortedSet<u64>,
    /// Of these a new incarnation says that they are over.
    ended: SortedSet<u64>,
    told: SortedMap<(Key, u8), u64>,
    assemblies: SortedMap<u64, Assembly>,
    transfers: SortedMap<u64, Transfer>,
    token: Option<(u64, Token)>,

    /// Changes of others that the application was asked about.
    considered: VecDeque<Considered>,
    session: Option<SessionId>,
    sequence: u64,
    pending: VecDeque<Pending>,

    /// Of the leader: who waits at the door, who keeps up since when, who is to go, what of whom was
    /// proposed in this term.
    joins: VecDeque<Newcomer>,
    /// Newcomers that voters are to speak for.
    guests: SortedMap<u64, Guest>,
    stable: SortedMap<u64, u64>,
    leaving: SortedMap<u64, Why>,
    proposed: SortedMap<SessionId, u64>,
    asked: SortedMap<(SessionId, u64), Asked>,
    proposed_in: u64,
    going: bool,

    doorman: (u64, bool),
    last_leader: u64,
    quorum_at: u64,
    quorum_lost: bool,
    /// Since when nothing of one's own has stood in the way of being heard.
    awake_since: u64,
    online: bool,
    surveyed_at: u64,
    reports: SortedMap<u64, (u64, Report)>,
    /// The successor that is being signed, and what it goes on from.
    offer: Option<Record>,
    base: Option<Base>,
    /// The body of the one successor that was signed.
    fenced: Option<Hash>,
    /// Since when, and when last, a leader of the old epoch was heard since then.
    left_behind: Option<(u64, u64)>,

    out: Outputs,
    refused: SortedMap<&'static str, u64>,
}

impl Node {
    fn empty(
        config: Config,
        me: u64,
        records: Vec<Record>,
        machine: Machine,
        now: u64,
    ) -> Option<Self> {
        let raft = Raft::new(me, None, config.seed, config.pre_vote())?;
        Some(Self {
            rng: config.seed | 1,
            door: config.room,
            me,
            epoch: records.last().map_or([0; 32], Record::id),
            records,
            raft,
            machine,
            ready: false,
            over: None,
            degraded: false,
            now,
            next_tick: now + TICK_MS,
            to_apply: VecDeque::new(),
            deciding: None,
            incoming: None,
            shown: 0,
            acknowledged: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            checks: SortedMap::new(),
            claims: SortedMap::new(),
            roster: SortedMap::new(),
            named: SortedSet::new(),
            held: Vec::new(),
            links: SortedSet::new(),
            routes: SortedMap::new(),
            heard: SortedMap::new(),
            gone: SortedSet::new(),
            ended: SortedSet::new(),
            told: SortedMap::new(),
            assemblies: SortedMap::new(),
            transfers: SortedMap::new(),
            token: None,
            session: None,
            sequence: 0,
            pending: VecDeque::new(),
            joins: VecDeque::new(),
            guests: SortedMap::new(),
            stable: SortedMap::new(),
            leaving: SortedMap::new(),
            proposed: SortedMap::new(),
            asked: SortedMap::new(),
            considered: VecDeque::new(),
            proposed_in: 0,
            going: false,
            doorman: (0, false),
            last_leader: 0,
            quorum_at: now,
            quorum_lost: false,
            awake_since: now,
            online: true,
            surveyed_at: 0,
            reports: SortedMap::new(),
            offer: None,
            base: None,
            fenced: None,
            left_behind: None,
            out: Outputs::default(),
            refused: SortedMap::new(),
            config,
        })
    }

    #[cfg(feature = "mutations")]
    fn breaks(&self, mutation: Mutation) -> bool {
        self.config.mutation == Some(mutation)
    }

    /// Whether a successor is signed, so that nothing may happen in this epoch any more.
    fn is_fenced(&self) -> bool {
        #[cfg(feature = "mutations")]
        if self.breaks(Mutation::NoFence) {
            return false;
        }
        self.fenced.is_some()
    }

    fn ended(&mut self, id: u64, signature: &Signature) {
        let digest = ended_digest(&self.epoch, id);
        let key = self.key_of(id).filter(|_| id != self.me);
        if key.is_some_and(|key| self.config.keys.verify(&key, &digest, signature)) {
            self.gone.insert(id);
            self.ended.insert(id);
            self.leaving.insert(id, Why::Replaced);
        } else {
            self.refuse("not the end of a member");
        }
    }

    /// Takes what happened, with the time in milliseconds since 1970, and says what is to be done.
    pub fn handle(&mut self, input: Input, now: u64) -> Outputs {
        self.handle_all([input], now)
    }

    /// The same with several inputs that came at once. Proposals that follow each other travel
    /// together: messages are signed and checked one by one, which costs more than what is in them.
    pub fn handle_all(&mut self, inputs: impl IntoIterator<Item = Input>, now: u64) -> Outputs {
        let mut inputs = inputs.into_iter().peekable();
        while let Some(input) = inputs.next().filter(|_| self.over.is_none()) {
            let proposes = |it: &Input| matches!(it, Input::Propose { .. });
            let goes_on = proposes(&input) && inputs.peek().is_some_and(proposes);
            self.pass_time(now);
            self.take(input);
            if !goes_on {
                self.pump();
            }
        }
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Receive(from, bytes) => self.receive(from, &bytes),
            Input::Link(key, true) => {
                self.links.insert(key);
                let back = self.id_of(&key);
                self.gone.retain(|id| Some(*id) != back);
            }
            Input::Link(key, false) => {
                self.links.remove(&key);
            }
            Input::Gone(key) => self.gone.extend(self.id_of(&key)),
            Input::Online(online) => {
                self.online = online;
                self.awake_since = self.now;
            }
            Input::Propose {
                ticket,
                payload,
                base,
            } => self.propose(ticket, payload, base),
            Input::Admit(newcomer) => self.admit(newcomer),
            Input::Meet(key) => self.tell_lineage(key),
            Input::Ended(id, signature) => self.ended(id, &signature),
            Input::Leave => self.going = true,
            Input::HandOver => self.hand_over(),
            Input::Recover => self.recover_alone(),
            Input::Decided(index, verdict) => self.decided(index, verdict),
            Input::Considered(proposal, agrees) => self.considered(proposal, agrees),
        }
    }

    fn pass_time(&mut self, now: u64) {
        let gap = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        if gap >= RESUME_GAP_MS {
            // Frozen or asleep. Others have elected someone; nothing of before may be acted upon.
            if self.raft.is_leader() && self.raft.conf().voters.len() > 1 {
                self.raft.step_down();
                self.pump();
            }
            self.awake_since = self.now;
            self.heard.clear();
            self.reports.clear();
        }
        let mut ticks = 0;
        while self.next_tick <= self.now {
            self.next_tick += TICK_MS;
            ticks += 1;
            if ticks > TICKS_AT_ONCE {
                continue;
            }
            if !self.is_fenced() && !self.degraded {
                self.raft.tick();
            }
        }
        if ticks > 0 {
            self.periodic();
        }
    }

    fn periodic(&mut self) {
        self.watch_quorum();
        self.let_held_go();
        self.send_snapshots_again();
        self.give_up();
        if self.told.len() > limits::MEMBERS * 8 {
            self.told.retain(|_, at| *at + REPEAT_MS > self.now);
        }
        self.lead();
        self.take_over();
        self.leave();
        self.look_for_others();
    }

    /// Who hears of no leader may have been removed, or left behind by a new epoch: any member it
    /// asks will tell.
    fn look_for_others(&mut self) {
        if self.over.is_some() {
            return;
        }
        if self.raft.conf().voters.is_empty() && self.now >= self.quorum_at + SNAPSHOT_WAIT_MS {
            return self.end(Why::Lost, Vec::new());
        }
        let key = self.config.keys.key();
        if self.quorum_lost && self.may_tell(&key, b'q') {
            let me = self.me;
            let members: Vec<u64> = self.machine.members.keys().copied().collect();
            for id in members.into_iter().filter(|id| *id != me) {
                self.send(id, &Body::Who(me));
            }
        }
    }

    fn watch_quorum(&mut self) {
        if self.raft.is_leader() {
            self.quorum_at = self.now;
        }
        let lost = self.now >= self.quorum_at + QUORUM_LOST_MS;
        if self.ready && lost != self.quorum_lost {
            self.quorum_lost = lost;
            self.out.events.push(match lost {
                true => Event::QuorumLost,
                false => Event::QuorumRestored,
            });
        }
    }

    fn watch_doorman(&mut self) {
        let leader = self.raft.leader();
        if leader != 0 {
            self.last_leader = leader;
        }
        let door = self.raft.is_settled() && self.fenced.is_none();
        if (leader, door) != self.doorman {
            self.doorman = (leader, door);
            let key = self.key_of(leader);
            self.out.events.push(Event::Doorman(key, door));
        }
    }

    fn end(&mut self, why: Why, mut orphaned: Vec<Orphan>) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(why);
        let author = self.config.keys.key();
        for pending in std::mem::take(&mut self.pending) {
            if !pending.told {
                self.out
                    .events
                    .push(Event::Outcome(pending.ticket, Outcome::Unknown));
            }
            if let (Payload::Change(change), None) = (pending.payload, &pending.done)
                && why == Why::Lost
            {
                orphaned.push(Orphan {
                    index: None,
                    author,
                    change,
                });
            }
        }
        self.out.events.push(Event::Over(why, orphaned));
    }

    /// How it is.
    pub fn status(&self) -> Status {
        Status {
            epoch: self.epoch,
            number: self.records.last().map_or(0, |it| it.number),
            id: self.me,
            term: self.raft.term(),
            leader: self.raft.leader(),
            doorman: self.doorman.1 && self.over.is_none(),
            leads: self.raft.is_leader(),
            last: self.raft.last(),
            index: self.machine.index,
            acknowledged: self.acknowledged,
            conf: self.raft.conf().clone(),
            ready: self.ready && self.over.is_none(),
            quorum_lost: self.quorum_lost,
            fenced: self.fenced.is_some(),
            degraded: self.degraded,
        }
    }

    /// What all agree on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The id that the room was founded under.
    pub fn room(&self) -> Hash {
        self.config.room
    }

    /// Whom it has to reach: who votes, and who votes itself all members; before the state has arrived
    /// the voters that the welcome named.
    pub fn peers(&self) -> SortedSet<Key> {
        let conf = self.raft.conf();
        let votes = conf.is_voter(self.me);
        let mut ids = conf.ids();
        ids.retain(|id| votes || conf.is_voter(*id));
        if !self.ready {
            ids.extend(self.named.iter().copied());
        }
        let mut peers: SortedSet<Key> = ids.into_iter().filter_map(|id| self.key_of(id)).collect();
        if votes {
            peers.extend(self.machine.members.values().map(|it| it.key));
        }
        peers.remove(&self.config.keys.key());
        peers
    }

    /// Whether someone belongs to the room, or still has to help with its own going.
    pub fn knows(&self, key: &Key) -> bool {
        let mut ids = self.raft.conf().ids().into_iter();
        self.machine.find(key).is_some() || ids.any(|id| self.key_of(id).as_ref() == Some(key))
    }

    /// The key of a member.
    pub fn key(&self, id: u64) -> Option<Key> {
        self.key_of(id)
    }

    /// The own session, once the state has arrived.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// The records of the lineage, oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The body of the successor that this member has signed and that has not begun.
    pub fn signed(&self) -> Option<Hash> {
        self.fenced
    }

    /// The log after an index, as far as it is kept.
    pub fn log_after(&self, index: u64) -> Option<Vec<Entry>> {
        self.raft.entries_after(index)
    }

    /// What was refused of peers, by reason.
    pub fn refused(&self) -> &SortedMap<&'static str, u64> {
        &self.refused
    }

    /// What to keep on disk.
    pub fn saved(&self) -> Saved {
        Saved {
            room: self.config.room,
            epoch: self.epoch,
            number: self.records.last().map_or(0, |it| it.number),
            index: self.machine.index,
            state: self.machine.state.clone(),
        }
    }
}

/// What a new incarnation of a key signs about an old one, which had this id in this epoch.
pub fn ended_digest(epoch: &Hash, id: u64) -> Hash {
    digest("iroh-rooms/ended/1", &[epoch, &id.to_le_bytes()])
}
