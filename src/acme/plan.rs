//! Which names a certificate is ordered for now, and when to look again: by what is wanted, what is held, what was tried, and
//! the time. Pure.
//!
//! The bounds keep an account below what Let's Encrypt takes of one: 300 new orders in three hours, and five failures of a
//! name in an hour. An attempt counts from before it begins, so that a server that dies in the middle of it, again and
//! again, tries no more often than one that lives.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::renewal::Window;
use crate::runtime::Backoff;

/// Orders are counted over this time.
pub const WINDOW: SignedDuration = SignedDuration::from_hours(3);
/// Orders within any [`WINDOW`].
pub const MOST: usize = 240;
/// Those of them that are for names without a certificate: what is left is for renewals, whoever makes however many new names.
pub const MOST_NEW: usize = 200;
/// Orders under way at a time.
pub const AT_ONCE: usize = 4;
/// After a failure of one name: three attempts in the first hour.
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(15 * 60), max: Duration::from_secs(24 * 60 * 60) };
/// However long the ACME server asks to wait.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// When it says that it was asked too often, and not for how long to wait.
const UNTOLD: Duration = Duration::from_secs(60 * 60);

/// The names that are to have a certificate, each with the namespace that wants it.
pub type Wanted = BTreeMap<String, String>;

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub begins: Timestamp,
    pub ends: Timestamp,
    /// When its ACME server suggests that it be renewed.
    pub window: Option<Window>,
}

impl Span {
    /// When it is to be renewed: in the time that the ACME server suggests, but not within its first day (or twentieth of its
    /// life, if that is shorter), so that a server which says the same of each new one cannot have one ordered without end; and
    /// not later than while a tenth of its life is left.
    ///
    /// Without a suggestion two thirds into its life, or up to a twentieth of it earlier. In either case certificates that were
    /// ordered together are not renewed together, and it is the same whenever it is asked.
    pub fn renewal(&self, name: &str) -> Timestamp {
        let life = self.ends.duration_since(self.begins);
        let mut hasher = DefaultHasher::new();
        (name, self.begins.as_second()).hash(&mut hasher);
        let hash = hasher.finish();
        let share = |of: u64| i32::try_from(hash % of).unwrap_or_default();
        let after = |of_life: SignedDuration| self.begins.checked_add(of_life).unwrap_or(self.ends);
        match self.window {
            Some(window) => {
                let (first, last) = (after((life / 20).min(SignedDuration::from_hours(24))), after(life / 10 * 9));
                window.moment(share(1000)).max(first).min(last)
            }
            None => after(life / 3 * 2 - life / 1000 * share(50)),
        }
    }
}

/// A time from which on something is not done for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rest {
    since: Timestamp,
    /// Seconds.
    wait: u64,
}

impl Rest {
    fn of(now: Timestamp, wait: Duration) -> Rest {
        Rest { since: now, wait: wait.min(LONGEST).as_secs() }
    }

    /// Until when; `None` when it is over, or was begun by a clock that was wrong.
    fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let end = self.since.checked_add(SignedDuration::from_secs(i64::try_from(self.wait).ok()?)).ok()?;
        (self.since <= now && now < end).then_some(end)
    }
}

/// What became of the last attempts for a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// In a row; one that is under way, or was when the server died, counts.
    pub failures: u32,
    rest: Rest,
    /// What the last one failed by; empty while none has ended.
    pub why: String,
}

impl Tried {
    /// When it is tried again, if that is not now.
    pub fn again(&self, now: Timestamp) -> Option<Timestamp> {
        self.rest.until(now)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ordered {
    at: Timestamp,
    namespace: String,
    /// For a name that had no certificate.
    new: bool,
}

/// What was tried: kept over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// By name; those without are as good as new.
    tried: BTreeMap<String, Tried>,
    /// Within the last [`WINDOW`].
    ordered: Vec<Ordered>,
    /// Domains below which the ACME server takes no new names for a while.
    paused: BTreeMap<String, Rest>,
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For people.
    pub why: String,
    /// The ACME server was asked too often (RFC 8555 §6.6).
    pub limited: bool,
    /// How long it asks to wait.
    pub wait: Option<Duration>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Names to order a certificate for at once.
    pub order: Vec<String>,
    /// When something else becomes due; `None`: not by time alone.
    pub look: Option<Timestamp>,
}

impl Ledger {
    /// To be written down before the order is made.
    pub fn begin(&mut self, name: &str, namespace: &str, new: bool, now: Timestamp) {
        self.ordered.push(Ordered { at: now, namespace: namespace.to_owned(), new });
        let (failures, why) = self.tried.remove(name).map_or((1, String::new()), |t| (t.failures + 1, t.why));
        let rest = Rest::of(now, BACKOFF.delay(&name, failures));
        self.tried.insert(name.to_owned(), Tried { failures, rest, why });
    }

    pub fn succeed(&mut self, name: &str) {
        self.tried.remove(name);
    }

