//! The HTTP client of the verbs: JSON requests, streams of lines, WebSockets; precise errors; everything bounded.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tungstenite::client::IntoClientRequest;

use super::connect::{ConnectError, Connector};
use super::error::{Error, Result, Status};
use super::kubeconfig::Connection;

/// The largest answer that is read whole, in bytes.
const MAX_BODY: usize = 256 << 20;
/// The longest line of a stream, in bytes: an object is far smaller.
const MAX_LINE: usize = 8 << 20;
/// How long a request may take unless `--request-timeout` says otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

pub const JSON: &str = "application/json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// YAML, of which JSON is a part.
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const AGENT: &str = concat!("portreeve/", env!("CARGO_PKG_VERSION"));

pub type WebSocket = WebSocketStream<TlsStream<TcpStream>>;

/// Speaks to the server of one kubeconfig context.
pub struct Client {
    server: String,
    token: Option<HeaderValue>,
    connector: Connector,
    pool: Pool<Connector, Full<Bytes>>,
    timeout: Duration,
}

impl Client {
    /// Does not connect yet.
    pub fn new(connection: &Connection, timeout: Duration) -> Result<Client> {
        let connector = Connector::new(connection)?;
        let token = match &connection.token {
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| Error::failed("the token cannot be sent in a header"))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let pool = Pool::builder(TokioExecutor::new()).build(connector.clone());
        Ok(Client { server: connection.server.clone(), token, connector, pool, timeout })
    }

    pub async fn get(&self, path: &str, accept: &str) -> Result<Value> {
        self.call(Method::GET, path, accept, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::POST, path, JSON, Some((JSON, body))).await
    }

    pub async fn merge_patch(&self, path: &str, patch: &Value) -> Result<Value> {
        self.call(Method::PATCH, path, JSON, Some((MERGE_PATCH, patch))).await
    }

    /// A server-side apply.
    pub async fn apply_patch(&self, path: &str, config: &Value) -> Result<Value> {
        self.call(Method::PATCH, path, JSON, Some((APPLY_PATCH, config))).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.call(Method::DELETE, path, JSON, Some((JSON, options))).await
    }

