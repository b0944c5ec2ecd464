//! `pods/log`: the container's output as plain text, streamed as fast as the client reads.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};

use super::attach::{AttachError, LogOptions};
use super::delivery::AtLeisure;
use super::error::{ApiError, Subject};
use super::handler::{Call, plain};
use super::query::Query;
use super::views::{self, View, pods};
use crate::model::Key;

impl From<AttachError> for ApiError {
    fn from(e: AttachError) -> ApiError {
        match &e {
            AttachError::NoContainer(key) => ApiError::not_found(&Subject::pod(&key.name)),
            AttachError::NotRunning(_) | AttachError::NotUp { .. } | AttachError::NoPort { .. } => {
                ApiError::bad_request(e.to_string())
            }
            AttachError::NoPreviousRun(key) => ApiError::bad_request(format!(
                "previous terminated container {:?} in pod {:?} not found",
                pods::CONTAINER,
                key.name
            )),
            AttachError::Unreachable { .. } => ApiError::unavailable(e.to_string()),
            AttachError::Failed { .. } => ApiError::internal(e.to_string()),
        }
    }
}

fn options(query: &Query, now: Timestamp) -> Result<LogOptions, ApiError> {
    let ago = query.number("sinceSeconds")?.map(|s| SignedDuration::from_secs(i64::try_from(s).unwrap_or(i64::MAX)));
    let since = match (ago, query.get("sinceTime")) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request("at most one of sinceTime and sinceSeconds may be set"));
        }
        // Longer ago than time reaches: everything.
        (Some(ago), None) => now.checked_sub(ago).ok(),
        (None, Some(text)) => Some(
            text.parse().map_err(|_| ApiError::bad_request(format!("sinceTime: {text:?} is not an RFC 3339 time")))?,
        ),
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: query.flag("follow"),
        tail: query.number("tailLines")?,
        since,
        timestamps: query.flag("timestamps"),
        previous: query.flag("previous"),
    })
}

/// The container that is asked for must be the one there is.
pub fn check_container(query: &Query, name: &str) -> Result<(), ApiError> {
    match query.get("container") {
        None | Some(pods::CONTAINER) => Ok(()),
        Some(other) => Err(ApiError::bad_request(format!("container {other} is not valid for pod {name}"))),
    }
}

pub async fn answer(call: &Call, name: &str) -> Result<Response, ApiError> {
    let namespace = call.place.namespace.clone().unwrap_or_default();
    views::fetch(&call.state, View::Pods, Some(&namespace), name).await?;
    check_container(&call.query, name)?;
    let options = options(&call.query, call.state.clock.now())?;
    let limit = call.query.number("limitBytes")?;
    let output = call.state.attach.logs(&Key::instance(namespace, name), options).await?;
    let shutdown = call.shutdown.clone().cancelled_owned();
    let limited = limit_bytes(output.map(|r| r.map_err(|e| std::io::Error::other(e.to_string()))), limit);
    let mut response = plain(Body::from_stream(limited.take_until(shutdown)));
    response.extensions_mut().insert(AtLeisure);
    Ok(response)
}

/// Ends a stream after so many bytes.
fn limit_bytes<E: Send + 'static>(
    output: impl stream::Stream<Item = Result<Bytes, E>> + Send + 'static,
    limit: Option<u64>,
) -> stream::BoxStream<'static, Result<Bytes, E>> {
    let Some(limit) = limit else { return output.boxed() };
    output
        .scan(limit, |left, item| {
            let step = match item {
                _ if *left == 0 => None,
                Ok(mut bytes) => {
                    bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= bytes.len() as u64;
                    Some(Ok(bytes))
                }
                Err(e) => Some(Err(e)),
            };
            std::future::ready(step)
        })
        .boxed()
}
