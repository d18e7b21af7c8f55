//! Who is a member, and what follows for the connections among them and for the gossip room.

use super::*;

impl Actor {
    /// Has everyone else follow who is a member.
    pub(super) fn watch_members(&mut self) {
        let (peers, known, banned, members, voters, door) = {
            let shared = lock(&self.shared);
            let Some(node) = &shared.node else { return };
            let status = node.status();
            let machine = node.machine();
            let banned = machine.banned.clone();
            // Who is to go still has to help with its going.
            let peers = node.peers();
            let known = machine.members.values().map(|it| it.key);
            let known: Vec<Key> = known.chain(peers.iter().copied()).collect();
            let voters = status.conf.ids().into_iter();
            let voters = voters.filter(|id| status.conf.is_voter(*id));
            let voters: SortedSet<Key> = voters.filter_map(|id| node.key(id)).collect();
            let members = status.ready.then(|| {
                let members = machine.members.values();
                let members = members.filter(|it| !banned.contains(&it.key));
                members
                    .filter_map(|it| Some((id_of(&it.key)?, it.participant.clone())))
                    .collect::<SortedMap<EndpointId, String>>()
            });
            (peers, known, banned, members, voters, machine.door())
        };
        self.hub.change(self.number, |it| it.members = known);
        if let Some(mesh) = &mut self.mesh {
            mesh.want(peers, |key| banned.contains(key));
            let key = self.keys.iter().find(|it| *it.public().as_bytes() == door);
            if let Some(key) = key {
                mesh.hand_key(&door, &key.to_bytes(), &voters);
            }
        }
        let Some(participants) = members else { return };
        let banned = banned.iter().filter_map(id_of);
        let banned = banned.map(|id| (id, LeftReason::Kicked));
        let members = Members {
            room_id: door,
            gone: self.gone.clone().into_iter().chain(banned).collect(),
            participants,
        };
        self.members.send_if_modified(|now| {
            let changed = *now != members;
            *now = members;
            changed
        });
        self.hub.change(self.number, |it| it.door = door);
        if let Ok(id) = EndpointId::from_bytes(&door) {
            lock(&self.shared).id = id;
        }
        self.open_room();
        self.check_ready();
    }

    pub(super) fn news(&mut self, news: Vec<News>) {
        for news in news {
            match news {
                News::Link(key, up) => {
                    self.step(Input::Link(key, up));
                    if up {
                        self.watch_members();
                    }
                }
                News::Gone(key) => self.step(Input::Gone(key)),
                News::Ended(ended) => self.heard_of_end(&ended),
                News::Key(secret) => self.learn_key(SecretKey::from_bytes(&secret)),
            }
        }
    }

    pub(super) fn heard_of_end(&mut self, ended: &frames::Ended) {
        let current = lock(&self.shared)
            .node
            .as_ref()
            .is_some_and(|it| it.status().epoch == ended.epoch && it.status().id != ended.raft_id);
        if current {
            self.step(Input::Ended(ended.raft_id, signature(&ended.signature)));
        }
    }

    pub(super) fn learn_key(&mut self, key: SecretKey) {
        let door = lock(&self.shared)
            .node
            .as_ref()
            .map(|it| it.machine().door());
        self.keys.retain(|it| it.public() != key.public());
        self.keys.push(key);
        if self.keys.len() > MAX_KEYS {
            // Not the one that opens the door now.
            let other = self
                .keys
                .iter()
                .position(|it| Some(*it.public().as_bytes()) != door);
            self.keys.remove(other.unwrap_or_default());
        }
        self.stand_at_the_door();
    }

    /// Whether someone was removed by a moderator, and is a member no more.
    pub(super) fn is_banned(&self, key: &Key) -> bool {
        let shared = lock(&self.shared);
        let node = shared.node.as_ref();
        node.is_some_and(|it| it.machine().banned.contains(key) && !it.knows(key))
    }

    pub(super) fn report(&mut self, report: Report) {
        if let Report::Frame(from, frame, _share) = report {
            if !self.is_banned(&from) {
                self.step(Input::Receive(from, frame));
            }
            return;
        }
        let mut news = Vec::new();
        if let Some(mesh) = &mut self.mesh {
            mesh.report(report, &mut news);
        }
        self.news(news);
    }

    // --- The gossip room ----------------------------------------------------------------------

    /// Opens it, when the members are known.
    pub(super) fn open_room(&mut self) {
        let open = lock(&self.shared).room.is_some() || self.opening.is_some();
        let Some(secret) = self.topic_secret.filter(|_| !open) else {
            return;
        };
        let topic = topic(&secret);
        let members = self.members.borrow().participants.clone();
        let me = self.live.endpoint_id();
        let others = members.into_keys().filter(|it| *it != me);
        let mut others: Vec<EndpointId> = others.collect();
        others.shuffle(&mut rand::rng());
        // One of them is known to be reached, and where.
        let met = |it: &EndpointId| self.mesh.as_ref().is_some_and(|mesh| mesh.has(it));
        if let Some(at) = others.iter().position(met) {
            others.swap(0, at);
        }
        others.truncate(INTRODUCTIONS);
        let ticket = RoomTicket::new(topic, others);
        let (live, options, guard) = (
            self.live.clone(),
            self.options.room.clone(),
            self.members.subscribe(),
        );
        let rooms = self.rooms_tx.clone();
        self.opening = Some(AbortOnDropHandle::new(task::spawn(async move {
            let mut room = Err(Error::Timeout("opening the gossip room"));
            for _ in 0..OPENINGS {
                let (ticket, options) = (ticket.clone(), options.clone());
                let open = Room::open_with(&live, ticket, options, Some(guard.clone()));
                match time::timeout(OPENING, open).await {
                    Ok(Err(Error::Presence(_))) => {}
                    Ok(opened) => {
                        room = opened;
                        break;
                    }
                    // It takes no calls.
                    Err(_) => live.gossip().restart(),
                }
            }
            let _ = rooms.send(room).await;
        })));
    }

    pub(super) fn opened(&mut self, room: Result<Room, Error>) {
        self.opening = None;
        match room {
            Ok(room) => {
                lock(&self.shared).room = Some(room.split().1);
                self.check_ready();
            }
            Err(error) => self.fail(error),
        }
    }
}

/// A signature as consensus has it: in halves.
fn signature(signature: &iroh_base::Signature) -> consensus::keys::Signature {
    let bytes = signature.to_bytes();
    let (first, second) = bytes.split_at(32);
    let mut halves = consensus::keys::Signature::default();
    halves.0.copy_from_slice(first);
    halves.1.copy_from_slice(second);
    halves
}
