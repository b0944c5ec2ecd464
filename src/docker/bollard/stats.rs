//! From a daemon's reading of a container's control group to ours: pure but for fetching the body.
//!
//! Read past the client library: its types want every counter to be there and in range, and what a kernel writes into
//! `memory.stat` is not ours to foresee. Only four numbers are looked at.

use std::collections::HashMap;
use std::io;

use ::bollard::errors::Error;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::docker::engine::ContainerStats;

/// No reading is longer: some 5 KiB, and a line for each network and block device.
const MAX: usize = 1 << 20;

/// The body of an answer.
pub async fn whole(body: Incoming) -> Result<Bytes, Error> {
    let body = Limited::new(body, MAX).collect().await;
    Ok(body.map_err(|e| io::Error::other(e.to_string()))?.to_bytes())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    read: String,
    cpu_stats: Cpu,
    memory_stats: Memory,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cpu {
    cpu_usage: CpuUsage,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CpuUsage {
    /// Nanoseconds, of both versions of control groups.
    total_usage: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Memory {
    usage: Option<u64>,
    stats: Option<HashMap<String, Value>>,
}

/// Nothing but the time of a reading.
#[derive(Deserialize)]
struct When<'a> {
    #[serde(default)]
    read: &'a str,
}

/// Whether this is no reading of a container that runs: its time is the year 1, as Docker 20.10 has it, or is left out.
pub fn is_of_none(text: &[u8]) -> bool {
    let told = serde_json::from_slice::<When>(text);
    told.map_or(true, |told| told.read.is_empty() || told.read.starts_with("0001-"))
}

/// One reading; `None` of a container that does not run, of which a daemon tells nothing but its name.
pub fn parse(text: &[u8]) -> Result<Option<ContainerStats>, String> {
    let told: Told = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let (Some(cpu_nanos), Some(usage)) = (told.cpu_stats.cpu_usage.total_usage, told.memory_stats.usage) else {
        return Ok(None);
    };
    let read_at: Timestamp = told.read.parse().map_err(|e| format!("the time of the reading: {e}"))?;
    // The year 1: the daemon has not read anything.
    if read_at.as_second() <= 0 {
        return Ok(None);
    }
    let stats = told.memory_stats.stats.unwrap_or_default();
    Ok(Some(ContainerStats { read_at, cpu_nanos, memory: working_set(usage, &stats) }))
}

/// As the kubelet and `docker stats` have it: the file cache that was not used for a while is given back under pressure,
/// so it does not count. Version 1 of control groups has it for the whole tree under a name of its own.
fn working_set(usage: u64, stats: &HashMap<String, Value>) -> u64 {
    let inactive = ["total_inactive_file", "inactive_file"].iter().find_map(|name| stats.get(*name)?.as_u64());
    // The two are not read at the same moment.
    usage.saturating_sub(inactive.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Docker 20.10 on control groups of version 1, shortened where nothing is read.
    const V1: &str = r#"{
        "read": "2026-03-01T10:00:05.123456789Z", "preread": "0001-01-01T00:00:00Z",
        "pids_stats": {"current": 3, "limit": 512},
        "blkio_stats": {"io_service_bytes_recursive": [{"major": 8, "minor": 0, "op": "Read", "value": 4096}]},
        "num_procs": 0, "storage_stats": {},
        "cpu_stats": {
            "cpu_usage": {"total_usage": 1836012345, "percpu_usage": [936012345, 900000000],
                          "usage_in_kernelmode": 230000000, "usage_in_usermode": 1540000000},
            "system_cpu_usage": 90218180000000, "online_cpus": 2,
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}
        },
        "precpu_stats": {"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
                         "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}},
        "memory_stats": {
            "usage": 52428800, "max_usage": 60000000, "limit": 268435456,
            "stats": {"active_anon": 8192, "inactive_file": 1048576, "cache": 12582912,
                      "hierarchical_memory_limit": 268435456, "hierarchical_memsw_limit": 9223372036854771712,
                      "total_cache": 12582912, "total_inactive_file": 10485760}
        },
        "name": "/pr.default.alice", "id": "0123", "networks": {"eth0": {"rx_bytes": 656}}
    }"#;

    /// Docker 27 on control groups of version 2.
    const V2: &str = r#"{
        "name": "/pr.default.alice", "id": "0123", "read": "2026-03-01T10:00:05.5Z", "preread": "0001-01-01T00:00:00Z",
        "pids_stats": {"current": 3, "limit": 512}, "blkio_stats": {"io_service_bytes_recursive": null},
        "num_procs": 0, "storage_stats": {},
        "cpu_stats": {"cpu_usage": {"total_usage": 26123000, "usage_in_kernelmode": 7837000, "usage_in_usermode": 18286000},
                      "system_cpu_usage": 90218180000000, "online_cpus": 2, "throttling_data": {}},
        "precpu_stats": {"cpu_usage": {"total_usage": 0}, "throttling_data": {}},
        "memory_stats": {"usage": 6324224, "limit": 268435456,
                         "stats": {"active_file": 4096, "anon": 1052672, "file": 4247552, "inactive_file": 4243456}},
        "networks": {"eth0": {"rx_bytes": 656}}
    }"#;

    fn read(text: &str) -> ContainerStats {
        parse(text.as_bytes()).unwrap().expect("a reading")
    }

    #[test]
    fn both_versions_of_control_groups_are_read() {
        let first = read(V1);
        assert_eq!(first.read_at, "2026-03-01T10:00:05.123456789Z".parse().unwrap());
        assert_eq!((first.cpu_nanos, first.memory), (1_836_012_345, 52_428_800 - 10_485_760), "of the whole tree");
        let second = read(V2);
        assert_eq!((second.cpu_nanos, second.memory), (26_123_000, 6_324_224 - 4_243_456));
    }

    #[test]
    fn cache_beyond_what_is_held_is_no_negative_memory() {
        assert_eq!(read(&V2.replace("\"inactive_file\": 4243456", "\"inactive_file\": 9999999999")).memory, 0);
        assert_eq!(read(&V2.replace("inactive_file", "unknown")).memory, 6_324_224, "without the count, all of it");
    }

    #[test]
    fn what_does_not_run_uses_nothing() {
        // Docker 20.10 of a container that is stopped.
        let stopped = r#"{"read":"0001-01-01T00:00:00Z","preread":"0001-01-01T00:00:00Z","pids_stats":{},
            "blkio_stats":{"io_service_bytes_recursive":null},"num_procs":0,"storage_stats":{},
            "cpu_stats":{"cpu_usage":{"total_usage":0,"usage_in_kernelmode":0,"usage_in_usermode":0},
            "throttling_data":{"periods":0,"throttled_periods":0,"throttled_time":0}},
            "precpu_stats":{"cpu_usage":{"total_usage":0}},"memory_stats":{},"name":"/pr.default.bob","id":"4567"}"#;
        // Docker 29, which leaves out more.
        let newer = r#"{"id":"4567","name":"/pr.default.bob","os_type":"linux","cpu_stats":{"cpu_usage":{"total_usage":0}},
            "memory_stats":{}}"#;
        for text in [stopped, newer, "{}", &V2.replace("2026-03-01T10:00:05.5Z", "0001-01-01T00:00:00Z")] {
            assert_eq!(parse(text.as_bytes()), Ok(None), "{text}");
            assert!(is_of_none(text.as_bytes()), "{text}");
        }
        for text in [V1, V2] {
            assert!(!is_of_none(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_no_reading_is_told() {
        for bad in ["", "1", "{\"read\": 1}", &V2.replace("2026-03-01T10:00:05.5Z", "yesterday")] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let odd = V2.replace("\"anon\": 1052672", "\"anon\": -1, \"more\": 1e300");
        assert_eq!(read(&odd), read(V2), "counters that nobody looks at may be anything");
    }
}
