//! The broadcasts of the others: found, read, and gone.

use std::time::Duration;

use iroh::EndpointId;
use iroh_rooms_moq::{Announce, Frame, Scope, TrackOptions};
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

impl Actor {
    pub(super) fn announce(&mut self, announce: Announce) {
        let Announce {
            remote,
            name,
            active,
            ..
        } = announce;
        if active {
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
        if !is_internal(name) {
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
        let reading = |track: &str, options: TrackOptions, report: MakeReport| {
            let (scope, reports) = (self.scope.clone(), self.reports_tx.clone());
            let (name, track) = (name.to_owned(), track.to_owned());
            AbortOnDropHandle::new(task::spawn(read_track(
                scope, peer, name, track, options, reports, report,
            )))
        };
        let tasks = if name == chat::BROADCAST {
            vec![reading(
                chat::TRACK,
                chat::track_options(),
                Box::new(Report::Chat),
            )]
        } else if let Some(channel) = name.strip_prefix(channel::PREFIX) {
            if !self.channels.contains_key(channel) {
                return;
            }
            let report = |channel: String| -> MakeReport {
                Box::new(move |peer, frame| Report::Channel(peer, channel.clone(), frame.data))
            };
            channel::tracks_for(&self.me)
                .iter()
                .map(|track| reading(track, channel::track_options(), report(channel.to_owned())))
                .collect()
        } else if self.auto_subscribe {
            let (scope, reports, name) =
                (self.scope.clone(), self.reports_tx.clone(), name.to_owned());
            vec![AbortOnDropHandle::new(task::spawn(async move {
                if let Ok(broadcast) = scope.subscribe(peer, &name).await {
                    // A closed room needs no report.
                    let _ = reports
                        .send(Report::Subscribed(peer, name, broadcast))
                        .await;
                }
            }))]
        } else {
            return;
        };
        self.readers.insert(key, tasks);
    }
}

type MakeReport = Box<dyn Fn(EndpointId, Frame) -> Report + Send + Sync>;

/// Reads a track for as long as its broadcast is there, and reports each frame. A failure is
/// tried again with growing delay: the track may appear later than its broadcast.
async fn read_track(
    scope: Scope,
    peer: EndpointId,
    name: String,
    track: String,
    options: TrackOptions,
    reports: mpsc::Sender<Report>,
    report: MakeReport,
) {
    let mut delay = REDIAL_MIN;
    loop {
        if let Ok(broadcast) = scope.subscribe(peer, &name).await
            && let Ok(mut reader) = broadcast.track(&track, options).await
        {
            loop {
                tokio::select! {
                    frame = reader.next_frame() => match frame {
                        Ok(Some(frame)) => {
                            delay = REDIAL_MIN;
                            if reports.send(report(peer, frame)).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) | Err(_) => break,
                    },
                }
            }
        }
        time::sleep(jitter(delay)).await;
        delay = (delay * 2).min(REDIAL_MAX);
    }
}
