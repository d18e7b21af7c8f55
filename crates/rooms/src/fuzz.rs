//! Targets of `npm run fuzz`: what reads the bytes of peers, and what keeps account of them.

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use bytes::Bytes;
use iroh::{EndpointId, SecretKey};
use iroh_gossip::TopicId;
use iroh_rooms_moq::Frame;
use iroh_tickets::Ticket;

use crate::{
    RoomTicket, channel, chat, door,
    event::{LeftReason, Peer},
    presence::{MAX_BROADCASTS, MAX_PRESENCE, MAX_VALUE, RoomKey, RoomState},
    roster::{Input, MAX_PEERS, Output, Roster},
    ticket::{MAX_BOOTSTRAP, MAX_BYTES, MAX_RELAYS},
};

/// A name, and what takes any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[
    ("ticket", ticket),
    ("room-state", room_state),
    ("chat", chat),
    ("channel", channel),
    ("roster", roster),
    ("door", door),
    ("control", crate::doorman::fuzz),
];

static PEERS: LazyLock<[EndpointId; 8]> =
    LazyLock::new(|| std::array::from_fn(|at| SecretKey::from_bytes(&[at as u8; 32]).public()));
static KEY: LazyLock<RoomKey> = LazyLock::new(|| RoomKey::new(&TopicId::from_bytes([1; 32])));

/// What is read as a ticket is within the limits, and is read again from both of its forms.
fn ticket(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(ticket) = text.parse::<RoomTicket>()
    {
        assert_eq!(ticket.to_string().parse().ok(), Some(ticket));
    }
    let Ok(ticket) = RoomTicket::decode_bytes(data) else {
        return;
    };
    assert!(data.len() <= MAX_BYTES);
    assert!(ticket.bootstrap.len() <= MAX_BOOTSTRAP && ticket.relays.len() <= MAX_RELAYS);
    for peer in &ticket.bootstrap {
        let _ = ticket.relay_of(peer);
    }
    assert_eq!(ticket.to_string().parse().ok(), Some(ticket));
}

/// The bytes as they are, and with the version and the proof that a member would put there.
fn room_state(data: &[u8]) {
    let peer = &PEERS[0];
    assert!(RoomState::decode(data, &KEY, peer).is_none_or(|state| state.encode().is_ok()));
    let proof = RoomState::new(&KEY, peer).encode().expect("small");
    let mut bytes = proof[..17].to_vec();
    bytes.extend(data);
    let Some(state) = RoomState::decode(&bytes, &KEY, peer) else {
        return;
    };
    assert!(state.broadcasts.len() <= MAX_BROADCASTS);
    if let Some(presence) = state.presence() {
        assert!(presence.to_string().len() <= 6 * MAX_PRESENCE);
    }
    let _ = (state.relay(), state.is_leaving(), state.peer_state());
    let again = state.encode().expect("it was within the limit");
    assert!(again.len() <= MAX_VALUE);
    assert_eq!(RoomState::decode(&again, &KEY, peer), Some(state));
}

fn person(at: u8) -> Peer {
    Peer {
        id: PEERS[usize::from(at % 8)],
        participant_id: None,
        display_name: None,
        presence: None,
        broadcasts: Vec::new(),
        joined_at: 0,
    }
}

/// Frames of eight peers, eight bytes each and then their text: what is taken is a message, counts
/// once, and stands in the history by time.
fn chat(data: &[u8]) {
    let _ = chat::named_in_catalog(data);
    let mut log = chat::Log::default();
    let mut said = BTreeSet::new();
    let mut rest = data;
    while let Some((&[who, index, group, length, time @ ..], tail)) = rest.split_first_chunk::<8>()
    {
        let length = if length == 255 {
            chat::MAX_MESSAGE + 1
        } else {
            usize::from(length).min(tail.len())
        };
        let text = if length > tail.len() {
            vec![b'x'; length]
        } else {
            tail[..length].to_vec()
        };
        rest = tail.get(length..).unwrap_or_default();
        let frame = Frame {
            data: Bytes::from(text),
            timestamp: Duration::from_millis(u32::from_be_bytes(time).into()),
            group: group.into(),
            index: u64::from(index & 1),
        };
        if let Ok(Some(message)) = log.accept(&person(who), &frame, true, 2_000_000_000_000) {
            assert!((1..=chat::MAX_MESSAGE).contains(&message.text.len()) && frame.index == 0);
            assert!(said.insert(message.id));
        }
    }
    let history = log.history();
    assert!(history.is_sorted_by_key(|message| message.timestamp));
    assert_eq!(history.len(), said.len().min(chat::MAX_HISTORY));
}

