//! Connections to apps: opened on demand, reused, and never across containers.
//!
//! ```text
//! service ──send(instance, target, request)──▶ Upstreams ▶ Pool of (uid, container, start, address, port) ▶ app
//! ```
//!
//! A host port may belong to another container a moment later. So a pool belongs to one start of one container of one
//! instance; when any of them changes the old pool is closed, and a connection still in use then is not kept.
//!
//! Own pool rather than hyper-util's: it gives a request back when none of it was sent, so that a body that can be
//! read only once survives a refused connection.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::body::{RequestBody, Upload};
use super::last_words::{LastWords, Listener};
use super::target::Target;
use super::{Limits, listener};
use crate::clock::SharedClock;
use crate::model::{Instance, Time};

/// New connections to one port at once that the app has not answered yet. After a wake hundreds of requests are let go
/// in one moment: all connecting together would overflow the queue of a listener that has just begun, and each that is
/// dropped there waits a second for TCP to try again.
const NEWCOMERS: usize = 32;
/// How long a connection counts as new: any app that lives has accepted it by then.
const PROVEN: Duration = Duration::from_millis(10);

/// Why there is no response.
pub enum SendError {
    /// Nothing was sent: the request comes back whole, whatever its method.
    NotSent { request: Box<Request<RequestBody>>, cause: io::Error },
    /// Some of it may have been sent, and no response came.
    Broken {
        /// Whether the connection had been used before: then the app may just have closed it for being idle.
        reused: bool,
        cause: hyper::Error,
    },
}

/// The head of a response, and the connection that its body is still on.
type Answered = (Response<Incoming>, Connection);

/// A connection as whoever sends on it has it. Dropped, it is closed as soon as nothing is under way.
struct Connection {
    sender: SendRequest<RequestBody>,
    heard: Arc<Listener>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.heard.leave();
    }
}

pub struct Upstreams {
    clock: SharedClock,
    limits: Limits,
    /// By uid.
    apps: Mutex<HashMap<String, App>>,
    /// Idle connections of all pools.
    idle: Arc<AtomicUsize>,
}

/// One start of one container.
struct App {
    container_id: String,
    started_at: Option<Time>,
    /// One per port in use: a handful.
    pools: Vec<Arc<Pool>>,
}

struct Pool {
    address: String,
    port: u16,
    idle: Mutex<IdleList>,
    /// Turns to open a connection: see [`NEWCOMERS`].
    newcomers: Semaphore,
    total: Arc<AtomicUsize>,
    limits: Limits,
    clock: SharedClock,
}

#[derive(Default)]
struct IdleList {
    closed: bool,
    /// The longest idle first.
    connections: Vec<(Duration, Connection)>,
}

impl Upstreams {
    pub fn new(clock: SharedClock, limits: Limits) -> Upstreams {
        Upstreams { clock, limits, apps: Mutex::default(), idle: Arc::default() }
    }

    /// Sends a request and waits for the head of its response. Dropping the future cancels the request.
    ///
    /// `fresh` is the longest time that a connection may have lain idle to be used for it; zero: a new one.
    pub async fn send(
        &self,
        instance: &Instance,
        target: Target<'_>,
        mut request: Request<RequestBody>,
        fresh: Duration,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let pool = self.pool(instance, target);
        let upload = request.body().upload();
        let (response, connection) = match pool.send_on_kept(&mut request, fresh).await? {
            Some(answered) => answered,
            None => {
                let turn = tokio::time::timeout(self.limits.connect, pool.newcomers.acquire()).await;
                let Ok(Ok(turn)) = turn else {
                    let cause = io::ErrorKind::TimedOut.into();
                    return Err(SendError::NotSent { request: Box::new(request), cause });
                };
                // By the time of its turn another request may be done with its connection.
                match pool.send_on_kept(&mut request, fresh).await? {
                    Some(answered) => answered,
                    None => pool.send_on_new(request, turn).await?,
                }
            }
        };
        Ok((response, Lease { connection, pool, upload }))
    }

    /// Closes connections that have been idle for too long, and forgets apps without any.
    pub fn sweep(&self) {
        let now = self.clock.monotonic();
        let mut apps = lock(&self.apps);
        apps.retain(|_, app| {
            app.pools.retain(|pool| pool.prune(now) || Arc::strong_count(pool) > 1);
            !app.pools.is_empty()
        });
    }

    /// The pool of what runs now; closes those of what ran before.
    fn pool(&self, instance: &Instance, target: Target<'_>) -> Arc<Pool> {
        let status = &instance.status;
        let mut apps = lock(&self.apps);
        if let Some(app) = apps.get_mut(&instance.metadata.uid) {
            if app.container_id == status.container_id && app.started_at == status.started_at {
                let known = app.pools.iter().find(|p| p.port == target.port && p.address == target.address);
                if let Some(pool) = known {
                    return pool.clone();
                }
                let pool = self.new_pool(target);
                app.pools.push(pool.clone());
                return pool;
            }
            for old in app.pools.drain(..) {
                old.close();
            }
        }
        let pool = self.new_pool(target);
        let (container_id, started_at) = (status.container_id.clone(), status.started_at);
        apps.insert(instance.metadata.uid.clone(), App { container_id, started_at, pools: vec![pool.clone()] });
        pool
    }

