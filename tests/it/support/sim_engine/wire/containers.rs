//! Containers: listing, describing, and what becomes of them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::StatusCode;
use portreeve::docker::engine::{ContainerStats, EngineErrorKind, EngineRead, Limits};
use portreeve::docker::reference;
use serde::Deserialize;

use super::super::describe::state;
use super::super::world::Refusal;
use super::answer::{Refused, Reply, empty, json, stream};
use super::apps::Apps;
use super::{Asked, Host, describe};

pub async fn list(host: &Host, asked: &Asked) -> Reply {
    let (filters, all) = (asked.query.filters()?, asked.query.flag("all"));
    let listed: Vec<_> = {
        let world = host.engine.world();
        let wanted = world.containers.values().filter(|c| {
            (all || c.alive())
                && filters.labels(&c.spec.labels)
                && filters.contains("name", &c.name)
                && filters.is("id", &c.id)
                && filters.is("status", state(c.state))
        });
        wanted.map(|c| describe::listed(&world, c)).collect()
    };
    host.pace.list(listed.len()).await;
    Ok(json(StatusCode::OK, &listed))
}

pub async fn inspect(host: &Host, asked: &Asked) -> Reply {
    host.pace.quick(asked.call).await;
    let id = host.resolve(&asked.object)?;
    let world = host.engine.world();
    let found = world.containers.get(&id).map(|c| describe::container(&world, c));
    found.map(|told| json(StatusCode::OK, &told)).ok_or_else(|| missing(&id))
}

pub async fn stats(host: &Host, asked: &Asked) -> Reply {
    let id = host.resolve(&asked.object)?;
    if !asked.query.is_off("stream") {
        return Ok(stream("application/json", readings(host, id)));
    }
    host.pace.quick(asked.call).await;
    let told = host.engine.stats(&id).await.map_err(|e| Refused::not_found(e.message))?;
    let name = host.engine.world().find(&id).map(|c| c.name.clone()).unwrap_or_default();
    Ok(json(StatusCode::OK, &describe::stats(&id, &name, told)))
}

/// A reading each second, until the container is removed. None while the runtime hangs.
fn readings(host: &Host, id: String) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let (engine, half_dead) = (host.engine.clone(), host.faults.half_dead());
    futures::stream::unfold((), move |()| {
        let (engine, id, mut half_dead) = (engine.clone(), id.clone(), half_dead.clone());
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // The sender lives as long as the daemon.
            let _ = half_dead.wait_for(|so| !so).await;
            let (name, told) = {
                let world = engine.world();
                let found = world.containers.get(&id)?;
                let told = found.alive().then(|| ContainerStats {
                    read_at: world.wall,
                    cpu_nanos: found.usage.cpu_at(world.now),
                    memory: found.usage.memory,
                });
                (found.name.clone(), told)
            };
            Some((Ok(format!("{}\n", describe::stats(&id, &name, told)).into()), ()))
        }
    })
}

fn missing(id: &str) -> Refused {
    Refused::not_found(format!("No such container: {id}"))
}

fn is_alive(host: &Host, id: &str) -> Result<bool, Refused> {
    host.engine.world().containers.get(id).map(|c| c.alive()).ok_or_else(|| missing(id))
}

/// 304 when it runs already.
pub async fn start(host: &Arc<Host>, asked: &Asked) -> Reply {
    let id = host.resolve(&asked.object)?;
    if host.engine.is_paused(&id) {
        let message = "cannot start a paused container, try unpause instead";
        return Err(Refused::new(StatusCode::CONFLICT, message));
    }
    if is_alive(host, &id)? {
        return Ok(empty(StatusCode::NOT_MODIFIED));
    }
    host.pace.work(super::call::Call::Start).await;
    let (name, ports, boot) = {
        let world = host.engine.world();
        let c = world.containers.get(&id).ok_or_else(|| missing(&id))?;
        let boot = world.images.get(&reference::image(&c.spec.image)).map_or(Duration::ZERO, |image| image.boot);
        (c.name.clone(), c.spec.ports.clone(), boot)
    };
    let reserved = host.apps.as_ref().map(|_| Apps::reserve(&ports));
    let started = host.engine.step(|world| {
        // Two starts at once: the second waits for the first, and finds it running.
        if world.containers.get(&id).is_some_and(|c| c.alive()) {
            return Ok(false);
        }
        let taken = reserved.as_ref().and_then(|r| r.as_ref().err()).map(|taken| taken.0);
        let new = taken.is_some_and(|port| world.taken_ports.insert(port));
        let started = world.start(&id).map(|()| true);
        if let Some(port) = taken.filter(|_| new) {
            world.taken_ports.remove(&port);
        }
        started
    });
    let started = started.map_err(|refusal| Refused::of(asked.call, refusal))?;
    if let (true, Some(apps), Some(Ok(sockets))) = (started, &host.apps, reserved) {
        apps.run(&id, &name, sockets, boot);
    }
    Ok(empty(if started { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED }))
}

