//! Why an instance is as it is, in words: by the very decision that the controller makes. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::{
    Instance, InstanceExplanation, Keep, NextStep, Phase, Power, SLEEP_ANNOTATION, Span, Time, UseSignal,
    WAKE_ANNOTATION, Wanted, condition, next_awake,
};

use super::freezing;
use super::plan::{ActivitySeen, Because, Sessions, Want, until_sleep, verdict};
use super::wakefulness::{is_asked, rests_after, scheduled};
use crate::controllers::probes::busy::Sign;

/// `activity`: as the controllers see it. `signs`: what it was found to be busy with, or not. `now`: the wall clock.
pub fn explain(instance: &Instance, activity: ActivitySeen, signs: &[Sign], now: Timestamp) -> InstanceExplanation {
    let (want, because) = verdict(instance, activity, now);
    let deleting = instance.metadata.deletion_timestamp;
    let wanted = match want {
        _ if deleting.is_some() => Wanted::Off,
        Want::Run => Wanted::Awake,
        Want::Freeze => Wanted::Frozen,
        Want::Sleep => Wanted::Asleep,
        Want::Stop => Wanted::Off,
    };
    let words = match deleting {
        Some(at) => format!("it is being deleted since {at}"),
        None => in_words(instance, because, activity, signs, now),
    };
    InstanceExplanation {
        phase: instance.status.phase,
        node: instance.status.node.clone(),
        wanted,
        because: words,
        signals: signals(instance, activity, signs, now),
        next: next(instance, wanted, because, activity, now),
        // The front door's to tell.
        route_problems: vec![],
        conditions: instance.status.conditions.clone(),
    }
}

fn in_words(instance: &Instance, because: Because, activity: ActivitySeen, signs: &[Sign], now: Timestamp) -> String {
    let after = after(instance, now);
    match because {
        Because::Power => match instance.spec.power {
            Power::Running => "spec.power is Running: it never sleeps".to_owned(),
            Power::Auto | Power::Stopped => "spec.power is Stopped: nobody wakes it".to_owned(),
        },
        Because::Open => match open(activity).as_slice() {
            [(1, _, what)] => format!("{what} is open"),
            several => {
                let all: Vec<_> = several.iter().map(|(n, _, what)| counted(*n, what)).collect();
                format!("{} are open", all.join(" and "))
            }
        },
        Because::Scheduled => match scheduled(instance, now) {
            Some(held) => format!("{} keeps it awake", stretch(instance, held.index, Some(held.until))),
            None => "its schedule keeps it awake".to_owned(),
        },
        Because::Busy => match signs.iter().find(|sign| sign.busy) {
            Some(sign) => format!("it is busy ({}): {}", sign.question.field(), sign.message),
            None => "it is busy".to_owned(),
        },
        Because::Asking => {
            let why = match (until_sleep(instance, activity, now), &instance.spec.idle.freeze_after) {
                (Some(left), _) if left.is_zero() => format!("nobody has used it for {after}"),
                _ if activity.yields => "its memory is wanted for another on its host, and nobody uses it".to_owned(),
                (_, Some(still)) => format!("nobody has used it for {still}"),
                (_, None) => "nobody uses it".to_owned(),
            };
            format!("{why}; it is being found out whether it is busy")
        }
        Because::OnItsWay => "it is on its way up, and whoever asked for it is to see it".to_owned(),
        Because::Sent => "it was sent to sleep by hand, and nobody uses it".to_owned(),
        Because::Yields => "its memory is wanted for another on its host, and nobody uses it".to_owned(),
        Because::Used => format!("it was used within the last {after}, its time without use (spec.idle.after)"),
        Because::Still => {
            let still = instance.spec.idle.freeze_after.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("nobody has used it for {still} (spec.idle.freezeAfter), nor for {after} yet (spec.idle.after)")
        }
        Because::Idle => format!("nobody has used it for {after} (spec.idle.after)"),
        Because::Unseen if instance.status.phase == Phase::Asleep => {
            "it fell asleep, and nobody has asked for it since".to_owned()
        }
        Because::Unseen if instance.status.phase == Phase::Frozen => {
            "it was frozen, and nobody has asked for it since".to_owned()
        }
        Because::Unseen => {
            format!(
                "nobody has used it since this server began, and it has its time without use ({after}) from then on"
            )
        }
    }
}

