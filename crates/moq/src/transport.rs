//! moq-net's poll transport over an iroh connection.
//!
//! Payload is never copied here: frames go to QUIC and come from it as [`Bytes`]. Every clone of
//! [`Transport`] keeps its own pending operations, as the poll contract asks.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use iroh::endpoint::{
    Connection, ConnectionError, ReadError, ResetError, SendDatagramError, StoppedError, VarInt,
    WriteError,
};
use tokio::sync::watch;
use web_transport_trait::{MaybeSend, Stats, poll};

use crate::{
    session::selected_rtt,
    stats::{Counters, Living},
};

/// What a stream is reset or stopped with when it is dropped: "cancelled" in MoQ's stream codes.
const CANCELLED: u32 = 1;
/// Writes up to this size are copied into QUIC's own buffer; an allocation of our own would cost
/// more than the copy.
const COPY_BELOW: usize = 512;
/// How much of a frame is handed to QUIC at once. It bounds what a blocked stream holds beyond
/// QUIC's window, so that a group that has become stale is given up early.
const WRITE_CHUNK: usize = 64 * 1024;

#[cfg(not(target_family = "wasm"))]
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;
#[cfg(target_family = "wasm")]
type Pending<T> = Pin<Box<dyn Future<Output = T>>>;

/// An operation in progress, kept between polls. The mutex is never locked: it only makes the slot
/// Sync, which moq-net asks for and iroh's futures are not.
struct Slot<T>(Mutex<Option<Pending<T>>>);

