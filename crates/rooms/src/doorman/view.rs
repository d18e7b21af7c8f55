//! What can be seen of a room with a doorman without asking its actor.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iroh::EndpointId;
use iroh_rooms_consensus::{
    Event, Input, Node, Outputs,
    keys::Key,
    state::{self, State},
    storage::Saved,
};
use n0_future::time::Instant;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::broadcast;

use crate::{RoomHandle, event::ChangeKind};

/// Changes that wait for one reader; beyond, it gets the whole state instead.
const CHANGES_CAP: usize = 256;

/// How the agreement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsensusStatus {
    /// Changes are made.
    Active,
    /// The application failed to decide about a change here: this participant does not vote.
    Degraded,
    /// Too few of those who vote are there.
    ReadOnly,
    /// This participant is on its way in, or those who are left are about to go on.
    Recovering,
    /// There are two courses of the room; one of them will give way.
    Forked,
}

/// See [`super::StateRoom::consensus`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Consensus {
    /// In a word.
    pub status: ConsensusStatus,
    /// Who stands at the door.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doorman: Option<EndpointId>,
    /// Whether that is this participant.
    pub is_doorman: bool,
    /// The epoch, as hex.
    pub epoch: String,
    /// How many came before it.
    pub epoch_number: u64,
    /// Counts elections.
    pub term: u64,
    /// The last change in the state, or step of the membership.
    pub index: u64,
    /// Who votes.
    pub voters: Vec<EndpointId>,
    /// Who only listens.
    pub learners: Vec<EndpointId>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Participant {
    /// Its name.
    pub participant_id: String,
    /// Its endpoint.
    pub id: EndpointId,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it moderates.
    pub moderator: bool,
}

/// What a reader of the state is told.
#[derive(Debug, Clone, Serialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub enum Update {
    /// The state as a whole: first, and when changes were not seen one by one.
    State {
        /// The state.
        state: Box<RawValue>,
        /// The last change in it.
        index: u64,
        /// Whether changes were skipped.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        skipped: bool,
    },
    /// A change was made, or refused.
    Change {
        /// How it is written.
        kind: ChangeKind,
        /// The change.
        change: Box<RawValue>,
        /// What the application's reducer made of the state.
        #[serde(skip_serializing_if = "Option::is_none")]
        state: Option<Box<RawValue>>,
        /// Where.
        index: u64,
        /// Whose.
        author: EndpointId,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
    },
}

/// What handles and actor share.
pub(super) struct Shared {
    /// The room's id.
    pub(super) id: EndpointId,
    pub(super) room: Option<RoomHandle>,
    pub(super) node: Option<Node>,
    /// What was there before this member had to come back.
    pub(super) kept: Option<Saved>,
    /// Until then two courses of the room were seen lately.
    pub(super) forked: Option<Instant>,
    /// `None` once the room is over.
    changes: Option<broadcast::Sender<Update>>,
}

pub(super) fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // It is consistent after each single change; a panic elsewhere does not spoil it.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An endpoint's id from a member's key.
pub(super) fn id_of(key: &Key) -> Option<EndpointId> {
    EndpointId::from_bytes(key).ok()
}

impl Shared {
    pub(super) fn new(id: EndpointId) -> Self {
        Self {
            id,
            room: None,
            node: None,
            kept: None,
            forked: None,
            changes: Some(broadcast::Sender::new(CHANGES_CAP)),
        }
    }

    /// Ends all readers once they have read what is left.
    pub(super) fn close(&mut self) {
        self.changes = None;
    }

    /// Has the node take an input, and tells readers what changed by it: under one lock, so that who
    /// begins to read misses nothing and sees nothing twice.
    pub(super) fn handle(&mut self, inputs: impl IntoIterator<Item = Input>, now: u64) -> Outputs {
        let Some(node) = self.node.as_mut() else {
            return Outputs::default();
        };
        let outputs = node.handle_all(inputs, now);
        let changes = self.changes.as_ref().filter(|it| it.receiver_count() > 0);
        let Some(changes) = changes else {
            return outputs;
        };
        for event in &outputs.events {
            let update = match event {
                Event::Changed {
                    index,
                    author,
                    change,
                    result,
                } => {
                    id_of(author).map(|author| change_update(node, *index, author, change, result))
                }
                Event::Replaced(index) => raw(&node.machine().state).map(|state| Update::State {
                    state,
                    index: *index,
                    skipped: true,
                }),
                _ => None,
            };
            if let Some(update) = update {
                // Nobody reads: nobody misses it.
                let _ = changes.send(update);
            }
        }
        outputs
    }

    /// The state that can be shown, and its index.
    fn shown(&self) -> Option<(&State, u64)> {
        let node = self.node.as_ref().filter(|it| it.status().ready);
        let node = node.map(|it| (&it.machine().state, it.machine().index));
        node.or_else(|| self.kept.as_ref().map(|it| (&it.state, it.index)))
    }

    pub(super) fn state(&self) -> Option<(Box<RawValue>, u64)> {
        let (state, index) = self.shown()?;
        Some((raw(state)?, index))
    }

