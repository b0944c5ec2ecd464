//! Hosts that are away, hang, or have another idea of the time.

use portreeve::model::Phase;

use super::*;

fn ready_reason(instance: &Instance) -> Option<&str> {
    instance.status.conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.reason.as_str())
}

#[test]
fn a_sleeper_whose_host_is_away_sleeps_on_unless_someone_asks_for_it() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 12).await;
        world.start();
        for name in ["asked", "unasked"] {
            world.apply(name, sleeper()).await;
        }
        let asleep = async |w: &World, name: &str| w.phase(name).await == Some(Phase::Asleep);
        world.until("they sleep", 15 * MINUTE, async |w| asleep(w, "asked").await && asleep(w, "unasked").await).await;
        let host = world.fleet.host("h1").clone();
        host.go_away(60 * MINUTE);
        let told = async |w: &World, name: &str| {
            let instance = w.get(name).await.unwrap();
            instance.status.phase == Phase::Asleep && ready_reason(&instance) == Some("HostUnreachable")
        };
        world.until("it is told", MINUTE, async |w| told(w, "asked").await && told(w, "unasked").await).await;
        world.request("asked");
        tokio::time::sleep(MINUTE).await;
        assert!(told(&world, "asked").await, "asked for, it is neither lost nor awake");
        host.come_back();
        world.until("it wakes", MINUTE, async |w| w.phase("asked").await == Some(Phase::Running)).await;
        let rests = async |w: &World| ready_reason(&w.get("unasked").await.unwrap()) == Some("Asleep");
        world.until("the other is known to sleep", MINUTE, rests).await;
        assert_eq!(world.fleet.host("h1").runs("pr.default.unasked"), 1, "it slept on");
        world.crash().await;
    });
}
