//! A room: handles on the outside, one actor inside (`room/actor.rs`).
//!
//! What readers need at once is kept in a view, which the actor changes and announces under one
//! lock: a reader that subscribes sees everything either in the view or as an event, never both
//! and never neither.

mod actor;
mod events;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use iroh::EndpointId;
use iroh_gossip::TopicId;
use iroh_rooms_moq::{Accept, Broadcast, RemoteBroadcast, Scope, close::LEAVING};
use iroh_rooms_sorted::SortedMap;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::events::RoomEvents;
use self::events::View;
use crate::{
    Error, Live, RoomTicket,
    channel::{self, Channel},
    chat::{self, ChatPublisher},
    event::{ChatMessage, Event, LeftReason, Peer, Status},
    presence::{MAX_DISPLAY_NAME, check_broadcast_name, check_size},
    roster::is_internal,
};

/// Commands waiting for the actor; callers wait beyond.
const COMMANDS_CAP: usize = 64;

/// How to enter a room.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name to show, at most 64 bytes. Default: none.
    pub display_name: Option<String>,
    /// The application's presence, at most 2 KiB of JSON. Default: none.
    pub presence: Option<serde_json::Value>,
    /// Whether every broadcast is subscribed as it appears. Default: yes, as in iroh-live.
    pub auto_subscribe: bool,
    /// Whether peers of another library are met. Default: none.
    pub compat: Option<Compat>,
}

/// Peers of another library that a room meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compat {
    /// Those of iroh-live. They prove to nobody that they know the room, and know sessions between
    /// endpoints only. So the room shares the endpoint's own MoQ scope: whoever dials the endpoint
    /// can read what is published in it. One such room for each [`Live`].
    IrohLive,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            display_name: None,
            presence: None,
            auto_subscribe: true,
            compat: None,
        }
    }
}

/// Who is a member of a room with a doorman; only they are shown, dialled and served.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Members {
    /// The room's id.
    pub(crate) room_id: [u8; 32],
    /// The members' names.
    pub(crate) participants: SortedMap<EndpointId, String>,
    /// Why those are gone who were members last.
    pub(crate) gone: SortedMap<EndpointId, LeftReason>,
}

/// Follows the members.
pub(crate) type Guard = watch::Receiver<Members>;

/// What a room counts.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Stats {
    /// Peers present, without this one.
    pub peers: usize,
    /// Sessions that stand.
    pub sessions: usize,
    /// Direct neighbours in the gossip.
    pub neighbors: usize,
    /// Values, messages and peers refused.
    pub refused: u64,
}

/// What is known about the way to a peer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Diagnosis {
    /// The peer.
    pub peer: EndpointId,
    /// `relay` or `direct`, `none` without a session.
    pub path: String,
    /// The relay it says it is at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_url: Option<String>,
    /// Round trip in milliseconds, with a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Sessions of this room with the peer: 0 or 1.
    pub sessions: u32,
    /// The protocol version of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Bytes sent over the session.
    pub bytes_sent: u64,
    /// Bytes received over the session.
    pub bytes_received: u64,
    /// Milliseconds since something was heard from it, outages of this side not counted.
    pub last_heard_ms: u64,
    /// Messages of it that were refused.
    pub refused: u64,
    /// Dials that failed in a row.
    pub failed_dials: u32,
    /// What to try, in words; empty when all is well.
    pub advice: String,
}

/// A room, with the cursor of its events.
#[derive(Debug)]
pub struct Room {
    events: RoomEvents,
    handle: RoomHandle,
}

impl Room {
    /// Enters the room of a ticket, with the default options.
    pub async fn new(live: &Live, ticket: RoomTicket) -> Result<Self, Error> {
        Self::open(live, ticket, Options::default()).await
    }

    /// Enters the room of a ticket.
    pub async fn open(live: &Live, ticket: RoomTicket, options: Options) -> Result<Self, Error> {
        if ticket.room_id.is_some() {
            return Err(Error::InvalidTicket(
                "this is the ticket of a room with a doorman: use `join`".into(),
            ));
        }
        Self::open_with(live, ticket, options, None).await
    }

    /// The same, for members only where there is a guard.
    pub(crate) async fn open_with(
        live: &Live,
        ticket: RoomTicket,
        options: Options,
        guard: Option<Guard>,
    ) -> Result<Self, Error> {
        check_display_name(options.display_name.as_deref())?;
        let topic = ticket.topic_id;
        let is_compat = options.compat.is_some();
        live.check_vacant(&topic, is_compat)?;
        let (commands, inbox) = mpsc::channel(COMMANDS_CAP);
        let mut view = View::new(live.endpoint_id(), &options);
        view.me.participant_id = guard
            .as_ref()
            .and_then(|it| it.borrow().participants.get(&live.endpoint_id()).cloned());
        let view = Arc::new(Mutex::new(view));
        let accept = match guard {
            Some(_) => Accept::Manual,
            None => Accept::All,
        };
        let scope = match options.compat {
            Some(Compat::IrohLive) => live.moq().own().clone(),
            None => live
                .moq()
                .open_scope_with(actor::scope_key(&topic), accept)?,
        };
        let inner = Arc::new(Inner {
            live: live.clone(),
            topic,
            view: view.clone(),
            commands,
            scope,
            is_compat,
        });
        let handle = RoomHandle { inner };
        let events = handle.events();
        live.register(topic, WeakRoom(Arc::downgrade(&handle.inner)));
        if let Err(error) = actor::spawn(
            handle.inner.scope.clone(),
            live,
            ticket,
            options,
            guard,
            view,
            inbox,
        )
        .await
        {
            live.unregister(&topic);
            return Err(error);
        }
        Ok(Self { events, handle })
    }

