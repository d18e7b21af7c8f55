//! Errors become plain objects: `{ code, message, details? }`.

use iroh_rooms::{Error, moq};
use js_sys::{Object, Reflect};
use wasm_bindgen::JsValue;

/// An error on its way to JavaScript.
pub struct Failure(JsValue);

impl Failure {
    /// With a stable code and words.
    pub fn new(code: &str, message: &str) -> Self {
        Self(object(&[("code", code.into()), ("message", message.into())]).into())
    }

    fn with(self, name: &str, value: JsValue) -> Self {
        set(&self.0, name, &value);
        self
    }

    /// An argument that is not what it should be.
    pub fn argument(message: impl AsRef<str>) -> Self {
        Self::new("INVALID_ARGUMENT", message.as_ref())
    }

    /// A reader that was too slow for so many groups.
    pub fn lagged(missed: u64) -> Self {
        let error = moq::Error::Lagged;
        let details = object(&[("missed", (missed as f64).into())]);
        Self::new(error.code(), &error.to_string()).with("details", details.into())
    }

    /// Something that is closed.
    pub fn closed(what: &str) -> Self {
        Self::new("CLOSED", &format!("the {what} is closed"))
    }
}

impl From<Failure> for JsValue {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::new(error.code(), &error.to_string());
        let session = |end: &moq::SessionError| {
            let reason = end.reason.as_str().into();
            object(&[("code", end.code.into()), ("reason", reason)])
        };
        // Limits are far below 2^53.
        let details = match &error {
            Error::TooLarge { limit, .. } => object(&[("limit", (*limit as f64).into())]),
            Error::Moq(moq::Error::TooLarge { limit }) => {
                object(&[("limit", (*limit as f64).into())])
            }
            Error::Refused(reason) | Error::UpdateRejected(reason) => {
                object(&[("reason", reason.as_str().into())])
            }
            Error::Moq(moq::Error::TrackClosed { code, .. }) => object(&[("code", (*code).into())]),
            Error::Moq(moq::Error::Session(end))
            | Error::Subscribe(moq::SubscribeError::SessionClosed(end)) => session(end),
            _ => return failure,
        };
        failure.with("details", details.into())
    }
}

impl From<moq::Error> for Failure {
    fn from(error: moq::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<moq::SubscribeError> for Failure {
    fn from(error: moq::SubscribeError) -> Self {
        Error::from(error).into()
    }
}

impl From<serde_wasm_bindgen::Error> for Failure {
    fn from(error: serde_wasm_bindgen::Error) -> Self {
        Self::argument(error.to_string())
    }
}

/// A plain object with these fields.
pub fn object(fields: &[(&str, JsValue)]) -> Object {
    let object = Object::new();
    for (name, value) in fields {
        set(&object, name, value);
    }
    object
}

/// Sets a field of a plain object.
pub fn set(target: &JsValue, name: &str, value: &JsValue) {
    // Setting a field of a plain object cannot fail.
    let _ = Reflect::set(target, &name.into(), value);
}
