//! Rooms with a doorman: one id leads in, whoever stands at the door, and all agree on one state.
//!
//! ```no_run
//! # async fn example() -> Result<(), iroh_rooms::Error> {
//! use iroh_rooms::{Live, StateRoom, doorman};
//!
//! let live = Live::builder().spawn().await?;
//! let room = StateRoom::create(&live, None, doorman::Options::new("ada"));
//! room.ready().await?;
//! println!("join with {}", room.id().to_z32());
//! room.merge(r#"{"topic": "tea"}"#).await?;
//! # Ok(()) }
//! ```
//!
//! 1. [`StateRoom::open`] returns at once; [`StateRoom::ready`] settles when the room is entered.
//! 2. `newcomer.rs` finds the way in, `hub.rs` takes in who comes; `door.rs` is the endpoint that the
//!    room id leads to, `mesh.rs` the connections among members.
//! 3. `actor.rs` drives [`iroh_rooms_consensus::Node`] with all of it, and opens the gossip room
//!    ([`StateRoom::room`]) in which the members see each other, chat and publish.

mod actor;
mod address;
mod clock;
mod door;
mod hub;
mod mesh;
mod newcomer;
mod questions;
mod view;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use iroh::EndpointId;
use iroh_rooms_consensus::{
    keys::Key,
    limits::{CHANGE_BYTES, PENDING},
    session::Payload,
    state::Change,
};
use n0_future::time;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub(crate) use self::hub::{DOOR_ALPN, DoorHandler, Hub, MemberHandler, RAFT_ALPN};
use self::{address::Address, view::Shared};
pub use self::{
    address::{MAX_NAME_CHARS, resolve},
    questions::{Question, QuestionKind, Questions},
    view::{Changes, Consensus, ConsensusStatus, Participant, Update},
};
use crate::{Error, Live, RoomHandle, event::ChangeKind, presence::check_size, room};

/// Commands that wait for the actor; callers wait beyond.
const COMMANDS_CAP: usize = 64;
/// Bytes of a participant id.
pub const MAX_PARTICIPANT_ID: usize = crate::door::MAX_PARTICIPANT_ID;
/// Bytes of what is shown at the door.
pub const MAX_PROOF: usize = crate::door::MAX_PROOF;
/// All rooms of an endpoint are left within this.
const LEAVE_ALL: Duration = Duration::from_secs(2);

/// What a change needs to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Approval {
    /// Nothing but what every member finds by itself when it applies it.
    #[default]
    Guard,
    /// More than half of the members agree, its author among them.
    Majority,
}

/// What to do when too few of those who vote are left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recovery {
    /// Go on by oneself where nothing acknowledged can be lost, and otherwise when asked to.
    #[default]
    Auto,
    /// Go on when asked to.
    Manual,
    /// Wait until enough are back.
    Never,
}

/// Whether there is to be a room already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// There must be none.
    Create,
    /// There must be one.
    Join,
    /// Enter it, or make it if nobody is there.
    JoinOrCreate,
}

