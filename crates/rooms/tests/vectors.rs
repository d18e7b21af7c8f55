//! The conformance vectors that this crate makes: `UPDATE_VECTORS=1` writes them anew, otherwise
//! the files must be what is made. TypeScript reads the same files.

use std::{fs, path::PathBuf};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use iroh::{EndpointId, SecretKey};
use iroh_gossip::TopicId;
use iroh_rooms::{
    RoomTicket,
    chat::{self, MAX_MESSAGE},
    doorman,
    moq::scope_path,
    presence::{RoomKey, RoomState},
};
use iroh_tickets::Ticket;
use serde_json::{Value, json};

fn check(name: &str, made: &Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../vectors")
        .join(name);
    let made = format!("{:#}\n", made);
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        fs::write(&path, made).expect("vectors can be written");
        return;
    }
    let kept = fs::read_to_string(&path).expect("vectors are in the repository");
    assert!(
        kept == made,
        "{name} differs: a change of a format needs a new version of it"
    );
}

fn peer(seed: u8) -> EndpointId {
    SecretKey::from_bytes(&[seed; 32]).public()
}

fn ticket(peers: &[(u8, Option<&str>)], relays: &[&str], room_id: Option<[u8; 32]>) -> RoomTicket {
    let mut ticket = RoomTicket::new(TopicId::from_bytes([7; 32]), []);
    for (seed, relay) in peers {
        let relay = relay.map(|url| url.parse().expect("a URL"));
        ticket.add_peer(peer(*seed), relay.as_ref());
    }
    for relay in relays {
        ticket.add_relay(&relay.parse().expect("a URL"));
    }
    ticket.room_id = room_id;
    ticket
}

fn text(bytes: &[u8]) -> String {
    format!("room{}", BASE32_NOPAD.encode(bytes).to_lowercase())
}

#[test]
fn tickets() {
    let local = "http://127.0.0.1:3340/";
    let valid = [
        ticket(&[], &[], None),
        ticket(&[(1, None), (2, None)], &[], None),
        ticket(
            &[
                (1, Some(local)),
                (2, Some("https://relay.example/")),
                (3, Some(local)),
                (4, None),
            ],
            &[],
            None,
        ),
        ticket(&[], &[local], None),
        ticket(&[(1, Some(local))], &[], Some([9; 32])),
        ticket(
            &(1..=8).map(|n| (n, Some(local))).collect::<Vec<_>>(),
            &[],
            None,
        ),
    ];
    let valid: Vec<Value> = valid
        .iter()
        .map(|ticket| {
            let read: RoomTicket = ticket.to_string().parse().expect("own tickets are read");
            assert_eq!(&read, ticket);
            json!({
                "ticket": ticket.to_string(),
                "topicId": ticket.topic_id.to_string(),
                "bootstrap": ticket.bootstrap,
                "relays": ticket.relays,
                "addrs": ticket.addrs,
                "roomId": ticket.room_id.map(iroh_rooms::hex),
            })
        })
        .collect();
    let plain = ticket(&[(1, None)], &[], None).encode_bytes();
    let full = ticket(&[(1, Some(local))], &[], None).encode_bytes();
    let nine = [
        vec![9],
        (1..=9).flat_map(|n| *peer(n).as_bytes()).collect(),
        vec![7; 32],
    ]
    .concat();
    let mut newer = plain.clone();
    newer.push(2);
    let invalid = [
        ("", "no prefix"),
        ("ticket", "another prefix"),
        ("room", "nothing in it"),
        ("room0189", "not base32"),
        (&text(&plain[..plain.len() - 1]), "cut short"),
        (&text(&full[..full.len() - 1]), "extension cut short"),
        (&text(&[&full[..], &[0]].concat()), "a byte too many"),
        (&text(&nine), "nine bootstrap peers"),
        (&text(&newer), "an extension of a newer version"),
        (
            &text(&[&plain[..], &[1, 0, 1, 0, 0, 0]].concat()),
            "an address beyond its lists",
        ),
        (
            &text(&[&plain[..], &[1, 1, 1, b'x', 0, 0]].concat()),
            "a relay that is no URL",
        ),
        (&text(&vec![0; 1025]), "longer than 1 KiB"),
    ];
    let invalid: Vec<Value> = invalid
        .iter()
        .map(|(ticket, why)| {
            assert!(ticket.parse::<RoomTicket>().is_err(), "{why}");
            json!({ "ticket": ticket, "why": why })
        })
        .collect();
    check(
        "tickets.json",
        &json!({ "valid": valid, "invalid": invalid }),
    );
}

