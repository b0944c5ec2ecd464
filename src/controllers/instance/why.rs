//! Why an instance is as it is, in words: by the very decision that the controller makes. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::{
    Held, Instance, InstanceExplanation, Keep, NextStep, Phase, Power, SLEEP_ANNOTATION, Span, Time, UseSignal,
    WAKE_ANNOTATION, Wanted, condition, end, next_awake, next_rest,
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
    let (after, source) = (after(instance, now), after_source(instance, now));
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
            Some(held) => format!("{} keeps it awake", held_stretch(instance, &held)),
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
        Because::Used => {
            format!("it was used, or first seen, within the last {after}, its time without use ({source})")
        }
        Because::Still => {
            let still = instance.spec.idle.freeze_after.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("nobody has used it for {still} (spec.idle.freezeAfter), nor for {after} yet (spec.idle.after)")
        }
        Because::Idle => format!("nobody has used it for {after} ({source})"),
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

/// Where the time without use is from that counts.
fn after_source(instance: &Instance, now: Timestamp) -> String {
    match scheduled(instance, now) {
        Some(held) if rests_after(instance, now) < instance.spec.idle_after() => held_stretch(instance, &held),
        _ => "spec.idle.after".to_owned(),
    }
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
fn stretch(index: usize) -> String {
    format!("spec.idle.schedule[{index}]")
}

/// The same with its end: that of the last one, where others follow without a gap.
fn held_stretch(instance: &Instance, held: &Held) -> String {
    let schedule = &instance.spec.idle.schedule;
    let until = match (end(schedule, held), schedule.get(held.index)) {
        (Some(end), Some(stretch)) => format!("until {}", stretch.in_zone(end)),
        (Some(end), None) => format!("until {end}"),
        (None, _) => "which renews itself".to_owned(),
    };
    format!("{} ({until})", stretch(held.index))
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
        let last =
            "the last request, or end of a connection or session; if nobody came yet, since when it is looked after";
        found.push(signal("proxy", ago(idle), last.into()));
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
        found.push(signal("schedule", now, format!("{} {keep}", held_stretch(instance, &held))));
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
                message: format!("{} wakes it, or a request before that", stretch(index)),
            },
            None => step("the next request wakes it, or `portreeve wake`"),
        },
        (_, Wanted::Asleep) => step("it is stopped, and sleeps"),
        (Phase::Frozen, Wanted::Frozen) if let Some((begins, index)) = awake_before(instance, left, now) => NextStep {
            at: Some(begins.into()),
            message: format!("{} lets it go on, or a request before that", stretch(index)),
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
        (Phase::Running, Wanted::Awake) if because == Because::Scheduled => {
            match scheduled(instance, now).and_then(|held| end(&instance.spec.idle.schedule, &held)) {
                Some(end) => NextStep { at: Some(end.into()), message: "from then on it may fall asleep".to_owned() },
                None => step("it stays awake, as its schedule renews itself before it ends"),
            }
        }
        (Phase::Running, Wanted::Awake) if matches!(because, Because::Busy | Because::Asking) => {
            at(Some(activity.busy.again), "it is asked again whether it is busy, and rests if it is not")
        }
        (Phase::Running, Wanted::Awake) => {
            let unless = if is_asked(instance) { "unless it is used, or busy then" } else { "unless it is used" };
            let frozen = freezing::until_frozen(instance, activity, now).filter(|f| left.is_none_or(|left| *f < left));
            match (awake_before(instance, frozen.or(left), now), frozen) {
                (Some((begins, index)), _) => NextStep {
                    at: Some(begins.into()),
                    message: format!("{} keeps it awake from then on", stretch(index)),
                },
                (None, Some(_)) => at(frozen, &format!("it is frozen {unless}")),
                (None, None) => match laid_to_rest(instance, activity, left, now) {
                    Some((rests, index)) => NextStep {
                        at: Some(rests.into()),
                        message: format!("{} lets it fall asleep {unless}", stretch(index)),
                    },
                    None => at(left, &format!("it falls asleep {unless}")),
                },
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

/// When its schedule lets it fall asleep if nobody uses it, if that comes before its time without use is over.
fn laid_to_rest(
    instance: &Instance,
    activity: ActivitySeen,
    left: Option<Duration>,
    now: Timestamp,
) -> Option<(Timestamp, usize)> {
    let (begins, index) = next_rest(&instance.spec.idle.schedule, now)?;
    let ahead = Duration::try_from(begins.duration_since(now)).ok()?;
    let then = ActivitySeen { idle: activity.idle.map(|idle| idle + ahead), ..activity };
    let rests = ahead + until_sleep(instance, then, begins)?;
    (rests < left?).then(|| Some((now + SignedDuration::try_from(rests).ok()?, index)))?
}

#[cfg(test)]
#[path = "why/tests.rs"]
mod tests;
