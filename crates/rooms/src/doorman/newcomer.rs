//! The way in: asking at a room's door.

use std::time::Duration;

use iroh::{EndpointAddr, EndpointId, RelayUrl};
use iroh_rooms_consensus::{Welcome, keys::Hash};
use iroh_rooms_sorted::SortedMap;
use n0_future::time::{self, Instant};

use super::hub::{DOOR_ALPN, read_door};
use crate::{
    Error, Live,
    door::{self, Code, Frame, Redirect, VERSION},
    live::Relays,
};

/// How long a door may take to be reached; longer, and nobody stands there.
pub(super) const REACH: Duration = Duration::from_millis(2500);
/// How long an answer may take: a person is asked for 30 s at most, and voters for 10 s.
const ANSWER: Duration = Duration::from_secs(45);
/// How long a door may take to say who stands there.
const PROBE: Duration = Duration::from_secs(3);
/// Who sends a newcomer to someone else, who sends it on: not more often.
const MAX_HOPS: usize = 4;
/// Between two attempts, more or less.
const RETRY: Duration = Duration::from_millis(400);
/// And when there was an answer that may soon be another one.
const RETRY_ANSWERED: Duration = Duration::from_millis(1200);

/// The relays at which a door may stand, the likeliest first. All who know the same relays come to
/// the same order, and which relay is whose is spread over the rooms.
pub(super) fn relays_of(live: &Live, door: &EndpointId, named: &[RelayUrl]) -> Vec<RelayUrl> {
    let mut relays = match live.relays() {
        Relays::Custom(urls) => urls.clone(),
        // Elsewhere lookups know where an endpoint is.
        Relays::N0 | Relays::Disabled => Vec::new(),
    };
    relays.extend(
        named
            .iter()
            .filter(|it| !relays.contains(it))
            .cloned()
            .collect::<Vec<_>>(),
    );
    let hashed = relays.into_iter().map(|relay| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(door.as_bytes());
        hasher.update(relay.as_str().as_bytes());
        (*hasher.finalize().as_bytes(), relay)
    });
    let hashed: SortedMap<[u8; 32], RelayUrl> = hashed.collect();
    hashed.into_values().collect()
}

/// What is asked with.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) door: EndpointId,
    pub(super) relays: Vec<RelayUrl>,
    pub(super) participant_id: String,
    pub(super) proof: Option<Vec<u8>>,
    pub(super) app: Option<[u8; 32]>,
    pub(super) priority: u8,
    /// The incarnation that this one takes the place of.
    pub(super) ended: Option<door::Ended>,
}

/// What a newcomer was given.
pub(super) struct Admitted {
    pub(super) welcome: Welcome,
    pub(super) topic_secret: [u8; 32],
}

/// Asks until it is let in or refused for good, at most for `patience`. `asked` is called before it is
/// asked for in earnest: from then on this endpoint may be a member.
pub(super) async fn enter(
    live: &Live,
    request: &Request,
    patience: Duration,
    asked: impl Fn(),
) -> Result<Admitted, Error> {
    let deadline = Instant::now() + patience;
    let mut answered = false;
    loop {
        let nonce: Hash = rand::random();
        let pause = match ask(live, request, nonce, deadline, &asked).await {
            Ok(Frame::Welcome(welcome)) => {
                if let Some(admitted) = admitted(live, &welcome, &nonce) {
                    return Ok(admitted);
                }
                answered = true;
                RETRY_ANSWERED
            }
            Ok(Frame::Refused(refused)) => {
                answered = true;
                match refused.code {
                    Code::NoQuorum | Code::RateLimited => RETRY_ANSWERED,
                    Code::ParticipantIdTaken => return Err(Error::ParticipantIdTaken),
                    Code::Full | Code::Denied | Code::Version | Code::AppMismatch => {
                        return Err(Error::Refused(crate::printable(&refused.message)));
                    }
                }
            }
            Ok(_) => {
                answered = true;
                RETRY_ANSWERED
            }
            Err(Unanswered::Nobody) => RETRY,
            Err(Unanswered::Lost) => {
                answered = true;
                RETRY
            }
        };
        if Instant::now() >= deadline {
            return Err(match answered {
                true => Error::Timeout("joining the room"),
                false => Error::RoomNotFound,
            });
        }
        time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
    }
}

