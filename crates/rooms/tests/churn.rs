//! Peers that come and go at random, leaving or vanishing, while their relay is restarted. At rest
//! everybody's roster is the truth, and on the way there nobody joins or leaves twice.
//!
//! `CHURN_MS=300000` for five minutes, `CHURN_PEERS=30` for as many; `CHURN_SEED` repeats one, and is
//! printed.

#[allow(dead_code)]
#[path = "live/net.rs"]
mod net;

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use iroh::{EndpointId, RelayUrl, SecretKey};
use iroh_rooms::{Event, Live, Relays, RoomHandle, RoomTicket};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use tokio::{
    runtime,
    sync::oneshot,
    time::{self, sleep},
};

use net::{Relay, enter};

/// Identities, unless told otherwise: who comes back is the same endpoint. Everyone has a session with
/// everyone, so twice as many cost four times as much: thirty of them keep two cores busy with that
/// alone.
const PEERS: u8 = 16;
/// A round: so long they come and go, and then they rest.
const ROUND: Duration = Duration::from_secs(20);
/// Between two that come or go, at most.
const STEP_MS: u64 = 700;
/// A newcomer that hears of one who has vanished already lets it go 30 s later, and hears of it within
/// some seconds.
const REST: Duration = Duration::from_secs(40);
/// A minute, as long as QUIC goes on asking them, is too long.
const CLOSE: Duration = Duration::from_secs(20);
/// The relay is away for so long, at the beginning of a round.
const OUTAGE: Duration = Duration::from_secs(2);
const OUTAGES: usize = 2;

enum End {
    Leave,
    /// As a process that is killed.
    Vanish,
}

/// A peer in the room, on a thread of its own.
struct Player {
    room: RoomHandle,
    stop: oneshot::Sender<End>,
    thread: thread::JoinHandle<()>,
}

impl Player {
    async fn enter(url: RelayUrl, number: u8, ticket: RoomTicket) -> Self {
        let (entered, room) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || play(url, number, ticket, entered, stopped));
        let room = room.await.expect("it enters");
        Self { room, stop, thread }
    }

    fn id(&self) -> EndpointId {
        self.room.me().id
    }

    async fn end(self, how: End) {
        let Self { room, stop, thread } = self;
        let _ended_by_itself = stop.send(how);
        let joining = tokio::task::spawn_blocking(move || thread.join());
        let result = joining.await.expect("it is waited for");
        drop(room);
        result.expect("its events are in order");
    }
}

fn play(
    url: RelayUrl,
    number: u8,
    ticket: RoomTicket,
    entered: oneshot::Sender<RoomHandle>,
    stopped: oneshot::Receiver<End>,
) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let rest = runtime.block_on(async {
        let live = Live::builder()
            .relays(Relays::Custom(vec![url]))
            .secret_key(SecretKey::from_bytes(&[number; 32]));
        let live = live.spawn().await.expect("the relay answers");
        let room = enter(&live, &ticket, &number.to_string()).await;
        let (mut events, handle) = room.split();
        let _test_failed = entered.send(handle.clone());
        let mut here = BTreeSet::new();
        let follow = async {
            while let Some(event) = events.recv().await {
                match event {
                    Event::PeerJoined { peer } => {
                        assert!(here.insert(peer.id), "{number}: {peer:?} joins twice");
                    }
                    Event::PeerLeft { peer, .. } => {
                        assert!(here.remove(&peer.id), "{number}: {peer:?} leaves twice");
                    }
                    Event::Lagged { missed } => panic!("{number} lost {missed} events"),
                    _ => {}
                }
            }
        };
        tokio::select! {
            () = follow => panic!("{number}: the room ended by itself"),
            end = stopped => match end {
                Ok(End::Leave) => {
                    handle.leave().await;
                    let closed = time::timeout(CLOSE, live.close()).await;
                    closed.expect("those who vanished are not waited for");
                    None
                }
                _ => Some((live, handle)),
            }
        }
    });
    // With all tasks, before the handles: nothing is said.
    runtime.shutdown_background();
    drop(rest);
}

/// Resident memory in KiB, where the system tells.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

struct Game {
    rng: StdRng,
    peers: u8,
    url: RelayUrl,
    present: BTreeMap<u8, Player>,
    topic: RoomTicket,
    came: usize,
    left: usize,
    vanished: usize,
}

impl Game {
    /// Present at rest, so that one rest can be compared with another.
    fn at_rest(&self) -> usize {
        usize::from(self.peers) * 4 / 5
    }

    /// Present in between.
    fn at_least(&self) -> usize {
        usize::from(self.peers) * 3 / 5
    }

