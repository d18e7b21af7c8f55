//! What is worth keeping on disk: the state, to begin a new epoch from or to show until there is one.
//!
//! Never a voter: a member that restarts is a new incarnation, so its votes and its log need not
//! survive it.

use serde::{Deserialize, Serialize};

use crate::keys::{Hash, decode, digest, encode};
use crate::limits;
use crate::state::State;

/// A kept state.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// The room.
    pub room: Hash,
    /// The epoch.
    pub epoch: Hash,
    /// Its number.
    pub number: u64,
    /// The last entry in the state.
    pub index: u64,
    /// The state.
    pub state: State,
}

/// Why kept bytes cannot be used. Keep them aside: a newer version may still read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// They are not what was kept.
    #[error("the kept state is damaged")]
    Damaged,
    /// A later version of this library wrote them.
    #[error("the kept state is of version {0}, which this version does not know")]
    Newer(u8),
    /// They are another room's.
    #[error("the kept state belongs to another room")]
    Foreign,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    room: Hash,
    epoch: Hash,
    number: u64,
    index: u64,
    state: Vec<u8>,
}

const MAGIC: &[u8] = b"iroh-rooms state";
const VERSION: u8 = 1;

/// Puts magic, version and hash before a body.
pub(crate) fn sealed(body: &[u8]) -> Vec<u8> {
    let hash = digest("iroh-rooms/saved/1", &[body]);
    [MAGIC, &[VERSION], &hash, body].concat()
}

impl Saved {
    /// The bytes: magic, version, a hash of the rest, the rest.
    pub fn store(&self) -> Vec<u8> {
        let body = encode(&Stored {
            room: self.room,
            epoch: self.epoch,
            number: self.number,
            index: self.index,
            state: self.state.store(),
        });
        sealed(&body)
    }

    /// A kept state from bytes.
    pub fn load(bytes: &[u8], room: &Hash) -> Result<Self, LoadError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(LoadError::Damaged)?;
        let (version, rest) = rest.split_first().ok_or(LoadError::Damaged)?;
        if *version > VERSION {
            return Err(LoadError::Newer(*version));
        }
        let (hash, body) = rest.split_at_checked(32).ok_or(LoadError::Damaged)?;
        if digest("iroh-rooms/saved/1", &[body]) != hash || body.len() > limits::SNAPSHOT_BYTES {
            return Err(LoadError::Damaged);
        }
        let stored: Stored = decode(body).ok_or(LoadError::Damaged)?;
        if stored.room != *room {
            return Err(LoadError::Foreign);
        }
        Ok(Self {
            room: stored.room,
            epoch: stored.epoch,
            number: stored.number,
            index: stored.index,
            state: State::load(&stored.state).ok_or(LoadError::Damaged)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_and_nothing_else_does() {
        let saved = Saved {
            room: [1; 32],
            epoch: [2; 32],
            number: 3,
            index: 4,
            state: State::json(br#"{"a":[1,2.5]}"#).unwrap(),
        };
        let bytes = saved.store();
        assert_eq!(
            Saved::load(&bytes, &[1; 32]).unwrap().state.bytes(),
            saved.state.bytes()
        );
        assert_eq!(Saved::load(&bytes, &[9; 32]), Err(LoadError::Foreign));
        let mut newer = bytes.clone();
        newer[MAGIC.len()] = 2;
        assert_eq!(Saved::load(&newer, &[1; 32]), Err(LoadError::Newer(2)));
        for at in 0..bytes.len() {
            assert!(Saved::load(&bytes[..at], &[1; 32]).is_err());
            let mut bent = bytes.clone();
            bent[at] ^= 0x80;
            assert!(Saved::load(&bent, &[1; 32]).is_err(), "byte {at}");
        }
    }
}
