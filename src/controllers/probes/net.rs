//! Attempts over the network: is the app up behind its host port? The seam [`Prober`], and the real one over TCP and HTTP.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::Empty;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::target::NetTarget;
use super::verdict::Attempt;

/// docker-proxy accepts a connection before the app listens, and closes it again at once: a connection that is still
/// open after this long was accepted by the app.
const STAYS_OPEN: Duration = Duration::from_millis(20);

#[async_trait]
pub trait Prober: Send + Sync {
    /// One attempt, which takes no longer than `limit`.
    async fn probe(&self, target: &NetTarget, limit: Duration) -> Attempt;

    /// The status that the app answers a GET with, which takes no longer than `limit`; or why there is none.
    async fn status(&self, target: &NetTarget, limit: Duration) -> Result<u16, String>;
}

/// Probes over the network.
#[derive(Debug, Default)]
pub struct NetProber;

#[async_trait]
impl Prober for NetProber {
    async fn probe(&self, target: &NetTarget, limit: Duration) -> Attempt {
        match timeout(limit, attempt(target)).await {
            Ok(Ok(())) => Attempt::Passed,
            Ok(Err(attempt)) => attempt,
            Err(_) => Attempt::Failed(late(limit)),
        }
    }

    async fn status(&self, target: &NetTarget, limit: Duration) -> Result<u16, String> {
        let asked = async {
            let stream = connect(target).await?;
            Ok(get(target, stream, target.path.as_deref().unwrap_or("/")).await?.as_u16())
        };
        match timeout(limit, asked).await {
            Ok(answer) => answer.map_err(|attempt: Attempt| match attempt {
                Attempt::Failed(why) | Attempt::Unknown(why) => why,
                Attempt::Passed => unreachable!("no failure"),
            }),
            Err(_) => Err(late(limit)),
        }
    }
}

fn late(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}

fn failed(what: impl Into<String>) -> Attempt {
    Attempt::Failed(what.into())
}

/// Where there is no way to the host, the app was not asked.
fn unconnected(error: &io::Error) -> Attempt {
    match error.kind() {
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            Attempt::Unknown(format!("connect: {error}"))
        }
        // Of this process, not of the app: no file descriptor or local port is left.
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::EADDRNOTAVAIL)) => {
            Attempt::Unknown(format!("connect: {error}"))
        }
        _ => failed(format!("connect: {error}")),
    }
}

async fn connect(target: &NetTarget) -> Result<TcpStream, Attempt> {
    TcpStream::connect((target.address.as_str(), target.port)).await.map_err(|e| unconnected(&e))
}

async fn attempt(target: &NetTarget) -> Result<(), Attempt> {
    let mut stream = connect(target).await?;
    let Some(path) = &target.path else {
        let mut byte = [0];
        return match timeout(STAYS_OPEN, stream.read(&mut byte)).await {
            Err(_) => Ok(()),
            Ok(Ok(n)) if n > 0 => Ok(()),
            Ok(Ok(_)) => Err(failed("the connection was closed at once")),
            Ok(Err(e)) => Err(failed(format!("the connection broke at once: {e}"))),
        };
    };
    match get(target, stream, path).await? {
        status if status.as_u16() < 400 => Ok(()),
        status => Err(failed(format!("GET {}: {status}", shown(path)))),
    }
}

/// What stands in the query is the app's own business.
fn shown(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

async fn get(target: &NetTarget, stream: TcpStream, path: &str) -> Result<http::StatusCode, Attempt> {
    let _ = stream.set_nodelay(true);
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|e| failed(format!("connect: {e}")))?;
    let request = http::Request::get(path)
        .header(http::header::HOST, format!("{}:{}", target.address, target.port))
        .header(http::header::USER_AGENT, "portreeve-probe")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|e| failed(format!("the probe's path makes no request: {e}")))?;
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
    Ok(response.map_err(|e| failed(format!("GET {}: {e}", shown(path))))?.status())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// Longer than any answer here takes.
    const LIMIT: Duration = Duration::from_secs(60);

    async fn answering(answer: &'static str) -> NetTarget {
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
        NetTarget { address: "127.0.0.1".into(), port, path: None }
    }

    async fn why(target: &NetTarget, limit: Duration) -> String {
        match NetProber.probe(target, limit).await {
            Attempt::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_status_below_400_passes_and_others_are_told() {
        let ok = NetTarget { path: Some("/x".into()), ..answering("HTTP/1.1 204 No Content\r\n\r\n").await };
        assert_eq!(NetProber.probe(&ok, LIMIT).await, Attempt::Passed);
        let failing = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        let failing = NetTarget { path: Some("/x?key=secret".into()), ..failing };
        assert_eq!(why(&failing, LIMIT).await, "GET /x: 503 Service Unavailable");
    }

    #[tokio::test]
    async fn a_port_that_accepts_and_closes_is_not_up() {
        let closing = answering("").await;
        assert!(why(&closing, LIMIT).await.contains("at once"));
        let open = answering("HTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(NetProber.probe(&open, LIMIT).await, Attempt::Passed);
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = NetTarget { address: "127.0.0.1".into(), port: nobody.local_addr().unwrap().port(), path: None };
        drop(nobody);
        assert!(why(&target, LIMIT).await.starts_with("connect:"));
    }

    #[tokio::test]
    async fn an_app_that_accepts_and_says_nothing_fails_within_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = NetTarget { address: "127.0.0.1".into(), port, path: Some("/".into()) };
        assert_eq!(why(&silent, Duration::from_millis(100)).await, "no answer within 100ms");
    }

    #[test]
    fn a_host_that_cannot_be_reached_says_nothing_of_its_apps() {
        for (code, known) in [(libc::ECONNREFUSED, true), (libc::EHOSTUNREACH, false), (libc::EMFILE, false)] {
            let attempt = unconnected(&io::Error::from_raw_os_error(code));
            assert_eq!(matches!(attempt, Attempt::Failed(_)), known, "{attempt:?}");
        }
    }
}
