//! What this side publishes.

use std::{cell::RefCell, time::Duration};

use bytes::Bytes;
use iroh_rooms::moq;
use js_sys::Promise;
use serde::Deserialize;
use wasm_bindgen::prelude::*;

use crate::{error::Failure, promise::promise};

/// A broadcast to publish.
#[wasm_bindgen]
#[derive(Default)]
pub struct Broadcast {
    pub(crate) inner: moq::Broadcast,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TrackOptions {
    priority: u8,
    max_age_ms: f64,
}

#[wasm_bindgen]
impl Broadcast {
    /// An empty broadcast.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new track in it.
    pub fn track(
        &self,
        name: &str,
        #[wasm_bindgen(unchecked_param_type = "TrackOptions")] options: JsValue,
    ) -> Result<TrackWriter, JsValue> {
        let options: TrackOptions =
            serde_wasm_bindgen::from_value(options).map_err(Failure::from)?;
        let config = moq::TrackConfig {
            priority: options.priority,
            max_age: millis(options.max_age_ms),
        };
        let track = self.inner.track(name, config).map_err(Failure::from)?;
        Ok(TrackWriter {
            inner: RefCell::new(track),
        })
    }

    /// Ends it in good order.
    pub fn finish(&self) {
        self.inner.finish();
    }

    /// Ends it with a code.
    pub fn abort(&self, code: u16) {
        self.inner.abort(code);
    }
}

/// The writing end of a track.
#[wasm_bindgen]
pub struct TrackWriter {
    /// Borrowed within single calls only, never across an await.
    inner: RefCell<moq::TrackWriter>,
}

#[wasm_bindgen]
impl TrackWriter {
    /// Writes a group of one frame and returns the group's number.
    pub fn write(&self, data: &[u8], timestamp_us: Option<f64>) -> Result<f64, JsValue> {
        let data = Bytes::copy_from_slice(data);
        let group = self
            .inner
            .borrow_mut()
            .write(data, micros(timestamp_us))
            .map_err(Failure::from)?;
        // Groups are counted from 0 and far below 2^53.
        Ok(group as f64)
    }

    /// Begins a group.
    pub fn group(&self) -> Result<GroupWriter, JsValue> {
        let group = self.inner.borrow_mut().group().map_err(Failure::from)?;
        Ok(GroupWriter {
            inner: RefCell::new(group),
        })
    }

    /// Sends a datagram, which may be lost.
    pub fn datagram(&self, data: &[u8], timestamp_us: Option<f64>) -> Result<(), JsValue> {
        let data = Bytes::copy_from_slice(data);
        Ok(self
            .inner
            .borrow_mut()
            .datagram(data, micros(timestamp_us))
            .map_err(Failure::from)?)
    }

    /// Whether anyone reads it.
    #[wasm_bindgen(js_name = isUsed)]
    pub fn is_used(&self) -> bool {
        self.inner.borrow().is_used()
    }

    /// Waits until someone reads it; `false` when it ended instead.
    #[wasm_bindgen(unchecked_return_type = "Promise<boolean>")]
    pub fn used(&self) -> Promise {
        let demand = self.inner.borrow().demand();
        promise(async move { Ok(demand.used().await) })
    }

    /// Waits until nobody reads it; `false` when it ended instead.
    #[wasm_bindgen(unchecked_return_type = "Promise<boolean>")]
    pub fn unused(&self) -> Promise {
        let demand = self.inner.borrow().demand();
        promise(async move { Ok(demand.unused().await) })
    }

    /// Whether the network has taken enough of what was written.
    #[wasm_bindgen(js_name = isReady)]
    pub fn is_ready(&self) -> bool {
        self.inner.borrow().demand().is_ready()
    }

    /// Waits until it has; `false` when it ended instead.
    #[wasm_bindgen(unchecked_return_type = "Promise<boolean>")]
    pub fn ready(&self) -> Promise {
        let demand = self.inner.borrow().demand();
        promise(async move { Ok(demand.ready().await) })
    }

    /// Ends it in good order.
    pub fn finish(&self) {
        self.inner.borrow_mut().finish();
    }

    /// Ends it with a code.
    pub fn abort(&self, code: u16) {
        self.inner.borrow_mut().abort(code);
    }
}

/// The writing end of a group.
#[wasm_bindgen]
pub struct GroupWriter {
    inner: RefCell<moq::GroupWriter>,
}

#[wasm_bindgen]
impl GroupWriter {
    /// Writes a frame.
    pub fn write(&self, data: &[u8], timestamp_us: Option<f64>) -> Result<(), JsValue> {
        let data = Bytes::copy_from_slice(data);
        Ok(self
            .inner
            .borrow_mut()
            .write(data, micros(timestamp_us))
            .map_err(Failure::from)?)
    }

    /// Ends it in good order.
    pub fn finish(&self) {
        self.inner.borrow_mut().finish();
    }

    /// Ends it with a code.
    pub fn abort(&self, code: u16) {
        self.inner.borrow_mut().abort(code);
    }
}

fn micros(timestamp_us: Option<f64>) -> Option<Duration> {
    // Negative and absurd numbers become the nearest that exists.
    timestamp_us.map(|micros| Duration::from_micros(micros as u64))
}

/// Milliseconds from JavaScript, at most a day: longer timers wrap in browsers.
pub fn millis(millis: f64) -> Duration {
    Duration::from_millis(millis as u64).min(Duration::from_secs(24 * 3600))
}
