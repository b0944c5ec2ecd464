//! The real engine keeps the contract on a real daemon. The daemon comes from the environment:
//!
//! | variable | what |
//! |---|---|
//! | `PORTREEVE_TEST_DOCKER` | its endpoint: `unix:///…`, or `tcp://…` with `PORTREEVE_TEST_TLS`, a directory of credentials |
//! | `PORTREEVE_TEST_ADDRESS` | the IP address on which it publishes ports |
//! | `PORTREEVE_TEST_IMAGE` | the test app, loaded |

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use portreeve::clock::SystemClock;
use portreeve::docker::Pool;
use portreeve::docker::engine::*;
use portreeve::model::{DockerHost, HostTls};

#[path = "../it/support/engine_conformance.rs"]
pub mod engine_conformance;

use engine_conformance::Subject;

use crate::control_plane::PATIENCE;

/// Of the test app, in its image.
pub const APP: &str = "/app";

pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run these tests by `cargo xtask test`"))
}

fn host(endpoint: &str) -> DockerHost {
    let mut host = DockerHost::default();
    host.metadata.name = "real".to_owned();
    host.spec.endpoint = endpoint.to_owned();
    host.spec.tls =
        std::env::var("PORTREEVE_TEST_TLS").ok().map(|directory| HostTls { directory, ..Default::default() });
    host
}

fn engine() -> Arc<dyn Engine> {
    let pool = Pool::new(SystemClock::new());
    pool.engine(&host(&variable("PORTREEVE_TEST_DOCKER"))).unwrap_or_else(|e| panic!("{e}"))
}

fn plain(name: &str, image: String) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        image,
        entrypoint: vec![APP.to_owned()],
        network: "none".to_owned(),
        limits: Limits { memory: 64 << 20, cpu_milli: 500, pids: 64 },
        ..ContainerSpec::default()
    }
}

#[tokio::test]
async fn a_real_daemon_conforms() {
    let (engine, image, address) = (engine(), variable("PORTREEVE_TEST_IMAGE"), variable("PORTREEVE_TEST_ADDRESS"));
    let subject = Subject {
        engine: engine.as_ref(),
        image: &image,
        app: APP,
        host_ip: &address,
        host_port: 38_517,
        bind: "/run/portreeve-conformance/bound",
        bad_bind: "/proc/portreeve-conformance",
    };
    engine_conformance::holds(&subject).await;
}

/// The app grows only when it is asked to, after the start: on cgroup v1 the daemon listens for the kernel's word only
/// from then on, and one that dies at once is never told from one that was killed.
#[tokio::test]
async fn an_app_that_outgrows_its_memory_is_told_from_one_that_exits() {
    let (engine, image) = (engine(), variable("PORTREEVE_TEST_IMAGE"));
    let spec = ContainerSpec {
        limits: Limits { memory: 32 << 20, cpu_milli: 1000, pids: 64 },
        ..plain("pr.memory.app", image)
    };
    engine.remove_container(&spec.name).await.expect("clear");
    let id = engine.create_container(&spec).await.unwrap_or_else(|e| panic!("{e}"));
    engine.start_container(&id).await.unwrap_or_else(|e| panic!("{e}"));
    until("it listens", async || ask(&*engine, &id, "/health").await == Some(0)).await;
    // the daemon hears of the exit and of its cause one by one
    until("it was killed for its memory", async || {
        let seen = engine.container(&id).await.unwrap_or_else(|e| panic!("{e}")).expect("there");
        match seen.state {
            RunState::Exited => seen.oom_killed,
            // The kernel may take who asks instead, and a daemon that is busy may not let anybody ask.
            _ => {
                ask(&*engine, &id, "/alloc?mib=256").await;
                false
            }
        }
    })
    .await;
    engine.remove_container(&id).await.expect("remove");
}

/// Has the app in the container ask itself; the exit code of that, if the container lived to tell.
async fn ask(engine: &dyn Engine, id: &str, path: &str) -> Option<i64> {
    let command = [APP, "ask", "127.0.0.1:8080", path].map(str::to_owned).to_vec();
    let mut session = engine.exec(id, ExecOptions { command, stdout: true, ..ExecOptions::default() }).await.ok()?;
    while let Ok(Some(Ok(_))) = tokio::time::timeout(PATIENCE, session.output.next()).await {}
    engine.exec_exit_code(&session.exec_id).await.ok().flatten()
}