#[test]
fn room_states() {
    let topic = TopicId::from_bytes([7; 32]);
    let key = RoomKey::new(&topic);
    let mut full = RoomState::new(&key, &peer(2));
    full.display_name = Some("Ada 🦀".into());
    full.broadcasts = vec!["camera".into(), "screen".into()];
    full.relay_url = Some("http://127.0.0.1:3340/".into());
    full.set_presence(Some(&json!({ "typing": true })))
        .expect("small");
    let mut leaving = RoomState::new(&key, &peer(3));
    leaving.set_leaving(true);
    let states = [(1, RoomState::new(&key, &peer(1))), (2, full), (3, leaving)];
    let states: Vec<Value> = states
        .iter()
        .map(|(seed, state)| {
            let bytes = state.encode().expect("small");
            let read = RoomState::decode(&bytes, &key, &peer(*seed)).expect("own values are read");
            assert_eq!(&read, state);
            json!({
                "peer": peer(*seed),
                "displayName": state.display_name,
                "broadcasts": state.broadcasts,
                "relayUrl": state.relay_url,
                "presence": state.presence(),
                "leaving": state.is_leaving(),
                "bytes": HEXLOWER.encode(&bytes),
                "peerState": HEXLOWER.encode(&postcard::to_stdvec(&state.peer_state()).expect("plain")),
            })
        })
        .collect();
    check(
        "room-states.json",
        &json!({
            "topicId": topic.to_string(),
            "key": HEXLOWER.encode(&key.to_bytes()),
            "states": states,
        }),
    );
}

#[test]
fn room_ids() {
    let key = peer(3);
    let ticket = ticket(&[(1, None)], &[], Some(*key.as_bytes()));
    let texts = [
        key.to_z32(),
        key.to_string(),
        key.to_string().to_uppercase(),
        ticket.to_string(),
        format!("https://app.example/play#room={ticket}"),
        "kitchen".into(),
        " kitchen ".into(),
        "Kitchen".into(),
        "caf\u{e9}".into(),
        "cafe\u{301}".into(),
        "room".into(),
        "\u{1f980}".repeat(128),
        String::new(),
        "\u{1f980}".repeat(129),
        "y".repeat(51) + "9",
        "0".repeat(63) + "o",
        "02".to_owned() + &"0".repeat(62),
        format!("room{}", "a".repeat(60)),
        RoomTicket::new(TopicId::from_bytes([7; 32]), []).to_string(),
        "https://app.example/play#room=kitchen".into(),
    ];
    let rooms: Vec<Value> = texts
        .iter()
        .map(|text| match doorman::resolve(text) {
            Ok((id, topic)) => json!({
                "text": text,
                "roomId": id.to_z32(),
                "topicId": topic.map(|it| it.to_string()),
            }),
            Err(error) => json!({ "text": text, "refused": error.code() }),
        })
        .collect();
    check("room-ids.json", &json!(rooms));
}

#[test]
fn scopes() {
    let scopes: Vec<Value> = [(7, 1, 2), (7, 2, 1), (8, 1, 2)]
        .iter()
        .map(|(topic, dialler, listener)| {
            let topic = TopicId::from_bytes([*topic; 32]);
            let (dialler, listener) = (peer(*dialler), peer(*listener));
            let key = RoomKey::new(&topic).to_bytes();
            json!({
                "topicId": topic.to_string(),
                "dialler": dialler,
                "listener": listener,
                "path": scope_path(&key, dialler, listener),
            })
        })
        .collect();
    check("scopes.json", &json!(scopes));
}

#[test]
fn chat_frames() {
    let longest = "\u{e9}".repeat(MAX_MESSAGE / 2);
    let frames: [&[u8]; 9] = [
        b"hello",
        "\u{1f980}\u{200d}\u{1f980}".as_bytes(),
        b" \n",
        b"\0",
        longest.as_bytes(),
        b"",
        &[longest.as_bytes(), b"x"].concat(),
        b"cut \xf0\x9f\xa6",
        b"surrogate \xed\xa0\x80",
    ];
    let frames: Vec<Value> = frames
        .iter()
        .map(|frame| json!({ "frame": HEXLOWER.encode(frame), "text": chat::read(frame) }))
        .collect();
    check("chat.json", &json!(frames));
}
