//! The program as a user runs it: arguments, lines in, lines out, exit codes.

mod common;

use common::{Running, run, text};
use serde_json::Value;

#[test]
fn tickets_are_made_and_shown() {
    let made = run(&[
        "ticket",
        "new",
        "--relay",
        "http://127.0.0.1:3340",
        "--json",
    ]);
    assert!(made.status.success());
    let line: Value = serde_json::from_slice(&made.stdout).expect("one JSON line");
    let ticket = line["ticket"].as_str().expect("a ticket");
    let shown = run(&[
        "ticket",
        "show",
        &format!("https://example.org/#room={ticket}"),
        "--json",
    ]);
    let line: Value = serde_json::from_slice(&shown.stdout).expect("one JSON line");
    assert_eq!(line["relays"][0], "http://127.0.0.1:3340/");
    assert_eq!(line["topicId"].as_str().map(str::len), Some(64));
    assert_eq!(line["bootstrap"].as_array().map(Vec::len), Some(0));
}

#[test]
fn exit_codes_tell_wrong_use_from_no_start() {
    assert_eq!(run(&["dance"]).status.code(), Some(2));
    let bad = run(&["join", "room-service"]);
    assert_eq!(bad.status.code(), Some(3));
    assert!(
        text(&bad.stderr).contains("not a room ticket"),
        "{}",
        text(&bad.stderr)
    );
    let none = run(&["join"]);
    assert_eq!(none.status.code(), Some(3));
    assert!(
        text(&none.stderr).contains("IROH_LIVE_ROOM"),
        "{}",
        text(&none.stderr)
    );
    let help = run(&["join", "--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("/quit"));
}

#[cfg(unix)]
#[test]
fn a_relay_and_two_terminals_make_a_room() {
    let relay = Running::start(&["relay", "--bind", "127.0.0.1:0"]);
    let url = relay.line("ready")["url"]
        .as_str()
        .expect("a URL")
        .to_owned();
    let made = run(&["ticket", "new", "--relay", &url]);
    let ticket = text(&made.stdout).trim().to_owned();

    let mut ada = Running::start(&["join", &ticket, "--name", "Ada", "--publish", "clock"]);
    let ready = ada.line("ready");
    let ticket = ready["ticket"].as_str().expect("a ticket");
    let mut bo = Running::start(&["join", ticket, "--name", "Bo", "--read", "Ada/clock/clock"]);
    bo.line("ready");
    assert_eq!(ada.line("peer-joined")["peer"]["displayName"], "Bo");
    assert_eq!(bo.line("peer-joined")["peer"]["id"], ready["endpointId"]);
    let frame = bo.line("frame");
    assert!(
        frame["text"]
            .as_str()
            .is_some_and(|text| text.ends_with("UTC")),
        "{frame}"
    );

    ada.say("hello");
    assert_eq!(bo.line("chat-message")["text"], "hello");
    bo.say("/dance");
    assert_eq!(bo.line("error")["code"], "INVALID_ARGUMENT");
    bo.say("/name Bob");
    assert_eq!(ada.line("peer-updated")["peer"]["displayName"], "Bob");

    ada.say("/quit");
    assert_eq!(bo.line("peer-left")["reason"], "left");
    assert_eq!(ada.child.wait().expect("it ends").code(), Some(0));
    assert_eq!(
        bo.terminate(),
        Some(0),
        "told to end, it leaves in good order"
    );
    assert_eq!(relay.terminate(), Some(0));
}

#[cfg(unix)]
#[test]
fn a_state_is_made_seen_changed_and_outlives_its_maker() {
    let relay = Running::start(&["relay", "--bind", "127.0.0.1:0"]);
    let url = relay.line("ready")["url"]
        .as_str()
        .expect("a URL")
        .to_owned();
    let start = |args: &[&str]| Running::start(&[args, &["--relay", &url]].concat());
    let ada = start(&["state", "--create", r#"{"topic": "tea"}"#, "--name", "ada"]);
    let ready = ada.line("ready");
    let id = ready["roomId"].as_str().expect("an id").to_owned();
    let mut bo = start(&["state", &id, "--watch", "--name", "bo"]);
    assert_eq!(bo.line("state")["state"]["topic"], "tea");
    assert_eq!(ada.line("peer-joined")["peer"]["participantId"], "bo");
    bo.say(r#"{"sugar": 2}"#);
    assert_eq!(ada.line("change")["change"]["sugar"], 2);
    let set = start(&["state", &id, "--set", r#"{"milk": true}"#]);
    assert_eq!(set.line("state")["state"]["milk"], true);
    assert_eq!(bo.line("change")["change"]["sugar"], 2);
    assert_eq!(bo.line("change")["change"]["milk"], true);
    bo.say(r#"[{"op": "add", "path": "/lemon", "value": 1}]"#);
    assert_eq!(ada.line("change")["kind"], "merge");
    assert_eq!(ada.line("change")["kind"], "patch");
    assert!(bo.line("made")["index"].is_u64());
    assert_eq!(
        ada.terminate(),
        Some(0),
        "told to end, it leaves in good order"
    );
    assert_eq!(bo.line("peer-left")["reason"], "left");
    while bo.line("standing")["isDoorman"] != true {}
    let late = start(&["state", &id]);
    let state = late.line("state");
    assert_eq!(
        state["state"],
        serde_json::json!({"topic": "tea", "sugar": 2, "milk": true, "lemon": 1})
    );
    assert_eq!(bo.terminate(), Some(0));
    let nobody = run(&["state", "--relay", &url]);
    assert_eq!(nobody.status.code(), Some(2), "which room?");
    assert_eq!(relay.terminate(), Some(0));
}
