//! Images that have come to a host: whoever waits for one of them is told. [`super::listing`] calls this when the daemon
//! speaks of images.
//!
//! An event names an image in four different ways, or not at all (a load tells the id only), so it counts for no more
//! than *look whether it is there now*, and only images that somebody waits for are looked up. An image that is there
//! is news: it ends the back-off. It cannot make a failing pull spin: whoever waits for the registry is left alone, and
//! an image that is there is not pulled.

use std::collections::BTreeMap;

use super::super::{Context, InstanceQueue};
use crate::docker::engine::Engine;
use crate::model::{ConditionStatus, ImagePullPolicy, Instance, Key, Power, Resource, condition};

/// Most images looked up at one time; those who wait for more have their own times to look.
const MOST: usize = 64;

/// Makes those ready whose image is there now.
pub async fn arrived(ctx: &Context, queue: &InstanceQueue, host: &str, engine: &dyn Engine) {
    let instances = ctx.cache.on_node(host);
    for (image, keys) in waiting(instances.iter().map(|i| &**i)) {
        match engine.image(image).await {
            Ok(Some(_)) => keys.into_iter().for_each(|key| queue.add_now(key)),
            Ok(None) => {}
            Err(e) => {
                // A daemon that does not answer now is not asked for the rest; everyone looks again by himself.
                tracing::debug!(host, error = %e, "what came was not looked up");
                return;
            }
        }
    }
}

/// Images, and who waits for each to come to the host.
fn waiting<'a>(instances: impl Iterator<Item = &'a Instance>) -> BTreeMap<&'a str, Vec<Key>> {
    let mut images: BTreeMap<&str, Vec<Key>> = BTreeMap::new();
    for instance in instances.filter(|i| waits(i)) {
        let image = instance.spec.image.as_str();
        if images.len() < MOST || images.contains_key(image) {
            images.entry(image).or_default().push(instance.key());
        }
    }
    images
}

/// Whether nothing but its image on the host keeps it from what it should be. With the policy `Always` it is the
/// registry that it waits for.
fn waits(instance: &Instance) -> bool {
    let without = |type_: &str| {
        condition(&instance.status.conditions, type_).is_some_and(|c| {
            c.status == ConditionStatus::False && matches!(c.reason.as_str(), "ImageMissing" | "ImagePullFailed")
        })
    };
    instance.metadata.deletion_timestamp.is_none()
        && instance.spec.power != Power::Stopped
        && instance.spec.pull_policy() != ImagePullPolicy::Always
        && (without("Ready") || without("UpToDate"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(name: &str, image: &str, policy: &str, type_: &str, reason: &str) -> Instance {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"image": image, "imagePullPolicy": policy},
            "status": {"conditions": [
                {"type": type_, "status": "False", "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn only_who_waits_for_an_image_on_the_host_is_told() {
        let mut gone = instance("gone", "a:1", "Never", "Ready", "ImageMissing");
        gone.metadata.deletion_timestamp = Some(jiff::Timestamp::UNIX_EPOCH.into());
        let mut stopped = instance("stopped", "a:1", "Never", "Ready", "ImageMissing");
        stopped.spec.power = Power::Stopped;
        let all = [
            instance("never", "a:1", "Never", "Ready", "ImageMissing"),
            instance("upgrade", "a:1", "IfNotPresent", "UpToDate", "ImagePullFailed"),
            instance("other", "b:1", "IfNotPresent", "Ready", "ImagePullFailed"),
            instance("registry", "a:1", "Always", "Ready", "ImagePullFailed"),
            instance("crashing", "a:1", "Never", "Ready", "CrashLoopBackOff"),
            gone,
            stopped,
        ];
        let keys = |names: &[&str]| names.iter().map(|n| Key::instance("default", *n)).collect::<Vec<_>>();
        let expected = BTreeMap::from([("a:1", keys(&["never", "upgrade"])), ("b:1", keys(&["other"]))]);
        assert_eq!(waiting(all.iter()), expected);
    }

    #[test]
    fn a_crowd_does_not_become_a_crowd_of_lookups() {
        let one = |n: usize| instance(&format!("i{n}"), &format!("a:{}", n % 100), "Never", "Ready", "ImageMissing");
        let all: Vec<Instance> = (0..5000).map(one).collect();
        let waiting = waiting(all.iter());
        assert_eq!((waiting.len(), waiting["a:0"].len()), (MOST, 50));
    }
}
