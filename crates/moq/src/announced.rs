//! What peers announce in a scope, as it changes.

use std::{
    collections::{HashMap, VecDeque},
    str::FromStr,
    sync::Weak,
};

use iroh::EndpointId;
use iroh_rooms_sorted::SortedMap;
use moq_net::announce;
use tokio::sync::watch;

use crate::scope::{MAX_ANNOUNCED, MAX_ANNOUNCED_HARD, Scope, ScopeInner, check_name, is_closed};

/// Closes the session of a peer that announces without measure.
pub(crate) async fn guard_announcements(scope: Weak<ScopeInner>, mut cursor: announce::Consumer) {
    let mut counts: SortedMap<EndpointId, usize> = SortedMap::new();
    while let Some(update) = cursor.next().await {
        let Some((remote, _)) = split(update.prefix.as_str()) else {
            continue;
        };
        match update.kind {
            announce::Kind::Announced => {
                let count = counts.entry(remote).or_default();
                *count += 1;
                if *count == MAX_ANNOUNCED_HARD + 1 {
                    let Some(inner) = scope.upgrade() else { return };
                    inner.counters.announcements_flooded();
                    Scope::from_inner(inner).disconnect(
                        remote,
                        crate::close::REJECTED,
                        "too many broadcasts announced",
                    );
                }
            }
            announce::Kind::Retracted => {
                if let Some(count) = counts.get_mut(&remote) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        counts.remove(&remote);
                    }
                }
            }
            announce::Kind::Updated => {}
        }
    }
}

/// Takes a path of the remote table apart into peer and name.
pub(crate) fn split(path: &str) -> Option<(EndpointId, &str)> {
    let (remote, name) = path.split_once('/')?;
    Some((EndpointId::from_str(remote).ok()?, name))
}

/// A change of what a peer announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// The peer.
    pub remote: EndpointId,
    /// The broadcast's name.
    pub name: String,
    /// Announced, or withdrawn. A broadcast replaced by another of the same name is withdrawn,
    /// then announced.
    pub active: bool,
}

/// What peers announce, as it changes. See [`Scope::announced`].
pub struct Announced {
    cursor: announce::Consumer,
    remote: Option<EndpointId>,
    /// What was reported as active, with the broadcast instance behind it.
    names: HashMap<(EndpointId, String), Option<moq_net::Hop>>,
    counts: SortedMap<EndpointId, usize>,
    /// At most two: the end of a broadcast and its replacement.
    queue: VecDeque<Announce>,
    closed: watch::Receiver<bool>,
    scope: Scope,
}

impl Announced {
    pub(crate) fn new(scope: Scope, remote: Option<EndpointId>) -> Self {
        Self {
            cursor: scope.inner().announced(),
            remote,
            names: HashMap::new(),
            counts: SortedMap::new(),
            queue: VecDeque::new(),
            closed: scope.inner().watch_closed(),
            scope,
        }
    }

    /// The next change; None when the scope is closed. May be cancelled without losing anything.
    pub async fn next(&mut self) -> Option<Announce> {
        loop {
            if let Some(announce) = self.queue.pop_front() {
                return Some(announce);
            }
            let update = tokio::select! {
                biased;
                update = self.cursor.next() => update?,
                () = is_closed(&mut self.closed) => return None,
            };
            self.take(update);
        }
    }

    fn take(&mut self, update: announce::Update) {
        let Some((remote, name)) = split(update.prefix.as_str()) else {
            return;
        };
        if self.remote.is_some_and(|only| only != remote) {
            return;
        }
        let key = (remote, name.to_owned());
        if !update.kind.is_active() {
            if self.names.remove(&key).is_some() {
                if let Some(count) = self.counts.get_mut(&remote) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.counts.remove(&remote);
                    }
                }
                self.report(key, false);
            }
            return;
        }
        let instance = update.route.hops.iter().next().copied();
        if let Some(known) = self.names.get_mut(&key) {
            // The same broadcast by another session: nothing that anybody has to know.
            if *known != instance {
                *known = instance;
                self.report(key.clone(), false);
                self.report(key, true);
            }
            return;
        }
        let count = self.counts.entry(remote).or_default();
        if *count >= MAX_ANNOUNCED || check_name(name).is_err() {
            self.scope.inner().counters.announcement_ignored();
            return;
        }
        *count += 1;
        self.names.insert(key.clone(), instance);
        self.report(key, true);
    }

    fn report(&mut self, (remote, name): (EndpointId, String), active: bool) {
        self.queue.push_back(Announce {
            remote,
            name,
            active,
        });
    }
}

impl std::fmt::Debug for Announced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announced")
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}
