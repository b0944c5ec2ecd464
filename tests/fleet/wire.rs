//! A real daemon says on the wire what the simulated one says over HTTP: one suite over both.

use crate::daemon;
use crate::engine::variable;

#[path = "../it/support/wire_conformance.rs"]
mod wire_conformance;

#[tokio::test]
async fn a_real_daemon_says_on_the_wire_what_the_simulated_one_says() {
    let (daemon, image) = (daemon::first(), variable("PORTREEVE_TEST_IMAGE"));
    let subject = wire_conformance::Subject {
        socket: &daemon.socket,
        image: &image,
        app: "/app",
        host_ip: &daemon.address,
        host_port: 38_518,
    };
    wire_conformance::holds(&subject).await;
}
