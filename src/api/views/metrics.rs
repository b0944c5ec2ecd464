//! `metrics.k8s.io/v1beta1`: PodMetrics and NodeMetrics, made from a Pod or a Node and what it uses.
//!
//! They are listed and selected as the Pods and Nodes that they are about, so that the same selectors find the same.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::columns::{self, Column};
use super::super::metrics::Use;
use super::super::object;
use super::pods;
use crate::model::{Quantity, Span};

pub const GROUP: &str = "metrics.k8s.io";
pub const VERSION: &str = "v1beta1";

pub static COLUMNS: [Column; 4] = [
    columns::NAME,
    columns::column("CPU", "string", "Thousandths of a core, as the mean over the window."),
    columns::column("Memory", "string", "The working set."),
    columns::column("Window", "string", "The time over which the CPU was measured."),
];

pub fn of_pod(pod: &Value, used: &Use, now: Timestamp) -> Value {
    let mut metrics = about(pod, "PodMetrics", used, now);
    metrics["containers"] = json!([{"name": pods::CONTAINER, "usage": usage(used)}]);
    metrics
}

pub fn of_node(node: &Value, used: &Use, now: Timestamp) -> Value {
    let mut metrics = about(node, "NodeMetrics", used, now);
    metrics["usage"] = usage(used);
    metrics
}

fn about(of: &Value, kind: &str, used: &Use, now: Timestamp) -> Value {
    let meta = |field: &str| object::meta(of).and_then(|m| m.get(field)).filter(|v| !v.is_null());
    let mut metrics = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind,
        // Made just now, as Kubernetes' own metrics server has it; they have no uid and no version.
        "metadata": {
            "name": meta("name"), "namespace": meta("namespace"), "labels": meta("labels"),
            "creationTimestamp": object::time(now),
        },
        "timestamp": object::time(used.at), "window": Span::from(used.window).to_string(),
    });
    object::strip_nulls(&mut metrics);
    metrics
}

/// As the kubelet writes it: billionths of a core, and bytes.
fn usage(used: &Use) -> Value {
    let memory = Quantity::from_bytes(i64::try_from(used.memory).unwrap_or(i64::MAX));
    json!({"cpu": format!("{}n", used.nanocores), "memory": memory})
}

/// Why a Pod that does not run has no metrics.
pub fn why_not(pod: &Value) -> String {
    let state = |pointer: &str| pod.pointer(&format!("/status/containerStatuses/0/state/{pointer}"))?.as_str();
    match state("waiting/reason").or_else(|| state("terminated/reason")) {
        Some("Asleep") => "it is asleep and uses nothing; a request wakes it".to_owned(),
        Some(reason) => format!("its container does not run ({reason})"),
        None => "its container does not run".to_owned(),
    }
}

pub fn cells(metrics: &Value) -> Vec<Value> {
    let usage = |name: &str| -> Option<Quantity> {
        let usage = metrics.get("usage").or_else(|| metrics.pointer("/containers/0/usage"))?;
        usage.get(name)?.as_str()?.parse().ok()
    };
    let told = |text: Option<String>| Value::from(text.unwrap_or_else(|| columns::NONE.to_owned()));
    vec![
        object::text(metrics, "name").into(),
        told(usage("cpu").map(|cpu| format!("{}m", cpu.milli()))),
        told(usage("memory").map(|memory| format!("{}Mi", memory.value() / (1 << 20)))),
        told(metrics.get("window").and_then(Value::as_str).map(str::to_owned)),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn used() -> Use {
        Use {
            at: Timestamp::from_second(1_767_225_605).unwrap(),
            window: Duration::from_millis(1003),
            nanocores: 250_000_001,
            memory: 40 * 1024 * 1024 + 4096,
        }
    }

    #[test]
    fn metrics_carry_what_kubectl_reads() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n", "labels": {"t": "x"}, "uid": "u", "resourceVersion": "3"}});
        let now = Timestamp::from_second(1_767_225_607).unwrap();
        let metrics = of_pod(&pod, &used(), now);
        assert_eq!(
            metrics,
            json!({
                "apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics",
                "metadata": {"name": "a", "namespace": "n", "labels": {"t": "x"}, "creationTimestamp": "2026-01-01T00:00:07Z"},
                "timestamp": "2026-01-01T00:00:05Z", "window": "1003ms",
                "containers": [{"name": "main", "usage": {"cpu": "250000001n", "memory": "40964Ki"}}],
            })
        );
        assert_eq!(cells(&metrics), ["a", "251m", "40Mi", "1003ms"], "rounded as kubectl rounds");
        let node = of_node(&json!({"metadata": {"name": "h"}}), &used(), now);
        assert_eq!((&node["kind"], &node["usage"]["cpu"]), (&json!("NodeMetrics"), &json!("250000001n")));
        assert_eq!(node["metadata"].get("namespace"), None);
        assert_eq!(cells(&node), ["h", "251m", "40Mi", "1003ms"]);
        assert_eq!(cells(&json!({})).len(), COLUMNS.len());
    }

    #[test]
    fn who_rests_is_told_so() {
        let pod = |state: Value| json!({"status": {"containerStatuses": [{"state": state}]}});
        let told = |state: Value| why_not(&pod(state));
        assert!(told(json!({"waiting": {"reason": "Asleep"}})).contains("asleep"));
        assert!(told(json!({"terminated": {"reason": "Stopped"}})).contains("(Stopped)"));
        assert_eq!(why_not(&json!({})), "its container does not run");
    }
}
