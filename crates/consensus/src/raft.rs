//! The seam to the `raft` crate: the only file that names its types.
//!
//! Raft's messages are translated into [`Message`], which can say only what a peer may say: no
//! proposals, no reads, no requests for snapshots, and entries that are contiguous by construction.
//! What then still could make the crate panic is refused by [`crate::sanitize`] before [`Raft::step`].
//!
//! Everything is in memory: a member that restarts is a new incarnation with a new id, so nothing has
//! to be on disk before it counts.

use std::cell::{Cell, RefCell};

use raft::{
    GetEntriesContext, RawNode, SnapshotStatus, StateRole, Storage, StorageError,
    eraftpb::{self, ConfChangeType, ConfChangeV2, EntryType, MessageType},
};
use serde::{Deserialize, Serialize};

use crate::conf::{Change, Conf};

/// Milliseconds of one tick.
pub const TICK_MS: u64 = 100;
/// Ticks between heartbeats.
pub const HEARTBEAT_TICKS: usize = 3;
/// An election begins after this many ticks without a leader at the least,
pub const ELECTION_TICKS: usize = 15;
/// and fewer than this many at the most.
pub const ELECTION_TICKS_MAX: usize = 31;
/// Bytes of entries in one append message.
const MESSAGE_BYTES: u64 = 64 * 1024;
/// Append messages under way to one member. Entries that come meanwhile wait and travel together: each
/// message is signed and checked, which costs more than the entries in it.
const INFLIGHT: usize = 4;
/// Uncommitted bytes of a leader; beyond this it takes no more proposals.
const UNCOMMITTED_BYTES: u64 = 4 * 1024 * 1024;
/// Entries kept behind the applied index for members that lag; who lags more gets a snapshot.
const KEEP_ENTRIES: usize = 4_096;
/// Bytes kept likewise.
const KEEP_BYTES: usize = 8 * 1024 * 1024;

/// A place in the log.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash,
)]
pub struct Position {
    /// Term of the entry. Before the index, so that the derived order is that of Raft's elections.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The term it was proposed in.
    pub term: u64,
    /// Whether it changes Raft's configuration. Empty data then means: leave the joint one.
    pub config: bool,
    /// An encoded [`crate::machine::Command`], or nothing.
    pub data: Vec<u8>,
}

/// A leader's permission to campaign at once, although it still leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Who gave it.
    pub leader: u64,
    /// Its signature over epoch, term and the successor's id.
    pub signature: crate::keys::Signature,
}

/// What members' Rafts say to each other. Sender and receiver are in the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The sender's term; for a pre-vote and its grant the next one.
    pub term: u64,
    /// The rest.
    pub kind: Kind,
}

impl Message {
    /// The index of the last entry in it, if it has any.
    pub fn last_entry(&self) -> Option<u64> {
        match &self.kind {
            Kind::Append {
                previous, entries, ..
            } if !entries.is_empty() => Some(previous.index + entries.len() as u64),
            _ => None,
        }
    }

    /// Takes in the append that follows on this one, so that both travel as one; what does not fit is
    /// given back.
    pub fn join(&mut self, next: Self) -> Option<Self> {
        let end = self.last_entry().filter(|_| self.term == next.term);
        let Kind::Append {
            previous,
            commit: later,
            entries: more,
            ..
        } = &next.kind
        else {
            return Some(next);
        };
        let Kind::Append {
            commit, entries, ..
        } = &mut self.kind
        else {
            return Some(next);
        };
        let bytes: usize = entries.iter().chain(more).map(|it| it.data.len()).sum();
        if end != Some(previous.index) || bytes as u64 > MESSAGE_BYTES {
            return Some(next);
        }
        *commit = (*commit).max(*later);
        entries.extend_from_slice(more);
        None
    }
}

