//! What MoQ costs beside plain QUIC streams between the same endpoints, in the same run.
//!
//! `cargo run --release -p iroh-rooms-moq --example bench [-- [--quick] [SUBSCRIBERS]...]` prints a
//! table on stderr and JSON on stdout. One process holds the publisher and all subscribers, on the loopback without a
//! relay; rounds of MoQ and of plain QUIC take turns, and the median of the rounds counts. Plain
//! QUIC means as many streams as MoQ has groups with as many messages in each, read by each
//! subscriber over a connection of its own; as much may be under way as MoQ's writer allows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::{
    Endpoint, EndpointAddr, RelayMode, SecretKey,
    endpoint::{Connection, QuicTransportConfig, presets},
    protocol::{AcceptError, ProtocolHandler, Router},
};
use iroh_rooms_moq::{
    ALPNS, Broadcast, Moq, Session, TrackConfig, TrackOptions, TrackReader, limits,
};
use tokio::task::JoinSet;

const PLAIN: &[u8] = b"plain";
const SMALL: usize = 200;
/// What flows: bytes of a message, and messages of a group or a stream.
#[derive(Clone, Copy)]
struct Shape {
    size: usize,
    count: usize,
}

impl Shape {
    /// Streams of plain QUIC that may be under way to one subscriber.
    fn window(self) -> usize {
        let streams = limits::MAX_UNDER_WAY_BYTES as usize / (self.size * self.count);
        streams.clamp(1, limits::MAX_UNDER_WAY_GROUPS)
    }
}

const READ: TrackOptions = TrackOptions {
    priority: 0,
    max_age: Duration::from_secs(60),
    start: None,
    ordered: false,
};

async fn endpoint() -> Endpoint {
    let transport = QuicTransportConfig::builder()
        .max_concurrent_uni_streams(1024u32.into())
        .build();
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::generate())
        .relay_mode(RelayMode::Disabled)
        .transport_config(transport)
        .clear_ip_transports()
        .bind_addr((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .bind()
        .await
        .unwrap()
}

/// Keeps the connections of plain QUIC.
#[derive(Debug, Clone, Default)]
struct Plain(Arc<Mutex<Vec<Connection>>>);

impl ProtocolHandler for Plain {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        self.0.lock().unwrap().push(connection.clone());
        // Answers requests with one byte.
        while let Ok((mut send, _recv)) = connection.accept_bi().await {
            let _closed = send.write_all(&[1]).await;
            let _closed = send.finish();
        }
        Ok(())
    }
}

struct Publisher {
    moq: Moq,
    plain: Plain,
    addr: EndpointAddr,
    _router: Router,
}

impl Publisher {
    async fn new() -> Self {
        let endpoint = endpoint().await;
        let (moq, plain) = (Moq::new(endpoint.clone()), Plain::default());
        let mut router = Router::builder(endpoint.clone()).accept(PLAIN, plain.clone());
        for alpn in ALPNS {
            router = router.accept(alpn, moq.protocol_handler());
        }
        let sockets = endpoint.bound_sockets().into_iter();
        let addr = sockets.fold(EndpointAddr::new(endpoint.id()), EndpointAddr::with_ip_addr);
        Self {
            moq,
            plain,
            addr,
            _router: router.spawn(),
        }
    }
}

struct Subscriber {
    endpoint: Endpoint,
    moq: Moq,
    session: Session,
    plain: Connection,
}

impl Subscriber {
    async fn new(publisher: &Publisher, times: &mut Times) -> Self {
        let endpoint = endpoint().await;
        let moq = Moq::new(endpoint.clone());
        let start = Instant::now();
        let plain = endpoint
            .connect(publisher.addr.clone(), PLAIN)
            .await
            .unwrap();
        times.plain.push(millis(start));
        let start = Instant::now();
        let session = moq.connect(publisher.addr.clone()).await.unwrap();
        times.moq.push(millis(start));
        Self {
            endpoint,
            moq,
            session,
            plain,
        }
    }

    async fn read(&self, name: &str) -> TrackReader {
        let remote = self.session.subscribe(name).await.unwrap();
        remote.track("t", READ).await.unwrap()
    }

    async fn close(self) {
        self.moq.shutdown().await;
        self.endpoint.close().await;
    }
}

/// Milliseconds or anything else, of both sides.
#[derive(Default)]
struct Times {
    moq: Vec<f64>,
    plain: Vec<f64>,
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get((last as f64 * q).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Seconds of processor time of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = |index: usize| -> f64 {
        let field = after.split(' ').nth(index);
        field.and_then(|field| field.parse().ok()).unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

/// MiB of this process in memory.
fn memory() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0.0) * 4096.0 / 1048576.0
}

/// Bytes and processor seconds of one round.
struct Flow {
    mib_per_s: f64,
    cpu_ms_per_mb: f64,
}

struct Round {
    start: Instant,
    cpu: f64,
    bytes: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Round {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            cpu: cpu(),
            bytes: Arc::default(),
            over: Arc::default(),
        }
    }