/// 304 when it does not run.
pub async fn stop(host: &Host, asked: &Asked) -> Reply {
    let id = host.resolve(&asked.object)?;
    if !is_alive(host, &id)? {
        return Ok(empty(StatusCode::NOT_MODIFIED));
    }
    let grace = match asked.query.get("t") {
        "" => 10,
        text => text.parse::<i64>().map_err(|_| Refused::bad(format!("strconv.Atoi: parsing {text:?}")))?,
    };
    // A negative one waits for ever.
    let grace = u64::try_from(grace).map_or(Duration::MAX, Duration::from_secs);
    let (takes, code) = host.engine.world().ending(&id, grace);
    tokio::time::sleep(takes).await;
    host.pace.work(super::call::Call::Stop).await;
    let stopped = host.engine.step(|world| world.stop(&id, code));
    stopped.map(|()| empty(StatusCode::NO_CONTENT)).map_err(|refusal| Refused::of(asked.call, refusal))
}

pub fn kill(host: &Host, asked: &Asked) -> Reply {
    let told = |refused: Refused| Refused {
        message: format!("Cannot kill container: {}: {}", asked.object, refused.message),
        ..refused
    };
    let id = host.resolve(&asked.object).map_err(told)?;
    let signal = asked.query.get("signal").trim_start_matches("SIG");
    let code = if matches!(signal, "" | "KILL" | "9") { 137 } else { 143 };
    host.engine.step(|world| {
        if !world.containers.get(&id).is_some_and(|c| c.alive()) {
            let message = format!("Cannot kill container: {id}: Container {id} is not running");
            return Err(Refused::new(StatusCode::CONFLICT, message));
        }
        world.emit_container(&id, "kill", &[("signal", if code == 137 { "9" } else { "15" }.to_owned())]);
        world.end(&id, code, false);
        Ok(empty(StatusCode::NO_CONTENT))
    })
}

pub fn pause(host: &Host, asked: &Asked, pause: bool) -> Reply {
    let id = host.resolve(&asked.object)?;
    let paused = host.engine.step(|world| world.set_paused(&id, pause));
    // Of one that is not paused it is told in another way.
    let status = if pause { StatusCode::CONFLICT } else { StatusCode::INTERNAL_SERVER_ERROR };
    let told = |refusal: Refusal| match refusal.kind {
        EngineErrorKind::NotFound => Refused::not_found(refusal.message),
        EngineErrorKind::Server => Refused::new(StatusCode::INTERNAL_SERVER_ERROR, refusal.message),
        _ => Refused::new(status, refusal.message),
    };
    paused.map(|()| empty(StatusCode::NO_CONTENT)).map_err(told)
}

pub async fn rename(host: &Host, asked: &Asked) -> Reply {
    let id = host.resolve(&asked.object)?;
    host.pace.quick(asked.call).await;
    let name = asked.query.get("name").trim_start_matches('/');
    if name.is_empty() {
        return Err(Refused::bad("Neither old nor new names may be empty"));
    }
    if host.engine.world().containers.get(&id).is_some_and(|c| c.name == name) {
        return Err(Refused::bad("Renaming a container with the same name as its current name"));
    }
    let renamed = host.engine.step(|world| world.rename(&id, name));
    renamed.map(|()| empty(StatusCode::NO_CONTENT)).map_err(|refusal| Refused::of(asked.call, refusal))
}

/// What is not given, or zero, stays.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Update {
    memory: Option<i64>,
    nano_cpus: Option<i64>,
    pids_limit: Option<i64>,
    restart_policy: Option<Restart>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Restart {
    pub name: String,
}

pub async fn update(host: &Host, asked: &Asked) -> Reply {
    let id = host.resolve(&asked.object)?;
    let wanted: Update = serde_json::from_slice(&asked.body).map_err(|e| Refused::bad(e.to_string()))?;
    host.pace.quick(asked.call).await;
    let updated = host.engine.step(|world| {
        let c = world.find_mut(&id)?;
        let given = |new: Option<i64>, old: i64| new.filter(|n| *n != 0).unwrap_or(old);
        let limits = Limits {
            memory: given(wanted.memory, c.limits.memory),
            cpu_milli: given(wanted.nano_cpus.map(|n| n / 1_000_000), c.limits.cpu_milli),
            pids: given(wanted.pids_limit, c.limits.pids),
        };
        let policy = wanted.restart_policy.map(|policy| policy.name).filter(|name| !name.is_empty());
        let policy = policy.unwrap_or_else(|| c.restart_policy.clone());
        world.update(&id, limits, &policy)
    });
    updated
        .map(|()| json(StatusCode::OK, &serde_json::json!({"Warnings": null})))
        .map_err(|refusal| Refused::of(asked.call, refusal))
}

/// Of several removals at once one wins, and the others are told that it is under way.
pub async fn remove(host: &Host, asked: &Asked) -> Reply {
    let id = host.resolve(&asked.object)?;
    if is_alive(host, &id)? && !asked.query.flag("force") {
        return Err(Refused::new(
            StatusCode::CONFLICT,
            format!(
                "You cannot remove a running container {id}. Stop the container before attempting removal or force remove"
            ),
        ));
    }
    if !host.removing.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
        let message = format!("removal of container {id} is already in progress");
        return Err(Refused::new(StatusCode::CONFLICT, message));
    }
    // Others of the same moment must meet it.
    tokio::task::yield_now().await;
    host.pace.work(asked.call).await;
    host.engine.step(|world| {
        if world.containers.get(&id).is_some_and(|c| c.alive()) {
            world.emit_container(&id, "kill", &[("signal", "9".to_owned())]);
        }
        world.remove(&id);
    });
    host.removing.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    Ok(empty(StatusCode::NO_CONTENT))
}
