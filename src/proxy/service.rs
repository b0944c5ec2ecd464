//! One request, from its head to the head of its response.
//!
//! Called by the listener's connections. Loops over: what the cache says of the instance, holding, sending. A request
//! that arrives while its instance is being stopped finds a refused connection first and the new phase a moment later:
//! so a failed attempt looks at the cache again, and waits for a wake when that is what it says.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Asked, Granted, Refused};
use super::body::{RequestBody, ResponseBody};
use super::forwarded::Visitor;
use super::front::{Peer, Place};
use super::hold::{Full, Hold, Holds, Outcome, WAKE_EVERY};
use super::messages::Use;
use super::pages::Page;
use super::router::{Address, BadHead};
use super::stats::End;
use super::target::{Decision, Refusal, decide};
use super::upstream::{Lease, SendError, Upstreams};
use super::{OpenGuard, ProxyState, headers, router, tunnel, waiting};
use crate::model::{Instance, Key, Resource as _, UNREACHABLE, condition};

/// Pause after the first failed attempt to connect; doubles up to [`RETRY_LAST`].
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_LAST: Duration = Duration::from_millis(80);
/// A request that cannot be sent twice takes only a connection used this recently, which its app will not have given
/// up for being idle.
const FRESH: Duration = Duration::from_secs(1);
/// How long a request waits for the cache's first list after a start of this server.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// What all connections share.
pub struct Service {
    pub state: Arc<ProxyState>,
    pub holds: Arc<Holds>,
    pub upstreams: Upstreams,
    /// Upgraded connections, which outlive the requests that made them.
    pub tunnels: TaskTracker,
    /// Cancelled when time is up for whatever is still open.
    pub kill: CancellationToken,
}

/// A request once it is known where it goes.
struct Routed {
    key: Key,
    /// As the cache showed it when the request came. Its uid is whom the answer must come from.
    instance: Arc<Instance>,
    port: String,
    /// A browser sent it, and shows what is answered.
    navigation: bool,
    /// It is a use of the instance: it wakes it, and keeps it awake.
    counts: bool,
}

