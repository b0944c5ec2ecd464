//! Images: what is there, and what a pull brings.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use futures::stream;
use http::StatusCode;
use portreeve::docker::engine::EngineErrorKind;
use portreeve::docker::reference;
use serde_json::{Value, json};

use super::super::image::SimImage;
use super::answer::{self, Refused, Reply};
use super::{Asked, Host};

/// Between two words of a pull about how far it is.
const PROGRESS: Duration = Duration::from_millis(500);

fn described(name: &str, image: &SimImage) -> Value {
    json!({
        "Id": image.id, "RepoTags": [name], "RepoDigests": [], "Parent": "", "Comment": "",
        "Created": "2026-01-01T00:00:00Z", "Container": "", "ContainerConfig": null, "DockerVersion": "", "Author": "",
        // The signal is that of the recorded container, which has it of its image.
        "Config": {"Entrypoint": ["/app"], "Cmd": null, "Env": null, "Labels": null, "WorkingDir": "", "User": "",
                   "StopSignal": "SIGKILL"},
        "Architecture": "amd64", "Os": "linux", "Size": 1_200_000, "VirtualSize": 1_200_000,
        "GraphDriver": {"Data": {"UpperDir": "/var/lib/docker/overlay2/x/diff"}, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": [image.id]}, "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    })
}

pub fn list(host: &Host) -> http::Response<answer::Body> {
    let world = host.engine.world();
    let local = world.images.iter().filter(|(_, image)| image.local);
    let told: Vec<_> = local
        .map(|(name, image)| json!({"Id": image.id, "RepoTags": [name], "Created": 1_767_225_600, "Size": 1_200_000,
            "SharedSize": -1, "VirtualSize": 1_200_000, "Labels": null, "Containers": -1, "ParentId": "", "RepoDigests": []}))
        .collect();
    answer::json(StatusCode::OK, &told)
}

fn missing(name: &str) -> Refused {
    Refused::not_found(format!("No such image: {name}"))
}

pub async fn inspect(host: &Host, asked: &Asked) -> Reply {
    host.pace.quick(asked.call).await;
    let name = reference::image(&asked.object);
    let world = host.engine.world();
    let mut local = world.images.iter().filter(|(_, image)| image.local);
    let found = local.find(|(n, image)| **n == name || image.id == asked.object);
    found
        .map(|(name, image)| answer::json(StatusCode::OK, &described(name, image)))
        .ok_or_else(|| Refused::not_found(format!("no such image: {name}: No such image: {name}")))
}

pub fn remove(host: &Host, asked: &Asked) -> Reply {
    let name = reference::image(&asked.object);
    let mut world = host.engine.world();
    match world.images.get_mut(&name).filter(|image| image.local) {
        Some(image) => {
            image.local = false;
            Ok(answer::json(StatusCode::OK, &json!([{"Untagged": name}])))
        }
        None => Err(missing(&name)),
    }
}

/// The password in a login, as a client wrote it.
fn password(login: &str) -> Option<String> {
    let told: Value = serde_json::from_slice(&URL_SAFE.decode(login).ok()?).ok()?;
    told["password"].as_str().map(str::to_owned)
}

/// 200 as soon as the registry knows the image; what goes wrong afterwards is told in the stream.
pub async fn pull(host: &Arc<Host>, asked: &Asked) -> Reply {
    let (from, tag) = (asked.query.get("fromImage"), asked.query.get("tag"));
    let name = if tag.is_empty() { reference::image(from) } else { format!("{from}:{tag}") };
    host.pace.quick(asked.call).await;
    let (known, wanted) = {
        let world = host.engine.world();
        let image = world.images.get(&name);
        (image.is_some_and(|i| i.pullable), image.and_then(|i| i.password.clone()))
    };
    let given = asked.login.as_deref().and_then(password);
    if wanted.is_some_and(|wanted| given.as_ref() != Some(&wanted)) {
        return Err(Refused::not_found(format!(
            "pull access denied for {name}, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
        )));
    }
    if !known {
        return Err(Refused::not_found(format!("manifest for {name} not found: manifest unknown: manifest unknown")));
    }
    let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, "latest"));
    let first = json!({"status": format!("Pulling from {repository}"), "id": tag});
    let running = host.engine.inner.pulls.lock().expect("no panic while held").get(&name).cloned();
    let outcome = running.unwrap_or_else(|| host.engine.begin_pull(name.clone()));
    let steps = stream::unfold(Some((outcome, vec![first], 0u64)), move |at| {
        let name = name.clone();
        async move {
            let (mut outcome, mut said, mut fetched) = at?;
            if let Some(line) = said.pop() {
                return Some((line, Some((outcome, said, fetched))));
            }
            let waited = tokio::time::timeout(PROGRESS, outcome.wait_for(Option::is_some)).await;
            let gone = || Err((EngineErrorKind::Server, "the daemon is gone".to_owned()));
            let result = waited.map(|done| done.map_or_else(|_| gone(), |done| done.clone().expect("waited for")));
            let Ok(result) = result else {
                fetched += 1 << 20;
                let step = json!({"status": "Downloading", "id": "0af95a0bcd12",
                    "progressDetail": {"current": fetched, "total": 64 << 20}, "progress": "[=>  ]"});
                return Some((step, Some((outcome, said, fetched))));
            };
            let last = match result {
                Ok(()) => json!({"status": format!("Status: Downloaded newer image for {name}")}),
                Err((_, message)) => json!({"errorDetail": {"message": message}, "error": message}),
            };
            Some((last, None))
        }
    });
    let lines = futures::StreamExt::map(steps, |step| Ok(Bytes::from(format!("{step}\r\n"))));
    Ok(answer::stream("application/json", lines))
}
