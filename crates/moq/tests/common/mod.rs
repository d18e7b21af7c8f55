//! Peers on the loopback, without any outside service.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::{future::Future, net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey,
    endpoint::{QuicTransportConfig, QuicTransportConfigBuilder, VarInt, presets},
    protocol::Router,
};
use iroh_rooms_moq::{ALPNS, Config, Frame, Moq, TrackOptions, TrackReader};

/// Anything that takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(20);

pub const HISTORY: TrackOptions = TrackOptions {
    priority: 0,
    max_age: Duration::from_secs(300),
    start: Some(0),
    ordered: true,
};

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} takes too long"),
    }
}

/// Waits until `holds`.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

fn transport() -> QuicTransportConfigBuilder {
    QuicTransportConfig::builder().keep_alive_interval(Duration::from_secs(1))
}

/// An endpoint on the loopback alone.
pub async fn endpoint(seed: u8) -> Endpoint {
    bind(seed, RelayMode::Disabled, transport()).await
}

async fn bind(seed: u8, relays: RelayMode, transport: QuicTransportConfigBuilder) -> Endpoint {
    let direct = matches!(relays, RelayMode::Disabled);
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&[seed; 32]))
        .relay_mode(relays)
        .transport_config(transport.build())
        .clear_ip_transports();
    if direct {
        // No relay: addresses of the loopback only.
        builder = builder.bind_addr((Ipv4Addr::LOCALHOST, 0)).unwrap();
    }
    builder.bind().await.unwrap()
}

pub struct Peer {
    pub endpoint: Endpoint,
    pub moq: Moq,
    pub router: Router,
}

impl Peer {
    pub async fn new(seed: u8) -> Self {
        Self::with(seed, Config::default(), RelayMode::Disabled).await
    }

    pub async fn with(seed: u8, config: Config, relays: RelayMode) -> Self {
        Self::with_alpns(seed, config, relays, &ALPNS).await
    }

    /// One whose connections take little at once.
    pub async fn narrow(seed: u8) -> Self {
        let transport = transport()
            .receive_window(VarInt::from_u32(128 * 1024))
            .send_window(128 * 1024);
        Self::build(
            seed,
            Config::default(),
            RelayMode::Disabled,
            &ALPNS,
            transport,
        )
        .await
    }

    pub async fn with_alpns(seed: u8, config: Config, relays: RelayMode, alpns: &[&[u8]]) -> Self {
        Self::build(seed, config, relays, alpns, transport()).await
    }

    async fn build(
        seed: u8,
        config: Config,
        relays: RelayMode,
        alpns: &[&[u8]],
        transport: QuicTransportConfigBuilder,
    ) -> Self {
        let _again = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let endpoint = bind(seed, relays, transport).await;
        let moq = Moq::with_config(endpoint.clone(), config);
        let mut router = Router::builder(endpoint.clone());
        for alpn in alpns {
            router = router.accept(alpn, moq.protocol_handler());
        }
        Self {
            endpoint,
            moq,
            router: router.spawn(),
        }
    }

    /// Two peers, the one with the lower id first.
    pub async fn pair() -> (Self, Self) {
        let (a, b) = (Self::new(1).await, Self::new(2).await);
        if a.id() < b.id() { (a, b) } else { (b, a) }
    }

    pub fn id(&self) -> EndpointId {
        self.endpoint.id()
    }

    pub fn addr(&self) -> EndpointAddr {
        let sockets = self.endpoint.bound_sockets();
        sockets
            .into_iter()
            .fold(EndpointAddr::new(self.id()), EndpointAddr::with_ip_addr)
    }
}

pub async fn frame(reader: &mut TrackReader) -> Option<Frame> {
    within("the next frame", reader.next_frame()).await.unwrap()
}

pub async fn text(reader: &mut TrackReader) -> String {
    let frame = frame(reader).await.expect("the track goes on");
    String::from_utf8(frame.data.to_vec()).unwrap()
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