/// The kinds of [`Message`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Asks for a vote, or whether it would be given.
    Vote {
        /// Only asks whether.
        pre: bool,
        /// The end of the candidate's log.
        last: Position,
        /// Why it may campaign although there is a leader.
        token: Option<Token>,
    },
    /// Answers it.
    VoteReply {
        /// Answers a pre-vote.
        pre: bool,
        /// Refused.
        reject: bool,
    },
    /// Entries, or none to tell the commit index.
    Append {
        /// What comes before the first entry.
        previous: Position,
        /// The leader's commit index.
        commit: u64,
        /// Entries from `previous.index + 1` on.
        entries: Vec<Entry>,
        /// What the leader knows to survive, see [`Raft::durable`].
        acknowledged: u64,
    },
    /// Answers it.
    AppendReply {
        /// Up to where the logs agree; of a rejection the index that was asked about.
        index: u64,
        /// Where to look instead.
        reject: Option<Position>,
        /// The follower's commit index.
        commit: u64,
    },
    /// The leader is there.
    Heartbeat {
        /// Its commit index, as far as the receiver is known to agree.
        commit: u64,
        /// As in `Append`.
        acknowledged: u64,
    },
    /// Answers it.
    HeartbeatReply {
        /// The follower's commit index.
        commit: u64,
    },
    /// A snapshot. Never in an envelope: it travels in chunks.
    Snapshot(Snapshot),
    /// Campaign now.
    TimeoutNow {
        /// The permission to show with it.
        token: Option<Token>,
    },
}

/// A state with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The last entry in it.
    pub position: Position,
    /// The configuration there.
    pub conf: Conf,
    /// An encoded [`crate::machine::Machine`].
    pub data: Vec<u8>,
}

/// What Raft wants done.
#[derive(Default)]
pub struct Drained {
    /// Messages and their receivers.
    pub messages: Vec<(u64, Message)>,
    /// A snapshot took the place of the log.
    pub installed: Option<u64>,
    /// Entries to apply, with their indices.
    pub committed: Vec<(u64, Entry)>,
}

/// One member's Raft.
pub struct Raft {
    node: RawNode<Store>,
    rng: u64,
    /// The election timeout in force and what it was drawn for.
    timeout: (usize, (u64, u64, bool)),
}

impl Raft {
    /// A member whose log begins with a snapshot. All who begin an epoch together begin it alike:
    /// with the same snapshot and the same entries behind it. `None` is a newcomer without a log.
    pub fn new(
        id: u64,
        start: Option<(Snapshot, Vec<Entry>)>,
        seed: u64,
        pre_vote: bool,
    ) -> Option<Self> {
        let mut store = Store::default();
        let mut applied = 0;
        if let Some((snapshot, tail)) = start {
            applied = snapshot.position.index;
            store.base = snapshot.position;
            store.conf = snapshot.conf.clone();
            store.hard.term = snapshot.position.term.max(1);
            store.hard.commit = applied;
            for (at, entry) in tail.into_iter().enumerate() {
                store.hard.term = store.hard.term.max(entry.term);
                store
                    .entries
                    .push(to_raft_entry(applied + 1 + at as u64, entry));
            }
            store.snapshot = RefCell::new(Some(snapshot));
        }
        let config = raft::Config {
            id,
            election_tick: ELECTION_TICKS,
            min_election_tick: ELECTION_TICKS,
            max_election_tick: ELECTION_TICKS_MAX,
            heartbeat_tick: HEARTBEAT_TICKS,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: INFLIGHT,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            max_committed_size_per_ready: UNCOMMITTED_BYTES,
            pre_vote,
            check_quorum: true,
            applied,
            ..Default::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, store, &logger).ok()?;
        let mut this = Self {
            node,
            rng: seed | 1,
            timeout: (ELECTION_TICKS, (u64::MAX, 0, false)),
        };
        this.redraw(true);
        Some(this)
    }

    /// Draws a new election timeout where Raft has drawn one itself, from a source that cannot be
    /// replayed. `again` for another election in the same term.
    fn redraw(&mut self, again: bool) {
        let raft = &self.node.raft;
        let drawn_for = (raft.term, raft.leader_id, self.is_leader());
        if again || self.timeout.1 != drawn_for {
            // xorshift64: any will do that is the same every time.
            self.rng ^= self.rng << 13;
            self.rng ^= self.rng >> 7;
            self.rng ^= self.rng << 17;
            let span = (ELECTION_TICKS_MAX - ELECTION_TICKS) as u64;
            self.timeout = (ELECTION_TICKS + (self.rng % span) as usize, drawn_for);
        }
        self.node
            .raft
            .set_randomized_election_timeout(self.timeout.0);
    }

    /// One tick of [`TICK_MS`].
    pub fn tick(&mut self) {
        let campaigned = self.node.tick() && !self.is_leader();
        self.redraw(campaigned);
    }

    /// Campaigns without waiting for the timeout: for the only voter of a new room.
    pub fn campaign(&mut self) {
        let _ = self.node.campaign();
        self.redraw(false);
    }

