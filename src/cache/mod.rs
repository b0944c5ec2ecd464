//! The cache: a typed, indexed view of the store that everything reads from; one writer, many readers.
//!
//! [`Cache::run`] lists the store, follows its changes, and lists again whenever the history it needs is gone. Readers
//! (controllers, proxy, API) get `Arc`s and never wait for the store.
//!
//! ```text
//! store ──watch──▶ run ──▶ View (records, indexes) ──▶ instance(), on_node(), route()
//!                    └──▶ Subscription (changed keys), observe (one object), wait_for (a revision)
//! ```
//!
//! Invariants: readers see whole transactions; indexes always equal those computed from the objects; `revision()` is
//! never ahead of what readers see; a key is never lost to a subscriber, only merged with its other changes.

mod feed;
mod subscription;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use tokio::sync::watch;

use subscription::Pending;
pub use subscription::Subscription;
use view::View;

use crate::model::{DockerHost, Instance, Key};
use crate::store::Revision;

pub struct Cache {
    domain: String,
    view: RwLock<View>,
    /// The revision that readers see; `None` until the first list is in.
    revision: watch::Sender<Option<Revision>>,
    observers: Mutex<HashMap<Key, watch::Sender<Option<Arc<Instance>>>>>,
    subscribers: Mutex<Vec<Weak<Pending>>>,
}

impl Cache {
    /// An empty cache; `domain` is what `{domain}` stands for in routes.
    pub fn new(domain: &str) -> Arc<Cache> {
        Arc::new(Cache {
            domain: domain.to_owned(),
            view: RwLock::new(View::new(domain)),
            revision: watch::Sender::new(None),
            observers: Mutex::default(),
            subscribers: Mutex::default(),
        })
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub fn instance(&self, key: &Key) -> Option<Arc<Instance>> {
        self.view().instance(key)
    }

    /// All instances, in the order of their keys.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.view().instances()
    }

    /// The instances bound to a node (`status.node`), in the order of their keys.
    pub fn on_node(&self, node: &str) -> Vec<Arc<Instance>> {
        self.view().on_node(node)
    }

    pub fn host(&self, name: &str) -> Option<Arc<DockerHost>> {
        self.view().host(name)
    }

    /// All hosts, in the order of their names.
    pub fn hosts(&self) -> Vec<Arc<DockerHost>> {
        self.view().hosts()
    }

    /// The instance that a request for a host name (without port, in any case) goes to. Of several that claim it the oldest
    /// has it (`metadata.creationTimestamp`), of those made in the same second the one with the least uid.
    pub fn route(&self, host_name: &str) -> Option<Arc<Instance>> {
        self.view().route(host_name)
    }

    /// The hosts that an instance claims and [`Cache::route`] has another one for, in the order of its routes, each with that
    /// other one.
    pub fn taken(&self, instance: &Instance) -> Vec<(String, Arc<Instance>)> {
        self.view().taken(instance)
    }

    /// The host names that lead to an instance, in lower case, each with the instance that [`Cache::route`] has for it.
    pub fn routes(&self) -> BTreeMap<String, Arc<Instance>> {
        self.view().routes()
    }

    /// The names of the values that a Secret or ConfigMap holds; `None` when there is none of this key. The values
    /// themselves are not in the cache.
    pub fn value_names(&self, source: &Key) -> Option<Arc<BTreeSet<String>>> {
        self.view().value_names(source)
    }

    /// The instances that name a Secret or ConfigMap, in the order of their keys.
    pub fn users_of(&self, source: &Key) -> Vec<Arc<Instance>> {
        self.view().users_of(source)
    }

    /// The owners that an object names, by key alone, in the order of their keys.
    pub fn owners(&self, key: &Key) -> BTreeSet<Key> {
        self.view().owners(key)
    }

    /// The objects that name one of this key as an owner, whether there is one or not, in the order of their keys. Which
    /// uid they mean is for the reader to look at. Events are left out.
    pub fn dependents(&self, owner: &Key) -> BTreeSet<Key> {
        self.view().dependents(owner)
    }

    /// Whether an object is being deleted and waits for what is done about its dependents.
    pub fn waits_for_dependents(&self, key: &Key) -> bool {
        self.view().waits_for_dependents(key)
    }

    /// Whether the store has an object of this key, readable or not. What looks for things without a record must ask
    /// this: an instance whose record cannot be decoded still owns its container.
    pub fn has_record(&self, key: &Key) -> bool {
        self.view().has_record(key)
    }

    /// Until the cache shows the store's content for the first time. Cancel safe.
    pub async fn ready(&self) {
        self.wait(|revision| revision.is_some()).await;
    }

    pub fn is_ready(&self) -> bool {
        self.revision.borrow().is_some()
    }

    /// The newest revision that readers see; 0 before the cache is ready.
    pub fn revision(&self) -> Revision {
        self.revision.borrow().unwrap_or_default()
    }

    /// Until readers see what `revision` wrote. Cancel safe.
    pub async fn wait_for(&self, revision: Revision) {
        self.wait(|seen| seen.is_some_and(|seen| seen >= revision)).await;
    }

    /// Until readers see something newer. Cancel safe.
    pub async fn wait_beyond(&self, revision: Revision) {
        self.wait(|seen| seen.is_some_and(|seen| seen > revision)).await;
    }

    async fn wait(&self, mut enough: impl FnMut(Option<Revision>) -> bool) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.revision.subscribe().wait_for(|seen| enough(*seen)).await;
    }

    /// Follows one instance: the current value now, and every newer one; `None` while it does not exist.
    pub fn observe(&self, key: &Key) -> watch::Receiver<Option<Arc<Instance>>> {
        // The view is held, so that no change can come between reading the value and being registered.
        let view = self.view();
        let mut observers = lock(&self.observers);
        match observers.get(key) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, receiver) = watch::channel(view.instance(key));
                observers.insert(key.clone(), sender);
                receiver
            }
        }
    }

    /// The keys of all objects, of every kind, and then of each that changes, and of each Instance that gets, loses or waits
    /// for a host name that passes from one to another.
    pub fn subscribe(&self) -> Subscription {
        let view = self.view();
        let pending = Arc::new(Pending::default());
        pending.add(view.keys());
        lock(&self.subscribers).push(Arc::downgrade(&pending));
        Subscription::new(pending)
    }

    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells observers and subscribers; called with the view still held, so that what they get is in order.
    fn announce(&self, view: &View, changed: &[Key]) {
        let mut observers = lock(&self.observers);
        for key in changed {
            if let Some(sender) = observers.get(key) {
                if sender.receiver_count() == 0 {
                    observers.remove(key);
                } else {
                    sender.send_replace(view.instance(key));
                }
            }
        }
        // Observers of keys that never change again would stay: sweep them once they outnumber the objects.
        if observers.len() > 64 + 2 * view.len() {
            observers.retain(|_, sender| sender.receiver_count() > 0);
        }
        drop(observers);
        lock(&self.subscribers).retain(|subscriber| match subscriber.upgrade() {
            Some(pending) => {
                pending.add(changed.iter().cloned());
                true
            }
            None => false,
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
