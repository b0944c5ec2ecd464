//! Many simulated daemons in one process, each on a socket of its own in one directory, and one socket to control them.
//!
//! | on `control.sock` | what |
//! |---|---|
//! | `GET /hosts` | name, socket and address of each |
//! | `GET /counts` | calls so far by method and path, over all; how many containers there are, and how many run |
//! | `POST /faults` | [`Order`]: something goes wrong on one host or on all |

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portreeve::clock::SharedClock;
use portreeve::docker::engine::RunState;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::super::SimEngine;
use super::super::image::SimImage;
use super::answer::{self, Body, Refused};
use super::call::Call;
use super::fault::Mishap;
use super::pace::Pace;
use super::{Host, MOST};

/// What to make.
#[derive(Clone, Debug)]
pub struct Plan {
    pub count: usize,
    /// The images that each has, by reference.
    pub images: Vec<(String, SimImage)>,
    /// Times as recorded, else all at once.
    pub recorded: bool,
    /// Real listeners at the published ports, on an address of 127.0.0.0/8 for each host.
    pub apps: bool,
    /// The first of those addresses.
    pub base: Ipv4Addr,
    pub seed: u64,
}

/// One daemon and how it is reached.
pub struct Place {
    pub name: String,
    pub socket: PathBuf,
    pub address: Ipv4Addr,
    pub host: Arc<Host>,
}

/// All of them; they go when it is dropped.
pub struct Hosts {
    pub places: Arc<Vec<Place>>,
    _serving: JoinSet<()>,
}

/// A fault, as it is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The name of a host; all without.
    pub host: Option<String>,
    pub fault: What,
    /// `POST /containers/{}/start`: the calls that meet it; all without. Not for every fault.
    pub call: Option<String>,
    /// How many calls of each host meet it; all without.
    pub times: Option<u32>,
    /// Of `away`.
    pub seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    Hang,
    Reset,
    Fail,
    FailDone,
    Lost,
    /// Its runtime hangs: it answers pings and lists, and nothing else.
    HalfDead,
    StallEvents,
    /// Every connection is closed, once.
    HangUp,
    /// Nobody answers for a time.
    Away,
    Heal,
}

impl Hosts {
    /// Makes the daemons and answers for them from now on. The directory must be there.
    pub async fn up(directory: &Path, clock: &SharedClock, plan: &Plan) -> io::Result<Hosts> {
        let (mut places, mut serving) = (Vec::new(), JoinSet::new());
        let width = plan.count.to_string().len();
        for number in 1..=plan.count {
            let name = format!("h{number:0width$}");
            let seed = plan.seed.wrapping_add(number as u64 * 0x1_0001);
            let engine = SimEngine::new(&name, clock.clone(), seed);
            engine.set_pace(super::super::Pace { read: Duration::ZERO, ..super::super::Pace::default() });
            for (reference, image) in &plan.images {
                engine.add_image(reference, image.clone());
            }
            let pace = if plan.recorded { Pace::recorded(seed ^ 0xacce) } else { Pace::None };
            let host = Host::new(engine, pace, plan.apps);
            let socket = directory.join(format!("{name}.sock"));
            serving.spawn(host.clone().serve(UnixListener::bind(&socket)?));
            let offset = u32::try_from(number).map_err(io::Error::other)?;
            let address = Ipv4Addr::from_bits(plan.base.to_bits().wrapping_add(offset));
            places.push(Place { name, socket, address, host });
        }
        let places = Arc::new(places);
        let control = UnixListener::bind(directory.join("control.sock"))?;
        serving.spawn(serve(control, places.clone()));
        Ok(Hosts { places, _serving: serving })
    }
}

/// Calls by method and path, over all.
pub fn counts(places: &[Place]) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    for place in places {
        for (call, count) in place.host.counts() {
            *all.entry(call).or_default() += count;
        }
    }
    all
}

/// Lets it happen.
pub fn order(places: &[Place], order: &Order) -> Result<(), String> {
    let call = match &order.call {
        Some(name) => Some(Call::named(name).ok_or_else(|| format!("there is no call {name:?}"))?),
        None => None,
    };
    let of = |place: &&Place| order.host.as_ref().is_none_or(|name| *name == place.name);
    let mut found = false;
    for Place { host, .. } in places.iter().filter(of) {
        found = true;
        let arm = |what| host.faults.arm(what, call, order.times);
        match order.fault {
            What::Hang => arm(Mishap::Hang),
            What::Reset => arm(Mishap::Reset),
            What::Fail => arm(Mishap::Fail),
            What::FailDone => arm(Mishap::FailDone),
            What::Lost => arm(Mishap::Lost),
            What::HalfDead => host.faults.set_half_dead(true),
            What::StallEvents => host.faults.stall_events(true),
            What::HangUp => host.hang_up(),
            What::Away => {
                host.engine.go_away(Duration::from_secs(order.seconds.unwrap_or(10)));
                host.hang_up();
            }
            What::Heal => {
                host.faults.heal();
                host.engine.come_back();
            }
        }
    }
    if found { Ok(()) } else { Err(format!("there is no host {:?}", order.host.as_deref().unwrap_or_default())) }
}

async fn serve(listener: UnixListener, places: Arc<Vec<Place>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let places = places.clone();
        let service = service_fn(move |request| control(request, places.clone()));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn control(request: Request<Incoming>, places: Arc<Vec<Place>>) -> io::Result<Response<Body>> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/hosts") => {
            let told = |p: &Place| json!({"name": p.name, "socket": p.socket, "address": p.address});
            answer::json(StatusCode::OK, &places.iter().map(told).collect::<Vec<Value>>())
        }
        (&Method::GET, "/counts") => {
            let (mut containers, mut running) = (0, 0);
            for place in places.iter() {
                let world = place.host.engine.world();
                containers += world.containers.len();
                running += world.containers.values().filter(|c| c.state == RunState::Running).count();
            }
            let told = json!({"calls": counts(&places), "containers": containers, "running": running});
            answer::json(StatusCode::OK, &told)
        }
        (&Method::POST, "/faults") => {
            let body = Limited::new(request.into_body(), MOST).collect().await.map_err(io::Error::other)?.to_bytes();
            let done = serde_json::from_slice::<Order>(&body).map_err(|e| e.to_string());
            match done.and_then(|wanted| order(&places, &wanted)) {
                Ok(()) => answer::empty(StatusCode::NO_CONTENT),
                Err(why) => Refused::bad(why).into(),
            }
        }
        _ => Refused::not_found("GET /hosts, GET /counts or POST /faults").into(),
    })
}
