//! Whether the relay carries packets, before iroh says so.
//!
//! iroh tells it of its home relay only, and chooses that when its report on the network is there,
//! which begins with a pause of 200 ms. Where there is one relay there is nothing to choose. So this
//! endpoint calls a client of that relay that is made for the purpose and never answers: the first
//! packet that reaches it has gone through the endpoint's own connection with the relay, which the
//! call has opened.

use std::future::pending;

use iroh::{Endpoint, EndpointAddr, EndpointId, RelayUrl, SecretKey};
use iroh_gossip::net::GOSSIP_ALPN;
use iroh_relay::{
    client::{Client, ClientBuilder},
    protos::relay::RelayToClientMsg,
};
use n0_future::StreamExt;

/// Returns the client when a packet of the endpoint has gone through the relay to it, or `None` when
/// the relay does not take it. Waits for as long as neither happens. The client's stream ends with
/// the relay.
pub(crate) async fn carries(endpoint: &Endpoint, relay: &RelayUrl) -> Option<Client> {
    let key = SecretKey::from_bytes(&rand::random());
    let there = EndpointAddr::new(key.public()).with_relay_url(relay.clone());
    // Ends only when nobody waits for it any more.
    let call = || async {
        let _ = endpoint.connect(there.clone(), GOSSIP_ALPN).await;
        pending::<()>().await;
    };
    #[cfg(not(target_family = "wasm"))]
    let client = match endpoint.dns_resolver() {
        Ok(dns) => ClientBuilder::new(relay.clone(), key, dns.clone())
            .tls_client_config(endpoint.tls_config().clone()),
        Err(_) => return None,
    };
    #[cfg(target_family = "wasm")]
    let client = ClientBuilder::new(relay.clone(), key);
    let client = tokio::select! {
        client = client.connect() => client,
        () = call() => return None,
    };
    let mut client = client.ok()?;
    // What was sent before the client was there is lost, so it is called once more.
    tokio::select! {
        () = arrives(&mut client, endpoint.id()) => Some(client),
        () = call() => None,
    }
}

/// Waits for a packet of this endpoint, or until the relay is gone.
async fn arrives(client: &mut Client, from: EndpointId) {
    while let Some(Ok(message)) = client.next().await {
        if matches!(message, RelayToClientMsg::Datagrams { remote_endpoint_id, .. } if remote_endpoint_id == from)
        {
            return;
        }
    }
}
