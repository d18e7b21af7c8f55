//! The bytes: iroh-smol-kv 0.4's gossip message.
//!
//! Postcard of `enum { SignedValue(scope: [u8; 32], key: bytes, { timestamp: u64, value: bytes,
//! signature: [u8; 64] }) }`, the signature being the scope's over postcard of `(key: bytes,
//! timestamp: u64, value: bytes)`. Up to [`TRAILING_MAX`] bytes may follow and mean nothing:
//! gossip takes a message whose bytes it knows for a sign to prune the link, so a repeat must
//! differ from what it repeats.

use bytes::Bytes;
use iroh_base::{PublicKey, SecretKey, Signature};
use serde::{Deserialize, Serialize};

use crate::Refusal;

/// Longest key, in bytes; longer ones are refused.
pub const KEY_MAX: usize = 64;
/// Longest value, in bytes; longer ones are refused.
pub const VALUE_MAX: usize = 3072;
/// Random bytes that make a repeat differ from the original.
pub const REPEAT_TAIL: usize = 8;
/// Trailing bytes that the decoder ignores; more are refused.
pub const TRAILING_MAX: usize = 16;
/// Nothing longer is ever handed to gossip, whose own limit of 4,096 bytes includes its framing
/// and ends the connection of whoever reaches it.
pub const MESSAGE_MAX: usize = 3584;

/// Tag, scope, key and value with their lengths, timestamp, signature, trailing bytes.
const ENCODED_MAX: usize = 1 + 32 + (1 + KEY_MAX) + 10 + (2 + VALUE_MAX) + 64 + TRAILING_MAX;
const _: () = assert!(ENCODED_MAX <= MESSAGE_MAX);

/// A value with the time of its writing and the signature over both and the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedValue {
    /// Nanoseconds since 1970 by the writer's clock.
    pub timestamp: u64,
    /// The value.
    pub value: Bytes,
    /// The scope's signature, see [`GossipMessage::verify`].
    pub signature: Signature,
}

/// One gossip message: the newest value of one key of one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipMessage {
    /// Whose value it is, and whose signature it must carry.
    pub scope: PublicKey,
    /// The key within the scope.
    pub key: Bytes,
    /// What the scope says it is.
    pub value: SignedValue,
}

/// The wire's view of a message: borrows, so that limits are looked at before anything is copied.
#[derive(Serialize, Deserialize)]
enum Frame<'a> {
    SignedValue(PublicKey, &'a [u8], #[serde(borrow)] FrameValue<'a>),
}

#[derive(Serialize, Deserialize)]
struct FrameValue<'a> {
    timestamp: u64,
    value: &'a [u8],
    signature: Signature,
}

#[derive(Serialize)]
struct Signed<'a> {
    key: &'a [u8],
    timestamp: u64,
    value: &'a [u8],
}

impl GossipMessage {
    /// Signs `value` as the scope that `secret` belongs to.
    pub fn sign(secret: &SecretKey, key: Bytes, timestamp: u64, value: Bytes) -> Self {
        let signature = secret.sign(&signed_bytes(&key, timestamp, &value));
        Self {
            scope: secret.public(),
            key,
            value: SignedValue {
                timestamp,
                value,
                signature,
            },
        }
    }

    /// Whether the signature is the scope's.
    pub fn verify(&self) -> Result<(), Refusal> {
        let signed = signed_bytes(&self.key, self.value.timestamp, &self.value.value);
        self.scope
            .verify(&signed, &self.value.signature)
            .map_err(|_| Refusal::Signature)
    }

    /// The message as gossip carries it the first time.
    pub fn encode(&self) -> Bytes {
        self.encode_with(&[])
    }

    /// The message as gossip carries it again: `tail` is to be random.
    pub fn repeat(&self, tail: [u8; REPEAT_TAIL]) -> Bytes {
        self.encode_with(&tail)
    }

    /// Reads a message without looking at its signature.
    pub fn decode(content: &[u8]) -> Result<Self, Refusal> {
        Self::read(content).map(|(message, _)| message)
    }

    /// The same, and whether it is a repeat: whether anything follows it.
    pub(crate) fn read(content: &[u8]) -> Result<(Self, bool), Refusal> {
        if content.len() > ENCODED_MAX {
            return Err(Refusal::Oversize);
        }
        let (frame, rest) =
            postcard::take_from_bytes::<Frame<'_>>(content).map_err(|_| Refusal::Malformed)?;
        let Frame::SignedValue(scope, key, frame) = frame;
        if key.len() > KEY_MAX {
            return Err(Refusal::Key);
        }
        if frame.value.len() > VALUE_MAX {
            return Err(Refusal::Value);
        }
        if rest.len() > TRAILING_MAX {
            return Err(Refusal::Trailing);
        }
        let message = Self {
            scope,
            key: Bytes::copy_from_slice(key),
            value: SignedValue {
                timestamp: frame.timestamp,
                value: Bytes::copy_from_slice(frame.value),
                signature: frame.signature,
            },
        };
        Ok((message, !rest.is_empty()))
    }

    fn encode_with(&self, tail: &[u8]) -> Bytes {
        let frame = Frame::SignedValue(
            self.scope,
            &self.key,
            FrameValue {
                timestamp: self.value.timestamp,
                value: &self.value.value,
                signature: self.value.signature,
            },
        );
        let mut bytes = to_vec(&frame);
        bytes.extend_from_slice(tail);
        bytes.into()
    }
}

fn signed_bytes(key: &[u8], timestamp: u64, value: &[u8]) -> Vec<u8> {
    to_vec(&Signed {
        key,
        timestamp,
        value,
    })
}

fn to_vec(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("a Vec grows, and all lengths are known: nothing can fail")
}
