//! A proxy with instances and apps behind it.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use portreeve::cache::Cache;
use portreeve::clock::SystemClock;
use portreeve::model::{
    BoundPort, Condition, DockerHost, Instance, Key, Phase, Port, Resource as _, Route, RoutePath, Time, set_condition,
};
use portreeve::proxy::{
    Access, Activity, Certificates, Challenges, Entrance, Front, Limits, ProxyState, Stats, Waker, serve,
};
use portreeve::store::{MemoryStore, Op, SharedStore, Txn, typed};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::beyond::Beyond;

pub type Body = BoxBody<Bytes, std::io::Error>;

/// How long anything here may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub store: SharedStore,
    pub cache: Arc<Cache>,
    pub activity: Arc<Activity>,
    pub waker: Arc<FakeWaker>,
    pub beyond: Arc<Beyond>,
    pub access: Arc<Access>,
    pub address: SocketAddr,
    /// The entrance with TLS.
    pub secure: SocketAddr,
    pub certificates: Arc<Certificates>,
    pub challenges: Arc<Challenges>,
    pub stats: Stats,
    pub shutdown: CancellationToken,
    pub proxy: Option<JoinHandle<()>>,
    stop_cache: CancellationToken,
}

impl World {
    pub async fn new() -> World {
        World::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> World {
        World::with_activity(limits, Activity::new(SystemClock::new())).await
    }

    pub async fn with_activity(limits: Limits, activity: Arc<Activity>) -> World {
        World::behind(Front::default(), limits, activity).await
    }

    /// With something before it.
    pub async fn behind(front: Front, limits: Limits, activity: Arc<Activity>) -> World {
        let store = MemoryStore::new();
        let cache = Cache::new("test");
        let clock = SystemClock::new();
        let beyond = Arc::<Beyond>::default();
        let access = Access::new(clock.clone(), beyond.clone(), beyond.clone()).telling(beyond.clone());
        let access = Arc::new(access);
        let waker = Arc::new(FakeWaker { store: store.clone(), calls: Mutex::default(), plans: Mutex::default() });
        let (shutdown, stop_cache) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(cache.clone().run(store.clone(), stop_cache.clone()));
        cache.ready().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (challenges, stats) = (Arc::<Challenges>::default(), Stats::default());
        let certificates = Certificates::answering(Some(challenges.clone()));
        let secured = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let secure = secured.local_addr().unwrap();
        let entrances = vec![listener.into(), Entrance { listener: secured, certificates: Some(certificates.clone()) }];
        let state = ProxyState {
            cache: cache.clone(),
            activity: activity.clone(),
            waker: waker.clone(),
            access: access.clone(),
            clock,
            limits,
            front,
            stats: stats.clone(),
            challenges: challenges.clone(),
        };
        let serving = serve(entrances, Arc::new(state), shutdown.clone());
        let proxy = Some(tokio::spawn(async move { serving.await.expect("TLS") }));
        World {
            store,
            cache,
            activity,
            waker,
            beyond,
            access,
            address,
            secure,
            certificates,
            challenges,
            stats,
            shutdown,
            proxy,
            stop_cache,
        }
    }

    /// Stores an object as it is, and waits until the proxy can see it.
    pub async fn put(&self, instance: &Instance) {
        put(&self.store, instance).await;
        self.cache.wait_for(self.store.revision()).await;
    }

    /// A host that is not ready for this reason.
    pub async fn put_host(&self, name: &str, reason: &str) {
        let mut host = DockerHost::default();
        host.metadata.name = name.into();
        let ready = Condition {
            type_: "Ready".into(),
            status: false.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: 1,
            last_transition_time: Time::from(jiff::Timestamp::UNIX_EPOCH),
        };
        set_condition(&mut host.status.conditions, ready);
        let op = Op::Put { key: host.key().to_string(), value: typed::encode(&host) };
        self.store.txn(Txn { when: vec![], then: vec![op] }).await.unwrap();
        self.cache.wait_for(self.store.revision()).await;
    }

    pub async fn connect(&self) -> Visitor {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Visitor { sender }
    }

    pub async fn get(&self, host: &str, path: &str) -> Reply {
        self.connect().await.send(request("GET", host, path, "")).await
    }

    pub fn open(&self, name: &str) -> usize {
        self.activity.open_count(&key(name))
    }

    pub async fn until_closed(&self, name: &str) {
        until(format!("nothing is open to {name}"), || self.open(name) == 0).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.stop_cache.cancel();
    }
}

pub fn key(name: &str) -> Key {
    Key::instance("default", name)
}

/// Polls until a condition holds.
pub async fn until(what: impl std::fmt::Display, mut holds: impl FnMut() -> bool) {
    let polling = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, polling).await.is_ok(), "gave up waiting until {what}");
}

/// Fails the test when something takes for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("gave up waiting for {what}"))
}

async fn put(store: &SharedStore, instance: &Instance) {
    let op = Op::Put { key: instance.key().to_string(), value: typed::encode(instance) };
    store.txn(Txn { when: vec![], then: vec![op] }).await.unwrap();
}

