//! The broadcasts of the others: found, read, and gone.

use std::time::Duration;

use iroh::EndpointId;
use iroh_rooms_moq::{Announce, Frame, Scope, TrackOptions, TrackReader};
use n0_future::{
    task::{self, AbortOnDropHandle},
    time::{self, Instant},
};
use tokio::sync::mpsc;

use super::{Actor, REDIAL_MAX, REDIAL_MIN, Report, jitter};
use crate::{
    channel, chat,
    event::{EndReason, Event},
    room::lock,
    roster::{Input, is_internal},
};

/// A broadcast that vanished with its session may come back for this long.
const FADE: Duration = Duration::from_secs(12);
/// Messages of a chat that were overtaken and are asked for by their numbers, at most in a row: those
/// before them are not.
const MAX_FETCHED: u64 = 1000;
/// How long one of them is waited for.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

impl Actor {
    pub(super) fn announce(&mut self, announce: Announce) {
        let Announce {
            remote,
            name,
            active,
            ..
        } = announce;
        if active {
            self.live.marks().set("broadcast");
            self.fading.remove(&(remote, name.clone()));
            self.live_broadcasts
                .entry(remote)
                .or_default()
                .insert(name.clone());
            if self.roster.get(&remote).is_some() {
                self.appeared(remote, &name);
            }
            return;
        }
        if self.sessions.contains_key(&remote) {
            self.vanished(remote, &name);
        } else {
            // Lost with its session, which may come back.
            self.fading.insert((remote, name), Instant::now() + FADE);
        }
    }

    pub(super) fn appeared(&mut self, peer: EndpointId, name: &str) {
        if !self.belongs(peer, name) {
            return;
        }
        if !is_internal(name) && self.foreign.is_none() {
            self.feed(Input::Live(peer, name));
        }
        self.begin_reading(peer, name);
    }

    pub(super) fn vanished(&mut self, peer: EndpointId, name: &str) {
        if let Some(names) = self.live_broadcasts.get_mut(&peer) {
            names.remove(name);
            if names.is_empty() {
                self.live_broadcasts.remove(&peer);
            }
        }
        self.readers.remove(&(peer, name.to_owned()));
        self.end_broadcast(peer, name, EndReason::Unpublished);
        self.feed(Input::Unlive(peer, name));
    }

    pub(super) fn end_broadcast(&self, peer: EndpointId, name: &str, reason: EndReason) {
        let mut view = lock(&self.view);
        // The roster may have let go of the peer already; the view has not.
        let Some(owner) = view.peer(&peer).cloned() else {
            return;
        };
        if view.is_subscribed(peer, name) {
            view.emit(Event::BroadcastEnded {
                peer: owner,
                name: name.to_owned(),
                reason,
            });
        }
    }

    /// Starts what a broadcast of a peer asks for: reading its chat or channel, or waiting until
    /// it can be read.
    pub(super) fn begin_reading(&mut self, peer: EndpointId, name: &str) {
        let key = (peer, name.to_owned());
        if self.readers.contains_key(&key) || self.roster.get(&peer).is_none() {
            return;
        }
        let source = |track: &str| Source {
            scope: self.scope.clone(),
            peer,
            name: name.to_owned(),
            track: track.to_owned(),
            reports: self.reports_tx.clone(),
        };
        let own = AbortOnDropHandle::new;
        let tasks = if name == chat::BROADCAST {
            vec![own(task::spawn(source(chat::TRACK).read_chat()))]
        } else if let Some(channel) = name.strip_prefix(channel::PREFIX) {
            if !self.channels.contains_key(channel) {
                return;
            }
            let mut tasks = Vec::new();
            for track in channel::tracks_for(&self.me) {
                let channel = channel.to_owned();
                tasks.push(own(task::spawn(
                    source(&track).read_channel(channel.clone()),
                )));
                tasks.push(own(task::spawn(source(&track).read_datagrams(channel))));
            }
            tasks
        } else if self.auto_subscribe {
            vec![
                own(task::spawn(source("").subscribe())),
                own(task::spawn(source(chat::CATALOG_TRACK).find_chat())),
            ]
        } else {
            return;
        };
        self.readers.insert(key, tasks);
    }
}