    async fn call(&self, method: Method, path: &str, accept: &str, body: Option<(&str, &Value)>) -> Result<Value> {
        let request = self.request(method, path, accept, body)?;
        let exchange = async {
            let answer = self.pool.request(request).await.map_err(|e| self.unreachable(&e))?;
            let (head, body) = answer.into_parts();
            warn(&head.headers);
            let body = Limited::new(body, MAX_BODY).collect().await;
            let body = body.map_err(|e| self.broken(&*e))?.to_bytes();
            if !head.status.is_success() {
                let retry_after = retry_after(&head.headers);
                let status = Status { retry_after, ..Status::read(head.status.as_u16(), &body) };
                return Err(Error::Server(Box::new(status)));
            }
            serde_json::from_slice(&body)
                .map_err(|e| Error::failed(format!("the answer of {} to {path} is no JSON: {e}", self.server)))
        };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| Err(self.too_slow()))
    }

    /// Begins a stream: the timeout holds until its head has come.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Stream> {
        let request = self.request(Method::GET, path, accept, None)?;
        let begin = async {
            let answer = self.pool.request(request).await.map_err(|e| self.unreachable(&e))?;
            let (head, body) = answer.into_parts();
            warn(&head.headers);
            if head.status.is_success() {
                return Ok(Stream { server: self.server.clone(), body, buffer: BytesMut::new() });
            }
            let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| self.broken(&*e))?.to_bytes();
            Err(Error::Server(Box::new(Status::read(head.status.as_u16(), &body))))
        };
        tokio::time::timeout(self.timeout, begin).await.unwrap_or_else(|_| Err(self.too_slow()))
    }

    /// Opens a WebSocket of a subprotocol; one that the server does not choose is an error.
    pub async fn websocket(&self, path: &str, protocol: &'static str) -> Result<WebSocket> {
        let address = format!("wss{}{path}", self.server.strip_prefix("https").unwrap_or_default());
        let mut request = address.into_client_request().map_err(|e| Error::failed(format!("{}: {e}", self.server)))?;
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let config = tungstenite::protocol::WebSocketConfig::default()
            .max_message_size(Some(MAX_LINE))
            .max_write_buffer_size(MAX_LINE)
            .write_buffer_size(0);
        let begin = async {
            let tls = self.connector.connect().await.map_err(|e| self.refused(&e))?;
            match tokio_tungstenite::client_async_with_config(request, tls, Some(config)).await {
                Ok((socket, _)) => Ok(socket),
                Err(tungstenite::Error::Http(answer)) => {
                    let body = answer.body().as_deref().unwrap_or_default();
                    Err(Error::Server(Box::new(Status::read(answer.status().as_u16(), body))))
                }
                Err(e) => Err(Error::failed(format!("{} did not open a WebSocket: {e}", self.server))),
            }
        };
        tokio::time::timeout(self.timeout, begin).await.unwrap_or_else(|_| Err(self.too_slow()))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header(ACCEPT, accept)
            .header(USER_AGENT, AGENT);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        let bytes = match body {
            Some((kind, value)) => {
                request = request.header(CONTENT_TYPE, kind);
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        request.body(Full::new(bytes)).map_err(|e| Error::failed(format!("{path} cannot be asked for: {e}")))
    }

    fn unreachable(&self, e: &hyper_util::client::legacy::Error) -> Error {
        match e.source().and_then(|s| s.downcast_ref::<ConnectError>()) {
            Some(refusal) => self.refused(refusal),
            None => self.broken(e),
        }
    }

    fn refused(&self, e: &ConnectError) -> Error {
        let server = &self.server;
        Error::failed(match e {
            ConnectError::Tcp(_) => format!("cannot reach {server}: {e}; is `portreeve serve` running?"),
            ConnectError::Tls(_) => format!("cannot trust {server}, or it does not trust us: {e}"),
            ConnectError::TimedOut => format!("cannot reach {server}: {e}"),
        })
    }

    fn broken(&self, e: &(dyn std::error::Error + 'static)) -> Error {
        Error::failed(format!("the connection to {} broke: {}", self.server, root(e)))
    }

    fn too_slow(&self) -> Error {
        let seconds = self.timeout.as_secs_f64();
        Error::TimedOut(format!("no answer from {} within {seconds}s; see --request-timeout", self.server))
    }
}

/// The innermost cause: the outer ones say "client error (SendRequest)" and the like.
fn root(e: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// `Retry-After` in seconds; a date is taken for none, as no server of ours sends one.
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Says the server's `Warning: 299 - "text"` headers.
fn warn(headers: &http::HeaderMap) {
    for value in headers.get_all("warning").iter().filter_map(|v| v.to_str().ok()) {
        let text = value.split_once('"').and_then(|(_, rest)| rest.rsplit_once('"')).map_or(value, |(text, _)| text);
        eprintln!("Warning: {}", text.replace("\\\"", "\"").replace("\\\\", "\\"));
    }
}

/// A body that arrives bit by bit: a watch or a log.
pub struct Stream {
    server: String,
    body: Incoming,
    buffer: BytesMut,
}

impl Stream {
    /// The next bytes, as they come. `None` at the end. Cancel safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(e)) => {
                    return Err(Error::failed(format!("the connection to {} broke: {}", self.server, root(&e))));
                }
            }
        }
    }

    /// The next line without its end; a last one without line end counts. `None` at the end. Cancel safe.
    pub async fn line(&mut self) -> Result<Option<Bytes>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let mut line = self.buffer.split_to(searched + end + 1);
                line.truncate(searched + end);
                return Ok(Some(line.freeze()));
            }
            searched = self.buffer.len();
            if searched > MAX_LINE {
                return Err(Error::failed(format!("{} sent a line of more than {MAX_LINE} bytes", self.server)));
            }
            match self.chunk().await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(self.buffer.split().freeze())),
            }
        }
    }
}

/// Whether a refusal means that what was asked for is not served at all.
pub fn not_served(e: &Error) -> bool {
    matches!(e, Error::Server(s) if s.code == StatusCode::NOT_FOUND.as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_wait_is_read_from_the_head() {
        let told = |value: &str| {
            let head = http::HeaderMap::from_iter([(http::header::RETRY_AFTER, HeaderValue::from_str(value).unwrap())]);
            retry_after(&head)
        };
        assert_eq!(told("7"), Some(Duration::from_secs(7)));
        assert_eq!(told("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(retry_after(&http::HeaderMap::new()), None);
    }
}
