//! The loop, with an ACME server that says what the test says, in virtual time.

use std::collections::VecDeque;
use std::sync::Mutex;

use jiff::SignedDuration;

use super::*;
use crate::clock::VirtualClock;
use crate::model::{Key, Port, Resource as _, Route, Time};
use crate::pki;
use crate::store::{MemoryStore, Op, SharedStore, Txn, typed};

/// Gives certificates, but for the names that it refuses.
struct Fake {
    clock: SharedClock,
    refused: Mutex<BTreeMap<String, VecDeque<Refusal>>>,
    asked: Mutex<Vec<(Timestamp, String)>>,
    /// Of each order when the certificate began that it names as replaced.
    replaced: Mutex<Vec<Option<Timestamp>>>,
    /// So many days after their beginning its certificates are to be renewed.
    suggests: Mutex<Option<i32>>,
    /// When it was asked that, and of the certificate of which beginning.
    questions: Mutex<Vec<(Timestamp, Timestamp)>>,
    ca: pki::Pair,
}

#[async_trait]
impl Authority for Fake {
    async fn certificate(&self, name: &str, replaces: Option<&CertificateDer<'_>>) -> Result<String, Refusal> {
        let now = self.clock.now();
        self.asked.lock().unwrap().push((now, name.to_owned()));
        let begins = replaces.and_then(|leaf| pki::beginning(leaf));
        self.replaced.lock().unwrap().push(begins);
        tokio::time::sleep(Duration::from_secs(5)).await;
        if let Some(refusal) = self.refused.lock().unwrap().get_mut(name).and_then(VecDeque::pop_front) {
            return Err(refusal);
        }
        let pair = pki::make_server(&self.ca, name, &[name.to_owned()], now).unwrap();
        Ok(pair.key + &pair.certificate)
    }