/// What is taken is JSON, as it was sent.
fn channel(data: &[u8]) {
    if let Some(message) = channel::parse(PEERS[0], data) {
        assert_eq!(message.json.as_bytes(), data);
        assert!(data.len() <= channel::MAX_MESSAGE);
        serde_json::from_slice::<serde::de::IgnoredAny>(data).expect("it is JSON");
    }
    if let Ok(name) = std::str::from_utf8(data)
        && let Ok(broadcast) = channel::broadcast_name(name)
    {
        assert!(broadcast.len() <= channel::MAX_NAME + channel::PREFIX.len());
        assert!(!broadcast.contains('/'));
    }
}

/// Any sequence of inputs, three bytes each: joined and left alternate, and what is told is what
/// is held.
fn roster(data: &[u8]) {
    let mut roster = Roster::default();
    let mut here: Vec<Peer> = Vec::new();
    let mut now = Duration::ZERO;
    for &[kind, who, arg] in data.as_chunks::<3>().0 {
        let peer = PEERS[usize::from(who % 8)];
        let name = ["a", "b", "chat", "~c"][usize::from(arg % 4)];
        let mut state = RoomState::new(&KEY, &peer);
        let outputs = match kind % 8 {
            0 | 1 => {
                state
                    .broadcasts
                    .extend((0..arg % 4).map(|at| "abc"[usize::from(at)..].to_owned()));
                state.display_name = (arg > 127).then(|| arg.to_string());
                state.set_leaving(arg == 77);
                let wall_ms = now.as_millis() as u64;
                roster.handle(
                    Input::Presence {
                        peer,
                        state: &state,
                        repeated: arg % 3 == 0,
                        wall_ms,
                    },
                    now,
                )
            }
            2 => roster.handle(Input::Heard(peer), now),
            3 => roster.handle(Input::Live(peer, name), now),
            4 => roster.handle(Input::Unlive(peer, name), now),
            5 => roster.handle(Input::Gone(peer, LeftReason::Left), now),
            6 => roster.handle(Input::Relay(arg % 2 == 0), now),
            _ => {
                now += Duration::from_millis(u64::from(arg) * 100);
                roster.handle(Input::Tick, now)
            }
        };
        for output in outputs {
            let at = |peer: &Peer| here.iter().position(|known| known.id == peer.id);
            match output {
                Output::Joined(peer) => {
                    assert_eq!(at(&peer), None);
                    here.push(peer);
                }
                Output::Left(peer, _) => {
                    let at = at(&peer).expect("only who is here leaves");
                    assert_eq!(here.swap_remove(at), peer);
                }
                Output::Updated(peer, changed) => {
                    let at = at(&peer).expect("only who is here changes");
                    assert!(!changed.is_empty() && here[at] != peer);
                    here[at] = peer;
                }
                Output::Announced(peer, names) => {
                    assert_eq!(here[at(&peer).expect("only who is here announces")], peer);
                    assert!(!names.is_empty());
                    assert!(names.iter().all(|name| peer.broadcasts.contains(name)));
                }
            }
        }
        assert!(roster.len() == here.len() && here.len() <= MAX_PEERS);
        assert!(here.iter().all(|peer| roster.get(&peer.id) == Some(peer)));
        assert_eq!(
            roster.silent_for(&peer, now).is_some(),
            roster.get(&peer).is_some()
        );
    }
}

/// What is read as a frame is within the limits, and is read again.
fn door(data: &[u8]) {
    if let Ok(frame) = door::Frame::decode(data) {
        let again = frame.encode().expect("what is read is within the limits");
        assert_eq!(door::Frame::decode(&again[4..]), Ok(frame));
    }
}
