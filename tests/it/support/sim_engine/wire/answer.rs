//! Answers as a daemon writes them: JSON, its refusals, and streams.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use portreeve::docker::engine::EngineErrorKind;
use serde::Serialize;

use super::super::world::Refusal;
use super::call::Call;

pub type Body = UnsyncBoxBody<Bytes, io::Error>;
pub type Reply = Result<Response<Body>, Refused>;

/// `{"message": …}` with a status of 4xx or 5xx.
pub struct Refused {
    pub status: StatusCode,
    pub message: String,
}

impl Refused {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Refused {
        Refused { status, message: message.into() }
    }

    pub fn not_found(message: impl Into<String>) -> Refused {
        Refused::new(StatusCode::NOT_FOUND, message)
    }

    pub fn bad(message: impl Into<String>) -> Refused {
        Refused::new(StatusCode::BAD_REQUEST, message)
    }

    /// The status with which a daemon tells this.
    pub fn of(call: Call, refusal: Refusal) -> Refused {
        use EngineErrorKind as Kind;
        let status = match (refusal.kind, call) {
            // The container is there, its network is not.
            (Kind::Invalid, Call::Start) if refusal.message.ends_with(" not found") => StatusCode::NOT_FOUND,
            (Kind::Invalid, Call::Start) => StatusCode::INTERNAL_SERVER_ERROR,
            (Kind::NotFound | Kind::ImageMissing, _) => StatusCode::NOT_FOUND,
            (Kind::Conflict, Call::RemoveNetwork) | (Kind::SubnetTaken, _) => StatusCode::FORBIDDEN,
            (Kind::Conflict, _) => StatusCode::CONFLICT,
            (Kind::Invalid, _) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refused { status, message: refusal.message }
    }
}

impl From<Refused> for Response<Body> {
    fn from(refused: Refused) -> Response<Body> {
        json(refused.status, &serde_json::json!({"message": refused.message}))
    }
}

/// A refusal without JSON.
pub fn plain(refused: Refused) -> Response<Body> {
    let response = Response::builder().status(refused.status).header(header::CONTENT_TYPE, "text/plain");
    response.body(whole(format!("{}\r\n", refused.message))).expect("plain headers")
}

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut bytes = serde_json::to_vec(value).expect("plain data");
    bytes.push(b'\n');
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    response.body(whole(bytes)).expect("plain headers")
}

pub fn text(text: &'static str) -> Response<Body> {
    let response = Response::builder().header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
    response.body(whole(text)).expect("plain headers")
}

/// 204, 304.
pub fn empty(status: StatusCode) -> Response<Body> {
    let body = Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).expect("plain headers")
}

/// Sent piece by piece as it comes; an error breaks the connection off.
pub fn stream(kind: &'static str, pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response<Body> {
    let body = BodyExt::boxed_unsync(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))));
    Response::builder().header(header::CONTENT_TYPE, kind).body(body).expect("plain headers")
}
