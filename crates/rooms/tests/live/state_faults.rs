//! Rooms with a doorman on a bad day: participants vanish without a word, come back, come and go.

use std::time::Duration;

use iroh::SecretKey;
use iroh_rooms::{
    Event, Live, Relays, StateRoom,
    doorman::{ConsensusStatus, How, Options, Recovery},
};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, time::sleep};

use crate::{
    net::{Relay, soon, until},
    state::{create, entered, holds, join, names, patient, state, they_agree},
};

/// A participant that can be killed: everything it does runs on threads of its own.
struct Host {
    runtime: Option<Runtime>,
    live: Live,
}

impl Host {
    async fn at(relay: &Relay) -> Self {
        Self::with(relay, SecretKey::from_bytes(&rand::random())).await
    }

    async fn with(relay: &Relay, key: SecretKey) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("it runs");
        let relays = Relays::Custom(vec![relay.url()]);
        let live = runtime.spawn(Live::builder().relays(relays).secret_key(key).spawn());
        let live = soon(live).await.expect("alive").expect("the relay answers");
        Self {
            runtime: Some(runtime),
            live,
        }
    }

    async fn open(&self, how: How, room: Option<String>, options: Options) -> StateRoom {
        let live = self.live.clone();
        let runtime = self.runtime.as_ref().expect("alive");
        let room = runtime.spawn(async move {
            let room = StateRoom::open(&live, how, room.as_deref(), options);
            room.ready().await.expect("it is entered");
            room
        });
        soon(room).await.expect("alive")
    }

    async fn create(&self, name: &str) -> StateRoom {
        self.open(How::Create, None, Options::new(name)).await
    }

    async fn join(&self, room: &StateRoom, name: &str) -> StateRoom {
        let id = room.id().to_z32();
        self.open(How::Join, Some(id), patient(name)).await
    }

    /// Ends it between two packets, as a power cut does.
    fn kill(mut self) {
        let runtime = self.runtime.take().expect("alive");
        runtime.shutdown_background();
    }

    async fn close(mut self) {
        let runtime = self.runtime.take().expect("alive");
        let live = self.live.clone();
        soon(runtime.spawn(async move { live.close().await }))
            .await
            .expect("alive");
        runtime.shutdown_background();
    }
}

