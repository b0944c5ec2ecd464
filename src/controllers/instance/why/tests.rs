use super::*;
use crate::controllers::probes::busy::{Answer, BusySeen, Question};
use crate::model::{ConditionStatus, set_condition};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn instance(phase: Phase, power: Power) -> Instance {
    let mut instance = Instance::default();
    instance.spec.power = power;
    instance.spec.idle.after = Some("10m".parse::<Span>().unwrap());
    instance.status.phase = phase;
    instance.status.node = "worker-1".into();
    let ready = crate::model::Condition {
        type_: "Ready".into(),
        status: ConditionStatus::from(phase == Phase::Running),
        reason: "Test".into(),
        message: "the daemon's words".into(),
        observed_generation: 1,
        last_transition_time: at(-7200).into(),
    };
    set_condition(&mut instance.status.conditions, ready);
    instance
}

fn seen(idle: Option<u64>, open: usize) -> ActivitySeen {
    ActivitySeen { idle: idle.map(Duration::from_secs), open, ..ActivitySeen::default() }
}

#[test]
fn each_state_is_told_with_its_reason_and_what_comes_next() {
    use Phase::*;
    for (phase, power, activity, wanted, because, next) in [
        (Running, Power::Running, seen(None, 0), Wanted::Awake, "never sleeps", "goes on running"),
        (Running, Power::Stopped, seen(None, 0), Wanted::Off, "nobody wakes it", "it is stopped"),
        (Stopped, Power::Stopped, seen(None, 0), Wanted::Off, "nobody wakes it", "stays off"),
        (Running, Power::Auto, seen(None, 2), Wanted::Awake, "2 requests", "after the last of them"),
        (Running, Power::Auto, seen(Some(60), 0), Wanted::Awake, "within the last 10m", "unless it is used"),
        (Running, Power::Auto, seen(Some(600), 0), Wanted::Asleep, "for 10m", "it is stopped, and sleeps"),
        (Running, Power::Auto, seen(None, 0), Wanted::Awake, "since this server began", "unless it is used"),
        (Asleep, Power::Auto, seen(None, 0), Wanted::Asleep, "nobody has asked", "the next request wakes it"),
        (Asleep, Power::Auto, seen(Some(1), 0), Wanted::Awake, "within the last", "it is started"),
        (Starting, Power::Auto, seen(Some(1), 0), Wanted::Awake, "on its way up", "becomes ready: the daemon's words"),
        (Pending, Power::Auto, seen(None, 0), Wanted::Awake, "on its way up", "tried again as told: the daemon's"),
    ] {
        let told = explain(&instance(phase, power), activity, &[], at(0));
        assert_eq!(told.wanted, wanted, "{phase:?} {power:?} {activity:?}");
        assert!(told.because.contains(because), "{phase:?}: {}", told.because);
        assert!(told.next.message.contains(next), "{phase:?}: {}", told.next.message);
    }
    for (phase, activity, wanted, because, next) in [
        (Running, seen(Some(60), 0), Wanted::Awake, "within the last 10m", "it is frozen unless"),
        (Running, seen(Some(60), 1), Wanted::Awake, "is open", "it is frozen 2m after"),
        (Running, seen(Some(120), 0), Wanted::Frozen, "has used it for 2m (spec.idle.freezeAfter)", "it is frozen"),
        (Frozen, seen(Some(120), 0), Wanted::Frozen, "nor for 10m yet", "it is stopped, and sleeps"),
        (Frozen, seen(None, 0), Wanted::Frozen, "nobody has asked for it since", "it is stopped, and sleeps"),
        (Frozen, seen(Some(1), 0), Wanted::Awake, "within the last", "it goes on"),
        (Frozen, seen(Some(600), 0), Wanted::Asleep, "for 10m (spec.idle.after)", "it is stopped, and sleeps"),
    ] {
        let mut instance = instance(phase, Power::Auto);
        instance.spec.idle.freeze_after = Some("2m".parse().unwrap());
        let told = explain(&instance, activity, &[], at(0));
        assert_eq!(told.wanted, wanted, "{phase:?} {activity:?}");
        assert!(told.because.contains(because), "{phase:?}: {}", told.because);
        assert!(told.next.message.contains(next), "{phase:?}: {}", told.next.message);
    }
    let mut going = instance(Running, Power::Auto);
    going.metadata.deletion_timestamp = Some(at(-1).into());
    let told = explain(&going, seen(None, 1), &[], at(0));
    assert_eq!((told.wanted, told.because.starts_with("it is being deleted")), (Wanted::Off, true));
}

#[test]
fn the_time_of_sleep_and_the_signals_are_told() {
    let mut used = instance(Phase::Running, Power::Auto);
    used.metadata.annotations.insert(WAKE_ANNOTATION.into(), at(-30).to_string());
    let told = explain(&used, seen(Some(100), 0), &[], at(0));
    assert_eq!(told.next.at, Some(at(570).into()), "ten minutes after it was asked for");
    let sources: Vec<_> = told.signals.iter().map(|s| (s.source.as_str(), s.at.timestamp())).collect();
    assert_eq!(sources, [("wake", at(-30)), ("proxy", at(-100))]);

    let mut before = instance(Phase::Asleep, Power::Auto);
    before.status.last_active = Some(at(-9999).into());
    let told = explain(&before, seen(None, 0), &[], at(0));
    assert_eq!((told.signals[0].source.as_str(), told.signals.len()), ("record", 1));
}

