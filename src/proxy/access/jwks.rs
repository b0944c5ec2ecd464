//! The keys of issuers, as far as they are known: fetched when they are needed, and kept.
//!
//! ```text
//! jwt ──url, kid──▶ KeySets ──known and fresh──▶ at once   (each set with the tokens that it was found to have signed)
//!                      ├──known, older──▶ at once, and asked for anew meanwhile
//!                      └──not known──▶ asked for, at most once a minute; then what is there
//! ```
//!
//! Invariants: of one URL at most one fetch is under way, and none begins within [`ASK_EVERY`] of the last, whether that
//! went well or not; a fetch goes on when whoever waited for it has left; what is older than [`KEPT`] counts for nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::ACCEPT;
use http::{Request, StatusCode};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::Fetch;
use super::jwt::Keys;
use crate::clock::SharedClock;

/// How long keys are taken without asking whether they are still the issuer's.
pub const FRESH: Duration = Duration::from_secs(5 * 60);
/// The least time from one question to the next.
pub const ASK_EVERY: Duration = Duration::from_secs(60);
/// How long keys count that cannot be had anew.
pub const KEPT: Duration = Duration::from_secs(6 * 60 * 60);
/// For an answer, to its last byte.
const WITHIN: Duration = Duration::from_secs(5);
/// Bytes of a set.
const MOST_BYTES: usize = 256 * 1024;

/// No key is known, and none can be had now.
#[derive(Debug, PartialEq, Eq)]
pub struct Away;

pub struct KeySets {
    fetch: Arc<dyn Fetch>,
    clock: SharedClock,
    /// By URL: one for all instances that name it.
    sources: Mutex<HashMap<String, Arc<Source>>>,
}

struct Source {
    url: String,
    state: Mutex<State>,
    answered: watch::Sender<()>,
}

/// Times are of the monotonic clock.
#[derive(Default)]
struct State {
    keys: Option<Arc<Keys>>,
    fetched: Duration,
    asked: Option<Duration>,
    asking: bool,
    used: Duration,
    /// Since when every question has come to nothing, by the wall clock, and what the last one came to.
    failing: Option<(Timestamp, String)>,
}

/// An issuer whose keys cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    pub since: Timestamp,
    pub why: String,
    /// How long those count that are known; `None`: there are none.
    pub counts: Option<Timestamp>,
    /// From when on a visitor has them asked for again.
    pub again: Timestamp,
}

impl Source {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a look at a source comes to.
enum Look {
    Keys(Arc<Keys>),
    Away,
    Wait,
}

impl KeySets {
    pub fn new(fetch: Arc<dyn Fetch>, clock: SharedClock) -> KeySets {
        KeySets { fetch, clock, sources: Mutex::default() }
    }

    /// The keys at `url`, asked for anew if none of them is `kid`: the answer may be without it.
    pub async fn at(&self, url: &str, kid: Option<&str>) -> Result<Arc<Keys>, Away> {
        let source = self.source(url);
        // Before the first look, so that no answer is missed after it.
        let mut answered = source.answered.subscribe();
        loop {
            match self.look(&source, kid) {
                Look::Keys(keys) => return Ok(keys),
                Look::Away => return Err(Away),
                Look::Wait => answered.changed().await.map_err(|_| Away)?,
            }
        }
    }

    /// What the last question at `url` came to, if it came to nothing. Asks nothing.
    pub fn failing(&self, url: &str) -> Option<Failing> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let source = sources.get(url)?.clone();
        drop(sources);
        let (now, wall) = (self.clock.monotonic(), self.clock.now());
        let state = source.state();
        let (since, why) = state.failing.clone()?;
        let ahead = |at: Duration| wall + SignedDuration::try_from(at.saturating_sub(now)).unwrap_or_default();
        let counts = state.keys.is_some().then(|| state.fetched + KEPT).filter(|end| *end > now).map(ahead);
        Some(Failing { since, why, counts, again: ahead(state.asked.unwrap_or_default() + ASK_EVERY) })
    }

    /// The keys at `url`, if nobody needs to be asked for them.
    pub fn fresh(&self, url: &str) -> Option<Arc<Keys>> {
        let now = self.clock.monotonic();
        let source = self.sources.lock().unwrap_or_else(PoisonError::into_inner).get(url).cloned()?;
        let mut state = source.state();
        state.used = now;
        state.keys.clone().filter(|_| now.saturating_sub(state.fetched) < FRESH)
    }

