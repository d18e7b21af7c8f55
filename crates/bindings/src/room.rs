//! One room.

use iroh_rooms::{ChatPublisher, RoomHandle};
use wasm_bindgen::prelude::*;

use crate::{
    broadcast::Broadcast,
    endpoint_id,
    error::{Failure, object},
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
    pub async fn peers(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.handle.peers())?)
    }

    /// A cursor of the events; it begins with those present.
    pub async fn events(&self) -> Stream {
        Stream::unfold(self.handle.events(), |mut events| async {
            let event = events.recv().await?;
            Some((to_js(&event).map(Item::small), events))
        })
    }

    /// A ticket that names this peer and others.
    pub async fn ticket(&self) -> Result<String, JsValue> {
        let handle = self.handle.clone();
        Ok(handle.ticket().await.map_err(Failure::from)?.to_string())
    }

    /// Publishes a broadcast to the room.
    pub async fn publish(&self, name: &str, broadcast: &Broadcast) -> Result<(), JsValue> {
        let (handle, broadcast) = (self.handle.clone(), broadcast.inner.clone());
        Ok(handle
            .publish(name, &broadcast)
            .await
            .map_err(Failure::from)?)
    }

    /// Withdraws it; `false` when there is none of that name.
    pub async fn unpublish(&self, name: &str) -> Result<bool, JsValue> {
        let handle = self.handle.clone();
        Ok(handle.unpublish(name).await.map_err(Failure::from)?)
    }

    /// Sets the name to show, or takes it away.
    #[wasm_bindgen(js_name = setDisplayName)]
    pub async fn set_display_name(&self, name: Option<String>) -> Result<(), JsValue> {
        let handle = self.handle.clone();
        Ok(handle
            .set_display_name(name.as_deref())
            .await
            .map_err(Failure::from)?)
    }

    /// Sets the application's presence, JSON, or takes it away.
    #[wasm_bindgen(js_name = setPresence)]
    pub async fn set_presence(&self, json: Option<String>) -> Result<(), JsValue> {
        let handle = self.handle.clone();
        let presence = json.as_deref().map(parse_presence).transpose()?;
        Ok(handle.set_presence(presence).await.map_err(Failure::from)?)
    }

    /// Says something.
    #[wasm_bindgen(js_name = sendChat, unchecked_return_type = "ChatMessage")]
    pub async fn send_chat(&self, text: &str) -> Result<JsValue, JsValue> {
        let handle = self.handle.clone();
        let message = handle.send_chat(text).await.map_err(Failure::from)?;
        Ok(to_js(&message)?)
    }

    /// What was said, oldest first.
    #[wasm_bindgen(js_name = chatHistory, unchecked_return_type = "ChatMessage[]")]
    pub async fn chat_history(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.handle.chat_history())?)
    }

    /// Puts the chat into a broadcast of the application.
    #[wasm_bindgen(js_name = setChatPublisher)]
    pub async fn set_chat_publisher(&self, broadcast: &Broadcast) -> Result<(), JsValue> {
        let handle = self.handle.clone();
        let publisher = ChatPublisher::new(&broadcast.inner).map_err(Failure::from)?;
        Ok(handle
            .set_chat_publisher(publisher)
            .await
            .map_err(Failure::from)?)
    }

    /// Sends into a channel: to all, or to one peer alone.
    #[wasm_bindgen(js_name = channelSend)]
    pub async fn channel_send(
        &self,
        name: String,
        json: String,
        to: Option<String>,
        datagram: bool,
    ) -> Result<(), JsValue> {
        let handle = self.handle.clone();
        let to = to.as_deref().map(endpoint_id).transpose()?;
        Ok(handle
            .channel_send(&name, json, to, datagram)
            .await
            .map_err(Failure::from)?)
    }

    /// `{ from, json }` for each message of others in a channel.
    #[wasm_bindgen(js_name = channelMessages)]
    pub async fn channel_messages(&self, name: String) -> Result<Stream, JsValue> {
        let handle = self.handle.clone();
        let channel = handle.channel(&name).await.map_err(Failure::from)?;
        Ok(Stream::unfold(channel, |mut channel| async {
            let message = channel.recv().await?;
            let bytes = message.json.len();
            let fields = [
                ("from", message.from.to_string().into()),
                ("json", message.json.into()),
            ];
            Some((
                Ok(Item {
                    value: object(&fields).into(),
                    bytes,
                }),
                channel,
            ))
        }))
    }

    /// The room's MoQ scope.
    pub fn scope(&self) -> Scope {
        Scope::new(self.handle.scope().clone())
    }

    /// Counters.
    #[wasm_bindgen(unchecked_return_type = "RoomStats")]
    pub async fn stats(&self) -> Result<JsValue, JsValue> {
        let handle = self.handle.clone();
        Ok(to_js(&handle.stats().await.map_err(Failure::from)?)?)
    }

    /// What is known about the way to each peer.
    #[wasm_bindgen(unchecked_return_type = "Diagnosis[]")]
    pub async fn diagnose(&self) -> Result<JsValue, JsValue> {
        let handle = self.handle.clone();
        Ok(to_js(&handle.diagnose().await.map_err(Failure::from)?)?)
    }

    /// Says goodbye and leaves.
    pub async fn leave(&self) {
        let handle = self.handle.clone();
        handle.leave().await;
    }
}