    /// The attempt that was begun has come to this.
    pub fn fail(&mut self, name: &str, refusal: &Refusal, now: Timestamp) {
        let failures = self.tried.get(name).map_or(1, |tried| tried.failures);
        let asked = refusal.wait.or(refusal.limited.then_some(UNTOLD)).unwrap_or_default();
        let rest = Rest::of(now, BACKOFF.delay(&name, failures).max(asked));
        self.tried.insert(name.to_owned(), Tried { failures, rest, why: refusal.why.clone() });
        if refusal.limited {
            self.paused.insert(domain(name).to_owned(), Rest::of(now, asked));
        }
    }

    /// What is known of a name that has failed.
    pub fn tried(&self, name: &str) -> Option<&Tried> {
        self.tried.get(name)
    }

    /// Names whose last attempt has failed.
    pub fn failing(&self) -> impl Iterator<Item = &str> {
        self.tried.iter().filter(|(_, tried)| !tried.why.is_empty()).map(|(name, _)| name.as_str())
    }

    /// Until when no new names are ordered of the domain that this one is in.
    pub fn paused(&self, name: &str, now: Timestamp) -> Option<Timestamp> {
        self.paused.get(domain(name)).and_then(|rest| rest.until(now))
    }

    /// When there is room for the order of a new name; `None`: there is.
    pub fn room_for_new(&self, now: Timestamp) -> Option<Timestamp> {
        self.room(MOST, now, |_| true).max(self.room(MOST_NEW, now, |order| order.new))
    }

    /// Forgets what says nothing any more.
    pub fn prune(&mut self, wanted: &Wanted, now: Timestamp) {
        self.tried.retain(|name, tried| wanted.contains_key(name) || tried.again(now).is_some());
        self.ordered.retain(|order| order.at <= now && now.duration_since(order.at) < WINDOW);
        self.paused.retain(|_, rest| rest.until(now).is_some());
    }

    /// When as many orders as now count have become fewer than `most`; `None`: they are.
    fn room(&self, most: usize, now: Timestamp, counts: impl Fn(&Ordered) -> bool) -> Option<Timestamp> {
        let recent = |order: &&Ordered| order.at <= now && now.duration_since(order.at) < WINDOW;
        let mut times: Vec<Timestamp> =
            self.ordered.iter().filter(recent).filter(|o| counts(o)).map(|o| o.at).collect();
        times.sort_unstable();
        let over = times.len().checked_sub(most)?;
        times[over].checked_add(WINDOW).ok()
    }
}

/// The domain whose names the ACME server may count together: all but the first label, where that leaves two.
fn domain(name: &str) -> &str {
    name.split_once('.').map(|(_, rest)| rest).filter(|rest| rest.contains('.')).unwrap_or(name)
}

/// What is due for a name.
struct Candidate<'a> {
    name: &'a str,
    namespace: &'a str,
    new: bool,
    /// Of what it has; for a new name no time.
    ends: Option<Timestamp>,
    failures: u32,
}

/// Decides. `wanted` has no name that another certificate is for. Renewals go first, by their end; new names by how often they
/// have failed, and among those by how much their namespace has ordered lately: one that makes thousands keeps nobody waiting.
pub fn plan(
    wanted: &Wanted,
    held: &BTreeMap<String, Span>,
    ledger: &Ledger,
    under_way: &BTreeSet<String>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let mut due = vec![];
    for (name, namespace) in wanted.iter().filter(|(name, _)| !under_way.contains(*name)) {
        let span = held.get(name).filter(|span| now < span.ends);
        let tried = ledger.tried.get(name);
        let renewal = span.map(|span| span.renewal(name)).filter(|at| now < *at);
        let paused = ledger.paused(name, now).filter(|_| span.is_none());
        let waits = [renewal, tried.and_then(|tried| tried.again(now)), paused].into_iter().flatten().max();
        match waits {
            Some(at) => plan.later(at),
            None => due.push(Candidate {
                name,
                namespace,
                new: span.is_none(),
                ends: span.map(|span| span.ends),
                failures: tried.map_or(0, |tried| tried.failures),
            }),
        }
    }
    let mut places = AT_ONCE.saturating_sub(under_way.len());
    let mut spent = ledger.clone();
    while places > 0 {
        let room = spent.room(MOST, now, |_| true);
        let room_for_new = spent.room_for_new(now);
        let lately = |c: &Candidate<'_>| spent.ordered.iter().filter(|o| o.namespace == c.namespace).count();
        let may = due.iter().enumerate().filter(|(_, c)| if c.new { room_for_new } else { room }.is_none());
        let first = may.min_by_key(|(_, c)| (c.new, c.ends, c.failures, if c.new { lately(c) } else { 0 }, c.name));
        let Some(at) = first.map(|(at, _)| at) else {
            due.iter().filter_map(|c| if c.new { room_for_new } else { room }).for_each(|at| plan.later(at));
            break;
        };
        let chosen = due.swap_remove(at);
        spent.begin(chosen.name, chosen.namespace, chosen.new, now);
        plan.order.push(chosen.name.to_owned());
        places -= 1;
    }
    plan
}

impl Plan {
    fn later(&mut self, at: Timestamp) {
        self.look = Some(self.look.map_or(at, |look| look.min(at)));
    }
}

#[cfg(test)]
mod tests;