    /// Gives up leading or following; the next leader is found by election.
    pub fn step_down(&mut self) {
        let term = self.node.raft.term;
        self.node.raft.become_follower(term, 0);
        self.redraw(true);
    }

    /// Takes a message that [`crate::sanitize`] let pass.
    pub fn step(&mut self, from: u64, message: Message) {
        let message = to_raft(from, self.node.raft.id, message);
        let _ = self.node.step(message);
        self.redraw(false);
    }

    /// Appends a command, if this member leads and has room for it.
    pub fn propose(&mut self, data: Vec<u8>) -> bool {
        self.is_leader() && self.node.propose(Vec::new(), data).is_ok()
    }

    /// Whether a change of configuration would be taken now. Raft turns one that comes too early
    /// into an empty entry without a word.
    pub fn can_change(&self) -> bool {
        let raft = &self.node.raft;
        self.is_leader()
            && !raft.has_pending_conf()
            && raft.lead_transferee.is_none()
            && raft.commit_to_current_term()
    }

    /// Appends a change of configuration; none at all leaves the joint one.
    pub fn propose_change(&mut self, changes: &[Change], data: Vec<u8>) -> bool {
        self.can_change()
            && self.is_joint() == changes.is_empty()
            && self
                .node
                .propose_conf_change(data, to_conf_change(changes))
                .is_ok()
    }

    /// Takes a committed change into force. Of changes that Raft refuses nothing happens, the same
    /// at every member.
    pub fn apply_change(&mut self, changes: &[Change]) -> bool {
        let Ok(conf) = self.node.apply_conf_change(&to_conf_change(changes)) else {
            return false;
        };
        self.node.mut_store().conf = from_conf_state(&conf);
        self.redraw(false);
        true
    }

    /// Hands the lead to `to`, if it is a voter: it has an election timeout for it.
    pub fn transfer(&mut self, to: u64) {
        self.node.transfer_leader(to);
    }

    /// Tells that a snapshot did not arrive; without this the member would never be sent anything.
    pub fn snapshot_failed(&mut self, to: u64) {
        self.node.report_snapshot(to, SnapshotStatus::Failure);
    }

