//! The native program: a relay, a terminal peer, agreed states, a bridge to MoQ programs and tickets.
//!
//! Every command takes `--json`: one JSON object a line on standard output, the first of
//! `type: "ready"`, events and fields named as in the TypeScript API. Without it the same
//! lines are written for people. Exit codes: 0 done, 1 failed while running, 2 wrong use,
//! 3 could not start (no relay, bad ticket, port taken).

mod bridge;
mod join;
mod relay;
mod state;
mod ticket;

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};
use iroh_rooms::{Live, Relays, RoomHandle, RoomTicket};
use serde_json::json;

/// Rooms without an application server: relay, terminal peer, agreed state, bridge, tickets.
#[derive(Debug, Parser)]
#[command(name = "iroh-rooms", version, propagate_version = true)]
struct Cli {
    /// Write one JSON object a line instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an iroh relay. Browsers reach other peers only through one.
    Relay(relay::Args),
    /// Join a room and chat.
    Join(join::Args),
    /// See and change the state that a room with a doorman agrees on.
    State(state::Args),
    /// Carry broadcasts between a room and another MoQ program.
    Bridge(bridge::Args),
    /// Make a ticket, or look into one.
    #[command(subcommand)]
    Ticket(ticket::Args),
}

/// Why the program ends with another code than 0.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// It was called in a wrong way: exit code 2, as for wrong options.
    pub fn usage(message: String) -> Self {
        Self { code: 2, message }
    }

    /// It never ran: exit code 3.
    pub fn start(message: String) -> Self {
        Self { code: 3, message }
    }

    /// It ran and then failed: exit code 1.
    pub fn runtime(message: String) -> Self {
        Self { code: 1, message }
    }
}

/// Standard output, for people or as JSON lines.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    json: bool,
}

impl Out {
    /// Writes what went wrong, and goes on.
    pub fn error(&self, error: &iroh_rooms::Error, about: &str) {
        self.line(
            json!({ "type": "error", "code": error.code(), "message": error.to_string() }),
            &printable(&format!("! {about}{error}")),
        );
    }

    /// Writes a line that only programs need: nothing without `--json`.
    pub fn json(&self, json: &serde_json::Value) {
        if self.json {
            self.line(json.clone(), "");
        }
    }

    /// Writes one line: `json` under `--json`, else `text`.
    pub fn line(&self, json: serde_json::Value, text: &str) {
        let mut stdout = std::io::stdout().lock();
        // A closed pipe is the reader's way to say it has seen enough.
        let _ = if self.json {
            writeln!(stdout, "{json}")
        } else {
            writeln!(stdout, "{text}")
        };
        let _ = stdout.flush();
    }
}

/// Resolves on Ctrl-C, and on SIGTERM where there is one.
pub async fn shutdown_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// Reads a relay's URL.
pub fn relay_url(text: &str) -> Result<iroh::RelayUrl, Failure> {
    text.parse()
        .map_err(|error| Failure::usage(format!("--relay {text}: {error}")))
}

/// The relays named, else those of the ticket, else the public ones.
pub fn relays(named: &[String], ticket: Option<&RoomTicket>) -> Result<Relays, Failure> {
    let urls = if named.is_empty() {
        ticket.map(|it| it.relays.clone()).unwrap_or_default()
    } else {
        named
            .iter()
            .map(|url| relay_url(url))
            .collect::<Result<_, _>>()?
    };
    Ok(if urls.is_empty() {
        Relays::N0
    } else {
        Relays::Custom(urls)
    })
}

/// Says that it is in the room, and how others get there.
pub async fn ready(live: &Live, room: &RoomHandle, out: Out) -> Result<(), Failure> {
    let ticket = room
        .ticket()
        .await
        .map_err(|error| Failure::start(error.to_string()))?;
    let id = live.endpoint_id();
    out.line(
        json!({
            "type": "ready",
            "endpointId": id,
            "ticket": ticket.to_string(),
            "relayUrl": live.relay_url(),
        }),
        &format!(
            "in the room as {}\nothers join with: iroh-rooms join {ticket}",
            id.fmt_short()
        ),
    );
    Ok(())
}

/// Without what could steer a terminal: names and messages come from others.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// What is logged unless `RUST_LOG` says otherwise. Not what the relay's HTTP server says of idle
/// browser connections, which it calls errors.
const DEFAULT_LOG: &str = "error,iroh_relay::server::http_server=off";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| DEFAULT_LOG.into()))
        .with_writer(std::io::stderr)
        .init();
    let out = Out { json: cli.json };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("iroh-rooms: {error}");
            return ExitCode::from(3);
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Relay(args) => relay::run(args, out).await,
            Command::Join(args) => join::run(args, out).await,
            Command::State(args) => state::run(args, out).await,
            Command::Bridge(args) => bridge::run(args, out).await,
            Command::Ticket(args) => ticket::run(args, out),
        }
    });
    // A read of standard input cannot be cancelled, and must not be waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("iroh-rooms: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
