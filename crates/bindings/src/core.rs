//! One `Live`.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use iroh::{EndpointAddr, SecretKey};
use iroh_rooms::{Live, Relays, Tuning, moq, room, warm_up};
use iroh_rooms_sorted::SortedMap;
use js_sys::Promise;
use n0_future::{task, time};
use serde::{Deserialize, Serialize};
use tracing::debug;
use wasm_bindgen::prelude::*;

use crate::{
    error::{Failure, object},
    promise::{done, promise},
    room::Room,
    scope::Scope,
    state_room::StateRoom,
    stream::{Item, Stream},
    types::to_js,
};

/// Incoming sessions that may wait for a decision; a further one is rejected.
const MAX_PENDING: usize = 256;

#[derive(Deserialize)]
#[serde(untagged)]
enum RelayOption {
    Named(String),
    Urls(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CoreOptions {
    relays: RelayOption,
    secret_key: Option<Vec<u8>>,
    moq_accept: String,
    max_connections: Option<u32>,
    #[serde(default)]
    tuning: Tuning,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoomOptions {
    pub(crate) display_name: Option<String>,
    pub(crate) presence: Option<String>,
    pub(crate) auto_subscribe: bool,
    pub(crate) compat: Option<String>,
}

impl TryFrom<RoomOptions> for room::Options {
    type Error = Failure;

    fn try_from(options: RoomOptions) -> Result<Self, Failure> {
        let presence = options.presence.as_deref();
        let compat = match options.compat.as_deref() {
            None => None,
            Some("iroh-live") => Some(room::Compat::IrohLive),
            Some(other) => {
                let known = format!("compat {other:?}: there is \"iroh-live\"");
                return Err(Failure::argument(known));
            }
        };
        Ok(Self {
            display_name: options.display_name,
            presence: presence.map(crate::room::parse_presence).transpose()?,
            auto_subscribe: options.auto_subscribe,
            compat,
        })
    }
}

/// An endpoint's address towards JavaScript.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Addr {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_url: Option<String>,
}

impl TryFrom<Addr> for EndpointAddr {
    type Error = Failure;

    fn try_from(addr: Addr) -> Result<Self, Failure> {
        let id = crate::endpoint_id(&addr.id)?;
        match addr.relay_url {
            None => Ok(id.into()),
            Some(url) => Ok(EndpointAddr::new(id).with_relay_url(relay_url(&url)?)),
        }
    }
}

fn relay_url(url: &str) -> Result<iroh::RelayUrl, Failure> {
    url.parse()
        .map_err(|_| Failure::argument(format!("{url:?} is not a relay URL")))
}

/// One identity on the network.
#[wasm_bindgen]
pub struct Core {
    live: Live,
    pending: Rc<RefCell<SortedMap<u32, moq::IncomingSession>>>,
    next_pending: Rc<Cell<u32>>,
}

#[wasm_bindgen]
impl Core {
    /// Starts it and waits for the relay.
    pub async fn spawn(
        #[wasm_bindgen(unchecked_param_type = "CoreOptions")] options: JsValue,
    ) -> Result<Core, JsValue> {
        let options: CoreOptions =
            serde_wasm_bindgen::from_value(options).map_err(Failure::from)?;
        let relays = match options.relays {
            RelayOption::Named(name) if name == "n0" => Relays::N0,
            RelayOption::Named(name) => Relays::Custom(vec![relay_url(&name)?]),
            RelayOption::Urls(urls) if urls.is_empty() => {
                return Err(Failure::argument("relays: name at least one").into());
            }
            RelayOption::Urls(urls) => {
                let urls: Result<_, _> = urls.iter().map(|url| relay_url(url)).collect();
                Relays::Custom(urls?)
            }
        };
        let accept = match options.moq_accept.as_str() {
            "manual" => moq::Accept::Manual,
            _ => moq::Accept::All,
        };
        let mut builder = Live::builder()
            .relays(relays)
            .accept(accept)
            .tuning(options.tuning);
        if let Some(max) = options.max_connections {
            builder = builder.max_connections(max as usize);
        }
        if let Some(key) = options.secret_key {
            let key: [u8; 32] = key
                .try_into()
                .map_err(|_| Failure::argument("identity: a secret key has 32 bytes"))?;
            builder = builder.secret_key(SecretKey::from_bytes(&key));
        }
        let live = builder.spawn().await.map_err(Failure::from)?;
        if options.tuning.warm {
            let warming = warm_up(live.clone());
            task::spawn(async move {
                if let Err(error) = warming.await {
                    debug!("warming up: {error}");
                }
            });
        }
        Ok(Self {
            live,
            pending: Rc::default(),
            next_pending: Rc::default(),
        })
    }

    /// The identity, as hex.
    #[wasm_bindgen(js_name = endpointId)]
    pub fn endpoint_id(&self) -> String {
        self.live.endpoint_id().to_string()
    }

    /// The secret behind the identity.
    #[wasm_bindgen(js_name = secretKey)]
    pub fn secret_key(&self) -> Vec<u8> {
        self.live.secret_key().to_bytes().to_vec()
    }

    /// Where this endpoint is dialled.
    #[wasm_bindgen(unchecked_return_type = "EndpointAddr")]
    pub fn addr(&self) -> Result<JsValue, JsValue> {
        let relay_url = self.live.relay_url().map(|url| url.to_string());
        Ok(to_js(&Addr {
            id: self.endpoint_id(),
            relay_url,
        })?)
    }

    /// How it is connected.
    #[wasm_bindgen(unchecked_return_type = "Status")]
    pub fn status(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.live.status())?)
    }