impl<T> Slot<T> {
    fn poll<F>(&mut self, cx: &mut Context<'_>, start: impl FnOnce() -> F) -> Poll<T>
    where
        F: Future<Output = T> + MaybeSend + 'static,
    {
        let slot = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let future = slot.get_or_insert_with(|| Box::pin(start()));
        let output = ready!(future.as_mut().poll(cx));
        *slot = None;
        Poll::Ready(output)
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

/// An iroh connection as moq-net drives it.
pub(crate) struct Transport {
    connection: Connection,
    /// Set by the first stream the peer opens: a listener opens none before it has accepted.
    confirmed: Arc<watch::Sender<bool>>,
    counters: Arc<Counters>,
    accept_uni: Slot<Result<iroh::endpoint::RecvStream, ConnectionError>>,
    accept_bi:
        Slot<Result<(iroh::endpoint::SendStream, iroh::endpoint::RecvStream), ConnectionError>>,
    open_uni: Slot<Result<iroh::endpoint::SendStream, ConnectionError>>,
    open_bi:
        Slot<Result<(iroh::endpoint::SendStream, iroh::endpoint::RecvStream), ConnectionError>>,
    datagram: Slot<Result<Bytes, ConnectionError>>,
    closed: Slot<ConnectionError>,
}

impl Transport {
    pub(crate) fn new(connection: Connection, counters: Arc<Counters>) -> Self {
        Self::with(connection, Arc::new(watch::Sender::new(false)), counters)
    }

    fn with(
        connection: Connection,
        confirmed: Arc<watch::Sender<bool>>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            connection,
            confirmed,
            counters,
            accept_uni: Slot::default(),
            accept_bi: Slot::default(),
            open_uni: Slot::default(),
            open_bi: Slot::default(),
            datagram: Slot::default(),
            closed: Slot::default(),
        }
    }

    fn living(&self) -> Living {
        Living::new(&self.counters, |counters| &counters.streams)
    }

    /// Turns true when the peer has opened its first stream.
    pub(crate) fn confirmed(&self) -> watch::Receiver<bool> {
        self.confirmed.subscribe()
    }

    fn confirm(&self) {
        self.confirmed
            .send_if_modified(|confirmed| !std::mem::replace(confirmed, true));
    }
}

impl Clone for Transport {
    fn clone(&self) -> Self {
        Self::with(
            self.connection.clone(),
            self.confirmed.clone(),
            self.counters.clone(),
        )
    }
}

impl poll::Session for Transport {
    type SendStream = SendStream;
    type RecvStream = RecvStream;
    type Error = TransportError;

    fn poll_accept_uni(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, TransportError>> {
        let connection = &self.connection;
        let stream = ready!(self.accept_uni.poll(cx, || {
            let connection = connection.clone();
            async move { connection.accept_uni().await }
        }))?;
        self.confirm();
        Poll::Ready(Ok(RecvStream::new(stream, self.living())))
    }

    fn poll_accept_bi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(SendStream, RecvStream), TransportError>> {
        let connection = &self.connection;
        let (send, recv) = ready!(self.accept_bi.poll(cx, || {
            let connection = connection.clone();
            async move { connection.accept_bi().await }
        }))?;
        self.confirm();
        Poll::Ready(Ok((
            SendStream::new(send, self.living()),
            RecvStream::new(recv, self.living()),
        )))
    }

    fn poll_open_uni(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, TransportError>> {
        let connection = &self.connection;
        let stream = ready!(self.open_uni.poll(cx, || {
            let connection = connection.clone();
            async move { connection.open_uni().await }
        }))?;
        Poll::Ready(Ok(SendStream::new(stream, self.living())))
    }

    fn poll_open_bi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(SendStream, RecvStream), TransportError>> {
        let connection = &self.connection;
        let (send, recv) = ready!(self.open_bi.poll(cx, || {
            let connection = connection.clone();
            async move { connection.open_bi().await }
        }))?;
        Poll::Ready(Ok((
            SendStream::new(send, self.living()),
            RecvStream::new(recv, self.living()),
        )))
    }

    fn poll_send_datagram(
        &mut self,
        _cx: &mut Context<'_>,
        payload: &[u8],
    ) -> Poll<Result<(), TransportError>> {
        // Never pending: when QUIC's buffer is full it drops the oldest, and a datagram that is
        // late is worth less than the one at hand.
        Poll::Ready(
            self.connection
                .send_datagram(Bytes::copy_from_slice(payload))
                .map_err(TransportError::from),
        )
    }

    fn poll_recv_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, TransportError>> {
        let connection = &self.connection;
        self.datagram
            .poll(cx, || {
                let connection = connection.clone();
                async move { connection.read_datagram().await }
            })
            .map_err(TransportError::from)
    }

    fn max_datagram_size(&self) -> usize {
        self.connection.max_datagram_size().unwrap_or(0)
    }

    fn protocol(&self) -> Option<&str> {
        std::str::from_utf8(self.connection.alpn()).ok()
    }

    fn close(&mut self, code: u32, reason: &str) {
        // MoQ closes also what the peer has closed, and that would hide the peer's reason.
        if self.connection.close_reason().is_none() {
            self.connection.close(code.into(), reason.as_bytes());
        }
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<TransportError> {
        let connection = &self.connection;
        self.closed
            .poll(cx, || {
                let connection = connection.clone();
                async move { connection.closed().await }
            })
            .map(TransportError::from)
    }

    fn stats(&self) -> impl Stats {
        ConnectionStats {
            stats: self.connection.stats(),
            rtt: selected_rtt(&self.connection),
        }
    }
}

/// QUIC's own counters.
struct ConnectionStats {
    stats: iroh::endpoint::ConnectionStats,
    rtt: Option<Duration>,
}

impl Stats for ConnectionStats {
    fn bytes_sent(&self) -> Option<u64> {
        Some(self.stats.udp_tx.bytes)
    }

    fn bytes_received(&self) -> Option<u64> {
        Some(self.stats.udp_rx.bytes)
    }

    fn bytes_lost(&self) -> Option<u64> {
        Some(self.stats.lost_bytes)
    }

    fn packets_sent(&self) -> Option<u64> {
        Some(self.stats.sent_packets)
    }

    fn packets_received(&self) -> Option<u64> {
        Some(self.stats.udp_rx.datagrams)
    }

    fn packets_lost(&self) -> Option<u64> {
        Some(self.stats.lost_packets)
    }

    fn rtt(&self) -> Option<Duration> {
        self.rtt
    }
}

/// How far the sending side of a stream has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// Takes data.
    Open,
    /// Finished by the writer; QUIC has not taken the last bytes yet.
    Finishing,
    /// QUIC has everything, or the stream was reset: nothing is left to do.
    Done,
}

/// The sending side of a stream. Reset when dropped before it was finished, so that a reader never
/// takes half a group for a whole one.
pub(crate) struct SendStream {
    inner: iroh::endpoint::SendStream,
    _living: Living,
    /// Accepted from the writer, not yet taken by QUIC: at most [`WRITE_CHUNK`].
    held: Bytes,
    state: Sending,
    stopped: Slot<Result<Option<VarInt>, StoppedError>>,
}

impl SendStream {
    fn new(inner: iroh::endpoint::SendStream, living: Living) -> Self {
        Self {
            inner,
            _living: living,
            held: Bytes::new(),
            state: Sending::Open,
            stopped: Slot::default(),
        }
    }

    /// Hands what is held to QUIC; ready when nothing is held any longer.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        while !self.held.is_empty() {
            let mut chunks = [std::mem::take(&mut self.held)];
            let mut rest: &mut [Bytes] = &mut chunks;
            // A fresh future for each poll is sound: noq keeps no state in it.
            let result = pin!(self.inner.write_many_chunks(&mut rest)).poll(cx);
            let [held] = chunks;
            self.held = held;
            ready!(result)?;
        }
        if self.state == Sending::Finishing {
            self.state = Sending::Done;
            let _already_closed = self.inner.finish();
        }
        Poll::Ready(Ok(()))
    }
}

impl poll::SendStream for SendStream {
    type Error = TransportError;

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize, TransportError>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.inner)
            .poll_write(cx, buf)
            .map_err(TransportError::from)
    }

