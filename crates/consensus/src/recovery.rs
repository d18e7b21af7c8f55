//! Epochs: one Raft group each, a new one where the last lost its quorum.
//!
//! Here are the rules; [`crate::node`] follows them. What makes a takeover lossless, together with
//! [`crate::raft::Raft::durable`], is searched exhaustively in the simulator's crate.

use std::cmp::Ordering;

use iroh_rooms_sorted::{SortedMap, SortedSet};
use serde::{Deserialize, Serialize};

use crate::conf::Conf;
use crate::keys::{Hash, Key, Keys, Signature, digest, encode};
use crate::limits;
use crate::raft::{Entry, Position};

/// How an epoch began. Its id names it in every envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The room.
    pub room: Hash,
    /// 0 for the first.
    pub number: u64,
    /// The id of the epoch before; zeros for the first.
    pub parent: Hash,
    /// The end of the log that it goes on from, as positions of the parent.
    pub base: Position,
    /// Up to where its first voters certainly had the parent's log. What comes behind it, up to the
    /// base, may not have been committed there, and others may have had something else.
    pub settled: u64,
    /// The hash of the [`Base`].
    pub base_hash: Hash,
    /// Its first voters.
    pub survivors: SortedMap<u64, Key>,
    /// Whether nothing that was acknowledged can be missing.
    pub lossless: bool,
    /// Different for each.
    pub nonce: Hash,
    /// Every survivor's, over all of the above.
    pub signatures: SortedMap<u64, Signature>,
}

impl Record {
    /// What is signed: everything but the signatures.
    pub fn body(&self) -> Hash {
        let body = encode(&(
            self.room,
            self.number,
            self.parent,
            self.base,
            self.settled,
            self.base_hash,
            &self.survivors,
            self.lossless,
            self.nonce,
        ));
        digest("iroh-rooms/epoch/1", &[&body])
    }

    /// The epoch's id.
    pub fn id(&self) -> Hash {
        digest(
            "iroh-rooms/epoch-id/1",
            &[&self.body(), &encode(&self.signatures)],
        )
    }

    /// Whether nothing that was acknowledged can be missing in it. One that lacks signatures never
    /// began: it is there only for a lossy one behind it.
    pub fn keeps_all(&self) -> bool {
        self.lossless && self.signatures.len() == self.survivors.len()
    }

    /// Whether all survivors signed it, and nobody else.
    pub fn is_signed(&self, keys: &dyn Keys) -> bool {
        let body = self.body();
        !self.survivors.is_empty()
            && self.survivors.len() <= limits::MEMBERS
            && self.survivors.len() == self.signatures.len()
            && self.survivors.iter().all(|(id, key)| {
                self.signatures
                    .get(id)
                    .is_some_and(|signature| keys.verify(key, &body, signature))
            })
    }
}

/// What an epoch goes on from: a snapshot, and the log behind it. The log is applied when it is
/// committed again, by the new epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// An encoded machine.
    pub machine: Vec<u8>,
    /// The index it is at.
    pub index: u64,
    /// The configuration to begin with.
    pub conf: Conf,
    /// The entries behind it. None of them changes the configuration any more.
    pub tail: Vec<Entry>,
}

/// A configuration and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The index of its entry.
    pub index: u64,
    /// Whether that is known to be committed. Always the first of those reported.
    pub committed: bool,
    /// The configuration.
    pub conf: Conf,
}

/// What a survivor has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The end of its log.
    pub last: Position,
    /// The last configuration that it knows to be committed, and every later one in its log.
    pub confs: Vec<Seen>,
    /// The last leader it knew.
    pub leader: u64,
}

/// Whether these survivors may go on without losing anything that was acknowledged: they are at
/// least half of the last configuration that one of them knows to be committed, and of every later
/// one in a log of theirs.
///
/// At least half is enough: an acknowledged entry is on more than half, so one of them has it; and
/// once they have signed, no majority of the old epoch is left without them.
pub fn is_lossless(reports: &SortedMap<u64, Report>) -> bool {
    let ids: SortedSet<u64> = reports.keys().copied().collect();
    let all = || reports.values().flat_map(|it| &it.confs);
    let committed = all().filter(|it| it.committed).map(|it| it.index).max();
    let Some(from) = committed else { return false };
    all()
        .filter(|it| it.index >= from)
        .all(|it| it.conf.is_half(&ids))
}

/// The configurations that [`is_lossless`] looks at.
pub fn relevant(reports: &SortedMap<u64, Report>) -> Vec<&Seen> {
    let all = || reports.values().flat_map(|it| &it.confs);
    let committed = all().filter(|it| it.committed).map(|it| it.index).max();
    all().filter(|it| Some(it.index) >= committed).collect()
}

/// Whose log the new epoch goes on from: the one that Raft would elect, of equals the lowest id.
pub fn best(reports: &SortedMap<u64, Report>) -> Option<u64> {
    let by = |(id, report): &(&u64, &Report)| (report.last, std::cmp::Reverse(**id));
    reports.iter().max_by_key(by).map(|(id, _)| *id)
}

/// Which of two lineages goes on. Both are chains of records, oldest first. One that continues the
/// other is the greater; after a fork it is decided by what cannot change any more: a lossless
/// successor beats a lossy one, then the longer lineage, then more voters, then the lower id.
pub fn compare(ours: &[Record], theirs: &[Record]) -> Ordering {
    let (Some(our_tip), Some(their_tip)) = (ours.last(), theirs.last()) else {
        return ours.len().cmp(&theirs.len());
    };
    let fork = ours.iter().find_map(|ours| {
        let theirs = theirs.iter().find(|it| it.number == ours.number)?;
        (ours.id() != theirs.id()).then_some((ours, theirs))
    });
    let number = our_tip.number.cmp(&their_tip.number);
    let Some((ours, theirs)) = fork else {
        return number;
    };
    ours.keeps_all()
        .cmp(&theirs.keeps_all())
        .then(number)
        .then(ours.survivors.len().cmp(&theirs.survivors.len()))
        .then_with(|| theirs.id().cmp(&ours.id()))
}

/// Whether both have a record in common, or one begins where the other was.
pub fn is_related(ours: &[Record], theirs: &[Record]) -> bool {
    let ids: SortedSet<Hash> = ours.iter().map(Record::id).collect();
    theirs
        .iter()
        .any(|it| ids.contains(&it.id()) || ids.contains(&it.parent))
}

/// The index up to which two lineages are certainly the same.
pub fn common(ours: &[Record], theirs: &[Record]) -> u64 {
    let fork = theirs.iter().find(|theirs| {
        let known = |ours: &Record| ours.id() == theirs.id();
        !ours.iter().any(known)
    });
    let our_fork = ours.iter().find(|ours| {
        let known = |theirs: &Record| ours.id() == theirs.id();
        !theirs.iter().any(known)
    });
    let base = |record: Option<&Record>| record.map_or(u64::MAX, |it| it.settled);
    base(fork).min(base(our_fork))
}

/// Whether a chain of records is one: each follows on the last, and was signed by all its survivors.
/// Only what a lossy successor left behind may lack signatures.
pub fn is_chain(records: &[Record], keys: &dyn Keys) -> bool {
    let follows = |pair: &[Record]| match pair {
        [before, after] => {
            after.parent == before.id()
                && after.number == before.number + 1
                && (before.is_signed(keys) || !after.lossless)
        }
        _ => true,
    };
    records.len() <= limits::LINEAGE
        && records.windows(2).all(follows)
        && records
            .last()
            .is_some_and(|it| it.is_signed(keys) && it.number < limits::TERM)
}