/// A track of a peer, and where to report what is read. Each method runs until its broadcast is
/// gone: then its task is dropped. A failure is tried again with growing delay, since a track may
/// appear later than its broadcast.
struct Source {
    scope: Scope,
    peer: EndpointId,
    name: String,
    track: String,
    reports: mpsc::Sender<Report>,
}

impl Source {
    async fn subscribe(self) {
        let mut delay = REDIAL_MIN;
        loop {
            let result = self.scope.subscribe(self.peer, &self.name).await;
            let again = result.is_err();
            let report = Report::Subscribed(self.peer, self.name.clone(), result);
            if self.reports.send(report).await.is_err() || !again {
                return;
            }
            pause(&mut delay).await;
        }
    }

    async fn read_chat(self) {
        let mut delay = REDIAL_MIN;
        loop {
            if let Some(mut reader) = self.open(chat::track_options()).await {
                // One past the last message.
                let mut next = None;
                while let Ok(Some(frame)) = reader.next_frame().await {
                    delay = REDIAL_MIN;
                    let reach = frame.group.saturating_sub(MAX_FETCHED);
                    // Of many messages at once some are overtaken by so many others that the reader
                    // gives them up. Where one cannot be had by its number, the rest is not asked for.
                    for missing in next.unwrap_or(frame.group).max(reach)..frame.group {
                        let Some(frame) = fetch(&reader, missing).await else {
                            break;
                        };
                        let report = Report::Chat(self.peer, frame);
                        if self.reports.send(report).await.is_err() {
                            return;
                        }
                    }
                    next = Some(frame.group.saturating_add(1));
                    let report = Report::Chat(self.peer, frame);
                    if self.reports.send(report).await.is_err() {
                        return;
                    }
                }
            }
            pause(&mut delay).await;
        }
    }

    /// Reads the chat that a broadcast of an application carries, if its catalog says so.
    async fn find_chat(mut self) {
        let Ok(broadcast) = self.scope.subscribe(self.peer, &self.name).await else {
            return;
        };
        let Ok(mut catalog) = broadcast.track(&self.track, TrackOptions::default()).await else {
            return;
        };
        while let Ok(Some(frame)) = catalog.next_frame().await {
            if let Some(track) = chat::named_in_catalog(&frame.data) {
                self.track = track;
                return self.read_chat().await;
            }
        }
    }

    async fn read_channel(self, channel: String) {
        // The writer's timestamps increase, so that what comes again after a reconnect is known.
        let mut last = Duration::ZERO;
        let message = |frame: Frame| {
            let news = frame.timestamp > last;
            last = last.max(frame.timestamp);
            news.then(|| Report::Channel(self.peer, channel.clone(), frame.data))
        };
        self.frames(channel::track_options(), message).await;
    }

    async fn read_datagrams(self, channel: String) {
        let mut delay = REDIAL_MIN;
        loop {
            if let Some(mut reader) = self.open(channel::track_options()).await {
                while let Ok(Some(datagram)) = reader.next_datagram().await {
                    delay = REDIAL_MIN;
                    let report = Report::Channel(self.peer, channel.clone(), datagram.data);
                    if self.reports.send(report).await.is_err() {
                        return;
                    }
                }
            }
            pause(&mut delay).await;
        }
    }

    async fn frames(&self, options: TrackOptions, mut report: impl FnMut(Frame) -> Option<Report>) {
        let mut delay = REDIAL_MIN;
        loop {
            if let Some(mut reader) = self.open(options).await {
                while let Ok(Some(frame)) = reader.next_frame().await {
                    delay = REDIAL_MIN;
                    let Some(report) = report(frame) else {
                        continue;
                    };
                    if self.reports.send(report).await.is_err() {
                        return;
                    }
                }
            }
            pause(&mut delay).await;
        }
    }

