//! Camera and screen, made of invented pictures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use iroh_rooms::{
    Error, Event, PublishOpts, PublishSources, RoomHandle, RoomPublisherSync,
    moq::{Broadcast, TrackConfig, TrackWriter},
};
use tokio::time::sleep;

use crate::net::{Relay, joined, pair, soon, until};

/// Makes broadcasts of one picture each, and counts them.
#[derive(Clone, Default)]
struct Pictures {
    made: Arc<AtomicUsize>,
    broken: Arc<AtomicUsize>,
}

impl Pictures {
    fn source(&self) -> impl FnMut() -> Result<Broadcast, Error> + Send + 'static {
        let this = self.clone();
        // Kept: a track ends with its writer.
        let mut tracks: Vec<TrackWriter> = Vec::new();
        move || {
            if this.broken.load(Ordering::Relaxed) > 0 {
                return Err(Error::InvalidArgument("no such device".into()));
            }
            let number = this.made.fetch_add(1, Ordering::Relaxed);
            let broadcast = Broadcast::new();
            let mut track = broadcast.track("video", TrackConfig::default())?;
            track.write(format!("picture {number}").into(), None)?;
            tracks.push(track);
            Ok(broadcast)
        }
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

fn publisher(room: &RoomHandle) -> (RoomPublisherSync, Pictures, Pictures) {
    let (camera, screen) = (Pictures::default(), Pictures::default());
    let sources = PublishSources::new(camera.source(), screen.source());
    (
        RoomPublisherSync::new(room.clone(), sources),
        camera,
        screen,
    )
}

fn subscribed(event: &Event) -> Option<(String, iroh_rooms::moq::RemoteBroadcast)> {
    match event {
        Event::BroadcastSubscribed {
            name, broadcast, ..
        } => Some((name.clone(), broadcast.clone())),
        Event::PeerLeft { .. } => panic!("nobody leaves"),
        _ => None,
    }
}

fn ended(event: &Event) -> Option<String> {
    match event {
        Event::BroadcastEnded { name, .. } => Some(name.clone()),
        Event::PeerLeft { .. } => panic!("nobody leaves"),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_camera_is_there_from_the_start_and_the_screen_while_it_is_shared() {
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    let (publisher, cameras, screens) = publisher(room_b.handle());
    let (name, camera) = until(&mut room_a, subscribed).await;
    assert_eq!(name, "camera");
    let mut reader = soon(camera.track("video", Default::default()))
        .await
        .expect("there");
    let frame = soon(reader.next_frame()).await.expect("open");
    assert_eq!(frame.expect("a picture").data, "picture 0");

    let sharing = PublishOpts {
        screen: true,
        ..PublishOpts::default()
    };
    for _ in 0..3 {
        publisher.set_state(&sharing).expect("open");
        soon(publisher.settled()).await.expect("published");
    }
    assert_eq!(until(&mut room_a, subscribed).await.0, "screen");
    assert_eq!((cameras.made(), screens.made()), (1, 1), "said three times");
    assert_eq!(publisher.state(), sharing);
    publisher.set_state(&PublishOpts::default()).expect("open");
    assert_eq!(until(&mut room_a, ended).await, "screen");
    // Sound alone keeps the broadcast that carries it.
    let sound = PublishOpts {
        camera: false,
        ..PublishOpts::default()
    };
    publisher.set_state(&sound).expect("open");
    soon(publisher.settled()).await.expect("as it was");
    assert_eq!(room_b.handle().me().broadcasts, ["camera"]);
    assert_eq!(cameras.made(), 1);

    soon(publisher.close()).await;
    soon(publisher.close()).await;
    assert_eq!(until(&mut room_a, ended).await, "camera");
    assert!(room_b.handle().me().broadcasts.is_empty());
    let error = publisher.set_state(&sharing).expect_err("closed");
    assert_eq!(error.code(), "CLOSED");
    for live in lives {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_state_wins_however_fast_they_come() {
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    let (publisher, _cameras, screens) = publisher(room_b.handle());
    for n in 0..1001 {
        let state = PublishOpts {
            screen: n % 2 == 0,
            ..PublishOpts::default()
        };
        publisher.set_state(&state).expect("open");
        if n % 100 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    soon(publisher.settled()).await.expect("published");
    assert_eq!(room_b.handle().me().broadcasts, ["camera", "screen"]);
    let made = screens.made();
    assert!((1..=501).contains(&made), "{made}");
    // And the others see what it ended with.
    let last = format!("picture {}", made - 1);
    soon(async {
        loop {
            let screen = room_a.handle().subscribe(lives[1].endpoint_id(), "screen");
            let screen = screen.await.expect("announced");
            if let Ok(mut reader) = screen.track("video", Default::default()).await
                && let Ok(Some(frame)) = reader.next_frame().await
                && frame.data == last
            {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    drop(publisher);
    soon(async {
        while !room_b.handle().me().broadcasts.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for live in lives {
        live.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_takes_its_switch_back() {
    let relay = Relay::on_free_port().await;
    let (lives, mut room_a, room_b) = pair(&relay).await;
    until(&mut room_a, joined).await;
    let (publisher, _cameras, screens) = publisher(room_b.handle());
    soon(publisher.settled()).await.expect("published");
    let sharing = PublishOpts {
        screen: true,
        ..PublishOpts::default()
    };
    screens.broken.store(1, Ordering::Relaxed);
    publisher.set_state(&sharing).expect("open");
    let error = soon(publisher.settled()).await.expect_err("broken");
    assert!(error.to_string().contains("no such device"), "{error}");
    assert_eq!(publisher.state(), PublishOpts::default());
    assert_eq!(room_b.handle().me().broadcasts, ["camera"]);
    screens.broken.store(0, Ordering::Relaxed);
    publisher.set_state(&sharing).expect("open");
    soon(publisher.settled()).await.expect("mended");
    assert_eq!(room_b.handle().me().broadcasts, ["camera", "screen"]);
    room_b.handle().leave().await;
    let error = publisher.set_state(&sharing).expect_err("left");
    assert_eq!(error.code(), "CLOSED");
    for live in lives {
        live.close().await;
    }
}
