//! Who is let through to an instance: asked before anything else is looked at, so that whoever is not let through wakes
//! nothing, counts for nothing and learns nothing.
//!
//! ```text
//! service ──head, route──▶ admit ─┬─ token    ◀── Secrets
//!                                 ├─ jwt      ◀── key sets ◀── Fetch      ──▶ Granted: what the app is told
//!                                 ├─ forward  ◀── Fetch                   ──▶ Refused: what the visitor is told
//!                                 ├─ obstacles ──▶ Witness: what keeps everybody out
//!                                 └─ throttle (for who is let through)
//! ```
//!
//! Fails closed: whatever cannot be found out (a Secret, a key, a service's word) lets nobody in. No credential and no
//! value of a Secret is logged.

mod credentials;
mod forward;
mod jwks;
mod jwt;
mod login;
mod obstacles;
mod problems;
mod throttle;
mod token;
mod verified;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};

pub use obstacles::Witness;
pub use throttle::Place;

use self::credentials::Hidden;
use self::obstacles::{Nobody, Obstacle, Obstacles};
use self::throttle::Throttle;
use super::forwarded::Visitor;
use super::pages::Page;
use super::stats::{Access as Outcome, Stats};
use super::{headers, waiting};
use crate::clock::SharedClock;
use crate::model::{AuthMode, Instance, Resource as _, Route, RouteAuth, SecretBytes};

/// The name of who was let in, for the app; only the mode JWT knows one. A visitor's own is dropped, whatever the mode.
pub const USER: HeaderName = HeaderName::from_static("x-forwarded-user");

/// Where the values of Secrets come from. `serve` implements it.
#[async_trait]
pub trait Secrets: Send + Sync + 'static {
    /// One value as it is now.
    ///
    /// # Errors
    /// When that cannot be found out; the text says why, and holds no value.
    async fn value(&self, namespace: &str, name: &str, key: &str) -> Result<Looked, String>;
}

/// What a look for a value of a Secret came to.
#[derive(Debug)]
pub enum Looked {
    Value(SecretBytes),
    NoSecret,
    /// The Secret is there, and has no such key.
    NoKey,
}

/// Asks other servers. `serve` implements it.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// Sends a request without a body, and reads the answer to its end. No redirect is followed. The caller bounds the time.
    ///
    /// # Errors
    /// When there is no answer, or its body has more than `most` bytes.
    async fn fetch(&self, request: Request<()>, most: usize) -> Result<Response<Bytes>, String>;
}

/// What a visitor gets who is not let through, or whose request goes nowhere.
#[derive(Debug)]
pub enum Refused {
    Page(Page),
    /// A redirect to where one signs in, or the answer of an authentication service.
    Answer(Box<Response<Bytes>>),
}

impl From<Page> for Refused {
    fn from(page: Page) -> Refused {
        Refused::Page(page)
    }
}

impl Refused {
    /// `accept`: what the request asks for.
    pub fn response(self, accept: Option<&HeaderValue>) -> Response<Bytes> {
        match self {
            Refused::Page(page) => page.response(accept),
            Refused::Answer(response) => *response,
        }
    }
}

/// A request, as far as access is concerned.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub head: &'a Parts,
    pub visitor: &'a Visitor,
    pub instance: &'a Instance,
    /// `None`: the default route, which is open.
    pub route: Option<&'a Route>,
    /// The host name, without port.
    pub host: &'a str,
}

/// What is changed in a request that is let through.
#[derive(Debug, Default)]
pub struct Granted {
    user: Option<HeaderValue>,
    /// Fields that an authentication service speaks for, and what it said.
    spoken_for: Vec<HeaderName>,
    said: HeaderMap,
    hidden: Hidden,
    place: Option<Place>,
}

impl Granted {
    /// Among the open requests of its route, if those are limited.
    pub fn take_place(&mut self) -> Option<Place> {
        self.place.take()
    }

    /// The fields that are its authentication service's to say.
    pub fn spoken_for(&self) -> Vec<HeaderName> {
        self.spoken_for.clone()
    }

    /// The last word on the headers that the app gets.
    pub fn dress(self, headers: &mut HeaderMap) {
        let Granted { user, spoken_for, said, hidden, place: _ } = self;
        hidden.hide(headers);
        headers::remove_all_like(headers, &spoken_for);
        if let Some(user) = user {
            headers.insert(USER, user);
        }
        for name in spoken_for {
            for value in said.get_all(&name) {
                headers.append(&name, value.clone());
            }
        }
    }
}