    async fn open(&self, options: TrackOptions) -> Option<TrackReader> {
        let broadcast = self.scope.subscribe(self.peer, &self.name).await.ok()?;
        broadcast.track(&self.track, options).await.ok()
    }
}

/// The first frame of a group, by its number.
async fn fetch(reader: &TrackReader, group: u64) -> Option<Frame> {
    let fetching = async {
        let mut group = reader.fetch(group).await.ok()?;
        group.next_frame().await.ok()?
    };
    time::timeout(FETCH_TIMEOUT, fetching).await.ok()?
}

async fn pause(delay: &mut Duration) {
    time::sleep(jitter(*delay)).await;
    *delay = (*delay * 2).min(REDIAL_MAX);
}

#[cfg(test)]
mod tests {
    use iroh_relay::server::{RelayConfig, Server, ServerConfig};
    use iroh_rooms_moq::{Broadcast, SubscribeError, close};

    use super::*;
    use crate::{Live, Relays};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_subscription_says_why_and_is_tried_again() {
        let mut config = ServerConfig::default();
        config.relay = Some(RelayConfig::new(([127, 0, 0, 1], 0)));
        let relay = Server::spawn(config).await.unwrap();
        let url = format!("http://{}", relay.http_addr().unwrap());
        let live = || {
            let relays = Relays::Custom(vec![url.parse().unwrap()]);
            Live::builder().relays(relays).spawn()
        };
        let (there, here) = (live().await.unwrap(), live().await.unwrap());
        let theirs = there.moq().open_scope([1; 32]).unwrap();
        let scope = here.moq().open_scope([1; 32]).unwrap();
        let (reports, mut reported) = mpsc::channel(8);
        let source = Source {
            scope: scope.clone(),
            peer: there.endpoint_id(),
            name: "camera".into(),
            track: String::new(),
            reports,
        };
        scope.connect(there.addr()).await.unwrap();
        let subscribing = AbortOnDropHandle::new(task::spawn(source.subscribe()));
        let mut next = async || {
            let next = time::timeout(Duration::from_secs(60), reported.recv());
            match next.await.unwrap().unwrap() {
                Report::Subscribed(peer, name, result) => {
                    assert_eq!((peer, &name[..]), (there.endpoint_id(), "camera"));
                    result
                }
                other => panic!("{other:?}"),
            }
        };
        for _ in 0..3 {
            // It waits for what is not announced, and loses its session meanwhile.
            time::sleep(Duration::from_millis(100)).await;
            scope.disconnect(there.endpoint_id(), close::NORMAL, "cut");
            let failed = next().await.unwrap_err();
            assert!(matches!(failed, SubscribeError::SessionClosed(_)));
            assert!(failed.to_string().contains("cut"), "{failed}");
            scope.connect(there.addr()).await.unwrap();
            // Longer than the next attempt waits.
            time::sleep(REDIAL_MIN * 8).await;
        }
        theirs.publish("camera", &Broadcast::new()).unwrap();
        assert_eq!(next().await.unwrap().name(), "camera");
        subscribing.await.unwrap();
        here.close().await;
        there.close().await;
        relay.shutdown().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_become_rare_up_to_a_limit_and_do_not_move_in_step() {
        let mut delay = REDIAL_MIN;
        let mut expected = REDIAL_MIN;
        let mut waits = Vec::new();
        for _ in 0..40 {
            let began = Instant::now();
            pause(&mut delay).await;
            let waited = began.elapsed();
            assert!(waited >= expected.mul_f64(0.75), "{waited:?}");
            assert!(waited <= expected.mul_f64(1.25) + Duration::from_millis(2));
            waits.push(waited);
            expected = (expected * 2).min(REDIAL_MAX);
        }
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 20, "they are random");
    }
}
