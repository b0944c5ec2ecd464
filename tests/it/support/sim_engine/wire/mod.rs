//! The simulated daemon over HTTP, in real time: what a client of the Docker Engine API speaks to.
//!
//! ```text
//! BollardEngine ──unix socket──▶ connection ▶ call (which?) ▶ fault ▶ pace ▶ World (one atomic step) ▶ describe
//! test, bench   ──control.sock─▶ hosts: counts of calls, faults on demand
//! ```
//!
//! The rules of the daemon are those of the simulation in virtual time: [`SimEngine`] and its world, which this only
//! gives a face. What is added here is what a library hides: status codes, shapes, streams, time. It is held against a
//! real daemon by `engine_conformance` (through our client) and `wire_conformance` (without).
//!
//! Invariants: a write whose request has arrived is carried out, whether or not its client waits; no lock is held
//! across an await; a request's body is at most [`MOST`].

mod answer;
mod apps;
pub mod call;
mod containers;
mod create;
mod describe;
mod events;
mod exec;
pub mod fault;
pub mod hosts;
mod images;
mod objects;
pub mod pace;
mod query;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use self::answer::{Body, Refused, Reply};
use self::apps::Apps;
use self::call::Call;
use self::fault::{Faults, Mishap};
use self::pace::Pace;
use self::query::Query;
use super::SimEngine;
use super::world::World;

/// The newest API version that it speaks, as Docker 20.10 does.
pub const API: u16 = 41;
/// No body of ours is longer.
const MOST: usize = 1 << 20;

/// One simulated daemon, and what its face adds.
pub struct Host {
    pub engine: SimEngine,
    pub faults: Faults,
    pace: Pace,
    /// Who answers at the published ports; `None`: nobody.
    apps: Option<Arc<Apps>>,
    /// By method and path.
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// Containers of which a removal is under way.
    removing: Mutex<HashSet<String>>,
    /// Every change closes the connections.
    hung_up: watch::Sender<()>,
}

/// A request, taken apart.
pub struct Asked {
    pub call: Call,
    /// The part of the path that names something; empty where there is none.
    pub object: String,
    pub query: Query,
    /// Of a registry, as it was written.
    pub login: Option<String>,
    pub body: Bytes,
}

impl Host {
    pub fn new(engine: SimEngine, pace: Pace, apps: bool) -> Arc<Host> {
        let apps = apps.then(|| Apps::new(engine.clone()));
        Arc::new(Host {
            engine,
            faults: Faults::default(),
            pace,
            apps,
            counts: Mutex::default(),
            removing: Mutex::default(),
            hung_up: watch::channel(()).0,
        })
    }

