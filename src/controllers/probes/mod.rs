//! Asking running apps again and again whether they can serve, and whether they live: one task for all of them, beside the
//! reconciles.
//!
//! ```text
//! cache ──who runs, where, which probes──▶ [`run`] ──when due──▶ attempts, a host's share at once
//!                                             ▲                     │
//!                                             └──── result ◀────────┘ ──▶ Tally ──verdict changed──▶ Health, queue
//! ```
//!
//! Only what the record says is Running, on a host that is Ready, is asked; with the first record that says otherwise the
//! attempts under way end. Attempts are no use of the instance, and nothing is written here: the reconcile that a change
//! of a verdict causes writes. Startup probes are made by the reconciles themselves, which wait for them.

pub mod busy;
mod exec;
mod health;
mod net;
mod target;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sha2::{Digest, Sha256};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Context, InstanceQueue};
use crate::docker::engine::Engine;
use crate::model::{Instance, Key, Kind, Phase, Power, Probe, Resource, is_true};
use crate::runtime::Lanes;

pub use health::{Asked, Health, HealthSeen, ProbeKind};
pub use net::{NetProber, Prober};
pub use target::{NetTarget, ProbeTarget};
pub use verdict::{Attempt, Verdict};

use verdict::Tally;

/// Attempts at the apps of one host at once: the rest wait their turn, and a host that hangs keeps only its own waiting.
const AT_ONCE: usize = 32;
/// Between two attempts to find an app ready that has just started, the shortest; the longest is the probe's period.
const EAGER: Duration = Duration::from_millis(250);

/// Makes one check of a bound instance's container.
pub async fn check(
    ctx: &Context,
    engine: Option<&dyn Engine>,
    asked: Asked<'_>,
    container_id: &str,
    target: &ProbeTarget,
    limit: Duration,
) -> Attempt {
    match (target, engine) {
        (ProbeTarget::Net { at, .. }, _) => ctx.prober.probe(at, limit).await,
        (ProbeTarget::Exec { command }, Some(engine)) => {
            exec::attempt(engine, &ctx.health, asked, container_id, command, limit).await
        }
        (ProbeTarget::Exec { .. }, None) => Attempt::Unknown("the host has no daemon to ask".into()),
    }
}

/// Makes all checks of one attempt, at once. The first that failed is told.
async fn attempt(ctx: Arc<Context>, instance: Arc<Instance>, kind: ProbeKind, probe: Probe) -> Attempt {
    let key = instance.key();
    let checks = probe.all();
    let host = ctx.cache.host(&instance.status.node).filter(|_| checks.iter().any(|one| one.exec.is_some()));
    let engine = host.and_then(|host| ctx.engines.engine(&host).ok());
    let made = checks.iter().enumerate().map(|(n, one)| {
        let (ctx, engine, key, instance) = (&ctx, engine.as_deref(), &key, &instance);
        let limit = probe.attempt_timeout();
        async move {
            let Some(target) = ProbeTarget::of(instance, one) else {
                return Attempt::Unknown("its port is not bound yet".into());
            };
            let asked = Asked { key, kind, check: n };
            match check(ctx, engine, asked, &instance.status.container_id, &target, limit).await {
                Attempt::Failed(why) => Attempt::Failed(format!("{}: {why}", target.label())),
                other => other,
            }
        }
    });
    let mut all = join_all(made).await;
    let worst = all.iter().position(|a| matches!(a, Attempt::Failed(_)));
    let worst = worst.or_else(|| all.iter().position(|a| matches!(a, Attempt::Unknown(_))));
    worst.map_or(Attempt::Passed, |n| all.swap_remove(n))
}

/// Asks until shutdown.
pub async fn run(ctx: Arc<Context>, queue: InstanceQueue, shutdown: CancellationToken) {
    let mut changes = ctx.cache.subscribe();
    let mut rounds = Rounds::new(ctx, queue);
    for instance in rounds.ctx.cache.instances() {
        rounds.look(&instance.key());
    }
    loop {
        let due = rounds.next();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            key = changes.next() => rounds.changed(&key),
            Some(ended) = rounds.attempts.join_next_with_id() => rounds.ended(ended),
            () = wait(due) => rounds.begin(),
        }
    }
}

async fn wait(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// One attempt to be made. It is void when the instance is watched under another number by then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    key: Key,
    kind: ProbeKind,
    number: u64,
}

/// One run of one instance.
struct Watched {
    run: String,
    node: String,
    number: u64,
    tracks: BTreeMap<ProbeKind, Track>,
}

/// One probe of it.
struct Track {
    probe: Probe,
    tally: Tally,
    /// Monotonic time of the last attempt's turn, and since when the app is asked.
    turn: Duration,
    since: Duration,
    /// It has not passed since the app started, and somebody may wait for it.
    eager: bool,
    /// Monotonic time of the last failure that counted: those of an app that comes up are no more in number than they would be
    /// without haste.
    failed: Duration,
    under_way: Option<AbortHandle>,
}

