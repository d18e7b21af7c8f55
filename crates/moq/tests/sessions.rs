//! Who gets a session, and how many there are.

mod common;

use std::{net::Ipv4Addr, time::Duration};

use common::{HISTORY, Peer, bytes, text, until, within};
use iroh::{EndpointAddr, RelayMode, SecretKey};
use iroh_rooms_moq::{
    ALPNS, Accept, Broadcast, Cause, Config, Error, Moq, SessionEvent, TrackConfig, close, limits,
};

const KEY: [u8; 32] = [7; 32];

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let config = Config {
        max_connections: 1,
        ..Config::default()
    };
    let busy = Peer::with(1, config, RelayMode::Disabled).await;
    let (first, second, dialled) = (Peer::new(2).await, Peer::new(3).await, Peer::new(4).await);
    let session = within("the first", first.moq.connect(busy.addr()))
        .await
        .unwrap();
    let error = within("refusal", second.moq.connect(busy.addr()))
        .await
        .unwrap_err();
    let Error::Session(error) = error else {
        panic!("{error}")
    };
    assert_eq!((error.code, &*error.reason), (close::REJECTED, "busy"));
    assert_eq!(busy.moq.stats().busy, 1);
    // One who is in comes again, into a room; and what is dialled is not refused.
    let rooms = [&busy, &first].map(|peer| peer.moq.open_scope(KEY).unwrap());
    within("a room", rooms[1].connect(busy.addr()))
        .await
        .unwrap();
    within("a dial", busy.moq.connect(dialled.addr()))
        .await
        .unwrap();
    // The place of one who goes is free.
    rooms[0].close(close::NORMAL, "").await;
    busy.moq
        .own()
        .disconnect(dialled.id(), close::NORMAL, "done");
    session.close(close::NORMAL, "done");
    within("room for another", async {
        while second.moq.connect(busy.addr()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn rooms_are_apart_and_unknown_ones_are_refused() {
    let (a, b) = Peer::pair().await;
    let (ours, theirs) = (
        a.moq.open_scope(KEY).unwrap(),
        b.moq.open_scope(KEY).unwrap(),
    );
    let other = a.moq.open_scope([8; 32]).unwrap();
    let broadcast = Broadcast::new();
    theirs.publish("room", &broadcast).unwrap();
    b.moq.publish("own", &broadcast).unwrap();

    let session = within("the room's session", ours.connect(b.addr()))
        .await
        .unwrap();
    assert_eq!(session.version(), "moq-lite-06");
    let own = within("the own session", a.moq.connect(b.addr()))
        .await
        .unwrap();
    let error = within("refusal", other.connect(b.addr()))
        .await
        .unwrap_err();
    let Error::Session(error) = error else {
        panic!("{error}")
    };
    assert_eq!(
        (error.code, error.cause),
        (close::UNKNOWN_SCOPE, Cause::Peer)
    );
    assert_eq!(b.moq.stats().unknown_scope, 1);

    let mut room_announced = session.announced();
    let mut own_announced = own.announced();
    assert_eq!(
        within("room", room_announced.next()).await.unwrap().name,
        "room"
    );
    assert_eq!(
        within("own", own_announced.next()).await.unwrap().name,
        "own"
    );
    let nothing = tokio::time::timeout(Duration::from_millis(300), async {
        tokio::select! {
            more = room_announced.next() => more,
            more = own_announced.next() => more,
        }
    });
    assert!(nothing.await.is_err(), "a scope shows another's broadcasts");
    // The listener lists the session as well, under the dialler's id.
    until("the listener's session", || {
        theirs.session(a.id()).is_some()
    })
    .await;
}

#[tokio::test]
async fn twenty_callers_share_one_dial() {
    let (a, b) = Peer::pair().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (moq, addr) = (a.moq.clone(), b.addr());
        calls.spawn(async move { moq.connect(addr).await.unwrap().remote_id() });
    }
    let ids = within("all calls", calls.join_all()).await;
    assert!(ids.len() == 20 && ids.iter().all(|id| *id == b.id()));
    assert_eq!((a.moq.stats().dials, a.moq.stats().sessions), (1, 1));
    until("one session there", || b.moq.stats().sessions == 1).await;
}

#[tokio::test]
async fn all_callers_get_the_error_of_a_failed_dial() {
    let a = Peer::new(1).await;
    let nobody = SecretKey::from_bytes(&[99; 32]).public();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let moq = a.moq.clone();
        calls.spawn(async move { moq.connect(nobody).await.map(drop).unwrap_err().code() });
    }
    let codes = within("all errors", calls.join_all()).await;
    assert_eq!(codes, vec!["CONNECT_FAILED"; 20]);
    assert_eq!(a.moq.stats().dials, 1);
    // The table has forgotten it: the next call dials anew.
    a.moq.connect(nobody).await.unwrap_err();
    assert_eq!(a.moq.stats().dials, 2);
}

#[tokio::test]
async fn giving_up_does_not_cancel_the_dial_for_others() {
    let (a, b) = Peer::pair().await;
    let (moq, addr) = (a.moq.clone(), b.addr());
    let first = tokio::spawn(async move { moq.connect(addr).await });
    tokio::task::yield_now().await;
    let (moq, addr) = (a.moq.clone(), b.addr());
    let second = tokio::spawn(async move { moq.connect(addr).await });
    tokio::task::yield_now().await;
    first.abort();
    within("the second caller", second).await.unwrap().unwrap();
    assert_eq!(a.moq.stats().dials, 1);
}

#[tokio::test]
async fn dialling_at_once_leaves_the_lower_ids_session() {
    let (low, high) = Peer::pair().await;
    let (ours, theirs) = (
        low.moq.open_scope(KEY).unwrap(),
        high.moq.open_scope(KEY).unwrap(),
    );
    let (mut our_events, mut their_events) = (ours.sessions(), theirs.sessions());
    let broadcast = Broadcast::new();
    ours.publish("camera", &broadcast).unwrap();

    let (x, y) = within("both dials", async {
        tokio::join!(ours.connect(high.addr()), theirs.connect(low.addr()))
    })
    .await;
    let (ours_session, theirs_session) = (x.unwrap(), y.unwrap());
    let remote = within("camera", theirs_session.subscribe("camera"))
        .await
        .unwrap();

    // What stands was dialled by the lower id, unless the other never had to dial.
    if high.moq.stats().dials == 1 && low.moq.stats().dials == 1 {
        use iroh::endpoint::Side;
        until("the lower id's connection", || {
            ours_session.conn().side() == Side::Client
                && theirs_session.conn().side() == Side::Server
        })
        .await;
    }
    // Longer than a loser may linger.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(
        (low.moq.stats().sessions, high.moq.stats().sessions),
        (1, 1)
    );
    assert!(ours_session.conn().close_reason().is_none());
    assert!(theirs_session.conn().close_reason().is_none());
    assert!(
        !remote.is_closed(),
        "the exchange of connections ended a broadcast"
    );
    // One session was reported on each side, and no end.
    for events in [&mut our_events, &mut their_events] {
        let first = within("an event", events.next()).await;
        assert!(matches!(first, Some(SessionEvent::Opened(_))), "{first:?}");
        let more = tokio::time::timeout(Duration::from_millis(100), events.next()).await;
        assert!(more.is_err(), "{more:?}");
    }
}

