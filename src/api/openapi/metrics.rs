//! The schemas of `metrics.k8s.io`. A test holds them to what is answered.

use serde_json::Value;

use super::words::{choice, keyed, object, quantity, text, time};

pub fn pod() -> Value {
    let container = object("One container.", [("name", choice(&["main"], "main")), ("usage", usage("What it uses."))]);
    let containers = keyed("name", "The containers: one.", container);
    measured("What the Instance of the same name uses, measured when it is asked for.", ("containers", containers))
}

pub fn node() -> Value {
    let usage = usage("What all instances of this cluster on the host use together.");
    measured("What instances use of the DockerHost of the same name, measured when it is asked for.", ("usage", usage))
}

fn measured(description: &str, amounts: (&'static str, Value)) -> Value {
    object(
        description,
        [
            ("timestamp", time("When it was measured.")),
            ("window", text("The time before that which the CPU is the mean of, such as 1.5s.")),
            amounts,
        ],
    )
}

fn usage(description: &str) -> Value {
    object(
        description,
        [
            ("cpu", quantity("Cores, as the mean over the window.")),
            ("memory", quantity("Bytes of the working set: memory in use less the file cache that may go.")),
        ],
    )
}