    /// The founding id, and what consensus keeps.
    pub(super) fn saved(&self) -> Vec<u8> {
        let ready = self.node.as_ref().filter(|it| it.status().ready);
        let saved = ready.map(Node::saved).or_else(|| self.kept.clone());
        saved
            .map(|it| [&it.room[..], &it.store()].concat())
            .unwrap_or_default()
    }

    pub(super) fn consensus(&self) -> Consensus {
        let Some(node) = &self.node else {
            return Consensus {
                status: ConsensusStatus::Recovering,
                doorman: None,
                is_doorman: false,
                epoch: self
                    .kept
                    .as_ref()
                    .map(|it| crate::hex(it.epoch))
                    .unwrap_or_default(),
                epoch_number: self.kept.as_ref().map_or(0, |it| it.number),
                term: 0,
                index: self.kept.as_ref().map_or(0, |it| it.index),
                voters: Vec::new(),
                learners: Vec::new(),
            };
        };
        let status = node.status();
        let forked = self.forked.is_some_and(|until| Instant::now() < until);
        let ids = |ids: &iroh_rooms_sorted::SortedSet<u64>| {
            let keys = ids.iter().filter_map(|id| node.key(*id));
            keys.filter_map(|key| id_of(&key)).collect()
        };
        Consensus {
            status: match () {
                () if !status.ready || status.fenced => ConsensusStatus::Recovering,
                () if status.degraded => ConsensusStatus::Degraded,
                () if forked => ConsensusStatus::Forked,
                () if status.quorum_lost => ConsensusStatus::ReadOnly,
                () => ConsensusStatus::Active,
            },
            doorman: doorman(node).and_then(|key| id_of(&key)),
            is_doorman: status.doorman,
            epoch: crate::hex(status.epoch),
            epoch_number: status.number,
            term: status.term,
            index: status.index,
            voters: ids(&status.conf.voters),
            learners: ids(&status.conf.learners),
        }
    }

    pub(super) fn participants(&self) -> Vec<Participant> {
        let Some(node) = &self.node else {
            return Vec::new();
        };
        let conf = node.status().conf;
        let machine = node.machine();
        let participant = |(id, member): (&u64, &iroh_rooms_consensus::machine::Member)| {
            Some(Participant {
                participant_id: member.participant.clone(),
                id: id_of(&member.key)?,
                voter: conf.is_voter(*id),
                moderator: machine.moderators.contains(&member.key),
            })
        };
        machine.members.iter().filter_map(participant).collect()
    }
}

/// Who stands at the door, as far as this member knows.
pub(super) fn doorman(node: &Node) -> Option<Key> {
    let status = node.status();
    let leader = Some(status.leader).filter(|id| *id != 0)?;
    let settled = leader != status.id || status.doorman;
    settled.then(|| node.key(leader)).flatten()
}

fn change_update(
    node: &Node,
    index: u64,
    author: EndpointId,
    change: &state::Change,
    result: &Result<(), String>,
) -> Update {
    let (kind, change) = parts(change);
    let opaque = kind == ChangeKind::Opaque && result.is_ok();
    Update::Change {
        kind,
        change,
        state: opaque.then(|| raw(&node.machine().state)).flatten(),
        index,
        author,
        refused: result.as_ref().err().cloned(),
    }
}

/// A change as JSON. One that is none was refused, and is shown as null.
pub(super) fn parts(change: &state::Change) -> (ChangeKind, Box<RawValue>) {
    let kind = match change {
        state::Change::Merge(_) => ChangeKind::Merge,
        state::Change::Patch(_) => ChangeKind::Patch,
        state::Change::Opaque(_) => ChangeKind::Opaque,
    };
    (
        kind,
        json(change.bytes()).unwrap_or_else(|| RawValue::NULL.to_owned()),
    )
}

fn json(bytes: &[u8]) -> Option<Box<RawValue>> {
    RawValue::from_string(String::from_utf8(bytes.to_vec()).ok()?).ok()
}

/// The state as JSON: a reducer's is text, too.
pub(super) fn raw(state: &State) -> Option<Box<RawValue>> {
    json(&state.bytes())
}

/// A cursor of the state: first the whole, then each change. Who reads too slowly gets the whole again,
/// and never holds up anyone.
pub struct Changes {
    shared: Arc<Mutex<Shared>>,
    first: Option<Update>,
    receiver: Option<broadcast::Receiver<Update>>,
}

impl Changes {
    pub(super) fn new(shared: Arc<Mutex<Shared>>) -> Self {
        let mut changes = Self {
            shared,
            first: None,
            receiver: None,
        };
        changes.begin(false);
        changes
    }

    fn begin(&mut self, skipped: bool) {
        let shared = lock(&self.shared);
        self.receiver = shared.changes.as_ref().map(broadcast::Sender::subscribe);
        self.first = shared.state().map(|(state, index)| Update::State {
            state,
            index,
            skipped,
        });
    }

    /// What is next; `None` when the room is over. Cancel safe.
    pub async fn recv(&mut self) -> Option<Update> {
        use broadcast::error::RecvError;
        loop {
            if let Some(first) = self.first.take() {
                return Some(first);
            }
            match self.receiver.as_mut()?.recv().await {
                Ok(update) => return Some(update),
                Err(RecvError::Lagged(_)) => self.begin(true),
                Err(RecvError::Closed) => self.receiver = None,
            }
        }
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changes")
    }
}
