//! A host that is cut off the network: what may is made anew on another host while its copy runs on over there, and that
//! copy goes when the host is back.

use std::time::Duration;

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, condition, instance_with, now, within};
use crate::daemon::second;

/// `hostLossAfter`, in seconds.
const AFTER: u64 = 10;

fn mobile(name: &str) -> Value {
    let placement = json!({"onHostLoss": "Recreate", "hostLossAfter": format!("{AFTER}s")});
    instance_with(name, &json!({"power": "Running", "placement": placement}))
}

#[test]
fn what_may_is_made_anew_elsewhere_and_its_copy_goes_when_the_lost_host_is_back() {
    let second = second(&["widowed", "heir"]);
    let mut plane = ControlPlane::start(31_900);
    let name = "widowed";
    plane.apply(&second.record_over_tls("31900-31919"));
    plane.run(&["cordon", "local"]);
    plane.apply(&mobile(name));
    let before = plane.until_serves(name);
    assert_eq!(before["status"]["node"], "h2");
    plane.page(name, "/");
    let copy = second.daemon.container(name)["Id"].clone();
    plane.run(&["uncordon", "local"]);

    second.fault("partition");
    let cut = now();
    plane.until(name, "its loss is told", |o| condition(o, "HostLost")["reason"] == "Waiting");
    let told = now() - cut;
    let served = within(PATIENCE, || match plane.request("GET", name, "/", "") {
        Ok(answer) if answer.status == 200 && plane.get(name)["status"]["node"] == "local" => Ok(now() - cut),
        Ok(answer) => Err(format!("{}: {}", answer.status, answer.text())),
        Err(e) => Err(e.to_string()),
    });
    let served = served.unwrap_or_else(|why| plane.fail(name, &why));
    eprintln!("{name}: lost after {told:.1?}, served elsewhere after {served:.1?}, of which {AFTER} s are waited for");
    assert!(served > Duration::from_secs(AFTER), "{served:?}");
    let after = plane.until_serves(name);
    let ours = plane.daemon.container(name)["Id"].clone();
    assert_eq!(
        (&after["status"]["containerID"], &condition(&after, "HostLost")["reason"]),
        (&ours, &json!("Recreated"))
    );
    let events = plane.events(name);
    assert!(events.iter().any(|e| e["reason"] == "Recreated"), "{events:#?}");
    // its owner sees it over there, where we do not get to
    let still = second.daemon.container(name);
    assert_eq!((&still["Id"], &still["State"]["Running"]), (&copy, &json!(true)));

    second.fault("heal");
    let healed = now();
    let gone = within(PATIENCE, || {
        let (containers, networks) = (second.daemon.containers(name), second.daemon.networks(name));
        if containers.is_empty() && networks.is_empty() {
            Ok(())
        } else {
            Err(format!("{containers:#?} {networks:#?}"))
        }
    });
    gone.unwrap_or_else(|why| plane.fail(name, &why));
    eprintln!("{name}: what was left behind was gone {:.1?} after the host was back", now() - healed);
    plane.page(name, "/");
    assert_eq!(plane.get(name)["status"]["containerID"], ours);
    assert_eq!(plane.daemon.container(name)["Id"], ours);

    // its port over there is another's to have
    let port = before["status"]["ports"][0]["hostPort"].clone();
    let ports = json!([{"name": "http", "containerPort": 8080, "hostPort": port}]);
    plane.apply(&instance_with("heir", &json!({"placement": {"node": "h2"}, "ports": ports})));
    assert_eq!(plane.until_serves("heir")["status"]["ports"][0]["hostPort"], port);
    plane.page("heir", "/");
    plane.run(&["delete", "inst", name, "heir"]);
}
