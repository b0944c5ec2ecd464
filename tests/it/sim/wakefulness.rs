//! What keeps an instance awake besides requests, in deterministic simulation: its CPU, what it says itself, its schedule, and
//! sessions by the API. And that nobody is asked for longer than is needed.

use std::time::Duration;

use jiff::Timestamp;
use portreeve::model::{Instance, InstanceExplanation, Phase, SLEEP_ANNOTATION, WAKE_ANNOTATION, Wanted};
use portreeve::proxy::Session;
use serde_json::{Value, json};

use super::probes::events;
use super::{MINUTE, converged, in_virtual_time, sleeper};
use crate::support::world::World;

const NAME: &str = "pr.default.alice";
const SECOND: Duration = Duration::from_secs(1);

/// In place of power: what nobody uses is awake all the same, whatever befalls it.
pub fn keep_awake(spec: &mut Value) {
    let schedule = json!([{"keep": "Awake", "cron": "@daily", "for": "25h"}]);
    spec["power"] = json!("Auto");
    spec["idle"] = json!({"after": "5s", "busyCpu": "1%", "schedule": schedule});
}

pub fn is_kept_awake(instance: &Instance) -> bool {
    !instance.spec.idle.schedule.is_empty()
}

async fn with_idle(idle: Value) -> World {
    with_spec(|spec| spec["idle"] = idle).await
}

async fn with_spec(change: impl FnOnce(&mut Value)) -> World {
    let mut world = World::new(&["h1"], 61).await;
    world.start();
    let mut spec = sleeper();
    change(&mut spec);
    world.apply("alice", spec).await;
    until_phase(&world, Phase::Running, MINUTE).await;
    world
}

pub async fn until_phase(world: &World, phase: Phase, limit: Duration) {
    world.until(&format!("{phase:?}"), limit, async |w: &World| w.phase("alice").await == Some(phase)).await;
}

/// It stays so for the whole time.
pub async fn stays(world: &World, phase: Phase, time: Duration) {
    let end = world.clock.monotonic() + time;
    while world.clock.monotonic() < end {
        assert_eq!(world.phase("alice").await, Some(phase), "{:?} before {end:?}", world.clock.monotonic());
        tokio::time::sleep(SECOND).await;
    }
}

pub async fn sleep_until(world: &World, at: &str) {
    let at: Timestamp = at.parse().unwrap();
    tokio::time::sleep(Duration::try_from(at.duration_since(world.clock.now())).expect("to come")).await;
}

fn sign<'a>(told: &'a InstanceExplanation, source: &str) -> Option<&'a str> {
    told.signals.iter().find(|s| s.source == source).map(|s| s.message.as_str())
}

#[test]
fn who_burns_cpu_stays_awake_and_sleeps_when_done() {
    in_virtual_time(|| async {
        let world = with_idle(json!({"after": "10m", "busyCpu": "10%"})).await;
        let engine = world.fleet.host("h1").clone();
        world.request("alice");
        stays(&world, Phase::Running, 8 * MINUTE).await;
        assert_eq!(engine.stats_asked(), 0, "nothing is asked long before it may fall asleep");
        engine.set_use(NAME, 370, 1 << 20);
        stays(&world, Phase::Running, 30 * MINUTE).await;
        let asked = engine.stats_asked();
        assert!((20..=40).contains(&asked), "once a minute or so: {asked}");
        let told = world.why("alice").await;
        assert_eq!(told.wanted, Wanted::Awake);
        assert!(told.because.starts_with("it is busy (busyCpu): 37.0% of one core over "), "{}", told.because);
        assert!(sign(&told, "busyCpu").is_some_and(|s| s.contains("busyCpu is 10%")), "{told:#?}");
        assert!(told.next.at.is_some() && told.next.message.contains("asked again"), "{:?}", told.next);

        engine.set_use(NAME, 99, 1 << 20);
        until_phase(&world, Phase::Asleep, 2 * MINUTE + 5 * SECOND).await;
        let asked = engine.stats_asked();
        world.assert_quiet(20 * MINUTE).await;
        assert_eq!(engine.stats_asked(), asked, "a sleeper is not asked");
        assert_eq!(events(&world, "BusyUnknown").await, 0);
    });
}

