//! `iroh-rooms join`: a peer in the terminal. Lines in are chat, events come out.

use std::time::{Duration, SystemTime};

use iroh::EndpointId;
use iroh_rooms::{
    Event, Live, Peer, Room, RoomHandle, RoomTicket,
    event::{LeftReason, Status},
    moq::{Broadcast, TrackConfig, TrackOptions, TrackWriter},
    room,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin},
    task::JoinSet,
    time,
};

use crate::{Failure, Out, printable, ready, relays, shutdown_signal, ticket};

/// The track of a broadcast that `--publish` makes.
const CLOCK_TRACK: &str = "clock";
const FILE_TRACK: &str = "data";
/// Bytes of a file in one frame.
const FILE_FRAME: usize = 64 * 1024;
/// How long published text and files are kept for readers.
const KEPT: Duration = Duration::from_secs(60);

/// Options of `iroh-rooms join`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "In the room: a line is chat, `/name NAME` changes your name, `/who` lists \
    who is here, `/quit` leaves."
)]
pub struct Args {
    /// The ticket, or a link with `#room=`. From IROH_LIVE_ROOM or IROH_LIVE_TOPIC when missing.
    ticket: Option<String>,
    /// The name to show.
    #[arg(long)]
    name: Option<String>,
    /// A relay to use; several may be named. Default: those of the ticket, else the public ones.
    #[arg(long)]
    relay: Vec<String>,
    /// Publish a broadcast: NAME sends a clock, NAME=FILE the file's bytes.
    #[arg(long, value_name = "NAME[=FILE]")]
    publish: Vec<String>,
    /// Read a track of a peer: PEER is an id, the start of one, a display name, or `*` for all.
    #[arg(long, value_name = "PEER/NAME/TRACK")]
    read: Vec<String>,
}

/// What is read from whom.
#[derive(Debug, Clone)]
struct Wanted {
    peer: String,
    name: String,
    track: String,
}

/// Joins and stays until told to leave.
pub async fn run(args: Args, out: Out) -> Result<(), Failure> {
    let ticket = ticket::given(args.ticket.as_deref())?;
    let wanted = args
        .read
        .iter()
        .map(|text| parse_wanted(text))
        .collect::<Result<Vec<_>, _>>()?;
    let live = Live::builder()
        .relays(relays(&args.relay, Some(&ticket))?)
        .spawn()
        .await
        .map_err(|error| Failure::start(error.to_string()))?;
    let result = stay(&live, ticket, args, wanted, out).await;
    live.close().await;
    result
}

async fn stay(
    live: &Live,
    ticket: RoomTicket,
    args: Args,
    wanted: Vec<Wanted>,
    out: Out,
) -> Result<(), Failure> {
    let options = room::Options {
        display_name: args.name,
        ..Default::default()
    };
    let room = Room::open(live, ticket, options)
        .await
        .map_err(|error| Failure::start(error.to_string()))?;
    let (mut events, room) = room.split();
    // Tasks end with this function: dropping the set aborts them.
    let mut tasks = JoinSet::new();
    for publish in &args.publish {
        start_publishing(&room, publish, &mut tasks).await?;
    }
    ready(live, &room, out).await?;
    let mut lines = Some(BufReader::new(tokio::io::stdin()).lines());
    let shutdown = shutdown_signal();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else {
                    return Err(Failure::runtime("the room closed".into()));
                };
                if let Event::BroadcastSubscribed { peer, name, .. } = &event {
                    for wanted in wanted.iter().filter(|wanted| wanted.matches(peer, name)) {
                        tasks.spawn(read_track(room.clone(), peer.id, wanted.clone(), out));
                    }
                }
                show(&event, out);
            }
            line = next_line(&mut lines) => {
                if !obey(&room, line.trim(), out).await {
                    break;
                }
            }
            () = &mut shutdown => break,
        }
    }
    room.leave().await;
    Ok(())
}

