//! What keeps everybody out of a route, whatever they show: remembered for whoever asks, and told once in a while.
//!
//! ```text
//! admit ──obstacle, or none──▶ Obstacles ──at the first, and then seldom──▶ Witness (an Event)
//!                                 └──since when──▶ Access::problems (`portreeve why`)
//! ```
//!
//! A request writes nothing: of one route the same words are told at most every [`AGAIN`], and any words at most every
//! [`PAUSE`], however many visitors come and however often it comes and goes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::Asked;
use crate::clock::SharedClock;
use crate::model::{AuthMode, Instance, Resource as _, Route};

/// The same is told again after so long, if it still is so.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// Other words are told after so long.
const PAUSE: Duration = Duration::from_secs(60);
/// What nobody has run into for so long is forgotten.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// Most routes that are remembered; what others run into is told to nobody meanwhile.
const MOST: usize = 4096;

/// Who is told what keeps everybody out of a route. Called seldom, and returns at once.
pub trait Witness: Send + Sync + 'static {
    /// `reason`: one word in CamelCase. The message names the field; it holds no value of a Secret.
    fn obstructed(&self, instance: &Instance, reason: &'static str, message: String);
}

/// Tells nobody.
pub struct Nobody;

impl Witness for Nobody {
    fn obstructed(&self, _: &Instance, _: &'static str, _: String) {}
}

/// What keeps everybody out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub reason: &'static str,
    /// Below `spec.routes[i].auth`, or, if it is another's, of the Instance.
    pub field: &'static str,
    /// What is wrong, in words that stay the same while it does.
    pub why: String,
}

impl Obstacle {
    pub fn secret(field: &'static str, why: String) -> Obstacle {
        Obstacle { reason: "SecretUnavailable", field, why }
    }

    /// A service may fail one visitor by what that one asked for.
    pub fn whom(&self) -> &'static str {
        if self.reason == super::forward::AWAY { "a visitor could not be let in" } else { "nobody is let in" }
    }

    /// The path of the field that it comes from.
    pub fn path(&self, route: usize) -> String {
        if self.field.starts_with("spec.") {
            self.field.to_owned()
        } else {
            format!("spec.routes[{route}].auth.{}", self.field)
        }
    }
}

