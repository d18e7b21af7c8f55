//! What members do by themselves, what becomes of it, and what their drivers do for them.

use super::*;

impl World {
    pub(super) fn input(&mut self, peer: usize, input: Input) -> Result<(), Violation> {
        let clock = self.clock(peer);
        let Some(it) = self.peers.get_mut(peer) else {
            return Ok(());
        };
        let Some(node) = it.node.as_mut() else {
            return Ok(());
        };
        let before = it.was.take().unwrap_or_else(|| node.status());
        let outputs = node.handle(input, clock);
        let heard = self.now.saturating_sub(it.heard);
        let status = node.status();
        let looked = self
            .checker
            .look(it.incarnation, node, &before, &status, heard);
        looked.map_err(|it| {
            let at = self.now - 1_000_000;
            Violation::new(it.rule, format!("p{peer} at {at}: {}", it.what))
        })?;
        let turns = self.spite > 0
            && ((status.leads && status.conf != before.conf) || (status.fenced && !before.fenced));
        // Of three voters, half of those after it may lack what two had before it.
        let likely = if status.conf.voters.len() == 3 { 60 } else { 0 };
        let appended = status.leads && status.last.index > before.last.index;
        let proposes = self.spite > 0
            && appended
            && node
                .log_after(before.last.index)
                .is_some_and(|log| log.iter().any(|it| it.config));
        it.was = Some(status);
        for send in outputs.send {
            let to = peer_of(&send.to);
            let doom = self
                .doom
                .as_ref()
                .filter(|it| it.leader == peer && it.spared.contains(&to));
            if doom.is_some_and(|it| !it.pulse || send.lane != Lane::Pulse) {
                continue;
            }
            let copies = 1 + u64::from(self.rng.chance(self.duplicate));
            for _ in 0..copies {
                self.post(
                    peer,
                    to,
                    Happening::Frame(to, key_of(peer), send.bytes.clone()),
                );
            }
        }
        for event in outputs.events {
            self.event(peer, event)?;
        }
        if turns && self.rng.chance(self.spite) {
            self.spite_at(peer);
        }
        if proposes && self.doom.is_none() && self.rng.chance(self.spite.max(likely)) {
            self.doom(peer);
            // What comes right behind may be committed together with it.
            self.write(peer)?;
            self.write(peer)?;
        }
        Ok(())
    }

    fn event(&mut self, peer: usize, event: Event) -> Result<(), Violation> {
        match event {
            Event::Admitted(key, nonce, welcome) => {
                if let Some(node) = self.peers.get(peer).and_then(|it| it.node.as_ref()) {
                    Checker::admitted(node, welcome.attestation.id, &key)?;
                }
                self.post(
                    peer,
                    peer_of(&key),
                    Happening::Answer(peer_of(&key), nonce, Some(welcome)),
                );
            }
            Event::Refused(key, nonce, code) => {
                self.trace(|| format!("p{peer} refuses p{}: {code}", peer_of(&key)));
                self.post(
                    peer,
                    peer_of(&key),
                    Happening::Answer(peer_of(&key), nonce, None),
                );
            }
            Event::Outcome(ticket, outcome) => self.outcome(peer, ticket, outcome)?,
            Event::Recovered(_, lossless) => {
                self.trace(|| format!("p{peer} recovered, lossless {lossless}"));
                match lossless {
                    true => self.report.takeovers += 1,
                    false => self.report.lossy += 1,
                }
            }
            Event::ForkDetected => {
                self.trace(|| format!("p{peer} sees a fork"));
                self.report.forks = 1;
            }
            Event::Doorman(_, true) => {
                self.trace(|| format!("p{peer} is the doorman"));
                self.report.doormen += 1;
            }
            Event::Divergence(index) => {
                let what = format!("p{peer} found divergence at {index}");
                return Err(Violation::new(Rule::SameState, what));
            }
            Event::IntegrityFault(index) => {
                let what = format!("p{peer} found another log at {index}");
                return Err(Violation::new(Rule::SameLog, what));
            }
            Event::Over(why, orphaned) => {
                self.trace(|| format!("p{peer} is over: {why:?}, {} orphaned", orphaned.len()));
                let now = self.now;
                if let Some(it) = self.peers.get_mut(peer) {
                    it.node = None;
                    it.tickets.clear();
                    it.back_at = now + 500;
                }
            }
            Event::Consider { proposal, .. } => {
                let agrees = self.rng.chance(95);
                self.input(peer, Input::Considered(proposal, agrees))?;
            }
            Event::Rotated(door) => {
                if let Some(it) = self.peers.get_mut(peer) {
                    it.door = door;
                }
            }
            Event::QuorumLost => self.trace(|| format!("p{peer} lost the quorum")),
            Event::Ready => self.trace(|| format!("p{peer} is ready")),
            _ => {}
        }
        Ok(())
    }

