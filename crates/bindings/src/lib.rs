//! The WebAssembly module: what JavaScript sees of [`iroh_rooms`].
//!
//! Types in, types out, no logic. Every method takes `&self`, so that calls can overlap; what is
//! awaited owns a clone of what it uses (`promise`). Errors are plain objects with a code (`error`),
//! streams are pulled in batches (`stream`).

mod broadcast;
mod core;
mod error;
mod log;
mod promise;
mod room;
mod scope;
mod state_room;
mod stream;
mod types;
mod vectors;

use std::{cell::RefCell, str::FromStr};

use iroh::EndpointId;
use js_sys::Function;
use wasm_bindgen::prelude::*;

use crate::error::Failure;

/// The version of the crate.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// The size of this instance's memory, which never shrinks.
#[wasm_bindgen(js_name = memoryBytes)]
pub fn memory_bytes() -> f64 {
    #[cfg(target_family = "wasm")]
    const PAGE_BYTES: usize = 65_536;
    #[cfg(target_family = "wasm")]
    return (std::arch::wasm32::memory_size(0) * PAGE_BYTES) as f64;
    #[cfg(not(target_family = "wasm"))]
    0.0
}

/// Calls back with the message of a panic, within the call that panics: nothing of this instance
/// may be used afterwards.
#[wasm_bindgen(js_name = onPanic)]
pub fn on_panic(
    #[wasm_bindgen(unchecked_param_type = "(message: string) => void")] callback: Function,
) {
    ON_PANIC.with_borrow_mut(|on_panic| *on_panic = Some(callback));
    std::panic::set_hook(Box::new(|panic| {
        ON_PANIC.with_borrow(|callback| {
            // There is nobody left to tell if this fails too.
            let _ = callback
                .as_ref()
                .map(|f| f.call1(&JsValue::NULL, &panic.to_string().into()));
        });
    }));
}

thread_local! {
    /// Hooks must be thread-safe, and JavaScript functions are not; there is one thread.
    static ON_PANIC: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Reads an endpoint id.
fn endpoint_id(text: &str) -> Result<EndpointId, Failure> {
    EndpointId::from_str(text)
        .map_err(|_| Failure::argument(format!("{text:?} is not an endpoint id (64 hex digits)")))
}