/// A welcome that is for this newcomer. Whether voters speak for it consensus checks.
fn admitted(live: &Live, welcome: &door::Welcome, nonce: &Hash) -> Option<Admitted> {
    let consensus = Welcome::decode(&welcome.consensus)?;
    let relay = welcome.relay_url.as_ref();
    live.learn(welcome.doorman, relay.and_then(|url| url.parse().ok()));
    (consensus.attestation.nonce == *nonce).then_some(Admitted {
        welcome: consensus,
        topic_secret: welcome.topic_secret,
    })
}

/// Why there is no answer.
#[derive(Debug)]
enum Unanswered {
    /// Nobody could be reached.
    Nobody,
    /// Someone was, and said nothing of use.
    Lost,
}

/// Asks once, wherever that leads.
async fn ask(
    live: &Live,
    request: &Request,
    nonce: Hash,
    deadline: Instant,
    asked: &impl Fn(),
) -> Result<Frame, Unanswered> {
    let mut addr = EndpointAddr::new(request.door);
    for relay in &request.relays {
        addr = addr.with_relay_url(relay.clone());
    }
    let hello = Frame::Hello(door::Hello {
        version: VERSION,
        participant_id: request.participant_id.clone(),
        nonce,
        proof: request.proof.clone(),
        app: request.app,
        relay_url: live.relay_url().map(|url| url.to_string()),
        priority: request.priority,
    });
    let at = Frame::At(*request.door.as_bytes());
    let ended = request.ended.clone().map(Frame::Ended);
    let frames: Vec<Frame> = [Some(at), ended, Some(hello)]
        .into_iter()
        .flatten()
        .collect();
    for hop in 0..MAX_HOPS {
        let left = deadline.saturating_duration_since(Instant::now());
        let reach = REACH.min(left.max(Duration::from_millis(500)));
        let answer = visit(live, addr, &frames, reach, ANSWER, asked).await;
        match answer {
            Ok(Frame::Redirect(redirect)) if redirect.doorman != live.endpoint_id() => {
                addr = address_of(live, &redirect);
            }
            Err(Unanswered::Nobody) if hop > 0 => return Err(Unanswered::Lost),
            answer => return answer,
        }
    }
    Err(Unanswered::Lost)
}

fn address_of(live: &Live, redirect: &Redirect) -> EndpointAddr {
    let relay = redirect.relay_url.as_ref().and_then(|url| url.parse().ok());
    let relay = relay.or_else(|| live.relay_url());
    let addr = EndpointAddr::new(redirect.doorman);
    match relay {
        Some(relay) => addr.with_relay_url(relay),
        None => addr,
    }
}

/// Asks who stands at a door; nothing if nobody does, or does not say.
pub(super) async fn probe(
    live: &Live,
    door: &EndpointId,
    relays: &[RelayUrl],
) -> Option<door::Here> {
    let mut addr = EndpointAddr::new(*door);
    for relay in relays {
        addr = addr.with_relay_url(relay.clone());
    }
    let frames = [Frame::At(*door.as_bytes()), Frame::Probe];
    match visit(live, addr, &frames, REACH, PROBE, &|| {}).await {
        Ok(Frame::Here(here)) => Some(here),
        _ => None,
    }
}

/// Goes to a door, says what there is to say, and waits for the answer.
async fn visit(
    live: &Live,
    addr: EndpointAddr,
    frames: &[Frame],
    reach: Duration,
    patience: Duration,
    asked: &impl Fn(),
) -> Result<Frame, Unanswered> {
    let connecting = live.endpoint().connect(addr, DOOR_ALPN);
    let connection = time::timeout(reach, connecting)
        .await
        .map_err(|_| Unanswered::Nobody)?
        .map_err(|error| {
            tracing::debug!(%error, "nobody at the door");
            Unanswered::Nobody
        })?;
    let said = async {
        let (mut send, mut recv) = connection.open_bi().await.ok()?;
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend(frame.encode().ok()?);
        }
        asked();
        send.write_all(&bytes).await.ok()?;
        let _ = send.finish();
        read_door(&mut recv).await.ok()
    };
    let answer = time::timeout(patience, said).await;
    connection.close(0u32.into(), b"");
    answer.ok().flatten().ok_or(Unanswered::Lost)
}
