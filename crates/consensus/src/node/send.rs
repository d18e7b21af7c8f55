//! What goes to others, and how they are reached.

use super::blob::Blob;
use super::*;

/// A snapshot that was not taken in after this is tried again.
const TRANSFER_TIMEOUT_MS: u64 = 10_000;

/// A snapshot on its way out.
pub(super) struct Transfer {
    pub(super) index: u64,
    deadline: u64,
}

/// What a leader signs to let `to` campaign in the term after its own.
pub(super) fn transfer_digest(epoch: &Hash, term: u64, to: u64) -> Hash {
    digest(
        "iroh-rooms/transfer/1",
        &[epoch, &term.to_le_bytes(), &to.to_le_bytes()],
    )
}

impl Node {
    pub(super) fn random(&mut self) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng
    }

    pub(super) fn key_of(&self, id: u64) -> Option<Key> {
        let member = self.machine.members.get(&id).map(|it| it.key);
        member.or_else(|| self.roster.get(&id).copied())
    }

    /// The latest id of a key.
    pub(super) fn id_of(&self, key: &Key) -> Option<u64> {
        let known = self
            .roster
            .iter()
            .filter(|(_, it)| *it == key)
            .map(|(id, _)| *id);
        self.machine.find(key).or_else(|| known.max())
    }

    pub(super) fn others(&self) -> Vec<u64> {
        let ids = self.raft.conf().ids().into_iter();
        ids.filter(|id| *id != self.me).collect()
    }

    /// Whether something may be told to a peer again. `what` names it.
    pub(super) fn may_tell(&mut self, key: &Key, what: u8) -> bool {
        let at = self.told.entry((*key, what)).or_insert(0);
        let may = self.now >= *at + REPEAT_MS || *at == 0;
        if may {
            *at = self.now.max(1);
        }
        may
    }

    /// Sends to a member: directly, or through one who may have a connection to it.
    pub(super) fn send(&mut self, to: u64, body: &Body) {
        let Some(key) = self.key_of(to) else { return };
        let mut envelope = Envelope::new(self.epoch, self.me, to, body);
        let mut next = key;
        if !self.links.contains(&key) {
            let route = self
                .routes
                .get(&to)
                .copied()
                .filter(|it| self.links.contains(it));
            let via = match route {
                Some(key) => Some(key),
                None => {
                    let turn = self.random();
                    let members: Vec<Key> =
                        self.machine.members.values().map(|it| it.key).collect();
                    let known = members.iter().chain(self.roster.values());
                    let linked: SortedSet<Key> = known
                        .filter(|it| self.links.contains(*it))
                        .copied()
                        .collect();
                    let count = linked.len().max(1) as u64;
                    linked.into_iter().nth((turn % count) as usize)
                }
            };
            if let Some(via) = via {
                envelope = envelope.by_another(&*self.config.keys);
                next = via;
            }
        }
        let bytes = Frame::Envelope(envelope).encode();
        self.out.send.push(Send {
            to: next,
            lane: body.lane(),
            bytes,
        });
    }

    /// Sends what Raft wants sent. A learner has no part in a commit: appends to it wait for that of
    /// their entries, so that it has one message to answer and not two.
    pub(super) fn send_all(&mut self, messages: Vec<(u64, Message)>) {
        let commit = self.raft.commit();
        let mut held: Vec<(u64, Message)> = Vec::new();
        for (to, message) in std::mem::take(&mut self.held).into_iter().chain(messages) {
            let rest = match held.iter_mut().rfind(|(other, _)| *other == to) {
                Some((_, before)) => before.join(message),
                None => Some(message),
            };
            held.extend(rest.map(|message| (to, message)));
        }
        let learners = &self.raft.conf().learners;
        let waits = |(to, message): &(u64, Message)| {
            learners.contains(to) && message.last_entry().is_some_and(|last| last > commit)
        };
        let (held, due): (Vec<_>, Vec<_>) = held.into_iter().partition(waits);
        self.held = held;
        for (to, message) in due {
            self.send_raft(to, message);
        }
    }

    /// Sends what has waited for a commit that does not come.
    pub(super) fn let_held_go(&mut self) {
        for (to, message) in std::mem::take(&mut self.held) {
            self.send_raft(to, message);
        }
    }

    fn send_raft(&mut self, to: u64, mut message: Message) {
        match &mut message.kind {
            Kind::Append { acknowledged, .. } | Kind::Heartbeat { acknowledged, .. } => {
                *acknowledged = self.acknowledged;
            }
            Kind::Vote { token, .. } => {
                *token = self
                    .token
                    .filter(|(term, _)| term + 1 == message.term)
                    .map(|it| it.1);
            }
            Kind::TimeoutNow { token } => {
                let leader = self.me;
                let signature =
                    self.config
                        .keys
                        .sign(&transfer_digest(&self.epoch, message.term, to));
                *token = Some(Token { leader, signature });
            }
            Kind::Snapshot(snapshot) => {
                if self.transfers.len() >= limits::TRANSFERS {
                    // Its turn comes when the deadline passes, with the next heartbeat.
                    let index = snapshot.position.index;
                    let deadline = self.now;
                    self.transfers
                        .entry(to)
                        .or_insert(Transfer { index, deadline });
                    return;
                }
                let deadline = self.now + TRANSFER_TIMEOUT_MS;
                let index = snapshot.position.index;
                self.transfers.insert(to, Transfer { index, deadline });
                self.send_blob(to, &Blob::Snapshot(message.term, snapshot.clone()));
                return;
            }
            _ => {}
        }
        self.send(to, &Body::Raft(message));
    }

    pub(super) fn send_blob(&mut self, to: u64, blob: &Blob) {
        for chunk in blob.chunks() {
            self.send(to, &Body::Chunk(chunk));
        }
    }

    /// Has Raft send those snapshots again that did not arrive.
    pub(super) fn send_snapshots_again(&mut self) {
        let late: Vec<u64> = self
            .transfers
            .iter()
            .filter(|(_, it)| it.deadline <= self.now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.transfers.remove(&id);
            self.raft.snapshot_failed(id);
        }
    }

    pub(super) fn refuse(&mut self, why: &'static str) {
        *self.refused.entry(why).or_insert(0) += 1;
    }

    pub(super) fn lineage(&self) -> Lineage {
        let active =
            self.ready && self.fenced.is_none() && self.now < self.quorum_at + QUORUM_LOST_MS;
        Lineage {
            records: self.records.clone(),
            active,
        }
    }
}
