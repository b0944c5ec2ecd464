//! Which of the API's calls a request is.

use http::{Method, StatusCode};

use super::API;
use super::answer::Refused;
use super::query::decoded;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Ping,
    Version,
    Info,
    Events,
    ListContainers,
    CreateContainer,
    InspectContainer,
    Stats,
    Logs,
    Attach,
    Start,
    Stop,
    Restart,
    Kill,
    Pause,
    Unpause,
    Rename,
    Update,
    RemoveContainer,
    ExecCreate,
    ExecStart,
    ExecInspect,
    ExecResize,
    ListImages,
    InspectImage,
    Pull,
    RemoveImage,
    ListNetworks,
    InspectNetwork,
    CreateNetwork,
    RemoveNetwork,
    Connect,
    Disconnect,
    ListVolumes,
    InspectVolume,
    CreateVolume,
    RemoveVolume,
}

/// Each with its name, method and path; `{}` is one segment or, of images, several. The first that fits counts.
const ROUTES: [(Call, &str); 38] = [
    (Call::Ping, "GET /_ping"),
    (Call::Ping, "HEAD /_ping"),
    (Call::Version, "GET /version"),
    (Call::Info, "GET /info"),
    (Call::Events, "GET /events"),
    (Call::ListContainers, "GET /containers/json"),
    (Call::CreateContainer, "POST /containers/create"),
    (Call::InspectContainer, "GET /containers/{}/json"),
    (Call::Stats, "GET /containers/{}/stats"),
    (Call::Logs, "GET /containers/{}/logs"),
    (Call::Attach, "POST /containers/{}/attach"),
    (Call::Start, "POST /containers/{}/start"),
    (Call::Stop, "POST /containers/{}/stop"),
    (Call::Restart, "POST /containers/{}/restart"),
    (Call::Kill, "POST /containers/{}/kill"),
    (Call::Pause, "POST /containers/{}/pause"),
    (Call::Unpause, "POST /containers/{}/unpause"),
    (Call::Rename, "POST /containers/{}/rename"),
    (Call::Update, "POST /containers/{}/update"),
    (Call::RemoveContainer, "DELETE /containers/{}"),
    (Call::ExecCreate, "POST /containers/{}/exec"),
    (Call::ExecStart, "POST /exec/{}/start"),
    (Call::ExecInspect, "GET /exec/{}/json"),
    (Call::ExecResize, "POST /exec/{}/resize"),
    (Call::ListImages, "GET /images/json"),
    (Call::InspectImage, "GET /images/{}/json"),
    (Call::Pull, "POST /images/create"),
    (Call::RemoveImage, "DELETE /images/{}"),
    (Call::ListNetworks, "GET /networks"),
    (Call::CreateNetwork, "POST /networks/create"),
    (Call::InspectNetwork, "GET /networks/{}"),
    (Call::RemoveNetwork, "DELETE /networks/{}"),
    (Call::Connect, "POST /networks/{}/connect"),
    (Call::Disconnect, "POST /networks/{}/disconnect"),
    (Call::ListVolumes, "GET /volumes"),
    (Call::CreateVolume, "POST /volumes/create"),
    (Call::InspectVolume, "GET /volumes/{}"),
    (Call::RemoveVolume, "DELETE /volumes/{}"),
];

impl Call {
    /// Method and path, as it is counted and as a fault names it.
    pub fn name(self) -> &'static str {
        ROUTES.iter().find(|(call, _)| *call == self).map_or("", |(_, name)| name)
    }

    pub fn named(name: &str) -> Option<Call> {
        ROUTES.iter().find(|(_, n)| *n == name).map(|(call, _)| *call)
    }
}

/// The call, and what its path names.
pub fn route(method: &Method, path: &str) -> Result<(Call, String), Refused> {
    let path = without_version(path)?;
    for (call, name) in ROUTES {
        let Some((wanted, pattern)) = name.split_once(' ') else { continue };
        if wanted != method.as_str() {
            continue;
        }
        match pattern.split_once("{}") {
            None if path == pattern => return Ok((call, String::new())),
            None => {}
            Some((before, after)) => {
                let object = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).unwrap_or_default();
                if !object.is_empty() && (!object.contains('/') || before == "/images/") {
                    return Ok((call, decoded(object)));
                }
            }
        }
    }
    Err(Refused::new(StatusCode::NOT_FOUND, "page not found"))
}

/// Without `/v1.41`; a version that it does not speak is refused.
fn without_version(path: &str) -> Result<&str, Refused> {
    let Some((version, _)) = path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) else { return Ok(path) };
    let Some(minor) = version.strip_prefix("1.").and_then(|minor| minor.parse::<u16>().ok()) else { return Ok(path) };
    if minor > API {
        return Err(Refused::bad(format!(
            "client version 1.{minor} is too new. Maximum supported API version is 1.{API}"
        )));
    }
    if minor < 12 {
        return Err(Refused::bad(format!(
            "client version 1.{minor} is too old. Minimum supported API version is 1.12, please upgrade your client to a newer version"
        )));
    }
    Ok(&path["/v".len() + version.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_calls_with_and_without_a_version() {
        for (method, path, call, object) in [
            (Method::GET, "/_ping", Call::Ping, ""),
            (Method::GET, "/v1.41/containers/json", Call::ListContainers, ""),
            (Method::GET, "/v1.41/containers/pr.a.b/json", Call::InspectContainer, "pr.a.b"),
            (Method::DELETE, "/v1.24/containers/0af9", Call::RemoveContainer, "0af9"),
            (Method::GET, "/images/localhost:5000/team/app:1/json", Call::InspectImage, "localhost:5000/team/app:1"),
            (Method::GET, "/images/json", Call::ListImages, ""),
            (Method::POST, "/networks/create", Call::CreateNetwork, ""),
            (Method::GET, "/networks/a%2Eb", Call::InspectNetwork, "a.b"),
        ] {
            let Ok(found) = route(&method, path) else { panic!("{method} {path}") };
            assert_eq!(found, (call, object.to_owned()), "{method} {path}");
        }
        for (method, path, status) in [
            (Method::GET, "/v1.42/info", 400),
            (Method::GET, "/v1.11/info", 400),
            (Method::GET, "/nowhere", 404),
            (Method::PUT, "/info", 404),
            (Method::GET, "/containers/a/b/json", 404),
        ] {
            let Err(refused) = route(&method, path) else { panic!("{method} {path}") };
            assert_eq!(refused.status.as_u16(), status, "{method} {path}");
        }
        assert!(ROUTES.iter().all(|(call, name)| *name == "HEAD /_ping" || Call::named(name) == Some(*call)));
    }
}
