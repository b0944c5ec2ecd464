//! GPUs between our words and the Engine API's. A daemon tells of them by what its configuration calls generic resources
//! (`node-generic-resources`, which is Swarm's word and needs no Swarm) or, from Docker 28.2 on, by the devices of CDI that it found.

use bollard::models::{DeviceRequest, SystemInfo};

/// Of CDI's names (`vendor.com/class=device`, Container Device Interface specification 0.6) and of no other.
const CDI_CLASS: &str = "/gpu=";
/// More are not told of.
const MOST: usize = 64;

/// The devices that a daemon tells of, by name.
pub fn told(info: &SystemInfo) -> Vec<String> {
    let is_gpu = |kind: Option<&str>| kind.is_some_and(|kind| kind.to_ascii_lowercase().contains("gpu"));
    let mut found: Vec<String> = vec![];
    for resource in info.generic_resources.iter().flatten() {
        if let Some(named) = resource.named_resource_spec.as_ref().filter(|r| is_gpu(r.kind.as_deref())) {
            found.extend(named.value.clone());
        }
        if let Some(count) = resource.discrete_resource_spec.as_ref().filter(|r| is_gpu(r.kind.as_deref())) {
            let count = usize::try_from(count.value.unwrap_or_default()).unwrap_or_default();
            found.extend((0..count.min(MOST)).map(|n| n.to_string()));
        }
    }
    if found.is_empty() {
        let devices = info.discovered_devices.iter().flatten().filter_map(|device| device.id.clone());
        // "all" is every device once more.
        found.extend(devices.filter(|id| id.contains(CDI_CLASS) && !id.ends_with("=all")));
    }
    found.sort();
    found.dedup();
    found.truncate(MOST);
    found
}

/// What asks for just these devices; `None` for none.
pub fn request(devices: &[String]) -> Option<Vec<DeviceRequest>> {
    if devices.is_empty() {
        return None;
    }
    let cdi = devices.iter().all(|id| id.contains(CDI_CLASS));
    Some(vec![DeviceRequest {
        driver: cdi.then(|| "cdi".to_owned()),
        device_ids: Some(devices.to_vec()),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    }])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told_by(info: serde_json::Value) -> Vec<String> {
        told(&serde_json::from_value(info).unwrap())
    }

    #[test]
    fn gpus_are_told_by_configuration_or_found_by_cdi() {
        assert_eq!(told_by(json!({})), [""; 0]);
        assert_eq!(
            told_by(json!({"GenericResources": [
                {"NamedResourceSpec": {"Kind": "NVIDIA-GPU", "Value": "GPU-b"}},
                {"NamedResourceSpec": {"Kind": "NVIDIA-GPU", "Value": "GPU-a"}},
                {"NamedResourceSpec": {"Kind": "SSD", "Value": "nvme0"}},
                {"DiscreteResourceSpec": {"Kind": "licences", "Value": 3}},
            ]})),
            ["GPU-a", "GPU-b"]
        );
        assert_eq!(
            told_by(json!({"GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}]})),
            ["0", "1"]
        );
        let silly =
            told_by(json!({"GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1i64 << 40}}]}));
        assert_eq!(silly.len(), MOST);
        assert_eq!(
            told_by(json!({"DiscoveredDevices": [
                {"Source": "cdi", "ID": "nvidia.com/gpu=0"}, {"Source": "cdi", "ID": "nvidia.com/gpu=all"},
                {"Source": "cdi", "ID": "vendor.com/nic=0"},
            ]})),
            ["nvidia.com/gpu=0"]
        );
    }

    #[test]
    fn a_request_names_its_devices_and_leaves_the_driver_to_the_daemon_but_for_cdi() {
        let asked =
            |ids: &[&str]| serde_json::to_value(request(&ids.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>()));
        assert_eq!(asked(&[]).unwrap(), json!(null));
        assert_eq!(asked(&["0", "2"]).unwrap(), json!([{"DeviceIDs": ["0", "2"], "Capabilities": [["gpu"]]}]));
        assert_eq!(
            asked(&["nvidia.com/gpu=1"]).unwrap(),
            json!([{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=1"], "Capabilities": [["gpu"]]}])
        );
    }
}
