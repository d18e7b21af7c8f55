//! What the libraries inside have to say: their warnings and errors, handed to JavaScript.

use std::{
    cell::RefCell,
    fmt::{self, Write},
};

use js_sys::Function;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};
use wasm_bindgen::prelude::*;

use crate::error::Failure;

/// Peers choose parts of some messages: the rest of a longer one is cut off.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Calls back with what is logged from now on: level (`error`, `warn`), the module that says it, and
/// the text. The callback must not call into this instance. For the first caller only.
#[wasm_bindgen(js_name = onLog)]
pub fn on_log(
    #[wasm_bindgen(unchecked_param_type = "'error' | 'warn'")] level: &str,
    #[wasm_bindgen(
        unchecked_param_type = "(level: 'error' | 'warn', target: string, message: string) => void"
    )]
    callback: Function,
) -> Result<(), JsValue> {
    let level = match level {
        "error" => Level::ERROR,
        _ => Level::WARN,
    };
    tracing::subscriber::set_global_default(Logger { level })
        .map_err(|_| Failure::argument("the log has a listener already"))?;
    CALLBACK.with_borrow_mut(|listener| *listener = Some(callback));
    Ok(())
}

thread_local! {
    /// Subscribers must be thread-safe, and JavaScript functions are not; there is one thread.
    static CALLBACK: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Events only: spans are not followed.
struct Logger {
    level: Level,
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.into())
    }

    fn event(&self, event: &Event<'_>) {
        let level = if *event.metadata().level() == Level::ERROR {
            "error"
        } else {
            "warn"
        };
        let mut text = Text::default();
        event.record(&mut text);
        let (target, message) = (event.metadata().target(), text.joined());
        CALLBACK.with_borrow(|callback| {
            // Nobody can be told that telling failed.
            let _ = callback.as_ref().map(|f| {
                f.call3(
                    &JsValue::NULL,
                    &level.into(),
                    &target.into(),
                    &message.into(),
                )
            });
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// The message of an event, then its other fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn joined(mut self) -> String {
        self.message.push_str(&self.fields);
        if self.message.len() > MAX_MESSAGE_BYTES {
            let end = self.message.floor_char_boundary(MAX_MESSAGE_BYTES);
            self.message.truncate(end);
            self.message.push('…');
        }
        self.message
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail; a Debug that does leaves what it has written.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Formats what is logged as [`Logger`] does.
    struct Listener(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Listener {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            Logger { level: Level::WARN }.enabled(metadata)
        }
        fn event(&self, event: &Event<'_>) {
            let mut text = Text::default();
            event.record(&mut text);
            self.0.lock().unwrap().push(text.joined());
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn warnings_have_their_fields_and_an_end() {
        let heard = Arc::default();
        tracing::subscriber::with_default(Listener(Arc::clone(&heard)), || {
            let _span = tracing::error_span!("around").entered();
            tracing::info!("not this");
            tracing::warn!(peer = 7, "it {}", "broke");
            tracing::error!("{}", "ä".repeat(2000));
        });
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), 2);
        assert_eq!(heard[0], "it broke peer=7");
        assert_eq!(heard[1], format!("{}…", "ä".repeat(512)));
    }
}
