//! Who comes: newcomers at the door, and members' connections.

use std::time::Duration;

use iroh::{EndpointId, RelayUrl};
use iroh_rooms_consensus::{
    Input, Welcome,
    keys::{Hash, Key},
    machine::Newcomer,
};
use n0_future::time::Instant;
use tokio::sync::oneshot;

use super::Actor;
use crate::{
    door::{self, Code, Frame, Hello, Here, Redirect},
    doorman::{
        hub::{Arrival, Ask, refused},
        questions::{ADMIT, QuestionKind},
        view::{self, id_of, lock},
    },
};

/// What a newcomer is told that was removed by a moderator.
pub(super) const KICKED: &str = "a moderator has removed you";
/// A newcomer that consensus has not decided about in so long asks again.
const DECISION: Duration = Duration::from_secs(12);
/// How long a yes counts that consensus could not act upon: nobody is asked twice about a newcomer
/// because the room had no quorum for a while.
const YES: Duration = Duration::from_secs(60);
/// Of so many; for others somebody is asked again.
const YES_CAP: usize = 64;

/// Someone who waits for consensus to take it in.
pub(super) struct Guest {
    pub(super) newcomer: Newcomer,
    /// Where it is reached.
    pub(super) relay: Option<RelayUrl>,
    pub(super) reply: oneshot::Sender<Frame>,
    pub(super) until: Instant,
}

impl Guest {
    /// Who it is, and under which name.
    fn of(&self) -> (Key, String) {
        (self.newcomer.key, self.newcomer.participant.clone())
    }
}

/// What a question is about.
pub(super) enum Asked {
    Admit(Guest),
    Decide(u64),
    Consider(Hash),
}