    /// Answers on a socket until dropped.
    pub async fn serve(self: Arc<Host>, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(self.clone().connection(stream));
        }
    }

    /// Closes every connection, as a restart does.
    pub fn hang_up(&self) {
        self.engine.break_event_streams();
        self.hung_up.send_replace(());
    }

    /// Calls so far by method and path.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn connection(self: Arc<Host>, stream: UnixStream) {
        let mut hung_up = self.hung_up.subscribe();
        let service = service_fn(move |request| self.clone().answer(request));
        let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::select! {
            // A client that goes away is no failure of the daemon.
            _ = serving => {}
            _ = hung_up.changed() => {}
        }
    }

    /// An error closes the connection without an answer.
    async fn answer(self: Arc<Host>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let head = |mut response: Response<Body>| {
            let headers = response.headers_mut();
            headers.insert("api-version", header::HeaderValue::from_static("1.41"));
            headers.insert(header::SERVER, header::HeaderValue::from_static("Docker/20.10.24 (linux)"));
            response
        };
        let (call, object) = match call::route(request.method(), request.uri().path()) {
            Ok(found) => found,
            Err(refused) => return Ok(head(refused.into())),
        };
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(call.name()).or_default() += 1;
        if self.engine.is_away() {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "nobody is here"));
        }
        let mishap = self.faults.meets(call);
        match mishap {
            Some(Mishap::Hang) => std::future::pending().await,
            Some(Mishap::Reset) => return Err(io::Error::new(io::ErrorKind::ConnectionReset, "on purpose")),
            Some(Mishap::Fail) => return Ok(head(fault::server_error().into())),
            Some(Mishap::FailDone | Mishap::Lost) | None => {}
        }
        let result = self.clone().taken(call, object, request).await?;
        match mishap {
            Some(Mishap::FailDone) => Ok(head(fault::server_error().into())),
            Some(Mishap::Lost) => std::future::pending().await,
            // Of a connection that it was about to give away a daemon writes its refusal by hand.
            _ if call == Call::Attach => Ok(head(result.unwrap_or_else(answer::plain))),
            _ => Ok(head(result.unwrap_or_else(Refused::into))),
        }
    }

    /// Reads the request to its end and carries it out.
    async fn taken(self: Arc<Host>, call: Call, object: String, mut request: Request<Incoming>) -> io::Result<Reply> {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let login = request.headers().get("x-registry-auth").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let write = *request.method() != Method::GET;
        let body = match Limited::new(request.into_body(), MOST).collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) if e.is::<http_body_util::LengthLimitError>() => {
                return Ok(Err(Refused::new(StatusCode::BAD_REQUEST, "http: request body too large")));
            }
            Err(e) => return Err(io::Error::other(e)),
        };
        let asked = Asked { call, object, query, login, body };
        match call {
            Call::ExecStart => return Ok(exec::start(&self, &asked, upgrade).await),
            Call::Attach => return Ok(exec::attach(&self, &asked, upgrade).await),
            _ => {}
        }
        if !write {
            return Ok(self.carry_out(&asked).await);
        }
        // Its client may go away: what has arrived is done.
        let done = tokio::spawn(async move { self.carry_out(&asked).await }).await;
        done.map_err(io::Error::other)
    }

    async fn carry_out(self: &Arc<Host>, asked: &Asked) -> Reply {
        match asked.call {
            Call::Ping => Ok(answer::text("OK")),
            Call::Version => Ok(answer::json(StatusCode::OK, &*describe::VERSION)),
            Call::Info => {
                self.pace.quick(asked.call).await;
                Ok(answer::json(StatusCode::OK, &describe::info(&self.engine)))
            }
            Call::Events => events::stream(self, asked),
            Call::ListContainers => containers::list(self, asked).await,
            Call::CreateContainer => create::create(self, asked).await,
            Call::InspectContainer => containers::inspect(self, asked).await,
            Call::Stats => containers::stats(self, asked).await,
            Call::Logs => exec::logs(self, asked).await,
            Call::Start => containers::start(self, asked).await,
            Call::Stop => containers::stop(self, asked).await,
            Call::Restart => {
                containers::stop(self, asked).await?;
                containers::start(self, asked).await
            }
            Call::Kill => containers::kill(self, asked),
            Call::Pause => containers::pause(self, asked, true),
            Call::Unpause => containers::pause(self, asked, false),
            Call::Rename => containers::rename(self, asked).await,
            Call::Update => containers::update(self, asked).await,
            Call::RemoveContainer => containers::remove(self, asked).await,
            Call::ExecCreate => exec::create(self, asked),
            Call::ExecInspect => exec::inspect(self, asked),
            Call::ExecResize => exec::resize(self, asked),
            Call::ListImages => Ok(images::list(self)),
            Call::InspectImage => images::inspect(self, asked).await,
            Call::Pull => images::pull(self, asked).await,
            Call::RemoveImage => images::remove(self, asked),
            Call::ListNetworks => objects::list_networks(self, asked).await,
            Call::InspectNetwork => objects::inspect_network(self, asked).await,
            Call::CreateNetwork => objects::create_network(self, asked).await,
            Call::RemoveNetwork => objects::remove_network(self, asked).await,
            Call::Connect => objects::connect(self, asked, true),
            Call::Disconnect => objects::connect(self, asked, false),
            Call::ListVolumes => Ok(objects::list_volumes(self)),
            Call::InspectVolume => objects::inspect_volume(self, asked).await,
            Call::CreateVolume => objects::create_volume(self, asked).await,
            Call::RemoveVolume => objects::remove_volume(self, asked).await,
            Call::ExecStart | Call::Attach => unreachable!("answered before"),
        }
    }

    /// The id of the container that is spoken of: by its whole id, its name, or the beginning of its id, as daemons do.
    fn resolve(&self, text: &str) -> Result<String, Refused> {
        resolve(&self.engine.world(), text)
    }
}

fn resolve(world: &World, text: &str) -> Result<String, Refused> {
    if let Some(found) = world.find(text.trim_start_matches('/')) {
        return Ok(found.id.clone());
    }
    let mut beginning = world.containers.range(text.to_owned()..).take_while(|(id, _)| id.starts_with(text));
    match (beginning.next(), beginning.next()) {
        (Some((id, _)), None) if !text.is_empty() => Ok(id.clone()),
        (Some(_), Some(_)) if !text.is_empty() => {
            Err(Refused::new(StatusCode::BAD_REQUEST, format!("Multiple IDs found with provided prefix: {text}")))
        }
        _ => Err(Refused::new(StatusCode::NOT_FOUND, format!("No such container: {text}"))),
    }
}
