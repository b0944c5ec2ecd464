//! Probing an app: is it up behind its host port? The seam [`Prober`], and the real one over TCP and HTTP.

use std::time::Duration;

use async_trait::async_trait;
use http_body_util::Empty;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::model::{Instance, Probe};

/// One attempt may take this long.
const ATTEMPT: Duration = Duration::from_secs(2);
/// docker-proxy accepts a connection before the app listens, and closes it again at once: a connection that is still
/// open after this long was accepted by the app.
const STAYS_OPEN: Duration = Duration::from_millis(20);

/// What to ask, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    pub address: String,
    pub port: u16,
    /// GET this path; `None`: only connect.
    pub path: Option<String>,
}

impl ProbeTarget {
    /// The startup probe of a bound instance: its own, or a connection to its first port. `None` when it has no port:
    /// then running is all that can be known.
    pub fn startup(instance: &Instance) -> Option<ProbeTarget> {
        let (port, path) = match &instance.spec.probes.startup {
            Some(Probe { http: Some(http), .. }) => {
                (&http.port, Some(if http.path.is_empty() { "/".to_owned() } else { http.path.clone() }))
            }
            Some(Probe { tcp: Some(tcp), .. }) => (&tcp.port, None),
            Some(Probe { .. }) | None => (&instance.spec.ports.first()?.name, None),
        };
        Some(ProbeTarget { address: instance.status.address.clone(), port: instance.status.host_port(port)?, path })
    }
}

#[async_trait]
pub trait Prober: Send + Sync {
    /// One attempt, bounded in time. The error says what was seen.
    async fn probe(&self, target: &ProbeTarget) -> Result<(), String>;
}

/// Probes over the network.
#[derive(Debug, Default)]
pub struct NetProber;

#[async_trait]
impl Prober for NetProber {
    async fn probe(&self, target: &ProbeTarget) -> Result<(), String> {
        match timeout(ATTEMPT, attempt(target)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", ATTEMPT.as_secs())),
        }
    }
}

async fn attempt(target: &ProbeTarget) -> Result<(), String> {
    let mut stream =
        TcpStream::connect((target.address.as_str(), target.port)).await.map_err(|e| format!("connect: {e}"))?;
    let Some(path) = &target.path else {
        let mut byte = [0];
        return match timeout(STAYS_OPEN, stream.read(&mut byte)).await {
            Err(_) => Ok(()),
            Ok(Ok(n)) if n > 0 => Ok(()),
            Ok(Ok(_)) => Err("the connection was closed at once".to_owned()),
            Ok(Err(e)) => Err(format!("the connection broke at once: {e}")),
        };
    };
    let _ = stream.set_nodelay(true);
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|e| format!("connect: {e}"))?;
    let request = http::Request::get(path)
        .header(http::header::HOST, format!("{}:{}", target.address, target.port))
        .header(http::header::USER_AGENT, "portreeve-probe")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|e| format!("the probe's path makes no request: {e}"))?;
    let response = sender.send_request(request);
    tokio::pin!(response);
    // The connection is driven here, beside the request, so that nothing outlives the attempt. It may end in the same
    // poll that delivers the answer.
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        ended = connection => match ended {
            Ok(()) => response.await,
            Err(e) => Err(e),
        },
    };
    match response.map_err(|e| format!("GET {path}: {e}"))?.status() {
        status if status.as_u16() < 400 => Ok(()),
        status => Err(format!("GET {path}: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn answering(answer: &'static str) -> ProbeTarget {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                if !answer.is_empty() {
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
        ProbeTarget { address: "127.0.0.1".into(), port, path: None }
    }

    #[tokio::test]
    async fn a_status_below_400_passes_and_others_are_told() {
        let ok = ProbeTarget { path: Some("/x".into()), ..answering("HTTP/1.1 204 No Content\r\n\r\n").await };
        assert_eq!(NetProber.probe(&ok).await, Ok(()));
        let failing = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        let failing = ProbeTarget { path: Some("/x".into()), ..failing };
        assert_eq!(NetProber.probe(&failing).await.unwrap_err(), "GET /x: 503 Service Unavailable");
    }

    #[tokio::test]
    async fn a_port_that_accepts_and_closes_is_not_up() {
        let closing = answering("").await;
        assert!(NetProber.probe(&closing).await.unwrap_err().contains("at once"));
        let open = answering("HTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(NetProber.probe(&open).await, Ok(()));
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = ProbeTarget { address: "127.0.0.1".into(), port: nobody.local_addr().unwrap().port(), path: None };
        drop(nobody);
        assert!(NetProber.probe(&target).await.unwrap_err().starts_with("connect:"));
    }
}
