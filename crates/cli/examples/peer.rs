//! A native peer for the benchmark: `peer RELAY` does what it is told, one command a line.
//!
//! `["method", argument]` on standard input; on standard output, after `{"type": "ready"}`, for each
//! `{"value": …}` or `{"error": "…"}`. The methods are those of the Sides in `bench/peers/`, so that the same measure
//! drives a tab and a process. Times of day are milliseconds since 1970. It ends with its input.

use std::{
    error::Error,
    time::{Duration, Instant, SystemTime},
};

use iroh_rooms::{
    Live, Relays, Room, RoomHandle, RoomTicket, StateRoom, channel::Channel, doorman::Options,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    task::JoinSet,
    time::sleep,
};

type Answer = Result<Value, Box<dyn Error + Send + Sync>>;

/// The channel of round trips.
const TRIPS: &str = "trips";
/// Bytes of a round trip's message, and of a change: with what JSON adds, about 200 and 100.
const TRIP_BYTES: usize = 170;
const CHANGE_BYTES: usize = 85;
/// Changes under way at once where their number counts: as many as a member may have.
const AT_ONCE: usize = 64;
/// Between two looks, and between two tries.
const PAUSE: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let relay = std::env::args().nth(1).ok_or("usage: peer RELAY")?;
    let mut peer = Peer {
        relay,
        live: None,
        room: None,
        state: None,
        tasks: JoinSet::new(),
    };
    println!("{}", json!({ "type": "ready" }));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        let method = command[0].as_str().unwrap_or_default();
        let answer = match peer.obey(method, &command[1]).await {
            Ok(value) => json!({ "value": value }),
            Err(error) => json!({ "error": format!("{method}: {error}") }),
        };
        println!("{answer}");
    }
    if let Some(live) = peer.live {
        live.close().await;
    }
    Ok(())
}

struct Peer {
    relay: String,
    live: Option<Live>,
    room: Option<RoomHandle>,
    state: Option<StateRoom>,
    /// What answers others meanwhile.
    tasks: JoinSet<()>,
}

impl Peer {
    async fn obey(&mut self, method: &str, of: &Value) -> Answer {
        match method {
            "start" => self.start().await,
            "gather" => self.gather(of).await,
            "gathered" => self.gathered(of).await,
            "links" => self.links().await,
            "create" => self.create(of).await,
            "join" => self.join(of).await,
            "voting" => self.voting(of).await,
            "standing" => self.standing(),
            "echo" => self.echo().await,
            "trips" => self.trips(of).await,
            "updates" => self.updates(of).await,
            "rate" => self.rate(of).await,
            "insist" => self.insist().await,
            _ => Err("no such method".into()),
        }
    }

    async fn start(&mut self) -> Answer {
        let relays = Relays::Custom(vec![self.relay.parse()?]);
        let live = Live::builder().relays(relays).spawn().await?;
        let id = live.endpoint_id().to_string();
        self.live = Some(live);
        Ok(json!(id))
    }

    // A room without a doorman.

    async fn gather(&mut self, of: &Value) -> Answer {
        let begun = now();
        self.start().await?;
        let ticket = match of["invite"].as_str() {
            Some(invite) => invite.parse()?,
            None => RoomTicket::generate(),
        };
        let room = Room::new(self.live()?, ticket).await?;
        let invite = room.ticket().await?.to_string();
        self.room = Some(room.handle().clone());
        Ok(json!({ "begun": begun, "invite": invite }))
    }

    /// The time of day at which so many others were present.
    async fn gathered(&mut self, of: &Value) -> Answer {
        let room = self.room()?;
        let mut events = room.events();
        while room.peers().len() < number(of) {
            events.recv().await.ok_or("the room closed")?;
        }
        Ok(json!(now()))
    }

    /// Sessions and links of the gossip are connections; bytes are those of the sessions, by path.
    async fn links(&mut self) -> Answer {
        let room = self.room()?;
        let (stats, paths) = (room.stats().await?, room.diagnose().await?);
        let bytes = |path: &str| -> u64 {
            let of_path = paths.iter().filter(|it| it.path == path);
            of_path.map(|it| it.bytes_sent + it.bytes_received).sum()
        };
        Ok(json!({
            "connections": stats.sessions + stats.neighbors,
            "bytes": { "relay": bytes("relay"), "direct": bytes("direct") },
        }))
    }

    // A room with a doorman.

    async fn create(&mut self, of: &Value) -> Answer {
        let room = StateRoom::create(self.live()?, None, options(of));
        self.enter(room).await?;
        Ok(json!(self.state()?.id().to_z32()))
    }