/// The time without use that counts, as it was written if it is that.
fn after(instance: &Instance, now: Timestamp) -> String {
    let short = rests_after(instance, now);
    if short < instance.spec.idle_after() {
        return Span::from(short).to_string();
    }
    instance.spec.idle.after.as_ref().map_or_else(|| "30m".to_owned(), ToString::to_string)
}

/// What is open: how many, its source, and one of them in words.
fn open(activity: ActivitySeen) -> Vec<(usize, &'static str, &'static str)> {
    let Sessions { exec, attach, forward } = activity.sessions;
    let proxied = activity.open.saturating_sub(exec + attach + forward);
    let all = [
        (proxied, "proxy", "a request or connection"),
        (exec, "exec", "an exec session"),
        (attach, "attach", "an attach session"),
        (forward, "port-forward", "a forwarded connection"),
    ];
    all.into_iter().filter(|(n, ..)| *n > 0).collect()
}

fn counted(n: usize, what: &str) -> String {
    match (n, what) {
        (1, what) => what.to_owned(),
        (n, "a request or connection") => format!("{n} requests and connections"),
        (n, what) => format!("{n} {}s", what.split_once(' ').map_or(what, |(_, what)| what)),
    }
}

/// A stretch of its schedule, as people know it.
fn stretch(instance: &Instance, index: usize, until: Option<Timestamp>) -> String {
    let found = instance.spec.idle.schedule.get(index);
    let until = found.zip(until).map(|(stretch, until)| format!(" (until {})", stretch.in_zone(until)));
    format!("spec.idle.schedule[{index}]{}", until.unwrap_or_default())
}

/// The latest first.
fn signals(instance: &Instance, activity: ActivitySeen, signs: &[Sign], now: Timestamp) -> Vec<UseSignal> {
    let signal =
        |source: &str, at: Timestamp, message: String| UseSignal { source: source.into(), at: at.into(), message };
    let ago = |idle: Duration| now - SignedDuration::try_from(idle).unwrap_or_default();
    let mut found = vec![];
    if activity.open > 0 {
        for (n, source, _) in open(activity) {
            found.push(signal(source, now, format!("{n} open now")));
        }
    } else if let Some(idle) = activity.idle {
        found.push(signal("proxy", ago(idle), "the last request, or the end of the last connection or session".into()));
    } else if let Some(at) = instance.status.last_active {
        found.push(signal("record", at.timestamp(), "used last, as it was written down".into()));
    }
    let annotations = &instance.metadata.annotations;
    if let Some(at) = annotations.get(WAKE_ANNOTATION).and_then(|at| at.parse().ok()) {
        found.push(signal("wake", at, "asked for by hand".into()));
    }
    if annotations.contains_key(SLEEP_ANNOTATION) && instance.is_sent_to_sleep() {
        let at = instance.status.started_at.map_or(now, |at| at.timestamp());
        found.push(signal("sleep", at, "this run, which began then, was sent to sleep by hand".into()));
    }
    for sign in signs {
        let busy = if sign.busy { "busy" } else { "not busy" };
        found.push(signal(sign.question.field(), sign.at, format!("{busy}: {}", sign.message)));
    }
    if let Some(held) = scheduled(instance, now).filter(|_| instance.spec.power == Power::Auto) {
        let keep = match held.keep {
            Keep::Awake => "keeps it awake",
            Keep::Asleep => "wants it at rest",
        };
        found.push(signal("schedule", now, format!("{} {keep}", stretch(instance, held.index, Some(held.until)))));
    }
    found.sort_by_key(|signal| std::cmp::Reverse(signal.at));
    found
}

