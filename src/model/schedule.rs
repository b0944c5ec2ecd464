//! When an Instance is kept awake, or at rest, by the clock: stretches of time that begin by a cron pattern in a time zone.
//! Everything is a pure function of what was written and of the time; the rules of the zones are those of the program.
//!
//! A stretch lasts for as long as it says in elapsed time: over a change of the clocks it ends an hour earlier or later by the
//! wall clock. One that would begin in an hour that is left out begins right after it; in an hour that comes twice, the first
//! time (patterns that name one time of day), or both times (all others).

use std::sync::LazyLock;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::validate::quoted;
use super::{FieldError, FieldErrors, Span};

/// The zones that this program was built with.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

const UTC: &str = "UTC";
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
const MOST_CRON: usize = 100;
/// What goes on for longer than that, one stretch after the other, is told as having no end.
const ENDLESS: Duration = Duration::from_secs(31 * 24 * 3600);
/// Ends that are looked at to find the last one.
const MOST_ENDS: usize = 1000;

/// What an Instance is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Keep {
    /// It is woken at the beginning and does not fall asleep within. Where both hold, it is kept awake.
    Awake,
    /// It falls asleep as soon as nobody has used it for a minute (or for `idle.after`, if that is shorter); a visitor still
    /// wakes it, which `power: Stopped` prevents.
    Asleep,
}

/// A stretch of time that comes again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stretch {
    /// What it is kept in.
    pub keep: Keep,
    /// When it begins: minute, hour, day of the month, month and day of the week, as in cron: `0 8 * * 1-5`.
    #[schemars(length(min = 1, max = 100))]
    pub cron: String,
    /// How long it lasts, in elapsed time: from 1m to 168h.
    #[serde(rename = "for")]
    pub lasts: Span,
    /// The time zone of `cron`, by its name in the IANA database: `Europe/Berlin`. Default: UTC.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 64))]
    pub time_zone: String,
}

/// A stretch that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its place in the list.
    pub index: usize,
    pub keep: Keep,
    /// At which it holds.
    pub at: Timestamp,
    /// The end of this stretch; another may follow without a gap: see [`end`].
    pub until: Timestamp,
}

impl Stretch {
    pub fn zone(&self) -> &str {
        if self.time_zone.is_empty() { UTC } else { &self.time_zone }
    }

    /// A time as people of its zone write it: `2026-03-01 18:00 Europe/Berlin`.
    pub fn in_zone(&self, at: Timestamp) -> String {
        let zone = zone(self.zone()).unwrap_or(TimeZone::UTC);
        at.to_zoned(zone).strftime("%Y-%m-%d %H:%M %Q").to_string()
    }

    /// Pattern and zone; `None`: what was written means nothing to this program, so that it never begins.
    fn parsed(&self) -> Option<(Cron, TimeZone)> {
        Some((cron(&self.cron).ok()?, zone(self.zone())?))
    }

    /// When the last one began of those that have begun by `now`.
    fn began(&self, now: Timestamp) -> Option<Timestamp> {
        let (cron, zone) = self.parsed()?;
        let at: Zoned = cron.find_previous_occurrence(&now.to_zoned(zone), true).ok()?;
        Some(at.timestamp())
    }

    /// When the next one begins, after `now`.
    pub fn begins(&self, now: Timestamp) -> Option<Timestamp> {
        let (cron, zone) = self.parsed()?;
        let at: Zoned = cron.find_next_occurrence(&now.to_zoned(zone), false).ok()?;
        Some(at.timestamp())
    }

    /// Its end, if `now` lies in it.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let end = self.began(now)?.checked_add(self.lasts.duration()).ok()?;
        (end > now).then_some(end)
    }
}

/// What holds at `now`: of several, Awake before Asleep, and then the one that ends last.
pub fn held(schedule: &[Stretch], now: Timestamp) -> Option<Held> {
    let all = schedule.iter().enumerate().filter_map(|(index, stretch)| {
        let until = stretch.until(now)?;
        Some(Held { index, keep: stretch.keep, at: now, until })
    });
    all.max_by_key(|held| (held.keep == Keep::Awake, held.until, std::cmp::Reverse(held.index)))
}

