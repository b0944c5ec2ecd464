//! Certificates that end: told a month ahead, while the host is as well as before.

use jiff::SignedDuration;
use portreeve::model::{ConditionStatus, DockerHost, Event, HostTls, Key, condition, is_true};
use portreeve::store::typed;

use super::moving::change_host;
use super::{MINUTE, converged, in_virtual_time, spec};
use crate::support::world::World;

const DAY: i64 = 24;

async fn told(world: &World) -> (ConditionStatus, String) {
    let host = typed::get::<DockerHost>(&*world.store, &Key::host("h1")).await.unwrap().unwrap();
    let valid = condition(&host.status.conditions, "TLSValid");
    assert!(is_true(&host.status.conditions, "Ready"), "{:#?}", host.status);
    valid.map_or((ConditionStatus::Unknown, String::new()), |c| (c.status, c.reason.clone()))
}

/// The types of the Events that tell it.
async fn events(world: &World, reason: &str) -> Vec<String> {
    let all = typed::list::<Event>(&*world.store, None).await.unwrap().items;
    let of = all.into_iter().filter(|e| e.reason == reason && e.involved_object.name == "h1");
    of.map(|e| e.type_).collect()
}

#[test]
fn a_certificate_that_ends_within_a_month_is_told_by_condition_event_and_metric_and_harms_nothing() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 61).await;
        let host = world.fleet.host("h1").clone();
        let end = world.clock.now() + SignedDuration::from_hours(32 * DAY);
        host.set_certificates_end(end);
        let tls = HostTls { directory: "/certs".into(), ..HostTls::default() };
        change_host(&world, "h1", |host| host.spec.tls = Some(tls.clone())).await;
        world.start();
        world.apply("alice", spec("app:1")).await;
        converged(&world, MINUTE).await;
        assert_eq!(told(&world).await, (ConditionStatus::True, "Valid".into()));
        assert!(events(&world, "Valid").await.is_empty(), "that it is good is no news");
        let series = format!("portreeve_host_certificate_expiry_timestamp_seconds{{host=\"h1\"}} {}", end.as_second());
        let shown = |world: &World| world.metrics().lines().any(|line| line.trim_end_matches(".0") == series);
        assert!(shown(&world), "{series} is not in\n{}", world.metrics());

        // The host is at rest, and nobody touches its record.
        let soon = async |w: &World| told(w).await == (ConditionStatus::False, "ExpiresSoon".into());
        tokio::time::sleep(MINUTE * 60 * 46).await;
        assert!(!soon(&world).await, "more than thirty days are left");
        world.until("it is told", 5 * 60 * MINUTE, soon).await;
        let left = end.duration_since(world.clock.now());
        assert!((30 * DAY - 2..=30 * DAY).contains(&left.as_hours()), "{left:#}");
        world.until("an Event", MINUTE, async |w| events(w, "ExpiresSoon").await == ["Warning"]).await;
        tokio::time::sleep(MINUTE * 60 * 24).await;
        assert_eq!(host.runs("pr.default.alice"), 1);

        // A renewed one is used from the next connection on.
        host.set_certificates_end(world.clock.now() + SignedDuration::from_hours(365 * DAY));
        let valid = async |w: &World| told(w).await == (ConditionStatus::True, "Valid".into());
        world.until("its renewal is told", 2 * 60 * MINUTE, valid).await;
        world.until("an Event", MINUTE, async |w| events(w, "Valid").await == ["Normal"]).await;
        assert!(!shown(&world), "{series} is still in\n{}", world.metrics());
        world.crash().await;
    });
}