impl Track {
    /// From one attempt to the next.
    fn pause(&self, now: Duration) -> Duration {
        let period = self.probe.period();
        if self.eager { ((now - self.since) / 10).clamp(EAGER.min(period), period) } else { period }
    }
}

struct Rounds {
    ctx: Arc<Context>,
    queue: InstanceQueue,
    watched: BTreeMap<Key, Watched>,
    due: BTreeSet<(Duration, Ticket)>,
    lanes: Lanes<Ticket>,
    attempts: JoinSet<Attempt>,
    /// With the host that they are made at.
    under_way: HashMap<Id, (Ticket, String)>,
    /// Whether each host was ready.
    ready: BTreeMap<String, bool>,
    numbers: u64,
}

impl Rounds {
    fn new(ctx: Arc<Context>, queue: InstanceQueue) -> Rounds {
        Rounds {
            ctx,
            queue,
            watched: BTreeMap::new(),
            due: BTreeSet::new(),
            lanes: Lanes::new(AT_ONCE),
            attempts: JoinSet::new(),
            under_way: HashMap::new(),
            ready: BTreeMap::new(),
            numbers: 0,
        }
    }

    fn changed(&mut self, key: &Key) {
        match key.kind {
            Kind::Instance => self.look(key),
            Kind::DockerHost => {
                let ready = self.is_ready(&key.name);
                if self.ready.insert(key.name.clone(), ready) != Some(ready) {
                    self.ctx.cache.on_node(&key.name).iter().for_each(|i| self.look(&i.key()));
                }
                if self.ctx.cache.host(&key.name).is_none() {
                    self.ready.remove(&key.name);
                }
            }
            Kind::Secret | Kind::ConfigMap | Kind::Namespace | Kind::Event | Kind::AccessToken => {}
        }
    }

    fn is_ready(&self, host: &str) -> bool {
        self.ctx.cache.host(host).is_some_and(|host| is_true(&host.status.conditions, "Ready"))
    }

    fn is_asked(&self, instance: &Instance) -> bool {
        let probes = &instance.spec.probes;
        (probes.readiness.is_some() || probes.liveness.is_some())
            && instance.status.phase == Phase::Running
            && instance.spec.power != Power::Stopped
            && instance.metadata.deletion_timestamp.is_none()
            && self.is_ready(&instance.status.node)
    }

    /// Follows what the record of an instance says by now.
    fn look(&mut self, key: &Key) {
        let found = self.ctx.cache.instance(key);
        let asked = found.as_ref().filter(|i| self.is_asked(i)).and_then(|i| Some((i.clone(), i.run()?)));
        let Some((instance, run)) = asked else {
            self.end(key);
            self.ctx.health.forget_run(key);
            return;
        };
        let probes = &instance.spec.probes;
        let wanted = [(ProbeKind::Readiness, &probes.readiness), (ProbeKind::Liveness, &probes.liveness)];
        let wanted: BTreeMap<ProbeKind, &Probe> =
            wanted.into_iter().filter_map(|(k, p)| Some((k, p.as_ref()?))).collect();
        let same = |w: &Watched| {
            w.run == run
                && w.node == instance.status.node
                && w.tracks.iter().map(|(kind, track)| (*kind, &track.probe)).eq(wanted.iter().map(|(k, p)| (*k, *p)))
        };
        if self.watched.get(key).is_some_and(same) {
            return;
        }
        let before = self.end(key).filter(|before| before.run == run);
        self.watch(&instance, run, &wanted, before);
    }

    /// Forgets an instance; attempts under way end.
    fn end(&mut self, key: &Key) -> Option<Watched> {
        let ended = self.watched.remove(key)?;
        for (kind, track) in &ended.tracks {
            self.due.remove(&(track.turn, Ticket { key: key.clone(), kind: *kind, number: ended.number }));
            if let Some(attempt) = &track.under_way {
                attempt.abort();
            }
        }
        Some(ended)
    }

    /// `before`: what the same run was asked until now. A probe that has not changed keeps its row.
    fn watch(
        &mut self,
        instance: &Instance,
        run: String,
        wanted: &BTreeMap<ProbeKind, &Probe>,
        before: Option<Watched>,
    ) {
        let now = self.ctx.clock.monotonic();
        self.numbers += 1;
        let number = self.numbers;
        let is_new = !is_true(&instance.status.conditions, "Ready");
        let mut kept = before.map(|w| w.tracks).unwrap_or_default();
        let changed = !kept.is_empty();
        let mut tracks = BTreeMap::new();
        for (kind, probe) in wanted {
            let track = match kept.remove(kind).filter(|track| track.probe == **probe) {
                Some(track) => Track { under_way: None, turn: track.turn.max(now), ..track },
                None => {
                    // Somebody waits for one that has just started; whoever changed a probe wants to see what it does.
                    let at_once = changed || (is_new && *kind == ProbeKind::Readiness);
                    let turn = now + if at_once { Duration::ZERO } else { spread(instance, *kind, probe.period()) };
                    let eager = is_new && *kind == ProbeKind::Readiness;
                    Track {
                        probe: (*probe).clone(),
                        tally: Tally::default(),
                        turn,
                        since: now,
                        eager,
                        failed: now,
                        under_way: None,
                    }
                }
            };
            self.due.insert((track.turn, Ticket { key: instance.key(), kind: *kind, number }));
            tracks.insert(*kind, track);
        }
        let seen = seen(&tracks);
        self.ctx.health.tell(&instance.key(), &run, seen);
        self.watched.insert(instance.key(), Watched { run, node: instance.status.node.clone(), number, tracks });
    }