impl Actor {
    pub(super) fn arrival(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Guest(from, ask, reply) => self.guest(from, ask, reply),
            Arrival::Member(standing, hello) => {
                let from = *standing.connection.remote_id().as_bytes();
                let banned = self.is_banned(&from);
                let mut news = Vec::new();
                // Without a mesh it is dropped, and with it closed: the caller tries again.
                if let Some(mesh) = &mut self.mesh
                    && !mesh.arrived(standing, &hello, banned, &mut news)
                {
                    self.hub.refuse(1);
                }
                self.news(news);
            }
        }
    }

    fn guest(&mut self, from: EndpointId, ask: Ask, reply: oneshot::Sender<Frame>) {
        // Who was frozen finds out first that others have gone on.
        self.step(Input::Tick);
        let answer = match ask {
            Ask::Ended(ended) => return self.heard_of_end(&ended),
            Ask::Probe => self.here(),
            Ask::Hello(hello) => match self.hello(from, hello, reply) {
                None => return,
                Some((answer, reply)) => {
                    let _ = reply.send(answer);
                    return;
                }
            },
        };
        let _ = reply.send(answer);
    }

    fn relay_url(&self) -> Option<String> {
        self.live.relay_url().map(|url| url.to_string())
    }

    fn here(&self) -> Frame {
        let shared = lock(&self.shared);
        let node = shared.node.as_ref().filter(|it| it.status().doorman);
        match node {
            Some(node) => Frame::Here(Here {
                doorman: self.live.endpoint_id(),
                relay_url: self.relay_url(),
                members: u16::try_from(node.machine().members.len()).unwrap_or(u16::MAX),
            }),
            None => refused(Code::NoQuorum, "the doorman has just gone"),
        }
    }

    /// Where the doorman is, if that is someone else.
    fn elsewhere(&self) -> Frame {
        let shared = lock(&self.shared);
        let node = shared.node.as_ref();
        let doorman = node.and_then(view::doorman).filter(|key| *key != self.me);
        match (node, doorman.and_then(|key| id_of(&key))) {
            (Some(node), Some(doorman)) => Frame::Redirect(Redirect {
                doorman,
                relay_url: self
                    .mesh
                    .as_ref()
                    .and_then(|it| it.relay_of(doorman.as_bytes())),
                epoch: node.status().epoch,
                term: node.status().term,
            }),
            _ => refused(Code::NoQuorum, "nobody could decide about it now"),
        }
    }

    /// An answer at once, or none: then the newcomer waits.
    fn hello(
        &mut self,
        from: EndpointId,
        hello: Hello,
        reply: oneshot::Sender<Frame>,
    ) -> Option<(Frame, oneshot::Sender<Frame>)> {
        if hello.version != door::VERSION {
            let why = "another version of iroh-rooms: reload, or update";
            return Some((refused(Code::Version, why), reply));
        }
        let newcomer = Newcomer {
            key: *from.as_bytes(),
            participant: hello.participant_id.clone(),
            priority: hello.priority,
            nonce: hello.nonce,
            replaces: None,
        };
        let (doorman, refusal, known, banned) = {
            let shared = lock(&self.shared);
            let Some(node) = &shared.node else {
                return None;
            };
            let machine = node.machine();
            (
                node.status().doorman,
                machine.refusal(&newcomer),
                machine.find(&newcomer.key).is_some(),
                machine.banned.contains(&newcomer.key),
            )
        };
        if !doorman {
            return Some((self.elsewhere(), reply));
        }
        if hello.app != self.options.app {
            let why = "another version of this application: reload, or update";
            return Some((refused(Code::AppMismatch, why), reply));
        }
        if let Some(code) = refusal {
            return Some((refusal_frame(code, banned), reply));
        }
        let guest = Guest {
            newcomer,
            relay: hello.relay_url.as_ref().and_then(|it| it.parse().ok()),
            reply,
            until: Instant::now() + DECISION,
        };
        // Who is a member, and comes back, was let in.
        let agreed_to = || {
            self.agreed
                .get(&guest.of())
                .is_some_and(|it| it.elapsed() < YES)
        };
        if self.options.admit && !known && !agreed_to() {
            let kind = QuestionKind::Admit {
                participant_id: hello.participant_id,
                endpoint_id: from,
                proof: hello.proof,
            };
            self.ask(Asked::Admit(guest), Some(kind), ADMIT);
        } else {
            self.let_in(guest);
        }
        None
    }

    /// Somebody has said yes.
    pub(super) fn agree_to(&mut self, guest: Guest) {
        self.agreed.retain(|_, at| at.elapsed() < YES);
        if self.agreed.len() < YES_CAP {
            self.agreed.insert(guest.of(), Instant::now());
        }
        self.let_in(guest);
    }

    pub(super) fn let_in(&mut self, mut guest: Guest) {
        guest.until = Instant::now() + DECISION;
        let newcomer = guest.newcomer.clone();
        self.guests.insert((newcomer.key, newcomer.nonce), guest);
        self.step(Input::Admit(newcomer));
    }

    pub(super) fn deny(&mut self, guest: Guest, why: &str) {
        let _ = guest.reply.send(refused(Code::Denied, why));
    }

    pub(super) fn admitted(&mut self, key: &Key, nonce: &Hash, welcome: &Welcome) {
        let Some(guest) = self.guests.remove(&(*key, *nonce)) else {
            return;
        };
        let Some(topic_secret) = self.topic_secret else {
            return;
        };
        self.agreed.remove(&guest.of());
        if let Some(id) = id_of(key) {
            self.live.learn(id, guest.relay);
        }
        let _ = guest.reply.send(Frame::Welcome(door::Welcome {
            consensus: welcome.encode(),
            topic_secret,
            doorman: self.live.endpoint_id(),
            relay_url: self.relay_url(),
        }));
    }

    pub(super) fn refused(&mut self, key: &Key, nonce: &Hash, code: &'static str) {
        let banned = lock(&self.shared)
            .node
            .as_ref()
            .is_some_and(|it| it.machine().banned.contains(key));
        if let Some(guest) = self.guests.remove(&(*key, *nonce)) {
            let _ = guest.reply.send(refusal_frame(code, banned));
        }
    }

    /// This member does not stand at the door any more: whoever waits there goes elsewhere.
    pub(super) fn turn_away(&mut self) {
        for (_, guest) in self.guests.drain() {
            let why = "the doorman has just gone";
            let _ = guest.reply.send(refused(Code::NoQuorum, why));
        }
        let admit = |it: &Asked| matches!(it, Asked::Admit(_));
        let waiting: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, it)| admit(it))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            // Its channel is dropped: the newcomer asks again.
            self.asked.remove(&id);
            self.deadlines.remove(&id);
        }
    }

    /// Sends those away whom consensus has not decided about.
    pub(super) fn watch_guests(&mut self) {
        let now = Instant::now();
        let late = self.guests.extract_if(|_, guest| now >= guest.until);
        for (_, guest) in late {
            let why = "nobody could decide about it in time";
            let _ = guest.reply.send(refused(Code::NoQuorum, why));
        }
    }
}

fn refusal_frame(code: &str, banned: bool) -> Frame {
    match code {
        "full" => refused(Code::Full, "the room is full"),
        "participant-id-taken" => refused(Code::ParticipantIdTaken, "the participant id is taken"),
        "no-quorum" => refused(Code::NoQuorum, "nobody could decide about it now"),
        "rate-limited" => refused(Code::RateLimited, "too many at once: wait a little"),
        _ if banned => refused(Code::Denied, KICKED),
        _ => refused(Code::Denied, "the room is locked"),
    }
}
