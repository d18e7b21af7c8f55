//! The state that all agree on, and how a change makes the next one of it.
//!
//! Two kinds: JSON, changed here; and bytes that only the application understands, changed by its
//! reducer, whose result is handed back to [`crate::Node`]. Either way every member applies the same
//! changes in the same order, so it must come to the same result everywhere: see [`canonical`].

pub mod canonical;
mod patch;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::keys::{Hash, digest};
use crate::limits;

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// JSON to merge, RFC 7396.
    Merge(Vec<u8>),
    /// A JSON patch, RFC 6902, as a whole or not at all. Its `test` operations are preconditions.
    Patch(Vec<u8>),
    /// What the application's reducer understands.
    Opaque(Vec<u8>),
}

impl Change {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Merge(bytes) | Self::Patch(bytes) | Self::Opaque(bytes) => bytes,
        }
    }
}

/// The state.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// JSON, with an upper bound of its canonical size in bytes.
    Json(Value, usize),
    /// Bytes of the application's own.
    Opaque(Vec<u8>),
}

/// On the wire and in storage: the kind and the bytes, canonical where there is a canonical form.
#[derive(Serialize, Deserialize)]
enum Stored {
    Json(Vec<u8>),
    Opaque(Vec<u8>),
}

impl State {
    /// JSON from text.
    pub fn json(text: &[u8]) -> Result<Self, String> {
        let value = canonical::parse(text)?;
        let size = canonical::size(&value);
        if size > limits::STATE_BYTES {
            return Err("the state would be larger than 4 MiB".into());
        }
        Ok(Self::Json(value, size))
    }

    /// Its bytes: canonical JSON, or the application's own.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Json(value, _) => canonical::write(value),
            Self::Opaque(bytes) => bytes.clone(),
        }
    }

    /// Its hash, the same for the same state wherever it was made.
    pub fn hash(&self) -> Hash {
        digest("iroh-rooms/state/1", &[&self.bytes()])
    }

    pub(crate) fn store(&self) -> Vec<u8> {
        crate::keys::encode(&match self {
            Self::Json(..) => Stored::Json(self.bytes()),
            Self::Opaque(bytes) => Stored::Opaque(bytes.clone()),
        })
    }

    pub(crate) fn load(bytes: &[u8]) -> Option<Self> {
        match crate::keys::decode(bytes)? {
            Stored::Json(text) => Self::json(&text).ok(),
            Stored::Opaque(bytes) => {
                (bytes.len() <= limits::STATE_BYTES).then_some(Self::Opaque(bytes))
            }
        }
    }

    /// Makes the change, or leaves everything as it was and says why. `reduced` is what the
    /// application's reducer made of the state, where there is one.
    pub(crate) fn apply(
        &mut self,
        change: &Change,
        reduced: Option<Vec<u8>>,
    ) -> Result<(), String> {
        if change.bytes().len() > limits::CHANGE_BYTES {
            return Err("the change is larger than 64 KiB".into());
        }
        match (self, change) {
            (Self::Json(state, bound), Change::Merge(text)) => {
                let merge = canonical::parse(text)?;
                grow(state, bound, canonical::size(&merge))?;
                patch::merge(state, merge);
                Ok(())
            }
            (Self::Json(state, bound), Change::Patch(text)) => {
                let operations = canonical::parse(text)?;
                // Copies may multiply; what they add is counted while they are made.
                let mut next = state.clone();
                let added = patch::patch(&mut next, &operations, limits::STATE_BYTES)?;
                grow(state, bound, added)?;
                *state = next;
                Ok(())
            }
            (Self::Opaque(state), Change::Opaque(_)) => {
                let next = reduced.ok_or("the reducer gave no state")?;
                if next.len() > limits::STATE_BYTES {
                    return Err("the state would be larger than 4 MiB".into());
                }
                *state = next;
                Ok(())
            }
            _ => Err("the change is of another kind than the state".into()),
        }
    }
}

/// Lets the bound grow. Measuring the whole state is dear, so it is measured only when the bound
/// says it may have become too large; the answer is the same as if it always were.
fn grow(state: &Value, bound: &mut usize, by: usize) -> Result<(), String> {
    if *bound + by > limits::STATE_BYTES {
        *bound = canonical::size(state);
    }
    if *bound + by > limits::STATE_BYTES {
        return Err("the state would be larger than 4 MiB".into());
    }
    *bound += by;
    Ok(())
}
