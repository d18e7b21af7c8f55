//! One room.

use iroh_rooms::{ChatPublisher, RoomHandle};
use js_sys::Promise;
use wasm_bindgen::prelude::*;

use crate::{
    broadcast::Broadcast,
    endpoint_id,
    error::{Failure, object},
    promise::{done, promise},
    scope::Scope,
    stream::{Item, Stream},
    types::to_js,
};

/// Reads an application's presence.
pub fn parse_presence(json: &str) -> Result<serde_json::Value, Failure> {
    serde_json::from_str(json).map_err(|error| Failure::argument(format!("presence: {error}")))
}

/// A room that this endpoint is in.
#[wasm_bindgen]
pub struct Room {
    handle: RoomHandle,
}

impl Room {
    pub(crate) fn new(handle: RoomHandle) -> Self {
        Self { handle }
    }
}

#[wasm_bindgen]
impl Room {
    /// The room's topic, as hex.
    pub fn id(&self) -> String {
        self.handle.id().to_string()
    }

    /// This peer.
    #[wasm_bindgen(js_name = self, unchecked_return_type = "Peer")]
    pub fn me(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.handle.me())?)
    }

    /// The others.
    #[wasm_bindgen(unchecked_return_type = "Peer[]")]
    pub fn peers(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.handle.peers())?)
    }

    /// A cursor of the events, as JSON; it begins with those present.
    pub fn events(&self) -> Stream {
        Stream::unfold(self.handle.events(), |mut events| async {
            let event = events.recv().await?;
            Some((Item::json(&event), events))
        })
    }

    /// A ticket that names this peer and others.
    #[wasm_bindgen(unchecked_return_type = "Promise<string>")]
    pub fn ticket(&self) -> Promise {
        let handle = self.handle.clone();
        promise(async move { Ok(handle.ticket().await?.to_string()) })
    }

    /// Publishes a broadcast to the room.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn publish(&self, name: String, broadcast: &Broadcast) -> Promise {
        let (handle, broadcast) = (self.handle.clone(), broadcast.inner.clone());
        done(async move { Ok(handle.publish(&name, &broadcast).await?) })
    }

    /// Withdraws it; `false` when there is none of that name.
    #[wasm_bindgen(unchecked_return_type = "Promise<boolean>")]
    pub fn unpublish(&self, name: String) -> Promise {
        let handle = self.handle.clone();
        promise(async move { Ok(handle.unpublish(&name).await?) })
    }

    /// Sets the name to show, or takes it away.
    #[wasm_bindgen(js_name = setDisplayName, unchecked_return_type = "Promise<void>")]
    pub fn set_display_name(&self, name: Option<String>) -> Promise {
        let handle = self.handle.clone();
        done(async move { Ok(handle.set_display_name(name.as_deref()).await?) })
    }

    /// Sets the application's presence, JSON, or takes it away.
    #[wasm_bindgen(js_name = setPresence, unchecked_return_type = "Promise<void>")]
    pub fn set_presence(&self, json: Option<String>) -> Promise {
        let handle = self.handle.clone();
        done(async move {
            let presence = json.as_deref().map(parse_presence).transpose()?;
            Ok(handle.set_presence(presence).await?)
        })
    }

    /// Says something.
    #[wasm_bindgen(js_name = sendChat, unchecked_return_type = "Promise<ChatMessage>")]
    pub fn send_chat(&self, text: String) -> Promise {
        let handle = self.handle.clone();
        promise(async move { to_js(&handle.send_chat(&text).await?) })
    }

    /// What was said, oldest first.
    #[wasm_bindgen(js_name = chatHistory, unchecked_return_type = "ChatMessage[]")]
    pub fn chat_history(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.handle.chat_history())?)
    }

    /// Puts the chat into a broadcast of the application.
    #[wasm_bindgen(js_name = setChatPublisher, unchecked_return_type = "Promise<void>")]
    pub fn set_chat_publisher(&self, broadcast: &Broadcast) -> Promise {
        let (handle, broadcast) = (self.handle.clone(), broadcast.inner.clone());
        done(async move {
            let publisher = ChatPublisher::new(&broadcast)?;
            Ok(handle.set_chat_publisher(publisher).await?)
        })
    }

    /// Sends into a channel: to all, or to one peer alone.
    #[wasm_bindgen(js_name = channelSend, unchecked_return_type = "Promise<void>")]
    pub fn channel_send(
        &self,
        name: String,
        json: String,
        to: Option<String>,
        datagram: bool,
    ) -> Promise {
        let handle = self.handle.clone();
        done(async move {
            let to = to.as_deref().map(endpoint_id).transpose()?;
            Ok(handle.channel_send(&name, json, to, datagram).await?)
        })
    }

    /// `{ from, json }` for each message of others in a channel.
    #[wasm_bindgen(js_name = channelMessages, unchecked_return_type = "Promise<Stream>")]
    pub fn channel_messages(&self, name: String) -> Promise {
        let handle = self.handle.clone();
        promise(async move {
            let channel = handle.channel(&name).await?;
            Ok(Stream::unfold(channel, |mut channel| async {
                let message = channel.recv().await?;
                let bytes = message.json.len();
                let fields = [
                    ("from", message.from.to_string().into()),
                    ("json", message.json.into()),
                ];
                let value = object(&fields).into();
                Some((Ok(Item::Object(value, bytes)), channel))
            }))
        })
    }

    /// The room's MoQ scope.
    pub fn scope(&self) -> Scope {
        Scope::new(self.handle.scope().clone())
    }

    /// Counters.
    #[wasm_bindgen(unchecked_return_type = "Promise<RoomStats>")]
    pub fn stats(&self) -> Promise {
        let handle = self.handle.clone();
        promise(async move { to_js(&handle.stats().await?) })
    }

    /// What is known about the way to each peer.
    #[wasm_bindgen(unchecked_return_type = "Promise<Diagnosis[]>")]
    pub fn diagnose(&self) -> Promise {
        let handle = self.handle.clone();
        promise(async move { to_js(&handle.diagnose().await?) })
    }

    /// Says goodbye and leaves.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn leave(&self) -> Promise {
        let handle = self.handle.clone();
        done(async move {
            handle.leave().await;
            Ok(())
        })
    }
}
