//! Wiring: the only file that knows every room. Start-up order, and an orderly stop.
//!
//! ```text
//! data dir ▶ store ▶ cluster id, Namespaces, DockerHost local ▶ cache ▶ listeners ▶ API, proxy, controllers
//! SIGTERM, SIGINT ▶ one token: the proxy drains, watches end, controllers drop their tasks (as in a crash)
//! ```

mod acme;
mod attach;
mod containers;
mod descriptors;
mod destinations;
mod exposition;
mod fetch;
mod front;
mod host_secrets;
mod last_use;
mod memory;
mod metrics;
mod previous;
mod route_secrets;
mod seal;
mod sockets;
mod why;

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiState, AuditLog, Credentials, OwnCertificate};
use crate::cache::Cache;
use crate::cli::serve::{ServeArgs, StoreKind};
use crate::clock::{SharedClock, SystemClock};
use crate::controllers::instance::{ActivitySeen, Sessions, Site};
use crate::controllers::probes::NetProber;
use crate::controllers::recorder::Recorder;
use crate::controllers::{self, ActivityView, InstanceQueue};
use crate::docker::Pool;
use crate::model::{
    DockerHost, DockerHostSpec, Key, Kind, NAMESPACE_FINALIZER, Namespace, ObjectMeta, Resource, SYSTEM_NAMESPACE,
};
use crate::proxy::{self, Access, Activity, ProxyState, Session, Waker};
use crate::runtime::{Queue, RunnerStats};
use crate::store::{MemoryStore, Op, Precondition, SharedStore, SledOptions, SledStore, StoreError, Txn, typed};
use attach::DockerAttach;
use fetch::HttpFetch;
use host_secrets::HostSecrets;
use route_secrets::RouteSecrets;
use sockets::Sockets;

pub use containers::DockerContainers;
pub use exposition::{Metrics, Seen};
pub use metrics::DockerLiveUse;