    /// The next event; `None` when the room is closed.
    pub async fn recv(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event, if there is one.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.events.try_recv()
    }

    /// A ticket that names this peer and up to seven others.
    pub async fn ticket(&self) -> Result<RoomTicket, Error> {
        self.handle.ticket().await
    }

    /// The cursor and the publishing half, for separate tasks.
    pub fn split(self) -> (RoomEvents, RoomHandle) {
        (self.events, self.handle)
    }

    /// The publishing half.
    pub fn handle(&self) -> &RoomHandle {
        &self.handle
    }

    /// Publishes a broadcast to the room.
    pub async fn publish(&self, name: &str, broadcast: &Broadcast) -> Result<(), Error> {
        self.handle.publish(name, broadcast).await
    }

    /// Uses a chat publisher made by the application.
    pub async fn set_chat_publisher(&self, publisher: ChatPublisher) -> Result<(), Error> {
        self.handle.set_chat_publisher(publisher).await
    }

    /// Says something.
    pub async fn send_chat(&self, text: &str) -> Result<ChatMessage, Error> {
        self.handle.send_chat(text).await
    }
}

/// The publishing half of a room. Cheap to clone; the room ends with the last one, or by
/// [`RoomHandle::leave`].
#[derive(Debug, Clone)]
pub struct RoomHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    live: Live,
    topic: TopicId,
    view: Arc<Mutex<View>>,
    commands: mpsc::Sender<Command>,
    scope: Scope,
    /// The scope is the endpoint's own, and not the room's alone.
    is_compat: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.live.unregister(&self.topic);
    }
}

/// A room as its [`Live`] knows it, without keeping it open.
#[derive(Debug)]
pub(crate) struct WeakRoom(Weak<Inner>);

impl WeakRoom {
    pub(crate) fn upgrade(&self) -> Option<RoomHandle> {
        self.0.upgrade().map(|inner| RoomHandle { inner })
    }
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What a handle asks of the actor.
#[derive(Debug)]
enum Command {
    Publish {
        name: String,
        broadcast: Broadcast,
        reply: Reply<()>,
    },
    Unpublish {
        name: String,
        reply: Reply<bool>,
    },
    SetDisplayName {
        name: Option<String>,
        reply: Reply<()>,
    },
    SetPresence {
        presence: Option<serde_json::Value>,
        reply: Reply<()>,
    },
    SetChatPublisher {
        publisher: ChatPublisher,
        reply: Reply<()>,
    },
    SendChat {
        text: String,
        reply: Reply<ChatMessage>,
    },
    OpenChannel {
        name: String,
        reply: Reply<tokio::sync::broadcast::Receiver<channel::Message>>,
    },
    ChannelSend {
        name: String,
        json: String,
        to: Option<EndpointId>,
        datagram: bool,
        reply: Reply<()>,
    },
    Ticket {
        reply: Reply<RoomTicket>,
    },
    Stats {
        reply: Reply<Stats>,
    },
    Diagnose {
        reply: Reply<Vec<Diagnosis>>,
    },
    /// A goodbye without waiting for anything.
    LeaveNow,
    /// Back after [`Command::LeaveNow`], or after a sleep.
    Resume,
    Leave {
        reply: Reply<()>,
    },
}

impl RoomHandle {
    /// The room's topic.
    pub fn id(&self) -> TopicId {
        self.inner.topic
    }

    /// The endpoint the room is on.
    pub fn live(&self) -> &Live {
        &self.inner.live
    }

    /// This peer, as others see it.
    pub fn me(&self) -> Peer {
        self.view().me.clone()
    }

    /// Whether it meets peers of another library.
    pub(crate) fn is_compat(&self) -> bool {
        self.inner.is_compat
    }

    /// The others, by id.
    pub fn peers(&self) -> Vec<Peer> {
        self.view().peers().cloned().collect()
    }

    /// How the room is connected.
    pub fn status(&self) -> Status {
        if self.inner.commands.is_closed() {
            Status::Disconnected
        } else {
            self.inner.live.status()
        }
    }

    /// A cursor of its own; it begins with those who are present.
    pub fn events(&self) -> RoomEvents {
        RoomEvents::new(self.inner.view.clone())
    }

    /// The room's MoQ scope: sessions and broadcasts by peer.
    pub fn scope(&self) -> &Scope {
        &self.inner.scope
    }

