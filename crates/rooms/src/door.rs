//! What is said at the door of a room with a doorman: the frames of `docs/wire.md`, and nothing else.
//!
//! A frame is its length, four bytes big-endian, and postcard of [`Frame`]. What consensus says to its
//! own kind is carried as bytes of limited length: this codec knows none of its types.

use iroh::EndpointId;
use iroh_base::Signature;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of a frame without its length; a longer one is refused before it is read.
pub const MAX_FRAME: usize = 64 * 1024;
/// Bytes that consensus may put into one frame.
pub const MAX_CONSENSUS: usize = 60 * 1024;
/// Bytes of a participant id.
pub const MAX_PARTICIPANT_ID: usize = 64;
/// Bytes of what a newcomer shows to be admitted.
pub const MAX_PROOF: usize = 4096;
/// Bytes of a relay URL.
pub const MAX_RELAY_URL: usize = 256;
/// Bytes of the text of a refusal.
pub const MAX_MESSAGE: usize = 256;
/// The version of this protocol.
pub const VERSION: u8 = 1;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// Always first: which room is meant. There is no answer to it.
    At([u8; 32]),
    /// A newcomer asks to be let in.
    Hello(Hello),
    /// It is a member.
    Welcome(Welcome),
    /// Someone else is the doorman.
    Redirect(Redirect),
    /// It is not let in.
    Refused(Refused),
    /// An earlier incarnation of a key is no more.
    Ended(Ended),
    /// The doorman asks its own door who stands there.
    Probe,
    /// Who does.
    Here(Here),
}

/// See [`Frame::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`]; what follows is of that version.
    pub version: u8,
    /// The name to be admitted under.
    pub participant_id: String,
    /// What an attestation is to be for.
    pub nonce: [u8; 32],
    /// What the application's `admit` is to look at.
    pub proof: Option<Vec<u8>>,
    /// A hash of the application's version, to keep different ones apart.
    pub app: Option<[u8; 32]>,
    /// Where the newcomer is reached.
    pub relay_url: Option<String>,
    /// How fit it is to vote: 0 mobile, 1 hidden tab, 2 desktop tab, 3 native or Node.
    pub priority: u8,
}

/// See [`Frame::Welcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Made and read by consensus.
    pub consensus: Vec<u8>,
    /// What the gossip topic and the proofs of members are derived from.
    pub topic_secret: [u8; 32],
    /// The doorman's own endpoint.
    pub doorman: EndpointId,
    /// Where it is reached.
    pub relay_url: Option<String>,
}

/// See [`Frame::Redirect`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// The doorman's own endpoint.
    pub doorman: EndpointId,
    /// Where it is reached.
    pub relay_url: Option<String>,
    /// The epoch in which it is the doorman.
    pub epoch: [u8; 32],
    /// And the term.
    pub term: u64,
}

/// See [`Frame::Refused`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub code: Code,
    /// In words, for people.
    pub message: String,
}

/// Why a newcomer is not let in. New codes come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The room has all the participants it may have.
    Full,
    /// The application said no.
    Denied,
    /// Another key holds this participant id.
    ParticipantIdTaken,
    /// There is nobody who could decide.
    NoQuorum,
    /// Another version of the protocol.
    Version,
    /// Another version of the application.
    AppMismatch,
    /// Too many attempts.
    RateLimited,
}

/// See [`Frame::Ended`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The epoch in which it was a member.
    pub epoch: [u8; 32],
    /// The incarnation.
    pub raft_id: u64,
    /// Of its key, over both.
    pub signature: Signature,
}

/// See [`Frame::Here`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// The doorman's own endpoint.
    pub doorman: EndpointId,
    /// Where it is reached.
    pub relay_url: Option<String>,
    /// How many members its room has.
    pub members: u16,
}

/// Why bytes are no frame. The connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Longer than [`MAX_FRAME`].
    #[error("the frame is too long")]
    Length,
    /// Not a frame, or something is left after it.
    #[error("not a frame of the door")]
    Frame,
    /// A part is longer than it may be, or a number has no meaning.
    #[error("a part of the frame is over its limit")]
    Limit,
}

impl Frame {
    /// The bytes, with their length in front.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        self.check()?;
        let frame = postcard::to_stdvec(self).map_err(|_| Malformed::Frame)?;
        let length = u32::try_from(frame.len()).map_err(|_| Malformed::Length)?;
        if frame.len() > MAX_FRAME {
            return Err(Malformed::Length);
        }
        Ok([&length.to_be_bytes()[..], &frame].concat())
    }

    /// The frame in these bytes, which had their length of at most [`MAX_FRAME`] in front.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let (frame, rest) =
            postcard::take_from_bytes::<Self>(body).map_err(|_| Malformed::Frame)?;
        if !rest.is_empty() {
            return Err(Malformed::Frame);
        }
        frame.check()?;
        Ok(frame)
    }

    fn check(&self) -> Result<(), Malformed> {
        let fits = match self {
            // What a later version says is not for this one to judge.
            Self::Hello(hello) if hello.version != VERSION => true,
            Self::Hello(hello) => {
                (1..=MAX_PARTICIPANT_ID).contains(&hello.participant_id.len())
                    && hello.proof.as_ref().is_none_or(|it| it.len() <= MAX_PROOF)
                    && hello.priority <= 3
                    && is_short(&hello.relay_url)
            }
            Self::Welcome(welcome) => {
                welcome.consensus.len() <= MAX_CONSENSUS && is_short(&welcome.relay_url)
            }
            Self::Redirect(redirect) => is_short(&redirect.relay_url),
            Self::Refused(refused) => refused.message.len() <= MAX_MESSAGE,
            Self::Here(here) => is_short(&here.relay_url),
            Self::At(_) | Self::Ended(_) | Self::Probe => true,
        };
        if fits { Ok(()) } else { Err(Malformed::Limit) }
    }
}