/// How to enter a room with a doorman.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the gossip room is entered with: display name, presence.
    pub room: room::Options,
    /// The own name among the participants, 1 to 64 bytes; nobody else present may have it.
    pub participant_id: String,
    /// The state of a room that is created, JSON. Default: `{}`.
    pub initial_state: Option<String>,
    /// Whether the application makes the state ([`QuestionKind::Decide`]); then a change is whatever
    /// its reducer understands. The same at every participant. Default: no.
    pub reducer: bool,
    /// Whether the application may refuse changes ([`QuestionKind::Decide`], and with
    /// [`Approval::Majority`] [`QuestionKind::Consider`]). The same at every participant. Default: no.
    pub validate: bool,
    /// Whether the application is asked about newcomers ([`QuestionKind::Admit`]). Default: all are
    /// let in.
    pub admit: bool,
    /// What a change needs, in a room that is created.
    pub approval: Approval,
    /// What to do when too few of those who vote are left.
    pub recovery: Recovery,
    /// The most voters: 1, 3, 5 or 7. Default: 5.
    pub voters: usize,
    /// Who moderates a room that is created, beside its creator; at most 63.
    pub moderators: Vec<EndpointId>,
    /// Shown to whoever admits, at most 4 KiB. Default: none.
    pub proof: Option<Vec<u8>>,
    /// A hash of the application's version; others are not let in. Default: none.
    pub app: Option<[u8; 32]>,
    /// What [`StateRoom::saved`] gave: the state of a room that is created.
    pub restore: Option<Vec<u8>>,
    /// How fit this participant is to vote and to lead: 0 mobile, 1 hidden tab, 2 visible tab, 3
    /// native or Node. Default: 3.
    pub priority: u8,
    /// How long joining may take. Default: 10 s; a person at the door may take longer.
    pub join_timeout: Duration,
}

impl Options {
    /// The default options under a name.
    pub fn new(participant_id: impl Into<String>) -> Self {
        Self {
            room: room::Options::default(),
            participant_id: participant_id.into(),
            initial_state: None,
            reducer: false,
            validate: false,
            admit: false,
            approval: Approval::default(),
            recovery: Recovery::default(),
            voters: iroh_rooms_consensus::limits::VOTERS,
            moderators: Vec::new(),
            proof: None,
            app: None,
            restore: None,
            priority: 3,
            join_timeout: Duration::from_secs(10),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::InvalidArgument(what.into()));
        if self.participant_id.is_empty() {
            return wrong("the participant id is empty");
        }
        check_size(
            "the participant id",
            self.participant_id.len(),
            MAX_PARTICIPANT_ID,
        )?;
        check_size(
            "the proof",
            self.proof.as_ref().map_or(0, Vec::len),
            MAX_PROOF,
        )?;
        if ![1, 3, 5, 7].contains(&self.voters) {
            return wrong("voters: 1, 3, 5 or 7");
        }
        if self.moderators.len() >= iroh_rooms_consensus::limits::MODERATORS {
            return wrong("at most 63 moderators beside the creator");
        }
        if self.priority > 3 {
            return wrong("priority: 0 to 3");
        }
        Ok(())
    }
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What a handle asks of the actor.
pub(crate) enum Command {
    Propose {
        payload: Payload,
        base: Option<u64>,
        reply: Reply<u64>,
    },
    Kick {
        who: String,
        reply: Reply<u64>,
    },
    Rotate {
        reply: Reply<EndpointId>,
    },
    Recover {
        reply: Reply<()>,
    },
    HandOver,
    Answer(u64, serde_json::Value),
    LeaveNow,
    Resume,
    Leave {
        reply: Reply<()>,
    },
}

/// A room with a doorman that this endpoint is in, or on its way to. Cheap to clone; it ends with the
/// last one, or by [`StateRoom::leave`].
#[derive(Clone)]
pub struct StateRoom {
    shared: Arc<Mutex<Shared>>,
    commands: mpsc::Sender<Command>,
    ready: watch::Receiver<Option<Result<(), Error>>>,
    questions: Questions,
    /// As many as consensus takes at once; further ones wait.
    pending: Arc<Semaphore>,
}

impl std::fmt::Debug for StateRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateRoom")
            .field("id", &self.id().to_z32())
            .finish_non_exhaustive()
    }
}

impl StateRoom {
    /// Makes a room: with a name one that whoever knows the name can enter, without one a room whose
    /// id cannot be guessed.
    pub fn create(live: &Live, name: Option<&str>, options: Options) -> Self {
        Self::open(live, How::Create, name, options)
    }

    /// Enters the room of an id, a name, a ticket or a link.
    pub fn join(live: &Live, room: &str, options: Options) -> Self {
        Self::open(live, How::Join, Some(room), options)
    }

