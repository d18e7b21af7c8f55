//! What goes wrong, by chance and just when it matters.

use super::*;

impl World {
    pub(super) fn members(&self) -> Vec<usize> {
        let ready = |it: &Peer| it.was.as_ref().is_some_and(|it| it.ready) && it.node.is_some();
        (0..self.peers.len())
            .filter(|it| self.peers.get(*it).is_some_and(ready))
            .collect()
    }

    /// Those of them that are not frozen.
    pub(super) fn awake(&self) -> Vec<usize> {
        let awake = |it: &Peer| it.frozen_until <= self.now;
        let mut members = self.members();
        members.retain(|it| self.peers.get(*it).is_some_and(awake));
        members
    }

    pub(super) fn chaos(&mut self) -> Result<(), Violation> {
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
        let moves = self.rng.pick(&[0, 2, 10]).copied().unwrap_or(0);
        let mut next_fault = calm;
        let mut next_write = self.now;
        while self.now < end {
            self.tick()?;
            self.meet_doom();
            if self.now >= next_write {
                next_write = self.now + self.rng.between(1, busy);
                let awake = self.awake();
                if let Some(peer) = self.rng.pick(&awake).copied() {
                    self.write(peer)?;
                }
                if self.checker.rotations.len() < ROTATIONS && self.rng.chance(moves) {
                    self.rotate()?;
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
    pub(super) fn spite_at(&mut self, peer: usize) {
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
    pub(super) fn doom(&mut self, leader: usize) {
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
}
