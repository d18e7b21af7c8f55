//! Who votes: a configuration of Raft, as sets, and what a change makes of it.

use iroh_rooms_sorted::SortedSet;

use serde::{Deserialize, Serialize};

use crate::limits;

/// One step of a change of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Becomes a voter.
    Voter(u64),
    /// Becomes a learner: has every entry and no vote.
    Learner(u64),
    /// Is no member any more.
    Remove(u64),
}

/// A configuration. With `outgoing` voters it is joint: it takes majorities of both sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conf {
    /// Who votes.
    pub voters: SortedSet<u64>,
    /// Who voted before, while a change of several is under way.
    pub outgoing: SortedSet<u64>,
    /// Who listens.
    pub learners: SortedSet<u64>,
    /// Who listens when the change is through, and votes in `outgoing` till then.
    pub learners_next: SortedSet<u64>,
}

impl Conf {
    /// Whether `id` is in it as anything.
    pub fn contains(&self, id: u64) -> bool {
        self.is_voter(id) || self.learners.contains(&id) || self.learners_next.contains(&id)
    }

    /// Whether `id` votes, in either half.
    pub fn is_voter(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Everyone in it.
    pub fn ids(&self) -> SortedSet<u64> {
        self.sets().into_iter().flatten().copied().collect()
    }

    fn sets(&self) -> [&SortedSet<u64>; 4] {
        [
            &self.voters,
            &self.outgoing,
            &self.learners,
            &self.learners_next,
        ]
    }

    /// Whether these are a majority of the voters, of both halves if there are two.
    pub fn is_majority(&self, ids: &SortedSet<u64>) -> bool {
        let of = |voters: &SortedSet<u64>| 2 * voters.intersection(ids).count() > voters.len();
        of(&self.voters) && (self.outgoing.is_empty() || of(&self.outgoing))
    }

    /// Whether these are at least half of the voters, of both halves if there are two.
    pub fn is_half(&self, ids: &SortedSet<u64>) -> bool {
        let of = |voters: &SortedSet<u64>| 2 * voters.intersection(ids).count() >= voters.len();
        of(&self.voters) && (self.outgoing.is_empty() || of(&self.outgoing))
    }

    /// What Raft makes of it with these changes: several at once go through a joint configuration,
    /// none at all leaves it. `None` if Raft would refuse.
    pub fn after(&self, changes: &[Change]) -> Option<Self> {
        let mut next = self.clone();
        let joint = !self.outgoing.is_empty();
        if changes.is_empty() {
            if !joint {
                return None;
            }
            next.outgoing.clear();
            next.learners
                .extend(std::mem::take(&mut next.learners_next));
            return Some(next);
        }
        if joint {
            return None;
        }
        if changes.len() > 1 {
            next.outgoing = next.voters.clone();
        }
        for change in changes {
            let (Change::Voter(id) | Change::Learner(id) | Change::Remove(id)) = *change;
            let listened = next.learners.contains(&id);
            next.voters.remove(&id);
            next.learners.remove(&id);
            next.learners_next.remove(&id);
            match change {
                Change::Voter(_) => next.voters.insert(id),
                Change::Learner(_) if next.outgoing.contains(&id) && !listened => {
                    next.learners_next.insert(id)
                }
                Change::Learner(_) => next.learners.insert(id),
                Change::Remove(_) => true,
            };
        }
        let turned = self.voters.difference(&next.voters).count()
            + next.voters.difference(&self.voters).count();
        if next.voters.is_empty() || (changes.len() == 1 && turned > 1) {
            return None;
        }
        Some(next)
    }

    /// Whether it is one that Raft can start from. What comes from a peer need not be.
    pub fn is_valid(&self) -> bool {
        let most = limits::MEMBERS * 2;
        !self.voters.is_empty()
            && self.sets().iter().all(|it| it.len() <= most)
            && self.ids().len() <= most
            && !self.ids().contains(&0)
            && self.learners.is_disjoint(&self.voters)
            && self.learners.is_disjoint(&self.outgoing)
            && self.learners_next.is_disjoint(&self.voters)
            && self.learners_next.is_disjoint(&self.learners)
            && self.learners_next.is_subset(&self.outgoing)
    }
}
