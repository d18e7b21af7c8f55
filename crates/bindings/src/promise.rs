//! Promises: futures that own what they use, so that an object may be freed while it is asked, and
//! that can be given up.

use std::{cell::Cell, pin::Pin, rc::Rc};

use js_sys::Promise;
use n0_future::future;
use tokio::sync::Notify;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;

use crate::error::Failure;

type Work = Pin<Box<dyn Future<Output = Result<JsValue, Failure>>>>;

thread_local! {
    /// Promises that have not settled.
    static UNDER_WAY: Cell<u32> = const { Cell::new(0) };
}

/// How many promises of this module have not settled.
#[wasm_bindgen(js_name = callsUnderWay)]
pub fn calls_under_way() -> u32 {
    UNDER_WAY.get()
}

/// A promise of what the future yields. An `async fn` would hold on to its `&self` until it is done,
/// and an object that is freed in the meantime would stay in memory for ever.
pub fn promise<T: Into<JsValue>>(
    work: impl Future<Output = Result<T, Failure>> + 'static,
) -> Promise {
    run(Box::pin(async { work.await.map(Into::into) }))
}

/// A promise of nothing but the end.
pub fn done(work: impl Future<Output = Result<(), Failure>> + 'static) -> Promise {
    run(Box::pin(async { work.await.map(|()| JsValue::UNDEFINED) }))
}

/// Boxed, so that it is compiled once.
fn run(work: Work) -> Promise {
    UNDER_WAY.set(UNDER_WAY.get() + 1);
    future_to_promise(async {
        let result = work.await;
        UNDER_WAY.set(UNDER_WAY.get() - 1);
        result.map_err(Into::into)
    })
}

/// Gives up one call.
#[wasm_bindgen]
#[derive(Default)]
pub struct Cancel {
    given_up: Rc<Notify>,
}

#[wasm_bindgen]
impl Cancel {
    /// For one call.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the call, now or as soon as it begins: it rejects with `CLOSED`.
    pub fn cancel(&self) {
        self.given_up.notify_one();
    }
}

impl Cancel {
    /// A promise that ends with this.
    pub fn promise<T: Into<JsValue>>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + 'static,
    ) -> Promise {
        self.run(Box::pin(async { work.await.map(Into::into) }))
    }

    fn run(&self, work: Work) -> Promise {
        let given_up = self.given_up.clone();
        run(Box::pin(async move {
            let cancelled = async {
                given_up.notified().await;
                Err(Failure::closed("call"))
            };
            future::or(cancelled, work).await
        }))
    }
}
