//! Watches: one JSON object a line, without gap or duplicate.
//!
//! A watch is pulled: the store's next change is read only when the client has taken the one before, and encoded one at a
//! time, so a slow client costs little memory; one that takes nothing is cut off (`feed`). One that falls behind the kept
//! history gets 410 as an ERROR event and lists again.

use std::collections::VecDeque;
use std::time::Duration;

use axum::response::Response;
use futures::FutureExt;
use http::{HeaderValue, header};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior};

use super::columns::Facts;
use super::error::ApiError;
use super::feed::{self, Source};
use super::handler::Call;
use super::items::{self, Item};
use super::list;
use super::negotiate::Form;
use super::query::forbidden_option;
use super::selector::Selector;
use super::table::{self, Include};
use super::views::{self, View};
use super::{ApiState, object};
use crate::model::Kind;
use crate::store::{Change, ListRequest, Record, Revision, Watch};

/// The longest that a watch lasts, and half of what one lasts that names no time.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// How often a quiet watch tells its version.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Existing objects read at a time, at the start.
const PAGE: usize = 100;
/// Bytes of their records after which no more are held at a time. They are shared with the store while they are current.
const PAGE_BYTES: usize = 1 << 20;

/// Answers a watch.
pub async fn watch(call: &Call, view: View, form: Form, include: Include) -> Result<Response, ApiError> {
    let query = &call.query;
    let selector = views::aliased(&call.state, view, call.selector(view)?, call.place.namespace.as_deref()).await?;
    let asked = list::version(query)?;
    let rule = query.get("resourceVersionMatch");
    let says = query.all("sendInitialEvents").next();
    let initial = match says {
        Some(_) if rule != Some("NotOlderThan") => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(forbidden_option("resourceVersionMatch", why));
        }
        Some(_) => query.flag("sendInitialEvents"),
        None if rule.is_some() => {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(forbidden_option("resourceVersionMatch", why));
        }
        None => asked.is_none_or(|r| r.0 == 0),
    };
    let marked = initial && says.is_some();
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
            pending.push_back(Step::Failed(e.into()));
            None
        }
    };
    let mut bookmarks = tokio::time::interval(BOOKMARK_EVERY);
    bookmarks.reset();
    // A client that stalled for an hour wants one bookmark, not sixty.
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let session = Session {
        state: call.state.clone(),
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
    let shutdown = call.shutdown.clone();
    let over = async move {
        tokio::select! {
            () = tokio::time::sleep(lasts) => {}
            () = shutdown.cancelled() => {}
        }
    };
    let mut response = Response::new(feed::body(session, call.session.room(), over));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// What is to be told next, not encoded yet: records are shared with the store, so that many who wait for their readers
/// hold one copy.
enum Step {
    /// One of the existing objects.
    Existing(Record),
    Change(Change),
    Bookmark {
        at: Revision,
        end_of_existing: bool,
    },
    Failed(ApiError),
}

/// Where the tour of the existing objects stands.
struct Existing {
    prefix: String,
    after: Option<String>,
    at: Revision,
}

struct Session {
    state: ApiState,
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
    /// What comes before anything else: at most a page.
    pending: VecDeque<Step>,
}

impl Source for Session {
    type Piece = Step;

    async fn next(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.pending.pop_front() {
                return Some(step);
            }
            self.watch.as_ref()?;
            let step = match self.existing.take() {
                Some(existing) => self.page(existing).await.map(|()| None),
                None => self.follow().await.map(Some),
            };
            match step {
                Ok(None) => {}
                Ok(Some(step)) => return Some(step),
                Err(e) => {
                    self.watch = None;
                    return Some(Step::Failed(e));
                }
            }
        }
    }

    fn weight(step: &Step) -> usize {
        // What a line has beside the record.
        const FRAME: usize = 512;
        let of = |record: Option<&Record>| record.map_or(0, |r| r.value.len());
        FRAME
            + match step {
                Step::Existing(record) => record.value.len(),
                // Both are told when a view's object makes place for another of its name.
                Step::Change(change) => of(change.now.as_ref()) + of(change.before.as_ref()),
                Step::Bookmark { .. } | Step::Failed(_) => 0,
            }
    }

    fn encode(&mut self, step: Step) -> Vec<u8> {
        let mut lines = Lines::default();
        let told = match step {
            Step::Existing(record) => self.existing(&record, &mut lines),
            Step::Change(change) => self.change(&change, &mut lines),
            Step::Bookmark { at, end_of_existing } => {
                self.bookmark(at, end_of_existing, &mut lines);
                Ok(())
            }
            Step::Failed(e) => Err(e),
        };
        if let Err(e) = told {
            // Nothing comes after it.
            self.watch = None;
            self.pending.clear();
            lines.add("ERROR", &e.to_status());
        }
        lines.0
    }
}

