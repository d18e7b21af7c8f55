//! Rooms with a doorman on a good day.

use std::time::Duration;

use iroh_rooms::{
    Error, Event, Live, StateRoom,
    doorman::{Approval, ConsensusStatus, Options, QuestionKind, Update},
    event::{ChangeKind, Ending, LeftReason},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::net::{PATIENCE, Relay, joined, left, said, soon, until};

/// A room that has been entered.
pub async fn entered(room: StateRoom) -> StateRoom {
    soon(room.ready()).await.expect("it is entered");
    room
}

pub async fn create(live: &Live, name: &str) -> StateRoom {
    entered(StateRoom::create(live, None, Options::new(name))).await
}

pub async fn join(live: &Live, room: &StateRoom, name: &str) -> StateRoom {
    let id = room.id().to_z32();
    entered(StateRoom::join(live, &id, patient(name))).await
}

/// On a loaded machine everything takes longer.
pub fn patient(name: &str) -> Options {
    Options {
        join_timeout: PATIENCE,
        ..Options::new(name)
    }
}

/// Why a room cannot be entered.
pub async fn refused(room: StateRoom) -> Error {
    soon(room.ready()).await.expect_err("it is not entered")
}

/// The state as JSON.
pub fn state(room: &StateRoom) -> Value {
    let (state, _) = room.state().expect("it has one");
    serde_json::from_str(state.get()).expect("JSON")
}

/// Waits until something holds.
pub async fn holds(what: &str, check: impl Fn() -> bool) {
    let met = timeout(2 * PATIENCE, async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(met.await.is_ok(), "{what}: not in time");
}

/// Who is a member, sorted.
pub fn names(room: &StateRoom) -> Vec<String> {
    let participants = room.participants().into_iter();
    let mut names: Vec<String> = participants.map(|it| it.participant_id).collect();
    names.sort();
    names
}

/// Both make a change and see the other's.
pub async fn they_agree(rooms: &[&StateRoom], what: &str) {
    for (at, room) in rooms.iter().enumerate() {
        let change = json!({ what: { at.to_string(): true } }).to_string();
        soon(room.merge(&change)).await.expect("it is made");
    }
    let made: Value = (0..rooms.len()).map(|at| (at.to_string(), true)).collect();
    holds(what, || rooms.iter().all(|room| state(room)[what] == made)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_meet_by_an_id_alone_and_agree() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let options = Options {
        initial_state: Some(r#"{"topic":"tea"}"#.into()),
        ..Options::new("ada")
    };
    let ada = entered(StateRoom::create(&a, None, options)).await;
    let bo = join(&b, &ada, "bo").await;
    assert_eq!(state(&bo), json!({"topic": "tea"}));
    let mut changes = bo.changes();
    assert!(matches!(changes.recv().await, Some(Update::State { .. })));
    soon(ada.merge(r#"{"sugar": 2}"#)).await.expect("made");
    let Some(Update::Change { author, change, .. }) = soon(changes.recv()).await else {
        panic!("not a change")
    };
    assert_eq!((author, change.get()), (a.endpoint_id(), r#"{"sugar": 2}"#));
    let patch = r#"[{"op": "add", "path": "/milk", "value": true}]"#;
    let index = soon(bo.patch(patch)).await.expect("made");
    holds("both have it", || {
        let all = json!({"topic": "tea", "sugar": 2, "milk": true});
        state(&ada) == all && state(&bo) == all
    })
    .await;
    assert!(ada.consensus().index >= index);
    assert_eq!(ada.consensus().status, ConsensusStatus::Active);
    assert!(ada.consensus().is_doorman && !bo.consensus().is_doorman);
    assert_eq!(names(&bo), ["ada", "bo"]);
    // And they are in a room as any other.
    let (room_a, room_b) = (ada.room().unwrap(), bo.room().unwrap());
    let peer = until(&mut room_a.events(), joined).await;
    assert_eq!(
        (peer.id, peer.participant_id.as_deref()),
        (b.endpoint_id(), Some("bo"))
    );
    room_a.send_chat("hello").await.expect("open");
    until(&mut room_b.events(), |event| {
        said(event).filter(|(_, text)| text == "hello")
    })
    .await;
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_leads_in_and_is_there_once() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let ada = StateRoom::create(&a, Some("caf\u{e9}"), Options::new("ada"));
    let ada = entered(ada).await;
    let again = StateRoom::create(&b, Some("caf\u{e9}"), Options::new("bo"));
    assert_eq!(refused(again).await.code(), "ROOM_EXISTS");
    let bo = StateRoom::join(&b, "cafe\u{301}", Options::new("bo"));
    let bo = entered(bo).await;
    assert_eq!(bo.id(), ada.id());
    they_agree(&[&ada, &bo], "by name").await;
    // The ticket of such a room leads in by the id, and does not tell the topic.
    let ticket = ada.room().unwrap().ticket().await.expect("open");
    assert_eq!(ticket.room_id.as_ref(), Some(ada.id().as_bytes()));
    assert_ne!(ticket.topic_id, ada.room().unwrap().id());
    let c = relay.live().await;
    let link = format!("https://example.org/#room={ticket}");
    let cy = entered(StateRoom::join(&c, &link, Options::new("cy"))).await;
    they_agree(&[&ada, &bo, &cy], "by ticket").await;
    for live in [a, b, c] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found_and_what_is_wrong_is_said() {
    let relay = Relay::on_free_port().await;
    let live = relay.live().await;
    let impatient = || Options {
        join_timeout: Duration::from_secs(2),
        ..Options::new("ada")
    };
    let nowhere = iroh::SecretKey::from_bytes(&[9; 32]).public().to_z32();
    let room = StateRoom::join(&live, &nowhere, impatient());
    assert_eq!(refused(room).await.code(), "ROOM_NOT_FOUND");
    let room = StateRoom::join(&live, "nobody is here", impatient());
    assert_eq!(refused(room).await.code(), "ROOM_NOT_FOUND");
    let wrong = |change: fn(&mut Options)| {
        let mut options = impatient();
        change(&mut options);
        StateRoom::create(&live, None, options)
    };
    for (room, code) in [
        (wrong(|it| it.participant_id.clear()), "INVALID_ARGUMENT"),
        (wrong(|it| it.participant_id = "x".repeat(65)), "TOO_LARGE"),
        (wrong(|it| it.voters = 4), "INVALID_ARGUMENT"),
        (
            wrong(|it| it.initial_state = Some("{".into())),
            "INVALID_ARGUMENT",
        ),
        (
            wrong(|it| it.restore = Some(vec![0; 99])),
            "INVALID_ARGUMENT",
        ),
        (
            StateRoom::create(&live, Some(&nowhere), impatient()),
            "INVALID_ARGUMENT",
        ),
        (
            StateRoom::join(&live, &("y".repeat(51) + "9"), impatient()),
            "INVALID_ARGUMENT",
        ),
        (
            StateRoom::join(&live, &format!("room{}", "a".repeat(60)), impatient()),
            "INVALID_TICKET",
        ),
    ] {
        let error = refused(room).await;
        assert_eq!(error.code(), code, "{error}");
    }
    // The same room twice is one too often, and nothing stays behind of those that failed.
    let first = create(&live, "ada").await;
    let second = StateRoom::join(&live, &first.id().to_z32(), Options::new("bo"));
    assert_eq!(refused(second).await.code(), "INVALID_ARGUMENT");
    let large = format!("{{\"x\": \"{}\"}}", "x".repeat(64 * 1024));
    assert_eq!(first.merge(&large).await.unwrap_err().code(), "TOO_LARGE");
    assert_eq!(
        first.merge("{").await.unwrap_err().code(),
        "UPDATE_REJECTED"
    );
    let stale = first.propose(ChangeKind::Merge, "{}", Some(0)).await;
    assert!(stale.is_ok(), "nothing was changed yet");
    let stale = first.propose(ChangeKind::Merge, "{}", Some(1)).await;
    assert_eq!(stale.unwrap_err().code(), "UPDATE_REJECTED");
    first.leave().await;
    assert_eq!(first.merge("{}").await.unwrap_err().code(), "CLOSED");
    live.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_come_at_once_end_in_one_room() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let ada = StateRoom::join_or_create(&a, "the corner", Options::new("ada"));
    let bo = StateRoom::join_or_create(&b, "the corner", Options::new("bo"));
    let (ada, bo) = tokio::join!(entered(ada), entered(bo));
    holds("one room", || {
        names(&ada) == ["ada", "bo"]
            && names(&bo) == ["ada", "bo"]
            && ada.consensus().epoch == bo.consensus().epoch
    })
    .await;
    they_agree(&[&ada, &bo], "together").await;
    let (room_a, room_b) = (ada.room().unwrap(), bo.room().unwrap());
    until(&mut room_a.events(), joined).await;
    room_b.send_chat("here we are").await.expect("open");
    until(&mut room_a.events(), |event| said(event).map(drop)).await;
    for live in [a, b] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_enter_is_decided_at_the_door() {
    let relay = Relay::on_free_port().await;
    let (a, b, c) = (relay.live().await, relay.live().await, relay.live().await);
    let options = Options {
        admit: true,
        app: Some([1; 32]),
        ..Options::new("ada")
    };
    let ada = entered(StateRoom::create(&a, None, options)).await;
    let id = ada.id().to_z32();
    let asks = |name: &str, proof: &[u8]| Options {
        proof: Some(proof.to_vec()),
        app: Some([1; 32]),
        ..Options::new(name)
    };
    let (asked, answering) = (ada.questions(), ada.clone());
    let doorman = tokio::spawn(async move {
        while let Some(question) = asked.recv().await {
            let QuestionKind::Admit {
                participant_id,
                proof,
                ..
            } = question.kind
            else {
                panic!("not about a newcomer")
            };
            let answer = match proof.as_deref() {
                Some(b"friend") => json!(true),
                Some(b"nobody") => json!(false),
                _ => json!(format!("who is {participant_id}?")),
            };
            answering.answer(question.id, answer);
        }
    });
    let reason = async |room| match refused(room).await {
        Error::Refused(reason) => reason,
        error => panic!("{error}"),
    };
    let stranger = StateRoom::join(&b, &id, asks("bo", b"?"));
    assert_eq!(reason(stranger).await, "who is bo?");
    let nobody = StateRoom::join(&b, &id, asks("bo", b"nobody"));
    assert_eq!(reason(nobody).await, "denied");
    let other_app = StateRoom::join(&b, &id, Options::new("bo"));
    assert!(
        reason(other_app)
            .await
            .contains("another version of this application")
    );
    let taken = StateRoom::join(&b, &id, asks("ada", b"friend"));
    assert_eq!(refused(taken).await.code(), "PARTICIPANT_ID_TAKEN");
    let bo = entered(StateRoom::join(&b, &id, asks("bo", b"friend"))).await;
    they_agree(&[&ada, &bo], "friends").await;
    let not_his = bo.lock(true).await.unwrap_err();
    assert_eq!(not_his.code(), "UPDATE_REJECTED");
    soon(ada.lock(true)).await.expect("a moderator may");
    let late = StateRoom::join(&c, &id, asks("cy", b"friend"));
    assert_eq!(reason(late).await, "the room is locked");
    // Moderation can be handed on.
    let both = [a.endpoint_id(), b.endpoint_id()];
    soon(ada.set_moderators(&both))
        .await
        .expect("a moderator may");
    soon(bo.lock(false)).await.expect("he may, now");
    let cy = entered(StateRoom::join(&c, &id, asks("cy", b"friend"))).await;
    they_agree(&[&ada, &bo, &cy], "all").await;
    for live in [a, b, c] {
        live.close().await;
    }
    soon(doorman).await.expect("the questions end");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_kicked_is_gone_at_once_and_stays_out() {
    let relay = Relay::on_free_port().await;
    let (a, b, c) = (relay.live().await, relay.live().await, relay.live().await);
    let ada = create(&a, "ada").await;
    let bo = join(&b, &ada, "bo").await;
    let eve = join(&c, &ada, "eve").await;
    they_agree(&[&ada, &bo, &eve], "before").await;
    let rooms = [&ada, &bo, &eve].map(|it| it.room().unwrap());
    for room in &rooms {
        holds("they see each other", || room.peers().len() == 2).await;
    }
    let [room_a, room_b, room_e] = &rooms;
    let (mut seen_by_b, mut seen_by_eve) = (room_b.events(), room_e.events());
    room_e.send_chat("boo").await.expect("open");
    until(&mut seen_by_b, said).await;
    soon(ada.kick("eve")).await.expect("a moderator may");
    let (gone, reason) = until(&mut seen_by_b, left).await;
    assert_eq!((gone, reason), (c.endpoint_id(), LeftReason::Kicked));
    let ending = until(&mut seen_by_eve, |event| match event {
        Event::Ended { reason } => Some(*reason),
        _ => None,
    });
    assert_eq!(ending.await, Ending::Kicked);
    assert_eq!(soon(eve.merge("{}")).await.unwrap_err().code(), "CLOSED");
    holds("she is no member", || names(&bo) == ["ada", "bo"]).await;
    // She knows the topic, and comes as anyone who has it.
    let ticket = iroh_rooms::RoomTicket::new(room_a.id(), [a.endpoint_id(), b.endpoint_id()]);
    let spy = soon(iroh_rooms::Room::new(&c, ticket))
        .await
        .expect("opens");
    spy.send_chat("boo again").await.expect("open");
    they_agree(&[&ada, &bo], "after").await;
    room_a.send_chat("is she gone?").await.expect("open");
    until(&mut seen_by_b, |event| {
        said(event).filter(|(_, text)| text != "boo")
    })
    .await;
    for room in [room_a, room_b] {
        assert!(room.peers().iter().all(|peer| peer.id != c.endpoint_id()));
        let texts: Vec<_> = room.chat_history().into_iter().map(|it| it.text).collect();
        assert_eq!(texts, ["boo", "is she gone?"]);
    }
    assert!(
        spy.handle()
            .chat_history()
            .iter()
            .all(|it| it.text == "boo again")
    );
    let back = StateRoom::join(&c, &ada.id().to_z32(), Options::new("eve"));
    assert_eq!(refused(back).await.code(), "REFUSED");
    for live in [a, b, c] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doorman_who_leaves_hands_over() {
    let relay = Relay::on_free_port().await;
    let (a, b, c) = (relay.live().await, relay.live().await, relay.live().await);
    let ada = create(&a, "ada").await;
    let id = ada.id().to_z32();
    let bo = join(&b, &ada, "bo").await;
    they_agree(&[&ada, &bo], "before").await;
    let mut seen = bo.room().unwrap().events();
    // He votes, and so has the key.
    holds("bo votes", || bo.consensus().voters.len() == 2).await;
    ada.leave().await;
    until(&mut seen, |event| match event {
        Event::DoormanChanged { is_self: true, .. } => Some(()),
        _ => None,
    })
    .await;
    holds("ada is no member", || names(&bo) == ["bo"]).await;
    assert_eq!(bo.consensus().epoch_number, 0, "without a new epoch");
    let cy = entered(StateRoom::join(&c, &id, Options::new("cy"))).await;
    they_agree(&[&bo, &cy], "after").await;
    // And once more, by hand.
    holds("cy votes", || cy.consensus().voters.len() == 2).await;
    bo.hand_over();
    holds("cy leads", || {
        cy.consensus().is_doorman && !bo.consensus().is_doorman
    })
    .await;
    let ada = entered(StateRoom::join(&a, &id, Options::new("ada"))).await;
    they_agree(&[&ada, &bo, &cy], "in the end").await;
    for live in [a, b, c] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_moves_to_a_new_id() {
    let relay = Relay::on_free_port().await;
    let (a, b, c) = (relay.live().await, relay.live().await, relay.live().await);
    let ada = create(&a, "ada").await;
    let old = ada.id();
    let bo = join(&b, &ada, "bo").await;
    holds("bo votes", || bo.consensus().voters.len() == 2).await;
    let mut seen = bo.room().unwrap().events();
    assert_eq!(bo.rotate().await.unwrap_err().code(), "UPDATE_REJECTED");
    let new = soon(ada.rotate()).await.expect("a moderator may");
    let told = until(&mut seen, |event| match event {
        Event::Rotated { id } => Some(id.clone()),
        _ => None,
    });
    assert_eq!(told.await, new.to_z32());
    assert_eq!((ada.id(), bo.id()), (new, new));
    assert_ne!(old, new);
    let cy = entered(StateRoom::join(&c, &new.to_z32(), Options::new("cy"))).await;
    they_agree(&[&ada, &bo, &cy], "moved").await;
    let d = relay.live().await;
    let late = Options {
        join_timeout: Duration::from_secs(2),
        ..Options::new("di")
    };
    let late = StateRoom::join(&d, &old.to_z32(), late);
    assert_eq!(refused(late).await.code(), "ROOM_NOT_FOUND");
    // Whoever stands there next has the new key.
    holds("three vote", || bo.consensus().voters.len() == 3).await;
    ada.leave().await;
    let di = entered(StateRoom::join(&d, &new.to_z32(), Options::new("di"))).await;
    they_agree(&[&bo, &cy, &di], "after").await;
    for live in [a, b, c, d] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_begins_a_new_room() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let first = StateRoom::create(&a, Some("kept"), Options::new("ada"));
    let first = entered(first).await;
    soon(first.merge(r#"{"kept": [1, 2.5]}"#))
        .await
        .expect("made");
    let saved = first.saved();
    soon(first.merge(r#"{"lost": true}"#)).await.expect("made");
    first.leave().await;
    let restored = || Options {
        restore: Some(saved.clone()),
        ..Options::new("ada")
    };
    let again = entered(StateRoom::create(&b, Some("kept"), restored())).await;
    assert_eq!(state(&again), json!({"kept": [1, 2.5]}));
    assert_eq!(
        again.consensus().epoch_number,
        1,
        "it goes on from what was"
    );
    let elsewhere = entered(StateRoom::create(&a, None, restored())).await;
    assert_eq!(state(&elsewhere), json!({"kept": [1, 2.5]}));
    let bo = join(&b, &elsewhere, "bo").await;
    they_agree(&[&elsewhere, &bo], "new").await;
    for live in [a, b] {
        live.close().await;
    }
}

/// Answers what an application is asked: it adds up numbers, and wants none below zero.
fn adds_up(room: &StateRoom) -> tokio::task::JoinHandle<()> {
    let (asked, room) = (room.questions(), room.clone());
    tokio::spawn(async move {
        while let Some(question) = asked.recv().await {
            let number = |text: &str| serde_json::from_str::<i64>(text);
            let answer = match &question.kind {
                QuestionKind::Decide { change, state, .. } => match number(change.get()) {
                    Ok(add) if add >= 0 => {
                        let sum = number(state.get()).expect("a number") + add;
                        json!({"accept": true, "state": sum})
                    }
                    _ => json!({"refuse": "not a number to add"}),
                },
                QuestionKind::Consider { change, .. } => {
                    json!(number(change.get()).is_ok_and(|it| it < 100))
                }
                QuestionKind::Admit { .. } => json!(true),
            };
            room.answer(question.id, answer);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_reduces_refuses_and_agrees() {
    let relay = Relay::on_free_port().await;
    let (a, b, c) = (relay.live().await, relay.live().await, relay.live().await);
    let options = |name: &str| Options {
        initial_state: Some("0".into()),
        reducer: true,
        validate: true,
        approval: Approval::Majority,
        ..Options::new(name)
    };
    let ada = StateRoom::create(&a, None, options("ada"));
    let mut answering = vec![adds_up(&ada)];
    let ada = entered(ada).await;
    let id = ada.id().to_z32();
    let bo = StateRoom::join(&b, &id, options("bo"));
    answering.push(adds_up(&bo));
    let bo = entered(bo).await;
    let mut changes = bo.changes();
    let add = async |room: &StateRoom, what: &str| {
        soon(room.propose(ChangeKind::Opaque, what, None)).await
    };
    add(&ada, "2").await.expect("made");
    add(&bo, "40").await.expect("made");
    holds("the sum", || {
        state(&ada) == json!(42) && state(&bo) == json!(42)
    })
    .await;
    let error = add(&ada, "-1").await.unwrap_err();
    assert!(error.to_string().contains("not a number to add"), "{error}");
    let error = add(&ada, "1000").await.unwrap_err();
    assert!(error.to_string().contains("not agreed to"), "{error}");
    assert_eq!((state(&ada), state(&bo)), (json!(42), json!(42)));
    // A reader sees each with the state that it made, and why what was refused.
    let mut seen = Vec::new();
    while seen.len() < 4 {
        match soon(changes.recv()).await.expect("open") {
            Update::State { .. } => {}
            Update::Change { state, refused, .. } => {
                let state = state.map(|it| it.get().to_owned());
                seen.push((state, refused.is_some()));
            }
        }
    }
    let made = |sum: &str| (Some(sum.to_owned()), false);
    assert_eq!(seen, [made("2"), made("42"), (None, true), (None, true)]);
    // Without the reducer nobody can be in here.
    let error = refused(StateRoom::join(&c, &id, Options::new("cy"))).await;
    assert_eq!(error.code(), "INVALID_ARGUMENT");
    // Whose application hangs does not guess.
    let cy = entered(StateRoom::join(&c, &id, options("cy"))).await;
    add(&ada, "1").await.expect("made");
    holds("cy is degraded", || {
        cy.consensus().status == ConsensusStatus::Degraded
    })
    .await;
    assert_eq!(state(&cy), json!(42));
    add(&bo, "1").await.expect("made without her");
    for live in [a, b, c] {
        live.close().await;
    }
    for answering in answering {
        soon(answering).await.expect("the questions end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_the_whole_and_holds_up_nobody() {
    let relay = Relay::on_free_port().await;
    let live = relay.live().await;
    let room = create(&live, "ada").await;
    let mut slow = room.changes();
    for n in 0..300 {
        soon(room.merge(&format!("{{\"n\": {n}}}")))
            .await
            .expect("made");
    }
    assert!(matches!(
        slow.recv().await,
        Some(Update::State { skipped: false, .. })
    ));
    let Some(Update::State {
        state,
        skipped: true,
        ..
    }) = slow.recv().await
    else {
        panic!("it is behind by more than can wait")
    };
    assert_eq!(state.get(), r#"{"n":299}"#);
    soon(room.merge("{\"n\": 300}")).await.expect("made");
    assert!(matches!(slow.recv().await, Some(Update::Change { .. })));
    room.leave().await;
    assert!(slow.recv().await.is_none(), "it ends with the room");
    live.close().await;
}
