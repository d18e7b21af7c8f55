//! What must hold, whatever happens. Everything that was seen is remembered here, outside of the
//! members, and compared with what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use iroh_rooms_consensus::keys::{Hash, Key};
use iroh_rooms_consensus::machine::Command;
use iroh_rooms_consensus::recovery::Record;
use iroh_rooms_consensus::session::{Payload, SessionId};
use iroh_rooms_consensus::state::Change;
use iroh_rooms_consensus::{Node, Status};

/// The invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing panics.
    NoPanic,
    /// One leader for each term of an epoch.
    OneLeader,
    /// A new leader has all that is committed.
    LeaderComplete,
    /// Equal logs at equal indices of an epoch.
    SameLog,
    /// Equal states at equal indices of an epoch.
    SameState,
    /// The same ids of the door at equal indices of an epoch.
    SameDoor,
    /// Only a moderator moves the door.
    Moderated,
    /// No id is given twice in an epoch.
    IdsOnce,
    /// No session is had by two.
    SessionsOnce,
    /// No more voters than allowed.
    FewVoters,
    /// A newcomer is welcomed by what is committed.
    CommittedWelcome,
    /// Who reaches nobody does not raise its term.
    PreVote,
    /// A member signs one successor of an epoch at the most.
    SignedOnce,
    /// Who signed a successor neither votes nor acknowledges in the old epoch.
    Fenced,
    /// What was acknowledged is in every lossless successor, and in the room at last.
    Durable,
    /// A change is made once, if it was proposed and not rejected.
    ExactlyOnce,
    /// What was acknowledged before another was asked for comes before it.
    RealTime,
    /// When everything heals, the room becomes one.
    Together,
}

/// What did not hold, and where.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What.
    pub rule: Rule,
    /// Where.
    pub what: String,
}

