//! Peers on the loopback: no relay, no outside traffic.

use std::{future::Future, net::Ipv4Addr, time::Duration};

use iroh::{
    Endpoint, RelayMode, address_lookup::memory::MemoryLookup, endpoint::presets, protocol::Router,
};
use iroh_base::{EndpointId, SecretKey};
use iroh_gossip::{ALPN, Gossip, TopicId, net as gossip};
use iroh_rooms_kv::{Config, Event, Kv, Subscription};
use tokio::time::timeout;

pub const TOPIC: TopicId = TopicId::from_bytes([42; 32]);

/// Peers that know each other's addresses.
#[derive(Default)]
pub struct Net {
    lookup: MemoryLookup,
}

/// An endpoint with gossip.
pub struct Peer {
    pub secret: SecretKey,
    pub gossip: Gossip,
    router: Router,
}

impl Net {
    pub async fn peer(&self) -> Peer {
        self.peer_with(Gossip::builder()).await
    }

    pub async fn peer_with(&self, gossip: gossip::Builder) -> Peer {
        let secret = SecretKey::generate();
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(secret.clone())
            .relay_mode(RelayMode::Disabled)
            .clear_ip_transports()
            .bind_addr((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .address_lookup(self.lookup.clone())
            .bind()
            .await
            .unwrap();
        self.lookup.add_endpoint_info(endpoint.addr());
        let gossip = gossip.spawn(endpoint.clone());
        let router = Router::builder(endpoint)
            .accept(ALPN, gossip.clone())
            .spawn();
        Peer {
            secret,
            gossip,
            router,
        }
    }
}

impl Peer {
    pub fn id(&self) -> EndpointId {
        self.secret.public()
    }

    pub async fn kv(&self, bootstrap: &[&Peer]) -> Kv {
        self.kv_with(bootstrap, Config::default()).await
    }

    pub async fn kv_with(&self, bootstrap: &[&Peer], config: Config) -> Kv {
        let bootstrap = bootstrap.iter().map(|peer| peer.id()).collect();
        let secret = self.secret.clone();
        let joining = Kv::join(&self.gossip, TOPIC, secret, bootstrap, config);
        joining.await.unwrap()
    }

    pub async fn shutdown(self) {
        self.router.shutdown().await.unwrap();
    }
}

/// Fails rather than hangs.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what)
        .await
        .expect("soon enough")
}

/// Reads events until one is as wanted.
pub async fn until(events: &mut Subscription, wanted: impl Fn(&Event) -> bool) -> Event {
    soon(async {
        loop {
            let event = events.recv().await.expect("the topic is joined");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}

/// Whether an event is this value.
pub fn is(event: &Event, peer: &Peer, wanted_key: &str, wanted: &str) -> bool {
    matches!(event, Event::Value { scope, key, value, .. }
        if *scope == peer.id() && key == wanted_key && value == wanted)
}

/// Reads events until all these values have come, in whatever order.
pub async fn values(events: &mut Subscription, wanted: &[(&Peer, &str, &str)]) {
    let mut missing = wanted.to_vec();
    soon(async {
        while !missing.is_empty() {
            let event = events.recv().await.expect("the topic is joined");
            missing.retain(|(peer, key, wanted)| !is(&event, peer, key, wanted));
        }
    })
    .await;
}

/// Reads events until this value comes.
pub async fn value(events: &mut Subscription, peer: &Peer, key: &str, wanted: &str) {
    values(events, &[(peer, key, wanted)]).await;
}
