//! A room of two within the process, to have run everything once.
//!
//! Browsers compile a function of a WebAssembly module when it is called for the first time, and most
//! of what a tab's first room takes is that: some half a second against less than a tenth of one.

use iroh_gossip::TopicId;
use n0_future::time::{Duration, sleep, timeout};

use crate::{Error, Event, Live, Room, RoomTicket, transport::Line};

/// An application that enters a room as soon as it can does so within this time. It needs the thread
/// for that, and compiles the same functions thereby.
const PAUSE: Duration = Duration::from_millis(50);
/// For all of it. What takes longer on a busy machine is left.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Runs a room of two that nobody sees, unless a room is entered at once. For a `Live` in WebAssembly
/// that has just started.
pub async fn warm_up(live: Live) -> Result<(), Error> {
    sleep(PAUSE).await;
    if !live.is_idle() {
        return Ok(());
    }
    drop(live);
    let [first, second] = Line::pair().map(|line| Live::builder().on_line(line));
    let (first, second) = (first.spawn().await?, second.spawn().await?);
    first.learn_addr(second.endpoint_id(), Line::other(0));
    second.learn_addr(first.endpoint_id(), Line::other(1));
    let talked = timeout(TIME_LIMIT, talk(&first, &second)).await;
    first.close().await;
    second.close().await;
    talked.map_err(|_| Error::Timeout("a room within the process"))?
}

async fn talk(first: &Live, second: &Live) -> Result<(), Error> {
    let topic = TopicId::from_bytes(rand::random());
    let mut host = Room::new(first, RoomTicket::new(topic, [])).await?;
    let mut guest = Room::new(second, RoomTicket::new(topic, [first.endpoint_id()])).await?;
    guest.send_chat("guest").await?;
    heard(&mut host).await;
    host.send_chat("host").await?;
    heard(&mut guest).await;
    Ok(())
}

/// Waits for what the other says.
async fn heard(room: &mut Room) {
    let me = room.handle().me().id;
    while let Some(event) = room.recv().await {
        if matches!(event, Event::ChatMessage(message) if message.peer.id != me) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Relays;

    #[tokio::test]
    async fn a_room_of_two_needs_no_network() -> Result<(), Error> {
        let live = Live::builder().relays(Relays::Disabled).spawn().await?;
        warm_up(live.clone()).await?;
        live.close().await;
        Ok(())
    }
}