    fn end(self) -> Flow {
        self.over.store(true, Ordering::Relaxed);
        let bytes = self.bytes.load(Ordering::Relaxed) as f64;
        Flow {
            mib_per_s: bytes / 1048576.0 / self.start.elapsed().as_secs_f64(),
            cpu_ms_per_mb: (cpu() - self.cpu) * 1000.0 / (bytes / 1e6),
        }
    }
}

async fn moq_throughput(
    publisher: &Publisher,
    subscribers: &[Subscriber],
    Shape { size, count }: Shape,
    time: Duration,
) -> Flow {
    let broadcast = Broadcast::new();
    let mut track = broadcast.track("t", TrackConfig::default()).unwrap();
    publisher.moq.publish("flow", &broadcast).unwrap();
    let mut readers = Vec::new();
    for subscriber in subscribers {
        readers.push(subscriber.read("flow").await);
    }
    let round = Round::new();
    let mut tasks = JoinSet::new();
    for mut reader in readers {
        let bytes = round.bytes.clone();
        tasks.spawn(async move {
            while let Ok(Some(frame)) = reader.next_frame().await {
                bytes.fetch_add(frame.data.len() as u64, Ordering::Relaxed);
            }
        });
    }
    let data = Bytes::from(vec![7; size]);
    while round.start.elapsed() < time {
        if count == 1 {
            track.write(data.clone(), None).unwrap();
        } else {
            let mut group = track.group().unwrap();
            for _ in 0..count {
                group.write(data.clone(), None).unwrap();
            }
        }
        track.ready().await;
    }
    let flow = round.end();
    track.abort(0);
    broadcast.abort(0);
    publisher.moq.own().unpublish("flow");
    tasks.shutdown().await;
    flow
}

async fn plain_throughput(
    publisher: &Publisher,
    subscribers: &[Subscriber],
    shape: Shape,
    time: Duration,
) -> Flow {
    let connections = publisher.plain.0.lock().unwrap().clone();
    let round = Round::new();
    let mut tasks = JoinSet::new();
    for subscriber in subscribers {
        let (connection, bytes) = (subscriber.plain.clone(), round.bytes.clone());
        tasks.spawn(async move {
            while let Ok(mut stream) = connection.accept_uni().await {
                while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX).await {
                    bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
            }
        });
    }
    let data = Bytes::from(vec![7; shape.size]);
    for connection in connections {
        let (data, over) = (data.clone(), round.over.clone());
        tasks.spawn(async move {
            let mut under_way = JoinSet::new();
            while !over.load(Ordering::Relaxed) {
                if under_way.len() >= shape.window() {
                    under_way.join_next().await;
                }
                let Ok(mut stream) = connection.open_uni().await else {
                    return;
                };
                let data = data.clone();
                under_way.spawn(async move {
                    for _ in 0..shape.count {
                        let _closed = stream.write_chunk(data.clone()).await;
                    }
                    let _closed = stream.finish();
                    let _closed = stream.stopped().await;
                });
            }
        });
    }
    tokio::time::sleep(time).await;
    let flow = round.end();
    tokio::time::sleep(Duration::from_millis(200)).await;
    tasks.shutdown().await;
    flow
}