impl Service {
    pub async fn respond(&self, request: Request<Incoming>, peer: &Peer, place: Arc<Place>) -> Response<ResponseBody> {
        let accept = request.headers().get(ACCEPT).cloned();
        let version = request.version();
        let response = match self.forward(request, peer, place).await {
            Ok(response) => response,
            Err(refused) => {
                let mut response = refused.response(accept.as_ref()).map(|bytes| ResponseBody::Page(Some(bytes)));
                // Where one request was not understood nobody can say where the next one begins.
                if version < Version::HTTP_2 && matches!(response.status().as_u16(), 400 | 501) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        };
        self.state.stats.responded(response.status());
        response
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
        place: Arc<Place>,
    ) -> Result<Response<ResponseBody>, Refused> {
        let (mut head, body) = request.into_parts();
        let unread = place.unread.as_ref().map(|unread| (unread.clone(), unread.begin(!body.is_end_stream())));
        router::check_framing(&head).map_err(refused_head)?;
        let host = router::host_name(&head).map_err(refused_head)?;
        if let Some(answer) = self.state.challenges.http(host, &head) {
            return Ok(answer);
        }
        let visitor_is = Visitor::of(&head.headers, peer, &self.state.front);
        let address = self.address(host, head.uri.path());
        if let Some(location) = self.state.front.secure_location(&visitor_is, &head, host) {
            return self.elsewhere(&address, location);
        }
        if peer.is_misdirected(host) {
            return Err(Page::Misdirected.into());
        }
        if let Some(location) = beside(&head, &address)? {
            return self.elsewhere(&address, location);
        }
        if address.path == waiting::PATH {
            return self.progress(&head, &visitor_is, host, place).await;
        }
        let (mut routed, mut granted) = self.admit(&head, &visitor_is, &address).await?;
        let prefix = address.prefix.to_owned();
        let Routed { key, instance, port, counts, .. } = &routed;
        match self.decide(instance, port) {
            Decision::Refuse(why) => {
                if *counts {
                    self.note_demand(key, why);
                }
                return Err(refusal(why).into());
            }
            Decision::Unsure(_) if *counts => self.note_demand(key, Refusal::Lost),
            Decision::Wake if !counts => return Err(Page::Resting.into()),
            Decision::Unsure(_) | Decision::Ready(_) | Decision::Wake => {}
        }
        let activity = &self.state.activity;
        let mut open = if *counts { activity.open(key) } else { activity.pass() };
        open.keep(granted.take_place());
        // A stop looks at the uses after its word has reached the cache. Whoever counts first and reads then either
        // calls it off or sees the word; what was read before may be from before the word, with the count too late.
        let uid = &instance.metadata.uid;
        let seen = self.state.cache.instance(key).filter(|now| now.metadata.uid == *uid).ok_or(Page::NotFound)?;
        routed.instance = seen;

        // HTTP/1.0 has none (RFC 9110 §7.8).
        let wish = headers::upgrade(&head.headers).filter(|_| head.version >= Version::HTTP_11);
        let visitor = wish.as_ref().and_then(|_| head.extensions.remove::<OnUpgrade>());
        rewrite(&mut head, &visitor_is, wish, &prefix)?;
        let spoken_for = granted.spoken_for();
        granted.dress(&mut head.headers);
        let body = RequestBody::new(body, spoken_for, self.state.limits.stalled, unread);
        headers::frame(&mut head.headers, &body);
        let upload = body.upload();
        let done = self.exchange(&routed, Request::from_parts(head, body)).await;
        if let Some(upload) = &upload {
            upload.answered();
        }
        let visitors_fault = |page| match &upload {
            Some(upload) if upload.is_stalled() => Page::Incomplete,
            Some(upload) if upload.is_broken() => Page::BadRequest,
            Some(_) | None => page,
        };
        let (response, lease) = done.map_err(visitors_fault)?;
        Ok(self.answer(&routed.instance, response, lease, open, visitor, place)?)
    }

    /// The stream that a waiting page follows. Whoever follows it wants the app, as a request does.
    async fn progress(
        &self,
        head: &Parts,
        visitor: &Visitor,
        host: &str,
        place: Arc<Place>,
    ) -> Result<Response<ResponseBody>, Refused> {
        if head.method != Method::GET {
            return Err(Page::NotImplemented.into());
        }
        let path = waiting::path_of(head);
        let (routed, mut granted) = self.admit(head, visitor, &self.address(host, &path)).await?;
        let Routed { key, instance, port, counts, .. } = routed;
        if !counts {
            return Err(Page::Resting.into());
        }
        if let Decision::Refuse(why) = self.decide(&instance, &port) {
            self.note_demand(&key, why);
            return Err(refusal(why).into());
        }
        let mut open = self.state.activity.open(&key);
        open.keep(granted.take_place());
        let hold = self.holds.enter(&key).map_err(|Full| Page::Busy)?;
        let (changes, uid) = (self.state.cache.observe(&key), instance.metadata.uid.clone());
        let (response, following) = waiting::stream(waiting::Follower { hold, open, changes, uid, port }, place);
        tokio::spawn(following);
        Ok(response)
    }

    /// Sends a request to where it should have gone, unless that leads nowhere: then it is told so.
    fn elsewhere(&self, address: &Address<'_>, to: HeaderValue) -> Result<Response<ResponseBody>, Refused> {
        let cache = &self.state.cache;
        let nowhere = cache.is_ready() && cache.route(&address.host).is_none();
        if nowhere { Err(Page::NotFound.into()) } else { Ok(moved(to)) }
    }

    fn address<'a>(&self, host: &'a str, path: &'a str) -> Address<'a> {
        let domain = self.state.front.paths.then(|| self.state.cache.domain());
        Address::of(host, path, domain)
    }

    /// Where a request goes, once its sender may know.
    ///
    /// Between the host name and the rest stands access: of an instance that is not open to them, visitors find out neither
    /// its paths nor how it is.
    async fn admit(
        &self,
        head: &Parts,
        visitor: &Visitor,
        address: &Address<'_>,
    ) -> Result<(Routed, Granted), Refused> {
        let host = &*address.host;
        let cache = &self.state.cache;
        let mut found = cache.route(host);
        if found.is_none() && !cache.is_ready() {
            // Just started: nothing is known yet, which is not the same as nothing being there.
            tokio::time::timeout(FIRST_LIST, cache.ready()).await.map_err(|_| Page::Closing)?;
            found = cache.route(host);
        }
        let instance = found.ok_or(Page::NotFound)?;
        let route = router::route_of(&instance, host, cache.domain()).ok_or(Page::NotFound)?;
        let asked = Asked { head, visitor, instance: &instance, route, host };
        let granted = self.state.access.admit(asked, &self.state.stats).await?;
        let port = router::port_name(&instance, route, address.path).ok_or(Page::NotFound)?;
        let navigation = waiting::is_navigation(head);
        let counts = !router::is_ignored(&instance, head, address.path);
        Ok((Routed { key: instance.key(), port: port.to_owned(), instance, navigation, counts }, granted))
    }

    /// What to do with a request now. What ran on a host that does not answer is tried only where no one else can be at its
    /// port: the host is as it was, and just silent, and no other instance has that port of that address.
    fn decide<'a>(&self, instance: &'a Instance, port: &str) -> Decision<'a> {
        let decision = decide(instance, port);
        let Decision::Unsure(target) = decision else { return decision };
        let host = self.state.cache.host(&instance.status.node);
        let silent = host.is_some_and(|host| {
            condition(&host.status.conditions, "Ready").is_some_and(|ready| ready.reason == UNREACHABLE)
        });
        let uid = &instance.metadata.uid;
        let bound = |other: &Instance| {
            other.metadata.uid != *uid
                && other.status.address == target.address
                && other.status.ports.iter().any(|port| port.host_port == target.port)
        };
        if silent && !self.state.cache.instances().iter().any(|other| bound(other)) {
            decision
        } else {
            Decision::Refuse(Refusal::Lost)
        }
    }

    /// Lets the controller know that someone wants an instance that cannot run: it tries again only while it is wanted.
    fn note_demand(&self, key: &Key, why: Refusal) {
        match why {
            Refusal::Failed | Refusal::Lost => {
                let activity = &self.state.activity;
                if activity.idle(key).is_none_or(|idle| idle >= WAKE_EVERY) {
                    activity.touch(key);
                    self.state.waker.wake(key);
                }
            }
            // Who waits for room is wanted by that alone.
            Refusal::Full | Refusal::Stopped | Refusal::Gone => {}
        }
    }

    /// Sends the request to its instance, waking it and trying again as far as that is safe.
    async fn exchange(
        &self,
        routed: &Routed,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), Page> {
        let Routed { key, instance, port, navigation, counts } = routed;
        let uid = &instance.metadata.uid;
        let limits = &self.state.limits;
        let clock = &self.state.clock;
        // Such a request may reach the app twice without harm, and can be made anew.
        let spare = is_replayable(&request).then(|| copy_head(&request));
        let mut fresh = if spare.is_some() { limits.idle_for } else { FRESH };
        let mut deadline = clock.monotonic() + limits.hold;
        let mut shown_by = clock.monotonic() + limits.page_after;
        let mut patience: Option<Patience> = None;
        let mut waiting: Option<Waiting> = None;
        let mut current = instance.clone();
        loop {
            let (target, sure) = match self.decide(&current, port) {
                Decision::Ready(target) => (target, true),
                Decision::Unsure(target) => (target, false),
                Decision::Refuse(why) => return Err(refusal(why)),
                Decision::Wake if !counts => return Err(Page::Resting),
                Decision::Wake => {
                    let waiting = self.wait_with(&mut waiting, key)?;
                    let (by, late) =
                        if *navigation { (&mut shown_by, End::Page) } else { (&mut deadline, End::TimedOut) };
                    match waiting.hold.until_ready(&mut waiting.changes, uid, port, by, late).await {
                        Outcome::Ready(ready) => current = ready,
                        Outcome::TimedOut if *navigation => return Err(Page::Waking),
                        Outcome::TimedOut => return Err(Page::StillStarting),
                        Outcome::Refused(why) => return Err(refusal(why)),
                        Outcome::Closing => return Err(Page::Closing),
                    }
                    // Whatever failed before the wake says nothing of what runs now.
                    patience = None;
                    continue;
                }
            };
            // A kept connection may lead into the void by now, where a request waits long for an answer; a new one tells at once.
            let fresh_enough = if sure { fresh } else { Duration::ZERO };
            let timed_out = match self.upstreams.send(&current, target, request, fresh_enough).await {
                Ok(done) => return Ok(done),
                Err(SendError::NotSent { request: unsent, cause }) => {
                    tracing::debug!(instance = %key, error = %cause, "cannot connect to the app");
                    request = *unsent;
                    cause.kind() == std::io::ErrorKind::TimedOut
                }
                Err(SendError::Broken { reused, cause }) => {
                    tracing::debug!(instance = %key, error = %cause, reused, "the app broke off");
                    // What cannot be read is an answer, if none that could be passed on.
                    let Some(head) = spare.as_ref().filter(|_| !cause.is_parse()) else { return Err(Page::BadGateway) };
                    request = copy_head(head);
                    if reused {
                        // Closed for being idle, most likely: a new connection tells.
                        fresh = Duration::ZERO;
                        continue;
                    }
                    false
                }
            };
            // Trying again means waking.
            if !sure || !counts {
                return Err(refusal(Refusal::Lost));
            }
            fresh = Duration::ZERO;
            let now = clock.monotonic();
            let pause = patience.get_or_insert(Patience { until: now + limits.retry, pause: RETRY_FIRST }).next(now);
            let Some(pause) = pause.filter(|_| now < deadline) else {
                tracing::info!(instance = %key, "the app is said to be ready but does not answer");
                return Err(if timed_out { Page::Unreachable } else { Page::BadGateway });
            };
            let waiting = self.wait_with(&mut waiting, key)?;
            waiting.hold.wake_if_due();
            // A change of the instance is the better signal: it may have been stopped, or moved.
            tokio::select! {
                _ = waiting.changes.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let seen = waiting.changes.borrow_and_update().clone();
            current = seen.filter(|i| i.metadata.uid == *uid).ok_or(Page::NotFound)?;
        }
    }

    /// Takes a place among those who wait, unless the request has one.
    fn wait_with<'a>(&self, waiting: &'a mut Option<Waiting>, key: &Key) -> Result<&'a mut Waiting, Page> {
        match waiting {
            Some(waiting) => Ok(waiting),
            None => {
                let hold = self.holds.enter(key).map_err(|Full| Page::Busy)?;
                Ok(waiting.insert(Waiting { hold, changes: self.state.cache.observe(key) }))
            }
        }
    }

    /// Turns the app's response into ours; starts the tunnel if the app switched protocols.
    fn answer(
        &self,
        instance: &Instance,
        mut response: Response<Incoming>,
        lease: Lease,
        open: OpenGuard,
        visitor: Option<OnUpgrade>,
        place: Arc<Place>,
    ) -> Result<Response<ResponseBody>, Page> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let protocol = headers::upgrade(response.headers());
            // An app that switches without having been asked is not to be followed.
            let (Some(visitor), Some(protocol)) = (visitor, protocol) else { return Err(Page::BadGateway) };
            let app = hyper::upgrade::on(&mut response);
            let (limits, kill) = (self.state.limits.clone(), self.kill.clone());
            let counted = Use::new(self.state.clone(), instance, &protocol, open);
            let upgraded = self.state.stats.upgraded();
            if let Some(unread) = &place.unread {
                unread.hand_over();
            }
            self.tunnels.spawn(async move {
                kill.run_until_cancelled(tunnel::run(visitor, app, counted, &limits)).await;
                drop((lease, place, upgraded));
            });
            let (mut head, _) = response.into_parts();
            headers::to_visitor(&mut head.headers, Some(protocol));
            return Ok(Response::from_parts(head, ResponseBody::Page(None)));
        }
        let (mut head, stream) = response.into_parts();
        if let Err(why) = router::check_length(&head.headers) {
            tracing::debug!(error = %why, "an app's answer was refused");
            return Err(Page::BadGateway);
        }
        headers::to_visitor(&mut head.headers, None);
        if head.status == StatusCode::NO_CONTENT {
            head.headers.remove(CONTENT_LENGTH);
        }
        head.version = Version::HTTP_11;
        Ok(Response::from_parts(head, ResponseBody::app(stream, lease, open, place)))
    }
}