/// The name of this machine's own daemon.
const LOCAL: &str = "local";
const CLUSTER_ID: &str = "meta/cluster-id";
/// Longer than the proxy's and the API's own limits for ending what is under way.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Runs the control plane until it is told to stop.
///
/// # Errors
/// When it cannot start: the data directory, the store, a listener; or when a part of it ends by itself.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let clock = SystemClock::new();
    let shutdown = CancellationToken::new();
    let mut sockets = Sockets::passed_on()?;
    make_data_dir(&args.data_dir)?;
    let store = open_store(&args).await?;
    let opened = seal::over(&store, &args).await?;
    let cluster = cluster_id(&*store, &args.data_dir).await.context("read or make the cluster id")?;
    for name in ["default", SYSTEM_NAMESPACE] {
        ensure_namespace(&*store, &clock, name).await.with_context(|| format!("make the Namespace {name}"))?;
    }
    ensure_local_host(&*store, &clock, &args).await.context("register this machine's daemon")?;

    let api_listener = sockets.listen("API", args.api_listen).await?;
    let proxy_listener = sockets.listen("proxy", args.proxy_listen).await?;
    let proxy_address = proxy_listener.local_addr()?;
    let entrances = front::entrances(&args.front, proxy_listener, &mut sockets).await?;
    let acme = acme::prepare(&args, &entrances, &clock).context("certificates by ACME")?;
    sockets.done()?;
    let api_address = api_listener.local_addr()?;
    let own = args.tls_cert.clone().zip(args.tls_key.clone());
    let own = own.map(|(certificate, key)| OwnCertificate { certificate, key, authority: args.tls_ca.clone() });
    let credentials = Credentials::load_or_create(&args.data_dir, api_address, own, clock.now())?;
    let audit = match &args.audit_log {
        Some(path) => AuditLog::to_file(path.clone())
            .with_context(|| format!("open the audit log {}; --audit-log names another", path.display()))?,
        None => AuditLog::default(),
    };

    let cache = Cache::new(&args.domain);
    let engines = Pool::with_secrets(clock.clone(), Arc::new(HostSecrets(opened.clone())));
    let activity = Activity::new(clock.clone());
    last_use::load(&args.data_dir, &activity);
    let queue: InstanceQueue = Arc::new(Queue::new(clock.clone()));
    let (recorder, recorder_task) = Recorder::new(store.clone(), clock.clone());
    let site = Site { cluster: cluster.clone(), domain: args.domain.clone(), url: args.url_template() };
    let ctx = Arc::new(controllers::Context::new(
        site,
        store.clone(),
        opened.clone(),
        cache.clone(),
        engines.clone(),
        Arc::new(NetProber),
        activity.clone(),
        clock.clone(),
        recorder,
    ));
    let waker = Arc::new(QueueWaker(queue.clone()));
    let live = DockerLiveUse::new(cache.clone(), engines.clone(), clock.clone());
    let containers = DockerContainers { cache: cache.clone(), engines: engines.clone() };
    let attach = DockerAttach {
        cache: cache.clone(),
        engines,
        activity: activity.clone(),
        waker: waker.clone(),
        clock: clock.clone(),
    };
    let standing = Arc::<crate::acme::Standing>::default();
    let secrets = Arc::new(RouteSecrets::new(opened.clone()));
    let access = Access::new(clock.clone(), secrets, Arc::new(HttpFetch::new()?));
    let access = Arc::new(access.telling(Arc::new(why::Told(ctx.recorder.clone()))));
    let mut api_state =
        ApiState::new(opened, cache.clone(), clock.clone(), &credentials, Arc::new(attach), &args.domain);
    api_state.audit = audit.clone();
    api_state.live = Arc::new(live);
    api_state.containers = Arc::new(containers);
    api_state.explains =
        Arc::new(why::Explainer { ctx: ctx.clone(), access: access.clone(), certificates: standing.clone() });
    api_state.destinations = Arc::new(destinations::Scheduled(ctx.clone()));
    let (reconciles, proxy_stats) = (Arc::new(RunnerStats::default()), proxy::Stats::default());
    let acme_stats = crate::acme::Stats::default();
    let acme = acme.map(|acme| acme.begin(cache.clone(), ctx.recorder.clone(), acme_stats.clone(), standing));
    let seen = exposition::Seen {
        cache: cache.clone(),
        store: store.clone(),
        queue: queue.clone(),
        reconciles: reconciles.clone(),
    };
    api_state.exposition =
        Arc::new(exposition::Metrics::new(seen, &clock, &api_state.stats, &proxy_stats, &acme_stats, &ctx.health));
    let (certificate_stats, used) = (proxy_stats.clone(), activity.clone());
    let proxy_state = Arc::new(ProxyState {
        cache: cache.clone(),
        activity,
        waker,
        clock: clock.clone(),
        limits: descriptors::limits(),
        front: front::of(&args.front),
        stats: proxy_stats,
        access,
        challenges: entrances.challenges,
    });

    let (entrances, certificates) = (entrances.open, entrances.files);
    let secure = entrances.iter().find(|entrance| entrance.certificates.is_some());
    let proxy_tls = secure.map(|entrance| entrance.listener.local_addr()).transpose()?.map(tracing::field::display);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), %cluster, api = %api_address, proxy = %proxy_address, proxy_tls,
        kubeconfig = %credentials.kubeconfig_path.display(), "serving"
    );
    let stop = shutdown.clone();
    let mut parts = tokio::task::JoinSet::new();
    parts.spawn({
        let (cache, store, stop) = (cache, store, stop.clone());
        async move {
            cache.run(store, stop).await;
            Ok(())
        }
    });
    parts.spawn({
        let stop = stop.clone();
        async move {
            recorder_task.run(stop).await;
            Ok(())
        }
    });
    parts.spawn({
        let stop = stop.clone();
        async move {
            controllers::run(ctx, queue, reconciles, stop).await;
            Ok(())
        }
    });
    parts.spawn({
        let stop = stop.clone();
        async move { api::serve(api_listener, api_state, stop).await.context("the API") }
    });
    parts.spawn({
        let stop = stop.clone();
        async move { proxy::serve(entrances, proxy_state, stop).await.context("the proxy") }
    });
    parts.spawn({
        let stop = stop.clone();
        async move {
            memory::run(stop).await;
            Ok(())
        }
    });
    if let Some(acme) = acme {
        let stop = stop.clone();
        parts.spawn(async move {
            acme.run(stop).await;
            Ok(())
        });
    }
    let hangups = [(); 2].map(|()| Arc::new(Notify::new()));
    if let Some(certificates) = certificates {
        let (hangup, clock, stop) = (hangups[1].clone(), clock.clone(), shutdown.clone());
        parts.spawn(async move {
            certificates.follow(hangup, certificate_stats, clock, stop).await;
            Ok(())
        });
    }
    parts.spawn({
        let (serving, hangup, stop) = (credentials.serving.clone(), hangups[0].clone(), shutdown.clone());
        async move {
            serving.follow(hangup, clock, stop).await;
            Ok(())
        }
    });
    sockets::tell_ready();
    parts.spawn({
        let (dir, activity, stop) = (args.data_dir.clone(), used, stop.clone());
        async move {
            last_use::run(&dir, activity, stop).await;
            Ok(())
        }
    });
    let ended = supervise(parts, shutdown, || {
        hangups.iter().for_each(|hangup| hangup.notify_one());
        audit.reopen();
    })
    .await;
    audit.close();
    ended
}

/// Waits for a signal or for a part that ends; then stops the rest. `reload`: on SIGHUP.
async fn supervise(
    mut parts: tokio::task::JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
    reload: impl Fn(),
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let failed = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: the certificates and the audit log are opened anew");
                reload();
            }
            ended = parts.join_next() => break Some(ended),
        }
    };
    sockets::tell_stopping();
    tracing::info!("stopping: requests under way are finished first");
    shutdown.cancel();
    let rest = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_WITHIN, rest).await.is_err() {
        tracing::warn!("not everything ended within {STOP_WITHIN:?}; leaving it");
    }
    match failed {
        None => Ok(()),
        Some(Some(Ok(Ok(())))) => bail!("a part of the control plane ended by itself"),
        Some(Some(Ok(Err(e)))) => Err(e),
        Some(Some(Err(e))) => Err(e).context("a part of the control plane panicked"),
        Some(None) => bail!("nothing was left to run"),
    }
}

