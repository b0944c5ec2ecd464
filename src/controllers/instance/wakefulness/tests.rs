use serde_json::{Value, json};

use super::*;
use crate::controllers::instance::plan::verdict;
use crate::controllers::probes::busy::BusySeen;
use crate::model::{SLEEP_ANNOTATION, Time};

const MINUTE: u64 = 60;

/// The wall clock of these tests: a Thursday, 12:00 UTC.
fn noon() -> Timestamp {
    "2026-01-15T12:00:00Z".parse().unwrap()
}

fn instance(phase: Phase, idle: &Value) -> Instance {
    let mut instance: Instance = serde_json::from_value(json!({
        "metadata": {"name": "alice", "namespace": "default", "uid": "u"},
        "spec": {"image": "a", "idle": idle},
        "status": {"containerID": "c"},
    }))
    .unwrap();
    instance.status.phase = phase;
    instance.status.started_at = Some(Time::from(noon()));
    instance
}

fn unused(seconds: u64) -> ActivitySeen {
    ActivitySeen { idle: Some(Duration::from_secs(seconds)), ..ActivitySeen::default() }
}

fn answered(answer: Answer, again: u64) -> ActivitySeen {
    ActivitySeen { busy: BusySeen { answer, again: Duration::from_secs(again) }, ..unused(60 * MINUTE) }
}

#[test]
fn nobody_is_put_to_sleep_on_a_guess() {
    let measured = instance(Phase::Running, &json!({"busyCpu": "10%"}));
    for (answer, told) in [
        (Answer::Unknown, (Want::Run, Because::Asking)),
        (Answer::Silent, (Want::Run, Because::Asking)),
        (Answer::Busy, (Want::Run, Because::Busy)),
        (Answer::Idle, (Want::Sleep, Because::Idle)),
    ] {
        assert_eq!(verdict(&measured, answered(answer, 5), noon()), told);
        let wanted = ActivitySeen { yields: true, ..answered(answer, 5) };
        let told = if told.0 == Want::Sleep { (Want::Sleep, Because::Yields) } else { told };
        assert_eq!(verdict(&measured, wanted, noon()), told, "also for another");
    }
    let used = ActivitySeen { busy: answered(Answer::Idle, 5).busy, ..unused(MINUTE) };
    assert_eq!(verdict(&measured, used, noon()), (Want::Run, Because::Used));
    let plain = instance(Phase::Running, &json!({}));
    assert_eq!(verdict(&plain, unused(60 * MINUTE), noon()), (Want::Sleep, Because::Idle));
}

#[test]
fn only_what_serves_is_asked_and_what_has_begun_is_gone_through_with() {
    for phase in [Phase::Stopping, Phase::Asleep, Phase::Failed, Phase::Lost] {
        let measured = instance(phase, &json!({"busyCpu": "10%"}));
        assert!(!is_asked(&measured), "{phase:?}");
        let status = &measured.status;
        let comes_up = phase == Phase::Failed && status.started_at.is_none();
        let slept = verdict(&measured, unused(60 * MINUTE), noon()).0 == Want::Sleep;
        assert!(slept || comes_up, "{phase:?}");
    }
    let mut off = instance(Phase::Running, &json!({"busyCpu": "10%"}));
    off.spec.power = Power::Running;
    assert!(!is_asked(&off) && until_question(&off, unused(60 * MINUTE), noon()).is_none());
}

#[test]
fn the_first_reading_is_taken_a_minute_before_and_the_question_put_when_it_counts() {
    let after = json!({"after": "10m", "busyCpu": "10%"});
    let measured = instance(Phase::Running, &after);
    let look = |instance: &Instance, idle: u64| {
        let seen = unused(idle);
        let left = until_question(instance, seen, noon()).unwrap();
        next_look(instance, seen, left).as_secs()
    };
    assert_eq!(look(&measured, 0), 540);
    assert_eq!(look(&measured, 540), 60, "it is read now, and then");
    let checked = instance(Phase::Running, &json!({"after": "10m", "busyCheck": {"http": {"port": "web"}}}));
    assert_eq!(look(&checked, 0), 600);
    let busy = answered(Answer::Busy, 42);
    assert_eq!(next_look(&measured, busy, Duration::ZERO).as_secs(), 42);
    let wanted = ActivitySeen { yields: true, ..busy };
    assert_eq!(next_look(&measured, wanted, Duration::from_secs(300)).as_secs(), 42, "another waits for it");

    let open = ActivitySeen { open: 1, ..unused(0) };
    assert_eq!(until_question(&measured, open, noon()), None);
    let mut sent = measured.clone();
    sent.metadata.annotations.insert(SLEEP_ANNOTATION.into(), sent.run().unwrap());
    assert_eq!(until_question(&sent, unused(600), noon()), None, "by hand it sleeps whatever it does");
    assert_eq!(verdict(&sent, unused(0), noon()), (Want::Sleep, Because::Sent));
}