    fn look(&self, source: &Arc<Source>, kid: Option<&str>) -> Look {
        let now = self.clock.monotonic();
        let mut state = source.state();
        state.used = now;
        let age = now.saturating_sub(state.fetched);
        let kept = state.keys.clone().filter(|_| age < KEPT);
        let known = kept.as_ref().is_some_and(|keys| keys.has(kid));
        let may_ask = !state.asking && state.asked.is_none_or(|asked| now.saturating_sub(asked) >= ASK_EVERY);
        if may_ask && !(known && age < FRESH) {
            state.asking = true;
            state.asked = Some(now);
            tokio::spawn(ask(self.fetch.clone(), self.clock.clone(), source.clone()));
        }
        match kept {
            Some(keys) if known || !state.asking => Look::Keys(keys),
            None if !state.asking => Look::Away,
            Some(_) | None => Look::Wait,
        }
    }

    fn source(&self, url: &str) -> Arc<Source> {
        let now = self.clock.monotonic();
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get(url) {
            return source.clone();
        }
        // A URL that nobody names any more is forgotten when there is a new one.
        sources.retain(|_, source| now.saturating_sub(source.state().used) < KEPT);
        let state = Mutex::new(State { used: now, ..State::default() });
        let source = Arc::new(Source { url: url.to_owned(), state, answered: watch::Sender::new(()) });
        sources.insert(url.to_owned(), source.clone());
        source
    }
}

/// A task of its own: a visitor who leaves must not cost the others their one question a minute.
async fn ask(fetch: Arc<dyn Fetch>, clock: SharedClock, source: Arc<Source>) {
    // However this ends, those who wait look again.
    let _answered = Answered(&source);
    let fetched = tokio::time::timeout(WITHIN, fetch_keys(&*fetch, &source.url)).await;
    let keys = fetched.unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())));
    match keys {
        Ok(keys) => {
            let mut state = source.state();
            state.keys = Some(Arc::new(keys));
            state.fetched = clock.monotonic();
            state.failing = None;
        }
        Err(why) => {
            tracing::warn!(url = %source.url, %why, "cannot fetch an issuer's keys");
            let mut state = source.state();
            let since = state.failing.as_ref().map_or_else(|| clock.now(), |(since, _)| *since);
            state.failing = Some((since, why));
        }
    }
}

struct Answered<'a>(&'a Source);

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        self.0.state().asking = false;
        self.0.answered.send_replace(());
    }
}

