//! The stream of events: what the daemon still knows, and then what happens.

use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use portreeve::docker::engine::EngineEvent;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::answer::{self, Reply};
use super::query::Filters;
use super::{Asked, Host};

/// One line, as a daemon writes it: what is older than version 1.22 of the API stands beside the rest, for containers
/// and images.
fn line(at: Timestamp, event: &EngineEvent) -> Bytes {
    let mut told = json!({
        "Type": event.object, "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local", "time": at.as_second(),
        "timeNano": i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX),
    });
    if matches!(event.object.as_str(), "container" | "image") {
        told["status"] = event.action.clone().into();
        told["id"] = event.id.clone().into();
    }
    if let Some(image) = event.attributes.get("image").filter(|_| event.object == "container") {
        told["from"] = image.clone().into();
    }
    format!("{told}\n").into()
}

fn is_wanted(filters: &Filters, event: &EngineEvent) -> bool {
    filters.is("type", &event.object) && filters.is("event", &event.action) && filters.labels(&event.attributes)
}

pub fn stream(host: &Host, asked: &Asked) -> Reply {
    let filters = asked.query.filters()?;
    let (since, until) = (asked.query.time("since")?, asked.query.time("until")?);
    let (past, live, now) = {
        let world = host.engine.world();
        let known = world.history.iter().filter(|(at, _)| since.is_some_and(|since| *at >= since));
        let known = known.filter(|(at, event)| until.is_none_or(|until| *at <= until) && is_wanted(&filters, event));
        let past: Vec<_> = known.map(|(at, event)| Ok(line(*at, event))).collect();
        (past, world.live.subscribe(), world.wall)
    };
    let left = until.map(|until| std::time::Duration::try_from(until.duration_since(now)).unwrap_or_default());
    let (engine, stalled) = (host.engine.clone(), host.faults.stalled());
    let live = stream::unfold(Some(live), move |live| {
        let (engine, stalled) = (engine.clone(), stalled.clone());
        async move {
            let mut live = live?;
            loop {
                match live.recv().await {
                    Ok(_) if *stalled.borrow() => {}
                    Ok(event) => return Some((Ok((engine.world().wall, event)), Some(live))),
                    // Its ring of 256 has turned: what did not fit is gone, and nobody says so.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Some((Err(std::io::Error::other("the daemon is gone")), None)),
                }
            }
        }
    });
    let live = live.filter_map(move |event| {
        let told = match event {
            Ok((at, event)) => is_wanted(&filters, &event).then(|| Ok(line(at, &event))),
            Err(e) => Some(Err(e)),
        };
        std::future::ready(told)
    });
    let all = stream::iter(past).chain(live);
    Ok(match left {
        Some(left) => answer::stream("application/json", all.take_until(Box::pin(tokio::time::sleep(left)))),
        None => answer::stream("application/json", all),
    })
}
