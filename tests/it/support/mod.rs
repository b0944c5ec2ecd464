//! What several tests share.

pub mod api_server;
pub mod client;
pub mod daemon;
pub mod engine_conformance;
pub mod faulty_store;
pub mod pebble;
pub mod protobuf;
pub mod sim_engine;
pub mod wire_conformance;
pub mod witness;
pub mod world;

/// Says that a test cannot show what it is for, because something is not installed. Where everything is to be shown
/// (`PORTREEVE_TEST_COMPLETE`), it fails.
#[track_caller]
pub fn without(what: &str) {
    assert!(std::env::var_os("PORTREEVE_TEST_COMPLETE").is_none(), "not on PATH: {what}");
    eprintln!("skipped: not on PATH: {what}");
}

/// A simulated daemon to hold to what daemons do; its image holds the app.
pub fn simulated<'a>(
    engine: &'a dyn portreeve::docker::engine::Engine,
    image: &'a str,
) -> engine_conformance::Subject<'a> {
    engine_conformance::Subject {
        engine,
        image,
        app: "/app",
        host_ip: "10.0.0.1",
        host_port: 30000,
        bind: "/srv/conformance",
        bad_bind: "/proc/conformance",
    }
}

/// The bytes of every file below a directory, but of those that a store which is open gives up meanwhile.
pub fn bytes_below(dir: &std::path::Path) -> Vec<u8> {
    let mut all = vec![];
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        match std::fs::read(&path) {
            _ if path.is_dir() => all.extend(bytes_below(&path)),
            Ok(bytes) => all.extend(bytes),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{}", path.display()),
        }
    }
    all
}
