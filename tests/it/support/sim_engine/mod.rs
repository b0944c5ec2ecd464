//! A simulated Docker daemon behind the real seam, for tests in virtual time.
//!
//! ```text
//! controllers ──▶ Engine ──▶ SimEngine: the way there (faults, latency) ──▶ World (one atomic step)
//! test        ──▶ hands.rs: a stranger at the daemon's own console; snapshots; counters
//! a client    ──▶ wire/: the same daemon over HTTP, in real time
//! ```
//!
//! Once a write has reached the daemon it happens, whether or not the caller still waits: it runs on a task of the
//! daemon's own, as it would in a real one. The same seed and the same calls give the same run. What it does is held
//! against a real daemon by `engine_conformance`.

mod describe;
mod exec;
pub mod fault;
pub mod fleet;
pub mod hands;
pub mod health;
pub mod image;
mod read;
mod start;
pub mod wire;
mod world;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::SignedDuration;
use portreeve::clock::SharedClock;
use portreeve::docker::engine::{EngineError, EngineErrorKind, EngineResult, RunState};
use portreeve::docker::timeouts;
use portreeve::docker::turns::{Turns, Weight};
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tokio::time::{sleep, timeout};

use self::fault::{CrashPoint, Fault, FaultRates, Rng};
use self::world::{Done, PlannedExit, Refusal, World};

/// What a pull came to.
type Pulled = Result<(), (EngineErrorKind, String)>;

/// How long the daemon takes for its work when nothing is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub read: Duration,
    pub write: Duration,
    pub create: Duration,
    pub start: Duration,
    /// Readings of what containers use are answered at multiples of this time, as older daemons do; zero: at once.
    pub reading: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        let ms = Duration::from_millis;
        Pace { read: ms(2), write: ms(10), create: ms(60), start: ms(150), reading: ms(0) }
    }
}

/// Operations that a daemon answers from its own memory.
const WITHOUT_RUNTIME: [&str; 8] = [
    "ping",
    "list containers",
    "list networks",
    "inspect container",
    "inspect network",
    "inspect image",
    "inspect volume",
    "events",
];

/// What of a daemon hangs. What it is asked meanwhile it answers when it goes on, but for writes: those are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hung {
    /// Pings, listings and descriptions are answered.
    Runtime,
    All,
}

impl Hung {
    fn holds(self, op: &str) -> bool {
        self == Hung::All || !WITHOUT_RUNTIME.contains(&op)
    }
}

/// One write that a caller tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Monotonic.
    pub at: Duration,
    /// `create container`, `start`, …: as in errors.
    pub op: &'static str,
    pub object: String,
}

/// One simulated daemon. Cloning gives another handle on the same one.
#[derive(Clone)]
pub struct SimEngine {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    clock: SharedClock,
    world: Mutex<World>,
    way: Mutex<Way>,
    /// Something happened: wakes followers of logs.
    stirred: Notify,
    /// Pulls under way by reference: later callers wait for the same one.
    pulls: Mutex<HashMap<String, watch::Receiver<Option<Pulled>>>>,
    /// As the real client has them.
    turns: Turns,
    /// The next who asks for this engine panics.
    panics: AtomicBool,
}

