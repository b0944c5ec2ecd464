//! Leaving HTTP: which protocol a client offers, the answer to it, and the task of its session.

use axum::body::Body;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use crate::api::error::ApiError;
use crate::api::handler::Call;

const SPDY: &str = "SPDY/3.1";
/// Which protocol a SPDY client wants to speak on its streams.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// Largest WebSocket message that a client may send.
const MOST_MESSAGE: usize = 1 << 20;

/// Whether a client wants SPDY; if not, it is taken to want a WebSocket.
pub fn wants_spdy(headers: &HeaderMap) -> bool {
    listed(headers, header::UPGRADE.as_str()).any(|token| token.eq_ignore_ascii_case(SPDY))
}

/// Whether a client offers this WebSocket protocol.
pub fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    listed(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str()).any(|offered| offered == protocol)
}

/// The items of a header that may be given several times and with several items each.
fn listed<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// Runs a session until it ends by itself, the client's credentials are no longer good, or the server stops.
fn bounded(
    call: &Call,
    session: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let (shutdown, access) = (call.shutdown.clone(), call.session.clone());
    async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = access.ended() => {}
            () = session => {}
        }
    }
}

/// Agrees to SPDY and runs the session on it. `spoken`: stream protocols, the preferred first.
pub fn spdy<F>(
    call: &Call,
    mut request: Request,
    spoken: &[&'static str],
    session: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Result<Response, ApiError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let offered: Vec<_> = listed(request.headers(), STREAM_PROTOCOL).collect();
    let Some(chosen) = spoken.iter().find(|p| offered.contains(p)) else {
        let message = format!("unable to upgrade: none of {offered:?} is spoken; these are: {spoken:?}");
        return Err(ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message));
    };
    let connection = listed(request.headers(), header::CONNECTION.as_str());
    if !connection.into_iter().any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(ApiError::bad_request("unable to upgrade: the header Connection lacks Upgrade"));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(chosen));
    let upgraded = hyper::upgrade::on(&mut request);
    // The connection is no longer HTTP's once the answer is out.
    tokio::spawn(bounded(call, async move {
        match upgraded.await {
            Ok(io) => session(TokioIo::new(io)).await,
            Err(e) => tracing::debug!(error = %e, "an upgrade to SPDY did not come about"),
        }
    }));
    Ok(response)
}

/// Agrees to a WebSocket and runs the session on it, told which protocol was chosen. `spoken`: the preferred first.
pub async fn websocket<F>(
    call: &Call,
    request: Request,
    spoken: &'static [&'static str],
    session: impl FnOnce(WebSocket, &'static str) -> F + Send + 'static,
) -> Result<Response, ApiError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|e| {
        ApiError::bad_request(format!("this is served over WebSocket and {SPDY} only: {}", e.body_text()))
    })?;
    let offered: Vec<_> = upgrade.requested_protocols().filter_map(|p| p.to_str().ok()).collect();
    let Some(chosen) = spoken.iter().find(|p| offered.contains(p)) else {
        let message = format!("none of the offered protocols {offered:?} is spoken; these are: {spoken:?}");
        return Err(ApiError::bad_request(message));
    };
    let upgrade = upgrade.protocols([*chosen]).max_frame_size(MOST_MESSAGE).max_message_size(MOST_MESSAGE);
    let (begin, begun) = tokio::sync::oneshot::channel();
    let session = bounded(call, async move {
        if let Ok(socket) = begun.await {
            session(socket, chosen).await;
        }
    });
    Ok(upgrade.on_upgrade(async move |socket| {
        if begin.send(socket).is_ok() {
            session.await;
        }
    }))
}