/// An instance with ports `web` and `api`, both at the app.
pub fn instance(name: &str, app: SocketAddr) -> Instance {
    let mut inst = Instance::default();
    inst.metadata.name = name.into();
    inst.metadata.namespace = "default".into();
    inst.metadata.uid = format!("uid-of-{name}");
    inst.spec.image = "app:1".into();
    for port in ["web", "api"] {
        inst.spec.ports.push(Port { name: port.into(), container_port: 80, host_port: None });
        inst.status.ports.push(BoundPort { name: port.into(), host_port: app.port() });
    }
    inst.status.address = app.ip().to_string();
    inst
}

pub fn asleep(name: &str, app: SocketAddr) -> Instance {
    with_phase(instance(name, app), Phase::Asleep)
}

pub fn awake(name: &str, app: SocketAddr) -> Instance {
    with_phase(instance(name, app), Phase::Running)
}

/// The same instance in another phase; Ready exactly when Running.
pub fn with_phase(mut inst: Instance, phase: Phase) -> Instance {
    inst.status.phase = phase;
    let ready = Condition {
        type_: "Ready".into(),
        status: (phase == Phase::Running).into(),
        reason: "Test".into(),
        message: String::new(),
        observed_generation: 1,
        last_transition_time: Time::from(jiff::Timestamp::UNIX_EPOCH),
    };
    set_condition(&mut inst.status.conditions, ready);
    inst
}

pub fn with_paths(mut inst: Instance, paths: &[(&str, &str)]) -> Instance {
    let paths = paths.iter().map(|(prefix, port)| RoutePath { prefix: (*prefix).into(), port: (*port).into() });
    inst.spec.routes = vec![Route { host: String::new(), paths: paths.collect(), ..Default::default() }];
    inst
}

/// Writes what the controllers would, some time after the first wish.
pub struct FakeWaker {
    store: SharedStore,
    calls: Mutex<HashMap<Key, usize>>,
    plans: Mutex<HashMap<Key, (Duration, Instance)>>,
}

impl FakeWaker {
    /// When woken, the instance becomes `then` after `delay`. Without a plan nothing happens.
    pub fn plan(&self, then: Instance, delay: Duration) {
        self.plans.lock().unwrap().insert(then.key(), (delay, then));
    }

    pub fn calls(&self, name: &str) -> usize {
        self.calls.lock().unwrap().get(&key(name)).copied().unwrap_or_default()
    }
}

impl Waker for FakeWaker {
    fn wake(&self, key: &Key) {
        *self.calls.lock().unwrap().entry(key.clone()).or_default() += 1;
        if let Some((delay, then)) = self.plans.lock().unwrap().remove(key) {
            let store = self.store.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                put(&store, &then).await;
            });
        }
    }
}

/// One client connection.
pub struct Visitor {
    sender: SendRequest<Body>,
}

impl Visitor {
    pub async fn send(&mut self, request: Request<Body>) -> Reply {
        let response = self.start(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = soon("the body", body.collect()).await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        Reply { status: head.status, headers: head.headers, trailers, body: body.to_bytes() }
    }

    /// Waits for the head of the response only.
    pub async fn start(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        soon("the connection", self.sender.ready()).await?;
        soon("the response", self.sender.send_request(request)).await
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub trailers: http::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub fn request(method: &str, host: &str, path: &str, body: &str) -> Request<Body> {
    let body = full(body.to_owned());
    Request::builder().method(method).uri(path).header("host", host).body(body).unwrap()
}

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|e| match e {}).boxed()
}

/// A body that ends when the sender is dropped, and breaks when it sends an error.
pub fn streamed() -> (mpsc::Sender<std::io::Result<Frame<Bytes>>>, Body) {
    let (sender, receiver) = mpsc::channel(0);
    (sender, BodyExt::boxed(StreamBody::new(receiver)))
}

/// An app: an HTTP server of one handler.
pub struct App {
    pub address: SocketAddr,
    /// Connections accepted so far.
    pub accepted: Arc<AtomicUsize>,
    /// Connections open now.
    pub open: Arc<AtomicUsize>,
    server: JoinHandle<()>,
    stop: CancellationToken,
}

impl App {
    /// Reads every request to its end and answers with `name METHOD path`.
    pub async fn hello(name: &'static str) -> App {
        App::new(move |request: Request<Incoming>| async move {
            let (head, body) = request.into_parts();
            let _ = body.collect().await;
            Response::new(full(format!("{name} {} {}", head.method, head.uri)))
        })
        .await
    }

    pub async fn new<F, R>(handler: F) -> App
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        App::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), handler)
    }

    pub fn on<F, R>(listener: TcpListener, handler: F) -> App
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let (accepted, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let stop = CancellationToken::new();
        let server = tokio::spawn({
            let (accepted, open, stop) = (accepted.clone(), open.clone(), stop.clone());
            async move {
                while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                    accepted.fetch_add(1, Ordering::SeqCst);
                    open.fetch_add(1, Ordering::SeqCst);
                    let (handler, open, stop) = (handler.clone(), open.clone(), stop.clone());
                    tokio::spawn(async move {
                        let service = hyper::service::service_fn(move |request| {
                            let answer = handler(request);
                            async move { Ok::<_, std::convert::Infallible>(answer.await) }
                        });
                        let connection =
                            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                        let _ = stop.run_until_cancelled(connection.with_upgrades()).await;
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        App { address, accepted, open, server, stop }
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Closes the port and every connection.
    pub async fn kill(&mut self) {
        self.stop.cancel();
        (&mut self.server).await.unwrap();
        until("the app's connections are closed", || self.open() == 0).await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