    /// `{ status }` on every change.
    #[wasm_bindgen(js_name = statusChanges)]
    pub fn status_changes(&self) -> Stream {
        Stream::unfold(self.live.status_changes(), |mut changes| async {
            changes.changed().await.ok()?;
            let status = *changes.borrow_and_update();
            let item =
                to_js(&status).map(|status| Item::small(object(&[("status", status)]).into()));
            Some((item, changes))
        })
    }

    /// Counters.
    #[wasm_bindgen(unchecked_return_type = "CoreStats")]
    pub fn stats(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.live.stats())?)
    }

    /// The endpoint's own MoQ scope.
    pub fn scope(&self) -> Scope {
        Scope::new(self.live.moq().own().clone())
    }

    /// `{ pending, remoteId, skipped }` for each session that others open in the endpoint's own scope.
    #[wasm_bindgen(js_name = incomingSessions)]
    pub fn incoming_sessions(&self) -> Stream {
        let (pending, next) = (self.pending.clone(), self.next_pending.clone());
        Stream::unfold(self.live.moq().incoming_sessions(), move |mut sessions| {
            let (pending, next) = (pending.clone(), next.clone());
            async move {
                let before = sessions.skipped();
                let incoming = sessions.next().await?;
                let skipped = (sessions.skipped() - before) as f64;
                let remote = incoming.remote_id().to_string();
                let number = next.get();
                next.set(number.wrapping_add(1));
                let mut pending = pending.borrow_mut();
                if pending.len() >= MAX_PENDING {
                    // The oldest has waited longest, and is dropped: that rejects it.
                    pending.pop_first();
                }
                pending.insert(number, incoming);
                drop(pending);
                let item = object(&[
                    ("pending", number.into()),
                    ("remoteId", remote.into()),
                    ("skipped", skipped.into()),
                ]);
                Some((Ok(Item::small(item.into())), sessions))
            }
        })
    }

    /// Accepts or rejects an incoming session; `false` when it is gone.
    #[wasm_bindgen(js_name = decideIncoming, unchecked_return_type = "Promise<boolean>")]
    pub fn decide_incoming(&self, pending: u32, accept: bool) -> Promise {
        let incoming = self.pending.borrow_mut().remove(&pending);
        promise(async move {
            Ok(match incoming {
                Some(incoming) if accept => incoming.accept().await.is_ok(),
                Some(incoming) => incoming.reject(),
                None => false,
            })
        })
    }

    /// Ends all sessions of all scopes, for good.
    #[wasm_bindgen(js_name = moqShutdown, unchecked_return_type = "Promise<void>")]
    pub fn moq_shutdown(&self) -> Promise {
        let live = self.live.clone();
        done(async move {
            live.moq().shutdown().await;
            Ok(())
        })
    }

    /// Enters the room of a ticket.
    #[wasm_bindgen(js_name = openRoom, unchecked_return_type = "Promise<Room>")]
    pub fn open_room(
        &self,
        ticket: &str,
        #[wasm_bindgen(unchecked_param_type = "RoomOptions")] options: JsValue,
    ) -> Result<Promise, JsValue> {
        let live = self.live.clone();
        let ticket = ticket.parse().map_err(Failure::from)?;
        let options: RoomOptions =
            serde_wasm_bindgen::from_value(options).map_err(Failure::from)?;
        let options = options.try_into()?;
        Ok(promise(async move {
            let room = iroh_rooms::Room::open(&live, ticket, options).await?;
            Ok(Room::new(room.split().1))
        }))
    }

    /// Enters a room with a doorman; how that goes is told by its `ready`.
    #[wasm_bindgen(js_name = openStateRoom)]
    pub fn open_state_room(
        &self,
        #[wasm_bindgen(unchecked_param_type = "'create' | 'join' | 'join-or-create'")] how: &str,
        room: Option<String>,
        #[wasm_bindgen(unchecked_param_type = "StateRoomOptions")] options: JsValue,
    ) -> Result<StateRoom, JsValue> {
        Ok(StateRoom::open(&self.live, how, room.as_deref(), options)?)
    }

    /// What the page or the machine does: `visible`, `hidden`, `frozen`, `resumed`.
    pub fn visibility(
        &self,
        #[wasm_bindgen(unchecked_param_type = "'visible' | 'hidden' | 'frozen' | 'resumed'")] state: &str,
    ) {
        if state == "resumed" {
            let live = self.live.clone();
            task::spawn(async move { live.resume().await });
        }
    }

    /// Says goodbye in all rooms without waiting: the page vanishes.
    #[wasm_bindgen(js_name = leaveNow)]
    pub fn leave_now(&self) {
        self.live.leave_now();
    }

    /// Leaves the rooms and closes the endpoint, within the time given.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn shutdown(&self, grace_ms: f64) -> Promise {
        let live = self.live.clone();
        let grace = crate::broadcast::millis(grace_ms).max(Duration::from_millis(1));
        done(async move {
            // What is not done by then ends with the Worker.
            let _ = time::timeout(grace, live.close()).await;
            Ok(())
        })
    }
}