    /// The next ones to come, all at once.
    async fn come(&mut self, count: usize) {
        let absent = (1..=self.peers).filter(|number| !self.present.contains_key(number));
        let numbers = absent.choose_multiple(&mut self.rng, count);
        let ticket = match self.present.values().choose(&mut self.rng) {
            Some(player) => player.room.ticket().await.expect("open"),
            None => self.topic.clone(),
        };
        let entering: Vec<_> = numbers
            .into_iter()
            .map(|number| {
                let player = Player::enter(self.url.clone(), number, ticket.clone());
                (number, tokio::spawn(player))
            })
            .collect();
        for (number, player) in entering {
            self.present
                .insert(number, player.await.expect("it enters"));
            self.came += 1;
        }
    }

    async fn go(&mut self) {
        let Some(number) = self.present.keys().copied().choose(&mut self.rng) else {
            return;
        };
        let vanish = self.rng.random_bool(0.3);
        if let Some(player) = self.present.remove(&number) {
            let (how, count) = match vanish {
                true => (End::Vanish, &mut self.vanished),
                false => (End::Leave, &mut self.left),
            };
            *count += 1;
            player.end(how).await;
        }
    }

    async fn round(&mut self) {
        let end = Instant::now() + ROUND;
        while Instant::now() < end {
            if self.present.len() <= self.at_least() || self.rng.random_bool(0.5) {
                self.come(1).await;
            } else {
                self.go().await;
            }
            let pause = self.rng.random_range(0..STEP_MS);
            sleep(Duration::from_millis(pause)).await;
        }
        while self.present.len() > self.at_rest() {
            self.go().await;
        }
        self.come(self.at_rest() - self.present.len()).await;
    }

    /// What is not as it should be, for each who sees it so.
    fn mistakes(&self) -> Vec<String> {
        let truth: BTreeMap<EndpointId, u8> = self
            .present
            .iter()
            .map(|(number, player)| (player.id(), *number))
            .collect();
        let mistakes = self.present.iter().filter_map(|(number, player)| {
            let peers: BTreeMap<_, _> = player
                .room
                .peers()
                .into_iter()
                .map(|peer| (peer.id, peer.display_name))
                .collect();
            let missing: Vec<_> = truth
                .iter()
                .filter(|(id, _)| **id != player.id() && !peers.contains_key(*id))
                .map(|(_, number)| number)
                .collect();
            let ghosts: Vec<_> = peers
                .iter()
                .filter(|(id, _)| !truth.contains_key(*id))
                .map(|(_, name)| name)
                .collect();
            let wrong = !missing.is_empty() || !ghosts.is_empty();
            wrong.then(|| format!("{number} misses {missing:?} and sees ghosts {ghosts:?}"))
        });
        mistakes.collect()
    }

    async fn rest(&self) -> Duration {
        let began = Instant::now();
        loop {
            let mistakes = self.mistakes();
            if mistakes.is_empty() {
                return began.elapsed();
            }
            assert!(began.elapsed() < REST, "not at rest: {mistakes:#?}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_everyone_sees_who_is_there() {
    let time = Duration::from_millis(variable("CHURN_MS").unwrap_or(40_000));
    let seed = variable("CHURN_SEED").unwrap_or_else(rand::random);
    println!("CHURN_SEED={seed}");
    let mut relay = Relay::on_free_port().await;
    let mut game = Game {
        rng: StdRng::seed_from_u64(seed),
        peers: variable("CHURN_PEERS").map_or(PEERS, |peers| peers as u8),
        url: relay.url(),
        present: BTreeMap::new(),
        topic: RoomTicket::generate(),
        came: 0,
        left: 0,
        vanished: 0,
    };
    game.come(1).await;
    game.come(game.at_rest() - 1).await;
    println!("all are there after {:?}", game.rest().await);
    let began = Instant::now();
    let mut used = Vec::new();
    while began.elapsed() < time {
        if used.len() < OUTAGES {
            let addr = relay.stop().await;
            game.go().await;
            sleep(OUTAGE).await;
            relay = Relay::start(addr).await;
        }
        game.round().await;
        let rested = game.rest().await;
        used.push(memory().unwrap_or_default());
        println!(
            "{} came, {} left, {} vanished; at rest after {rested:?}, {} KiB",
            game.came,
            game.left,
            game.vanished,
            used.last().copied().unwrap_or_default()
        );
    }
    let players = game.present.into_values();
    let ending = players.map(|player| tokio::spawn(player.end(End::Leave)));
    for ended in ending.collect::<Vec<_>>() {
        ended.await.expect("its events are in order");
    }
    // What grows with every round doubles within a few; allocators of so many threads take some more.
    if let [first, .., last] = used[..] {
        assert!(last < first + first / 2, "memory grows: {used:?} KiB");
    }
    relay.stop().await;
}
