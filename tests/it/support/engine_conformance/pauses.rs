//! Containers that are paused, as every engine has them.

use std::time::Duration;

use futures::StreamExt;
use portreeve::docker::engine::*;

use super::{CLUSTER, Subject};

/// What is paused stands still, goes on as the same run, and hears a stop.
pub async fn hold(s: &Subject<'_>) {
    let mut events = s.engine.events(CLUSTER, None).await.expect("events");
    let spec = s.spec("still", &[]);
    let id = s.made_and_started(&spec).await;
    let before = s.look(&id).await;
    let paused = async || {
        let seen = s.look(&id).await;
        assert_eq!((seen.started_at, seen.exit_code), (before.started_at, 0), "it is the same run");
        let listed = s.engine.list_containers(&[CLUSTER]).await.expect("list");
        let listed = listed.into_iter().find(|c| c.id == id).expect("listed");
        assert_eq!(listed.state, seen.state);
        seen.state
    };
    // A second call changes nothing, whatever the daemon says of it.
    for _ in 0..2 {
        s.engine.pause_container(&id).await.expect("pause");
        assert_eq!(paused().await, RunState::Paused);
    }
    let options = ExecOptions { command: vec![s.app.to_owned(), "echo".to_owned()], ..ExecOptions::default() };
    let error = s.engine.exec(&id, options).await.expect_err("nobody would run it");
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    let error = s.engine.start_container(&id).await.expect_err("a start is no end of a pause");
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    let used = s.engine.stats(&id).await.expect("stats").expect("it holds its memory");
    assert!(used.memory > 0, "{used:?}");
    s.engine.update_container(&id, Limits { memory: 96 << 20, ..spec.limits }).await.expect("new limits");
    for _ in 0..2 {
        s.engine.unpause_container(&id).await.expect("unpause");
        assert_eq!(paused().await, RunState::Running);
    }

    s.engine.pause_container(&id).await.expect("pause");
    s.engine.stop_container(&id, Duration::from_secs(60)).await.expect("stop");
    let seen = s.look(&id).await;
    assert_eq!((seen.state, seen.exit_code), (RunState::Exited, 0), "it has heard the signal, and ended by itself");
    for error in [
        s.engine.pause_container(&id).await.expect_err("it does not run"),
        s.engine.unpause_container(&id).await.expect_err("it does not run"),
    ] {
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    }
    s.engine.start_container(&id).await.expect("start");
    s.engine.pause_container(&id).await.expect("pause");
    s.engine.remove_container(&id).await.expect("remove what is paused");
    for error in [
        s.engine.pause_container(&id).await.expect_err("it is gone"),
        s.engine.unpause_container(&id).await.expect_err("it is gone"),
    ] {
        assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
    }
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "destroy") {
        let event = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        let event = event.unwrap_or_else(|_| panic!("no end after {told:?}")).expect("goes on").expect("event");
        if event.id == id {
            told.push(event.action);
        }
    }
    told.retain(|action| matches!(action.as_str(), "pause" | "unpause"));
    assert_eq!(told[..3], ["pause", "unpause", "pause"], "{told:?}");
}