/// When what holds is over, whichever stretches follow without a gap; `None`: they renew themselves, and that is not in sight.
/// What wants it at rest is over when it is kept awake.
pub fn end(schedule: &[Stretch], holds: &Held) -> Option<Timestamp> {
    let alike: Vec<&Stretch> = schedule.iter().filter(|stretch| stretch.keep == holds.keep).collect();
    let awake = schedule.iter().filter(|stretch| holds.keep == Keep::Asleep && stretch.keep == Keep::Awake);
    let awake = awake.filter_map(|stretch| stretch.begins(holds.at)).min();
    let (sight, mut end) = (holds.at.checked_add(ENDLESS).ok()?, holds.until);
    for _ in 0..MOST_ENDS / alike.len().max(1) {
        if awake.is_some_and(|awake| awake <= end) {
            return awake;
        }
        match alike.iter().filter_map(|stretch| stretch.until(end)).max() {
            Some(later) if later <= sight => end = later,
            Some(_) => break,
            None => return Some(end),
        }
    }
    awake.filter(|awake| *awake <= sight)
}

/// Whether it is wanted at rest at any time from `from` on and before `to`.
pub fn rests_within(schedule: &[Stretch], from: Timestamp, to: Timestamp) -> bool {
    let mut asleep = schedule.iter().filter(|stretch| stretch.keep == Keep::Asleep);
    from < to
        && asleep.any(|stretch| stretch.until(from).is_some() || stretch.begins(from).is_some_and(|begins| begins < to))
}

/// When it is wanted at rest next, after `now`, and by which.
pub fn next_rest(schedule: &[Stretch], now: Timestamp) -> Option<(Timestamp, usize)> {
    next_of(schedule, Keep::Asleep, now)
}

/// When something begins or ends next, after `now`.
pub fn next_change(schedule: &[Stretch], now: Timestamp) -> Option<Timestamp> {
    schedule.iter().flat_map(|stretch| [stretch.until(now), stretch.begins(now)]).flatten().min()
}

/// When it is kept awake next, after `now`, and by which.
pub fn next_awake(schedule: &[Stretch], now: Timestamp) -> Option<(Timestamp, usize)> {
    next_of(schedule, Keep::Awake, now)
}

fn next_of(schedule: &[Stretch], keep: Keep, now: Timestamp) -> Option<(Timestamp, usize)> {
    let alike = schedule.iter().enumerate().filter(|(_, stretch)| stretch.keep == keep);
    alike.filter_map(|(index, stretch)| Some((stretch.begins(now)?, index))).min()
}

fn zone(name: &str) -> Option<TimeZone> {
    ZONES.get(name).ok().filter(|zone| !zone.is_unknown())
}

fn cron(text: &str) -> Result<Cron, String> {
    if !text.is_ascii() || text.len() > MOST_CRON {
        return Err(format!("at most {MOST_CRON} characters of ASCII"));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(text).map_err(|e| e.to_string())
}

/// Whether it ever begins: 30 February does not.
fn comes(cron: &Cron) -> bool {
    let from = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    cron.find_next_occurrence(&from, false).is_ok_and(|next: Zoned| next.year() < 2100)
}

pub fn validate_schedule(schedule: &[Stretch], errors: &mut FieldErrors) {
    let path = "spec.idle.schedule";
    for (i, stretch) in schedule.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let told =
            |field: &str, value: &str, why: &str| FieldError::invalid(format!("{path}.{field}"), quoted(value), why);
        match cron(&stretch.cron) {
            Ok(cron) if comes(&cron) => {}
            Ok(_) => errors.push(told("cron", &stretch.cron, "must be a time that comes")),
            Err(why) => {
                let why = format!("must be minute, hour, day of month, month and day of week, as in cron: {why}");
                errors.push(told("cron", &stretch.cron, &why));
            }
        }
        if !(SHORTEST..=LONGEST).contains(&stretch.lasts.duration()) {
            errors.push(told("for", &stretch.lasts.to_string(), "must be from 1m to 168h"));
        }
        if zone(stretch.zone()).is_none() {
            let why = "must be a name of the IANA time zone database, such as Europe/Berlin";
            errors.push(told("timeZone", &stretch.time_zone, why));
        }
    }
}

#[cfg(test)]
#[path = "schedule/tests.rs"]
mod tests;
