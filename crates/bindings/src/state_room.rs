//! One room with a doorman.

use iroh::EndpointId;
use iroh_rooms::{
    Live,
    doorman::{Approval, How, Options, Recovery},
    event::ChangeKind,
};
use js_sys::{JsString, Promise};
use serde::Deserialize;
use wasm_bindgen::prelude::*;

use crate::{
    broadcast::millis,
    core::RoomOptions,
    endpoint_id,
    error::{Failure, object},
    promise::{Cancel, done, promise},
    room::Room,
    stream::{Item, Stream},
    types::to_js,
};

/// Names are compared in their composed form; JavaScript has the tables for it.
pub fn composed(room: &str) -> String {
    JsString::from(room).normalize("NFC").into()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StateRoomOptions {
    // Not flattened: that would lose the bytes below.
    display_name: Option<String>,
    presence: Option<String>,
    auto_subscribe: bool,
    participant_id: String,
    initial_state: Option<String>,
    reducer: bool,
    validate: bool,
    admit: bool,
    approval: String,
    recovery: String,
    voters: usize,
    #[serde(default)]
    moderators: Vec<String>,
    proof: Option<Vec<u8>>,
    app: Option<Vec<u8>>,
    restore: Option<Vec<u8>>,
    priority: u8,
    join_timeout_ms: f64,
}

impl TryFrom<StateRoomOptions> for Options {
    type Error = Failure;

    fn try_from(options: StateRoomOptions) -> Result<Self, Failure> {
        let app = options.app.map(TryInto::try_into).transpose();
        let moderators = options.moderators.iter().map(|id| endpoint_id(id));
        let room = RoomOptions {
            display_name: options.display_name,
            presence: options.presence,
            auto_subscribe: options.auto_subscribe,
            compat: None,
        };
        Ok(Self {
            room: room.try_into()?,
            initial_state: options.initial_state,
            reducer: options.reducer,
            validate: options.validate,
            admit: options.admit,
            approval: match options.approval.as_str() {
                "majority" => Approval::Majority,
                _ => Approval::Guard,
            },
            recovery: match options.recovery.as_str() {
                "manual" => Recovery::Manual,
                "never" => Recovery::Never,
                _ => Recovery::Auto,
            },
            voters: options.voters,
            moderators: moderators.collect::<Result<_, _>>()?,
            proof: options.proof,
            app: app.map_err(|_| Failure::argument("app: a hash has 32 bytes"))?,
            restore: options.restore,
            priority: options.priority,
            join_timeout: millis(options.join_timeout_ms),
            ..Self::new(options.participant_id)
        })
    }
}

/// A room with a doorman that this endpoint is in, or on its way to.
#[wasm_bindgen]
pub struct StateRoom {
    room: iroh_rooms::StateRoom,
}

impl StateRoom {
    pub(crate) fn open(
        live: &Live,
        how: &str,
        room: Option<&str>,
        options: JsValue,
    ) -> Result<Self, Failure> {
        let options: StateRoomOptions = serde_wasm_bindgen::from_value(options)?;
        let options = options.try_into()?;
        let how = match how {
            "create" => How::Create,
            "join" => How::Join,
            "join-or-create" => How::JoinOrCreate,
            _ => return Err(Failure::argument(format!("{how:?} is no way in"))),
        };
        let room = room.map(composed);
        let room = iroh_rooms::StateRoom::open(live, how, room.as_deref(), options);
        Ok(Self { room })
    }
}

#[wasm_bindgen]
impl StateRoom {
    /// Settles when the room is entered.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn ready(&self, cancel: &Cancel) -> Promise {
        let room = self.room.clone();
        cancel.promise(async move {
            room.ready().await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// The room's id.
    pub fn id(&self) -> String {
        self.room.id().to_z32()
    }

    /// Presence, chat, broadcasts and events of the members.
    pub fn room(&self) -> Result<Room, JsValue> {
        Ok(Room::new(self.room.room().map_err(Failure::from)?))
    }

    /// The state, and then each change, as JSON.
    pub fn changes(&self) -> Stream {
        Stream::unfold(self.room.changes(), |mut changes| async {
            let update = changes.recv().await?;
            Some((Item::json(&update), changes))
        })
    }

    /// What the application is asked, as JSON.
    pub fn questions(&self) -> Stream {
        Stream::unfold(self.room.questions(), |questions| async {
            let question = questions.recv().await?;
            Some((Item::json(&question), questions))
        })
    }

    /// Answers a question.
    pub fn answer(&self, id: f64, json: &str) -> Result<(), JsValue> {
        let answer = serde_json::from_str(json)
            .map_err(|error| Failure::argument(format!("the answer: {error}")))?;
        // Questions are counted from 1.
        self.room.answer(id as u64, answer);
        Ok(())
    }

    /// How the agreement stands.
    #[wasm_bindgen(unchecked_return_type = "Consensus")]
    pub fn consensus(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.room.consensus())?)
    }

    /// The members.
    #[wasm_bindgen(unchecked_return_type = "Participant[]")]
    pub fn participants(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.room.participants())?)
    }

    /// Proposes a change.
    #[wasm_bindgen(unchecked_return_type = "Promise<{ index: number }>")]
    pub fn propose(
        &self,
        #[wasm_bindgen(unchecked_param_type = "'merge' | 'patch' | 'opaque'")] kind: &str,
        json: String,
        if_index: Option<f64>,
    ) -> Promise {
        let room = self.room.clone();
        let kind = match kind {
            "patch" => ChangeKind::Patch,
            "opaque" => ChangeKind::Opaque,
            _ => ChangeKind::Merge,
        };
        promise(async move {
            // Indices are far below 2^53.
            let base = if_index.map(|it| it as u64);
            let index = room.propose(kind, &json, base).await?;
            Ok(object(&[("index", (index as f64).into())]))
        })
    }

    /// Removes a participant.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn kick(&self, participant: String) -> Promise {
        let room = self.room.clone();
        done(async move { Ok(room.kick(&participant).await?) })
    }

    /// Lets nobody in any more, or again.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn lock(&self, locked: bool) -> Promise {
        let room = self.room.clone();
        done(async move { Ok(room.lock(locked).await?) })
    }

    /// Sets who moderates.
    #[wasm_bindgen(js_name = setModerators, unchecked_return_type = "Promise<void>")]
    pub fn set_moderators(&self, ids: Vec<String>) -> Promise {
        let room = self.room.clone();
        done(async move {
            let ids = ids.iter().map(|id| endpoint_id(id));
            let ids = ids.collect::<Result<Vec<EndpointId>, _>>()?;
            Ok(room.set_moderators(&ids).await?)
        })
    }

    /// Moves the door to a new id.
    #[wasm_bindgen(unchecked_return_type = "Promise<string>")]
    pub fn rotate(&self) -> Promise {
        let room = self.room.clone();
        promise(async move { Ok(room.rotate().await?.to_z32()) })
    }

    /// Goes on without those that are missing.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn recover(&self) -> Promise {
        let room = self.room.clone();
        done(async move { Ok(room.recover().await?) })
    }

    /// Lets another lead.
    #[wasm_bindgen(js_name = handOver)]
    pub fn hand_over(&self) {
        self.room.hand_over();
    }

    /// The state with where it is from.
    pub fn saved(&self) -> Vec<u8> {
        self.room.saved()
    }

    /// Says goodbye and leaves.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn leave(&self) -> Promise {
        let room = self.room.clone();
        done(async move {
            room.leave().await;
            Ok(())
        })
    }
}
