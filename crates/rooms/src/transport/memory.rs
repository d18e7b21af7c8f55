//! Ten packets in one message of the relay's WebSocket.
//!
//! In a browser a WebSocket message costs the same whatever its size, and iroh sends one QUIC
//! packet in each, because it takes the number of segments that may travel together from its
//! custom transports and has none there. This one has no address, receives nothing and sends
//! nothing: it only says ten. The interface is unstable, so all that uses it is in this file.

use std::{
    io,
    num::NonZeroUsize,
    sync::Arc,
    task::{Context, Poll},
};

use iroh::endpoint::transports::{
    CustomEndpoint, CustomSender, CustomTransport, RecvInfo, Transmit,
};
use iroh_base::CustomAddr;
use n0_watcher::{Direct, Watchable};

/// Packets in one message; a relay frame holds not many more.
const SEGMENTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);

/// The transport that only says how many segments may travel together.
#[derive(Debug)]
pub(super) struct Batching;

impl CustomTransport for Batching {
    fn bind(&self) -> io::Result<Box<dyn CustomEndpoint>> {
        Ok(Box::new(Nowhere {
            addrs: Watchable::new(Vec::new()),
        }))
    }
}

#[derive(Debug)]
struct Nowhere {
    /// Kept, so that those who watch it are not told that it is gone.
    addrs: Watchable<Vec<CustomAddr>>,
}

impl CustomEndpoint for Nowhere {
    fn watch_local_addrs(&self) -> Direct<Vec<CustomAddr>> {
        self.addrs.watch()
    }

    fn create_sender(&self) -> Arc<dyn CustomSender> {
        Arc::new(Nobody)
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        _: &mut [io::IoSliceMut<'_>],
        _: &mut [noq_udp::RecvMeta],
        _: &mut [RecvInfo],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        SEGMENTS
    }
}

#[derive(Debug)]
struct Nobody;

impl CustomSender for Nobody {
    fn is_valid_send_addr(&self, _: &CustomAddr) -> bool {
        false
    }

    fn poll_send(
        &self,
        _: &mut Context<'_>,
        _: &CustomAddr,
        _: Option<&CustomAddr>,
        _: &Transmit<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::Error::from(io::ErrorKind::AddrNotAvailable)))
    }
}