/// The way to the daemon.
struct Way {
    rng: Rng,
    rates: FaultRates,
    /// Armed by hand: the next call of this operation, in order.
    armed: VecDeque<(&'static str, Fault)>,
    /// Monotonic time until which nobody answers.
    away_until: Duration,
    hung: Option<Hung>,
    crash: Option<Arc<CrashPoint>>,
    pace: Pace,
    ops: Vec<Op>,
    reads: u64,
    stats: u64,
    /// Readings of what a container uses fail.
    stats_fail: bool,
    /// Pulls that reached the registry.
    pulls: u64,
}

impl SimEngine {
    /// An empty daemon: no images, no networks but the built-in ones.
    pub fn new(name: &str, clock: SharedClock, seed: u64) -> SimEngine {
        let world = World {
            daemon_id: format!("SIMULATED:{name}"),
            rng: Rng::new(seed),
            wall: clock.now(),
            clock_off: SignedDuration::ZERO,
            now: clock.monotonic(),
            containers: BTreeMap::new(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            images: BTreeMap::new(),
            execs: BTreeMap::new(),
            certificates_end: None,
            gpus: Vec::new(),
            taken_ports: BTreeSet::new(),
            forbidden_binds: BTreeSet::new(),
            disk_full: false,
            no_freezer: false,
            planned_exits: Vec::new(),
            lost_events: 0,
            history: VecDeque::new(),
            live: broadcast::channel(256).0,
        };
        let way = Way {
            rng: Rng::new(seed ^ 0x5eed),
            rates: FaultRates::default(),
            armed: VecDeque::new(),
            away_until: Duration::ZERO,
            hung: None,
            crash: None,
            pace: Pace::default(),
            ops: Vec::new(),
            reads: 0,
            stats: 0,
            stats_fail: false,
            pulls: 0,
        };
        let inner = Inner {
            name: name.to_owned(),
            clock,
            world: Mutex::new(world),
            way: Mutex::new(way),
            stirred: Notify::new(),
            pulls: Mutex::new(HashMap::new()),
            turns: Turns::default(),
            panics: AtomicBool::new(false),
        };
        SimEngine { inner: Arc::new(inner) }
    }

    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn daemon_id(&self) -> String {
        self.world().daemon_id.clone()
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.inner.way.lock().expect("no panic while held")
    }

    /// The world as of now.
    fn world(&self) -> MutexGuard<'_, World> {
        let mut world = self.inner.world.lock().expect("no panic while held");
        world.wall = self.inner.clock.now() + world.clock_off;
        world.now = self.inner.clock.monotonic();
        world
    }

    /// One step of the daemon, and what follows from it by itself.
    fn step<T>(&self, effect: impl FnOnce(&mut World) -> T) -> T {
        let (result, exits) = {
            let mut world = self.world();
            let result = effect(&mut world);
            (result, std::mem::take(&mut world.planned_exits))
        };
        exits.into_iter().for_each(|exit| self.exit_later(exit));
        self.inner.stirred.notify_waiters();
        result
    }

    fn exit_later(&self, exit: PlannedExit) {
        let engine = self.clone();
        tokio::spawn(async move {
            sleep(exit.after).await;
            // Who is frozen ends when it goes on.
            while engine.is_paused(&exit.id) {
                sleep(Duration::from_millis(10)).await;
            }
            engine.step(|world| {
                if world.containers.get(&exit.id).is_some_and(|c| c.runs == exit.run) {
                    world.end(&exit.id, exit.code, exit.oom);
                }
            });
        });
    }

    /// For [`fleet::SimFleet`].
    fn asked_for(&self) {
        assert!(!self.inner.panics.swap(false, Ordering::SeqCst), "on purpose");
    }

    pub fn is_paused(&self, container: &str) -> bool {
        self.world().find(container).is_some_and(|c| c.state == RunState::Paused)
    }

    fn is_away(&self) -> bool {
        self.inner.clock.monotonic() < self.way().away_until
    }

    /// What befalls a call that sets out now. A call of a process that has crashed never comes back.
    async fn set_out(&self, op: &'static str, object: &str, write: bool) -> Result<Option<Fault>, EngineError> {
        let crashed = self.way().crash.as_ref().is_some_and(|point| point.is_reached());
        if crashed {
            std::future::pending::<()>().await;
        }
        let now = self.inner.clock.monotonic();
        let fault = {
            let way = &mut *self.way();
            if write {
                way.ops.push(Op { at: now, op, object: object.to_owned() });
            } else {
                way.reads += 1;
            }
            let armed = way.armed.iter().position(|(armed, _)| *armed == op);
            let fault = match armed.and_then(|at| way.armed.remove(at)) {
                Some((_, fault)) => Some(fault),
                None if write && way.hung.is_some_and(|hung| hung.holds(op)) => Some(Fault::Hang),
                None => way.rates.draw(&mut way.rng, write),
            };
            if let Some(Fault::Away(time)) = fault {
                way.away_until = now + time;
            }
            fault
        };
        if self.is_away() || fault == Some(Fault::Refused) {
            sleep(Duration::from_millis(1)).await;
            return Err(unreachable(op, object));
        }
        Ok(fault)
    }

    /// A write: waits for its turn, and is made.
    async fn write<T: Send + 'static>(
        &self,
        op: &'static str,
        object: &str,
        cost: Duration,
        limit: Duration,
        effect: impl FnOnce(&mut World) -> Done<T> + Send + 'static,
    ) -> EngineResult<T> {
        let heavy = ["create container", "start container", "remove container", "create network", "remove network"];
        let weight = match op {
            "unpause container" => Weight::Thaw,
            op if heavy.contains(&op) => Weight::Heavy,
            _ => Weight::Light,
        };
        let _turn = self.inner.turns.take(op, object, weight).await?;
        self.write_in_turn(op, object, cost, limit, effect).await
    }