    fn poll_write_buf<B: Buf>(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut B,
    ) -> Poll<Result<usize, TransportError>> {
        // What was accepted earlier goes first; while it waits, nothing is taken from `buf`.
        ready!(self.poll_flush(cx))?;
        let chunk = buf.chunk();
        if chunk.len() <= COPY_BELOW {
            let size = ready!(Pin::new(&mut self.inner).poll_write(cx, chunk))?;
            buf.advance(size);
            return Poll::Ready(Ok(size));
        }
        let size = chunk.len().min(WRITE_CHUNK);
        self.held = buf.copy_to_bytes(size);
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // Pending or not, the bytes are ours now and will be sent in order.
            _ => Poll::Ready(Ok(size)),
        }
    }

    fn set_priority(&mut self, order: u8) {
        let _closed = self.inner.set_priority(order.into());
    }

    fn finish(&mut self) -> Result<(), TransportError> {
        if self.state != Sending::Open {
            return Err(TransportError::ClosedStream);
        }
        if self.held.is_empty() {
            self.state = Sending::Done;
            self.inner
                .finish()
                .map_err(|_| TransportError::ClosedStream)
        } else {
            // `poll_closed`, which a finished writer is always polled with, does the rest.
            self.state = Sending::Finishing;
            Ok(())
        }
    }

    fn reset(&mut self, code: u32) {
        self.held.clear();
        self.state = Sending::Done;
        let _closed = self.inner.reset(code.into());
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        let inner = &self.inner;
        match ready!(self.stopped.poll(cx, || inner.stopped())) {
            Ok(None) => Poll::Ready(Ok(())),
            Ok(Some(code)) => Poll::Ready(Err(TransportError::Stream(small(code)))),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        // Without this, QUIC would send a FIN.
        if self.state != Sending::Done {
            let _closed = self.inner.reset(CANCELLED.into());
        }
    }
}

