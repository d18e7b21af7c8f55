//! `iroh-rooms bridge`: carries broadcasts between a room and another MoQ program, both ways.
//!
//! 1. What the program announces is published in the room, under its name.
//! 2. What peers of the room publish is announced to the program, under the peer's id and its name.
//! 3. Nothing is read on either side before somebody reads it on the other.
//!
//! The session with the program is in the endpoint's own scope, into which nobody else is let: what
//! is said in the room goes to that program alone.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    str::FromStr,
    time::Duration,
};

use iroh::{EndpointAddr, EndpointId};
use iroh_rooms::{
    Error, Event, Live, Room, RoomHandle, RoomTicket,
    moq::{Accept, Announce, Broadcast, Moq, RemoteBroadcast, Scope},
    room,
};
use serde_json::json;
use tokio::{task::JoinSet, time};

use crate::{Failure, Out, printable, ready, relays, shutdown_signal, ticket};

/// Time before the program is dialled again after a session ended or a dial failed; it doubles
/// with each failure up to the second.
const REDIAL_MIN: Duration = Duration::from_millis(500);
const REDIAL_MAX: Duration = Duration::from_secs(16);

/// Options of `iroh-rooms bridge`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A broadcast NAME of the program is NAME in the room, with `:` for each `/`. A \
    broadcast NAME of a peer is announced to the program as ID/NAME, ID being the peer's \
    endpoint id. The program sees nothing else of the room; its chat stays there."
)]
pub struct Args {
    /// The ticket, or a link with `#room=`. From IROH_LIVE_ROOM or IROH_LIVE_TOPIC when missing.
    ticket: Option<String>,
    /// The program: its endpoint id and the address where it listens. Without an address it is
    /// looked up, which needs the public relays.
    #[arg(long, value_name = "ID[@IP:PORT]", value_parser = parse_peer)]
    peer: EndpointAddr,
    /// The name to show in the room.
    #[arg(long, default_value = "bridge")]
    name: String,
    /// A relay to use; several may be named. Default: those of the ticket, else the public ones.
    #[arg(long)]
    relay: Vec<String>,
}

fn parse_peer(text: &str) -> Result<EndpointAddr, String> {
    let (id, addr) = text
        .split_once('@')
        .map_or((text, None), |(id, addr)| (id, Some(addr)));
    let peer = EndpointAddr::new(EndpointId::from_str(id).map_err(|error| error.to_string())?);
    Ok(match addr {
        None => peer,
        Some(addr) => peer.with_ip_addr(
            SocketAddr::from_str(addr).map_err(|error| format!("the address {addr}: {error}"))?,
        ),
    })
}

/// Joins, dials the program, and carries until told to leave.
pub async fn run(args: Args, out: Out) -> Result<(), Failure> {
    let ticket = ticket::given(args.ticket.as_deref())?;
    let live = Live::builder()
        .relays(relays(&args.relay, Some(&ticket))?)
        .accept(Accept::Manual)
        .spawn()
        .await
        .map_err(|error| Failure::start(error.to_string()))?;
    let result = stay(&live, ticket, args, out).await;
    live.close().await;
    result
}

async fn stay(live: &Live, ticket: RoomTicket, args: Args, out: Out) -> Result<(), Failure> {
    let options = room::Options {
        display_name: Some(args.name),
        ..Default::default()
    };
    let room = Room::open(live, ticket, options)
        .await
        .map_err(|error| Failure::start(error.to_string()))?;
    let (mut events, room) = room.split();
    ready(live, &room, out).await?;
    let mut bridge = Bridge {
        room,
        own: live.moq().own().clone(),
        peer: args.peer.id,
        names: HashMap::new(),
        tasks: JoinSet::new(),
        out,
    };
    bridge
        .tasks
        .spawn(keep_session(live.moq().clone(), args.peer, out));
    let mut announced = bridge.own.announced();
    let shutdown = shutdown_signal();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::BroadcastSubscribed { peer, name, broadcast, .. }) => {
                    bridge.carry_out(peer.id, &name, &broadcast);
                }
                Some(_) => {}
                None => return Err(Failure::runtime("the room closed".into())),
            },
            announce = announced.next() => match announce {
                Some(announce) => bridge.announce(announce),
                None => return Err(Failure::runtime("MoQ closed".into())),
            },
            // What has ended is let go of.
            Some(_) = bridge.tasks.join_next(), if !bridge.tasks.is_empty() => {}
            () = &mut shutdown => break,
        }
    }
    bridge.room.leave().await;
    Ok(())
}