/// The next line of input; never, once there is no more: then this peer only listens.
pub async fn next_line(lines: &mut Option<Lines<BufReader<Stdin>>>) -> String {
    if let Some(open) = lines {
        if let Ok(Some(line)) = open.next_line().await {
            return line;
        }
        *lines = None;
    }
    std::future::pending().await
}

/// Does what a line says; `false` to leave.
async fn obey(room: &RoomHandle, line: &str, out: Out) -> bool {
    let result = match line.split_once(' ').unwrap_or((line, "")) {
        ("", _) => Ok(()),
        ("/quit", _) => return false,
        ("/name", name) => {
            room.set_display_name(Some(name.trim()).filter(|n| !n.is_empty()))
                .await
        }
        ("/who", _) => {
            for peer in room.peers() {
                let text = format!("  {}", who(&peer));
                out.line(json!({ "type": "peer", "peer": peer }), &text);
            }
            Ok(())
        }
        (command, _) if command.starts_with('/') => Err(iroh_rooms::Error::InvalidArgument(
            format!("{command}: there is /name, /who and /quit"),
        )),
        _ => room.send_chat(line).await.map(drop),
    };
    if let Err(error) = result {
        out.error(&error, "");
    }
    true
}

fn parse_wanted(text: &str) -> Result<Wanted, Failure> {
    match text.splitn(3, '/').collect::<Vec<_>>()[..] {
        [peer, name, track] if !peer.is_empty() && !name.is_empty() && !track.is_empty() => {
            Ok(Wanted {
                peer: peer.into(),
                name: name.into(),
                track: track.into(),
            })
        }
        _ => Err(Failure::usage(format!(
            "--read {text}: write PEER/NAME/TRACK"
        ))),
    }
}

impl Wanted {
    fn matches(&self, peer: &Peer, name: &str) -> bool {
        let named = peer.display_name.as_ref() == Some(&self.peer);
        let by_id = peer.id.to_string().starts_with(&self.peer);
        self.name == name && (self.peer == "*" || named || by_id)
    }
}

async fn start_publishing(
    room: &RoomHandle,
    publish: &str,
    tasks: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let failed = |error: iroh_rooms::Error| Failure::start(format!("--publish {publish}: {error}"));
    let (name, file) = publish
        .split_once('=')
        .map_or((publish, None), |(n, f)| (n, Some(f)));
    let broadcast = Broadcast::new();
    let track = |name| {
        let config = TrackConfig {
            priority: 0,
            max_age: KEPT,
        };
        broadcast
            .track(name, config)
            .map_err(|error| failed(error.into()))
    };
    match file {
        None => {
            tasks.spawn(tell_time(track(CLOCK_TRACK)?));
        }
        Some(path) => {
            let data = tokio::fs::read(path)
                .await
                .map_err(|error| Failure::start(format!("--publish {publish}: {error}")))?;
            send_file(track(FILE_TRACK)?, data, tasks).map_err(failed)?;
        }
    }
    room.publish(name, &broadcast).await.map_err(failed)
}

/// Writes the time of day, once a second, as text.
async fn tell_time(mut track: TrackWriter) {
    let mut tick = time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = now.as_secs() % 86_400;
        let text = format!(
            "{:02}:{:02}:{:02} UTC",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        );
        if track.write(text.into(), Some(now)).is_err() {
            return;
        }
    }
}

/// Writes a file as one group, and keeps the track open for readers who come later.
fn send_file(
    mut track: TrackWriter,
    data: Vec<u8>,
    tasks: &mut JoinSet<()>,
) -> Result<(), iroh_rooms::Error> {
    let data = bytes::Bytes::from(data);
    let mut group = track.group()?;
    for start in (0..data.len()).step_by(FILE_FRAME) {
        group.write(data.slice(start..data.len().min(start + FILE_FRAME)), None)?;
    }
    group.finish();
    tasks.spawn(async move {
        let _open = track;
        std::future::pending().await
    });
    Ok(())
}