    fn new_pool(&self, target: Target<'_>) -> Arc<Pool> {
        Arc::new(Pool {
            address: target.address.to_owned(),
            port: target.port,
            idle: Mutex::default(),
            newcomers: Semaphore::new(NEWCOMERS),
            total: self.idle.clone(),
            limits: self.limits.clone(),
            clock: self.clock.clone(),
        })
    }
}

impl Pool {
    /// The connection used last, unless it was longer ago than `fresh`.
    fn take(&self, fresh: Duration) -> Option<Connection> {
        let now = self.clock.monotonic();
        let mut list = lock(&self.idle);
        let mut at = list.connections.len();
        while at > 0 {
            at -= 1;
            let (since, Connection { sender, .. }) = &list.connections[at];
            if sender.is_closed() {
                list.connections.remove(at);
                self.total.fetch_sub(1, Ordering::Relaxed);
            } else if fresh.is_zero() || now.saturating_sub(*since) > fresh {
                // All before it are older still.
                return None;
            } else if sender.is_ready() {
                self.total.fetch_sub(1, Ordering::Relaxed);
                return Some(list.connections.remove(at).1);
            }
            // Neither: its task has not yet seen the end of the last exchange. Leave it for later.
        }
        None
    }

    fn put(&self, connection: Connection) {
        let mut list = lock(&self.idle);
        let full = list.connections.len() >= self.limits.idle_per_target
            || self.total.load(Ordering::Relaxed) >= self.limits.idle_in_all;
        if !list.closed && !full && !connection.sender.is_closed() {
            list.connections.push((self.clock.monotonic(), connection));
            self.total.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether there is still an idle connection.
    fn prune(&self, now: Duration) -> bool {
        let mut list = lock(&self.idle);
        let before = list.connections.len();
        let idle_for = self.limits.idle_for;
        list.connections.retain(|(since, kept)| !kept.sender.is_closed() && now.saturating_sub(*since) < idle_for);
        self.total.fetch_sub(before - list.connections.len(), Ordering::Relaxed);
        !list.connections.is_empty()
    }

    fn close(&self) {
        let mut list = lock(&self.idle);
        list.closed = true;
        let dropped = mem::take(&mut list.connections);
        self.total.fetch_sub(dropped.len(), Ordering::Relaxed);
    }

    /// Sends on a kept connection. `None`, with the request untouched, when none is free.
    async fn send_on_kept(
        &self,
        request: &mut Request<RequestBody>,
        fresh: Duration,
    ) -> Result<Option<Answered>, SendError> {
        while let Some(mut connection) = self.take(fresh) {
            let sent = mem::replace(request, Request::new(RequestBody::Empty));
            match connection.sender.try_send_request(sent).await {
                Ok(response) => return Ok(Some((response, connection))),
                Err(mut e) => match e.take_message() {
                    Some(unsent) => *request = unsent,
                    None => return Err(SendError::Broken { reused: true, cause: e.into_error() }),
                },
            }
        }
        Ok(None)
    }

    /// Opens a connection and sends on it; `turn` ends when the app has shown that it accepts.
    async fn send_on_new(
        &self,
        request: Request<RequestBody>,
        turn: SemaphorePermit<'_>,
    ) -> Result<Answered, SendError> {
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(cause) => return Err(SendError::NotSent { request: Box::new(request), cause }),
        };
        let sent = {
            let mut sending = pin!(connection.sender.try_send_request(request));
            let early = tokio::time::timeout(PROVEN, sending.as_mut()).await;
            drop(turn);
            match early {
                Ok(sent) => sent,
                Err(_) => sending.await,
            }
        };
        match sent {
            Ok(response) => Ok((response, connection)),
            Err(mut e) => match e.take_message() {
                Some(unsent) => {
                    Err(SendError::NotSent { request: Box::new(unsent), cause: io::Error::other(e.into_error()) })
                }
                None => Err(SendError::Broken { reused: false, cause: e.into_error() }),
            },
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let connecting = async {
            match self.address.parse::<IpAddr>() {
                Ok(ip) => TcpStream::connect((ip, self.port)).await,
                Err(_) => TcpStream::connect((self.address.as_str(), self.port)).await,
            }
        };
        let stream = tokio::time::timeout(self.limits.connect, connecting).await.map_err(io::Error::from)??;
        listener::tune(&stream);
        let mut builder = http1::Builder::new();
        builder.max_buf_size(self.limits.buffer);
        let heard = Arc::<Listener>::default();
        let stream = TokioIo::new(LastWords::new(stream, heard.clone()));
        let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        // Ends when the app closes, or when its sender and its response body are gone.
        tokio::spawn(async move {
            if let Err(e) = connection.with_upgrades().await {
                tracing::debug!(error = %e, "a connection to an app ended");
            }
        });
        Ok(Connection { sender, heard })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection in use. Dropped, it is closed.
pub struct Lease {
    connection: Connection,
    pool: Arc<Pool>,
    upload: Option<Arc<Upload>>,
}

impl Lease {
    /// Keeps the connection for the next request. To be called when the response has been read to its end.
    pub fn give_back(self) {
        // An app that answers before it has read the whole request leaves the connection mid-message.
        if self.upload.as_ref().is_none_or(|upload| upload.is_done()) {
            self.pool.put(self.connection);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