/// Another life of the same endpoint: it knows nothing of the sessions of the first.
fn another_life(peer: &Peer) -> Moq {
    Moq::new(peer.endpoint.clone())
}

#[tokio::test]
async fn the_losers_end_does_not_touch_the_survivor() {
    let (low, high) = Peer::pair().await;
    let (ours, theirs) = (
        low.moq.open_scope(KEY).unwrap(),
        high.moq.open_scope(KEY).unwrap(),
    );
    let mut events = ours.sessions();
    let session = within("a session", ours.connect(high.addr()))
        .await
        .unwrap();
    assert!(matches!(
        within("it", events.next()).await,
        Some(SessionEvent::Opened(_))
    ));
    until("the session there", || theirs.session(low.id()).is_some()).await;
    let connection = session.conn().stable_id();

    let second = another_life(&high);
    let scope = second.open_scope(KEY).unwrap();
    let loser = within("the dial of the higher id", scope.connect(low.addr()))
        .await
        .unwrap();
    assert!(scope.session(low.id()).is_some());
    let error = within("the loser's end", loser.closed()).await;
    assert_eq!((error.code, error.cause), (close::GLARE, Cause::Peer));

    assert_eq!(session.conn().stable_id(), connection);
    assert!(session.conn().close_reason().is_none());
    assert!(ours.session(high.id()).is_some() && theirs.session(low.id()).is_some());
    assert_eq!((low.moq.stats().sessions, low.moq.stats().glares), (1, 1));
    let more = tokio::time::timeout(Duration::from_millis(100), events.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn a_reconnect_goes_on_with_the_next_group() {
    let (a, b) = Peer::pair().await;
    let (ours, theirs) = (
        a.moq.open_scope(KEY).unwrap(),
        b.moq.open_scope(KEY).unwrap(),
    );
    let broadcast = Broadcast::new();
    let mut track = broadcast.track("chat", TrackConfig::default()).unwrap();
    ours.publish("room", &broadcast).unwrap();
    within("a session", ours.connect(b.addr())).await.unwrap();
    let mut events = theirs.sessions();
    let mut announced = theirs.announced();
    let remote = within("the broadcast", theirs.subscribe(a.id(), "room"))
        .await
        .unwrap();
    assert!(within("it", announced.next()).await.unwrap().active);
    let mut reader = within("its track", remote.track("chat", HISTORY))
        .await
        .unwrap();
    track.write(bytes("0"), None).unwrap();
    assert_eq!(text(&mut reader).await, "0");
    let session = theirs.session(a.id()).unwrap();
    let first = session.conn().stable_id();

    // The dialler has lost its session without a word to the listener, and dials again.
    let second = another_life(&a);
    let scope = second.open_scope(KEY).unwrap();
    scope.publish("room", &broadcast).unwrap();
    within("the second dial", scope.connect(b.addr()))
        .await
        .unwrap();
    until("the exchange", || session.conn().stable_id() != first).await;
    for number in 1..200 {
        track.write(bytes(&number.to_string()), None).unwrap();
        assert_eq!(text(&mut reader).await, number.to_string());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("the first's end", || b.moq.stats().replaced == 1).await;
    until("its end there", || a.moq.stats().sessions == 0).await;
    track.write(bytes("last"), None).unwrap();
    assert_eq!(text(&mut reader).await, "last");
    assert!(!remote.is_closed());
    assert!(matches!(
        within("it", events.next()).await,
        Some(SessionEvent::Opened(_))
    ));
    let more = tokio::time::timeout(Duration::from_millis(100), async {
        tokio::select! {
            event = events.next() => format!("{event:?}"),
            announce = announced.next() => format!("{announce:?}"),
        }
    });
    let more = more.await;
    assert!(more.is_err(), "the exchange was reported: {more:?}");
}

#[tokio::test]
async fn closing_tells_code_and_reason_on_both_sides() {
    let (a, b) = Peer::pair().await;
    let (ours, theirs) = (
        a.moq.open_scope(KEY).unwrap(),
        b.moq.open_scope(KEY).unwrap(),
    );
    let session = within("a session", ours.connect(b.addr())).await.unwrap();
    until("the session there", || theirs.session(a.id()).is_some()).await;
    let other = theirs.session(a.id()).unwrap();
    let mut events = theirs.sessions();
    assert!(matches!(events.next().await, Some(SessionEvent::Opened(_))));

    session.close(close::KICKED, "enough");
    let error = within("our end", session.closed()).await;
    assert_eq!(
        (error.code, error.reason.as_str(), error.cause),
        (close::KICKED, "enough", Cause::Local)
    );
    let error = within("their end", other.closed()).await;
    assert_eq!(
        (error.code, error.reason.as_str(), error.cause),
        (close::KICKED, "enough", Cause::Peer)
    );
    match within("the event", events.next()).await {
        Some(SessionEvent::Closed { remote, error }) => {
            assert_eq!((remote, error.code), (a.id(), close::KICKED));
        }
        event => panic!("{event:?}"),
    }
    assert!(theirs.session(a.id()).is_none() && ours.session(b.id()).is_none());
    // And it can be opened again.
    within("a session again", ours.connect(b.addr()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_closed_scope_takes_and_gives_nothing() {
    let (a, b) = Peer::pair().await;
    let (ours, theirs) = (
        a.moq.open_scope(KEY).unwrap(),
        b.moq.open_scope(KEY).unwrap(),
    );
    assert!(a.moq.open_scope(KEY).is_err(), "the same room twice");
    let session = within("a session", ours.connect(b.addr())).await.unwrap();
    let mut events = ours.sessions();
    let mut announced = ours.announced();
    let waiting = tokio::spawn({
        let ours = ours.clone();
        let id = b.id();
        async move { ours.subscribe(id, "never").await.unwrap_err().code() }
    });
    within("closing", theirs.close(close::LEAVING, "bye")).await;
    within("closing twice", theirs.close(close::LEAVING, "bye")).await;
    let error = within("the end", session.closed()).await;
    assert_eq!(
        (error.code, error.reason.as_str()),
        (close::LEAVING, "bye"),
        "{error}"
    );
    assert_eq!(
        within("the waiter", waiting).await.unwrap(),
        "SESSION_CLOSED"
    );
    assert_eq!(
        within("refusal", ours.connect(b.addr()))
            .await
            .unwrap_err()
            .code(),
        "SESSION_CLOSED"
    );
    assert_eq!(
        theirs.publish("x", &Broadcast::new()).unwrap_err().code(),
        "CLOSED"
    );

    ours.close(close::LEAVING, "gone").await;
    assert_eq!(
        within("closed", ours.connect(b.addr()))
            .await
            .unwrap_err()
            .code(),
        "CLOSED"
    );
    within("the end of events", async {
        while events.next().await.is_some() {}
    })
    .await;
    within("the end of announcements", async {
        while announced.next().await.is_some() {}
    })
    .await;
    // The room can be entered again.
    let (ours, _theirs) = (
        a.moq.open_scope(KEY).unwrap(),
        b.moq.open_scope(KEY).unwrap(),
    );
    within("a session again", ours.connect(b.addr()))
        .await
        .unwrap();
}

#[tokio::test]
async fn shutdown_ends_everything_and_nothing_hangs() {
    let (a, b) = Peer::pair().await;
    let session = within("a session", a.moq.connect(b.addr())).await.unwrap();
    let mut incoming = a.moq.incoming_sessions();
    within("shutdown", b.moq.shutdown()).await;
    within("shutdown twice", b.moq.shutdown()).await;
    let error = within("the end", session.closed()).await;
    assert_eq!((error.code, error.cause), (close::LEAVING, Cause::Peer));
    within("our shutdown", a.moq.shutdown()).await;
    assert!(
        within("the end of incoming", incoming.next())
            .await
            .is_none()
    );
    assert_eq!(
        within("closed", a.moq.connect(b.addr()))
            .await
            .unwrap_err()
            .code(),
        "CLOSED"
    );
    assert!(a.moq.open_scope(KEY).is_err());
}

#[tokio::test]
async fn rejected_before_anything_is_announced() {
    let manual = Config {
        accept: Accept::Manual,
        ..Config::default()
    };
    let a = Peer::new(1).await;
    let b = Peer::with(2, manual, RelayMode::Disabled).await;
    b.moq.publish("secret", &Broadcast::new()).unwrap();
    let mut incoming = b.moq.incoming_sessions();

    let mut announced = a.moq.own().announced();
    let dial = tokio::spawn({
        let (moq, addr) = (a.moq.clone(), b.addr());
        async move { moq.connect(addr).await }
    });
    let session = within("an incoming session", incoming.next())
        .await
        .unwrap();
    assert_eq!(session.remote_id(), a.id());
    let nothing = tokio::time::timeout(Duration::from_millis(300), announced.next()).await;
    assert!(nothing.is_err(), "announced while undecided");
    assert!(session.reject());
    assert!(!session.reject(), "decided twice");
    let Error::Session(error) = within("the dial", dial).await.unwrap().unwrap_err() else {
        panic!("another error")
    };
    assert_eq!((error.code, error.cause), (close::REJECTED, Cause::Peer));
    let nothing = tokio::time::timeout(Duration::from_millis(100), announced.next()).await;
    assert!(nothing.is_err(), "announced in spite of the rejection");
    assert_eq!((b.moq.stats().rejected, b.moq.stats().sessions), (1, 0));

    // The next one is welcome.
    let dial = tokio::spawn({
        let (moq, addr) = (a.moq.clone(), b.addr());
        async move { moq.connect(addr).await }
    });
    let session = within("another", incoming.next()).await.unwrap();
    let accepted = within("acceptance", session.accept()).await.unwrap();
    assert_eq!(accepted.remote_id(), a.id());
    within("the dial", dial).await.unwrap().unwrap();
    assert_eq!(
        within("an announcement", announced.next())
            .await
            .unwrap()
            .name,
        "secret"
    );
}

#[tokio::test]
async fn incoming_sessions_are_told_of() {
    let (a, b) = Peer::pair().await;
    let mut incoming = b.moq.incoming_sessions();
    let session = within("a session", a.moq.connect(b.addr())).await.unwrap();
    let told = within("an incoming session", incoming.next())
        .await
        .unwrap();
    assert_eq!(told.remote_id(), a.id());
    assert_eq!(
        within("it is accepted", told.accept())
            .await
            .unwrap()
            .remote_id(),
        a.id()
    );
    assert_eq!(incoming.skipped(), 0);
    assert!(told.reject());
    assert_eq!(
        within("the end", session.closed()).await.code,
        close::REJECTED
    );
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let (a, b) = Peer::pair().await;
    let _room = b.moq.open_scope(KEY).unwrap();
    let connection = a.endpoint.connect(b.addr(), b"moq-lite-06").await.unwrap();
    let closed = within("the handshake's end", connection.closed()).await;
    let iroh::endpoint::ConnectionError::ApplicationClosed(close) = closed else {
        panic!("{closed}")
    };
    assert_eq!(close.error_code.into_inner(), u64::from(close::REJECTED));
    assert_eq!(b.moq.stats().bad_handshakes, 1);
}

#[tokio::test]
async fn garbage_does_not_open_a_session() {
    let (a, b) = Peer::pair().await;
    let connection = a.endpoint.connect(b.addr(), b"moq-lite-06").await.unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[0xff; 4096]).await.unwrap();
    within("its end", connection.closed()).await;
    until("it is counted", || b.moq.stats().bad_handshakes == 1).await;
    assert_eq!(b.moq.stats().sessions, 0);
}

#[tokio::test]
async fn each_version_is_dialled_but_rooms_only_by_those_with_a_path() {
    for alpn in ALPNS {
        let a = Peer::new(1).await;
        // A listener that speaks one version.
        let b = Peer::with_alpns(2, Config::default(), RelayMode::Disabled, &[alpn]).await;
        let (ours, _theirs) = (
            a.moq.open_scope(KEY).unwrap(),
            b.moq.open_scope(KEY).unwrap(),
        );
        let (x, y) = (Broadcast::new(), Broadcast::new());
        let mut x_track = x.track("t", TrackConfig::default()).unwrap();
        let mut y_track = y.track("t", TrackConfig::default()).unwrap();
        x_track.write(bytes("x"), None).unwrap();
        y_track.write(bytes("y"), None).unwrap();
        a.moq.publish("x", &x).unwrap();
        b.moq.publish("y", &y).unwrap();
        let session = within("a session", a.moq.connect(b.addr())).await.unwrap();
        assert_eq!(session.version().as_bytes(), alpn);
        let remote = within("y", session.subscribe("y")).await.unwrap();
        let mut reader = within("its track", remote.track("t", HISTORY))
            .await
            .unwrap();
        assert_eq!(text(&mut reader).await, "y");
        let remote = within("x", b.moq.own().subscribe(a.id(), "x"))
            .await
            .unwrap();
        let mut reader = within("its track", remote.track("t", HISTORY))
            .await
            .unwrap();
        assert_eq!(text(&mut reader).await, "x");

        let room = within("the room", ours.connect(b.addr())).await;
        match alpn {
            b"moq-lite-06" | b"moq-lite-05" => drop(room.unwrap()),
            _ => assert_eq!(room.unwrap_err().code(), "CONNECT_FAILED"),
        }
    }
}

#[tokio::test]
async fn an_undecided_session_is_rejected() {
    let manual = Config {
        accept: Accept::Manual,
        ..Config::default()
    };
    let a = Peer::new(1).await;
    let b = Peer::with(2, manual, RelayMode::Disabled).await;
    let mut incoming = b.moq.incoming_sessions();
    let error = within("the dial", a.moq.connect(b.addr()))
        .await
        .unwrap_err();
    // Both limits are the same; whichever comes first.
    assert!(
        ["TIMEOUT", "SESSION_CLOSED"].contains(&error.code()),
        "{error}"
    );
    until("the rejection", || b.moq.stats().rejected == 1).await;
    let session = within("the session", incoming.next()).await.unwrap();
    assert!(!session.reject());
    assert_eq!(session.accept().await.unwrap_err().code(), "CLOSED");
}

#[tokio::test]
async fn giving_up_stops_the_dial_and_leaves_nothing() {
    let a = Peer::new(1).await;
    let nobody = SecretKey::from_bytes(&[99; 32]).public();
    let hole = EndpointAddr::new(nobody).with_ip_addr((Ipv4Addr::LOCALHOST, 9).into());
    let quiet = a.moq.stats().tasks;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (moq, addr) = (a.moq.clone(), hole.clone());
        calls.spawn(async move { moq.connect(addr).await.map(drop) });
    }
    until("the dial", || a.moq.stats().tasks > quiet).await;
    calls.shutdown().await;
    // Long before it would fail by itself.
    until("its end", || a.moq.stats().tasks == quiet).await;
    assert_eq!(a.moq.stats().dials, 1);

    // The same for who waits for what does not come.
    let waits = async {
        tokio::select! {
            _ = a.moq.own().subscribe(nobody, "never") => {}
            _ = a.moq.connect(hole.clone()) => {}
        }
    };
    let given_up = tokio::time::timeout(Duration::from_millis(100), waits).await;
    assert!(given_up.is_err());
    until("its end", || a.moq.stats().tasks == quiet).await;
}

#[tokio::test]
async fn how_it_ended_can_be_asked_later() {
    let (a, b) = Peer::pair().await;
    let session = within("a session", a.moq.connect(b.addr())).await.unwrap();
    assert_eq!(a.moq.own().ended(b.id()), None);
    until("the session there", || {
        b.moq.own().session(a.id()).is_some()
    })
    .await;
    b.moq.own().disconnect(a.id(), 4242, "because");
    let error = within("the end", session.closed()).await;
    assert_eq!((error.code, error.reason.as_str()), (4242, "because"));
    let again = within("asked again", session.closed()).await;
    assert_eq!(again, error);
    assert_eq!(a.moq.own().ended(b.id()), Some(error));
    until("the other side knows as well", || {
        let ended = b.moq.own().ended(a.id());
        ended.is_some_and(|error| (error.code, error.cause) == (4242, Cause::Local))
    })
    .await;
    within("a session again", a.moq.connect(b.addr()))
        .await
        .unwrap();
    assert_eq!(a.moq.own().ended(b.id()), None);
}

#[tokio::test]
async fn a_slow_listener_is_told_how_many_it_missed() {
    let (a, b) = Peer::pair().await;
    let mut incoming = b.moq.incoming_sessions();
    let total = limits::INCOMING_CAP + 6;
    for round in 0..total {
        let session = within("a session", a.moq.connect(b.addr())).await.unwrap();
        until("the session there", || {
            b.moq.own().session(a.id()).is_some()
        })
        .await;
        session.close(close::NORMAL, &round.to_string());
        until("its end there", || b.moq.own().session(a.id()).is_none()).await;
    }
    let mut told = 0;
    while tokio::time::timeout(Duration::from_millis(200), incoming.next())
        .await
        .is_ok_and(|next| next.is_some())
    {
        told += 1;
    }
    assert_eq!((told, incoming.skipped()), (limits::INCOMING_CAP, 6));
}

#[tokio::test]
async fn a_room_may_decide_about_those_who_know_its_key() {
    let (a, b) = Peer::pair().await;
    let ours = a.moq.open_scope(KEY).unwrap();
    let theirs = b.moq.open_scope_with(KEY, Accept::Manual).unwrap();
    theirs.publish("secret", &Broadcast::new()).unwrap();
    let mut incoming = theirs.incoming_sessions();
    let mut announced = ours.announced();
    for welcome in [false, true] {
        let dial = tokio::spawn({
            let (ours, addr) = (ours.clone(), b.addr());
            async move { ours.connect(addr).await }
        });
        let session = within("an incoming session", incoming.next())
            .await
            .unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(100), announced.next());
        assert!(nothing.await.is_err(), "announced while undecided");
        if welcome {
            within("acceptance", session.accept()).await.unwrap();
        } else {
            assert!(session.reject());
        }
        assert_eq!(within("the dial", dial).await.unwrap().is_ok(), welcome);
    }
    let announce = within("the broadcast", announced.next()).await.unwrap();
    assert_eq!(announce.name, "secret");
    // One more stays undecided; the scope's end is its end.
    let c = Peer::new(3).await;
    let other = c.moq.open_scope(KEY).unwrap();
    let addr = b.addr();
    let dial = tokio::spawn(async move { other.connect(addr).await.map(drop) });
    let _undecided = within("an incoming session", incoming.next()).await;
    theirs.close(close::LEAVING, "bye").await;
    let error = within("refusal", dial).await.unwrap().unwrap_err();
    assert_eq!(error.code(), "SESSION_CLOSED");
    assert!(within("the end", incoming.next()).await.is_none());
}

#[tokio::test]
async fn shutdown_leaves_nothing_running() {
    let (a, b) = Peer::pair().await;
    let (ours, theirs) = (
        a.moq.open_scope(KEY).unwrap(),
        b.moq.open_scope(KEY).unwrap(),
    );
    let broadcast = Broadcast::new();
    let mut track = broadcast.track("t", TrackConfig::default()).unwrap();
    for scope in [&ours, a.moq.own()] {
        scope.publish("b", &broadcast).unwrap();
    }
    let session = within("a session", ours.connect(b.addr())).await.unwrap();
    within("a session", a.moq.connect(b.addr())).await.unwrap();
    let remote = within("b", theirs.subscribe(a.id(), "b")).await.unwrap();
    let mut reader = within("track", remote.track("t", HISTORY)).await.unwrap();
    track.write(bytes("one"), None).unwrap();
    assert_eq!(text(&mut reader).await, "one");
    assert!(a.moq.stats().tasks > 0 && a.moq.stats().streams > 0);
    // A closed scope alone takes its tasks with it, though handles are left.
    theirs.close(close::LEAVING, "bye").await;
    assert_eq!(within("the end", session.closed()).await.reason, "bye");
    for peer in [&a, &b] {
        within("shutdown", peer.moq.shutdown()).await;
        within("shutdown twice", peer.moq.shutdown()).await;
    }
    drop((ours, theirs, remote, reader, track, broadcast));
    for peer in [&a, &b] {
        until("nothing is left", || {
            let stats = peer.moq.stats();
            (stats.tasks, stats.streams, stats.sessions) == (0, 0, 0)
        })
        .await;
    }
}

#[tokio::test]
async fn dropping_the_last_handle_closes_everything() {
    let b = Peer::new(2).await;
    let theirs = b.moq.open_scope(KEY).unwrap();
    // Without a router, which holds a handle.
    let a = Peer::new(1).await;
    let other = a.endpoint.clone();
    let moq = Moq::new(other.clone());
    let ours = moq.open_scope(KEY).unwrap();
    within("a session", ours.connect(b.addr())).await.unwrap();
    until("the session there", || theirs.session(a.id()).is_some()).await;
    let session = theirs.session(a.id()).unwrap();
    drop((moq, ours));
    let error = within("the end", session.closed()).await;
    assert_eq!((error.code, error.cause), (close::LEAVING, Cause::Peer));
}

#[tokio::test]
async fn dialling_oneself_is_an_error() {
    let a = Peer::new(1).await;
    let error = a.moq.connect(EndpointAddr::new(a.id())).await.unwrap_err();
    assert_eq!(error.code(), "INVALID_ARGUMENT");
}