/// Events as they are sent.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn add(&mut self, kind: &str, object: &Value) {
        #[derive(Serialize)]
        struct Event<'a> {
            object: &'a Value,
            r#type: &'a str,
        }
        // Neither a value nor a buffer in memory can fail.
        drop(serde_json::to_writer(&mut self.0, &Event { object, r#type: kind }));
        self.0.push(b'\n');
    }

    /// As [`Lines::add`], of an object as it is stored.
    fn add_stored(&mut self, kind: &str, object: &Item) {
        const HEAD: &[u8] = br#"{"object":"#;
        const MIDDLE: &[u8] = br#","type":""#;
        self.0.reserve(HEAD.len() + object.len() + MIDDLE.len() + kind.len() + 3);
        self.0.extend_from_slice(HEAD);
        object.write(&mut self.0);
        self.0.extend_from_slice(MIDDLE);
        self.0.extend_from_slice(kind.as_bytes());
        self.0.extend_from_slice(b"\"}\n");
    }
}

impl Session {
    /// What the client sees of a record, if anything.
    fn show(&self, record: Value) -> Option<Value> {
        let facts = Facts::of(&self.state);
        self.view.show(record, self.namespace.as_deref(), &facts).filter(|o| self.selector.matches(o))
    }

    /// Reads the next existing objects: as many as a page has, in number and in bytes.
    async fn page(&mut self, mut existing: Existing) -> Result<(), ApiError> {
        let request = ListRequest {
            prefix: existing.prefix.clone(),
            after: existing.after.take(),
            limit: Some(PAGE),
            bytes: Some(PAGE_BYTES),
            at: Some(existing.at),
            count: false,
        };
        let page = self.state.store.list(request).await?;
        existing.after = page.records.last().map(|record| record.key.to_string());
        self.pending.extend(page.records.into_iter().map(Step::Existing));
        if page.more {
            self.existing = Some(existing);
        } else if self.marked {
            self.pending.push_back(Step::Bookmark { at: existing.at, end_of_existing: true });
        }
        Ok(())
    }

    /// Waits for something to tell.
    async fn follow(&mut self) -> Result<Step, ApiError> {
        let Some(watch) = self.watch.as_mut() else { return std::future::pending().await };
        let due = async {
            match self.bookmarks.as_mut() {
                Some(interval) => drop(interval.tick().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            change = watch.next() => return Ok(Step::Change(change?)),
            () = due => {}
        }
        // The version may only be told when every change up to it has been: read it, then look once more.
        let at = self.state.store.revision();
        match tokio::task::unconstrained(watch.next()).now_or_never() {
            Some(change) => Ok(Step::Change(change?)),
            None => Ok(Step::Bookmark { at, end_of_existing: false }),
        }
    }

    /// The kind, when its objects are told as they are stored.
    fn stored(&self) -> Option<Kind> {
        match (self.view, self.form) {
            (View::Records(kind), Form::Json) => Some(kind),
            _ => None,
        }
    }

    fn existing(&mut self, record: &Record, lines: &mut Lines) -> Result<(), ApiError> {
        if let Some(kind) = self.stored() {
            if items::shows(&self.selector, kind, record)? {
                lines.add_stored("ADDED", &Item::of(kind, &kind.api_version(), record, record.modified)?);
            }
            return Ok(());
        }
        let object = object::decode(self.view.source(), record)?;
        if let Some(object) = self.show(object) {
            self.tell("ADDED", object, lines);
        }
        Ok(())
    }

    /// Entering a selector is ADDED, leaving it DELETED, whatever really happened.
    fn change(&mut self, change: &Change, lines: &mut Lines) -> Result<(), ApiError> {
        if let Some(kind) = self.stored() {
            return self.change_stored(kind, change, lines);
        }
        let shown = |record: Option<&Record>| -> Result<Option<Value>, ApiError> {
            let Some(record) = record else { return Ok(None) };
            let object = object::decode_at(self.view.source(), record, change.revision)?;
            Ok(self.show(object))
        };
        match (shown(change.before.as_ref())?, shown(change.now.as_ref())?) {
            (None, Some(now)) => self.tell("ADDED", now, lines),
            // Another object of the same name: a view's next incarnation.
            (Some(before), Some(now)) if object::text(&before, "uid") != object::text(&now, "uid") => {
                self.tell("DELETED", before, lines);
                self.tell("ADDED", now, lines);
            }
            (Some(_), Some(now)) => self.tell("MODIFIED", now, lines),
            (Some(before), None) => self.tell("DELETED", before, lines),
            (None, None) => {}
        }
        Ok(())
    }

    /// As [`Session::change`], of what is told as it is stored: under one name there is one object at a time.
    fn change_stored(&self, kind: Kind, change: &Change, lines: &mut Lines) -> Result<(), ApiError> {
        let shown = |record: Option<&'_ Record>| match record {
            Some(record) => items::shows(&self.selector, kind, record),
            None => Ok(false),
        };
        let (before, now) = (shown(change.before.as_ref())?, shown(change.now.as_ref())?);
        let (event, record) = match (before, now) {
            (false, true) => ("ADDED", &change.now),
            (true, true) => ("MODIFIED", &change.now),
            (true, false) => ("DELETED", &change.before),
            (false, false) => return Ok(()),
        };
        if let Some(record) = record {
            lines.add_stored(event, &Item::of(kind, &kind.api_version(), record, change.revision)?);
        }
        Ok(())
    }

    fn tell(&mut self, kind: &str, object: Value, lines: &mut Lines) {
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
        lines.add(kind, &object);
    }

    fn bookmark(&mut self, revision: Revision, end_of_existing: bool, lines: &mut Lines) {
        let mut object = json!({
            "kind": self.view.kind(), "apiVersion": self.view.api_version(),
            "metadata": {"resourceVersion": revision.0.to_string()},
        });
        if end_of_existing {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.tell("BOOKMARK", object, lines);
    }
}
