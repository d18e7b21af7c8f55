//! A MoQ scope: sessions and broadcasts by peer and name, so that JavaScript holds no handles of
//! remote things.

use std::time::Duration;

use iroh::EndpointAddr;
use iroh_rooms::moq;
use js_sys::{Promise, Uint8Array};
use serde::Deserialize;
use wasm_bindgen::prelude::*;

use crate::{
    broadcast::{Broadcast, millis},
    core::Addr,
    endpoint_id,
    error::{Failure, object, set},
    promise::Cancel,
    stream::{Item, Stream},
};

/// Bytes that a frame counts beyond its payload.
const FRAME_OVERHEAD: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadOptions {
    priority: u8,
    max_age_ms: f64,
    start: Option<f64>,
    ordered: bool,
}

/// A MoQ scope.
#[wasm_bindgen]
pub struct Scope {
    inner: moq::Scope,
}

impl Scope {
    pub(crate) fn new(inner: moq::Scope) -> Self {
        Self { inner }
    }

    fn session(&self, remote: &str) -> Result<Option<moq::Session>, Failure> {
        Ok(self.inner.session(endpoint_id(remote)?))
    }

    /// A peer's broadcast, as soon as it is announced.
    fn find(
        &self,
        remote: &str,
        name: String,
    ) -> impl Future<Output = Result<moq::RemoteBroadcast, Failure>> + use<> {
        let (scope, remote) = (self.inner.clone(), endpoint_id(remote));
        async move { Ok(scope.subscribe(remote?, &name).await?) }
    }
}

#[wasm_bindgen]
impl Scope {
    /// Publishes a broadcast to all sessions of the scope.
    pub fn publish(&self, name: &str, broadcast: &Broadcast) -> Result<(), JsValue> {
        Ok(self
            .inner
            .publish(name, &broadcast.inner)
            .map_err(Failure::from)?)
    }

    /// Withdraws it; `false` when there is none of that name.
    pub fn unpublish(&self, name: &str) -> bool {
        self.inner.unpublish(name)
    }

    /// The names of what is published.
    #[wasm_bindgen(js_name = publishedBroadcasts)]
    pub fn published_broadcasts(&self) -> Vec<String> {
        self.inner.published_broadcasts()
    }

