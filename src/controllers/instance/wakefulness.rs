//! What keeps an instance awake besides its use, or lets it rest sooner: being busy, and its schedule. Pure; asked by `plan`
//! for the decision and by `asking` for whether there is anything to find out.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::{Held, Instance, Keep, Phase, Power, held, next_change, rests_within};

use super::freezing::until_frozen;
use super::plan::{ActivitySeen, Because, Want, is_laid_to_rest, until_sleep};
use crate::controllers::probes::busy::Answer;

/// One that its schedule wants at rest is put to sleep when it has not been used for so long.
const SOON: Duration = Duration::from_secs(60);
/// How long before it may fall asleep its CPU is read for the first time, at most: the mean is of the time from then on.
pub const WINDOW: Duration = Duration::from_secs(60);
/// A schedule is looked at so often even if it changes later: the wall clock may be put forward, or a sleeping machine woken.
const LOOK: Duration = Duration::from_secs(3600);

/// What its schedule says at `now`.
pub fn scheduled(desired: &Instance, now: Timestamp) -> Option<Held> {
    held(&desired.spec.idle.schedule, now)
}

/// Whether its schedule keeps it awake.
pub fn is_kept_awake(desired: &Instance, now: Timestamp) -> bool {
    scheduled(desired, now).is_some_and(|held| held.keep == Keep::Awake)
}

/// Whether its schedule wants it at rest, as far as nobody uses it.
pub fn is_kept_asleep(desired: &Instance, now: Timestamp) -> bool {
    scheduled(desired, now).is_some_and(|held| held.keep == Keep::Asleep)
}

/// The time without use after which it rests, as things stand at `now`.
pub fn rests_after(desired: &Instance, now: Timestamp) -> Duration {
    let after = desired.spec.idle_after();
    if is_kept_asleep(desired, now) { after.min(SOON) } else { after }
}

/// Whether a wish that it be awake has had its time: its schedule has put it to sleep since. It would be woken for it once more
/// where the stretch ends, and with it the short time without use.
pub fn is_spent(desired: &Instance, asked: Timestamp, now: Timestamp) -> bool {
    let had = asked.checked_add(SOON.min(desired.spec.idle_after()));
    is_laid_to_rest(desired) && had.is_ok_and(|had| rests_within(&desired.spec.idle.schedule, had, now))
}

/// When the schedule needs a look.
pub fn until_change(desired: &Instance, now: Timestamp) -> Option<Duration> {
    let schedule = &desired.spec.idle.schedule;
    if schedule.is_empty() || desired.spec.power != Power::Auto || desired.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let left = next_change(schedule, now).and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    // The timer is the monotonic clock's, and may be a little before the wall clock's time.
    Some(left.map_or(LOOK, |left| (left + Duration::from_millis(1)).min(LOOK)))
}

/// Whether it is to be asked before it is put to sleep. What does not serve has nothing to be busy with; and what has begun
/// is gone through with.
pub fn is_asked(desired: &Instance) -> bool {
    let idle = &desired.spec.idle;
    (idle.busy_cpu.is_some() || idle.busy_check.is_some())
        && desired.spec.power == Power::Auto
        && desired.status.phase == Phase::Running
        && desired.metadata.deletion_timestamp.is_none()
}

/// Lets it rest in this way and for this reason, unless it is busy, or that is not known yet.
pub fn unless_busy(desired: &Instance, activity: ActivitySeen, rest: (Want, Because)) -> (Want, Because) {
    if !is_asked(desired) {
        return rest;
    }
    match activity.busy.answer {
        Answer::Idle => rest,
        Answer::Busy => (Want::Run, Because::Busy),
        Answer::Unknown | Answer::Silent => (Want::Run, Because::Asking),
    }
}

/// How long until it would be frozen or put to sleep if it were not busy; `None`: it is not asked, as something else decides.
pub fn until_question(desired: &Instance, activity: ActivitySeen, now: Timestamp) -> Option<Duration> {
    if !is_asked(desired) || activity.open > 0 || desired.is_sent_to_sleep() || is_kept_awake(desired, now) {
        return None;
    }
    if activity.yields {
        return Some(Duration::ZERO);
    }
    let (sleep, frozen) = (until_sleep(desired, activity, now), until_frozen(desired, activity, now));
    sleep.map(|sleep| frozen.map_or(sleep, |frozen| sleep.min(frozen)))
}

/// When one that runs is to be looked at for its rest, which is `left` away.
pub fn next_look(desired: &Instance, activity: ActivitySeen, left: Duration) -> Duration {
    if !is_asked(desired) {
        return left;
    }
    if left.is_zero() || activity.yields {
        return activity.busy.again;
    }
    match desired.spec.idle.busy_cpu {
        Some(_) if left > WINDOW => left - WINDOW,
        Some(_) | None => left,
    }
}

#[cfg(test)]
#[path = "wakefulness/tests.rs"]
mod tests;