struct Waiting {
    hold: Hold,
    changes: watch::Receiver<Option<Arc<Instance>>>,
}

/// How long an instance that is said to be ready may refuse connections.
struct Patience {
    until: Duration,
    pause: Duration,
}

impl Patience {
    /// The pause before the next attempt; `None` when patience has run out.
    fn next(&mut self, now: Duration) -> Option<Duration> {
        let pause = self.pause.min(self.until.saturating_sub(now));
        self.pause = RETRY_LAST.min(self.pause * 2);
        (!pause.is_zero()).then_some(pause)
    }
}

/// Where a request is to be made instead that is for the address of an instance, but not quite.
fn beside(head: &Parts, address: &Address<'_>) -> Result<Option<HeaderValue>, Page> {
    match (address.prefix, address.path) {
        // An authority alone, which is CONNECT's.
        ("", "") => Err(Page::BadRequest),
        // Without the slash the app's own links would lead past it.
        (prefix, "") => {
            let query = head.uri.query().map_or_else(String::new, |query| format!("?{query}"));
            HeaderValue::try_from(format!("{prefix}/{query}")).map(Some).map_err(|_| Page::BadRequest)
        }
        // It is the proxy's own, and has one place.
        (prefix, waiting::PATH) if !prefix.is_empty() => Err(Page::NotFound),
        _ => Ok(None),
    }
}