fn next(instance: &Instance, wanted: Wanted, because: Because, activity: ActivitySeen, now: Timestamp) -> NextStep {
    let step = |message: &str| NextStep { at: None, message: message.to_owned() };
    let at = |left: Option<Duration>, message: &str| NextStep {
        at: left.and_then(|left| SignedDuration::try_from(left).ok()).map(|left| Time::from(now + left)),
        message: message.to_owned(),
    };
    let left = until_sleep(instance, activity, now);
    let ready = condition(&instance.status.conditions, "Ready");
    let told = || ready.map_or_else(String::new, |ready| format!(": {}", ready.message));
    match (instance.status.phase, wanted) {
        (_, Wanted::Off) if instance.metadata.deletion_timestamp.is_some() => {
            step("its container and network are removed, then its record")
        }
        (Phase::Stopped, Wanted::Off) => step("it stays off until spec.power is another"),
        (_, Wanted::Off) => step("it is stopped"),
        (Phase::Failed | Phase::Lost | Phase::Pending, _) => step(&format!("it is tried again as told{}", told())),
        (Phase::Asleep, Wanted::Asleep) => match next_awake(&instance.spec.idle.schedule, now) {
            Some((at, index)) => NextStep {
                at: Some(at.into()),
                message: format!("{} wakes it, or a request before that", stretch(instance, index, None)),
            },
            None => step("the next request wakes it, or `portreeve wake`"),
        },
        (_, Wanted::Asleep) => step("it is stopped, and sleeps"),
        (Phase::Frozen, Wanted::Frozen) if let Some((begins, index)) = awake_before(instance, left, now) => NextStep {
            at: Some(begins.into()),
            message: format!("{} lets it go on, or a request before that", stretch(instance, index, None)),
        },
        (Phase::Frozen, Wanted::Frozen) => {
            at(left, "it is stopped, and sleeps; the next request, or `portreeve wake`, lets it go on before that")
        }
        (_, Wanted::Frozen) => step("it is frozen, with its memory"),
        (Phase::Frozen, Wanted::Awake) => step("it goes on"),
        (Phase::Running, Wanted::Awake) if instance.spec.power == Power::Running => step("it goes on running"),
        (Phase::Running, Wanted::Awake) if activity.open > 0 => {
            let after = after(instance, now);
            let first = |still: &&Span| !activity.cannot_freeze && still.duration() < rests_after(instance, now);
            match instance.spec.idle.freeze_after.as_ref().filter(first) {
                Some(still) => step(&format!("it is frozen {still} after the last of them has ended")),
                None => step(&format!("it falls asleep {after} after the last of them has ended")),
            }
        }
        (Phase::Running, Wanted::Awake) if because == Because::Scheduled => NextStep {
            at: scheduled(instance, now).map(|held| held.until.into()),
            message: "from then on it may fall asleep".to_owned(),
        },
        (Phase::Running, Wanted::Awake) if matches!(because, Because::Busy | Because::Asking) => {
            at(Some(activity.busy.again), "it is asked again whether it is busy, and rests if it is not")
        }
        (Phase::Running, Wanted::Awake) => {
            let unless = if is_asked(instance) { "unless it is used, or busy then" } else { "unless it is used" };
            let frozen = freezing::until_frozen(instance, activity, now).filter(|f| left.is_none_or(|left| *f < left));
            match (awake_before(instance, frozen.or(left), now), frozen) {
                (Some((begins, index)), _) => NextStep {
                    at: Some(begins.into()),
                    message: format!("{} keeps it awake from then on", stretch(instance, index, None)),
                },
                (None, Some(_)) => at(frozen, &format!("it is frozen {unless}")),
                (None, None) => at(left, &format!("it falls asleep {unless}")),
            }
        }
        (Phase::Asleep | Phase::Stopped | Phase::Stopping, Wanted::Awake) => step("it is started"),
        (_, Wanted::Awake) => step(&format!("it becomes ready{}", told())),
    }
}

/// When its schedule keeps it awake next, if that comes before it rests.
fn awake_before(instance: &Instance, rests: Option<Duration>, now: Timestamp) -> Option<(Timestamp, usize)> {
    let rests = SignedDuration::try_from(rests?).ok()?;
    next_awake(&instance.spec.idle.schedule, now).filter(|(begins, _)| begins.duration_since(now) < rests)
}

#[cfg(test)]
mod tests {
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
            (
                Starting,
                Power::Auto,
                seen(Some(1), 0),
                Wanted::Awake,
                "on its way up",
                "becomes ready: the daemon's words",
            ),
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
}