/// Wakes are keys in the queue: the use that the proxy has counted is the reason to start.
struct QueueWaker(InstanceQueue);

impl Waker for QueueWaker {
    fn wake(&self, key: &Key) {
        self.0.add(key.clone());
    }
}

/// The proxy's counts, as the controllers read them.
impl ActivityView for Activity {
    fn seen(&self, key: &Key) -> ActivitySeen {
        let of = |session| self.session_count(key, session);
        let sessions = Sessions { exec: of(Session::Exec), attach: of(Session::Attach), forward: of(Session::Forward) };
        ActivitySeen { idle: self.idle(key), open: self.open_count(key), sessions, ..ActivitySeen::default() }
    }
    fn touch_ahead(&self, key: &Key, by: Duration) {
        Activity::touch_ahead(self, key, by);
    }
    fn touch_back(&self, key: &Key, ago: Duration) {
        Activity::touch_back(self, key, ago);
    }
    fn recall(&self, key: &Key, counts: bool) -> bool {
        Activity::recall(self, key, counts)
    }
    fn rest(&self, key: &Key) {
        Activity::rest(self, key);
    }
    fn forget(&self, key: &Key) {
        Activity::forget(self, key);
    }
}

fn make_data_dir(dir: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("make the data directory {}; --data-dir names another", dir.display()))?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("make the data directory {} private", dir.display()))
}

async fn open_store(args: &ServeArgs) -> anyhow::Result<SharedStore> {
    Ok(match args.store {
        StoreKind::Memory => MemoryStore::new(),
        StoreKind::Sled => {
            let dir = args.data_dir.join("store");
            SledStore::open(&dir, SledOptions::default())
                .await
                .with_context(|| format!("open the store in {}", dir.display()))?
        }
    })
}

/// The id on everything that this control plane makes in a daemon: made once, and kept with the records, so that a
/// fresh store never takes another's containers for its own. A copy beside the store is for people and clean-up.
async fn cluster_id(store: &dyn crate::store::Store, data_dir: &Path) -> anyhow::Result<String> {
    let new = uuid::Uuid::new_v4().to_string();
    let txn = Txn {
        when: vec![Precondition::Absent { key: CLUSTER_ID.into() }],
        then: vec![Op::Put { key: CLUSTER_ID.into(), value: new.clone().into() }],
    };
    let id = match store.txn(txn).await {
        Ok(_) => new,
        Err(StoreError::Conflict { current: Some(record), .. }) => String::from_utf8(record.value.to_vec())?,
        Err(e) => return Err(e.into()),
    };
    std::fs::write(data_dir.join("cluster-id"), format!("{id}\n")).context("write the file cluster-id")?;
    Ok(id)
}

fn new_meta(name: &str, clock: &SharedClock) -> ObjectMeta {
    ObjectMeta {
        name: name.into(),
        uid: uuid::Uuid::new_v4().to_string(),
        generation: 1,
        creation_timestamp: Some(clock.now().into()),
        ..Default::default()
    }
}

async fn ensure_namespace(store: &dyn crate::store::Store, clock: &SharedClock, name: &str) -> Result<(), StoreError> {
    let mut namespace = Namespace {
        api_version: Kind::Namespace.api_version(),
        kind: Kind::Namespace.to_string(),
        metadata: new_meta(name, clock),
        ..Default::default()
    };
    namespace.metadata.labels.insert("kubernetes.io/metadata.name".into(), name.into());
    namespace.spec.finalizers = vec![NAMESPACE_FINALIZER.into()];
    namespace.status.phase = "Active".into();
    match typed::create(store, &namespace).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The flags decide how this machine's daemon is reached; all else of its record is the operator's.
async fn ensure_local_host(
    store: &dyn crate::store::Store,
    clock: &SharedClock,
    args: &ServeArgs,
) -> Result<(), StoreError> {
    let Some(endpoint) = args.local_docker() else { return Ok(()) };
    let flags = |spec: &mut DockerHostSpec| {
        spec.endpoint = endpoint.into();
        spec.address = args.docker_address.to_string();
        spec.port_range = args.port_range.clone();
    };
    let Some(mut host) = typed::get::<DockerHost>(store, &Key::host(LOCAL)).await? else {
        let mut host = DockerHost {
            api_version: Kind::DockerHost.api_version(),
            kind: Kind::DockerHost.to_string(),
            metadata: new_meta(LOCAL, clock),
            ..Default::default()
        };
        flags(&mut host.spec);
        typed::create(store, &host).await?;
        return Ok(());
    };
    let before = host.spec.clone();
    flags(&mut host.spec);
    if host.spec != before {
        tracing::info!(host = %host.key(), "its endpoint, address or ports follow the flags of this start");
        host.metadata.generation += 1;
        typed::update(store, &host).await?;
    }
    Ok(())
}
