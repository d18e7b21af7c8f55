//! The rules of acknowledging and of taking over, searched exhaustively in small rooms.
//!
//! A model apart from the implementation, with nothing in it but what the rules are about: one leader
//! at a time whose log grows, changes of voters one by one, who has how much of the log, and in the
//! end a loss of members: some are believed to be gone, whether they are or not, and the others sign
//! a successor one after the other. Whatever order these come in, what survivors go on from must have
//! all that was acknowledged, before and since.
//!
//! Every change of configuration comes into force where it is applied, as in Raft as it is built
//! here, and that is after it was committed by the configuration before it.

use std::collections::BTreeSet;

/// Which rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Acknowledged when on a majority of the configuration in force now, not when committed.
    pub durable: bool,
    /// The survivors are at least half, not one fewer.
    pub half: bool,
    /// Later configurations in the survivors' logs count as well as the last committed one.
    pub later: bool,
    /// Who has signed a successor does nothing in the old epoch any more.
    pub fence: bool,
}

impl Rules {
    /// As built.
    pub const ALL: Self = Self {
        durable: true,
        half: true,
        later: true,
        fence: true,
    };
}

/// Members, as bits.
type Set = u8;

/// An entry: a write, or the voters from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Entry {
    Write,
    Voters(Set),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Room {
    /// The leader's log; everyone else has a prefix of it.
    log: Vec<Entry>,
    /// How long the prefix is.
    has: Vec<u8>,
    /// Up to where each knows the log to be committed.
    knows: Vec<u8>,
    /// What the leader has applied, which is what is committed.
    applied: u8,
    /// The longest prefix that was acknowledged.
    acknowledged: u8,
    leader: usize,
    /// The successor that is being signed: by whom, and how much of the log it goes on from.
    successor: Option<(Set, u8)>,
    /// Who has signed it.
    signed: Set,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// States looked at.
    pub states: usize,
    /// Takeovers looked at.
    pub takeovers: usize,
    /// One that loses what was acknowledged.
    pub loss: Option<String>,
}

fn count(set: Set) -> u32 {
    set.count_ones()
}

impl Room {
    fn new(members: usize, voters: Set) -> Self {
        Self {
            log: vec![Entry::Voters(voters)],
            has: (0..members).map(|_| 1).collect(),
            knows: (0..members).map(|_| 1).collect(),
            applied: 1,
            acknowledged: 1,
            leader: 0,
            successor: None,
            signed: 0,
        }
    }

    /// The voters after so many entries.
    fn voters(&self, length: u8) -> Set {
        let entries = self.log.iter().take(length.into()).rev();
        let voters = entries.filter_map(|it| match it {
            Entry::Voters(voters) => Some(*voters),
            Entry::Write => None,
        });
        voters.into_iter().next().unwrap_or(0)
    }

    fn have(&self, length: u8) -> Set {
        let who = self
            .has
            .iter()
            .enumerate()
            .filter(|(_, has)| **has >= length);
        who.fold(0, |set, (id, _)| set | 1 << id)
    }

    fn on_majority(&self, length: u8, voters: Set) -> bool {
        2 * count(self.have(length) & voters) > count(voters)
    }

    /// Everything that can happen next.
    fn next(&self, rules: Rules, longest: usize, signing: bool) -> Vec<Self> {
        let mut next = Vec::new();
        let end = self.log.len() as u8;
        let in_force = self.voters(self.applied);
        let acts = |id: usize| !rules.fence || self.signed & 1 << id == 0;
        // A survivor begins to sign, or another one follows: it has nothing beyond the base.
        match self.successor {
            None if !signing => {}
            None => {
                let survivors = (1..1_u16 << self.has.len()).map(|it| it as Set);
                for set in survivors.filter(|it| self.may_take_over(*it, rules)) {
                    let ids = (0..self.has.len()).filter(|id| set & 1 << id != 0);
                    let best = ids.max_by_key(|id| self.has.get(*id));
                    let Some((best, base)) = best.and_then(|id| Some((id, *self.has.get(id)?)))
                    else {
                        continue;
                    };
                    let mut room = self.clone();
                    room.successor = Some((set, base));
                    room.signed = 1 << best;
                    // That has been looked at for the last time.
                    room.knows.fill(0);
                    next.push(room);
                }
            }
            Some((set, base)) => {
                for (id, has) in self.has.iter().enumerate() {
                    let bit = 1 << id;
                    if set & bit != 0 && self.signed & bit == 0 && *has <= base {
                        let mut room = self.clone();
                        room.signed |= bit;
                        next.push(room);
                    }
                }
            }
        }
        // A write, or one voter more or fewer, if no other change is under way.
        if self.log.len() < longest && acts(self.leader) {
            let mut propose = |entry| {
                let mut room = self.clone();
                room.log.push(entry);
                if let Some(has) = room.has.get_mut(room.leader) {
                    *has += 1;
                }
                next.push(room);
            };
            propose(Entry::Write);
            let settled = self
                .log
                .iter()
                .skip(self.applied.into())
                .all(|it| *it == Entry::Write);
            for id in 0..self.has.len() {
                let voters = in_force ^ (1 << id);
                if settled && count(voters) > 0 && id != self.leader {
                    propose(Entry::Voters(voters));
                }
            }
        }
        // A member gets what it lacks up to some point, and learns of commits with it or later.
        for id in 0..self.has.len() {
            let (Some(has), Some(knows)) = (self.has.get(id), self.knows.get(id)) else {
                continue;
            };
            if !acts(id) {
                continue;
            }
            if *has < end {
                let mut room = self.clone();
                if let Some(has) = room.has.get_mut(id) {
                    *has += 1;
                }
                next.push(room);
            }
            if self.successor.is_none() && *knows < self.applied.min(*has) {
                let mut room = self.clone();
                if let Some(knows) = room.knows.get_mut(id) {
                    *knows += 1;
                }
                next.push(room);
            }
        }
        // The leader commits, several at once if it can, and then applies them.
        for length in self.applied + 1..=end {
            if acts(self.leader) && self.on_majority(length, in_force) {
                let mut room = self.clone();
                room.applied = length;
                if let Some(knows) = room.knows.get_mut(room.leader)
                    && room.successor.is_none()
                {
                    *knows = length;
                }
                next.push(room);
            }
        }
        // And acknowledges.
        let survives = !rules.durable || self.on_majority(self.acknowledged + 1, in_force);
        if acts(self.leader) && self.acknowledged < self.applied && survives {
            let mut room = self.clone();
            room.acknowledged += 1;
            next.push(room);
        }
        next
    }

