//! `iroh-rooms ticket`: makes tickets and shows what is in one.

use iroh_rooms::RoomTicket;
use serde_json::json;

use crate::{Failure, Out};

/// Options of `iroh-rooms ticket`.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Make the ticket of a new room.
    New {
        /// A relay to name in the ticket, so that who has it needs no other setting. At most 4.
        #[arg(long)]
        relay: Vec<String>,
    },
    /// Show what a ticket says.
    Show {
        /// The ticket, or a link with `#room=`.
        ticket: String,
    },
}

/// The ticket given as an argument, else the environment's.
pub fn given(text: Option<&str>) -> Result<RoomTicket, Failure> {
    text.map_or_else(RoomTicket::new_from_env, str::parse)
        .map_err(|error| Failure::start(error.to_string()))
}

/// Makes or shows a ticket.
pub fn run(args: Args, out: Out) -> Result<(), Failure> {
    match args {
        Args::New { relay } => {
            let mut ticket = RoomTicket::generate();
            for url in relay {
                let url = crate::relay_url(&url)?;
                if ticket.add_relay(&url).is_none() {
                    return Err(Failure::start("a ticket names at most 4 relays".into()));
                }
            }
            out.line(
                json!({ "type": "ready", "ticket": ticket.to_string() }),
                &ticket.to_string(),
            );
        }
        Args::Show { ticket } => {
            let ticket: RoomTicket = ticket
                .parse()
                .map_err(|error| Failure::start(format!("{error}")))?;
            let topic = ticket.topic_id.to_string();
            let peers: Vec<_> = ticket
                .bootstrap
                .iter()
                .map(|peer| json!({ "id": peer, "relayUrl": ticket.relay_of(peer) }))
                .collect();
            let mut text = format!("topic  {topic}");
            for peer in &ticket.bootstrap {
                text += &format!("\npeer   {peer}");
                if let Some(relay) = ticket.relay_of(peer) {
                    text += &format!(" at {relay}");
                }
            }
            for relay in &ticket.relays {
                text += &format!("\nrelay  {relay}");
            }
            let room_id = ticket.room_id.map(iroh_rooms::hex);
            if let Some(room_id) = &room_id {
                text += &format!("\nroom   {room_id}");
            }
            let line = json!({
                "type": "ready",
                "topicId": topic,
                "bootstrap": peers,
                "relays": ticket.relays,
                "roomId": room_id,
            });
            out.line(line, &text);
        }
    }
    Ok(())
}
