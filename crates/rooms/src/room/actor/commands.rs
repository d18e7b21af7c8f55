//! What the handles ask.

use std::time::Duration;

use iroh::EndpointId;
use iroh_gossip::TopicId;
use iroh_rooms_moq::{Broadcast, PathKind, Session};
use n0_future::task::{self, AbortOnDropHandle};
use tokio::sync::broadcast;

use super::{Actor, OpenChannel, Report, wall_micros};
use crate::{
    Error, RoomTicket,
    channel::{self, Writer},
    chat::{self, ChatPublisher},
    event::Status,
    presence::RoomState,
    room::{Command, Diagnosis, Stats, lock},
    roster::is_internal,
};

impl Actor {
    pub(super) async fn command(&mut self, command: Command) {
        // A caller that stopped waiting does not want the answer.
        match command {
            Command::Publish {
                name,
                broadcast,
                reply,
            } => {
                let _ = reply.send(self.publish(name, &broadcast));
            }
            Command::Unpublish { name, reply } => {
                let _ = reply.send(Ok(self.unpublish(&name)));
            }
            Command::SetDisplayName { name, reply } => {
                let mut state = self.state.clone();
                state.display_name = name;
                let _ = reply.send(self.change_state(state));
            }
            Command::SetPresence { presence, reply } => {
                let mut state = self.state.clone();
                let set = state.set_presence(presence.as_ref());
                let _ = reply.send(set.and_then(|()| self.change_state(state)));
            }
            Command::SetChatPublisher { publisher, reply } => {
                self.unpublish(chat::BROADCAST);
                self.chat = Some(publisher);
                let _ = reply.send(Ok(()));
            }
            Command::SendChat { text, reply } => {
                let _ = reply.send(self.send_chat(&text));
            }
            Command::OpenChannel { name, reply } => {
                let _ = reply.send(self.open_channel(&name));
            }
            Command::ChannelSend {
                name,
                json,
                to,
                datagram,
                reply,
            } => {
                let _ = reply.send(self.channel_send(&name, json, to, datagram));
            }
            Command::Ticket { reply } => {
                let _ = reply.send(Ok(self.ticket()));
            }
            Command::Stats { reply } => {
                let _ = reply.send(self.stats().await);
            }
            Command::Diagnose { reply } => {
                let _ = reply.send(Ok(self.diagnose()));
            }
            // Handled by the loop.
            Command::Leave { .. } | Command::LeaveNow | Command::Resume => {}
        }
    }

    /// Takes a state if it fits, shows it to the application and writes it soon.
    pub(super) fn change_state(&mut self, state: RoomState) -> Result<(), Error> {
        state.encode()?;
        self.state = state;
        self.dirty = true;
        let mut view = lock(&self.view);
        view.me.display_name = self.state.display_name.clone();
        view.me.presence = self.state.presence();
        view.me.broadcasts = self
            .state
            .broadcasts
            .iter()
            .filter(|name| !is_internal(name))
            .cloned()
            .collect();
        Ok(())
    }

    pub(super) fn publish(&mut self, name: String, broadcast: &Broadcast) -> Result<(), Error> {
        let mut state = self.state.clone();
        if !state.broadcasts.contains(&name) {
            if state.broadcasts.len() >= crate::presence::MAX_BROADCASTS {
                return Err(Error::InvalidArgument(format!(
                    "a peer publishes at most {} broadcasts: unpublish one first",
                    crate::presence::MAX_BROADCASTS
                )));
            }
            let at = state.broadcasts.partition_point(|it| *it < name);
            state.broadcasts.insert(at, name.clone());
        }
        // Channels are found by the sessions alone and take no room in presence.
        let listed = !name.starts_with(channel::PREFIX);
        if listed {
            state.encode()?;
        }
        self.scope.publish(&name, broadcast)?;
        self.published_count += 1;
        let instance = self.published_count;
        let (broadcast, reports, ended) =
            (broadcast.clone(), self.reports_tx.clone(), name.clone());
        let watch = task::spawn(async move {
            broadcast.closed().await;
            // A closed room needs no report.
            let _ = reports.send(Report::Ended(ended, instance)).await;
        });
        self.published
            .insert(name, (instance, AbortOnDropHandle::new(watch)));
        if listed {
            self.change_state(state)
        } else {
            Ok(())
        }
    }

    pub(super) fn unpublish(&mut self, name: &str) -> bool {
        let known = self.published.remove(name).is_some();
        if known {
            self.scope.unpublish(name);
            let mut state = self.state.clone();
            state.broadcasts.retain(|listed| listed != name);
            // Less never is too much.
            let _ = self.change_state(state);
        }
        known
    }

    /// Publishes the chat. Before anything is said: whoever has it subscribed by then hears the
    /// first message as soon as the second.
    pub(super) fn open_chat(&mut self) -> Result<(), Error> {
        let broadcast = Broadcast::new();
        let publisher = ChatPublisher::new(&broadcast)?;
        self.publish(chat::BROADCAST.to_owned(), &broadcast)?;
        self.chat = Some(publisher);
        Ok(())
    }

