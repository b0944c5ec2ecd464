//! What `/metrics` shows: the counters of the rooms, and the state of instances, hosts and this process at the moment of the
//! scrape. Nothing is told for each instance: a fleet of thousands would be thousands of series.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::api::Exposition;
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::controllers::InstanceQueue;
use crate::controllers::probes::Health;
use crate::model::{Capacity, DockerHost, Phase, Quantity, is_true};
use crate::runtime::RunnerStats;
use crate::store::SharedStore;
use crate::{acme, api, proxy};

/// Whose state is shown.
pub struct Seen {
    pub cache: Arc<Cache>,
    pub store: SharedStore,
    pub queue: InstanceQueue,
    pub reconciles: Arc<RunnerStats>,
}

pub struct Metrics(Registry);

impl Metrics {
    pub fn new(
        seen: Seen,
        clock: &SharedClock,
        api: &api::Stats,
        proxy: &proxy::Stats,
        acme: &acme::Stats,
        probes: &Health,
    ) -> Metrics {
        let mut all = Registry::default();
        // By the names that every client library has for its process.
        all.register_collector(Box::new(Process { begun: clock.now().as_second() }));
        let ours = all.sub_registry_with_prefix("portreeve");
        ours.register("build", "The program that answers", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        api.register(ours);
        proxy.register(ours);
        acme.register(ours);
        probes.register(ours);
        ours.register_collector(Box::new(seen));
        Metrics(all)
    }
}

impl Exposition for Metrics {
    fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").finish_non_exhaustive()
    }
}

/// One gauge for each set of labels.
fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, f64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

/// As a sample has it; beyond 2^53, which no host has of anything, the last digits are lost.
#[expect(clippy::cast_precision_loss, reason = "said above")]
fn sample(value: i64) -> f64 {
    value as f64
}

fn count(n: usize) -> f64 {
    sample(i64::try_from(n).unwrap_or(i64::MAX))
}

fn bytes(quantity: &Quantity) -> f64 {
    sample(quantity.value())
}

fn cores(quantity: &Quantity) -> f64 {
    sample(quantity.milli()) / 1000.0
}

impl Collector for Seen {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let instances = self.cache.instances();
        let of_phase = |phase: Phase| {
            let of_it = instances.iter().filter(|i| i.status.phase == phase);
            ([("phase", format!("{phase:?}"))], count(of_it.count()))
        };
        gauges(encoder, "instances", "Instances by their phase", Phase::ALL.map(of_phase))?;
        hosts(encoder, &self.cache.hosts())?;

        let (due, later) = self.queue.len();
        let states = [([("state", "due")], count(due)), ([("state", "later")], count(later))];
        gauges(
            encoder,
            "queue_keys",
            "Keys that are being reconciled or are due, and those that wait for a time",
            states,
        )?;
        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        counter(encoder, "reconciles", "Reconciles begun", load(&self.reconciles.reconciles))?;
        counter(encoder, "reconcile_failures", "Reconciles that failed", load(&self.reconciles.failures))?;
        counter(encoder, "reconcile_panics", "Reconciles that panicked", load(&self.reconciles.panics))?;
        let revision = i64::try_from(self.store.revision().0).unwrap_or(i64::MAX);
        gauge(encoder, "store_revision", "The newest revision of the store", sample(revision))?;
        let shown = i64::try_from(self.cache.revision().0).unwrap_or(i64::MAX);
        gauge(encoder, "cache_revision", "The revision that the controllers and the proxy see", sample(shown))
    }
}

fn hosts(encoder: &mut DescriptorEncoder<'_>, hosts: &[Arc<DockerHost>]) -> fmt::Result {
    let each = |value: &dyn Fn(&DockerHost) -> Option<f64>| -> Vec<_> {
        hosts.iter().filter_map(|host| Some(([("host", host.metadata.name.clone())], value(host)?))).collect()
    };
    let flag = |value: bool| if value { 1.0 } else { 0.0 };
    let ready = each(&|h| Some(flag(is_true(&h.status.conditions, "Ready"))));
    gauges(encoder, "host_ready", "1 when the daemon of a DockerHost answers, else 0", ready)?;
    let cordoned = each(&|h| Some(flag(h.spec.unschedulable)));
    gauges(encoder, "host_unschedulable", "1 when no new instances come to a DockerHost, else 0", cordoned)?;
    let ends = each(&|h| h.status.certificate_expires.as_ref().map(|t| sample(t.timestamp().as_second())));
    let help = "When the first of the certificates between Portreeve and a DockerHost ends, in seconds since 1970";
    gauges(encoder, "host_certificate_expiry_timestamp_seconds", help, ends)?;

    let capacity = |pick: fn(&Capacity) -> Option<f64>| each(&move |h| pick(&h.status.capacity));
    let most = capacity(|c| c.memory.as_ref().map(bytes));
    gauges(encoder, "host_memory_capacity_bytes", "Memory that instances may reserve on a DockerHost", most)?;
    let most = capacity(|c| c.cpu.as_ref().map(cores));
    gauges(encoder, "host_cpu_capacity_cores", "CPU that instances may reserve on a DockerHost", most)?;
    let most = capacity(|c| c.instances.map(sample));
    gauges(encoder, "host_instances_capacity", "Instances that may be bound to a DockerHost", most)?;
    let memory = each(&|h| h.status.allocated.as_ref().map(|a| bytes(&a.memory)));
    gauges(encoder, "host_memory_allocated_bytes", "Memory that instances reserve on a DockerHost", memory)?;
    let cpu = each(&|h| h.status.allocated.as_ref().map(|a| cores(&a.cpu)));
    gauges(encoder, "host_cpu_allocated_cores", "CPU that instances reserve on a DockerHost", cpu)?;
    let bound = each(&|h| h.status.allocated.as_ref().map(|a| sample(a.instances)));
    gauges(encoder, "host_instances_bound", "Instances bound to a DockerHost, sleepers too", bound)
}

/// This process, from `/proc`; what cannot be read is not told.
#[derive(Debug)]
struct Process {
    /// Seconds since 1970.
    begun: i64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        gauge(encoder, "process_start_time_seconds", "When the process began, since 1970", sample(self.begun))?;
        if let Some(bytes) = resident_now() {
            gauge(encoder, "process_resident_memory_bytes", "Resident memory", sample(bytes))?;
        }
        if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds) {
            let mut metric = encoder.encode_descriptor(
                "process_cpu_seconds",
                "CPU time, in user and system mode",
                None,
                MetricType::Counter,
            )?;
            metric.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            gauge(encoder, "process_open_fds", "Open file descriptors", count(open.count()))?;
        }
        Ok(())
    }
}

/// Bytes of this process.
pub(super) fn resident_now() -> Option<i64> {
    std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident)
}

/// `VmRSS:     1234 kB` of proc_pid_status(5).
fn resident(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<i64>().ok().map(|kib| kib << 10)
}

/// utime and stime of proc_pid_stat(5), in hundredths of a second: `USER_HZ`, which is 100 on all that Linux runs on.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is a name in parentheses, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user = fields.next()?.parse::<i64>().ok()?;
    let system = fields.next()?.parse::<i64>().ok()?;
    Some(sample(user + system) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read_as_the_kernel_tells_it() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(resident("Name:\tx\n"), None);
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a"), None);
        assert!(resident(&std::fs::read_to_string("/proc/self/status").unwrap()).is_some_and(|bytes| bytes > 1 << 20));
        assert!(cpu_seconds(&std::fs::read_to_string("/proc/self/stat").unwrap()).is_some());
    }
}
