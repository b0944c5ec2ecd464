//! The real engine against scripted daemons: what goes over the wire, and what is made of awkward answers.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use futures::StreamExt;
use portreeve::clock::SystemClock;
use portreeve::docker::engine::*;
use portreeve::docker::login::Login;
use portreeve::docker::{Pool, timeouts};
use portreeve::model::{DockerHost, HostTls, SecretText};
use serde_json::Value;

use crate::support::daemon::{Answer, Credentials, Daemon};

const ID: &str = "0af90af90af90af90af90af90af90af90af90af90af90af90af90af90af90af9";

fn host(endpoint: &str, tls: Option<&Credentials>) -> DockerHost {
    let mut host = DockerHost::default();
    host.metadata.name = "scripted".to_owned();
    host.spec.endpoint = endpoint.to_owned();
    host.spec.tls = tls.map(|c| HostTls { directory: c.path().to_owned(), ..Default::default() });
    host
}

fn engine(daemon: &Daemon) -> Arc<dyn Engine> {
    let engine = Pool::new(SystemClock::new()).engine(&host(&daemon.endpoint(), None));
    engine.unwrap_or_else(|e| panic!("{e}"))
}

fn json(status: u16, body: &str) -> Answer {
    Answer::Whole(status, body.to_owned())
}

fn gone() -> Answer {
    json(404, "{\"message\":\"No such container\"}")
}

/// With a subnet of the daemon's choosing.
fn network(name: &str) -> NetworkSpec {
    NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() }
}

#[tokio::test]
async fn every_call_names_the_version_agreed_on_and_shares_a_connection() {
    for (newest, spoken) in [("1.41", "/v1.41/"), ("1.44", "/v1.44/"), ("1.99", "/v1.47/")] {
        let daemon = Daemon::speaking(newest, |_, _| gone()).await;
        let engine = engine(&daemon);
        for _ in 0..10 {
            assert_eq!(engine.container(ID).await, Ok(None));
        }
        let requests = daemon.requests();
        assert_eq!(requests.len(), 11, "ten and one ping: {requests:?}");
        assert_eq!(requests[0], "GET /_ping");
        assert!(requests[1..].iter().all(|r| r.starts_with(&format!("GET {spoken}containers/"))), "{requests:?}");
        assert_eq!(daemon.connections(), 1);
    }
    let old = Daemon::speaking("1.40", |_, _| gone()).await;
    let error = engine(&old).container(ID).await.expect_err("too old");
    assert_eq!(error.kind, EngineErrorKind::Invalid);
    assert!(error.message.contains("1.40") && error.message.contains("1.41"), "{error}");
}

#[tokio::test]
async fn a_daemon_that_refuses_the_version_is_asked_again() {
    let daemon = Daemon::speaking("1.44", |_, path| match path.contains("/v1.44/") {
        true => json(400, "{\"message\":\"client version 1.44 is too new\"}"),
        false => gone(),
    })
    .await;
    let engine = engine(&daemon);
    assert_eq!(engine.container(ID).await.expect_err("refused").kind, EngineErrorKind::Invalid);
    daemon.now_speaks("1.42");
    assert_eq!(engine.container(ID).await, Ok(None));
}