    /// What is to be done. Call [`Raft::applied`] for what was, then look again: leaving a joint
    /// configuration begins there.
    pub fn drain(&mut self) -> Drained {
        let mut drained = Drained::default();
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            if !ready.snapshot().is_empty() {
                let snapshot = from_raft_snapshot(ready.snapshot());
                drained.installed = Some(snapshot.position.index);
                drained.committed.clear();
                self.node.mut_store().install(snapshot);
            }
            let entries = ready.take_entries();
            let store = self.node.mut_store();
            store.append(entries);
            if let Some(hard) = ready.hs() {
                store.hard = hard.clone();
            }
            let mut messages = ready.take_messages();
            let mut committed = ready.take_committed_entries();
            messages.extend(ready.take_persisted_messages());
            let mut light = self.node.advance_append(ready);
            messages.extend(light.take_messages());
            committed.extend(light.take_committed_entries());
            drained
                .messages
                .extend(messages.into_iter().filter_map(from_raft));
            drained
                .committed
                .extend(committed.into_iter().map(from_raft_entry));
        }
        drained
    }

    /// Tells that everything up to `index` is applied, and forgets what nobody needs any more.
    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        self.node.mut_store().compact(index);
    }

    /// Members that need a snapshot which is not made yet. Answer with [`Raft::offer`].
    pub fn wanted(&self) -> bool {
        self.node.store().wanted.get() != 0
    }

    /// Gives Raft a snapshot of the applied state, and lets it send it to who waits for one.
    pub fn offer(&mut self, data: Vec<u8>) {
        let index = self.node.raft.raft_log.applied;
        let Ok(term) = self.node.raft.raft_log.term(index) else {
            return;
        };
        let store = self.node.mut_store();
        let to = store.wanted.replace(0);
        *store.snapshot.borrow_mut() = Some(Snapshot {
            position: Position { term, index },
            conf: store.conf.clone(),
            data,
        });
        if self.is_leader() && self.node.raft.prs().get(to).is_some() {
            self.node.raft.send_append(to);
        }
    }

    /// Heartbeats now instead of with the next tick that has one.
    pub fn ping(&mut self) {
        self.node.ping();
    }

    /// The own id.
    pub fn id(&self) -> u64 {
        self.node.raft.id
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The id of the leader of this term, 0 if none is known.
    pub fn leader(&self) -> u64 {
        self.node.raft.leader_id
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Whether this member leads and what came before it in the log is settled.
    pub fn is_settled(&self) -> bool {
        self.is_leader() && self.node.raft.apply_to_current_term()
    }

    /// The end of the log.
    pub fn last(&self) -> Position {
        let log = &self.node.raft.raft_log;
        let index = log.last_index();
        Position {
            term: log.term(index).unwrap_or(0),
            index,
        }
    }

    /// The commit index.
    pub fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The applied index.
    pub fn applied_index(&self) -> u64 {
        self.node.raft.raft_log.applied
    }

    /// The entries after `index`; `None` if some of them are forgotten.
    pub fn entries_after(&self, index: u64) -> Option<Vec<Entry>> {
        let store = self.node.store();
        let skip = usize::try_from(index.checked_sub(store.base.index)?).ok()?;
        let entries = store.entries.iter().skip(skip).cloned();
        Some(entries.map(|entry| from_raft_entry(entry).1).collect())
    }

    /// The configuration in force.
    pub fn conf(&self) -> &Conf {
        &self.node.store().conf
    }

    /// Whether two configurations are in force.
    pub fn is_joint(&self) -> bool {
        !self.conf().outgoing.is_empty()
    }

    /// Up to where a member is known to have the leader's log.
    pub fn matched(&self, id: u64) -> u64 {
        self.node.raft.prs().get(id).map_or(0, |it| it.matched)
    }

    /// Up to where the log survives every loss that [`crate::recovery::is_lossless`] allows to be
    /// taken over from. Only a leader knows.
    ///
    /// That is the highest applied index that is on a majority of the configuration in force now,
    /// and that an entry of the leader's own term covers. Being committed is not enough: a commit
    /// may rest on the majority before a change that came into force since. Earlier changes are
    /// covered, because each later one was committed by the configuration before it.
    pub fn durable(&self) -> Option<u64> {
        let raft = &self.node.raft;
        if !self.is_leader() {
            return None;
        }
        let conf = self.conf();
        let on_majority = |voters: &iroh_rooms_sorted::SortedSet<u64>| {
            let matched = || voters.iter().map(|id| self.matched(*id));
            let have = |index: &u64| 2 * matched().filter(|it| it >= index).count() > voters.len();
            matched().filter(have).max()
        };
        let mut index = on_majority(&conf.voters)?;
        if !conf.outgoing.is_empty() {
            index = index.min(on_majority(&conf.outgoing)?);
        }
        (raft.raft_log.term(index).ok()? == raft.term).then(|| index.min(raft.raft_log.applied))
    }

    /// What half of the voters have: what [`Raft::durable`] must not be. For the simulator.
    #[cfg(feature = "mutations")]
    pub fn on_half(&self) -> Option<u64> {
        let voters = &self.conf().voters;
        let mut matched: Vec<u64> = voters.iter().map(|id| self.matched(*id)).collect();
        matched.sort_unstable_by(|a, b| b.cmp(a));
        let at = voters.len().div_ceil(2).saturating_sub(1);
        (self.is_leader()).then_some(matched.get(at).copied()?)
    }
}

// ---------------------------------------------------------------------------------------------

/// The log: entries behind a base, and the newest snapshot made of what is applied.
#[derive(Default)]
struct Store {
    hard: eraftpb::HardState,
    conf: Conf,
    /// What the first entry follows on.
    base: Position,
    entries: Vec<eraftpb::Entry>,
    snapshot: RefCell<Option<Snapshot>>,
    /// Who needs a newer snapshot, 0 if nobody.
    wanted: Cell<u64>,
}

impl Store {
    fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    /// Where an index is in `entries`; what is beyond the end is beyond it there, too.
    fn at(&self, index: u64) -> usize {
        usize::try_from(index.saturating_sub(self.base.index + 1)).unwrap_or(usize::MAX)
    }

    fn append(&mut self, entries: Vec<eraftpb::Entry>) {
        let Some(first) = entries.first() else { return };
        let keep = self.at(first.index);
        self.entries.truncate(keep);
        self.entries.extend(entries);
    }

    fn install(&mut self, snapshot: Snapshot) {
        self.base = snapshot.position;
        self.entries.clear();
        self.conf = snapshot.conf.clone();
        self.hard.commit = snapshot.position.index;
        *self.snapshot.borrow_mut() = Some(snapshot);
    }

    /// Forgets the oldest applied entries beyond what is kept, half of them at once.
    fn compact(&mut self, applied: u64) {
        let settled = self.at(applied + 1).min(self.entries.len());
        let size = |entries: &[eraftpb::Entry]| -> usize {
            entries
                .iter()
                .map(|it| it.data.len() + it.context.len())
                .sum()
        };
        // Summing up the sizes is dear, so they are looked at only now and then.
        let heavy = settled.is_multiple_of(256) && size(&self.entries) > KEEP_BYTES;
        if settled <= KEEP_ENTRIES && !heavy {
            return;
        }
        let gone = settled / 2;
        if let Some(entry) = gone.checked_sub(1).and_then(|at| self.entries.get(at)) {
            self.base = Position {
                term: entry.term,
                index: entry.index,
            };
            self.entries.drain(..gone);
        }
    }
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<raft::RaftState> {
        Ok(raft::RaftState {
            hard_state: self.hard.clone(),
            conf_state: to_conf_state(&self.conf),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.base.index {
            return Err(StorageError::Compacted.into());
        }
        let range = self.entries.get(self.at(low)..self.at(high));
        let mut left = max_size.into().unwrap_or(u64::MAX);
        let mut entries = Vec::new();
        for entry in range.ok_or(StorageError::Unavailable)? {
            let size = (entry.data.len() + entry.context.len()) as u64;
            // At least one, or nothing would ever be sent.
            if size > left && !entries.is_empty() {
                break;
            }
            left = left.saturating_sub(size);
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index < self.base.index {
            return Err(StorageError::Compacted.into());
        }
        let entry = self.entries.get(self.at(index));
        Ok(entry.ok_or(StorageError::Unavailable)?.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        // A member's id is the index of its Join, and it refuses a snapshot that it is not in.
        let least = self.base.index.max(request_index).max(to);
        match &*self.snapshot.borrow() {
            Some(snapshot) if snapshot.position.index >= least => Ok(to_raft_snapshot(snapshot)),
            _ => {
                self.wanted.set(to);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

// --- Translation ------------------------------------------------------------------------------

fn to_raft(from: u64, to: u64, message: Message) -> eraftpb::Message {
    let mut out = eraftpb::Message {
        from,
        to,
        term: message.term,
        ..Default::default()
    };
    let kind = match message.kind {
        Kind::Vote { pre, last, token } => {
            out.index = last.index;
            out.log_term = last.term;
            if token.is_some() {
                out.context = raft::CAMPAIGN_TRANSFER.to_vec();
            }
            match pre {
                true => MessageType::MsgRequestPreVote,
                false => MessageType::MsgRequestVote,
            }
        }
        Kind::VoteReply { pre, reject } => {
            out.reject = reject;
            match pre {
                true => MessageType::MsgRequestPreVoteResponse,
                false => MessageType::MsgRequestVoteResponse,
            }
        }
        Kind::Append {
            previous,
            commit,
            entries,
            acknowledged: _,
        } => {
            out.index = previous.index;
            out.log_term = previous.term;
            out.commit = commit;
            out.entries = entries
                .into_iter()
                .zip(previous.index + 1..)
                .map(|(entry, index)| to_raft_entry(index, entry))
                .collect();
            MessageType::MsgAppend
        }
        Kind::AppendReply {
            index,
            reject,
            commit,
        } => {
            out.index = index;
            out.commit = commit;
            if let Some(hint) = reject {
                out.reject = true;
                out.reject_hint = hint.index;
                out.log_term = hint.term;
            }
            MessageType::MsgAppendResponse
        }
        Kind::Heartbeat { commit, .. } => {
            out.commit = commit;
            MessageType::MsgHeartbeat
        }
        Kind::HeartbeatReply { commit } => {
            out.commit = commit;
            MessageType::MsgHeartbeatResponse
        }
        Kind::Snapshot(snapshot) => {
            out.snapshot = Some(to_raft_snapshot(&snapshot));
            MessageType::MsgSnapshot
        }
        Kind::TimeoutNow { .. } => MessageType::MsgTimeoutNow,
    };
    out.set_msg_type(kind);
    out
}

fn from_raft(mut message: eraftpb::Message) -> Option<(u64, Message)> {
    let kind = match message.get_msg_type() {
        kind @ (MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) => Kind::Vote {
            pre: kind == MessageType::MsgRequestPreVote,
            last: Position {
                term: message.log_term,
                index: message.index,
            },
            token: None,
        },
        kind @ (MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse) => {
            Kind::VoteReply {
                pre: kind == MessageType::MsgRequestPreVoteResponse,
                reject: message.reject,
            }
        }
        MessageType::MsgAppend => Kind::Append {
            previous: Position {
                term: message.log_term,
                index: message.index,
            },
            commit: message.commit,
            entries: message
                .take_entries()
                .into_iter()
                .map(|entry| from_raft_entry(entry).1)
                .collect(),
            acknowledged: 0,
        },
        MessageType::MsgAppendResponse => Kind::AppendReply {
            index: message.index,
            reject: message.reject.then_some(Position {
                term: message.log_term,
                index: message.reject_hint,
            }),
            commit: message.commit,
        },
        MessageType::MsgHeartbeat => Kind::Heartbeat {
            commit: message.commit,
            acknowledged: 0,
        },
        MessageType::MsgHeartbeatResponse => Kind::HeartbeatReply {
            commit: message.commit,
        },
        MessageType::MsgSnapshot => Kind::Snapshot(from_raft_snapshot(message.get_snapshot())),
        MessageType::MsgTimeoutNow => Kind::TimeoutNow { token: None },
        // Proposals, reads and transfers are never handed to Raft by others, so they are never sent.
        _ => return None,
    };
    let term = message.term;
    Some((message.to, Message { term, kind }))
}

fn to_raft_entry(index: u64, entry: Entry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry {
        index,
        term: entry.term,
        ..Default::default()
    };
    if entry.config {
        out.set_entry_type(EntryType::EntryConfChangeV2);
        out.context = entry.data;
    } else {
        out.data = entry.data;
    }
    out
}

fn from_raft_entry(entry: eraftpb::Entry) -> (u64, Entry) {
    let config = entry.get_entry_type() != EntryType::EntryNormal;
    let data = if config { &entry.context } else { &entry.data };
    let data = data.to_vec();
    let term = entry.term;
    (entry.index, Entry { term, config, data })
}

fn to_raft_snapshot(snapshot: &Snapshot) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot {
        data: snapshot.data.clone(),
        ..Default::default()
    };
    let metadata = out.mut_metadata();
    metadata.index = snapshot.position.index;
    metadata.term = snapshot.position.term;
    metadata.set_conf_state(to_conf_state(&snapshot.conf));
    out
}

fn from_raft_snapshot(snapshot: &eraftpb::Snapshot) -> Snapshot {
    let metadata = snapshot.get_metadata();
    Snapshot {
        position: Position {
            term: metadata.term,
            index: metadata.index,
        },
        conf: from_conf_state(metadata.get_conf_state()),
        data: snapshot.data.to_vec(),
    }
}

fn to_conf_state(conf: &Conf) -> eraftpb::ConfState {
    let list = |ids: &iroh_rooms_sorted::SortedSet<u64>| ids.iter().copied().collect();
    eraftpb::ConfState {
        voters: list(&conf.voters),
        learners: list(&conf.learners),
        voters_outgoing: list(&conf.outgoing),
        learners_next: list(&conf.learners_next),
        // Raft leaves a joint configuration by itself as soon as it is applied.
        auto_leave: !conf.outgoing.is_empty(),
    }
}

fn from_conf_state(conf: &eraftpb::ConfState) -> Conf {
    Conf {
        voters: conf.voters.iter().copied().collect(),
        learners: conf.learners.iter().copied().collect(),
        outgoing: conf.voters_outgoing.iter().copied().collect(),
        learners_next: conf.learners_next.iter().copied().collect(),
    }
}

fn to_conf_change(changes: &[Change]) -> ConfChangeV2 {
    let mut out = ConfChangeV2::default();
    for change in changes {
        let (id, kind) = match *change {
            Change::Voter(id) => (id, ConfChangeType::AddNode),
            Change::Learner(id) => (id, ConfChangeType::AddLearnerNode),
            Change::Remove(id) => (id, ConfChangeType::RemoveNode),
        };
        let mut single = eraftpb::ConfChangeSingle {
            node_id: id,
            ..Default::default()
        };
        single.set_change_type(kind);
        out.changes.push(single);
    }
    out
}