    /// Opens the session with a peer, or finds the one that stands.
    #[wasm_bindgen(unchecked_return_type = "Promise<void>")]
    pub fn connect(
        &self,
        #[wasm_bindgen(unchecked_param_type = "EndpointAddr")] addr: JsValue,
        cancel: &Cancel,
    ) -> Promise {
        let scope = self.inner.clone();
        cancel.promise(async move {
            let addr: Addr = serde_wasm_bindgen::from_value(addr)?;
            scope.connect(EndpointAddr::try_from(addr)?).await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// The session with a peer, if one stands.
    #[wasm_bindgen(js_name = sessionInfo, unchecked_return_type = "SessionInfo | undefined")]
    pub fn session_info(&self, remote: &str) -> Result<JsValue, JsValue> {
        let Some(session) = self.session(remote)? else {
            return Ok(JsValue::UNDEFINED);
        };
        let fields = [
            ("remoteId", remote.into()),
            ("version", session.version().into()),
        ];
        Ok(object(&fields).into())
    }

    /// The counters of the session with a peer, if one stands.
    #[wasm_bindgen(js_name = sessionStats, unchecked_return_type = "SessionStats | undefined")]
    pub fn session_stats(&self, remote: &str) -> Result<JsValue, JsValue> {
        let Some(session) = self.session(remote)? else {
            return Ok(JsValue::UNDEFINED);
        };
        let stats = session.stats();
        // Counters stay below 2^53 for as long as anyone watches them.
        let fields = [
            (
                "rttMs",
                stats.rtt.map_or(JsValue::UNDEFINED, |rtt| {
                    (rtt.as_secs_f64() * 1000.0).into()
                }),
            ),
            ("bytesSent", (stats.bytes_sent as f64).into()),
            ("bytesReceived", (stats.bytes_received as f64).into()),
            ("bytesLost", (stats.bytes_lost as f64).into()),
            ("packetsReceived", (stats.packets_received as f64).into()),
            (
                "path",
                stats
                    .path
                    .map_or(JsValue::UNDEFINED, |path| path.as_str().into()),
            ),
        ];
        Ok(object(&fields).into())
    }

    /// Waits until the session with a peer is closed; at once when it was.
    #[wasm_bindgen(js_name = sessionClosed, unchecked_return_type = "Promise<SessionEnd>")]
    pub fn session_closed(&self, remote: &str, cancel: &Cancel) -> Promise {
        let (scope, remote) = (self.inner.clone(), endpoint_id(remote));
        cancel.promise(async move {
            let remote = remote?;
            let end = match scope.session(remote) {
                Some(session) => session.closed().await,
                None => scope
                    .ended(remote)
                    .ok_or_else(|| Failure::closed("session"))?,
            };
            Ok(object(&[
                ("code", end.code.into()),
                ("reason", end.reason.into()),
            ]))
        })
    }

    /// Closes the session with a peer.
    #[wasm_bindgen(js_name = closeSession)]
    pub fn close_session(&self, remote: &str, code: u32, reason: &str) -> Result<(), JsValue> {
        self.inner.disconnect(endpoint_id(remote)?, code, reason);
        Ok(())
    }

    /// `{ remoteId, name, active }` for what is announced now and what changes, of all peers or
    /// of one.
    pub fn announced(&self, remote: Option<String>) -> Result<Stream, JsValue> {
        let only = remote.as_deref().map(endpoint_id).transpose()?;
        Ok(Stream::unfold(
            self.inner.announced(),
            move |mut announced| async move {
                loop {
                    let announce = announced.next().await?;
                    if only.is_some_and(|only| only != announce.remote) {
                        continue;
                    }
                    let fields = [
                        ("remoteId", announce.remote.to_string().into()),
                        ("name", announce.name.into()),
                        ("active", announce.active.into()),
                    ];
                    return Some((Ok(Item::small(object(&fields).into())), announced));
                }
            },
        ))
    }

    /// Waits until a peer announces a broadcast.
    #[wasm_bindgen(js_name = waitBroadcast, unchecked_return_type = "Promise<void>")]
    pub fn wait_broadcast(&self, remote: &str, name: String, cancel: &Cancel) -> Promise {
        let found = self.find(remote, name);
        cancel.promise(async move { found.await.map(|_found| JsValue::UNDEFINED) })
    }

    /// Waits until a peer's broadcast ends.
    #[wasm_bindgen(js_name = broadcastClosed, unchecked_return_type = "Promise<void>")]
    pub fn broadcast_closed(&self, remote: &str, name: String, cancel: &Cancel) -> Promise {
        let found = self.find(remote, name);
        cancel.promise(async move {
            found.await?.closed().await;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Reads a track: `{ data, timestamp, group, index, missed? }` for each frame, and `{ missed }` for
    /// what is lost at its end.
    #[wasm_bindgen(js_name = readTrack, unchecked_return_type = "Promise<Stream>")]
    pub fn read_track(
        &self,
        remote: &str,
        name: String,
        track: String,
        #[wasm_bindgen(unchecked_param_type = "ReadOptions")] options: JsValue,
        cancel: &Cancel,
    ) -> Promise {
        let found = self.find(remote, name);
        cancel.promise(async move {
            let options: ReadOptions = serde_wasm_bindgen::from_value(options)?;
            let options = moq::TrackOptions {
                priority: options.priority,
                max_age: millis(options.max_age_ms),
                start: options.start.map(|group| group as u64),
                ordered: options.ordered,
            };
            let reader = found.await?.track(&track, options).await?;
            let frames = Frames {
                reader,
                told: 0,
                ended: false,
            };
            Ok(Stream::unfold(frames, |mut frames| async {
                let item = frames.next().await?;
                Some((item, frames))
            }))
        })
    }

    /// Reads a track's datagrams: `{ data, timestamp, sequence }`.
    #[wasm_bindgen(js_name = readDatagrams, unchecked_return_type = "Promise<Stream>")]
    pub fn read_datagrams(
        &self,
        remote: &str,
        name: String,
        track: String,
        cancel: &Cancel,
    ) -> Promise {
        let found = self.find(remote, name);
        cancel.promise(async move {
            let options = moq::TrackOptions::default();
            let reader = found.await?.track(&track, options).await?;
            Ok(Stream::unfold(reader, |mut reader| async {
                let item = match reader.next_datagram().await {
                    Ok(datagram) => {
                        let datagram = datagram?;
                        let number = ("sequence", datagram.sequence as f64);
                        Ok(item(&datagram.data, datagram.timestamp, &[number]))
                    }
                    Err(error) => Err(error.into()),
                };
                Some((item, reader))
            }))
        })
    }

    /// Fetches one group: its frames as `readTrack` gives them.
    #[wasm_bindgen(js_name = fetchGroup, unchecked_return_type = "Promise<Stream>")]
    pub fn fetch_group(
        &self,
        remote: &str,
        name: String,
        track: String,
        group: f64,
        cancel: &Cancel,
    ) -> Promise {
        let found = self.find(remote, name);
        cancel.promise(async move {
            let options = moq::TrackOptions::default();
            let reader = found.await?.track(&track, options).await?;
            let group = reader.fetch(group as u64).await?;
            Ok(Stream::unfold(group, |mut group| async {
                let item = match group.next_frame().await {
                    Ok(frame) => Ok(frame_item(&frame?, 0)),
                    Err(error) => Err(error.into()),
                };
                Some((item, group))
            }))
        })
    }
}

/// A track's frames, and what was lost between them.
struct Frames {
    reader: moq::TrackReader,
    /// How many lost groups have been told of.
    told: u64,
    ended: bool,
}

impl Frames {
    async fn next(&mut self) -> Option<Result<Item, Failure>> {
        if self.ended {
            return None;
        }
        let frame = self.reader.next_frame().await;
        let lagged = self.reader.lagged();
        let missed = lagged.saturating_sub(std::mem::replace(&mut self.told, lagged));
        match frame {
            Ok(Some(frame)) => Some(Ok(frame_item(&frame, missed))),
            Ok(None) if missed > 0 => {
                self.ended = true;
                let lost = object(&[("missed", (missed as f64).into())]);
                Some(Ok(Item::small(lost.into())))
            }
            Ok(None) => None,
            Err(moq::Error::Lagged) => Some(Err(Failure::lagged(lagged.max(1)))),
            Err(error) => Some(Err(error.into())),
        }
    }
}

fn frame_item(frame: &moq::Frame, missed: u64) -> Item {
    let numbers = [
        ("group", frame.group as f64),
        ("index", frame.index as f64),
        ("missed", missed as f64),
    ];
    let told = if missed > 0 { 3 } else { 2 };
    item(
        &frame.data,
        frame.timestamp,
        numbers.get(..told).unwrap_or_default(),
    )
}

fn item(data: &[u8], timestamp: Duration, numbers: &[(&str, f64)]) -> Item {
    let fields = [
        // The one copy out of the WebAssembly memory.
        ("data", Uint8Array::from(data).into()),
        ("timestamp", (timestamp.as_micros() as f64).into()),
    ];
    let value = object(&fields);
    for (name, number) in numbers {
        set(&value, name, &(*number).into());
    }
    Item::Object(value.into(), data.len() + FRAME_OVERHEAD)
}