/// Decides who is let through. One for all connections.
pub struct Access {
    clock: SharedClock,
    secrets: Arc<dyn Secrets>,
    keys: jwks::KeySets,
    services: forward::Services,
    throttle: Throttle,
    obstacles: Obstacles,
}

/// Why somebody is not let in.
#[derive(Debug)]
enum Denied {
    /// No credentials, or wrong ones.
    Unknown,
    /// Good credentials of somebody else.
    Other,
    /// It cannot be found out at present.
    Unavailable(Obstacle),
    /// Nobody could be let in. As if the credentials were wrong: what is missing is none of a stranger's business.
    Closed(Obstacle),
    /// Good credentials, of an instance that is nobody's.
    Ownerless(Obstacle),
    /// The word of an authentication service.
    Answer(Box<Response<Bytes>>),
}

impl Access {
    pub fn new(clock: SharedClock, secrets: Arc<dyn Secrets>, fetch: Arc<dyn Fetch>) -> Access {
        Access {
            secrets,
            keys: jwks::KeySets::new(fetch.clone(), clock.clone()),
            services: forward::Services::new(fetch),
            throttle: Throttle::new(clock.clone()),
            obstacles: Obstacles::new(clock.clone(), Arc::new(Nobody)),
            clock,
        }
    }

    /// The same, with somebody who is told of what keeps everybody out.
    #[must_use]
    pub fn telling(self, witness: Arc<dyn Witness>) -> Access {
        Access { obstacles: Obstacles::new(self.clock.clone(), witness), ..self }
    }

    /// Lets a request through, or says what its sender gets. Looks at no status of the instance.
    ///
    /// # Errors
    /// What the visitor is told.
    pub async fn admit(&self, asked: Asked<'_>, stats: &Stats) -> Result<Granted, Refused> {
        let Some(route) = asked.route else { return Ok(Granted::default()) };
        let mut granted = match self.known(&asked, &route.auth).await {
            Ok(granted) => {
                self.obstacles.gone(&asked);
                granted
            }
            Err(denied) => {
                self.note(&asked, &denied);
                let (outcome, refused) = refusal(denied, &asked, &route.auth);
                stats.accessed(outcome);
                return Err(refused);
            }
        };
        // Only now: who is not let in uses up nothing of what those have who are.
        granted.place = self.throttle.enter(&asked.instance.key(), asked.host, &route.limits).map_err(|over| {
            stats.accessed(over.outcome());
            over.page()
        })?;
        if route.auth.mode != AuthMode::None {
            stats.accessed(Outcome::Granted);
        }
        Ok(granted)
    }

    fn note(&self, asked: &Asked<'_>, denied: &Denied) {
        match denied {
            Denied::Unavailable(obstacle) | Denied::Closed(obstacle) | Denied::Ownerless(obstacle) => {
                self.obstacles.met(asked, obstacle);
            }
            Denied::Other | Denied::Answer(_) => self.obstacles.gone(asked),
            // Who shows nothing, or nonsense, is turned away before anything is looked at.
            Denied::Unknown => {}
        }
    }

    async fn known(&self, asked: &Asked<'_>, auth: &RouteAuth) -> Result<Granted, Denied> {
        match auth.mode {
            AuthMode::None => Ok(Granted::default()),
            // Validation asks for the settings of a mode; a record without them lets nobody in.
            AuthMode::Token => match &auth.token {
                Some(settings) => token::check(asked, settings, &*self.secrets).await,
                None => Err(Denied::Unknown),
            },
            AuthMode::Jwt => match &auth.jwt {
                Some(settings) => jwt::check(asked, settings, &self.keys, self.clock.now()).await,
                None => Err(Denied::Unknown),
            },
            AuthMode::ForwardAuth => match &auth.forward_auth {
                Some(settings) => self.services.check(asked, settings).await,
                None => Err(Denied::Unknown),
            },
        }
    }
}

fn refusal(denied: Denied, asked: &Asked<'_>, auth: &RouteAuth) -> (Outcome, Refused) {
    match denied {
        Denied::Unknown | Denied::Closed(_) => {
            let browser = waiting::is_navigation(asked.head).then(|| login::redirect(asked, &auth.login_url)).flatten();
            match browser {
                Some(redirect) => (Outcome::Login, Refused::Answer(Box::new(redirect))),
                None => (Outcome::Unauthorized, Page::Unauthorized.into()),
            }
        }
        Denied::Other | Denied::Ownerless(_) => (Outcome::Forbidden, Page::Forbidden.into()),
        Denied::Unavailable(_) => (Outcome::Unavailable, Page::NoSignIn.into()),
        Denied::Answer(response) => (Outcome::Service, Refused::Answer(response)),
    }
}
