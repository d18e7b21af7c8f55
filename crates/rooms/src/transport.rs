//! How endpoints are configured: the one place for what makes QUIC fit rooms.

#[cfg(target_family = "wasm")]
mod crypto;
mod early;
mod memory;

use std::{sync::Arc, time::Duration};

use iroh::{
    Endpoint, RelayConfig, RelayMode, RelayUrl, SecretKey,
    address_lookup::memory::MemoryLookup,
    endpoint::{
        AckFrequencyConfig, Builder, IdleTimeout, MtuDiscoveryConfig, NetReportConfig,
        PortmapperConfig, QuicTransportConfig, VarInt, presets,
    },
};

use serde::Deserialize;

pub(crate) use self::{early::carries, memory::Line};

/// Streams that a peer may have open towards us, of each kind.
const MAX_STREAMS: u32 = 1024;
/// Keep-alive of connections and paths: a dead peer is noticed by its silence.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// The same at the side that dialled. Whoever is heard has no need to ask; were both clocks alike,
/// both sides would ask at once and answer each other, twice as much of what a room at rest costs.
const KEEP_ALIVE_DIALLED: Duration = Duration::from_secs(3);
/// A connection survives this long without a packet, so that sessions outlive a relay's restart.
const IDLE_TIMEOUT_MS: u32 = 30_000;
/// What a round trip is taken for until it is measured. A first packet that was lost, because the
/// peer was not at the relay yet, is sent again after three of them.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// The search for the largest packet that a path takes ends when there is less than this to gain. It is
/// just more than half of what there is between the 1,200 bytes of QUIC and the 1,452 of an Ethernet: so
/// these are tried at once, and the middle if they do not arrive. Otherwise the search sends several
/// large packets on each path of each connection, all at the time of joining.
const MTU_STEP: u16 = 127;
/// See [`Tuning::acks`].
const ACK_AFTER_PACKETS: u32 = 100;

/// Which relays an endpoint uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relays {
    /// The public relays and address lookup of number 0.
    N0,
    /// These relays, and no other service.
    Custom(Vec<RelayUrl>),
    /// None: only direct connections, by address. Not for browsers.
    Disabled,
}

/// What makes it fast, each to be switched off, so that the benchmark can show what it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Tuning {
    /// In WebAssembly ChaCha20 before AES: there is no AES instruction there, and AES in software
    /// halves the throughput.
    pub cipher: bool,
    /// In WebAssembly packets before the peer acknowledges, 0 for QUIC's own rule. Each
    /// acknowledgement is one message on the relay's WebSocket, and messages are what a browser pays
    /// for. Not elsewhere: the longer acknowledgements wait, the larger they get, and noq-proto 1.4.0
    /// panics when those of several paths do not fit into a packet.
    pub acks: u32,
    /// In WebAssembly ten packets in one message of the relay's WebSocket.
    pub batching: bool,
    /// With one relay the start waits for that relay, not for the report on the network.
    pub early: bool,
    /// In WebAssembly an idle start is followed by a room of two within the process: browsers compile
    /// each function at its first call, and so have done that before a room is entered.
    pub warm: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            cipher: true,
            acks: ACK_AFTER_PACKETS,
            batching: true,
            early: true,
            warm: true,
        }
    }
}

/// A builder for an endpoint of this library; on a line it is reached by nothing else.
pub(crate) fn endpoint(
    secret_key: SecretKey,
    relays: &Relays,
    line: Option<Line>,
    lookup: MemoryLookup,
    tuning: Tuning,
) -> Builder {
    let builder = match relays {
        Relays::N0 => public(),
        Relays::Custom(urls) => private(Endpoint::builder(presets::Empty))
            .relay_mode(RelayMode::Custom(urls.iter().map(relay_config).collect())),
        Relays::Disabled => {
            private(Endpoint::builder(presets::Empty)).relay_mode(RelayMode::Disabled)
        }
    };
    let builder = match line {
        Some(line) => on_line(builder, line),
        #[cfg(target_family = "wasm")]
        None if tuning.batching => builder.add_custom_transport(Arc::new(Line::to_nobody())),
        None => builder,
    };
    builder
        .secret_key(secret_key)
        .crypto_provider(Arc::new(crypto_provider(tuning)))
        .transport_config(transport_config(tuning, KEEP_ALIVE))
        .address_lookup(lookup)
}

fn on_line(builder: Builder, line: Line) -> Builder {
    #[cfg(not(target_family = "wasm"))]
    let builder = builder.clear_ip_transports();
    builder.add_custom_transport(Arc::new(line))
}

#[cfg(not(target_family = "wasm"))]
fn public() -> Builder {
    Endpoint::builder(presets::N0)
}

/// What that preset is in a browser, but for the whole of ring's cryptography, see [`crypto`].
#[cfg(target_family = "wasm")]
fn public() -> Builder {
    use iroh::address_lookup::{PkarrPublisher, PkarrResolver};

    Endpoint::builder(presets::Empty)
        .address_lookup(PkarrPublisher::n0_dns())
        .address_lookup(PkarrResolver::n0_dns())
        .relay_mode(RelayMode::Default)
}

/// A relay without TLS, one for development, has no QUIC address discovery either, and a probe
/// for it would hold up the start by three seconds.
fn relay_config(url: &RelayUrl) -> RelayConfig {
    let mut config = RelayConfig::from(url.clone());
    if url.scheme() != "https" {
        config.quic = None;
    }
    config
}

/// Without the public services nothing else is asked either: no port mapping, no captive portal.
/// The probe of the relay stays, it is how the home relay is found.
fn private(builder: Builder) -> Builder {
    let mut report = NetReportConfig::minimal();
    report.https_probes = true;
    builder
        .portmapper_config(PortmapperConfig::Disabled)
        .net_report_config(report)
}

#[cfg(not(target_family = "wasm"))]
fn crypto_provider(_: Tuning) -> rustls::crypto::CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// See [`Tuning::cipher`].
#[cfg(target_family = "wasm")]
fn crypto_provider(tuning: Tuning) -> rustls::crypto::CryptoProvider {
    crypto::provider(tuning.cipher)
}

/// What is dialled among members, and for sessions.
pub(crate) fn dialling(tuning: Tuning) -> QuicTransportConfig {
    transport_config(tuning, KEEP_ALIVE_DIALLED)
}

fn transport_config(tuning: Tuning, keep_alive: Duration) -> QuicTransportConfig {
    let acks = (cfg!(target_family = "wasm") && tuning.acks > 0).then(|| {
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(tuning.acks));
        acks
    });
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.minimum_change(MTU_STEP);
    QuicTransportConfig::builder()
        .mtu_discovery_config(Some(mtu))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_STREAMS))
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(keep_alive)
        .default_path_keep_alive_interval(keep_alive)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .ack_frequency_config(acks)
        .build()
}