fn is_short(relay: &Option<String>) -> bool {
    relay
        .as_ref()
        .is_none_or(|relay| relay.len() <= MAX_RELAY_URL)
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use serde_json::json;

    use super::*;

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            participant_id: "ada".into(),
            nonce: [2; 32],
            proof: Some(vec![3; 4]),
            app: None,
            relay_url: Some("https://relay.example/".into()),
            priority: 2,
        }
    }

    fn all() -> Vec<(&'static str, Frame)> {
        let key = SecretKey::from_bytes(&[5; 32]);
        let signature = key.sign(b"what was asked");
        let redirect = Redirect {
            doorman: key.public(),
            relay_url: Some("https://relay.example/".into()),
            epoch: [4; 32],
            term: 300,
        };
        let refused = |code| {
            let message = "in words".into();
            Frame::Refused(Refused { code, message })
        };
        vec![
            ("at", Frame::At([1; 32])),
            ("hello", Frame::Hello(hello())),
            (
                "welcome",
                Frame::Welcome(Welcome {
                    consensus: vec![6; 5],
                    topic_secret: [7; 32],
                    doorman: key.public(),
                    relay_url: None,
                }),
            ),
            ("redirect", Frame::Redirect(redirect)),
            ("refused full", refused(Code::Full)),
            ("refused denied", refused(Code::Denied)),
            (
                "refused participant-id-taken",
                refused(Code::ParticipantIdTaken),
            ),
            ("refused no-quorum", refused(Code::NoQuorum)),
            ("refused version", refused(Code::Version)),
            ("refused app-mismatch", refused(Code::AppMismatch)),
            ("refused rate-limited", refused(Code::RateLimited)),
            (
                "ended",
                Frame::Ended(Ended {
                    epoch: [4; 32],
                    raft_id: 9,
                    signature,
                }),
            ),
            ("probe", Frame::Probe),
            (
                "here",
                Frame::Here(Here {
                    doorman: key.public(),
                    relay_url: None,
                    members: 300,
                }),
            ),
        ]
    }

    /// As in tests/vectors.rs: `UPDATE_VECTORS=1` writes the file anew.
    #[test]
    fn frames_are_those_of_the_vectors() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/door.json");
        let frames: Vec<_> = all()
            .into_iter()
            .map(|(name, frame)| {
                let bytes = frame.encode().expect("within the limits");
                assert_eq!(Frame::decode(&bytes[4..]), Ok(frame));
                json!({ "name": name, "bytes": crate::hex(bytes) })
            })
            .collect();
        let made = format!("{:#}\n", json!(frames));
        if std::env::var_os("UPDATE_VECTORS").is_some() {
            std::fs::write(path, made).expect("vectors can be written");
            return;
        }
        let kept = std::fs::read_to_string(path).expect("vectors are in the repository");
        assert!(
            kept == made,
            "a change of a format needs a new version of it"
        );
    }

    #[test]
    fn what_is_over_a_limit_is_neither_written_nor_read() {
        let hello = |change: fn(&mut Hello)| {
            let mut hello = hello();
            change(&mut hello);
            Frame::Hello(hello)
        };
        for frame in [
            hello(|hello| hello.participant_id = "x".repeat(MAX_PARTICIPANT_ID + 1)),
            hello(|hello| hello.participant_id.clear()),
            hello(|hello| hello.proof = Some(vec![0; MAX_PROOF + 1])),
            hello(|hello| hello.priority = 4),
            Frame::Welcome(Welcome {
                consensus: vec![0; MAX_CONSENSUS + 1],
                topic_secret: [0; 32],
                doorman: SecretKey::from_bytes(&[5; 32]).public(),
                relay_url: None,
            }),
            Frame::Refused(Refused {
                code: Code::Full,
                message: "x".repeat(MAX_MESSAGE + 1),
            }),
        ] {
            assert_eq!(frame.encode(), Err(Malformed::Limit));
            let bytes = postcard::to_stdvec(&frame).expect("postcard takes it");
            assert_eq!(Frame::decode(&bytes), Err(Malformed::Limit));
        }
        assert_eq!(Frame::decode(&[99]), Err(Malformed::Frame));
        assert_eq!(Frame::decode(&[]), Err(Malformed::Frame));
        let mut bytes = Frame::Probe.encode().expect("small");
        bytes.push(0);
        assert_eq!(Frame::decode(&bytes[4..]), Err(Malformed::Frame));
    }
}