async fn vote(room: &StateRoom, count: usize) {
    let what = format!("{count} vote");
    holds(&what, || room.consensus().voters.len() == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doorman_is_killed_and_another_opens() {
    let relay = Relay::on_free_port().await;
    let ada_host = Host::at(&relay).await;
    let ada = ada_host.create("ada").await;
    let (b, c, d) = (relay.live().await, relay.live().await, relay.live().await);
    let bo = join(&b, &ada, "bo").await;
    let cy = join(&c, &ada, "cy").await;
    vote(&bo, 3).await;
    they_agree(&[&ada, &bo, &cy], "before").await;
    ada_host.kill();
    let di = join(&d, &bo, "di").await;
    they_agree(&[&bo, &cy, &di], "after").await;
    holds("ada is given up", || names(&di) == ["bo", "cy", "di"]).await;
    assert_eq!(
        bo.consensus().epoch_number,
        0,
        "nobody had to go on without a quorum"
    );
    for live in [b, c, d] {
        live.close().await;
    }
}

/// A pair loses one, and the other goes on with all that was acknowledged.
async fn a_pair_loses(the_doorman: bool) {
    let relay = Relay::on_free_port().await;
    let (a, b) = (Host::at(&relay).await, Host::at(&relay).await);
    let ada = a.create("ada").await;
    let bo = b.join(&ada, "bo").await;
    vote(&bo, 2).await;
    they_agree(&[&ada, &bo], "before").await;
    let before = state(&ada);
    let (dead, left, room) = match the_doorman {
        true => (a, b, bo),
        false => (b, a, ada),
    };
    let mut seen = room.room().unwrap().events();
    dead.kill();
    let missing = until(&mut seen, |event| match event {
        Event::QuorumLost { missing, eligible } => Some((missing.len(), *eligible)),
        _ => None,
    });
    assert_eq!(missing.await, (1, true));
    assert_eq!(room.consensus().status, ConsensusStatus::ReadOnly);
    let error = soon(room.merge("{}")).await.unwrap_err();
    assert_eq!(error.code(), "NO_QUORUM");
    let lossless = until(&mut seen, |event| match event {
        Event::Recovered {
            lossless, dropped, ..
        } => Some((*lossless, *dropped)),
        _ => None,
    });
    assert_eq!(lossless.await, (true, 1));
    assert_eq!(state(&room), before);
    they_agree(&[&room], "alone").await;
    let cy_host = Host::at(&relay).await;
    let cy = cy_host.join(&room, "cy").await;
    they_agree(&[&room, &cy], "in company").await;
    left.close().await;
    cy_host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_loses_its_doorman() {
    a_pair_loses(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_loses_the_other() {
    a_pair_loses(false).await;
}

/// A program that is started anew under its old key does not wait to be given up.
async fn one_is_started_anew(the_doorman: bool) {
    let relay = Relay::on_free_port().await;
    let key = SecretKey::from_bytes(&rand::random());
    let again = Host::with(&relay, key.clone()).await;
    let other = Host::at(&relay).await;
    let (one, two) = match the_doorman {
        true => {
            let one = again.create("again").await;
            let two = other.join(&one, "other").await;
            (one, two)
        }
        false => {
            let two = other.create("other").await;
            let one = again.join(&two, "again").await;
            (one, two)
        }
    };
    vote(&two, 2).await;
    they_agree(&[&one, &two], "before").await;
    let before = state(&two);
    again.kill();
    let again = Host::with(&relay, key).await;
    let one = again.join(&two, "again").await;
    assert_eq!(state(&one), before);
    they_agree(&[&one, &two], "after").await;
    assert_eq!(names(&two), ["again", "other"]);
    again.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_of_a_pair_is_started_anew() {
    one_is_started_anew(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doorman_of_a_pair_is_started_anew() {
    one_is_started_anew(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_may_accept_the_loss() {
    let relay = Relay::on_free_port().await;
    let (a, b, c) = (
        Host::at(&relay).await,
        Host::at(&relay).await,
        Host::at(&relay).await,
    );
    let options = |name: &str| Options {
        recovery: Recovery::Manual,
        ..patient(name)
    };
    let ada = a.open(How::Create, None, options("ada")).await;
    let id = ada.id().to_z32();
    let bo = b.open(How::Join, Some(id.clone()), options("bo")).await;
    let cy = c.open(How::Join, Some(id), options("cy")).await;
    vote(&cy, 3).await;
    they_agree(&[&ada, &bo, &cy], "before").await;
    let nothing = soon(cy.recover()).await.unwrap_err();
    assert_eq!(nothing.code(), "INVALID_ARGUMENT");
    let mut seen = cy.room().unwrap().events();
    a.kill();
    b.kill();
    until(&mut seen, |event| match event {
        Event::QuorumLost { eligible, .. } => (!eligible).then_some(()),
        _ => None,
    })
    .await;
    soon(cy.recover()).await.expect("it may");
    let lossless = until(&mut seen, |event| match event {
        Event::Recovered { lossless, .. } => Some(*lossless),
        _ => None,
    });
    assert!(!lossless.await, "it says so");
    they_agree(&[&cy], "alone").await;
    c.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_made_once_while_others_come_and_go() {
    const WRITES: usize = 200;
    let relay = Relay::on_free_port().await;
    let (a, b, c) = (relay.live().await, relay.live().await, relay.live().await);
    let options = Options {
        initial_state: Some(r#"{"log": []}"#.into()),
        ..Options::new("ada")
    };
    let ada = entered(StateRoom::create(&a, None, options)).await;
    let bo = join(&b, &ada, "bo").await;
    let cy = join(&c, &ada, "cy").await;
    vote(&bo, 3).await;
    let write = |room: StateRoom, who: &'static str| {
        tokio::spawn(async move {
            let mut made = Vec::new();
            for n in 0..WRITES / 2 {
                let name = format!("{who} {n}");
                let patch = json!([{"op": "add", "path": "/log/-", "value": name}]);
                soon(room.patch(&patch.to_string()))
                    .await
                    .expect("it is made");
                made.push(name);
                sleep(Duration::from_millis(25)).await;
            }
            made
        })
    };
    let writers = [write(ada.clone(), "ada"), write(bo.clone(), "bo")];
    // One leaves in order and comes back, one is killed, the doorman changes.
    cy.leave().await;
    let dead = Host::at(&relay).await;
    dead.join(&ada, "dead").await;
    dead.kill();
    let cy = join(&c, &ada, "cy").await;
    vote(&cy, 3).await;
    ada.hand_over();
    holds("another leads", || {
        [&bo, &cy].iter().any(|it| it.consensus().is_doorman)
    })
    .await;
    let mut made = Vec::new();
    for writer in writers {
        made.extend(soon(writer).await.expect("it writes all"));
    }
    made.sort();
    let log = |room: &StateRoom| {
        let Value::Array(log) = state(room)["log"].take() else {
            panic!("not a list")
        };
        let log = log
            .into_iter()
            .map(|it| it.as_str().expect("a name").to_owned());
        log.collect::<Vec<_>>()
    };
    let rooms = [&ada, &bo, &cy];
    holds("all is everywhere", || {
        rooms.iter().all(|room| log(room).len() >= WRITES)
    })
    .await;
    for room in rooms {
        assert_eq!(log(room), log(&ada), "in the same order");
        let mut log = log(room);
        log.sort();
        assert_eq!(log, made, "each once");
    }
    for live in [a, b, c] {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_is_away_for_a_while() {
    let relay = Relay::on_free_port().await;
    let (a, b, c) = (relay.live().await, relay.live().await, relay.live().await);
    let ada = create(&a, "ada").await;
    let bo = join(&b, &ada, "bo").await;
    they_agree(&[&ada, &bo], "before").await;
    let addr = relay.stop().await;
    sleep(Duration::from_secs(2)).await;
    let _relay = Relay::start(addr).await;
    let cy = join(&c, &ada, "cy").await;
    they_agree(&[&ada, &bo, &cy], "after").await;
    assert_eq!(ada.consensus().epoch_number, 0);
    for live in [a, b, c] {
        live.close().await;
    }
}
