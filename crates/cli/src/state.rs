//! `iroh-rooms state`: shows and changes the state of a room with a doorman.

use std::time::Duration;

use iroh_rooms::{
    Live, RoomTicket, StateRoom,
    doorman::{Changes, How, Options, Update},
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    Failure, Out,
    join::{next_line, show},
    printable, relays, shutdown_signal,
};

/// How often it is looked at how the agreement stands.
const LOOK: Duration = Duration::from_millis(250);
/// How long a room is looked for.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Options of `iroh-rooms state`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --watch, --set and --create the state is written once. With --watch or \
    --create each line of input is JSON to merge into it, or a JSON patch in brackets."
)]
pub struct Args {
    /// The room's id, its name, a ticket, or a link with `#room=`. Only a room that is created may go
    /// without.
    #[arg(required_unless_present = "create")]
    room: Option<String>,
    /// Stay, and write each change.
    #[arg(long, conflicts_with = "set")]
    watch: bool,
    /// Merge this into the state, and leave.
    #[arg(long, value_name = "JSON")]
    set: Option<String>,
    /// The name among the participants. Default: one that nobody else has.
    #[arg(long, value_name = "PARTICIPANT")]
    name: Option<String>,
    /// Make the room, with this state, and stay. Under a name, if one is given before it.
    #[arg(long, value_name = "JSON", num_args = 0..=1, default_missing_value = "{}", conflicts_with = "set")]
    create: Option<String>,
    /// A relay to use; several may be named. Default: those of the ticket, else the public ones.
    #[arg(long)]
    relay: Vec<String>,
}

/// Enters the room, and does what is asked.
pub async fn run(args: Args, out: Out) -> Result<(), Failure> {
    let ticket = args
        .room
        .as_ref()
        .and_then(|it| it.parse::<RoomTicket>().ok());
    let live = Live::builder()
        .relays(relays(&args.relay, ticket.as_ref())?)
        .spawn()
        .await
        .map_err(|error| Failure::start(error.to_string()))?;
    let result = visit(&live, args, out).await;
    live.close().await;
    result
}

async fn visit(live: &Live, args: Args, out: Out) -> Result<(), Failure> {
    let name = args
        .name
        .unwrap_or_else(|| format!("terminal {}", live.endpoint_id().fmt_short()));
    let how = match args.create {
        Some(_) => How::Create,
        None => How::Join,
    };
    let stays = args.watch || args.create.is_some();
    let options = Options {
        initial_state: args.create,
        join_timeout: JOIN_TIMEOUT,
        ..Options::new(name)
    };
    let room = StateRoom::open(live, how, args.room.as_deref(), options);
    room.ready()
        .await
        .map_err(|error| Failure::start(error.to_string()))?;
    let id = room.id().to_z32();
    out.line(
        json!({
            "type": "ready",
            "endpointId": live.endpoint_id(),
            "roomId": id,
            "relayUrl": live.relay_url(),
        }),
        &format!("in the room {id}"),
    );
    if let Some(change) = &args.set {
        let failed = |error: iroh_rooms::Error| Failure::runtime(error.to_string());
        room.merge(change).await.map_err(failed)?;
    }
    let mut changes = room.changes();
    if !stays {
        tell(changes.recv().await, out);
        room.leave().await;
        return Ok(());
    }
    stay(&room, changes, out).await
}

async fn stay(room: &StateRoom, mut changes: Changes, out: Out) -> Result<(), Failure> {
    let handle = room
        .room()
        .map_err(|error| Failure::runtime(error.to_string()))?;
    let mut events = handle.events();
    let mut lines = Some(BufReader::new(tokio::io::stdin()).lines());
    let shutdown = shutdown_signal();
    tokio::pin!(shutdown);
    let mut look = tokio::time::interval(LOOK);
    let mut told = serde_json::Value::Null;
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => show(&event, out),
                None => return Err(Failure::runtime("the room is over".into())),
            },
            update = changes.recv() => tell(update, out),
            line = next_line(&mut lines) => if !line.trim().is_empty() {
                // One that takes long holds up what is written, and nothing else.
                let made = match line.trim() {
                    patch if patch.starts_with('[') => room.patch(patch).await,
                    merge => room.merge(merge).await,
                };
                match made {
                    Ok(index) => out.json(&json!({ "type": "made", "index": index })),
                    Err(error) => out.error(&error, ""),
                }
            },
            _ = look.tick() => {
                let now = standing(room);
                if now != told {
                    out.json(&now);
                    told = now;
                }
            },
            () = &mut shutdown => break,
        }
    }
    room.leave().await;
    Ok(())
}

/// How the agreement stands, and who is there.
fn standing(room: &StateRoom) -> serde_json::Value {
    let consensus = room.consensus();
    let participants = room.participants().into_iter();
    let names: Vec<String> = participants.map(|it| it.participant_id).collect();
    json!({
        "type": "standing",
        "status": consensus.status,
        "doorman": consensus.doorman,
        "isDoorman": consensus.is_doorman,
        "voters": consensus.voters,
        "participants": names,
    })
}

fn tell(update: Option<Update>, out: Out) {
    let Some(update) = update else { return };
    let text = match &update {
        Update::State { state, .. } => state.get().to_owned(),
        Update::Change {
            change,
            author,
            refused,
            ..
        } => {
            let refused = refused.as_ref().map(|why| format!(" (refused: {why})"));
            let who = author.fmt_short();
            format!("{who}: {}{}", change.get(), refused.unwrap_or_default())
        }
    };
    // It holds nothing but JSON and strings.
    let line = serde_json::to_value(&update).unwrap_or_default();
    out.line(line, &printable(&text));
}