#[tokio::test]
async fn another_daemon_than_the_hosts_own_is_sent_nothing_but_the_question() {
    let daemon = Daemon::speaking("1.41", |_, path| match path {
        "/info" => json(200, r#"{"ID": "own"}"#),
        _ => gone(),
    })
    .await;
    let pool = Pool::new(SystemClock::new());
    let mut host = host(&daemon.endpoint(), None);
    host.status.daemon_id = "own".into();
    let engine = pool.engine(&host).expect("a client");
    assert_eq!(engine.container(ID).await, Ok(None));
    assert_eq!(engine.container(ID).await, Ok(None));
    assert_eq!(daemon.connections(), 1);
    assert_eq!(daemon.requests()[..2], ["GET /info", "GET /_ping"], "asked once, before all else");

    // Under the same client: the address changes hands.
    let before = daemon.requests().len();
    daemon.now_answers(|_, _| json(200, r#"{"ID": "a stranger"}"#));
    daemon.hangs_up();
    let error = engine.container(ID).await.expect_err("another daemon");
    assert_eq!(error.kind, EngineErrorKind::WrongDaemon);
    assert!(error.message.contains("a stranger") && error.message.contains("own"), "{error}");
    assert_eq!(engine.start_container(ID).await.expect_err("still").kind, EngineErrorKind::WrongDaemon);
    let asked = daemon.requests().split_off(before);
    assert!(asked.iter().all(|r| r == "GET /info"), "{asked:?}");

    // A client that was never connected is told the same, and one that is to accept it works.
    let fresh = Pool::new(SystemClock::new()).engine(&host).expect("a client");
    assert_eq!(fresh.container(ID).await.expect_err("still").kind, EngineErrorKind::WrongDaemon);
    host.spec.daemon_id = "a stranger".into();
    let accepted = pool.engine(&host).expect("a client");
    accepted.info().await.expect("it answers everything");

    // What does not tell its id is not spoken to either.
    daemon.now_answers(|_, _| json(500, "{\"message\":\"no\"}"));
    daemon.hangs_up();
    let error = accepted.container(ID).await.expect_err("nobody knows who it is");
    assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn what_could_be_an_id_prefix_is_never_sent() {
    let daemon = Daemon::speaking("1.41", |_, _| gone()).await;
    let engine = engine(&daemon);
    let limits = Limits::default();
    for name in ["cafe", "0af9", "", "alice", "pr./../x"] {
        let spec = ContainerSpec { name: name.to_owned(), image: "app:1".to_owned(), ..ContainerSpec::default() };
        let results = [
            engine.container(name).await.map(drop),
            engine.start_container(name).await,
            engine.stop_container(name, Duration::ZERO).await,
            engine.remove_container(name).await,
            engine.update_container(name, limits).await,
            engine.rename_container(name, "pr.a").await,
            engine.rename_container(ID, name).await,
            engine.create_container(&spec).await.map(drop),
            engine.network(name).await.map(drop),
            engine.remove_network(name).await,
            engine.create_network(&network(name)).await,
            engine.connect_network(name, ID).await,
            engine.connect_network("pr.a", name).await,
            engine.remove_volume(name).await,
            engine.logs(name, LogOptions::default()).await.map(drop),
            engine.exec(name, ExecOptions::default()).await.map(drop),
            engine.exec_exit_code(name).await.map(drop),
        ];
        for result in results {
            assert_eq!(result.expect_err("refused").kind, EngineErrorKind::Invalid, "{name:?}");
        }
    }
    assert_eq!(daemon.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pull_fails_by_what_its_stream_says_and_by_what_is_missing_after_it() {
    let steps = |last: &str| Answer::Whole(200, format!("{{\"status\":\"Pulling from app\",\"id\":\"1\"}}\n{last}\n"));
    let denied = r#"{"errorDetail":{"message":"manifest unknown"},"error":"manifest unknown"}"#;
    for (last, kind) in [(denied, EngineErrorKind::ImageMissing), (r#"{"status":"Done"}"#, EngineErrorKind::Server)] {
        let daemon = Daemon::speaking("1.41", move |_, path| match path.contains("/images/create") {
            true => steps(last),
            false if path.contains("/_ping") => json(200, "OK"),
            false => json(404, "{\"message\":\"No such image\"}"),
        })
        .await;
        let error = engine(&daemon).pull("app:9", &|_| {}).await.expect_err("no image");
        assert_eq!(error.kind, kind, "{error}");
    }
}

#[tokio::test]
async fn callers_share_a_pull_of_one_reference_and_hear_its_progress() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let step = r#"{"status":"Downloading","id":"layer","progressDetail":{"current":1048576,"total":2097152}}"#;
    let daemon = Daemon::speaking("1.41", move |_, path| match path.contains("/images/create") {
        true => Answer::When(wait.clone(), format!("{step}\n")),
        false => json(200, "{}"),
    })
    .await;
    let engine = engine(&daemon);
    let said = std::sync::Mutex::new(Vec::new());
    let hear = |text: String| said.lock().expect("no panic while held").push(text);
    let all =
        async { tokio::join!(engine.pull("app", &hear), engine.pull("app:latest", &hear), engine.pull("b:1", &hear)) };
    let release = async {
        daemon.until(|requests| requests.iter().filter(|r| r.ends_with("/v1.41/_ping")).count() == 3).await;
        daemon.until(|requests| requests.iter().filter(|r| r.contains("/images/create")).count() >= 2).await;
        // A round trip later the last of the three has joined, too.
        engine.image("round:trip").await.expect("an image");
        go.send_replace(true);
    };
    let (results, ()) = tokio::join!(all, release);
    assert_eq!(results, (Ok(()), Ok(()), Ok(())));
    let pulls = daemon.requests().iter().filter(|r| r.contains("/images/create")).count();
    assert_eq!(pulls, 2, "one of each");
    assert!(
        said.lock().expect("no panic while held").iter().any(|text| text == "0 of 1 layers, 1.0 of 2.0 MiB fetched")
    );
}

#[tokio::test]
async fn a_pull_shows_the_registry_its_login_and_shares_it_with_nobody_else() {
    let daemon = Daemon::speaking("1.41", |_, _| json(200, "{}")).await;
    let engine = engine(&daemon);
    engine.pull("registry.example/app:1", &|_| {}).await.expect("pulled");
    assert_eq!(daemon.logins().iter().filter(|l| login_of(l)["username"].is_string()).count(), 0);
    // base64 writes these as '+' and '/' unless it is the one for URLs, which is what a daemon reads
    let login = |username: &str| Login {
        server: "registry.example".into(),
        username: username.into(),
        password: SecretText::new("??>>~~?>~".into()),
        identity_token: SecretText::default(),
    };
    let (bob, eve) = (login("bob"), login("eve"));
    let (one, other, same) = tokio::join!(
        engine.pull_with("registry.example/app:1", Some(&bob), &|_| {}),
        engine.pull_with("registry.example/app:1", Some(&eve), &|_| {}),
        engine.pull_with("registry.example/app:1", Some(&eve), &|_| {}),
    );
    assert_eq!((one, other, same), (Ok(()), Ok(()), Ok(())));
    let mut shown: Vec<Value> =
        daemon.logins().iter().map(|l| login_of(l)).filter(|l| l["username"].is_string()).collect();
    shown.sort_by_key(|l| l["username"].to_string());
    shown.dedup();
    let names: Vec<&Value> = shown.iter().map(|l| &l["username"]).collect();
    assert_eq!(names, ["bob", "eve"]);
    for login in shown {
        assert_eq!((&login["serveraddress"], &login["password"]), (&"registry.example".into(), &"??>>~~?>~".into()));
    }
}

/// What a daemon reads in the header.
fn login_of(header: &str) -> Value {
    let bytes = base64::engine::general_purpose::URL_SAFE.decode(header).expect("base64 for URLs");
    serde_json::from_slice(&bytes).expect("JSON")
}

#[tokio::test]
async fn cut_and_garbled_answers_are_told_from_refusals() {
    for (answer, kind) in [
        (Answer::Cut("{\"Id\":\"0af9".to_owned()), EngineErrorKind::Timeout),
        (json(200, "{\"Id\":"), EngineErrorKind::Server),
        (json(200, "{\"Id\":7}"), EngineErrorKind::Server),
        (json(500, "no JSON at all"), EngineErrorKind::Server),
        (json(500, "{\"message\":\"write: no space left on device\"}"), EngineErrorKind::NoSpace),
    ] {
        let text = format!("{answer:?}");
        let daemon = Daemon::speaking("1.41", move |_, _| answer.clone()).await;
        let error = engine(&daemon).container(ID).await.expect_err("no description");
        assert_eq!(error.kind, kind, "{text}: {error}");
    }
}

/// Older daemons make a second network of a name while they are making the first, and then know neither by it.
#[tokio::test]
async fn networks_of_one_name_are_seen_together_and_removed_together() {
    let listed = |cluster: &str| {
        let copy = |id: &str, name: &str, cluster: &str, subnet: &str| {
            let labels = serde_json::json!({"portreeve.dev/cluster": cluster, "portreeve.dev/name": "a"});
            serde_json::json!({"Id": id.repeat(64), "Name": name, "Labels": labels, "IPAM": {"Config": [{"Subnet": subnet}]}})
        };
        let all = [
            copy("1", "pr.x.a", "c", "10.213.0.0/28"),
            copy("2", "pr.x.a", cluster, "10.213.0.16/28"),
            copy("3", "pr.x.ab", "c", "10.213.0.32/28"),
        ];
        json(200, &serde_json::json!(all).to_string())
    };
    for (cluster, labels) in [("c", 2), ("another", 1)] {
        let list = listed(cluster);
        let daemon = Daemon::speaking("1.41", move |method, path| match (method, path) {
            ("GET", path) if path.contains("/networks?filters=") => list.clone(),
            (_, path) if path.ends_with("/networks/pr.x.a") => {
                json(400, "{\"message\":\"2 matches found based on name: network pr.x.a is ambiguous\"}")
            }
            ("DELETE", _) => Answer::Whole(204, String::new()),
            _ => gone(),
        })
        .await;
        let engine = engine(&daemon);
        let seen = engine.network("pr.x.a").await.expect("inspect").expect("they are there");
        assert_eq!(seen.subnets, ["10.213.0.0/28", "10.213.0.16/28"]);
        assert_eq!(seen.labels.len(), labels, "with a stranger's among them they are not ours: {seen:?}");
        assert_eq!(engine.remove_network("pr.x.a").await, Ok(()));
        let requests = daemon.requests();
        let removed = |id: &str| requests.iter().any(|r| r.starts_with("DELETE") && r.ends_with(&id.repeat(64)));
        assert!(removed("1") && removed("2") && !removed("3"), "{requests:?}");
    }
}

#[tokio::test]
async fn already_so_is_success() {
    let daemon = Daemon::speaking("1.41", |method, path| match (method, path) {
        ("POST", path) if path.contains("/start") || path.contains("/stop") => Answer::Whole(304, String::new()),
        ("POST", path) if path.contains("/networks/create") => {
            json(409, "{\"message\":\"network with name pr.a already exists\"}")
        }
        ("POST", path) if path.contains("/connect") => {
            json(403, "{\"message\":\"endpoint with name pr.a already exists in network pr.a\"}")
        }
        _ => gone(),
    })
    .await;
    let engine = engine(&daemon);
    for result in [
        engine.start_container(ID).await,
        engine.stop_container(ID, Duration::from_secs(3)).await,
        engine.remove_container(ID).await,
        engine.create_network(&network("pr.a")).await,
        engine.connect_network("pr.a", ID).await,
        engine.remove_network("pr.a").await,
        engine.remove_volume("pr.a").await,
    ] {
        assert_eq!(result, Ok(()));
    }
    let requests = daemon.requests();
    assert!(requests.iter().any(|r| r.starts_with("POST") && r.ends_with("/stop?t=3")), "{requests:?}");
    assert!(requests.iter().any(|r| r.starts_with("DELETE") && r.contains("v=true&force=true")), "{requests:?}");
}

#[tokio::test]
async fn a_removal_under_way_is_done_when_the_container_is_gone() {
    let looks = std::sync::atomic::AtomicUsize::new(0);
    let daemon = Daemon::speaking("1.41", move |method, _| match method {
        "DELETE" => json(409, "{\"message\":\"removal of container 0af9 is already in progress\"}"),
        _ if looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2 => json(200, "{}"),
        _ => gone(),
    })
    .await;
    assert_eq!(engine(&daemon).remove_container(ID).await, Ok(()));
    assert_eq!(daemon.requests().len(), 5, "ping, removal, and three looks: {:?}", daemon.requests());
}

#[tokio::test]
async fn a_hung_daemon_costs_three_timeouts_and_then_nothing() {
    let hung = Daemon::speaking("1.41", |_, _| Answer::Never).await;
    let healthy = Daemon::speaking("1.41", |_, _| gone()).await;
    let engine_of_hung = engine(&hung);
    for n in 1..=3 {
        let asked = async {
            hung.until(|requests| requests.len() > n).await;
            tokio::time::pause();
            tokio::time::advance(timeouts::QUICK).await;
            tokio::time::resume();
        };
        let (result, ()) = tokio::join!(engine_of_hung.container(ID), asked);
        assert_eq!(result.expect_err("no answer").kind, EngineErrorKind::Timeout);
    }
    let error = engine_of_hung.container(ID).await.expect_err("not asked");
    assert_eq!((error.kind, hung.requests().len()), (EngineErrorKind::Unreachable, 4));
    assert_eq!(engine(&healthy).container(ID).await, Ok(None), "others go on");

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    hung.now_answers(|_, _| gone());
    assert_eq!(engine_of_hung.container(ID).await, Ok(None), "the probe finds it healthy");
    assert_eq!(engine_of_hung.container(ID).await, Ok(None));
}

#[tokio::test]
async fn only_four_starts_are_under_way_at_once_and_wakes_and_reads_pass_the_others() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let daemon = Daemon::speaking("1.41", move |method, _| match method {
        "POST" => Answer::When(wait.clone(), String::new()),
        _ => gone(),
    })
    .await;
    let engine = engine(&daemon);
    let starts = futures::future::join_all((0..10).map(|_| engine.start_container(ID)));
    let starts_so_far = |requests: &[String]| requests.iter().filter(|r| r.contains("/start")).count();
    let wakes = async {
        daemon.until(|requests| starts_so_far(requests) == 3).await;
        futures::future::join_all((0..3).map(|_| engine.wake_container(ID))).await
    };
    let watch = async {
        daemon.until(|requests| starts_so_far(requests) == 4).await;
        assert_eq!(engine.container(ID).await, Ok(None), "a read gets through");
        assert_eq!(starts_so_far(&daemon.requests()), 4, "and no further start");
        go.send_replace(true);
    };
    let (results, woken, ()) = tokio::join!(starts, wakes, watch);
    assert!(results.iter().chain(&woken).all(Result::is_ok), "{results:?}");
    assert_eq!(starts_so_far(&daemon.requests()), 13);
}

#[tokio::test]
async fn events_arrive_one_by_one_and_a_broken_stream_is_told() {
    let one = r#"{"Type":"container","Action":"die","Actor":{"ID":"0af9","Attributes":{"a/b":"c d","exitCode":"3"}},"time":1}"#;
    let others = one.replace("c d", "other");
    let daemon = Daemon::speaking("1.41", move |_, _| Answer::Cut(format!("{one}\n{others}\n{one}\n{{\"Ty"))).await;
    let engine = engine(&daemon);
    let since = "2026-01-01T00:00:00.000000001Z".parse().expect("a time");
    let mut events = engine.events(("a/b", "c d"), Some(since)).await.unwrap_or_else(|e| panic!("{e}"));
    for _ in 0..2 {
        let event = events.next().await.expect("goes on").expect("an event");
        assert_eq!((event.object.as_str(), event.action.as_str()), ("container", "die"));
        assert_eq!(event.attributes["exitCode"], "3");
    }
    assert_eq!(events.next().await.expect("an error").expect_err("cut").kind, EngineErrorKind::Unreachable);
    assert!(events.next().await.is_none());
    let asked = daemon.requests().pop().expect("asked");
    assert!(asked.contains("since=1767225600.000000001") && asked.contains("network"), "{asked}");
}

#[tokio::test]
async fn events_of_volumes_name_their_instance_and_images_are_for_everyone() {
    let volume = |name: &str| {
        format!(r#"{{"Type":"volume","Action":"destroy","Actor":{{"ID":"{name}","Attributes":{{"driver":"local"}}}}}}"#)
    };
    let (ours, theirs) = (volume("pr.default.alice.home"), volume("theirs"));
    // A container's image, committed with its labels, is no container.
    let image = r#"{"Type":"image","Action":"tag","Actor":{"ID":"sha256:0af9","Attributes":{"name":"app:2","a/b":"c d",
        "portreeve.dev/namespace":"default","portreeve.dev/name":"alice"}}}"#
        .replace('\n', "");
    let daemon = Daemon::speaking("1.41", move |_, _| Answer::Cut(format!("{theirs}\n{ours}\n{image}\n"))).await;
    let engine = engine(&daemon);
    let mut events = engine.events(("a/b", "c d"), None).await.unwrap_or_else(|e| panic!("{e}"));
    let mut next = async || events.next().await.expect("goes on").expect("an event");
    let event = next().await;
    let alice = portreeve::model::Key::instance("default", "alice");
    assert_eq!((event.object.as_str(), event.instance()), ("volume", Some(alice)));
    let event = next().await;
    assert_eq!((event.object.as_str(), event.id.as_str(), event.instance()), ("image", "sha256:0af9", None));
    let asked = daemon.requests().pop().expect("asked");
    assert!(asked.contains("volume") && asked.contains("image") && asked.contains("load"), "{asked}");
}

#[tokio::test]
async fn a_restart_of_the_daemon_ends_its_streams_and_fails_no_read() {
    let (_hold, wait) = tokio::sync::watch::channel(false);
    let daemon = Daemon::speaking("1.41", move |_, path| match path.contains("/logs") {
        true => Answer::Open("\u{1}\0\0\0\0\0\0\u{3}out".to_owned(), wait.clone()),
        false => gone(),
    })
    .await;
    let engine = engine(&daemon);
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let mut logs = engine.logs(ID, follow).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(logs.next().await, Some(Ok((OutputStream::Stdout, "out".into()))));
    for n in 0..20 {
        assert_eq!(engine.container(ID).await, Ok(None));
        daemon.hangs_up();
        assert_eq!(engine.container(ID).await, Ok(None), "right after hanging up {n}");
    }
    assert_eq!(logs.next().await.expect("an error").expect_err("broken").kind, EngineErrorKind::Unreachable);
    assert!(logs.next().await.is_none());
    assert!(daemon.connections() > 20, "{}", daemon.connections());
}

#[tokio::test]
async fn slow_stops_keep_no_reader_waiting() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let daemon = Daemon::speaking("1.41", move |method, _| match method {
        "POST" => Answer::When(wait.clone(), String::new()),
        _ => gone(),
    })
    .await;
    let engine = engine(&daemon);
    let stops = futures::future::join_all((0..50).map(|_| engine.stop_container(ID, Duration::from_secs(30))));
    let read = async {
        daemon.until(|requests| requests.iter().filter(|r| r.contains("/stop")).count() == 16).await;
        assert_eq!(engine.container(ID).await, Ok(None));
        go.send_replace(true);
    };
    let (results, ()) = tokio::join!(stops, read);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[tokio::test]
async fn tls_trusts_only_the_given_ca_and_proves_who_we_are() {
    let ours = Credentials::new();
    let daemon = Daemon::with_tls(&ours, |_, _| gone()).await;
    let pool = Pool::new(SystemClock::new());
    let engine = pool.engine(&host(&daemon.endpoint(), Some(&ours))).unwrap_or_else(|e| panic!("{e}"));
    for _ in 0..10 {
        assert_eq!(engine.container(ID).await, Ok(None));
    }
    assert_eq!(daemon.connections(), 1);

    let rogue = Credentials::new();
    let trusting_rogue = Credentials::new();
    trusting_rogue.trust(&ours);
    let empty = Credentials::empty();
    let (unreachable, none) = (EngineErrorKind::Unreachable, EngineErrorKind::Credentials);
    for (credentials, kind, words) in [
        (&rogue, unreachable, "certificate"),
        (&trusting_rogue, unreachable, "alert"),
        (&empty, none, "there is no ca.pem"),
    ] {
        let engine = Pool::new(SystemClock::new()).engine(&host(&daemon.endpoint(), Some(credentials)));
        let error = engine.unwrap_or_else(|e| panic!("{e}")).container(ID).await.expect_err("no way in");
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(words), "{error}");
    }
}

#[tokio::test]
async fn renewed_credentials_are_used_from_the_next_connection_on() {
    let ours = Credentials::new();
    let daemon = Daemon::with_tls(&ours, |_, _| gone()).await;
    let directory = Credentials::new();
    let pool = Pool::new(SystemClock::new());
    let engine = pool.engine(&host(&daemon.endpoint(), Some(&directory))).unwrap_or_else(|e| panic!("{e}"));
    engine.container(ID).await.expect_err("a stranger's");
    directory.replace_by(&ours);
    assert_eq!(engine.container(ID).await, Ok(None));
}
