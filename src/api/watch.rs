//! Watches: one JSON object a line, without gap or duplicate.
//!
//! A watch is pulled: the store's next change is read only when the client has taken the one before, so a slow client
//! costs no memory. One that falls behind the kept history gets 410 as an ERROR event and lists again.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::columns::Facts;
use super::error::ApiError;
use super::handler::Call;
use super::list;
use super::negotiate::Form;
use super::query::bad_option;
use super::selector::Selector;
use super::table::{self, Include};
use super::views::{self, View};
use super::{ApiState, object};
use crate::store::{Change, ListRequest, Record, Revision, Watch};

/// The longest that a watch lasts, and half of what one lasts that names no time.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// How often a quiet watch tells its version.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Existing objects read at a time, at the start.
const PAGE: usize = 100;

/// Answers a watch.
pub async fn watch(call: &Call, view: View, form: Form, include: Include) -> Result<Response, ApiError> {
    let query = &call.query;
    let selector = views::aliased(&call.state, view, call.selector(view)?, call.place.namespace.as_deref()).await?;
    let asked = list::version(query)?;
    let rule = query.get("resourceVersionMatch");
    let initial = match query.get("sendInitialEvents") {
        Some(_) if rule != Some("NotOlderThan") => {
            let message = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(bad_option("sendInitialEvents", message.into()));
        }
        Some(_) => query.flag("sendInitialEvents"),
        None if rule.is_some() => {
            let message = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(bad_option("resourceVersionMatch", message.into()));
        }
        None => asked.is_none_or(|r| r.0 == 0),
    };
    let marked = initial && query.get("sendInitialEvents").is_some();
    if marked && matches!(form, Form::Table(_)) {
        return Err(ApiError::not_acceptable("application/json"));
    }
    let newest = call.state.store.revision();
    list::check_future(asked, newest)?;
    let from = match asked {
        Some(asked) if !initial && asked.0 > 0 => asked,
        _ => newest,
    };
    let lasts = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds).min(LONGEST),
        // Spread, so that watches begun together do not end together.
        _ => LONGEST / 2 + Duration::from_secs(u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * 7),
    };
    let prefix = list::prefix(view.source(), call.place.namespace.as_deref(), &selector);
    let mut pending = VecDeque::new();
    // Too old a version is told inside the stream, where clients expect it.
    let watch = match call.state.store.watch(&prefix, from).await {
        Ok(watch) => Some(watch),
        Err(e) => {
            pending.push_back(line("ERROR", ApiError::from(e).to_status()));
            None
        }
    };
    let mut bookmarks = tokio::time::interval(BOOKMARK_EVERY);
    bookmarks.reset();
    // A client that stalled for an hour wants one bookmark, not sixty.
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let session = Session {
        state: call.state.clone(),
        shutdown: call.shutdown.clone(),
        view,
        namespace: call.place.namespace.clone(),
        selector,
        form,
        include,
        headed: false,
        existing: (initial && watch.is_some()).then_some(Existing { prefix, after: None, at: from }),
        marked,
        watch,
        bookmarks: query.flag("allowWatchBookmarks").then_some(bookmarks),
        pending,
    };
    let deadline = tokio::time::sleep(lasts);
    let lines = stream::unfold(session, Session::next).take_until(deadline);
    let mut response = Response::new(Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn line(kind: &str, object: Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    text.into()
}

/// Where the tour of the existing objects stands.
struct Existing {
    prefix: String,
    after: Option<String>,
    at: Revision,
}

struct Session {
    state: ApiState,
    shutdown: CancellationToken,
    view: View,
    namespace: Option<String>,
    selector: Selector,
    form: Form,
    include: Include,
    /// Whether a Table has told its columns.
    headed: bool,
    existing: Option<Existing>,
    /// Whether the end of the existing objects is to be marked.
    marked: bool,
    /// `None` once the watch is over.
    watch: Option<Box<dyn Watch>>,
    bookmarks: Option<Interval>,
    /// Lines that are ready: at most a page.
    pending: VecDeque<Bytes>,
}

impl Session {
    /// The next line; `None` ends the stream.
    async fn next(mut self) -> Option<(Bytes, Session)> {
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Some((line, self));
            }
            self.watch.as_ref()?;
            let step = match self.existing.take() {
                Some(existing) => self.show_existing(existing).await,
                None => self.follow().await,
            };
            match step {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => {
                    self.watch = None;
                    self.pending.push_back(line("ERROR", e.to_status()));
                }
            }
        }
    }

    /// What the client sees of a record, if anything.
    fn show(&self, record: Value) -> Option<Value> {
        let facts = Facts::of(&self.state);
        self.view.show(record, self.namespace.as_deref(), &facts).filter(|o| self.selector.matches(o))
    }

    async fn show_existing(&mut self, mut existing: Existing) -> Result<bool, ApiError> {
        let request = ListRequest {
            prefix: existing.prefix.clone(),
            after: existing.after.take(),
            limit: Some(PAGE),
            at: Some(existing.at),
        };
        let page = self.state.store.list(request).await?;
        for record in &page.records {
            let object = object::decode(self.view.source(), record)?;
            if let Some(object) = self.show(object) {
                self.tell("ADDED", object);
            }
        }
        match page.records.last() {
            Some(last) if page.remaining > 0 => {
                existing.after = Some(last.key.to_string());
                self.existing = Some(existing);
            }
            _ if self.marked => self.bookmark(existing.at, true),
            _ => {}
        }
        Ok(true)
    }

    /// Waits for something to tell. False when the server stops.
    async fn follow(&mut self) -> Result<bool, ApiError> {
        let Some(watch) = self.watch.as_mut() else { return Ok(false) };
        let due = async {
            match self.bookmarks.as_mut() {
                Some(interval) => drop(interval.tick().await),
                None => std::future::pending().await,
            }
        };
        let change = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return Ok(false),
            change = watch.next() => Some(change?),
            () = due => None,
        };
        match change {
            Some(change) => self.change(&change)?,
            None => {
                // The version may only be told when every change up to it has been: read it, then look once more.
                let revision = self.state.store.revision();
                match tokio::task::unconstrained(watch.next()).now_or_never() {
                    Some(change) => self.change(&change?)?,
                    None => self.bookmark(revision, false),
                }
            }
        }
        Ok(true)
    }

    /// Entering a selector is ADDED, leaving it DELETED, whatever really happened.
    fn change(&mut self, change: &Change) -> Result<(), ApiError> {
        let shown = |record: Option<&Record>| -> Result<Option<Value>, ApiError> {
            let Some(record) = record else { return Ok(None) };
            let object = object::decode_at(self.view.source(), record, change.revision)?;
            Ok(self.show(object))
        };
        match (shown(change.before.as_ref())?, shown(change.now.as_ref())?) {
            (None, Some(now)) => self.tell("ADDED", now),
            // Another object of the same name: a view's next incarnation.
            (Some(before), Some(now)) if object::text(&before, "uid") != object::text(&now, "uid") => {
                self.tell("DELETED", before);
                self.tell("ADDED", now);
            }
            (Some(_), Some(now)) => self.tell("MODIFIED", now),
            (Some(before), None) => self.tell("DELETED", before),
            (None, None) => {}
        }
        Ok(())
    }

    fn tell(&mut self, kind: &str, object: Value) {
        let object = match self.form {
            Form::Json => object,
            Form::Metadata(version) => table::metadata_only(object, version),
            Form::Table(version) => {
                let mut rows = table::table(self.view, object, version, self.include, &Facts::of(&self.state));
                if std::mem::replace(&mut self.headed, true) {
                    rows["columnDefinitions"] = Value::Null;
                }
                rows
            }
        };
        self.pending.push_back(line(kind, object));
    }

    fn bookmark(&mut self, revision: Revision, end_of_existing: bool) {
        let mut object = json!({
            "kind": self.view.kind(), "apiVersion": self.view.api_version(),
            "metadata": {"resourceVersion": revision.0.to_string()},
        });
        if end_of_existing {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.tell("BOOKMARK", object);
    }
}
