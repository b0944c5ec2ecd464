//! What a browser shows while its app wakes: a page that follows how far it is, and then becomes the app.
//!
//! ```text
//! navigation ──▶ service ──held for page_after──▶ page ──EventSource──▶ progress ──stage, stage, ready──▶ reload
//! ```
//!
//! Programs, forms and WebSockets are held instead: who cannot read the page gets the app, or an error. The page names
//! nobody and says no cause, like all of [`super::pages`]; its Content-Security-Policy lets nothing run but its own script.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};

use super::OpenGuard;
use super::body::ResponseBody;
use super::front::Place;
use super::hold::Hold;
use super::pages::wants_html;
use super::target::{Decision, decide, is_because};
use crate::model::{Instance, Phase};

/// For constants that are made of it.
macro_rules! path {
    () => {
        "/.well-known/portreeve/progress"
    };
}

/// Where a waiting page asks how far its app is: RFC 8615's place for what is the server's, on every host that leads to
/// an instance. Apps have no path of this name.
pub const PATH: &str = path!();

/// Whether somebody looks at an address with a browser, and would see a page: by Fetch Metadata where it is sent, else by
/// what is accepted.
pub fn is_navigation(head: &Parts) -> bool {
    if head.method != Method::GET || head.headers.contains_key(UPGRADE) || !wants_html(head.headers.get(ACCEPT)) {
        return false;
    }
    head.headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
}

/// The path that a page was asked for, of the query of its progress.
pub fn path_of(head: &Parts) -> String {
    let query = head.uri.query().unwrap_or_default();
    let given = form_urlencoded(query);
    given.filter(|path| path.starts_with('/')).unwrap_or_else(|| "/".to_owned())
}

/// The value of `path`; the page writes nothing else.
fn form_urlencoded(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("path="))?;
    percent_encoding::percent_decode_str(value).decode_utf8().ok().map(|path| path.into_owned())
}

/// How far an instance is on its way up, in words for its visitors.
fn stage(instance: &Instance) -> &'static str {
    match instance.status.phase {
        _ if is_because(instance, "MakingRoom") => "Making room for it",
        Phase::Frozen | Phase::Asleep | Phase::Stopping | Phase::Stopped => "Waking up",
        Phase::Pending => "Finding a place for it",
        Phase::Pulling => "Fetching it",
        Phase::Starting => "Starting",
        Phase::Upgrading => "Updating",
        Phase::Moving => "Moving to another host",
        Phase::Running | Phase::Failed | Phase::Lost => "Almost there",
    }
}

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:20vh auto;padding:0 1rem;\
color-scheme:light dark}h1{font-size:1.5rem}i{display:inline-block;width:1em;height:1em;margin-right:.5em;\
border:.15em solid;border-right-color:transparent;border-radius:50%;vertical-align:-.15em;animation:t 1s linear infinite}\
@keyframes t{to{transform:rotate(1turn)}}@media(prefers-reduced-motion:reduce){i{animation-duration:6s}}";

/// A stream that ends is taken up again by the browser; one that is refused is not, and the page asks anew as a whole.
const SCRIPT: &str = concat!(
    "const e=new EventSource('",
    path!(),
    "?path='+encodeURIComponent(location.pathname)),again=()=>location.reload();",
    "e.addEventListener('stage',m=>{document.getElementById('stage').textContent=m.data});",
    "e.addEventListener('ready',()=>{e.close();again()});",
    "e.addEventListener('stop',()=>{e.close();again()});",
    "e.addEventListener('error',()=>{if(e.readyState===EventSource.CLOSED)setTimeout(again,3000)});"
);

static HTML: LazyLock<Bytes> = LazyLock::new(|| {
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content='width=device-width,initial-scale=1'><meta name=robots content=noindex>\
         <title>Starting…</title><noscript><meta http-equiv=refresh content=3></noscript><style>{STYLE}</style>\
         <h1>This app is starting</h1><p role=status><i></i><span id=stage>Waking up</span></p>\
         <script>{SCRIPT}</script></html>\n"
    );
    html.into()
});

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    HeaderValue::from_str(&policy).expect("ASCII")
});

/// The waiting page in the place of a page's own text.
pub fn page(mut response: Response<Bytes>) -> Response<Bytes> {
    *response.body_mut() = HTML.clone();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

/// Who waits by a page, and for what.
pub struct Follower {
    pub hold: Hold,
    pub open: OpenGuard,
    pub changes: watch::Receiver<Option<Arc<Instance>>>,
    /// Of the instance, and the name of its port.
    pub uid: String,
    pub port: String,
}

/// The stream that a page follows, in the form of the HTML standard, "Server-sent events".
pub fn stream(follower: Follower, place: Arc<Place>) -> (Response<ResponseBody>, impl Future<Output = ()>) {
    // The reader is never more than one event behind.
    let (events, receiver) = mpsc::channel(1);
    let mut response = Response::new(ResponseBody::Progress { events: receiver, place });
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx before us would keep the events until there are many of them.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    (response, async move {
        let gone = events.clone();
        tokio::select! {
            () = gone.closed() => {}
            _ = follow(follower, &events) => {}
        }
    })
}

/// Tells every stage until it is up, or never will be. Ends without a word when this server does.
async fn follow(mut follower: Follower, events: &mpsc::Sender<Bytes>) -> Result<(), mpsc::error::SendError<Bytes>> {
    let Follower { hold, open: _open, changes, uid, port } = &mut follower;
    let mut told = "";
    loop {
        let seen = changes.borrow_and_update().clone();
        let decision = match &seen {
            Some(found) if found.metadata.uid == *uid => decide(found, port),
            // What the page says then is for a request to find out.
            _ => return events.send(event("stop", "")).await,
        };
        match (decision, seen.as_deref().map(stage)) {
            (Decision::Ready(_) | Decision::Unsure(_), _) => return events.send(event("ready", "")).await,
            (Decision::Refuse(_), _) => return events.send(event("stop", "")).await,
            (Decision::Wake, Some(now)) if now != told => {
                told = now;
                events.send(event("stage", now)).await?;
            }
            (Decision::Wake, _) => {}
        }
        if hold.news(changes).await.is_none() {
            return Ok(());
        }
    }
}

fn event(name: &str, data: &str) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}
