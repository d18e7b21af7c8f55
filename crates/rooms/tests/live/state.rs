//! Rooms with a doorman on a good day.

use std::time::Duration;

use iroh_rooms::{
    Live, StateRoom,
    doorman::{ConsensusStatus, Options, Update},
};
use serde_json::{Value, json};

use crate::net::{PATIENCE, Relay, joined, said, soon, until};

/// A room that has been entered.
pub async fn entered(room: StateRoom) -> StateRoom {
    soon(room.ready()).await.expect("it is entered");
    room
}

pub async fn join(live: &Live, room: &StateRoom, name: &str) -> StateRoom {
    entered(StateRoom::join(
        live,
        &room.id().to_z32(),
        Options::new(name),
    ))
    .await
}

/// The state as JSON.
pub fn state(room: &StateRoom) -> Value {
    let (state, _) = room.state().expect("it has one");
    serde_json::from_str(state.get()).expect("JSON")
}

/// Waits until something holds.
pub async fn holds(what: &str, check: impl Fn() -> bool) {
    let met = tokio::time::timeout(2 * PATIENCE, async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(met.await.is_ok(), "{what}: not in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_meet_by_an_id_alone_and_agree() {
    let relay = Relay::on_free_port().await;
    let (a, b) = (relay.live().await, relay.live().await);
    let started = std::time::Instant::now();
    let options = Options {
        initial_state: Some(r#"{"topic":"tea"}"#.into()),
        ..Options::new("ada")
    };
    let ada = entered(StateRoom::create(&a, None, options)).await;
    println!("created after {:?}", started.elapsed());
    let bo = join(&b, &ada, "bo").await;
    println!("joined after {:?}", started.elapsed());
    assert_eq!(state(&bo), json!({"topic": "tea"}));
    let mut changes = bo.changes();
    assert!(matches!(changes.recv().await, Some(Update::State { .. })));
    soon(ada.merge(r#"{"sugar": 2}"#)).await.expect("made");
    println!("updated after {:?}", started.elapsed());
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
    let names: Vec<_> = bo
        .participants()
        .into_iter()
        .map(|it| it.participant_id)
        .collect();
    assert_eq!(names, ["ada", "bo"]);
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
    println!("chatted after {:?}", started.elapsed());
    for live in [a, b] {
        live.close().await;
    }
    println!("closed after {:?}", started.elapsed());
}
