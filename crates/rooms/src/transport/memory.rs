//! A transport of iroh within the process: an end of a line to another endpoint, or to nobody.
//!
//! It has two uses:
//! - A line to nobody sends and receives nothing, and only says how many packets may travel together.
//!   In a browser a WebSocket message costs the same whatever its size, and iroh sends one QUIC packet
//!   in each, because it takes this number from its custom transports and has none there.
//! - A line between two endpoints lets [`crate::warm_up`] run a room without a network.
//!
//! The interface is unstable, so all that uses it is in this file.

use std::{
    io,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use iroh::{
    TransportAddr,
    endpoint::transports::{CustomEndpoint, CustomSender, CustomTransport, RecvInfo, Transmit},
};
use iroh_base::CustomAddr;
use n0_watcher::{Direct, Watchable};
use tokio::sync::mpsc;

/// Packets in one message; a relay frame holds not many more.
const SEGMENTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);
/// Packets on a line that the other end has not read; more are lost, as on any network.
const PACKETS_CAP: usize = 256;
/// Which transport an address belongs to, among all of iroh's.
const ID: u64 = u64::from_be_bytes(*b"iroh-rms");

/// One end of a line, for one endpoint.
#[derive(Debug)]
pub(crate) struct Line(Mutex<Option<End>>);

impl Line {
    /// To nobody.
    #[cfg(target_family = "wasm")]
    pub(super) fn to_nobody() -> Self {
        Self::new(None)
    }

    /// The two ends of a line.
    pub(crate) fn pair() -> [Self; 2] {
        let (to_second, second) = mpsc::channel(PACKETS_CAP);
        let (to_first, first) = mpsc::channel(PACKETS_CAP);
        [(0, to_second, first), (1, to_first, second)]
            .map(|(place, outbox, inbox)| Self::new(Some((place, outbox, inbox))))
    }

    /// Where the other end is, for an endpoint with the end of this place.
    pub(crate) fn other(place: u8) -> TransportAddr {
        TransportAddr::Custom(addr(1 - place))
    }

    fn new(line: Option<(u8, mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>)>) -> Self {
        let addrs = line.iter().map(|(place, ..)| addr(*place)).collect();
        Self(Mutex::new(Some(End {
            addrs: Watchable::new(addrs),
            line,
        })))
    }
}

fn addr(place: u8) -> CustomAddr {
    CustomAddr::from_parts(ID, &[place])
}

impl CustomTransport for Line {
    fn bind(&self) -> io::Result<Box<dyn CustomEndpoint>> {
        let mut end = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match end.take() {
            Some(end) => Ok(Box::new(end)),
            None => Err(io::Error::from(io::ErrorKind::AddrInUse)),
        }
    }
}

#[derive(Debug)]
struct End {
    /// Kept, so that those who watch it are not told that it is gone.
    addrs: Watchable<Vec<CustomAddr>>,
    line: Option<(u8, mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>)>,
}

impl CustomEndpoint for End {
    fn watch_local_addrs(&self) -> Direct<Vec<CustomAddr>> {
        self.addrs.watch()
    }

    fn create_sender(&self) -> Arc<dyn CustomSender> {
        let outbox = self.line.as_ref();
        Arc::new(Outbox(outbox.map(|(_, outbox, _)| outbox.clone())))
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
        metas: &mut [noq_udp::RecvMeta],
        infos: &mut [RecvInfo],
    ) -> Poll<io::Result<usize>> {
        let Some((place, _, inbox)) = &mut self.line else {
            return Poll::Pending;
        };
        let mut count = 0;
        for ((buf, meta), info) in bufs.iter_mut().zip(metas).zip(infos) {
            // When the other end is gone nothing comes any more, as on any network.
            let Poll::Ready(Some(packet)) = inbox.poll_recv(cx) else {
                break;
            };
            let len = packet.len().min(buf.len());
            // What is cut is no packet of QUIC any more, and is dropped there.
            buf.iter_mut()
                .zip(&packet)
                .for_each(|(to, from)| *to = *from);
            (meta.len, meta.stride) = (len, len);
            *info = RecvInfo::new(addr(1 - *place), Some(addr(*place)));
            count += 1;
        }
        if count == 0 {
            Poll::Pending
        } else {
            Poll::Ready(Ok(count))
        }
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        SEGMENTS
    }
}

#[derive(Debug)]
struct Outbox(Option<mpsc::Sender<Bytes>>);

impl CustomSender for Outbox {
    fn is_valid_send_addr(&self, addr: &CustomAddr) -> bool {
        self.0.is_some() && addr.id() == ID
    }

    fn poll_send(
        &self,
        _: &mut Context<'_>,
        _: &CustomAddr,
        _: Option<&CustomAddr>,
        transmit: &Transmit<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(outbox) = &self.0 else {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::AddrNotAvailable)));
        };
        let size = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        for packet in transmit.contents.chunks(size) {
            // A full line loses packets.
            let _ = outbox.try_send(Bytes::copy_from_slice(packet));
        }
        Poll::Ready(Ok(()))
    }
}
