//! Networks and volumes.

use std::collections::BTreeMap;

use http::StatusCode;
use portreeve::docker::engine::NetworkSpec;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::world::World;
use super::answer::{Refused, Reply, empty, json as answer_json};
use super::{Asked, Host, describe};

const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";

/// By its name, or by its whole id.
fn network_name(world: &World, text: &str) -> Result<String, Refused> {
    if world.networks.contains_key(text) {
        return Ok(text.to_owned());
    }
    let by_id = world.networks.iter().find(|(_, n)| n.id == text).map(|(name, _)| name.clone());
    by_id.ok_or_else(|| Refused::not_found(format!("network {text} not found")))
}

pub async fn list_networks(host: &Host, asked: &Asked) -> Reply {
    host.pace.quick(asked.call).await;
    let filters = asked.query.filters()?;
    let world = host.engine.world();
    let ours = world.networks.iter().filter(|(name, n)| filters.contains("name", name) && filters.labels(&n.labels));
    let mut told: Vec<Value> = ours.map(|(name, n)| describe::network(name, n, None)).collect();
    let builtin = describe::builtin_networks().into_iter();
    told.extend(builtin.filter(|n| {
        filters.contains("name", n["Name"].as_str().unwrap_or_default()) && filters.labels(&BTreeMap::new())
    }));
    Ok(answer_json(StatusCode::OK, &told))
}

pub async fn inspect_network(host: &Host, asked: &Asked) -> Reply {
    host.pace.quick(asked.call).await;
    let world = host.engine.world();
    let mut builtin = describe::builtin_networks().into_iter();
    if let Some(told) = builtin.find(|n| n["Name"] == *asked.object || n["Id"] == *asked.object) {
        return Ok(answer_json(StatusCode::OK, &told));
    }
    let name = network_name(&world, &asked.object)?;
    Ok(answer_json(StatusCode::OK, &describe::network(&name, &world.networks[&name], Some(&world))))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct GivenNetwork {
    name: String,
    check_duplicate: bool,
    labels: Option<BTreeMap<String, String>>,
    options: Option<BTreeMap<String, String>>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    config: Option<Vec<Pool>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Pool {
    subnet: String,
}

pub async fn create_network(host: &Host, asked: &Asked) -> Reply {
    let given: GivenNetwork = serde_json::from_slice(&asked.body).map_err(|e| Refused::bad(e.to_string()))?;
    if given.name.is_empty() {
        return Err(Refused::bad("Network name cannot be empty"));
    }
    let pool = given.ipam.and_then(|ipam| ipam.config).into_iter().flatten().next();
    let subnet = pool.map(|pool| pool.subnet.parse()).transpose();
    let subnet = subnet.map_err(|e| Refused::bad(format!("invalid subnet: {e}")))?;
    let options = given.options.unwrap_or_default();
    let (name, closed) = (given.name.clone(), options.get(MASQUERADE).is_some_and(|m| m == "false"));
    let spec = NetworkSpec { name: name.clone(), labels: given.labels.unwrap_or_default(), subnet, closed };
    let taken = |world: &World| {
        (given.check_duplicate && world.networks.contains_key(&name)).then(|| {
            let message = format!("network with name {name} already exists");
            Refused::new(StatusCode::CONFLICT, message)
        })
    };
    if let Some(refused) = taken(&host.engine.world()) {
        return Err(refused);
    }
    host.pace.work(asked.call).await;
    host.engine.step(|world| {
        if let Some(refused) = taken(world) {
            return Err(refused);
        }
        world.create_network(spec).map_err(|refusal| Refused::of(asked.call, refusal))?;
        let id = world.networks.get(&name).map(|n| n.id.clone());
        Ok(answer_json(StatusCode::CREATED, &json!({"Id": id, "Warning": ""})))
    })
}

pub async fn remove_network(host: &Host, asked: &Asked) -> Reply {
    let name = network_name(&host.engine.world(), &asked.object)?;
    host.pace.work(asked.call).await;
    let removed = host.engine.step(|world| {
        network_name(world, &name)?;
        world.remove_network(&name).map_err(|refusal| Refused::of(asked.call, refusal))
    });
    removed.map(|()| empty(StatusCode::NO_CONTENT))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Connection {
    container: String,
}

pub fn connect(host: &Host, asked: &Asked, connect: bool) -> Reply {
    let given: Connection = serde_json::from_slice(&asked.body).map_err(|e| Refused::bad(e.to_string()))?;
    let name = network_name(&host.engine.world(), &asked.object)?;
    let id = host.resolve(&given.container)?;
    let done = host.engine.step(|world| {
        let network = world.networks.get(&name).map(|n| n.id.clone());
        let attached = |c: &super::super::world::SimContainer| c.alive() && c.endpoints.get(&name) == network.as_ref();
        if connect && world.containers.get(&id).is_some_and(attached) {
            let message = format!("endpoint with name {} already exists in network {name}", world.containers[&id].name);
            return Err(Refused::new(StatusCode::FORBIDDEN, message));
        }
        let done = if connect { world.connect(&name, &id) } else { world.disconnect(&name, &id) };
        done.map_err(|refusal| Refused::of(asked.call, refusal))
    });
    done.map(|()| empty(StatusCode::OK))
}

pub fn list_volumes(host: &Host) -> http::Response<super::answer::Body> {
    let world = host.engine.world();
    let told: Vec<_> = world.volumes.iter().map(|(name, labels)| describe::volume(name, labels)).collect();
    answer_json(StatusCode::OK, &json!({"Volumes": told, "Warnings": null}))
}

fn no_volume(name: &str) -> Refused {
    Refused::not_found(format!("get {name}: no such volume"))
}

pub async fn inspect_volume(host: &Host, asked: &Asked) -> Reply {
    host.pace.quick(asked.call).await;
    let world = host.engine.world();
    let labels = world.volumes.get(&asked.object).ok_or_else(|| no_volume(&asked.object))?;
    Ok(answer_json(StatusCode::OK, &describe::volume(&asked.object, labels)))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct GivenVolume {
    name: String,
    labels: Option<BTreeMap<String, String>>,
}

/// One that is there is answered as it is.
pub async fn create_volume(host: &Host, asked: &Asked) -> Reply {
    let given: GivenVolume = serde_json::from_slice(&asked.body).map_err(|e| Refused::bad(e.to_string()))?;
    if given.name.is_empty() {
        return Err(Refused::bad("a volume without a name is not simulated"));
    }
    host.pace.quick(asked.call).await;
    host.engine.step(|world| {
        let made = world.create_volume(&given.name, given.labels.unwrap_or_default());
        made.map_err(|refusal| Refused::of(asked.call, refusal))?;
        let labels = world.volumes.get(&given.name).cloned().unwrap_or_default();
        Ok(answer_json(StatusCode::CREATED, &describe::volume(&given.name, &labels)))
    })
}

pub async fn remove_volume(host: &Host, asked: &Asked) -> Reply {
    host.pace.quick(asked.call).await;
    host.engine.step(|world| {
        if !world.volumes.contains_key(&asked.object) {
            return Err(no_volume(&asked.object));
        }
        world.remove_volume(&asked.object).map_err(|refusal| Refused::of(asked.call, refusal))?;
        Ok(empty(StatusCode::NO_CONTENT))
    })
}