    /// Tries again until it is in. How long it took, and the time of day.
    async fn join(&mut self, of: &Value) -> Answer {
        let begun = Instant::now();
        let id = of["id"].as_str().ok_or("join what?")?;
        loop {
            let room = StateRoom::join(self.live()?, id, options(of));
            match self.enter(room).await {
                Ok(()) => return Ok(json!({ "ms": ms(begun), "at": now() })),
                Err(error) if of["insist"] != true => return Err(error.into()),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn enter(&mut self, room: StateRoom) -> Result<(), iroh_rooms::Error> {
        room.ready().await?;
        self.room = Some(room.room()?);
        self.state = Some(room);
        Ok(())
    }

    /// Waits until so many vote.
    async fn voting(&mut self, of: &Value) -> Answer {
        while self.state()?.consensus().voters.len() != number(of) {
            sleep(PAUSE).await;
        }
        Ok(Value::Null)
    }

    fn standing(&self) -> Answer {
        Ok(json!(self.state()?.consensus().is_doorman))
    }

    /// Answers round trips from now on.
    async fn echo(&mut self) -> Answer {
        let mut channel = self.room()?.channel(TRIPS).await?;
        self.tasks.spawn(async move {
            while let Some(message) = channel.recv().await {
                let Ok(ping) = serde_json::from_str::<Value>(&message.json) else {
                    continue;
                };
                if ping[0] == "ping" {
                    let pong = json!(["pong", ping[1], ping[2]]);
                    // Who is gone is not answered.
                    let _ = channel.send(&pong, Some(message.from), false).await;
                }
            }
        });
        Ok(Value::Null)
    }

    /// Round trips to a peer that echoes; the first one opens the way.
    async fn trips(&mut self, of: &Value) -> Answer {
        let to = of["to"].as_str().ok_or("to whom?")?.parse()?;
        let mut channel = self.room()?.channel(TRIPS).await?;
        let mut trips = Vec::new();
        for n in 0..=number(&of["count"]) {
            let begun = Instant::now();
            let ping = json!(["ping", n, "x".repeat(TRIP_BYTES)]);
            channel.send(&ping, Some(to), false).await?;
            pong(&mut channel, n).await?;
            if n > 0 {
                trips.push(ms(begun));
            }
        }
        Ok(json!(trips))
    }

    /// Changes one after the other, and how long each took.
    async fn updates(&mut self, of: &Value) -> Answer {
        let mut times = Vec::new();
        for n in 0..number(of) {
            let begun = Instant::now();
            self.state()?.merge(&change(n)).await?;
            times.push(ms(begun));
        }
        Ok(json!(times))
    }

    /// Changes a second, as many at once as it may make.
    async fn rate(&mut self, of: &Value) -> Answer {
        let span = Duration::from_millis(number(of) as u64);
        let begun = Instant::now();
        let (mut under_way, mut started, mut made) = (JoinSet::new(), 0, 0);
        while begun.elapsed() < span {
            while under_way.len() < AT_ONCE {
                let (room, change) = (self.state()?.clone(), change(started));
                under_way.spawn(async move { room.merge(&change).await });
                started += 1;
            }
            if let Some(done) = under_way.join_next().await {
                done??;
                made += 1;
            }
        }
        let rate = f64::from(made) / begun.elapsed().as_secs_f64();
        while under_way.join_next().await.is_some() {}
        Ok(json!(rate))
    }

    /// The time of day at which a change was made at last.
    async fn insist(&mut self) -> Answer {
        while self.state()?.merge(&change(0)).await.is_err() {
            sleep(PAUSE).await;
        }
        Ok(json!(now()))
    }

    fn live(&self) -> Result<&Live, &'static str> {
        self.live.as_ref().ok_or("not started")
    }

    fn room(&self) -> Result<&RoomHandle, &'static str> {
        self.room.as_ref().ok_or("in no room")
    }

    fn state(&self) -> Result<&StateRoom, &'static str> {
        self.state.as_ref().ok_or("in no room with a doorman")
    }
}

async fn pong(channel: &mut Channel, n: usize) -> Result<(), &'static str> {
    let begin = format!("[\"pong\",{n},");
    while !channel
        .recv()
        .await
        .ok_or("the room closed")?
        .json
        .starts_with(&begin)
    {}
    Ok(())
}

fn options(of: &Value) -> Options {
    Options {
        voters: number(&of["voters"]),
        ..Options::new(of["name"].as_str().unwrap_or_default())
    }
}

fn change(n: usize) -> String {
    json!({ "last": format!("{n:>CHANGE_BYTES$}") }).to_string()
}

fn number(of: &Value) -> usize {
    of.as_u64().unwrap_or_default() as usize
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64() * 1000.0
}
