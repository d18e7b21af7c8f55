//! What the shipped module makes of the bytes in `vectors/`, for its tests. Not part of the package's
//! interface: the Worker does not pass it on.

use std::{str::FromStr, time::Duration};

use iroh::{EndpointId, SecretKey};
use iroh_rooms::{
    RoomTicket, chat, doorman, hex,
    kv::store::{Input, Lifetimes, Now, Output, Store, StoreError},
    moq,
    presence::{RoomKey, RoomState},
};
use wasm_bindgen::prelude::*;

use crate::{error::object, state_room::composed};

/// Reads a signed value at a time by the reader's clock, in nanoseconds since 1970:
/// `scope key timestamp value`, or the reason of its refusal.
#[wasm_bindgen(js_name = readPresence)]
pub fn read_presence(bytes: &[u8], now: u64) -> String {
    let now = Now {
        wall: now,
        elapsed: Duration::ZERO,
    };
    let lifetimes = Lifetimes {
        expiry: Duration::from_secs(120),
        repeat: Duration::from_secs(45),
    };
    let mut store = Store::new(SecretKey::from_bytes(&[9; 32]), lifetimes, now);
    match store.handle(Input::Received(bytes), now).as_deref() {
        Ok(
            [
                Output::Value {
                    scope,
                    key,
                    value,
                    timestamp,
                    ..
                },
            ],
        ) => [
            hex(scope.as_bytes()),
            hex(key),
            timestamp.to_string(),
            hex(value),
        ]
        .join(" "),
        Err(StoreError::Refused(refusal)) => refusal.name().to_owned(),
        _ => String::new(),
    }
}

/// Reads a ticket, and writes it again; undefined where it is refused.
#[wasm_bindgen(js_name = readTicket)]
pub fn read_ticket(text: &str) -> Option<String> {
    Some(RoomTicket::from_str(text).ok()?.to_string())
}

/// Reads a room's state at key `r`, and writes it again; undefined where it is refused.
#[wasm_bindgen(js_name = readRoomState, unchecked_return_type = "object | undefined")]
pub fn read_room_state(topic: &str, peer: &str, bytes: &[u8]) -> JsValue {
    let read = || {
        let key = RoomKey::new(&FromStr::from_str(topic).ok()?);
        let state = RoomState::decode(bytes, &key, &EndpointId::from_str(peer).ok()?)?;
        let presence = state.presence().map(|value| value.to_string());
        let again = state.encode().ok()?;
        let fields = [
            ("displayName", state.display_name.clone().into()),
            ("broadcasts", state.broadcasts.clone().into()),
            ("relayUrl", state.relay_url.clone().into()),
            ("presence", presence.into()),
            ("leaving", state.is_leaving().into()),
            ("bytes", hex(again).into()),
        ];
        Some(object(&fields).into())
    };
    read().unwrap_or_default()
}

/// What a text that names a room comes to: the room's id and, for a name, its topic, or the code of
/// its refusal.
#[wasm_bindgen(js_name = readRoomId)]
pub fn read_room_id(text: &str) -> String {
    match doorman::resolve(&composed(text)) {
        Ok((id, Some(topic))) => format!("{} {topic}", id.to_z32()),
        Ok((id, None)) => id.to_z32(),
        Err(error) => error.code().to_owned(),
    }
}

/// The path of a room's MoQ sessions.
#[wasm_bindgen(js_name = scopePath)]
pub fn scope_path(topic: &str, dialler: &str, listener: &str) -> Option<String> {
    let key = RoomKey::new(&FromStr::from_str(topic).ok()?).to_bytes();
    let id = |text| EndpointId::from_str(text).ok();
    Some(moq::scope_path(&key, id(dialler)?, id(listener)?))
}

/// The text of a chat track's frame; undefined where it is refused.
#[wasm_bindgen(js_name = readChat)]
pub fn read_chat(frame: &[u8]) -> Option<String> {
    chat::read(frame).map(str::to_owned)
}