    fn outcome(&mut self, peer: usize, ticket: u64, outcome: Outcome) -> Result<(), Violation> {
        let now = self.now;
        let Some(it) = self.peers.get_mut(peer) else {
            return Ok(());
        };
        let Some(name) = it.tickets.remove(&ticket) else {
            return Ok(());
        };
        let epoch = it.node.as_ref().map(|node| node.status().epoch);
        match (outcome, epoch) {
            (Outcome::Committed(index), Some(epoch)) => {
                self.report.acknowledged += 1;
                self.report.rotations += u64::from(name.starts_with('r'));
                self.trace(|| format!("p{peer}'s {name} is acknowledged at {index}"));
                self.checker.acknowledged(&name, now, epoch, index)
            }
            (Outcome::Rejected(why), _) => {
                self.trace(|| format!("p{peer}'s {name} is rejected: {why}"));
                self.checker.rejected(&name);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn write(&mut self, peer: usize) -> Result<(), Violation> {
        self.writes += 1;
        let name = format!("w{}", self.writes);
        let patch = format!(r#"[{{"op":"add","path":"/log/-","value":"{name}"}}]"#);
        let payload = Payload::Change(Change::Patch(patch.into_bytes()));
        self.propose(peer, name, payload)
    }

    /// Moves the door, or tries to: that is for moderators.
    pub(super) fn rotate(&mut self) -> Result<(), Violation> {
        let mut awake = self.awake();
        if self.rng.chance(80) {
            let moderates = |it: &usize| {
                let node = self.peers.get(*it).and_then(|it| it.node.as_ref());
                node.is_some_and(|node| node.machine().moderators.contains(&key_of(*it)))
            };
            awake.retain(moderates);
        }
        let Some(peer) = self.rng.pick(&awake).copied() else {
            return Ok(());
        };
        let door = self.nonce();
        let name = format!("r{}", self.checker.rotations.len() + 1);
        let author = key_of(peer);
        self.trace(|| format!("p{peer} moves the door: {name}"));
        let rotation = Rotation {
            name: name.clone(),
            author,
        };
        self.checker.rotations.insert(door, rotation);
        self.propose(peer, name, Payload::Rotate(door))
    }

    fn propose(&mut self, peer: usize, name: String, payload: Payload) -> Result<(), Violation> {
        let now = self.now;
        let based = self.rng.chance(10);
        let Some(it) = self.peers.get_mut(peer) else {
            return Ok(());
        };
        let Some(node) = it.node.as_ref() else {
            return Ok(());
        };
        let base = based.then(|| node.machine().index);
        it.next_ticket += 1;
        let ticket = it.next_ticket;
        it.tickets.insert(ticket, name.clone());
        let write = Write {
            asked: now,
            acknowledged: None,
            rejected: false,
        };
        self.checker.writes.insert(name, write);
        self.report.proposed += 1;
        self.input(
            peer,
            Input::Propose {
                ticket,
                payload,
                base,
            },
        )
    }

    // --- What drivers do ----------------------------------------------------------------------

    /// Whether `peer` has a node that has to reach `other`.
    fn wants(&self, peer: usize, other: usize) -> bool {
        let node = self.peers.get(peer).and_then(|it| it.node.as_ref());
        node.is_some_and(|it| it.peers().contains(&key_of(other)))
    }

    /// Tells a member which connections stand: those that one of the two wants. One over a blocked path
    /// ends after a while, and a peer that cannot be dialled is called gone after some more.
    pub(super) fn watch_links(&mut self, peer: usize) -> Result<(), Violation> {
        for other in 0..self.peers.len() {
            if other == peer || !(self.wants(peer, other) || self.wants(other, peer)) {
                continue;
            }
            let path =
                !self.blocked.contains(&(peer, other)) && !self.blocked.contains(&(other, peer));
            let there = self.peers.get(other).is_some_and(|it| it.node.is_some());
            let frozen = self
                .peers
                .get(other)
                .is_some_and(|it| it.frozen_until > self.now + 10_000);
            let up = path && there && !frozen;
            let now = self.now;
            let Some(it) = self.peers.get_mut(peer) else {
                continue;
            };
            let (was, since) = it.links.get(&other).copied().unwrap_or((false, None));
            if was != up {
                let since = since.unwrap_or(now);
                let patience = if up { 200 } else { 2_000 };
                if now >= since + patience {
                    it.links.insert(other, (up, None));
                    self.input(peer, Input::Link(key_of(other), up))?;
                } else {
                    it.links.insert(other, (was, Some(since)));
                }
            } else {
                it.links.insert(other, (was, None));
            }
            let Some(it) = self.peers.get_mut(peer) else {
                continue;
            };
            if up {
                it.silent.remove(&other);
                it.gone.remove(&other);
            } else {
                let since = *it.silent.entry(other).or_insert(now);
                if now >= since + 6_000 && it.gone.insert(other) {
                    self.input(peer, Input::Gone(key_of(other)))?;
                }
            }
        }
        Ok(())
    }

    /// A peer without a room goes to the door, whoever stands there.
    pub(super) fn go_to_the_door(&mut self, peer: usize) {
        let Some(it) = self.peers.get(peer) else {
            return;
        };
        let waits = it.asked.is_some_and(|(until, _)| until > self.now) || it.next_ask > self.now;
        if it.node.is_some() || it.back_at > self.now || waits {
            return;
        }
        if let Some((epoch, id)) = it.old {
            let signature = seal(&key_of(peer), &ended_digest(&epoch, id));
            for other in 0..self.peers.len() {
                self.post(peer, other, Happening::Ended(other, id, signature));
            }
        }
        let doormen: Vec<usize> = (0..self.peers.len())
            .filter(|other| {
                self.peers
                    .get(*other)
                    .and_then(|it| it.was.as_ref())
                    .is_some_and(|it| it.doorman)
            })
            .filter(|other| self.peers.get(*other).is_some_and(|it| it.node.is_some()))
            .collect();
        if let Some(it) = self.peers.get_mut(peer) {
            it.next_ask = self.now + 1_000;
        }
        let Some(doorman) = self.rng.pick(&doormen).copied() else {
            return;
        };
        // Somebody sends it the id that leads to the room now.
        let node = self.peers.get(doorman).and_then(|it| it.node.as_ref());
        let door = node.map_or(ROOM, |it| it.machine().door());
        let told = self.rng.chance(self.told);
        if let Some(it) = self.peers.get_mut(peer)
            && told
        {
            it.door = door;
        }
        let door = self.peers.get(peer).map_or(door, |it| it.door);
        let nonce = self.nonce();
        let priority = self.rng.below(4) as u8;
        let newcomer = Newcomer {
            key: key_of(peer),
            participant: format!("p{peer}"),
            priority,
            nonce,
            replaces: None,
        };
        let now = self.now;
        if let Some(it) = self.peers.get_mut(peer) {
            it.asked = Some((now + 8_000, nonce));
        }
        self.post(peer, doorman, Happening::Hello(doorman, door, newcomer));
    }
}