/// Milliseconds from writing to reading, of small messages at a moderate rate.
async fn moq_latency(publisher: &Publisher, subscribers: &[Subscriber], count: u32) -> Vec<f64> {
    let broadcast = Broadcast::new();
    let mut track = broadcast.track("t", TrackConfig::default()).unwrap();
    publisher.moq.publish("latency", &broadcast).unwrap();
    let zero = Instant::now();
    let mut tasks = JoinSet::new();
    for subscriber in subscribers {
        let mut reader = subscriber.read("latency").await;
        tasks.spawn(async move {
            let mut times = Vec::new();
            while let Ok(Some(frame)) = reader.next_frame().await {
                times.push(since(zero, &frame.data));
            }
            times
        });
    }
    for _ in 0..count {
        track.write(stamp(zero), None).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broadcast.finish();
    tasks.join_all().await.concat()
}

async fn plain_latency(publisher: &Publisher, subscribers: &[Subscriber], count: u32) -> Vec<f64> {
    let connections = publisher.plain.0.lock().unwrap().clone();
    let zero = Instant::now();
    let mut tasks = JoinSet::new();
    for subscriber in subscribers {
        let connection = subscriber.plain.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            while times.len() < count as usize {
                let mut stream = connection.accept_uni().await.unwrap();
                // A larger one is left over from the throughput.
                if let Ok(data) = stream.read_to_end(SMALL).await {
                    times.push(since(zero, &data));
                }
            }
            times
        });
    }
    for _ in 0..count {
        let data = stamp(zero);
        for connection in &connections {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_chunk(data.clone()).await.unwrap();
            stream.finish().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tasks.join_all().await.concat()
}

fn stamp(zero: Instant) -> Bytes {
    let mut data = vec![0; SMALL];
    let now = zero.elapsed().as_nanos() as u64;
    data.splice(..8, now.to_le_bytes());
    data.into()
}

fn since(zero: Instant, data: &[u8]) -> f64 {
    let sent = data.first_chunk().copied().map_or(0, u64::from_le_bytes);
    (zero.elapsed().as_nanos() as u64).saturating_sub(sent) as f64 / 1e6
}

/// From asking to the first byte.
async fn first_frame(publisher: &Publisher, subscriber: &Subscriber, rounds: u32) -> Times {
    let mut times = Times::default();
    for round in 0..rounds {
        let broadcast = Broadcast::new();
        let mut track = broadcast.track("t", TrackConfig::default()).unwrap();
        track.write(stamp(Instant::now()), None).unwrap();
        let name = format!("first{round}");
        publisher.moq.publish(&name, &broadcast).unwrap();
        let remote = subscriber.session.subscribe(&name).await.unwrap();
        let start = Instant::now();
        let mut reader = remote.track("t", READ).await.unwrap();
        reader.next_frame().await.unwrap().unwrap();
        times.moq.push(millis(start));
        broadcast.finish();

        let start = Instant::now();
        let (mut send, mut recv) = subscriber.plain.open_bi().await.unwrap();
        send.write_all(&[1]).await.unwrap();
        recv.read_exact(&mut [0]).await.unwrap();
        times.plain.push(millis(start));
    }
    times
}

/// Lines of the table, and the same as JSON.
#[derive(Default)]
struct Report(Vec<String>);

impl Report {
    fn add(&mut self, name: &str, unit: &str, subscribers: usize, moq: f64, plain: f64) {
        eprintln!(
            "{name:<32} {subscribers:>3} {moq:>9.2} {plain:>9.2} {unit:<7} {:.2}",
            moq / plain
        );
        self.0.push(format!(
            "{{\"name\":\"{name}\",\"unit\":\"{unit}\",\"subscribers\":{subscribers},\
             \"moq\":{moq:.4},\"quic\":{plain:.4},\"ratio\":{:.4}}}",
            moq / plain
        ));
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let mut counts: Vec<usize> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    if counts.is_empty() {
        counts = vec![1, 10, 50];
    }
    let (rounds, time, messages) = if quick {
        (1, Duration::from_millis(500), 50)
    } else {
        (5, Duration::from_secs(1), 200)
    };
    eprintln!("measure                    subscribers       moq      quic unit    ratio");
    let mut report = Report::default();
    for count in counts {
        let publisher = Publisher::new().await;
        let (mut setup, mut subscribers) = (Times::default(), Vec::new());
        for _ in 0..count {
            subscribers.push(Subscriber::new(&publisher, &mut setup).await);
        }
        if let ([first], false) = (&*subscribers, quick) {
            for _ in 0..20 {
                let more = Subscriber::new(&publisher, &mut setup).await;
                more.close().await;
            }
            publisher
                .plain
                .0
                .lock()
                .unwrap()
                .retain(|connection| connection.close_reason().is_none());
            let mut times = first_frame(&publisher, first, 20).await;
            let median = |values: &mut [f64]| quantile(values, 0.5);
            let (moq, plain) = (median(&mut times.moq), median(&mut times.plain));
            report.add("first frame p50", "ms", 1, moq, plain);
        }
        let median = |values: &mut [f64]| quantile(values, 0.5);
        let (moq, plain) = (median(&mut setup.moq), median(&mut setup.plain));
        report.add("session set-up p50", "ms", count, moq, plain);

        let before = memory();
        for (name, size, per_group) in [
            ("64 KiB", 64 * 1024, 1),
            ("1 KiB", 1024, 1),
            ("1 KiB, 64 in a group", 1024, 64),
        ] {
            let shape = Shape {
                size,
                count: per_group,
            };
            let (mut rates, mut costs) = (Times::default(), Times::default());
            for _ in 0..rounds {
                let flow = moq_throughput(&publisher, &subscribers, shape, time).await;
                rates.moq.push(flow.mib_per_s);
                costs.moq.push(flow.cpu_ms_per_mb);
                let flow = plain_throughput(&publisher, &subscribers, shape, time).await;
                rates.plain.push(flow.mib_per_s);
                costs.plain.push(flow.cpu_ms_per_mb);
            }
            for (what, unit, times) in [
                ("throughput", "MiB/s", &mut rates),
                ("processor", "ms/MB", &mut costs),
            ] {
                let (moq, plain) = (median(&mut times.moq), median(&mut times.plain));
                report.add(&format!("{what} {name}"), unit, count, moq, plain);
            }
        }
        let mut latency = Times::default();
        for _ in 0..rounds {
            latency
                .moq
                .extend(moq_latency(&publisher, &subscribers, messages).await);
            latency
                .plain
                .extend(plain_latency(&publisher, &subscribers, messages).await);
        }
        for (name, q) in [("latency p50", 0.5), ("latency p99", 0.99)] {
            let (moq, plain) = (
                quantile(&mut latency.moq, q),
                quantile(&mut latency.plain, q),
            );
            report.add(name, "ms", count, moq, plain);
        }
        eprintln!(
            "memory: {before:.0} MiB with {count} sessions, {:.0} MiB after",
            memory()
        );
        for subscriber in subscribers {
            subscriber.close().await;
        }
        publisher.moq.shutdown().await;
    }
    println!("[{}]", report.0.join(",\n"));
}