/// The same request is to be made elsewhere.
fn moved(location: HeaderValue) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Page(None));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    response
}

/// The request's head as the app shall see it. `prefix`: of the path, what led to the app and is not its own.
fn rewrite(head: &mut Parts, visitor: &Visitor, upgrade: Option<HeaderValue>, prefix: &str) -> Result<(), Page> {
    let host = match head.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).map_err(|_| Page::BadRequest)?,
        None => head.headers.get(HOST).cloned().ok_or(Page::BadRequest)?,
    };
    if head.uri.authority().is_some() || !prefix.is_empty() {
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        let path = path.strip_prefix(prefix).unwrap_or(path);
        head.uri = path.parse::<Uri>().map_err(|_| Page::BadRequest)?;
    }
    head.version = Version::HTTP_11;
    headers::to_app(&mut head.headers, &host, visitor, upgrade);
    if !prefix.is_empty() {
        let prefix = HeaderValue::from_str(prefix).map_err(|_| Page::BadRequest)?;
        head.headers.insert(headers::FORWARDED_PREFIX, prefix);
    }
    Ok(())
}

/// RFC 9110 §9.2.2, and nothing to upload.
fn is_replayable(request: &Request<RequestBody>) -> bool {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    idempotent && matches!(request.body(), RequestBody::Empty)
}

/// A second request like this one, which has no body.
fn copy_head(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn refused_head(why: BadHead) -> Page {
    tracing::debug!(error = %why, "a request was refused");
    match why {
        BadHead::Connect | BadHead::UnknownCoding => Page::NotImplemented,
        BadHead::NoHost | BadHead::ManyHosts | BadHead::InvalidHost => Page::BadRequest,
        BadHead::ManyLengths | BadHead::InvalidTarget => Page::BadRequest,
    }
}

fn refusal(why: Refusal) -> Page {
    match why {
        Refusal::Stopped => Page::Stopped,
        // As for a host that never was: soon there is nothing here.
        Refusal::Gone => Page::NotFound,
        Refusal::Failed | Refusal::Lost => Page::Unavailable,
        Refusal::Full => Page::Full,
    }
}