    pub(super) fn send_chat(&mut self, text: &str) -> Result<crate::event::ChatMessage, Error> {
        let me = lock(&self.view).me.clone();
        let publisher = self.chat.as_mut().ok_or(Error::Closed("chat"))?;
        let message = publisher.send(&me, text, wall_micros())?;
        lock(&self.view).chat.insert(message.clone());
        Ok(message)
    }

    pub(super) fn open_channel(
        &mut self,
        name: &str,
    ) -> Result<broadcast::Receiver<channel::Message>, Error> {
        if let Some(open) = self.channels.get(name) {
            return Ok(open.messages.subscribe());
        }
        if self.channels.len() >= channel::MAX_CHANNELS {
            return Err(Error::InvalidArgument(format!(
                "a room has at most {} channels open",
                channel::MAX_CHANNELS
            )));
        }
        let broadcast_name = channel::broadcast_name(name)?;
        let mut writer = Writer::new()?;
        for peer in self.roster.iter() {
            writer.add_peer(peer.id)?;
        }
        self.publish(broadcast_name.clone(), &writer.broadcast)?;
        let messages = broadcast::Sender::new(channel::MESSAGES_CAP);
        let receiver = messages.subscribe();
        self.channels
            .insert(name.to_owned(), OpenChannel { writer, messages });
        let openers: Vec<EndpointId> = self
            .live_broadcasts
            .iter()
            .filter(|(_, names)| names.contains(&broadcast_name))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in openers {
            self.begin_reading(peer, &broadcast_name);
        }
        Ok(receiver)
    }

    pub(super) fn channel_send(
        &mut self,
        name: &str,
        json: String,
        to: Option<EndpointId>,
        datagram: bool,
    ) -> Result<(), Error> {
        if !self.channels.contains_key(name) {
            self.open_channel(name)?;
        }
        let open = self
            .channels
            .get_mut(name)
            .ok_or(Error::Closed("channel"))?;
        open.writer
            .send(json, to, datagram, Duration::from_micros(wall_micros()))
    }

    pub(super) fn ticket(&self) -> RoomTicket {
        let mut ticket = RoomTicket::new(self.topic, []);
        ticket.add_peer(self.me, self.live.relay_url().as_ref());
        // Those with a session are known to be reachable.
        let (near, far): (Vec<_>, Vec<_>) = self
            .roster
            .iter()
            .partition(|peer| self.sessions.contains_key(&peer.id));
        for peer in near.into_iter().chain(far) {
            ticket.add_peer(peer.id, self.relays.get(&peer.id));
        }
        if let Some(guard) = &self.guard {
            // The topic comes with the admission only.
            let room_id = guard.borrow().room_id;
            ticket.topic_id = TopicId::from_bytes(room_id);
            ticket.room_id = Some(room_id);
        }
        ticket
    }

    pub(super) async fn stats(&self) -> Result<Stats, Error> {
        let kv = self.kv.stats().await?;
        Ok(Stats {
            peers: self.roster.len(),
            sessions: self
                .sessions
                .keys()
                .filter(|peer| self.foreign.is_none() || self.roster.get(peer).is_some())
                .count(),
            neighbors: self.neighbors.len(),
            refused: self.refused + self.roster.refused() + kv.refused.total(),
        })
    }

    pub(super) fn diagnose(&self) -> Vec<Diagnosis> {
        let now = self.now();
        let diagnose = |peer: &crate::event::Peer| {
            let session = self.sessions.get(&peer.id).map(|open| &open.session);
            let stats = session.map(Session::stats);
            let silent = self.roster.silent_for(&peer.id, now).unwrap_or_default();
            let failed_dials = self.dials.get(&peer.id).map_or(0, |dial| dial.failures);
            let advice = if session.is_some() {
                ""
            } else if self.live.status() != Status::Connected {
                "this side has lost its relay: it reconnects by itself"
            } else if failed_dials > 0 {
                "the peer cannot be dialled: check that its relay can be reached from here"
            } else {
                "the session is being set up"
            };
            Diagnosis {
                peer: peer.id,
                path: stats
                    .as_ref()
                    .and_then(|stats| stats.path)
                    .map_or("none", PathKind::as_str)
                    .to_owned(),
                relay_url: self.relays.get(&peer.id).map(ToString::to_string),
                rtt_ms: stats
                    .as_ref()
                    .and_then(|stats| stats.rtt)
                    .map(|rtt| rtt.as_secs_f64() * 1000.0),
                sessions: session.is_some().into(),
                version: session.map(|session| session.version().to_owned()),
                bytes_sent: stats.as_ref().map_or(0, |stats| stats.bytes_sent),
                bytes_received: stats.as_ref().map_or(0, |stats| stats.bytes_received),
                last_heard_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
                refused: self.refused_of.get(&peer.id).copied().unwrap_or_default(),
                failed_dials,
                advice: advice.to_owned(),
            }
        };
        self.roster.iter().map(diagnose).collect()
    }
}