struct Bridge {
    room: RoomHandle,
    own: Scope,
    peer: EndpointId,
    /// Names in the room of what the program announces, with its own names for them.
    names: HashMap<String, String>,
    /// They end with this: dropping the set aborts them.
    tasks: JoinSet<()>,
    out: Out,
}

impl Bridge {
    /// A peer's broadcast for the program. It is withdrawn when the peer's ends.
    fn carry_out(&self, from: EndpointId, name: &str, broadcast: &RemoteBroadcast) {
        if broadcast.is_closed() {
            return;
        }
        let there = format!("{from}/{name}");
        match self.own.publish(&there, &Broadcast::carrying(broadcast)) {
            Ok(()) => carried(self.out, "program", name, &there),
            Err(error) => self.out.error(&error.into(), &format!("{name}: ")),
        }
    }

    /// The program announces a broadcast, or withdraws it.
    fn announce(&mut self, announce: Announce) {
        let Announce {
            remote,
            name,
            active,
            ..
        } = announce;
        // Named after an endpoint: a bridge has carried it out of a room, and it does not come back.
        let from_a_room = name
            .split_once('/')
            .is_some_and(|(id, _)| EndpointId::from_str(id).is_ok());
        if remote != self.peer || from_a_room {
            return;
        }
        let here = name.replace('/', ":");
        match self.names.entry(here.clone()) {
            Entry::Occupied(taken) if *taken.get() != name => {
                let error = Error::InvalidArgument(format!(
                    "the room has {} as {here} already",
                    taken.get()
                ));
                self.out.error(&error, &format!("{name}: "));
            }
            Entry::Occupied(taken) if !active => {
                taken.remove();
            }
            Entry::Vacant(_) if !active => {}
            entry => {
                entry.insert_entry(name.clone());
                let carry = carry_in(
                    self.room.clone(),
                    self.own.clone(),
                    self.peer,
                    (name, here),
                    self.out,
                );
                self.tasks.spawn(carry);
            }
        }
    }
}

/// Publishes the program's broadcast in the room, until it ends there.
async fn carry_in(
    room: RoomHandle,
    own: Scope,
    peer: EndpointId,
    (name, here): (String, String),
    out: Out,
) {
    let result = async {
        let broadcast = own.subscribe(peer, &name).await?;
        room.publish(&here, &Broadcast::carrying(&broadcast)).await
    };
    match result.await {
        Ok(()) => carried(out, "room", &name, &here),
        Err(error) => out.error(&error, &format!("{name}: ")),
    }
}

/// Keeps a session with the program.
async fn keep_session(moq: Moq, program: EndpointAddr, out: Out) {
    let id = program.id;
    let mut pause = REDIAL_MIN;
    loop {
        match moq.connect(program.clone()).await {
            Ok(session) => {
                pause = REDIAL_MIN;
                out.line(
                    json!({ "type": "session-opened", "remote": id, "version": session.version() }),
                    &format!("* connected to {} by {}", id.fmt_short(), session.version()),
                );
                let error = session.closed().await;
                out.line(
                    json!({ "type": "session-closed", "remote": id, "message": error.to_string() }),
                    &printable(&format!("* lost {}: {error}", id.fmt_short())),
                );
            }
            Err(error) => out.error(&error.into(), &format!("{}: ", id.fmt_short())),
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(REDIAL_MAX);
    }
}

fn carried(out: Out, to: &str, from: &str, name: &str) {
    out.line(
        json!({ "type": "broadcast-carried", "to": to, "from": from, "name": name }),
        &printable(&format!("* {from} is {name} for the {to}")),
    );
}