#[test]
fn without_work_one_that_is_measured_sleeps_when_it_would_anyway() {
    in_virtual_time(|| async {
        let world = with_idle(json!({"after": "10m", "busyCpu": "10%"})).await;
        world.request("alice");
        stays(&world, Phase::Running, 10 * MINUTE - 2 * SECOND).await;
        until_phase(&world, Phase::Asleep, 15 * SECOND).await;
        assert_eq!(world.fleet.host("h1").stats_asked(), 2, "two readings");
        assert!(world.metrics().contains(r#"portreeve_busy_checks_total{check="cpu",result="idle"} 1"#));
    });
}

#[test]
fn a_cpu_that_cannot_be_read_keeps_awake_for_ten_minutes_and_is_told() {
    in_virtual_time(|| async {
        let world = with_idle(json!({"after": "10m", "busyCpu": "10%"})).await;
        let engine = world.fleet.host("h1").clone();
        engine.refuse_stats(true);
        world.request("alice");
        stays(&world, Phase::Running, 19 * MINUTE + 30 * SECOND).await;
        let told = world.why("alice").await;
        assert!(told.because.contains("being found out whether it is busy"), "{}", told.because);
        assert_eq!(events(&world, "BusyUnknown").await, 1, "told once");
        until_phase(&world, Phase::Asleep, 2 * MINUTE).await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(events(&world, "BusyUnknown").await, 2, "and that it was given up");

        // The next time begins anew, and an answer ends it.
        world.request("alice");
        until_phase(&world, Phase::Running, MINUTE).await;
        stays(&world, Phase::Running, 15 * MINUTE).await;
        engine.refuse_stats(false);
        until_phase(&world, Phase::Asleep, 2 * MINUTE).await;
    });
}

#[test]
fn an_app_that_says_it_is_busy_stays_awake_and_is_asked_only_when_it_would_sleep() {
    in_virtual_time(|| async {
        let check = json!({"http": {"port": "web", "path": "/busy?token=x"}, "timeout": "2s"});
        let world = with_idle(json!({"after": "10m", "busyCheck": {"http": {"port": "web", "path": "/busy"}}})).await;
        let engine = world.fleet.host("h1").clone();
        let asked = || engine.condition(NAME).expect("it is there").asked_busy;
        engine.set_busy(NAME, true);
        world.request("alice");
        stays(&world, Phase::Running, 9 * MINUTE + 50 * SECOND).await;
        assert_eq!(asked(), 0);
        stays(&world, Phase::Running, 20 * MINUTE).await;
        assert!((19..=22).contains(&asked()), "once a minute: {}", asked());
        let told = world.why("alice").await;
        assert_eq!(told.because, "it is busy (busyCheck): web: GET /busy: 200");
        assert_eq!(sign(&told, "busyCheck"), Some("busy: web: GET /busy: 200"));
        engine.set_busy(NAME, false);
        until_phase(&world, Phase::Asleep, MINUTE + 5 * SECOND).await;
        assert_eq!(engine.stats_asked(), 0, "only what is asked for is measured");

        // What stands in the query is the app's own business.
        world.change("alice", |i| i.spec.idle.busy_check = serde_json::from_value(check.clone()).unwrap()).await;
        world.request("alice");
        until_phase(&world, Phase::Running, MINUTE).await;
        engine.set_busy(NAME, true);
        stays(&world, Phase::Running, 11 * MINUTE).await;
        assert!(!format!("{:?}", world.why("alice").await).contains("token"));
    });
}

#[test]
fn a_check_that_hangs_keeps_nobody_awake_for_ever_and_is_told() {
    in_virtual_time(|| async {
        let world = with_idle(json!({"after": "10m", "busyCheck": {"http": {"port": "web", "path": "/busy"}}})).await;
        let engine = world.fleet.host("h1").clone();
        engine.hang_at(NAME, 80);
        world.request("alice");
        stays(&world, Phase::Running, 19 * MINUTE).await;
        assert_eq!(events(&world, "BusyUnknown").await, 1);
        let told = world.why("alice").await;
        assert!(sign(&told, "busyCheck").is_some_and(|s| s.contains("no answer within 2s")), "{told:#?}");
        until_phase(&world, Phase::Asleep, 3 * MINUTE).await;
        let counted = world.metrics();
        assert!(!counted.contains(r#"check="http",result="unknown"} 0"#), "{counted}");
    });
}

#[test]
fn neither_a_new_spec_of_idle_nor_its_absence_makes_a_container_anew() {
    in_virtual_time(|| async {
        let world = with_idle(json!({"after": "10m"})).await;
        let runs = world.fleet.host("h1").runs(NAME);
        let schedule = json!([{"keep": "Awake", "cron": "0 8 * * *", "for": "1h"}]);
        for idle in [
            json!({"after": "10m", "busyCpu": "1%"}),
            json!({"after": "10m", "busyCheck": {"http": {"port": "web"}}, "schedule": schedule}),
            json!({"after": "10m"}),
        ] {
            world.change("alice", |i| i.spec.idle = serde_json::from_value(idle.clone()).unwrap()).await;
            world.request("alice");
            converged(&world, MINUTE).await;
        }
        assert_eq!(world.fleet.host("h1").runs(NAME), runs);
        assert_eq!(world.fleet.host("h1").snapshot().containers.len(), 1);
    });
}

#[test]
fn a_schedule_wakes_at_its_time_and_lets_sleep_after_its_end() {
    in_virtual_time(|| async {
        // The clock begins on Thursday, 2026-01-01, at midnight UTC.
        let schedule = json!([{"keep": "Awake", "cron": "0 8 * * 1-5", "for": "10h", "timeZone": "Europe/Berlin"}]);
        let mut world = with_idle(json!({"after": "10m", "schedule": schedule})).await;
        until_phase(&world, Phase::Asleep, 11 * MINUTE).await;
        let told = world.why("alice").await;
        assert_eq!(told.next.at.map(|t| t.to_string()), Some("2026-01-01T07:00:00Z".into()), "{:?}", told.next);
        sleep_until(&world, "2026-01-01T06:59:59Z").await;
        assert_eq!(world.phase("alice").await, Some(Phase::Asleep));
        until_phase(&world, Phase::Running, 10 * SECOND).await;
        let told = world.why("alice").await;
        assert_eq!(told.because, "spec.idle.schedule[0] (until 2026-01-01 18:00 Europe/Berlin) keeps it awake");
        assert_eq!(told.next.at.map(|t| t.to_string()), Some("2026-01-01T17:00:00Z".into()));

        // Neither hours without use nor a hand sends it to sleep, nor does a new process.
        let started = world.get("alice").await.unwrap().run().unwrap();
        world.change("alice", |i| drop(i.metadata.annotations.insert(SLEEP_ANNOTATION.into(), started.clone()))).await;
        stays(&world, Phase::Running, 20 * MINUTE).await;
        world.crash().await;
        world.start();
        world.assert_quiet(30 * MINUTE).await;
        assert_eq!(world.get("alice").await.unwrap().run().unwrap(), started);
        sleep_until(&world, "2026-01-01T16:59:59Z").await;
        assert_eq!(world.phase("alice").await, Some(Phase::Running));
        until_phase(&world, Phase::Asleep, 15 * SECOND).await;

        // A control plane that was away at the beginning wakes it when it is back; at the weekend nobody does.
        world.crash().await;
        sleep_until(&world, "2026-01-02T09:00:00Z").await;
        world.start();
        until_phase(&world, Phase::Running, MINUTE).await;
        sleep_until(&world, "2026-01-02T17:01:00Z").await;
        until_phase(&world, Phase::Asleep, MINUTE).await;
        let runs = world.fleet.host("h1").runs(NAME);
        sleep_until(&world, "2026-01-05T06:59:00Z").await;
        assert_eq!(world.fleet.host("h1").runs(NAME), runs);
        until_phase(&world, Phase::Running, 2 * MINUTE).await;
    });
}

#[test]
fn a_schedule_for_rest_lets_visits_end_first_and_visitors_wake_it() {
    in_virtual_time(|| async {
        let schedule = json!([{"keep": "Asleep", "cron": "0 1 * * *", "for": "5h"}]);
        let world = with_idle(json!({"after": "3h", "schedule": schedule})).await;
        stays(&world, Phase::Running, 59 * MINUTE).await;
        let open = world.connect("alice");
        sleep_until(&world, "2026-01-01T01:10:00Z").await;
        assert_eq!(world.phase("alice").await, Some(Phase::Running), "in use");
        drop(open);
        stays(&world, Phase::Running, 55 * SECOND).await;
        until_phase(&world, Phase::Asleep, 5 * MINUTE).await;
        let told = world.get("alice").await.unwrap();
        let ready = portreeve::model::condition(&told.status.conditions, "Ready").unwrap();
        assert_eq!(ready.message, "put to sleep by spec.idle.schedule; wakes on the next request");

        world.request("alice");
        until_phase(&world, Phase::Running, MINUTE).await;
        let told = world.why("alice").await;
        assert!(told.because.contains("within the last 1m"), "{}", told.because);
        assert!(sign(&told, "schedule").is_some_and(|s| s.contains("wants it at rest")), "{told:#?}");
        until_phase(&world, Phase::Asleep, 3 * MINUTE).await;
        // Its use an hour before the end is no reason to wake it at the end.
        sleep_until(&world, "2026-01-01T05:30:00Z").await;
        world.request("alice");
        until_phase(&world, Phase::Running, MINUTE).await;
        until_phase(&world, Phase::Asleep, 3 * MINUTE).await;
        world.assert_quiet(30 * MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Asleep));
    });
}

#[test]
fn a_session_by_the_api_keeps_awake_for_as_long_as_it_is_open() {
    in_virtual_time(|| async {
        for (session, source, words) in [
            (Session::Exec, "exec", "an exec session is open"),
            (Session::Attach, "attach", "an attach session is open"),
            (Session::Forward, "port-forward", "a forwarded connection is open"),
        ] {
            let world = with_idle(json!({"after": "10m"})).await;
            let open = world.session("alice", session);
            let told = {
                stays(&world, Phase::Running, 60 * MINUTE).await;
                world.why("alice").await
            };
            assert_eq!(told.because, words);
            assert_eq!(sign(&told, source), Some("1 open now"));
            drop(open);
            until_phase(&world, Phase::Asleep, 11 * MINUTE).await;
        }
    });
}

#[test]
fn by_hand_it_sleeps_though_it_is_busy_and_for_another_only_if_it_is_not() {
    in_virtual_time(|| async {
        let world = with_idle(json!({"after": "10m", "busyCpu": "10%"})).await;
        world.fleet.host("h1").set_use(NAME, 370, 1 << 20);
        stays(&world, Phase::Running, 12 * MINUTE).await;
        let run = world.get("alice").await.unwrap().run().unwrap();
        world.change("alice", |i| drop(i.metadata.annotations.insert(SLEEP_ANNOTATION.into(), run.clone()))).await;
        until_phase(&world, Phase::Asleep, MINUTE).await;

        let now = world.clock.now().to_string();
        world.change("alice", |i| drop(i.metadata.annotations.insert(WAKE_ANNOTATION.into(), now.clone()))).await;
        until_phase(&world, Phase::Running, MINUTE).await;
    });
}