    /// Enters the room of a name, or makes it if nobody is there.
    pub fn join_or_create(live: &Live, name: &str, options: Options) -> Self {
        Self::open(live, How::JoinOrCreate, Some(name), options)
    }

    /// All of these. What is wrong with the arguments is told by [`StateRoom::ready`].
    pub fn open(live: &Live, how: How, room: Option<&str>, options: Options) -> Self {
        let address = options.check().and_then(|()| match room {
            None if how == How::Create => Ok(Address::fresh()),
            None => Err(Error::InvalidArgument("which room?".into())),
            Some(text) => Address::parse(text),
        });
        let address = address.and_then(|it| match (how, &it.key) {
            (How::Create | How::JoinOrCreate, None) => Err(Error::InvalidArgument(
                "a room is created under a name, or without one: ids and tickets are for `join`"
                    .into(),
            )),
            _ => Ok(it),
        });
        let (commands, inbox) = mpsc::channel(COMMANDS_CAP);
        let (settle, ready) = watch::channel(None);
        let (ask, questions) = questions::channel();
        let id = address.as_ref().map_or(live.endpoint_id(), |it| it.id);
        let shared = Arc::new(Mutex::new(Shared::new(id)));
        match address {
            Ok(address) => actor::spawn(
                live,
                how,
                address,
                options,
                shared.clone(),
                settle,
                ask,
                (commands.downgrade(), inbox),
            ),
            Err(error) => {
                view::lock(&shared).close();
                settle.send_replace(Some(Err(error)));
            }
        }
        Self {
            shared,
            commands,
            ready,
            questions,
            pending: Arc::new(Semaphore::new(PENDING)),
        }
    }

