//! `iroh-rooms relay`: an embedded iroh relay for development, tests and small deployments.

use std::net::SocketAddr;

use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use serde_json::json;

use crate::{Failure, Out, shutdown_signal};

/// Where the relay listens unless told otherwise.
pub const DEFAULT_BIND: &str = "127.0.0.1:3340";

/// Options of `iroh-rooms relay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on, plain HTTP; port 0 takes a free one.
    #[arg(long, default_value = DEFAULT_BIND)]
    bind: SocketAddr,
}

/// Runs the relay until the process is told to stop.
pub async fn run(args: Args, out: Out) -> Result<(), Failure> {
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new(args.bind));
    let server = Server::spawn(config).await.map_err(|error| {
        Failure::start(format!(
            "the relay cannot listen on {}: {error:#}. Another program may use the port: pass `--bind 127.0.0.1:0` for a free one.",
            args.bind
        ))
    })?;
    let addr = server
        .http_addr()
        .ok_or_else(|| Failure::start("the relay has no HTTP address".into()))?;
    let url = format!("http://{addr}");
    out.line(
        json!({ "type": "ready", "url": url }),
        &format!("relay at {url}, Ctrl-C stops it"),
    );
    shutdown_signal().await;
    server
        .shutdown()
        .await
        .map_err(|error| Failure::runtime(format!("the relay did not stop cleanly: {error:#}")))
}