#[test]
fn what_keeps_awake_is_named_with_its_source() {
    let mut busy = instance(Phase::Running, Power::Auto);
    busy.spec.idle.busy_cpu = Some("10%".parse().unwrap());
    let sign = |busy| Sign { question: Question::Cpu, busy, at: at(-20), message: "37.0% of one core".into() };
    let asked = |answer| {
        let found = BusySeen { answer, again: Duration::from_secs(40) };
        ActivitySeen { busy: found, ..seen(Some(600), 0) }
    };
    let told = explain(&busy, asked(Answer::Busy), &[sign(true)], at(0));
    assert_eq!(told.because, "it is busy (busyCpu): 37.0% of one core");
    assert_eq!(told.next.at, Some(at(40).into()));
    assert_eq!((told.signals[0].source.as_str(), told.signals[0].at), ("busyCpu", at(-20).into()));
    let told = explain(&busy, asked(Answer::Unknown), &[], at(0));
    assert!(told.because.contains("it is being found out whether it is busy"), "{}", told.because);
    let told = explain(&busy, asked(Answer::Idle), &[sign(false)], at(0));
    assert_eq!(told.wanted, Wanted::Asleep);
    assert!(told.signals[0].message.starts_with("not busy: "), "{:?}", told.signals);
    let told = explain(&busy, seen(Some(60), 0), &[], at(0));
    assert!(told.next.message.contains("or busy then"), "{:?}", told.next);

    let used = instance(Phase::Running, Power::Auto);
    for (sessions, open, words) in [
        (Sessions { exec: 1, ..Sessions::default() }, 1, "an exec session is open"),
        (Sessions { forward: 2, ..Sessions::default() }, 2, "2 forwarded connections are open"),
        (
            Sessions { exec: 2, attach: 1, forward: 0 },
            5,
            "2 requests and connections and 2 exec sessions and an attach session are open",
        ),
    ] {
        let told = explain(&used, ActivitySeen { sessions, ..seen(Some(0), open) }, &[], at(0));
        assert_eq!(told.because, words);
    }
}

#[test]
fn the_ends_of_its_schedule_are_those_that_come_and_do_not_slide() {
    let noon: Timestamp = "2026-01-15T12:00:00Z".parse().unwrap();
    let with = |schedule: &str| {
        let mut instance = instance(Phase::Running, Power::Auto);
        instance.spec.idle.after = Some("3h".parse().unwrap());
        instance.spec.idle.schedule = serde_json::from_str(schedule).unwrap();
        instance
    };
    let halves = with(r#"[{"keep": "Awake", "cron": "0,30 8-17 * * *", "for": "30m"}]"#);
    for minutes in [0, 20, 40, 300] {
        let told = explain(&halves, seen(Some(60), 0), &[], noon + SignedDuration::from_mins(minutes));
        assert_eq!(told.because, "spec.idle.schedule[0] (until 2026-01-15 18:00 UTC) keeps it awake");
        assert_eq!(told.next.at, Some((noon + SignedDuration::from_hours(6)).into()));
    }
    let endless = with(r#"[{"keep": "Awake", "cron": "@daily", "for": "25h"}]"#);
    let told = explain(&endless, seen(Some(60), 0), &[], noon);
    assert_eq!(told.because, "spec.idle.schedule[0] (which renews itself) keeps it awake");
    assert_eq!(
        (told.next.at, told.next.message.as_str()),
        (None, "it stays awake, as its schedule renews itself before it ends")
    );

    // Used ten minutes ago, and wanted at rest from 13:00 on: then it has been without use for long enough at once.
    let rests = with(r#"[{"keep": "Asleep", "cron": "0 13 * * *", "for": "2h"}]"#);
    let told = explain(&rests, seen(Some(600), 0), &[], noon);
    assert_eq!(told.next.at, Some((noon + SignedDuration::from_hours(1)).into()));
    assert_eq!(told.next.message, "spec.idle.schedule[0] lets it fall asleep unless it is used");
    // Two minutes before that it has a minute more than until then.
    let before = noon + SignedDuration::from_secs(3600 - 20);
    let told = explain(&rests, seen(Some(10), 0), &[], before);
    assert_eq!(told.next.at, Some((before + SignedDuration::from_secs(50)).into()));
    let within = noon + SignedDuration::from_mins(90);
    let told = explain(&rests, seen(Some(60), 0), &[], within);
    assert_eq!(told.because, "nobody has used it for 1m (spec.idle.schedule[0] (until 2026-01-15 15:00 UTC))");
    let told = explain(&rests, seen(Some(600), 0), &[], noon - SignedDuration::from_hours(3));
    assert_eq!(told.next.message, "it falls asleep unless it is used", "before the stretch begins");
}