    /// A write: sets out, is carried out on a task of the daemon's, and is answered, or not.
    async fn write_in_turn<T: Send + 'static>(
        &self,
        op: &'static str,
        object: &str,
        cost: Duration,
        limit: Duration,
        effect: impl FnOnce(&mut World) -> Done<T> + Send + 'static,
    ) -> EngineResult<T> {
        let fault = self.set_out(op, object, true).await?;
        let late = match fault {
            Some(Fault::ServerError) => return Err(server_error(op, object)),
            Some(Fault::Hang) => {
                sleep(limit).await;
                return Err(timed_out(op, object, limit));
            }
            Some(Fault::Late(after)) => limit + after,
            _ => Duration::ZERO,
        };
        let (answer, answered) = oneshot::channel();
        let (engine, named) = (self.clone(), object.to_owned());
        tokio::spawn(async move {
            sleep(cost + late).await;
            if engine.is_away() && late.is_zero() {
                let _ = answer.send(Err(unreachable(op, &named)));
                return;
            }
            let result = engine.step(effect).map_err(|refusal| told(op, &named, refusal));
            engine.count_towards_crash().await;
            // A caller that is gone is no error: the daemon did it all the same.
            let _ = answer.send(result);
        });
        let result = match timeout(limit, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(unreachable(op, object)),
            Err(_) => Err(timed_out(op, object, limit)),
        };
        match fault {
            Some(Fault::AnswerLost) if result.is_ok() => {
                sleep(limit).await;
                Err(timed_out(op, object, limit))
            }
            Some(Fault::ServerErrorButDone) if result.is_ok() => Err(server_error(op, object)),
            _ => result,
        }
    }

    /// Counts a write that was carried out. Never comes back when the process that called is dead by now: the
    /// answer finds nobody.
    async fn count_towards_crash(&self) {
        let crash = self.way().crash.clone();
        if let Some(point) = crash {
            point.count();
            if point.is_reached() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A read: takes a moment, sees the world as it is then.
    async fn read<T>(
        &self,
        op: &'static str,
        object: &str,
        look: impl FnOnce(&mut World) -> Done<T>,
    ) -> EngineResult<T> {
        let _turn = self.inner.turns.take(op, object, Weight::Light).await?;
        let fault = self.set_out(op, object, false).await?;
        let stuck = async {
            while self.way().hung.is_some_and(|hung| hung.holds(op)) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        if timeout(timeouts::QUICK, stuck).await.is_err() {
            return Err(timed_out(op, object, timeouts::QUICK));
        }
        match fault {
            Some(Fault::Hang | Fault::AnswerLost | Fault::Late(_)) => {
                sleep(timeouts::QUICK).await;
                return Err(timed_out(op, object, timeouts::QUICK));
            }
            Some(Fault::ServerError | Fault::ServerErrorButDone) => return Err(server_error(op, object)),
            Some(Fault::Refused | Fault::Away(_)) | None => {}
        }
        let pace = self.way().pace.read;
        sleep(pace).await;
        if self.is_away() {
            return Err(unreachable(op, object));
        }
        look(&mut self.world()).map_err(|refusal| told(op, object, refusal))
    }
}

fn told(op: &'static str, object: &str, refusal: Refusal) -> EngineError {
    EngineError { op, object: object.to_owned(), kind: refusal.kind, message: refusal.message }
}

fn unreachable(op: &'static str, object: &str) -> EngineError {
    let message = "error trying to connect: Connection refused (os error 111)".to_owned();
    EngineError { op, object: object.to_owned(), kind: EngineErrorKind::Unreachable, message }
}

fn server_error(op: &'static str, object: &str) -> EngineError {
    let message = "containerd: connection error: transport is closing: unavailable".to_owned();
    EngineError { op, object: object.to_owned(), kind: EngineErrorKind::Server, message }
}

fn timed_out(op: &'static str, object: &str, limit: Duration) -> EngineError {
    let message = format!("no answer within {} s", limit.as_secs());
    EngineError { op, object: object.to_owned(), kind: EngineErrorKind::Timeout, message }
}
