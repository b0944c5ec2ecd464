//! Visitors are served while the control plane cannot write, and while its daemons do not answer.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use portreeve::clock::SystemClock;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::serve::Served;
use super::*;
use crate::crash::full::fill;
use crate::crash::mounts::{Bench, Mounted};
use crate::support::api_server::PATIENCE;
use crate::support::sim_engine::image::SimImage;
use crate::support::sim_engine::wire::hosts::{self, Hosts, Plan};

/// One request over a connection of its own: its status.
async fn visit(proxy: &str, host: &str) -> std::io::Result<String> {
    let mut visitor = TcpStream::connect(proxy).await?;
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    visitor.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).await?;
    Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
}

/// Visitors who come all the time.
struct Crowd {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    visits: tokio::task::JoinHandle<()>,
}

impl Crowd {
    fn of(proxy: &str, host: &'static str) -> Crowd {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let visits = tokio::spawn({
            let (proxy, stop, served) = (proxy.to_owned(), stop.clone(), served.clone());
            async move {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(visit(&proxy, host).await.expect("an answer"), "200");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Crowd { stop, served, visits }
    }

    /// Until so many more have been served.
    async fn goes_on(&self) {
        let wanted = self.served.load(Ordering::SeqCst) + 50;
        let more = async {
            while self.served.load(Ordering::SeqCst) < wanted {
                assert!(!self.visits.is_finished(), "a visit failed");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, more).await.expect("visitors are served");
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.visits.await.expect("every visit was served");
    }
}

fn instance(name: &str, idle: &str) -> String {
    let ports = json!([{"name": "http", "containerPort": 8080}]);
    let spec = json!({"image": "app:1", "ports": ports, "idle": {"after": idle}});
    json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": name}, "spec": spec}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_and_a_hanging_daemon_leave_visitors_alone() {
    let bench = match Bench::new("survival", 240 << 20) {
        Ok(bench) => bench,
        Err(why) => return println!("SKIPPED, nothing was tested: the full disk needs {why}"),
    };
    let (home, sockets) = (home(), home());
    let disk = Mounted::new(&bench.path("image"), &bench.path("disk")).unwrap();
    let base = Ipv4Addr::new(127, 88, 7, 0);
    let images = vec![("app:1".to_owned(), SimImage::server())];
    let plan = Plan { count: 1, images, recorded: false, apps: true, base, seed: 5 };
    let fleet = Hosts::up(sockets.path(), &SystemClock::new(), &plan).await.expect("a daemon");

    let data = disk.0.join("data");
    let with_data = |args: &[&str]| {
        let mut command = portreeve(home.path(), args);
        command.env("PORTREEVE_DATA_DIR", &data);
        command
    };
    let start = ["serve", "--docker=none", "--api-listen=127.0.0.1:0", "--proxy-listen=127.0.0.1:0"];
    let mut served = Served::spawn(with_data(&start));
    let serving = served.logs("serving").await;
    let (_, rest) = serving.split_once(" proxy=").expect("its address");
    let proxy = rest.split(' ').next().unwrap().to_owned();

    let apply = async |manifest: String| {
        let file = home.path().join("manifest.json");
        std::fs::write(&file, manifest).unwrap();
        finish(&mut with_data(&["apply", "-f", file.to_str().unwrap()])).await
    };
    let place = &fleet.places[0];
    let endpoint = format!("unix://{}", place.socket.display());
    let spec = json!({"endpoint": endpoint, "address": place.address.to_string()});
    let host =
        json!({"apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": "h1"}, "spec": spec});
    let applied = apply(host.to_string()).await;
    assert!(applied.status.success(), "{}", stderr(&applied));
    assert!(apply(instance("alice", "1s")).await.status.success());
    let awake = async { while visit(&proxy, "alice.localhost").await.expect("an answer") != "200" {} };
    tokio::time::timeout(PATIENCE, awake).await.expect("it is up");
    let crowd = Crowd::of(&proxy, "alice.localhost");
    crowd.goes_on().await;

    let filler = disk.0.join("filler");
    fill(&filler);
    let refused = apply(instance("bob", "1s")).await;
    assert!(!refused.status.success(), "nothing can be written");
    assert!(stderr(&refused).contains("space"), "{}", stderr(&refused));
    crowd.goes_on().await;

    let hang = serde_json::from_value(json!({"host": "h1", "fault": "hang"})).expect("an order");
    hosts::order(&fleet.places, &hang).expect("done");
    crowd.goes_on().await;
    let heal = serde_json::from_value(json!({"host": "h1", "fault": "heal"})).expect("an order");
    hosts::order(&fleet.places, &heal).expect("done");
    crowd.goes_on().await;

    std::fs::remove_file(&filler).unwrap();
    let again = async { while !apply(instance("bob", "1s")).await.status.success() {} };
    tokio::time::timeout(PATIENCE, again).await.expect("there is space");
    let awake = async { while visit(&proxy, "bob.localhost").await.expect("an answer") != "200" {} };
    tokio::time::timeout(PATIENCE, awake).await.expect("writes go on");
    crowd.end().await;
}