    /// Publishes a broadcast to the room; one of the same name is replaced.
    pub async fn publish(&self, name: &str, broadcast: &Broadcast) -> Result<(), Error> {
        check_broadcast_name(name)?;
        if is_internal(name) {
            return Err(Error::InvalidArgument(format!(
                "broadcast name {name:?}: \"{}\" and names that start with \"{}\" are the room's own",
                chat::BROADCAST,
                channel::PREFIX
            )));
        }
        let (name, broadcast) = (name.to_owned(), broadcast.clone());
        self.ask(|reply| Command::Publish {
            name,
            broadcast,
            reply,
        })
        .await
    }

    /// Withdraws a broadcast; `false` when there is none of that name.
    pub async fn unpublish(&self, name: &str) -> Result<bool, Error> {
        let name = name.to_owned();
        self.ask(|reply| Command::Unpublish { name, reply }).await
    }

    /// Waits for a peer's broadcast.
    pub async fn subscribe(&self, peer: EndpointId, name: &str) -> Result<RemoteBroadcast, Error> {
        Ok(self.inner.scope.subscribe(peer, name).await?)
    }

    /// Sets the name to show, at most 64 bytes; `None` takes it away.
    pub async fn set_display_name(&self, name: Option<&str>) -> Result<(), Error> {
        check_display_name(name)?;
        let name = name.map(ToOwned::to_owned);
        self.ask(|reply| Command::SetDisplayName { name, reply })
            .await
    }

    /// Sets the application's presence, at most 2 KiB of JSON. The latest wins; at most ten a
    /// second travel.
    pub async fn set_presence(&self, presence: Option<serde_json::Value>) -> Result<(), Error> {
        self.ask(|reply| Command::SetPresence { presence, reply })
            .await
    }

    /// Says something: 1 to 4,096 bytes. Returns the message as it stands in the history.
    pub async fn send_chat(&self, text: &str) -> Result<ChatMessage, Error> {
        chat::check_text(text)?;
        let text = text.to_owned();
        self.ask(|reply| Command::SendChat { text, reply }).await
    }

    /// What was said, oldest first: the last 1,000 messages, of up to 5 minutes before joining.
    pub fn chat_history(&self) -> Vec<ChatMessage> {
        self.view().chat.history()
    }

    /// Uses a chat publisher made by the application, instead of the room's own broadcast.
    pub async fn set_chat_publisher(&self, publisher: ChatPublisher) -> Result<(), Error> {
        self.ask(|reply| Command::SetChatPublisher { publisher, reply })
            .await
    }

    /// Opens a channel: see [`crate::channel`].
    pub async fn channel(&self, name: &str) -> Result<Channel, Error> {
        channel::broadcast_name(name)?;
        let name = name.to_owned();
        let opened = name.clone();
        let messages = self
            .ask(|reply| Command::OpenChannel {
                name: opened,
                reply,
            })
            .await?;
        Ok(Channel {
            name,
            room: self.clone(),
            messages,
        })
    }

    /// Sends into a channel that is open; see [`Channel::send`].
    pub async fn channel_send(
        &self,
        name: &str,
        json: String,
        to: Option<EndpointId>,
        datagram: bool,
    ) -> Result<(), Error> {
        let name = name.to_owned();
        self.ask(|reply| Command::ChannelSend {
            name,
            json,
            to,
            datagram,
            reply,
        })
        .await
    }

    /// A ticket that names this peer and up to seven others, with their relays.
    pub async fn ticket(&self) -> Result<RoomTicket, Error> {
        self.ask(|reply| Command::Ticket { reply }).await
    }

    /// Counters.
    pub async fn stats(&self) -> Result<Stats, Error> {
        self.ask(|reply| Command::Stats { reply }).await
    }

    /// What is known about the way to each peer.
    pub async fn diagnose(&self) -> Result<Vec<Diagnosis>, Error> {
        self.ask(|reply| Command::Diagnose { reply }).await
    }

    /// Says goodbye and leaves. Idempotent.
    pub async fn leave(&self) {
        // A closed room has been left.
        let _ = self.ask(|reply| Command::Leave { reply }).await;
    }

    /// Says goodbye without waiting, for a page that vanishes.
    pub fn leave_now(&self) {
        // The close frames go first: they reach every peer with a session in one message each.
        if self.is_compat() {
            for peer in self.peers() {
                self.scope().disconnect(peer.id, LEAVING, "leaving");
            }
        } else {
            self.scope().disconnect_all(LEAVING, "leaving");
        }
        let _ = self.inner.commands.try_send(Command::LeaveNow);
    }

    /// Tells something that does not come from the room itself.
    pub(crate) fn emit(&self, event: Event) {
        self.view().emit(event);
    }

    /// Comes back after [`RoomHandle::leave_now`], and tells everyone; for a page that was shown
    /// again.
    pub(crate) fn resume(&self) {
        let _ = self.inner.commands.try_send(Command::Resume);
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let closed = || Error::Closed("room");
        self.inner
            .commands
            .send(command(reply))
            .await
            .map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.inner.view)
    }
}

fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    // The view is consistent after each single change; a panic elsewhere does not spoil it.
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_display_name(name: Option<&str>) -> Result<(), Error> {
    check_size(
        "the display name",
        name.map_or(0, str::len),
        MAX_DISPLAY_NAME,
    )
}
