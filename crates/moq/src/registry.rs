//! The scopes of an endpoint.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicU64, Ordering},
};

use iroh::EndpointId;
use iroh_rooms_sorted::SortedMap;

use crate::{
    error::Error,
    scope::{Scope, ScopeInner},
    sessions::ScopeId,
};

/// The scopes of an endpoint, to find the one that a dialler names.
#[derive(Default)]
pub(crate) struct Registry {
    scopes: Mutex<SortedMap<ScopeId, Weak<ScopeInner>>>,
    /// Numbers are never used again: connections of a closed scope may linger.
    next: AtomicU64,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, SortedMap<ScopeId, Weak<ScopeInner>>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a scope made by `open` under a new number.
    pub(crate) fn add(&self, open: impl FnOnce(ScopeId) -> Scope) -> Scope {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let scope = open(id);
        self.lock().insert(id, Arc::downgrade(scope.inner()));
        scope
    }

    /// The same, unless there are `limit` already or one of them is `taken`.
    pub(crate) fn try_add(
        &self,
        limit: usize,
        taken: impl Fn(&ScopeInner) -> bool,
        open: impl FnOnce(ScopeId) -> Scope,
    ) -> Result<Scope, Error> {
        let mut scopes = self.lock();
        scopes.retain(|_, scope| scope.upgrade().is_some_and(|scope| !scope.is_closed()));
        if scopes.len() >= limit {
            return Err(Error::Limit("open scopes"));
        }
        if scopes
            .values()
            .filter_map(Weak::upgrade)
            .any(|scope| taken(&scope))
        {
            return Err(Error::InvalidArgument(
                "this scope is open already".to_owned(),
            ));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let scope = open(id);
        scopes.insert(id, Arc::downgrade(scope.inner()));
        Ok(scope)
    }

    pub(crate) fn get(&self, id: ScopeId) -> Option<Arc<ScopeInner>> {
        self.lock().get(&id).and_then(Weak::upgrade)
    }

    /// All that are open.
    pub(crate) fn open(&self) -> Vec<Arc<ScopeInner>> {
        let scopes: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        scopes
            .into_iter()
            .filter(|scope| !scope.is_closed())
            .collect()
    }

    /// The open scope that `dialler` names by `path` at `listener`.
    pub(crate) fn find(
        &self,
        path: &str,
        dialler: EndpointId,
        listener: EndpointId,
    ) -> Option<Arc<ScopeInner>> {
        self.open()
            .into_iter()
            .find(|scope| scope.path(dialler, listener) == path)
    }
}
