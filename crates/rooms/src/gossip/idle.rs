//! Connections of gossip that nobody needs any more.
//!
//! iroh-gossip lets go of a connection by finishing its streams and then waits for the idle timeout to
//! close it. This endpoint keeps its connections alive, so that timeout never comes: each room that is
//! left would leave one behind, with its memory and its packets, for as long as both endpoints live.

use std::time::Duration;

use iroh::endpoint::Connection;
use n0_future::{task, time};

/// Presence is written every 10 s, and goes over every connection that is in use.
const CHECK_PAUSE: Duration = Duration::from_secs(10);
/// So many checks in a row without a stream frame, and it is closed.
const SILENT_CHECKS: u32 = 3;

/// Closes the connection when it has carried nothing for a while. If gossip still wanted it, it dials
/// anew. One side of each connection is enough: the one that accepted it.
pub(super) fn close_when_silent(connection: &Connection) {
    let connection = connection.weak_handle();
    task::spawn(async move {
        let (mut frames, mut silent) = (0, 0);
        loop {
            time::sleep(CHECK_PAUSE).await;
            let Some(connection) = connection.upgrade() else {
                return;
            };
            if connection.close_reason().is_some() {
                return;
            }
            let stats = connection.stats();
            let now = stats.frame_rx.stream + stats.frame_tx.stream;
            silent = if now == frames { silent + 1 } else { 0 };
            frames = now;
            if silent >= SILENT_CHECKS {
                connection.close(0u32.into(), b"silent");
                return;
            }
        }
    });
}