#[test]
fn a_wish_that_had_its_time_in_a_stretch_for_rest_wakes_nobody_at_its_end() {
    let mut laid =
        instance(Phase::Asleep, &json!({"after": "3h", "schedule": stretch("Asleep", "0 8 * * *", "4h")["schedule"]}));
    let ready = crate::model::Condition {
        type_: "Ready".into(),
        status: false.into(),
        reason: "Asleep".into(),
        message: "put to sleep by spec.idle.schedule; wakes on the next request".into(),
        observed_generation: 1,
        last_transition_time: Time::from(noon()),
    };
    crate::model::set_condition(&mut laid.status.conditions, ready);
    let ends = noon();
    for (phase, asked, now, wanted) in [
        // Ten minutes before the end: it is awake for a minute, and not again when the stretch is over.
        (Phase::Asleep, -600, -599, Want::Run),
        (Phase::Asleep, -600, -540, Want::Sleep),
        (Phase::Asleep, -600, 0, Want::Sleep),
        (Phase::Stopping, -600, 0, Want::Sleep),
        (Phase::Asleep, -600, 7200, Want::Sleep),
        // Before the stretch began.
        (Phase::Asleep, -5 * 3600, 0, Want::Sleep),
        // It has not had its minute, or is of after the end.
        (Phase::Asleep, -59, 0, Want::Run),
        (Phase::Asleep, 1, 2, Want::Run),
        (Phase::Asleep, 1, 7200, Want::Run),
        // By a clock that is a little ahead.
        (Phase::Asleep, 100, 2, Want::Run),
    ] {
        laid.status.phase = phase;
        let at = |seconds: i64| ends + jiff::SignedDuration::from_secs(seconds);
        laid.metadata.annotations.insert(crate::model::WAKE_ANNOTATION.into(), at(asked).to_string());
        let told = verdict(&laid, ActivitySeen::default(), at(now)).0;
        assert_eq!(told, wanted, "{phase:?}, asked at {asked}, now {now}");
    }
    // What nobody's schedule put to sleep is woken as ever.
    laid.status.conditions.clear();
    laid.metadata
        .annotations
        .insert(crate::model::WAKE_ANNOTATION.into(), (ends - jiff::SignedDuration::from_secs(600)).to_string());
    assert_eq!(verdict(&laid, ActivitySeen::default(), ends).0, Want::Run);
}

fn stretch(keep: &str, cron: &str, lasts: &str) -> Value {
    json!({"schedule": [{"keep": keep, "cron": cron, "for": lasts}], "after": "10m", "busyCpu": "10%"})
}

#[test]
fn within_a_stretch_that_keeps_awake_nothing_but_its_power_lets_it_sleep() {
    let mut kept = instance(Phase::Asleep, &stretch("Awake", "0 8 * * *", "10h"));
    for seen in [ActivitySeen::default(), unused(60 * MINUTE), ActivitySeen { yields: true, ..unused(60 * MINUTE) }] {
        assert_eq!(verdict(&kept, seen, noon()), (Want::Run, Because::Scheduled), "{seen:?}");
    }
    kept.status.phase = Phase::Running;
    kept.metadata.annotations.insert(SLEEP_ANNOTATION.into(), kept.run().unwrap());
    assert_eq!(verdict(&kept, unused(60 * MINUTE), noon()), (Want::Run, Because::Scheduled));
    assert_eq!(until_question(&kept, unused(60 * MINUTE), noon()), None, "nobody needs to know");
    assert_eq!(until_change(&kept, noon()), Some(LOOK), "looked at now and then: the wall clock may jump");
    let close: Timestamp = "2026-01-15T17:59:59Z".parse().unwrap();
    assert_eq!(until_change(&kept, close), Some(Duration::from_millis(1001)));
    kept.spec.power = Power::Stopped;
    assert_eq!(verdict(&kept, unused(0), noon()), (Want::Stop, Because::Power));
    assert_eq!(until_change(&kept, noon()), None);
}

#[test]
fn within_a_stretch_for_rest_a_minute_without_use_is_enough_and_who_is_busy_is_let_finish() {
    let rests = instance(Phase::Running, &stretch("Asleep", "0 8 * * *", "10h"));
    assert_eq!(rests_after(&rests, noon()), SOON);
    let idle = |idle, answer| ActivitySeen { busy: answered(answer, 0).busy, ..unused(idle) };
    // It came up at noon, and is shown for a minute.
    let later = noon() + SOON;
    assert_eq!(verdict(&rests, idle(59, Answer::Idle), later), (Want::Run, Because::Used));
    assert_eq!(verdict(&rests, idle(60, Answer::Idle), later), (Want::Sleep, Because::Idle));
    assert_eq!(verdict(&rests, idle(60, Answer::Busy), later), (Want::Run, Because::Busy));
    let open = ActivitySeen { open: 1, ..unused(0) };
    assert_eq!(verdict(&rests, open, later), (Want::Run, Because::Open));
    let quick = instance(
        Phase::Running,
        &json!({"after": "5s", "schedule": stretch("Asleep", "0 8 * * *", "10h")["schedule"]}),
    );
    assert_eq!(rests_after(&quick, noon()), Duration::from_secs(5), "never later than without");
}
