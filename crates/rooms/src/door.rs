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

const LENGTH_BYTES: usize = 4;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
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
    /// Of which epochs this one is the successor: made and read by consensus.
    Lineage(Vec<u8>),
    /// A voter is asked who the leader is.
    Attest(Attest),
    /// Its signature over what it was asked.
    Attested(Signature),
}

/// See [`Frame::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`]; what follows is of that version.
    pub version: u8,
    /// The room.
    pub room_id: [u8; 32],
    /// The name to be admitted under.
    pub participant_id: String,
    /// What an attestation is to be for.
    pub nonce: [u8; 32],
    /// What the application's `admit` is to look at.
    pub proof: Option<Vec<u8>>,
    /// A hash of the application's version, to keep different ones apart.
    pub app: Option<[u8; 32]>,
    /// The last epoch that this key was a member of.
    pub known_epoch: Option<[u8; 32]>,
    /// How fit it is to vote: 0 mobile, 1 hidden tab, 2 desktop tab, 3 native or Node.
    pub priority: u8,
}

/// See [`Frame::Welcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Made and read by consensus.
    pub consensus: Vec<u8>,
    /// The gossip topic.
    pub topic_secret: [u8; 32],
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

/// See [`Frame::Attest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attest {
    /// The newcomer's.
    pub nonce: [u8; 32],
    /// The epoch.
    pub epoch: [u8; 32],
    /// The term.
    pub term: u64,
    /// The raft id of the leader.
    pub leader: u64,
    /// The index of the configuration.
    pub config_index: u64,
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

    /// The first frame in these bytes and how many it takes up; `None` when it is not all there. A
    /// buffer of `4 + MAX_FRAME` bytes always gets on.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Malformed::Length)?;
        if length > MAX_FRAME {
            return Err(Malformed::Length);
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        let (frame, rest) =
            postcard::take_from_bytes::<Self>(frame).map_err(|_| Malformed::Frame)?;
        if !rest.is_empty() {
            return Err(Malformed::Frame);
        }
        frame.check()?;
        Ok(Some((frame, LENGTH_BYTES + length)))
    }

    fn check(&self) -> Result<(), Malformed> {
        let fits = match self {
            // What a later version says is not for this one to judge.
            Self::Hello(hello) if hello.version != VERSION => true,
            Self::Hello(hello) => {
                (1..=MAX_PARTICIPANT_ID).contains(&hello.participant_id.len())
                    && hello.proof.as_ref().is_none_or(|it| it.len() <= MAX_PROOF)
                    && hello.priority <= 3
            }
            Self::Welcome(welcome) => welcome.consensus.len() <= MAX_CONSENSUS,
            Self::Lineage(lineage) => lineage.len() <= MAX_CONSENSUS,
            Self::Redirect(redirect) => {
                let relay = redirect.relay_url.as_ref();
                relay.is_none_or(|relay| relay.len() <= MAX_RELAY_URL)
            }
            Self::Refused(refused) => refused.message.len() <= MAX_MESSAGE,
            Self::Ended(_) | Self::Attest(_) | Self::Attested(_) => true,
        };
        if fits { Ok(()) } else { Err(Malformed::Limit) }
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use serde_json::json;

    use super::*;

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            room_id: [1; 32],
            participant_id: "ada".into(),
            nonce: [2; 32],
            proof: Some(vec![3; 4]),
            app: None,
            known_epoch: Some([4; 32]),
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
            ("hello", Frame::Hello(hello())),
            (
                "welcome",
                Frame::Welcome(Welcome {
                    consensus: vec![6; 5],
                    topic_secret: [7; 32],
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
            ("lineage", Frame::Lineage(vec![8; 3])),
            (
                "attest",
                Frame::Attest(Attest {
                    nonce: [2; 32],
                    epoch: [4; 32],
                    term: 300,
                    leader: 9,
                    config_index: 70_000,
                }),
            ),
            ("attested", Frame::Attested(signature)),
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
                assert_eq!(Frame::decode(&bytes), Ok(Some((frame, bytes.len()))));
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
    fn a_frame_is_waited_for_until_it_is_all_there() {
        let bytes = Frame::Hello(hello()).encode().expect("small");
        for length in 0..bytes.len() {
            assert_eq!(Frame::decode(&bytes[..length]), Ok(None));
        }
        let two = [&bytes[..], &bytes].concat();
        let first = Frame::decode(&two).expect("valid").expect("there");
        assert_eq!(first, (Frame::Hello(hello()), bytes.len()));
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
            Frame::Lineage(vec![0; MAX_CONSENSUS + 1]),
            Frame::Welcome(Welcome {
                consensus: vec![0; MAX_CONSENSUS + 1],
                topic_secret: [0; 32],
            }),
            Frame::Refused(Refused {
                code: Code::Full,
                message: "x".repeat(MAX_MESSAGE + 1),
            }),
        ] {
            assert_eq!(frame.encode(), Err(Malformed::Limit));
            let bytes = postcard::to_stdvec(&frame).expect("postcard takes it");
            let length = u32::try_from(bytes.len()).expect("small").to_be_bytes();
            let bytes = [&length[..], &bytes].concat();
            assert_eq!(Frame::decode(&bytes), Err(Malformed::Limit));
        }
        assert_eq!(Frame::decode(&[0, 1, 0, 1]), Err(Malformed::Length));
        assert_eq!(Frame::decode(&[0, 0, 0, 1, 99]), Err(Malformed::Frame));
        assert_eq!(Frame::decode(&[0, 0, 0, 0]), Err(Malformed::Frame));
        let mut bytes = all()[1].1.encode().expect("small");
        bytes.push(0);
        bytes[3] += 1;
        assert_eq!(Frame::decode(&bytes), Err(Malformed::Frame));
    }
}
