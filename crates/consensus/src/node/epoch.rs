//! How an epoch begins at a member: as the founder, with a welcome, or from what survived of the last.

use super::blob::Blob;
use super::*;

impl Node {
    /// The first member of a new room. `nonce` is random.
    pub fn create(
        config: Config,
        state: State,
        participant: &str,
        priority: u8,
        nonce: Hash,
        now: u64,
    ) -> Option<Self> {
        Self::found(
            config,
            state,
            participant,
            priority,
            nonce,
            (0, [0; 32]),
            now,
        )
    }

    /// The first member of an epoch that goes on from a kept state. It is lossy: nobody knows what
    /// was made after it was kept.
    pub fn restore(
        config: Config,
        saved: Saved,
        participant: &str,
        priority: u8,
        nonce: Hash,
        now: u64,
    ) -> Option<Self> {
        let parent = (saved.number + 1, saved.epoch);
        Self::found(
            config,
            saved.state,
            participant,
            priority,
            nonce,
            parent,
            now,
        )
    }

    pub(super) fn found(
        config: Config,
        state: State,
        participant: &str,
        priority: u8,
        nonce: Hash,
        (number, parent): (u64, Hash),
        now: u64,
    ) -> Option<Self> {
        const ME: u64 = 1;
        let key = config.keys.key();
        let mut machine = Machine::new(config.room, state, SortedSet::from([key]));
        machine.index = ME;
        machine.consent = config.approval == Approval::Majority;
        // The epoch's id depends on the machine, so the founder's session is named by the nonce.
        let session = SessionId {
            epoch: nonce,
            id: ME,
        };
        machine.sessions.insert(session, Session::new(key));
        let member = Member {
            key,
            participant: participant.to_owned(),
            priority,
            session,
        };
        machine.members.insert(ME, member);
        let base = Base {
            machine: machine.store(),
            index: ME,
            conf: Conf {
                voters: SortedSet::from([ME]),
                ..Default::default()
            },
            tail: Vec::new(),
        };
        let mut record = Record {
            room: config.room,
            number,
            parent,
            base: Position { term: 1, index: ME },
            settled: ME,
            base_hash: Blob::Base(base.clone()).hash(),
            survivors: SortedMap::from([(ME, key)]),
            lossless: number == 0,
            nonce,
            signatures: SortedMap::new(),
        };
        record
            .signatures
            .insert(ME, config.keys.sign(&record.body()));
        let mut node = Self::empty(config, ME, Vec::new(), machine, now)?;
        node.begin(record, base);
        Some(node)
    }

    /// A newcomer with its welcome. The id that it knows is that of the door; whether that belongs to
    /// the room is seen when the state arrives.
    pub fn join(mut config: Config, welcome: Welcome, now: u64) -> Option<Self> {
        let door = config.room;
        config.room = welcome.records.first()?.room;
        let same = welcome.records.iter().all(|it| it.room == config.room);
        let records = &welcome.records;
        let chain = same && crate::recovery::is_chain(records, &*config.keys);
        if !chain || !Self::is_proven(&config, &welcome) {
            return None;
        }
        let machine = Machine::new(config.room, State::Opaque(Vec::new()), SortedSet::new());
        let id = welcome.attestation.id;
        let mut node = Self::empty(config, id, welcome.records, machine, now)?;
        node.door = door;
        node.roster = welcome.roster.into_iter().collect();
        let conf = welcome.attestation.conf;
        node.named = conf.voters.union(&conf.outgoing);
        Some(node)
    }

    /// Whether the voters of the room's last epoch speak for this newcomer.
    fn is_proven(config: &Config, welcome: &Welcome) -> bool {
        #[cfg(feature = "mutations")]
        if matches!(
            config.mutation,
            Some(Mutation::StaleWelcome | Mutation::ReuseIds)
        ) {
            return true;
        }
        let attestation = &welcome.attestation;
        let roster: SortedMap<u64, Key> = welcome.roster.iter().copied().collect();
        welcome.records.last().map(Record::id) == Some(attestation.epoch)
            && attestation.key == config.keys.key()
            && attestation.is_proven(&*config.keys, |id| roster.get(&id).copied())
    }

    /// Begins an epoch with a base.
    pub(super) fn begin(&mut self, record: Record, base: Base) {
        let Some(machine) = Machine::load(&base.machine) else {
            return;
        };
        let seed = self.random();
        let snapshot = Snapshot {
            position: Position {
                term: 1,
                index: base.index,
            },
            conf: base.conf.clone(),
            data: base.machine,
        };
        let Some(raft) = Raft::new(
            self.me,
            Some((snapshot, base.tail)),
            seed,
            self.config.pre_vote(),
        ) else {
            return;
        };
        let members = self.machine.members.iter().map(|(id, it)| (*id, it.key));
        self.roster.extend(members);
        self.raft = raft;
        self.machine = machine;
        self.shown = self.shown.min(record.base.index);
        self.unsettle(record.settled);
        self.epoch = record.id();
        self.records.push(record);
        if self.records.len() > limits::LINEAGE {
            self.records.remove(0);
        }
        self.forget_epoch();
        self.settle_in();
        if base.conf.voters.len() == 1 {
            self.raft.campaign();
        }
        self.pump();
    }

    /// Behind an index nothing is certain any more: what was committed there, and not acknowledged,
    /// need not be in the new epoch, whose entries have the same indices.
    pub(super) fn unsettle(&mut self, settled: u64) {
        self.acknowledged = self.acknowledged.min(settled);
        for pending in &mut self.pending {
            pending.done.take_if(|(index, _)| *index > settled);
        }
    }

    /// What was of the epoch before.
    pub(super) fn forget_epoch(&mut self) {
        self.to_apply.clear();
        self.held.clear();
        self.deciding = None;
        self.incoming = None;
        self.assemblies.clear();
        self.transfers.clear();
        self.token = None;
        self.stable.clear();
        self.leaving.clear();
        self.heard.clear();
        self.proposed.clear();
        self.asked.clear();
        self.considered.clear();
        self.proposed_in = 0;
        self.offer = None;
        self.base = None;
        self.fenced = None;
        self.left_behind = None;
        self.reports.clear();
        self.guests.clear();
        self.last_leader = 0;
        self.ended.clear();
        self.quorum_at = self.now;
        self.awake_since = self.now;
        self.checks.clear();
        self.claims.clear();
        for pending in &mut self.pending {
            pending.sent = None;
        }
    }

    /// The id of the epoch that an index belongs to: what was signed for the parent and carried over
    /// is still the parent's.
    pub(super) fn epoch_of(&self, index: u64) -> Hash {
        let earlier = self.records.windows(2).find_map(|pair| match pair {
            [before, after] if index <= after.base.index => Some(before.id()),
            _ => None,
        });
        earlier.unwrap_or(self.epoch)
    }

    /// Entries that an epoch carries over from its parent change the members, but no configuration
    /// any more: that began with the epoch.
    pub(super) fn is_carried(&self, index: u64, command: &Command) -> bool {
        let Some(record) = self.records.last() else {
            return false;
        };
        if record.number == 0 || index > record.base.index + 1 {
            return false;
        }
        match command {
            Command::Join(_) => !self.machine.changes(index, command).is_empty(),
            Command::Remove(ids, _) => !ids.iter().any(|id| record.survivors.contains_key(id)),
            _ => false,
        }
    }
}