/// The receiving side of a stream. Stopped when dropped before its end, so that the peer does not
/// send what nobody reads.
pub(crate) struct RecvStream {
    inner: iroh::endpoint::RecvStream,
    _living: Living,
    /// The end, a reset or our own stop was seen.
    done: bool,
}

impl RecvStream {
    fn new(inner: iroh::endpoint::RecvStream, living: Living) -> Self {
        Self {
            inner,
            _living: living,
            done: false,
        }
    }
}

impl poll::RecvStream for RecvStream {
    type Error = TransportError;

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        dst: &mut [u8],
    ) -> Poll<Result<Option<usize>, TransportError>> {
        if dst.is_empty() {
            return Poll::Ready(Ok(Some(0)));
        }
        let size = ready!(self.inner.poll_read(cx, dst)).inspect_err(|_| self.done = true)?;
        if size == 0 {
            self.done = true;
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(Ok(Some(size)))
    }

    fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, TransportError>> {
        if max == 0 {
            return Poll::Ready(Ok(Some(Bytes::new())));
        }
        // A fresh future for each poll is sound: noq keeps no state in it.
        let chunk =
            ready!(pin!(self.inner.read_chunk(max)).poll(cx)).inspect_err(|_| self.done = true)?;
        self.done |= chunk.is_none();
        Poll::Ready(Ok(chunk))
    }

    fn stop(&mut self, code: u32) {
        self.done = true;
        let _closed = self.inner.stop(code.into());
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        match ready!(pin!(self.inner.received_reset()).poll(cx)) {
            Ok(None) => Poll::Ready(Ok(())),
            Ok(Some(code)) => Poll::Ready(Err(TransportError::Stream(small(code)))),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if !self.done {
            let _closed = self.inner.stop(CANCELLED.into());
        }
    }
}

/// What can go wrong below MoQ.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TransportError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("stream ended by the peer with code {0}")]
    Stream(u32),
    #[error("stream is closed")]
    ClosedStream,
    #[error("datagram not sent: {0}")]
    Datagram(String),
}

impl web_transport_trait::Error for TransportError {
    fn session_error(&self) -> Option<(u32, String)> {
        match self {
            Self::Connection(ConnectionError::ApplicationClosed(close)) => Some((
                small(close.error_code),
                String::from_utf8_lossy(&close.reason).into_owned(),
            )),
            _ => None,
        }
    }

    fn stream_error(&self) -> Option<u32> {
        match self {
            Self::Stream(code) => Some(*code),
            _ => None,
        }
    }
}

/// MoQ's codes have 32 bits, QUIC's 62; what does not fit means nothing to us.
fn small(code: VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}

impl From<WriteError> for TransportError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stream(small(code)),
            WriteError::ConnectionLost(error) => Self::Connection(error),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::ClosedStream,
        }
    }
}

impl From<ReadError> for TransportError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Stream(small(code)),
            ReadError::ConnectionLost(error) => Self::Connection(error),
            ReadError::ClosedStream | ReadError::ZeroRttRejected => Self::ClosedStream,
        }
    }
}

impl From<ResetError> for TransportError {
    fn from(error: ResetError) -> Self {
        match error {
            ResetError::ConnectionLost(error) => Self::Connection(error),
            ResetError::ZeroRttRejected => Self::ClosedStream,
        }
    }
}

impl From<StoppedError> for TransportError {
    fn from(error: StoppedError) -> Self {
        match error {
            StoppedError::ConnectionLost(error) => Self::Connection(error),
            StoppedError::ZeroRttRejected => Self::ClosedStream,
        }
    }
}

impl From<SendDatagramError> for TransportError {
    fn from(error: SendDatagramError) -> Self {
        match error {
            SendDatagramError::ConnectionLost(error) => Self::Connection(error),
            other => Self::Datagram(other.to_string()),
        }
    }
}