    /// How long until somebody is to be asked.
    fn next(&self) -> Option<Duration> {
        let (at, _) = self.due.first()?;
        Some(at.saturating_sub(self.ctx.clock.monotonic()))
    }

    /// Begins what is due, as far as each host's share goes.
    fn begin(&mut self) {
        let now = self.ctx.clock.monotonic();
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, ticket)) = self.due.pop_first() else { return };
            let Some(node) = self.watched.get(&ticket.key).map(|w| w.node.clone()) else { continue };
            if let Some(ticket) = self.lanes.enter(&node, ticket) {
                self.send(ticket, node);
            }
        }
    }

    /// Makes the attempt, or the next one of its host when it is void by now.
    fn send(&mut self, ticket: Ticket, node: String) {
        let mut next = Some(ticket);
        while let Some(ticket) = next {
            let watched = self.watched.get_mut(&ticket.key).filter(|w| w.number == ticket.number);
            let track = watched.and_then(|w| w.tracks.get_mut(&ticket.kind));
            let (Some(track), Some(instance)) = (track, self.ctx.cache.instance(&ticket.key)) else {
                next = self.lanes.leave(&node);
                continue;
            };
            let made = attempt(self.ctx.clone(), instance, ticket.kind, track.probe.clone());
            let handle = self.attempts.spawn(made);
            self.under_way.insert(handle.id(), (ticket, node));
            track.under_way = Some(handle);
            return;
        }
    }

    fn ended(&mut self, ended: Result<(Id, Attempt), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(e) => e.id(),
        };
        let Some((ticket, node)) = self.under_way.remove(&id) else { return };
        if let Some(next) = self.lanes.leave(&node) {
            self.send(next, node.clone());
        }
        let attempt = match ended {
            Ok((_, attempt)) => attempt,
            Err(e) if e.is_cancelled() => return,
            Err(e) => {
                tracing::error!(key = %ticket.key, error = %e, "a probe panicked");
                Attempt::Unknown("the probe panicked".into())
            }
        };
        // What befell a host while it was asked says nothing of its apps.
        let attempt = if self.is_ready(&node) { attempt } else { Attempt::Unknown("the host is away".into()) };
        self.note(&ticket, &attempt);
    }

    fn note(&mut self, ticket: &Ticket, attempt: &Attempt) {
        let now = self.ctx.clock.monotonic();
        let watched = self.watched.get_mut(&ticket.key).filter(|w| w.number == ticket.number);
        let Some(watched) = watched else { return };
        let Some(track) = watched.tracks.get_mut(&ticket.kind) else { return };
        self.ctx.health.count(ticket.kind, attempt);
        track.under_way = None;
        let hasty = track.eager && matches!(attempt, Attempt::Failed(_)) && now - track.failed < track.probe.period();
        track.eager &= *attempt != Attempt::Passed;
        track.turn = (track.turn + track.pause(now)).max(now);
        self.due.insert((track.turn, ticket.clone()));
        tracing::trace!(key = %ticket.key, kind = ticket.kind.as_str(), ?attempt, "probed");
        if hasty {
            return;
        }
        if matches!(attempt, Attempt::Failed(_)) {
            track.failed = now;
        }
        if track.tally.note(&track.probe, attempt) {
            tracing::debug!(key = %ticket.key, kind = ticket.kind.as_str(), verdict = ?track.tally.verdict(), "probed");
            self.ctx.health.tell(&ticket.key, &watched.run, seen(&watched.tracks));
            self.queue.add_now(ticket.key.clone());
        }
    }
}

fn seen(tracks: &BTreeMap<ProbeKind, Track>) -> HealthSeen {
    let of = |kind| tracks.get(&kind).map(|track| track.tally.verdict().clone()).unwrap_or_default();
    HealthSeen { readiness: of(ProbeKind::Readiness), liveness: of(ProbeKind::Liveness) }
}

/// When in the first period an instance has its turn: by a hash of its uid, so that those who are all seen at once (this
/// program has just begun, a host is back) are not all asked at once.
fn spread(instance: &Instance, kind: ProbeKind, period: Duration) -> Duration {
    let digest = Sha256::digest(format!("{}/{}", instance.metadata.uid, kind.as_str()).as_bytes());
    let share = f64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])) / f64::from(u32::MAX);
    period.mul_f64(share)
}