async fn fetch_keys(fetch: &dyn Fetch, url: &str) -> Result<Keys, String> {
    let request = Request::get(url).header(ACCEPT, "application/json").body(()).map_err(|e| e.to_string())?;
    let response = fetch.fetch(request, MOST_BYTES).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answered {}", response.status()));
    }
    Keys::parse(response.body()).ok_or_else(|| "its answer is no set of keys with one that can be used".to_owned())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use http::Response;
    use serde_json::json;
    use tokio::time::advance;

    use super::*;
    use crate::clock::VirtualClock;

    /// Answers with one key of this name, or not at all.
    #[derive(Default)]
    struct Issuer {
        kid: Mutex<Option<&'static str>>,
        asked: Mutex<usize>,
        slow: Mutex<Duration>,
    }

    #[async_trait]
    impl Fetch for Issuer {
        async fn fetch(&self, _: Request<()>, _: usize) -> Result<Response<Bytes>, String> {
            *self.asked.lock().unwrap() += 1;
            let slow = *self.slow.lock().unwrap();
            tokio::time::sleep(slow).await;
            let kid = self.kid.lock().unwrap().ok_or("down")?;
            let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
            let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid}]});
            Ok(Response::new(set.to_string().into()))
        }
    }

    const URL: &str = "https://issuer.test/jwks";

    fn sets(kid: Option<&'static str>) -> (Arc<KeySets>, Arc<Issuer>) {
        let issuer = Arc::new(Issuer { kid: Mutex::new(kid), ..Default::default() });
        (Arc::new(KeySets::new(issuer.clone(), VirtualClock::new())), issuer)
    }

    fn asked(issuer: &Issuer) -> usize {
        *issuer.asked.lock().unwrap()
    }

    async fn has(sets: &KeySets, kid: &str) -> Result<bool, Away> {
        sets.at(URL, Some(kid)).await.map(|keys| keys.has(Some(kid)))
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_once_for_all_and_an_unknown_one_asks_at_most_once_a_minute() {
        let (sets, issuer) = sets(Some("a"));
        let many = futures::future::join_all((0..50).map(|_| has(&sets, "a"))).await;
        assert!(many.into_iter().all(|found| found == Ok(true)));
        assert_eq!(asked(&issuer), 1);
        for _ in 0..50 {
            assert_eq!(has(&sets, "b").await, Ok(false));
        }
        assert_eq!(asked(&issuer), 1, "it was asked a moment ago");
        *issuer.kid.lock().unwrap() = Some("b");
        advance(ASK_EVERY).await;
        let many = futures::future::join_all((0..50).map(|_| has(&sets, "b"))).await;
        assert!(many.into_iter().all(|found| found == Ok(true)));
        assert_eq!(asked(&issuer), 2);
        assert_eq!(has(&sets, "a").await, Ok(false), "what the issuer took back opens nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_that_is_away_is_asked_once_a_minute_and_its_keys_count_for_a_while() {
        let (sets, issuer) = sets(None);
        for minute in 1..=3 {
            for _ in 0..20 {
                assert_eq!(has(&sets, "a").await, Err(Away));
            }
            assert_eq!(asked(&issuer), minute);
            advance(ASK_EVERY).await;
        }
        *issuer.kid.lock().unwrap() = Some("a");
        assert_eq!(has(&sets, "a").await, Ok(true));
        *issuer.kid.lock().unwrap() = None;
        advance(KEPT - ASK_EVERY).await;
        assert_eq!(has(&sets, "a").await, Ok(true), "old, and nobody has said otherwise");
        assert_eq!(has(&sets, "b").await, Ok(false));
        let failing = sets.failing(URL).unwrap();
        assert_eq!((failing.why.as_str(), failing.counts), ("down", Some(sets.clock.now() + ASK_EVERY)));
        assert_eq!((failing.since, failing.again), (sets.clock.now(), sets.clock.now() + ASK_EVERY));
        advance(ASK_EVERY).await;
        assert_eq!(has(&sets, "a").await, Err(Away), "too old");
        let later = sets.failing(URL).unwrap();
        assert_eq!((later.since, later.counts), (failing.since, None));
        *issuer.kid.lock().unwrap() = Some("a");
        advance(ASK_EVERY).await;
        assert_eq!((has(&sets, "a").await, sets.failing(URL)), (Ok(true), None));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_are_not_fresh_are_used_while_they_are_asked_for() {
        let (sets, issuer) = sets(Some("a"));
        assert_eq!(has(&sets, "a").await, Ok(true));
        *issuer.slow.lock().unwrap() = Duration::from_secs(2);
        *issuer.kid.lock().unwrap() = Some("b");
        advance(FRESH).await;
        assert_eq!(has(&sets, "a").await, Ok(true), "without waiting");
        assert_eq!(has(&sets, "b").await, Ok(true), "who waits gets the new ones");
        assert_eq!(asked(&issuer), 2);
        assert_eq!(has(&sets, "a").await, Ok(false));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_takes_the_question_of_nobody_with_them() {
        let (sets, issuer) = sets(Some("a"));
        *issuer.slow.lock().unwrap() = Duration::from_secs(3);
        let left = tokio::time::timeout(Duration::from_secs(1), has(&sets, "a")).await;
        assert!(left.is_err());
        assert_eq!(has(&sets, "a").await, Ok(true));
        assert_eq!(asked(&issuer), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_too_long_is_none() {
        let (sets, issuer) = sets(Some("a"));
        *issuer.slow.lock().unwrap() = WITHIN * 2;
        let began = sets.clock.monotonic();
        assert_eq!(has(&sets, "a").await, Err(Away));
        assert_eq!(sets.clock.monotonic() - began, WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn urls_that_nobody_names_any_more_are_forgotten() {
        let (sets, _) = sets(Some("a"));
        for i in 0..20 {
            sets.at(&format!("https://{i}.test/"), Some("a")).await.unwrap();
        }
        advance(KEPT).await;
        sets.at(URL, Some("a")).await.unwrap();
        assert_eq!(sets.sources.lock().unwrap().len(), 1);
    }
}
