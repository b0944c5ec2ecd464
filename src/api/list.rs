//! GET of an object and of a collection, with Kubernetes' rules for versions, pages and selectors.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::columns::Facts;
use super::error::{ApiError, Subject};
use super::handler::Call;
use super::items::{self, Item};
use super::negotiate::{self, Form};
use super::query::{Query, bad_list_option, forbidden_option};
use super::reply::Reply;
use super::selector::Selector;
use super::table::{self, Include};
use super::views::{self, View};
use super::{ApiState, object};
use crate::model::{Key, Kind};
use crate::store::{ListRequest, Record, Revision, SharedStore};

/// Records read from the store at a time.
const PAGE: usize = 500;
/// Bytes of them after which no more are read at a time, or opened where they are sealed.
const PAGE_BYTES: usize = 1 << 20;
/// Records decoded before other tasks get a turn: about two milliseconds.
const DECODED: usize = 100;

/// Which part of a collection to show.
#[derive(Clone, Debug, Default)]
struct Window {
    limit: Option<usize>,
    /// The state as of this revision; `None`: the newest.
    at: Option<Revision>,
    after: Option<String>,
    /// How many there are after that, if the page before has told: pages of one version need no second count.
    left: Option<usize>,
}

pub struct Listing<T> {
    pub items: Vec<T>,
    pub revision: Revision,
    /// The last key looked at, when there may be more.
    pub next: Option<String>,
    /// How many follow; unknown with a selector.
    pub remaining: Option<usize>,
}

impl<T> Listing<T> {
    /// The same part of the collection, shown in another way.
    pub fn with<S>(self, items: Vec<S>) -> Listing<S> {
        let Listing { revision, next, remaining, .. } = self;
        Listing { items, revision, next, remaining }
    }
}

/// The place of the next page, as the client carries it: opaque, and checked when it comes back.
#[derive(Serialize, Deserialize)]
struct Continue {
    v: u8,
    rv: u64,
    after: String,
    /// How many follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<usize>,
}

fn encode_token(revision: Revision, after: &str, left: Option<usize>) -> String {
    let token = Continue { v: 1, rv: revision.0, after: after.into(), left };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a struct of texts and numbers"))
}

fn decode_token(text: &str, prefix: &str) -> Result<Continue, ApiError> {
    let decoded = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| serde_json::from_slice::<Continue>(&bytes).ok());
    decoded
        .filter(|token| token.v == 1 && token.after.starts_with(prefix))
        .ok_or_else(|| ApiError::bad_request("continue key is not valid: it was not made by a list of this path"))
}

/// A resourceVersion in a query; `None` when absent.
pub fn version(query: &Query) -> Result<Option<Revision>, ApiError> {
    let Some(text) = query.get("resourceVersion") else { return Ok(None) };
    match text.parse() {
        Ok(n) => Ok(Some(Revision(n))),
        Err(_) => Err(ApiError::bad_request(format!("invalid resource version {text:?}"))),
    }
}