    /// Whether these survivors may take over.
    fn may_take_over(&self, survivors: Set, rules: Rules) -> bool {
        let ids = || (0..self.has.len()).filter(|id| survivors & 1 << id != 0);
        let known = ids()
            .filter_map(|id| self.knows.get(id))
            .max()
            .copied()
            .unwrap_or(0);
        let longest = ids()
            .filter_map(|id| self.has.get(id))
            .max()
            .copied()
            .unwrap_or(0);
        let enough = |voters: Set| {
            let there = 2 * count(survivors & voters);
            if rules.half {
                there >= count(voters)
            } else {
                there + 2 >= count(voters)
            }
        };
        // Learners never count: not as survivors, and not with what they have.
        let votes = (known..=longest).fold(0, |set, length| set | self.voters(length));
        let last = if rules.later { longest } else { known };
        survivors & !votes == 0 && (known..=last).all(|length| enough(self.voters(length)))
    }

    /// Whether a survivor has all that was acknowledged. Only voters count as survivors; the best log
    /// of them is what is gone on from.
    fn keeps(&self, survivors: Set) -> bool {
        survivors & self.have(self.acknowledged) != 0
    }

    /// Whether a successor has begun that lacks what was acknowledged. Learners have no say in it.
    fn loses(&self) -> bool {
        let begun = |(set, base)| self.signed == set && base < self.acknowledged;
        self.successor.is_some_and(begun)
    }
}

/// Searches all rooms of so many members, of which these vote at first, with logs up to a length.
/// With `signing` survivors sign one by one while the others go on; without, all at once, which is
/// less to search.
pub fn search(members: usize, voters: u8, longest: usize, rules: Rules, signing: bool) -> Found {
    let mut seen = BTreeSet::new();
    let mut open = vec![Room::new(members, voters)];
    let mut found = Found {
        states: 0,
        takeovers: 0,
        loss: None,
    };
    while let Some(room) = open.pop() {
        if !seen.insert(room.clone()) {
            continue;
        }
        found.states += 1;
        found.takeovers += usize::from(room.successor.is_some());
        let mut loses = room.loses();
        for survivors in (1..1_u16 << members).filter(|_| !signing) {
            let survivors = survivors as Set;
            if room.may_take_over(survivors, rules) {
                found.takeovers += 1;
                loses |= !room.keeps(survivors);
            }
        }
        if loses {
            found.loss = Some(format!("{room:?}"));
            return found;
        }
        open.extend(room.next(rules, longest, signing));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_lose_nothing() {
        for (members, voters, longest, signing) in [
            (2, 0b1, 5, false),
            (3, 0b11, 4, false),
            (3, 0b111, 4, false),
            (4, 0b111, 4, false),
            (4, 0b1111, 3, false),
            (2, 0b11, 3, true),
            (3, 0b111, 3, true),
        ] {
            let found = search(members, voters, longest, Rules::ALL, signing);
            assert!(
                found.loss.is_none(),
                "{members} {voters:#b}: {:?}",
                found.loss
            );
            assert!(found.takeovers > 100, "{found:?}");
        }
    }

    #[test]
    fn each_rule_is_needed() {
        let but = |change: fn(&mut Rules)| {
            let mut rules = Rules::ALL;
            change(&mut rules);
            rules
        };
        for (rules, signing) in [
            (but(|it| it.durable = false), false),
            (but(|it| it.half = false), false),
            (but(|it| it.later = false), false),
            (but(|it| it.fence = false), true),
        ] {
            let longest = if signing { 3 } else { 4 };
            let lost = |members, voters| {
                let found = search(members, voters, longest, rules, signing);
                found.loss.is_some()
            };
            assert!(
                lost(3, 0b11) || lost(3, 0b111) || (!signing && lost(4, 0b111)),
                "{rules:?} loses nothing"
            );
        }
    }
}
