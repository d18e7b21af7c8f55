//! Streams towards JavaScript: batches on demand, so that nothing is made that nobody asked for.

use std::{cell::Cell, pin::Pin, rc::Rc};

use js_sys::{Array, Object, Promise};
use n0_future::{StreamExt, future, stream};
use serde::Serialize;
use tokio::sync::{Mutex, Notify};
use wasm_bindgen::prelude::*;

use crate::{
    error::{Failure, object},
    promise::promise,
};

/// One item of a stream; all of one stream are of one kind.
pub enum Item {
    /// An object, and the bytes it counts for: for what holds bytes.
    Object(JsValue, usize),
    /// JSON, for small things that come often: a whole batch crosses as one string, an object costs
    /// two calls for each field.
    Json(String),
}

impl Item {
    /// An object that is not measured in bytes.
    pub fn small(value: JsValue) -> Self {
        Self::Object(value, 0)
    }

    /// Anything that can be JSON.
    pub fn json(value: &impl Serialize) -> Result<Self, Failure> {
        serde_json::to_string(value)
            .map(Self::Json)
            .map_err(|error| Failure::new("INTERNAL", &error.to_string()))
    }
}

/// What one batch holds.
#[derive(Default)]
struct Batch {
    count: u32,
    bytes: usize,
    objects: Array,
    /// An array without its end.
    json: String,
}

impl Batch {
    fn push(&mut self, item: Item) {
        self.count += 1;
        match item {
            Item::Object(value, bytes) => {
                self.objects.push(&value);
                self.bytes += bytes;
            }
            Item::Json(json) => {
                self.json.push(if self.json.is_empty() { '[' } else { ',' });
                self.json.push_str(&json);
            }
        }
    }

    fn items(mut self) -> JsValue {
        if self.json.is_empty() {
            return self.objects.into();
        }
        self.json.push(']');
        self.json.into()
    }
}

type Source = Pin<Box<dyn n0_future::Stream<Item = Result<Item, Failure>>>>;

/// A stream of items, pulled in batches.
#[wasm_bindgen]
pub struct Stream {
    shared: Rc<Shared>,
}

struct Shared {
    source: Mutex<State>,
    cancelled: Cell<bool>,
    cancel: Notify,
}

struct State {
    source: Source,
    /// An error that came after items which were delivered first.
    failed: Option<Failure>,
}

impl Stream {
    /// From a state and a step that yields the next item, `None` at the end.
    pub fn unfold<T: 'static, F>(state: T, step: impl FnMut(T) -> F + 'static) -> Self
    where
        F: Future<Output = Option<(Result<Item, Failure>, T)>> + 'static,
    {
        Self::new(Box::pin(stream::unfold(state, step)))
    }

    fn new(source: Source) -> Self {
        let state = State {
            source,
            failed: None,
        };
        let shared = Shared {
            source: Mutex::new(state),
            cancelled: Cell::new(false),
            cancel: Notify::new(),
        };
        Self {
            shared: Rc::new(shared),
        }
    }
}

#[wasm_bindgen]
impl Stream {
    /// Waits for at least one item and takes what else is there, within the limits; the first
    /// item comes even if it is larger. `items` is an array, or its JSON; `done` says that there are
    /// no more.
    #[wasm_bindgen(js_name = nextBatch, unchecked_return_type = "Promise<Batch>")]
    pub fn next_batch(&self, max_items: u32, max_bytes: u32) -> Promise {
        promise(next_batch(self.shared.clone(), max_items, max_bytes))
    }

    /// Ends the stream; a batch that is waited for comes back empty and done.
    pub fn cancel(&self) {
        self.shared.cancelled.set(true);
        self.shared.cancel.notify_waiters();
        if let Ok(mut state) = self.shared.source.try_lock() {
            state.source = Box::pin(stream::empty());
        }
    }
}

async fn next_batch(shared: Rc<Shared>, max_items: u32, max_bytes: u32) -> Result<Object, Failure> {
    let mut state = shared.source.lock().await;
    if let Some(failure) = state.failed.take() {
        return Err(failure);
    }
    let mut batch = Batch::default();
    let first = async {
        if shared.cancelled.get() {
            None
        } else {
            state.source.next().await
        }
    };
    let cancelled = async {
        shared.cancel.notified().await;
        None
    };
    let mut next = future::or(cancelled, first).await;
    let done = loop {
        match next {
            None => break true,
            Some(Err(failure)) if batch.count == 0 => return Err(failure),
            Some(Err(failure)) => {
                state.failed = Some(failure);
                break false;
            }
            Some(Ok(item)) => batch.push(item),
        }
        if batch.count >= max_items || batch.bytes >= max_bytes as usize {
            break false;
        }
        match future::poll_once(state.source.next()).await {
            Some(ready) => next = ready,
            None => break false,
        }
    };
    if done || shared.cancelled.get() {
        // What the source holds open is let go.
        state.source = Box::pin(stream::empty());
    }
    let count = batch.count.into();
    let fields = [
        ("items", batch.items()),
        ("count", count),
        ("done", done.into()),
    ];
    Ok(object(&fields))
}