impl Violation {
    /// A new one.
    pub fn new(rule: Rule, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { rule, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// A write that was proposed.
#[derive(Clone, Debug)]
pub struct Write {
    /// When it was asked for.
    pub asked: u64,
    /// When and where it was acknowledged.
    pub acknowledged: Option<(u64, Hash, u64)>,
    /// It was refused for good.
    pub rejected: bool,
}

/// A move of the door to another id: a write as well, by this name.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Its name.
    pub name: String,
    /// Who proposed it.
    pub author: Key,
}

/// What a member had come to at an index.
#[derive(Clone, Copy, PartialEq, Eq)]
struct CameTo {
    /// The hash over all entries.
    chain: Hash,
    state: Hash,
    /// The id of the door, and how many it has had.
    door: (Hash, usize),
}

/// What was seen so far.
#[derive(Default)]
pub struct Checker {
    leaders: BTreeMap<(Hash, u64), u64>,
    terms: BTreeMap<Hash, u64>,
    /// By epoch and index.
    applied: BTreeMap<(Hash, u64), CameTo>,
    highest: BTreeMap<Hash, u64>,
    ids: BTreeMap<(Hash, u64), u64>,
    signed: BTreeMap<(u64, Hash), Hash>,
    sessions: BTreeMap<SessionId, u64>,
    records: BTreeMap<Hash, Record>,
    /// The writes that each lossless successor began with, by its parent and its id.
    carried: BTreeMap<(Hash, Hash), BTreeSet<String>>,
    /// Voters that the room may have at the most.
    pub voters: usize,
    /// Every write by its name.
    pub writes: BTreeMap<String, Write>,
    /// Those of them that move the door, by the id it gets.
    pub rotations: BTreeMap<Hash, Rotation>,
}

impl Checker {
    /// A member joined: nobody else has ever had its id in this epoch.
    pub fn joined(&mut self, epoch: Hash, id: u64, incarnation: u64) -> Result<(), Violation> {
        let owner = *self.ids.entry((epoch, id)).or_insert(incarnation);
        match owner == incarnation {
            true => Ok(()),
            false => Err(Violation::new(
                Rule::IdsOnce,
                format!("id {id} was given to {owner} and to {incarnation}"),
            )),
        }
    }

    /// A member was admitted: that is committed.
    pub fn admitted(node: &Node, id: u64, key: &Hash) -> Result<(), Violation> {
        match node.machine().members.get(&id) {
            Some(member) if member.key == *key => Ok(()),
            _ => Err(Violation::new(
                Rule::CommittedWelcome,
                format!("{id} was welcomed without a committed Join"),
            )),
        }
    }

    /// A write was acknowledged: every lossless successor of its epoch has it.
    pub fn acknowledged(
        &mut self,
        name: &str,
        at: u64,
        epoch: Hash,
        index: u64,
    ) -> Result<(), Violation> {
        if let Some(write) = self.writes.get_mut(name) {
            write.acknowledged = Some((at, epoch, index));
        }
        let mut successors = self.carried.iter();
        if successors.any(|((parent, _), carried)| *parent == epoch && !carried.contains(name)) {
            let what = format!("{name} is acknowledged at {index}, and a successor began without");
            return Err(Violation::new(Rule::Durable, what));
        }
        Ok(())
    }

    /// A write was refused for good.
    pub fn rejected(&mut self, name: &str) {
        if let Some(write) = self.writes.get_mut(name) {
            write.rejected = true;
        }
    }

    /// Looks at a member after it did something. `heard` is how long ago it heard of anyone.
    pub fn look(
        &mut self,
        incarnation: u64,
        node: &Node,
        before: &Status,
        now: &Status,
        heard: u64,
    ) -> Result<(), Violation> {
        self.look_at_leader(before, now)?;
        self.look_at_log(node, before, now)?;
        self.look_at_epoch(node, now.epoch)?;
        if now.conf.voters.len().max(now.conf.outgoing.len()) > self.voters {
            let what = format!("{:?}", now.conf);
            return Err(Violation::new(Rule::FewVoters, what));
        }
        if let Some(body) = node.signed() {
            let signed = (incarnation, now.epoch);
            if *self.signed.entry(signed).or_insert(body) != body {
                let what = format!("{} signed two successors", now.id);
                return Err(Violation::new(Rule::SignedOnce, what));
            }
        }
        let stays = before.fenced && now.fenced && before.epoch == now.epoch;
        let acts = (now.term, now.last, now.acknowledged)
            != (before.term, before.last, before.acknowledged);
        if stays && (acts || now.leads) {
            let what = format!("{} signed a successor and goes on in the old epoch", now.id);
            return Err(Violation::new(Rule::Fenced, what));
        }
        let alone = heard > 6_000 && now.conf.voters.len() > 1 && before.epoch == now.epoch;
        if alone && now.term > before.term {
            let what = format!("{} reaches nobody, raised its term to {}", now.id, now.term);
            return Err(Violation::new(Rule::PreVote, what));
        }
        if let Some(session) = node.session() {
            let owner = *self.sessions.entry(session).or_insert(incarnation);
            if owner != incarnation {
                let what = format!("{owner} and {incarnation} have one session");
                return Err(Violation::new(Rule::SessionsOnce, what));
            }
        }
        Ok(())
    }

    fn look_at_leader(&mut self, before: &Status, now: &Status) -> Result<(), Violation> {
        if !now.leads {
            return Ok(());
        }
        let leader = *self.leaders.entry((now.epoch, now.term)).or_insert(now.id);
        if leader != now.id {
            let what = format!("{leader} and {} lead term {}", now.id, now.term);
            return Err(Violation::new(Rule::OneLeader, what));
        }
        let newly = !before.leads || before.term != now.term || before.epoch != now.epoch;
        let term = self.terms.entry(now.epoch).or_insert(0);
        let committed = self.highest.get(&now.epoch).copied().unwrap_or(0);
        let last = now.last.index;
        if newly && now.term >= *term && last < committed {
            let what = format!(
                "{} leads term {} with a log up to {last}, but {committed} is committed",
                now.id, now.term
            );
            return Err(Violation::new(Rule::LeaderComplete, what));
        }
        *term = (*term).max(now.term);
        Ok(())
    }

    fn look_at_log(&mut self, node: &Node, before: &Status, now: &Status) -> Result<(), Violation> {
        if !now.ready || (now.index == before.index && now.epoch == before.epoch) {
            return Ok(());
        }
        let machine = node.machine();
        let came_to = CameTo {
            chain: machine.chain,
            state: machine.state.hash(),
            door: (machine.door(), machine.doors.len()),
        };
        let at = (now.epoch, now.index);
        let seen = self.applied.entry(at).or_insert(came_to);
        if *seen != came_to {
            let rule = if seen.chain != came_to.chain {
                Rule::SameLog
            } else if seen.state != came_to.state {
                Rule::SameState
            } else {
                Rule::SameDoor
            };
            return Err(Violation::new(rule, format!("different at {}", now.index)));
        }
        let by = self.rotations.get(&machine.door());
        if let Some(moved) = by.filter(|it| !machine.moderators.contains(&it.author)) {
            let what = format!("{} was made, and not by a moderator", moved.name);
            return Err(Violation::new(Rule::Moderated, what));
        }
        let highest = self.highest.entry(now.epoch).or_insert(0);
        *highest = (*highest).max(now.index);
        Ok(())
    }

    /// The first member that is seen in an epoch is a survivor that has just begun it.
    fn look_at_epoch(&mut self, node: &Node, epoch: Hash) -> Result<(), Violation> {
        if self.records.contains_key(&epoch) {
            return Ok(());
        }
        let known = node.records().iter().map(|it| (it.id(), it.clone()));
        self.records.extend(known);
        let Some(record) = node.records().last().filter(|it| it.keeps_all()) else {
            return Ok(());
        };
        let made = log_of(node).into_iter().chain(self.rotations_of(node));
        let carried: BTreeSet<String> = made.chain(self.ahead_of(node)).collect();
        for (name, write) in &self.writes {
            if let Some((_, epoch, index)) = write.acknowledged
                && epoch == record.parent
                && !carried.contains(name)
            {
                let what = format!("{name} was acknowledged at {index}, a successor lacks it");
                return Err(Violation::new(Rule::Durable, what));
            }
        }
        self.carried.insert((record.parent, epoch), carried);
        Ok(())
    }

    /// After everything has healed: what was acknowledged is there, once, in an order that agrees
    /// with the order of time. Returns how many acknowledged writes are missing where they may be.
    pub fn history(&self, node: &Node) -> Result<u64, Violation> {
        let (log, rotations) = (log_of(node), self.rotations_of(node));
        let mut places = BTreeMap::new();
        for (place, name) in log.iter().chain(&rotations).enumerate() {
            if places.insert(name.as_str(), place).is_some() {
                let what = format!("{name} was made twice");
                return Err(Violation::new(Rule::ExactlyOnce, what));
            }
            if !self.writes.contains_key(name) {
                let what = format!("{name} was never proposed");
                return Err(Violation::new(Rule::ExactlyOnce, what));
            }
        }
        let mut lost = 0;
        for (name, write) in &self.writes {
            let place = places.get(name.as_str());
            if write.rejected && place.is_some() {
                let what = format!("{name} was made, although it was rejected");
                return Err(Violation::new(Rule::ExactlyOnce, what));
            }
            let Some((_, epoch, index)) = write.acknowledged else {
                continue;
            };
            if place.is_none() {
                if !self.may_be_lost(node.records(), epoch, index) {
                    let what = format!("{name} was acknowledged at {index} and is lost");
                    return Err(Violation::new(Rule::Durable, what));
                }
                lost += 1;
            }
        }
        self.agrees_with_time(&log)?;
        self.agrees_with_time(&rotations)?;
        Ok(lost)
    }

    fn agrees_with_time(&self, log: &[String]) -> Result<(), Violation> {
        // Real time: what was acknowledged before another was asked for comes before it. The latest
        // asking time of all that come earlier in the log must not be after an acknowledgement that
        // comes later in it.
        let mut latest: Option<(u64, &String)> = None;
        for name in log {
            let Some(write) = self.writes.get(name) else {
                continue;
            };
            if let (Some((acknowledged, ..)), Some((asked, earlier))) = (write.acknowledged, latest)
                && acknowledged < asked
            {
                let what = format!(
                    "{name} was acknowledged before {earlier} was asked for, and comes after it"
                );
                return Err(Violation::new(Rule::RealTime, what));
            }
            if latest.is_none_or(|(asked, _)| write.asked > asked) {
                latest = Some((write.asked, name));
            }
        }
        Ok(())
    }

    /// The names of the moves of the door, as far as it remembers them.
    fn rotations_of(&self, node: &Node) -> Vec<String> {
        let doors = node.machine().doors.iter();
        let made = doors.filter_map(|door| self.rotations.get(door));
        made.map(|it| it.name.clone()).collect()
    }

    /// The names of the writes in a member's log that are not applied.
    fn ahead_of(&self, node: &Node) -> Vec<String> {
        let entries = node.log_after(node.machine().index).unwrap_or_default();
        let name = |data: &[u8]| match Command::decode(data)? {
            Command::Propose(_, proposal, _) => match proposal.payload {
                Payload::Change(Change::Patch(patch)) => {
                    let patch: serde_json::Value = serde_json::from_slice(&patch).ok()?;
                    let value = patch.pointer("/0/value")?;
                    Some(value.as_str()?.to_owned())
                }
                Payload::Rotate(door) => self.rotations.get(&door).map(|it| it.name.clone()),
                _ => None,
            },
            _ => None,
        };
        entries.iter().filter_map(|it| name(&it.data)).collect()
    }

    /// Whether the room may do without what was acknowledged at an index of an epoch: it lies beyond
    /// the base of a lossy successor, or in a lineage that lost to another.
    fn may_be_lost(&self, records: &[Record], epoch: Hash, index: u64) -> bool {
        let lossy = |it: &Record| it.number > 0 && !it.keeps_all() && it.settled < index;
        // From where it was acknowledged back to where the lineages part.
        let mut parted: Option<&Record> = None;
        let mut at = epoch;
        loop {
            if let Some(place) = records.iter().position(|it| it.id() == at) {
                let after = records.get(place + 1);
                let Some(lost) = parted else {
                    return records.iter().skip(place + 1).any(lossy);
                };
                // Two successors of one epoch: nobody has signed both.
                let shared = |won: &&Record| {
                    won.survivors
                        .keys()
                        .any(|id| lost.survivors.contains_key(id))
                };
                return !lost.keeps_all()
                    || after.is_none_or(|won| !won.keeps_all() || !shared(&won));
            }
            let Some(record) = self.records.get(&at) else {
                return false;
            };
            if record.number == 0 {
                // Another founder of the same room.
                return records.first().is_some_and(|it| it.number == 0);
            }
            parted = Some(record);
            at = record.parent;
        }
    }
}

/// The names in a state's log.
fn log_of(node: &Node) -> Vec<String> {
    let state: serde_json::Value =
        serde_json::from_slice(&node.machine().state.bytes()).unwrap_or_default();
    let log = state.get("log").and_then(|it| it.as_array().cloned());
    let names = log.unwrap_or_default().into_iter();
    names
        .filter_map(|it| Some(it.as_str()?.to_owned()))
        .collect()
}

/// Whether all of these are one room: one epoch, and one state.
pub fn is_together(nodes: &[&Node]) -> bool {
    let of = |node: &&Node| {
        (
            node.status().epoch,
            node.status().index,
            node.machine().chain,
        )
    };
    let different: BTreeSet<_> = nodes.iter().map(of).collect();
    different.len() == 1 && nodes.iter().all(|node| node.status().ready)
}
