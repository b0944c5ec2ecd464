//! `/metrics`: what there is to count, in the OpenMetrics text format; and what the API itself counts.
//!
//! The counters of all rooms are put together by `serve`, which hands them over as an [`Exposition`].

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::error::ApiError;

/// All that is counted, as text.
pub trait Exposition: Send + Sync + 'static {
    /// # Errors
    /// When something cannot be told as text.
    fn text(&self) -> Result<String, std::fmt::Error>;
}

/// Nothing is counted.
pub struct Nothing;

impl Exposition for Nothing {
    fn text(&self) -> Result<String, std::fmt::Error> {
        Ok("# EOF\n".into())
    }
}

const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub fn answer(exposition: &dyn Exposition) -> Result<Response, ApiError> {
    let text = exposition.text().map_err(|e| ApiError::internal(format!("the metrics cannot be told: {e}")))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))], text).into_response())
}

/// What is told of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    code: u16,
}

/// Counters since the start. Cheap to clone: clones count together.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    responses: Family<Answered, Counter>,
}

impl Stats {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("api_responses", "Answers of the API, by method and status", self.responses.clone());
    }

    pub fn responded(&self, method: &Method, status: StatusCode) {
        // A client may make up methods; each would be one more line for ever.
        let known = ["GET", "POST", "PUT", "PATCH", "DELETE"].into_iter().find(|known| method == known);
        self.responses.get_or_create(&Answered { method: known.unwrap_or("other"), code: status.as_u16() }).inc();
    }
}
