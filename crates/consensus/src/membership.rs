//! Who should vote, and who is a member no more: what the leader does next about it, one step at a
//! time. Raft takes no second change before the first is applied.

use crate::conf::Conf;
use crate::machine::Why;

/// A voter of whom nothing was heard for so long is removed, if the others are a quorum.
pub const VOTER_SILENCE_MS: u64 = 10_000;
/// A learner likewise. Longer: it is in nobody's way.
pub const LEARNER_SILENCE_MS: u64 = 30_000;
/// A learner is promoted when it has kept up for so long.
pub const STABLE_MS: u64 = 5_000;

/// What the leader knows of a member.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its id.
    pub id: u64,
    /// How suitable it is to vote.
    pub priority: u8,
    /// Milliseconds since something was heard of it; 0 of oneself.
    pub silent: u64,
    /// For how long it has kept up with the log; nothing if it does not.
    pub stable: Option<u64>,
    /// It asked to go, or was told to.
    pub leaving: Option<Why>,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take it out.
    Remove(u64, Why),
    /// Let it vote.
    Promote(u64),
    /// Let it listen only.
    Demote(u64),
}

/// How many should vote of so many members: 1, 2, 3 or 5, at most `cap`. Four would need three to
/// agree and survive one loss, as three do with two.
pub fn voters_of(members: usize, cap: usize) -> usize {
    match members.min(cap) {
        4 => 3,
        6 => 5,
        count => count,
    }
}

/// The next step, if one is due. `me` leads.
pub fn plan(me: u64, conf: &Conf, members: &[Seen], cap: usize) -> Option<Step> {
    let voters = |members: &mut dyn Iterator<Item = &Seen>| members.map(|it| it.id).collect();
    let is_voter = |it: &&Seen| conf.voters.contains(&it.id);
    let awake = |it: &&Seen| it.silent < VOTER_SILENCE_MS;

    // Out with who is gone. A voter only if the others can commit that, and everything after it.
    let gone = members.iter().filter(|it| it.id != me).find_map(|it| {
        let patience = if is_voter(&it) {
            VOTER_SILENCE_MS
        } else {
            LEARNER_SILENCE_MS
        };
        let why = it
            .leaving
            .or((it.silent >= patience).then_some(Why::Silent))?;
        Some((it, why))
    });
    if let Some((it, why)) = gone {
        let rest = voters(
            &mut members
                .iter()
                .filter(is_voter)
                .filter(awake)
                .filter(|x| x.id != it.id),
        );
        let mut without = conf.clone();
        without.voters.remove(&it.id);
        // The leaver itself may still help to commit its leaving.
        let helps = it.leaving == Some(Why::Left) && awake(&it);
        let present = voters(&mut members.iter().filter(is_voter).filter(awake));
        if !is_voter(&it)
            || ((conf.is_majority(&rest) || (helps && conf.is_majority(&present)))
                && without.is_majority(&rest))
        {
            return Some(Step::Remove(it.id, why));
        }
    }

    let staying = || {
        members
            .iter()
            .filter(|it| it.leaving.is_none() || it.id == me)
    };
    let wanted = voters_of(staying().filter(awake).count(), cap);
    let voting = conf.voters.len();
    if voting < wanted {
        // When the leader itself wants to go, a successor is needed now.
        let hurry = members.iter().any(|it| it.id == me && it.leaving.is_some());
        let fit = |it: &&Seen| it.stable.is_some_and(|ms| hurry || ms >= STABLE_MS);
        let fits = staying()
            .filter(|it| !is_voter(it))
            .filter(awake)
            .filter(fit);
        return fits
            .max_by_key(|it| (it.priority, std::cmp::Reverse(it.id)))
            .map(|it| Step::Promote(it.id));
    }
    if voting > wanted {
        let worst = members.iter().filter(is_voter).filter(|it| it.id != me);
        return worst
            .min_by_key(|it| {
                (
                    it.silent < VOTER_SILENCE_MS,
                    it.priority,
                    std::cmp::Reverse(it.id),
                )
            })
            .map(|it| Step::Demote(it.id));
    }
    None
}