/// The window that a query asks for.
fn window(query: &Query, prefix: &str, newest: Revision) -> Result<Window, ApiError> {
    let limit = query.signed("limit")?.filter(|n| *n > 0).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    // How long a list may take is not for its reader to say; what is no number is no list's option.
    query.signed("timeoutSeconds")?;
    if query.all("sendInitialEvents").next().is_some() {
        return Err(forbidden_option("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    let asked = version(query)?;
    let rule = query.get("resourceVersionMatch");
    if let Some(token) = query.get("continue") {
        if asked.is_some_and(|r| r.0 != 0) || rule.is_some() {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let token = decode_token(token, prefix)?;
        return Ok(Window { limit, at: Some(Revision(token.rv)), after: Some(token.after), left: token.left });
    }
    let forbidden = |why: &str| forbidden_option("resourceVersionMatch", why);
    let exact = match (rule, asked) {
        (None, Some(Revision(n))) => n != 0 && limit.is_some(),
        (None, None) => false,
        (Some(_), None) => {
            return Err(forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        (Some("NotOlderThan"), Some(_)) => false,
        (Some("Exact"), Some(Revision(0))) => {
            return Err(forbidden("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\""));
        }
        (Some("Exact"), Some(_)) => true,
        (Some(other), Some(_)) => {
            let message = format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\"");
            return Err(bad_list_option("resourceVersionMatch", message));
        }
    };
    check_future(asked, newest)?;
    Ok(Window { limit, at: asked.filter(|_| exact), ..Window::default() })
}

/// A version that has not come yet cannot be shown.
pub fn check_future(asked: Option<Revision>, newest: Revision) -> Result<(), ApiError> {
    match asked {
        Some(Revision(asked)) if asked > newest.0 => {
            Err(crate::store::StoreError::Future { asked, newest: newest.0 }.into())
        }
        _ => Ok(()),
    }
}

/// The store prefix that holds everything a selector may show.
pub fn prefix(kind: Kind, namespace: Option<&str>, selector: &Selector) -> String {
    let prefix = kind.prefix(namespace);
    match selector.only_name() {
        Some(name) if namespace.is_some() || !kind.info().namespaced => prefix + name,
        _ => prefix,
    }
}

/// Reads a window of a collection from `store`, all pages of it from one revision. After each page the other tasks of
/// the thread get a turn. `shape`: what is kept of each object.
async fn collect<T>(
    state: &ApiState,
    store: &SharedStore,
    view: View,
    namespace: Option<&str>,
    selector: &Selector,
    window: &Window,
    shape: impl Fn(Value) -> T,
) -> Result<Listing<T>, ApiError> {
    let prefix = prefix(view.source(), namespace, selector);
    // A view may hide records, as a selector does.
    let all_shown = selector.is_empty() && matches!(view, View::Records(_));
    let facts = Facts::of(state);
    let show = |record: &Record| {
        let object = view.show(object::decode(view.source(), record)?, namespace, &facts);
        Ok(object.filter(|o| selector.matches(o)).map(&shape))
    };
    gather(store, prefix, all_shown, window, DECODED, show).await
}

/// As [`collect`], of records that are shown as they are stored.
async fn collect_stored(
    state: &ApiState,
    kind: Kind,
    namespace: Option<&str>,
    selector: &Selector,
    window: &Window,
) -> Result<Listing<Item>, ApiError> {
    let api_version = kind.api_version();
    let show = |record: &Record| {
        let shown = items::shows(selector, kind, record)?;
        shown.then(|| Item::of(kind, &api_version, record, record.modified)).transpose()
    };
    gather(&state.store, prefix(kind, namespace, selector), selector.is_empty(), window, PAGE, show).await
}

/// Reads a window in pages, and takes of each record what `show` makes of it, if anything. `stretch`: how many records
/// are shown before other tasks get a turn.
async fn gather<T>(
    store: &SharedStore,
    prefix: String,
    all_shown: bool,
    window: &Window,
    stretch: usize,
    show: impl Fn(&Record) -> Result<Option<T>, ApiError>,
) -> Result<Listing<T>, ApiError> {
    let wanted = window.limit.unwrap_or(usize::MAX);
    let mut found = Listing { items: vec![], revision: window.at.unwrap_or_default(), next: None, remaining: None };
    let (mut at, mut after, mut left) = (window.at, window.after.clone(), None);
    loop {
        let missing = wanted - found.items.len();
        let limit = if all_shown { PAGE.min(missing) } else { PAGE };
        // Only the page that may fill the window is asked for what follows it, and only if nobody has counted that before.
        let count = all_shown && limit == missing && window.left.is_none() && left.is_none();
        let request = ListRequest {
            prefix: prefix.clone(),
            after: after.take(),
            limit: Some(limit),
            bytes: Some(PAGE_BYTES),
            at,
            count,
        };
        let page = store.list(request).await?;
        at = Some(page.revision);
        found.revision = page.revision;
        left = page.remaining.or_else(|| left.map(|left: usize| left.saturating_sub(page.records.len())));
        let last = page.records.len().saturating_sub(1);
        for (i, record) in page.records.iter().enumerate() {
            if i % stretch == stretch - 1 {
                tokio::task::yield_now().await;
            }
            found.items.extend(show(record)?);
            if found.items.len() == wanted {
                if i < last || page.more {
                    found.next = Some(record.key.to_string());
                    let told = window.left.map(|told| told.saturating_sub(found.items.len()));
                    found.remaining = told.filter(|_| all_shown).or(left);
                }
                return Ok(found);
            }
        }
        match page.records.last() {
            Some(last) if page.more => after = Some(last.key.to_string()),
            _ => return Ok(found),
        }
        tokio::task::yield_now().await;
    }
}

/// What of a collection a request asks for.
struct Asked {
    selector: Selector,
    window: Window,
}

impl Asked {
    async fn of(call: &Call, view: View) -> Result<Asked, ApiError> {
        let namespace = call.place.namespace.as_deref();
        let selector = views::aliased(&call.state, view, call.selector(view)?, namespace).await?;
        let prefix = prefix(view.source(), namespace, &selector);
        let window = window(&call.query, &prefix, call.state.store.revision())?;
        Ok(Asked { selector, window })
    }

    fn told(&self, e: ApiError) -> ApiError {
        let expired = e.code() == http::StatusCode::GONE && self.window.after.is_some();
        if expired {
            ApiError::expired("The provided continue parameter is too old: list again from the start")
        } else {
            e
        }
    }
}

/// What a GET of a collection asks for; `shape`: what is kept of each object.
pub async fn asked<T>(
    call: &Call,
    store: &SharedStore,
    view: View,
    shape: impl Fn(Value) -> T,
) -> Result<Listing<T>, ApiError> {
    let asked = Asked::of(call, view).await?;
    let (state, namespace) = (&call.state, call.place.namespace.as_deref());
    let found = collect(state, store, view, namespace, &asked.selector, &asked.window, shape).await;
    found.map_err(|e| asked.told(e))
}

/// GET of a collection.
pub async fn list(call: &Call, view: View) -> Result<Reply, ApiError> {
    let form = negotiate::form(&call.headers)?;
    let listing = match (view, form) {
        (View::Records(kind), Form::Json) => {
            let asked = Asked::of(call, view).await?;
            let namespace = call.place.namespace.as_deref();
            let found = collect_stored(&call.state, kind, namespace, &asked.selector, &asked.window).await;
            found.map_err(|e| asked.told(e))?
        }
        _ => {
            let shape = shape(call, view, form)?;
            asked(call, &call.state.store, view, |object| Item::made(&shape(object))).await?
        }
    };
    Ok(reply(view, form, listing))
}

/// What a form makes of an object in a list.
pub fn shape(call: &Call, view: View, form: Form) -> Result<impl Fn(Value) -> Value, ApiError> {
    let (include, facts) = (Include::of(&call.query)?, Facts::of(&call.state));
    Ok(move |object| match form {
        Form::Json => object,
        Form::Table(version) => table::row(view, object, version, include, &facts),
        Form::Metadata(version) => table::metadata_only(object, version),
    })
}

/// A list of what is shaped already.
pub fn reply(view: View, form: Form, listing: Listing<Item>) -> Reply {
    let meta = list_meta(&listing);
    let named = |kind: &str, api_version: String| json!({"kind": kind, "apiVersion": api_version, "metadata": meta});
    let (head, member) = match form {
        Form::Json => (named(&format!("{}List", view.kind()), view.api_version()), "items"),
        Form::Table(version) => (table::head(view, version, meta.clone()), "rows"),
        Form::Metadata(version) => (named("PartialObjectMetadataList", format!("meta.k8s.io/{version}")), "items"),
    };
    Reply::made(items::body(&head, member, listing.items))
}

/// The metadata of a list.
pub fn list_meta<T>(listing: &Listing<T>) -> Value {
    let mut meta = json!({"resourceVersion": listing.revision.0.to_string()});
    if let Some(after) = &listing.next {
        meta["continue"] = encode_token(listing.revision, after, listing.remaining).into();
        if let Some(remaining) = listing.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
    }
    meta
}

/// The stored object of a key, or 404.
pub async fn fetch(state: &ApiState, key: &Key) -> Result<Value, ApiError> {
    match state.store.get(&key.to_string()).await? {
        Some(record) => object::decode(key.kind, &record),
        None => Err(ApiError::not_found(&Subject::from(key))),
    }
}

/// GET of one object. It is always the newest, which satisfies every resourceVersion but one of the future.
pub async fn get(call: &Call, key: &Key) -> Result<Reply, ApiError> {
    check_future(version(&call.query)?, call.state.store.revision())?;
    fetch(&call.state, key).await.map(Reply::ok)
}