/// An URL as it may be shown: without what may be a secret in it.
pub fn shown_url(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// An instance's uid, and the place of the route.
type At = (String, usize);

pub struct Obstacles {
    clock: SharedClock,
    witness: Arc<dyn Witness>,
    by_route: Mutex<Routes>,
    /// How many of them are in the way now: mostly none, which costs a request no lock.
    standing: AtomicUsize,
}

#[derive(Default)]
struct Routes {
    entries: HashMap<At, Entry>,
    /// When old entries were looked for last.
    swept: Duration,
}

struct Entry {
    /// `None`: it is out of the way.
    since: Option<Timestamp>,
    last: Obstacle,
    /// Of the Instance, as the last visitor ran into it.
    generation: i64,
    /// What was told last, and when on the monotonic clock.
    told: (String, Duration),
    seen: Duration,
}

impl Obstacles {
    pub fn new(clock: SharedClock, witness: Arc<dyn Witness>) -> Obstacles {
        Obstacles { clock, witness, by_route: Mutex::default(), standing: AtomicUsize::new(0) }
    }

    /// Those that somebody has run into lately.
    fn routes(&self, now: Duration) -> MutexGuard<'_, Routes> {
        let mut routes = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(routes.swept) >= PAUSE {
            routes.swept = now;
            routes.entries.retain(|_, entry| now.saturating_sub(entry.seen) < KEPT);
            let standing = routes.entries.values().filter(|entry| entry.since.is_some()).count();
            self.standing.store(standing, Ordering::Relaxed);
        }
        routes
    }

    /// A visitor has run into it.
    pub fn met(&self, asked: &Asked<'_>, obstacle: &Obstacle) {
        let Some(at) = place(asked) else { return };
        let message = format!("{}: {}: {}", obstacle.path(at.1), obstacle.whom(), obstacle.why);
        let now = self.clock.monotonic();
        let mut routes = self.routes(now);
        let first = !routes.entries.contains_key(&at);
        if first && routes.entries.len() >= MOST {
            return;
        }
        let entry = routes.entries.entry(at).or_insert_with(|| Entry {
            since: None,
            last: obstacle.clone(),
            generation: 0,
            told: (String::new(), now),
            seen: now,
        });
        if entry.since.is_none() {
            entry.since = Some(self.clock.now());
            self.standing.fetch_add(1, Ordering::Relaxed);
        }
        entry.seen = now;
        entry.last = obstacle.clone();
        entry.generation = asked.instance.metadata.generation;
        let (words, age) = (&entry.told.0, now.saturating_sub(entry.told.1));
        let tell = first || age >= AGAIN || (*words != message && age >= PAUSE);
        if tell {
            entry.told = (message.clone(), now);
        }
        drop(routes);
        if tell {
            tracing::warn!(instance = %asked.instance.key(), message, "a route is closed to everybody");
            self.witness.obstructed(asked.instance, obstacle.reason, message);
        }
    }

    /// A visitor was judged: nothing is in the way.
    pub fn gone(&self, asked: &Asked<'_>) {
        // An open route has nothing that could be in the way.
        let open = asked.route.is_none_or(|route| route.auth.mode == AuthMode::None);
        if open || self.standing.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(at) = place(asked) else { return };
        let mut routes = self.routes(self.clock.monotonic());
        if routes.entries.get_mut(&at).and_then(|entry| entry.since.take()).is_some() {
            self.standing.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What the last visitor of a route ran into, and since when visitors do; nothing once the Instance was changed.
    pub fn last(&self, instance: &Instance, route: usize) -> Option<(Obstacle, Timestamp)> {
        let routes = self.routes(self.clock.monotonic());
        let entry = routes.entries.get(&(instance.metadata.uid.clone(), route))?;
        if entry.generation != instance.metadata.generation {
            return None;
        }
        Some((entry.last.clone(), entry.since?))
    }
}

fn place(asked: &Asked<'_>) -> Option<At> {
    let route: &Route = asked.route?;
    let at = asked.instance.spec.routes.iter().position(|one| std::ptr::eq(one, route))?;
    Some((asked.instance.metadata.uid.clone(), at))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::time::advance;

    use super::*;
    use crate::clock::VirtualClock;
    use crate::model::RouteAuth;
    use crate::proxy::forwarded::Visitor;

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Witness for Told {
        fn obstructed(&self, _: &Instance, reason: &'static str, message: String) {
            self.0.lock().unwrap().push(format!("{reason} {message}"));
        }
    }

    fn secret(why: &str) -> Obstacle {
        Obstacle::secret("token.secretKeyRef", why.to_owned())
    }

    fn route() -> Route {
        Route { auth: RouteAuth { mode: AuthMode::Token, ..RouteAuth::default() }, ..Route::default() }
    }

    /// Runs with a request to the second of two routes.
    fn asking(instance: &Instance, then: impl FnOnce(&Asked<'_>)) {
        let (head, ()) = Request::new(()).into_parts();
        let visitor = Visitor { hops: vec![], secure: false, host: None, port: None };
        let route = instance.spec.routes.get(1);
        then(&Asked { head: &head, visitor: &visitor, instance, route, host: "a.test" });
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_run_into_it_it_is_told_at_once_and_then_seldom() {
        let (clock, told) = (VirtualClock::new(), Arc::<Told>::default());
        let obstacles = Obstacles::new(clock.clone(), told.clone());
        let mut instance = Instance::default();
        instance.metadata.uid = "u".into();
        instance.spec.routes = vec![route(), route()];
        let began = clock.now();
        let rounds = |n: u64| AGAIN.as_secs() * n / 10;
        for second in 0..rounds(25) {
            asking(&instance, |asked| {
                obstacles.met(asked, &secret("gone"));
                if second % 7 == 0 {
                    obstacles.gone(asked);
                }
            });
            advance(Duration::from_secs(1)).await;
        }
        let words = "SecretUnavailable spec.routes[1].auth.token.secretKeyRef: nobody is let in: gone".to_owned();
        assert_eq!(*told.0.lock().unwrap(), [words.clone(), words.clone(), words.clone()]);
        assert_eq!(obstacles.last(&instance, 0), None, "the other route");
        let (last, since) = obstacles.last(&instance, 1).unwrap();
        assert!(last == secret("gone") && since > began, "{last:?} {since}");

        for i in 0..rounds(10) {
            asking(&instance, |asked| obstacles.met(asked, &secret(if i % 2 == 0 { "one" } else { "two" })));
            advance(Duration::from_secs(1)).await;
        }
        let others = told.0.lock().unwrap().len() - 3;
        assert!((2..=10).contains(&others), "other words, but not with each request: {others}");
        asking(&instance, |asked| obstacles.gone(asked));
        assert_eq!((obstacles.last(&instance, 1), obstacles.standing.load(Ordering::Relaxed)), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_met_before_a_change_says_nothing_and_what_nobody_meets_is_forgotten() {
        let (clock, told) = (VirtualClock::new(), Arc::<Told>::default());
        let obstacles = Obstacles::new(clock.clone(), told);
        let mut instance = Instance::default();
        instance.spec.routes = vec![route(), route()];
        for uid in 0..20 {
            instance.metadata.uid = uid.to_string();
            asking(&instance, |asked| obstacles.met(asked, &secret("gone")));
        }
        assert!(obstacles.last(&instance, 1).is_some());
        instance.metadata.generation += 1;
        assert_eq!(obstacles.last(&instance, 1), None);
        advance(KEPT).await;
        instance.metadata.uid = "another".into();
        asking(&instance, |asked| obstacles.met(asked, &secret("gone")));
        let known = obstacles.routes(clock.monotonic()).entries.len();
        assert_eq!((known, obstacles.standing.load(Ordering::Relaxed)), (1, 1));
    }
}