    /// Settles when the room is entered: everything else is for afterwards. For who creates it, when
    /// its door was found to answer.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut ready = self.ready.clone();
        let settled = ready.wait_for(Option::is_some).await;
        settled
            .ok()
            .and_then(|it| it.clone())
            .unwrap_or(Err(Error::Closed("room")))
    }

    /// The room's id: what others join with.
    pub fn id(&self) -> EndpointId {
        view::lock(&self.shared).id
    }

    /// Presence, chat, broadcasts, channels and events of the members.
    pub fn room(&self) -> Result<RoomHandle, Error> {
        let room = view::lock(&self.shared).room.clone();
        room.ok_or(Error::Closed("room"))
    }

    /// The state as JSON, and the index of the last change in it; nothing before the room is ready.
    pub fn state(&self) -> Option<(Box<RawValue>, u64)> {
        view::lock(&self.shared).state()
    }

    /// The state, and then each change of it.
    pub fn changes(&self) -> Changes {
        Changes::new(self.shared.clone())
    }

    /// What the application is asked. All clones share one queue.
    pub fn questions(&self) -> Questions {
        self.questions.clone()
    }

    /// Answers a question; what it takes is said at [`QuestionKind`].
    pub fn answer(&self, question: u64, answer: serde_json::Value) {
        // At the limit it goes unanswered, which has its own consequence.
        let _ = self.commands.try_send(Command::Answer(question, answer));
    }

    /// How the agreement stands.
    pub fn consensus(&self) -> Consensus {
        view::lock(&self.shared).consensus()
    }

    /// The members, oldest first.
    pub fn participants(&self) -> Vec<Participant> {
        view::lock(&self.shared).participants()
    }

    /// Merges JSON into the state, RFC 7396. Returns the index at which it was made.
    pub async fn merge(&self, json: &str) -> Result<u64, Error> {
        self.propose(ChangeKind::Merge, json, None).await
    }

    /// Changes the state by a JSON patch, RFC 6902, as a whole or not at all.
    pub async fn patch(&self, json: &str) -> Result<u64, Error> {
        self.propose(ChangeKind::Patch, json, None).await
    }

    /// Proposes a change; `base` has it refused if the state has changed after that index.
    pub async fn propose(
        &self,
        kind: ChangeKind,
        json: &str,
        base: Option<u64>,
    ) -> Result<u64, Error> {
        check_size("the change", json.len(), CHANGE_BYTES)?;
        let bytes = json.as_bytes().to_vec();
        let change = match kind {
            ChangeKind::Merge => Change::Merge(bytes),
            ChangeKind::Patch => Change::Patch(bytes),
            ChangeKind::Opaque => Change::Opaque(bytes),
        };
        self.ask_for(Payload::Change(change), base).await
    }

    /// Removes a participant, by participant id or endpoint id, and keeps it out. For moderators.
    pub async fn kick(&self, who: &str) -> Result<(), Error> {
        let who = who.to_owned();
        self.ask(|reply| Command::Kick { who, reply }).await?;
        Ok(())
    }

    /// Lets nobody in any more, or again. For moderators.
    pub async fn lock(&self, locked: bool) -> Result<(), Error> {
        self.ask_for(Payload::Lock(locked), None).await?;
        Ok(())
    }

    /// Sets who moderates: 1 to 64 endpoints. For moderators.
    pub async fn set_moderators(&self, who: &[EndpointId]) -> Result<(), Error> {
        let keys: Vec<Key> = who.iter().map(|it| *it.as_bytes()).collect();
        self.ask_for(Payload::Moderators(keys), None).await?;
        Ok(())
    }

    /// Moves the door to a new id and returns it: who knows only the old one stays out. For moderators.
    pub async fn rotate(&self) -> Result<EndpointId, Error> {
        self.ask(|reply| Command::Rotate { reply }).await
    }

    /// Goes on with what this participant has, without those that are missing. What only they have is
    /// lost.
    pub async fn recover(&self) -> Result<(), Error> {
        self.ask(|reply| Command::Recover { reply }).await
    }

    /// Lets another stand at the door and lead: this participant will be slow.
    pub fn hand_over(&self) {
        let _ = self.commands.try_send(Command::HandOver);
    }

    /// The state with where it is from, to be kept by the application: [`Options::restore`].
    pub fn saved(&self) -> Vec<u8> {
        view::lock(&self.shared).saved()
    }

    /// Says goodbye and leaves, handing over what this participant did for the others. Idempotent.
    pub async fn leave(&self) {
        // A closed room has been left.
        let _ = self.ask(|reply| Command::Leave { reply }).await;
    }

    async fn ask_for(&self, payload: Payload, base: Option<u64>) -> Result<u64, Error> {
        let closed = |_| Error::Closed("room");
        let _place = self.pending.acquire().await.map_err(closed)?;
        self.ask(|reply| Command::Propose {
            payload,
            base,
            reply,
        })
        .await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        ask(&self.commands, command).await
    }
}

async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    let closed = || Error::Closed("room");
    commands.send(command(reply)).await.map_err(|_| closed())?;
    answer.await.map_err(|_| closed())?
}

/// Leaves all rooms of an endpoint.
pub(crate) async fn leave_all(hub: &Hub) {
    let leave = hub.rooms().into_iter().map(|commands| async move {
        let _ = ask(&commands, |reply| Command::Leave { reply }).await;
    });
    let leave = n0_future::join_all(leave);
    // What is not done by then ends with the endpoint.
    let _ = time::timeout(LEAVE_ALL, leave).await;
}

/// The page vanishes.
pub(crate) fn leave_now(hub: &Hub) {
    for commands in hub.rooms() {
        let _ = commands.try_send(Command::LeaveNow);
    }
}

/// It is shown again.
pub(crate) fn resume(hub: &Hub) {
    for commands in hub.rooms() {
        let _ = commands.try_send(Command::Resume);
    }
}

/// What is read of a member's control stream is read again.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(control) = mesh::Control::decode(data) {
        let again = control.encode().expect("it was in memory");
        assert_eq!(mesh::Control::decode(&again[4..]), Some(control));
    }
}