async fn read_track(room: RoomHandle, peer: EndpointId, wanted: Wanted, out: Out) {
    let options = TrackOptions {
        max_age: KEPT,
        start: None,
        ordered: true,
        priority: 0,
    };
    let result = async {
        let broadcast = room.subscribe(peer, &wanted.name).await?;
        let mut reader = broadcast.track(&wanted.track, options).await?;
        while let Some(frame) = reader.next_frame().await? {
            let text = std::str::from_utf8(&frame.data).ok();
            let line = json!({
                "type": "frame",
                "peer": peer,
                "name": wanted.name,
                "track": wanted.track,
                "group": frame.group,
                "index": frame.index,
                "bytes": frame.data.len(),
                "text": text,
            });
            let shown =
                text.map_or_else(|| format!("{} bytes", frame.data.len()), ToOwned::to_owned);
            out.line(
                line,
                &format!(
                    "{} {}/{}: {shown}",
                    peer.fmt_short(),
                    wanted.name,
                    wanted.track
                ),
            );
        }
        Ok::<_, iroh_rooms::Error>(())
    };
    if let Err(error) = result.await {
        out.error(&error, &format!("{}/{}: ", wanted.name, wanted.track));
    }
}

/// Writes an event.
pub fn show(event: &Event, out: Out) {
    let text = match event {
        Event::PeerJoined { peer } => format!("+ {} is here", who(peer)),
        Event::PeerUpdated { peer, .. } => format!("* {} changed", who(peer)),
        Event::PeerLeft {
            peer,
            reason: LeftReason::Timeout,
        } => format!("- {} is lost", who(peer)),
        Event::PeerLeft { peer, .. } => format!("- {} left", who(peer)),
        Event::BroadcastAnnounced { peer, names } => {
            format!("* {} publishes {}", who(peer), names.join(", "))
        }
        Event::BroadcastSubscribed { peer, name, .. } => {
            format!("* {} can be read from {}", name, who(peer))
        }
        Event::BroadcastEnded { peer, name, .. } => format!("* {} of {} ended", name, who(peer)),
        Event::ChatMessage(message) => format!("{}: {}", who(&message.peer), message.text),
        Event::Status {
            status: Status::Connected,
        } => "* connected".into(),
        Event::Status { status } => format!("* {status:?}").to_lowercase(),
        Event::Lagged { missed } => format!("! {missed} events were lost: too slow"),
        Event::DoormanChanged {
            doorman,
            participant_id,
            is_self,
        } => match (participant_id, doorman) {
            _ if *is_self => "* you stand at the door".into(),
            (Some(name), _) => format!("* {name} stands at the door"),
            (None, Some(id)) => format!("* {} stands at the door", id.fmt_short()),
            (None, None) => "* nobody stands at the door".into(),
        },
        Event::QuorumLost { missing, .. } => {
            format!(
                "! {} of those who vote are missing: the state cannot be changed",
                missing.len()
            )
        }
        Event::QuorumRestored => "* the state can be changed again".into(),
        Event::Recovered { lossless: true, .. } => {
            "* the room goes on, with all that was made".into()
        }
        Event::Recovered { .. } => "! the room goes on; changes may be lost".into(),
        Event::Superseded { orphaned } => {
            format!(
                "! another course of the room won; {} changes were made only here",
                orphaned.len()
            )
        }
        Event::Rotated { id } => format!("* the room has a new id: {id}"),
        Event::Ended { reason } => format!("! the room is over: {reason:?}").to_lowercase(),
        Event::Error { message, .. } => format!("! {message}"),
        other => format!("{other:?}"),
    };
    // Events serialise: they hold nothing but strings and numbers.
    out.line(
        serde_json::to_value(event).unwrap_or_default(),
        &printable(&text),
    );
}

fn who(peer: &Peer) -> String {
    match &peer.display_name {
        Some(name) => format!("{name} ({})", peer.id.fmt_short()),
        None => peer.id.fmt_short().to_string(),
    }
}