    async fn renewal(&self, certificate: &CertificateDer<'_>) -> Said {
        let begins = pki::beginning(certificate).unwrap();
        let mut questions = self.questions.lock().unwrap();
        questions.push((self.clock.now(), begins));
        let days = *self.suggests.lock().unwrap();
        let Some(days) = days else { return Said::Nothing };
        let day = SignedDuration::from_hours(24);
        let window = Window::new(begins + day * days, begins + day * (days + 1)).unwrap();
        Said::Window { window, again: Duration::from_secs(6 * 3600), explained: None }
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Witness for Told {
    fn issued(&self, instance: &Instance, message: String) {
        self.0.lock().unwrap().push(format!("{}: {message}", instance.metadata.name));
    }
    fn refused(&self, instance: &Instance, message: String) {
        self.issued(instance, message);
    }
}

struct World {
    store: SharedStore,
    cache: Arc<Cache>,
    clock: SharedClock,
    fake: Arc<Fake>,
    told: Arc<Told>,
    standing: Arc<Standing>,
    shown: Arc<Certificates>,
    dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl World {
    async fn new() -> World {
        let (store, clock, stop) = (MemoryStore::new(), VirtualClock::new(), CancellationToken::new());
        let cache = Cache::new("test.example");
        tokio::spawn(cache.clone().run(store.clone(), stop.clone()));
        let ca = pki::make_ca("test", clock.now()).unwrap();
        let fake = Fake {
            clock: clock.clone(),
            refused: Mutex::default(),
            asked: Mutex::default(),
            replaced: Mutex::default(),
            suggests: Mutex::default(),
            questions: Mutex::default(),
            ca,
        };
        World {
            store,
            cache,
            clock,
            fake: Arc::new(fake),
            told: Arc::default(),
            standing: Arc::default(),
            shown: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
            stop,
        }
    }

    async fn put(&self, name: &str, change: impl FnOnce(&mut Instance)) {
        let mut instance = Instance::default();
        instance.metadata.name = name.into();
        instance.metadata.namespace = "default".into();
        instance.metadata.uid = format!("uid-{name}");
        instance.spec.ports = vec![Port { name: "web".into(), container_port: 80, host_port: None }];
        change(&mut instance);
        let op = Op::Put { key: instance.key().to_string(), value: typed::encode(&instance) };
        self.store.txn(Txn { when: vec![], then: vec![op] }).await.unwrap();
        self.cache.wait_for(self.store.revision()).await;
    }

    /// A start of the server; ends with `stop`.
    fn start(&self, stop: &CancellationToken) -> Stats {
        let mut held = Kept::open(self.dir.path(), "https://acme.test/dir", self.clock.now()).unwrap();
        held.show(&self.shown, self.clock.now());
        let stats = Stats::default();
        let acme = Acme {
            cache: self.cache.clone(),
            authority: self.fake.clone(),
            witness: self.told.clone(),
            shown: self.shown.clone(),
            clock: self.clock.clone(),
            stats: stats.clone(),
            also: None,
            standing: self.standing.clone(),
            held,
        };
        tokio::spawn(acme.run(stop.clone()));
        stats
    }

    fn asked(&self) -> Vec<String> {
        self.fake.asked.lock().unwrap().iter().map(|(_, name)| name.clone()).collect()
    }

    async fn until_asked(&self, times: usize) {
        while self.asked().len() < times {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }

    async fn until_told(&self, times: usize) -> String {
        loop {
            if let Some(last) = self.told.0.lock().unwrap().get(times - 1) {
                return last.clone();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn text(stats: &Stats) -> String {
    let (mut registry, mut text) = (prometheus_client::registry::Registry::default(), String::new());
    stats.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn routes_get_certificates_which_outlive_a_restart_and_are_renewed_in_time() {
    let world = World::new().await;
    world.put("alice", |_| {}).await;
    world
        .put("local", |instance| instance.spec.routes = vec![Route { host: "a.localhost".into(), ..Route::default() }])
        .await;
    world.put("going", |instance| instance.metadata.deletion_timestamp = Some(Time::from(Timestamp::UNIX_EPOCH))).await;
    let first = world.stop.child_token();
    let stats = world.start(&first);
    let told = world.until_told(1).await;
    assert!(
        told.starts_with("alice: a certificate for alice.test.example was issued; it is good until 2027-"),
        "{told}"
    );
    world.put("bob", |_| {}).await;
    world.until_told(2).await;
    assert_eq!(world.asked(), ["alice.test.example", "bob.test.example"]);
    assert!(format!("{:?}", world.shown).contains("bob.test.example"));
    let text = text(&stats);
    for line in [
        "acme_orders_total{result=\"issued\"} 2",
        "acme_names{state=\"covered\"} 2",
        "acme_certificate_expiry_timestamp_seconds{} 1798",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    first.cancel();

    world.shown.replace_ordered(vec![]);
    let (second, restarted) = (world.stop.child_token(), world.clock.now());
    world.start(&second);
    assert!(format!("{:?}", world.shown).contains("alice.test.example"), "shown before anything is asked");
    world.until_asked(3).await;
    let days = world.clock.now().duration_since(restarted).as_hours() / 24;
    assert!((220..=245).contains(&days), "two thirds of a year: {days}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_tried_again_later_and_counts_after_a_restart() {
    let world = World::new().await;
    let no = Refusal { why: "no A records".into(), limited: false, wait: None };
    world.fake.refused.lock().unwrap().insert("alice.test.example".into(), [no.clone(), no.clone()].into());
    world.put("alice", |_| {}).await;
    let first = world.stop.child_token();
    let stats = world.start(&first);
    let told = world.until_told(1).await;
    assert!(told.starts_with("alice: no certificate for alice.test.example: no A records; it has none; it is tried again at 2026-01-01T00:1"), "{told}");
    assert!(text(&stats).contains("acme_names{state=\"failing\"} 1"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stands = world.standing.problem("alice.test.example", world.clock.now()).unwrap();
    assert_eq!(
        (stands.reason, stands.message.as_str()),
        ("CertificateRefused", "it has no certificate yet: no A records")
    );
    let next = stands.next.unwrap();
    assert!(told.ends_with(&format!("it is tried again at {next}")), "{told} {next}");
    first.cancel();
    let (second, begun) = (world.stop.child_token(), world.clock.now());
    world.start(&second);
    world.until_asked(2).await;
    assert!(world.clock.now().duration_since(begun) > SignedDuration::from_mins(10), "a restart asks no sooner");
    world.until_told(3).await;
    assert_eq!(world.asked().len(), 3);
    assert!(format!("{:?}", world.shown).contains("alice.test.example"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.standing.problem("alice.test.example", world.clock.now()), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_in_the_middle_of_orders_again_and_again_asks_seldom() {
    let world = World::new().await;
    world.put("alice", |_| {}).await;
    let end = world.clock.now() + SignedDuration::from_hours(1);
    while world.clock.now() < end {
        let life = world.stop.child_token();
        world.start(&life);
        tokio::time::sleep(Duration::from_secs(3)).await;
        life.cancel();
    }
    assert!((2..=4).contains(&world.asked().len()), "{:?}", world.fake.asked.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_the_operator_has_a_certificate_for_is_not_ordered_and_what_cannot_be_written_down_neither() {
    let world = World::new().await;
    world.put("alice", |_| {}).await;
    world
        .put("own", |instance| instance.spec.routes = vec![Route { host: "own.example".into(), ..Route::default() }])
        .await;
    let pair = pki::make_server(&world.fake.ca, "x", &["*.test.example".to_owned()], world.clock.now()).unwrap();
    let key = pki::certified(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
    let ends = world.clock.now() + SignedDuration::from_hours(1000);
    let wild = crate::proxy::Certificate {
        source: "wild".into(),
        key: key.into(),
        names: vec!["*.test.example".into()],
        ends,
    };
    world.shown.replace(vec![wild]);
    let directory = Directory::open(world.dir.path(), "https://acme.test/dir").unwrap();
    directory.put_ledger(&Ledger::default()).unwrap();
    let life = world.stop.child_token();
    // In the place of the file, something that no file can be moved onto.
    let held = std::fs::read_dir(world.dir.path().join("acme")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(held.join("ledger.json")).unwrap();
    std::fs::create_dir_all(held.join("ledger.json/x")).unwrap();
    world.start(&life);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.asked(), [""; 0]);
    std::fs::remove_dir_all(held.join("ledger.json")).unwrap();
    world.until_told(1).await;
    assert_eq!(world.asked(), ["own.example"]);
    assert!(world.cache.instance(&Key::instance("default", "alice")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_follows_the_servers_suggestion_as_it_changes_and_names_what_it_replaces() {
    let world = World::new().await;
    *world.fake.suggests.lock().unwrap() = Some(200);
    world.put("alice", |_| {}).await;
    let life = world.stop.child_token();
    world.start(&life);
    world.until_told(1).await;
    let begun = world.clock.now();
    let days = |since: Timestamp| world.clock.now().duration_since(since).as_hours() / 24;
    while days(begun) < 20 {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    let questions = world.fake.questions.lock().unwrap().len();
    assert!((75..=85).contains(&questions), "every six hours, as it wishes: {questions}");
    // It is taken back, say: all are to be renewed at once.
    *world.fake.suggests.lock().unwrap() = Some(10);
    world.until_asked(2).await;
    assert_eq!(days(begun), 20, "as soon as it is heard of");
    world.until_told(2).await;
    let second = world.fake.asked.lock().unwrap()[1].0;
    world.until_asked(3).await;
    let waited = days(second);
    assert!((9..=12).contains(&waited), "the window of the new one: {waited}");
    let replaced = world.fake.replaced.lock().unwrap().clone();
    assert_eq!(replaced[0], None, "there was none");
    let beginnings: BTreeSet<_> = world.fake.questions.lock().unwrap().iter().map(|(_, begins)| *begins).collect();
    let beginnings: Vec<_> = beginnings.into_iter().map(Some).collect();
    assert_eq!((replaced[1], replaced[2]), (beginnings[0], beginnings[1]));
}