async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not so after {PATIENCE:?}: {what}"));
}

#[tokio::test]
async fn a_pull_that_fails_says_why_although_the_daemon_says_200() {
    let error = engine().pull("127.0.0.1:9/nobody/home:1", &|_| {}).await.expect_err("there is no registry");
    assert_eq!(error.kind, EngineErrorKind::Server, "it may pass: {error}");
    assert!(error.message.contains("127.0.0.1:9"), "the daemon's own words: {error}");
}

/// The daemon's socket on a port of loopback, as `dockerd -H tcp://` would have it.
async fn without_tls(socket: std::path::PathBuf) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut far = tokio::net::UnixStream::connect(socket).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    port
}

#[tokio::test]
async fn a_daemon_without_tls_is_spoken_to_where_that_is_said() {
    let first = variable("PORTREEVE_TEST_DOCKER");
    let Some(socket) = first.strip_prefix("unix://") else { return };
    let port = without_tls(socket.into()).await;
    let mut host = host(&format!("tcp://127.0.0.1:{port}"));
    for (said, spoken) in [(true, true), (false, false)] {
        host.spec.tls = Some(HostTls { insecure_plaintext: said, ..HostTls::default() });
        assert_eq!(portreeve::model::validate_docker_host(&host).is_empty(), spoken);
        let engine = Pool::new(SystemClock::new()).engine(&host);
        let answered = match engine {
            Ok(engine) => engine.info().await.map(drop).is_ok(),
            Err(_) => false,
        };
        assert_eq!(answered, spoken);
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_unreachable_and_soon_not_asked() {
    let pool = Pool::new(SystemClock::new());
    let mut nobody = host("unix:///run/portreeve-no-such.sock");
    nobody.spec.tls = None;
    let engine = pool.engine(&nobody).expect("connects later");
    for _ in 0..3 {
        let error = engine.info().await.expect_err("nobody there");
        assert_eq!(error.kind, EngineErrorKind::Unreachable, "{error}");
        assert!(error.message.contains("portreeve-no-such.sock"), "{error}");
    }
    let error = engine.info().await.expect_err("not asked");
    assert_eq!(error.kind, EngineErrorKind::Unreachable);
    assert!(error.message.contains("not tried"), "{error}");
}

#[tokio::test]
async fn a_terminal_is_raw_and_can_be_resized() {
    let (engine, image) = (engine(), variable("PORTREEVE_TEST_IMAGE"));
    let spec = plain("pr.terminal.app", image);
    engine.remove_container(&spec.name).await.expect("clear");
    let id = engine.create_container(&spec).await.unwrap_or_else(|e| panic!("{e}"));
    engine.start_container(&id).await.unwrap_or_else(|e| panic!("{e}"));
    let options = ExecOptions {
        command: vec![APP.to_owned(), "echo".to_owned(), "\u{1}raw".to_owned()],
        stdout: true,
        tty: true,
        ..ExecOptions::default()
    };
    let mut session = engine.exec(&id, options).await.unwrap_or_else(|e| panic!("{e}"));
    let mut said = Vec::new();
    while let Ok(Some(chunk)) = tokio::time::timeout(PATIENCE, session.output.next()).await {
        said.extend_from_slice(&chunk.unwrap_or_else(|e| panic!("{e}")).1);
    }
    assert_eq!(said, b"\x01raw\r\n", "a terminal's bytes are no frames");
    let dialogue = ExecOptions {
        command: vec![APP.to_owned(), "cat".to_owned()],
        stdin: true,
        stdout: true,
        tty: true,
        ..ExecOptions::default()
    };
    let session = engine.exec(&id, dialogue).await.unwrap_or_else(|e| panic!("{e}"));
    engine.exec_resize(&session.exec_id, 120, 40).await.unwrap_or_else(|e| panic!("{e}"));
    engine.remove_container(&id).await.expect("remove");
}
