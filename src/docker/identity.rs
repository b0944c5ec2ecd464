//! Is the daemon at the other end the one that it should be? Asked on every new connection, before anything else is
//! sent on it: an address can change hands between two calls, and where hosts share a CA, one certificate opens all.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::rt::{Read, Write};
use serde::Deserialize;

/// No daemon tells more about itself.
const MOST: usize = 1 << 20;

/// Another daemon answers than the one that was expected. Nothing but the question was sent to it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("another daemon answers there: its id is {found}, and this host's is {expected}")]
pub struct WrongDaemon {
    pub expected: String,
    pub found: String,
}

#[derive(Deserialize)]
struct Info {
    #[serde(rename = "ID", default)]
    id: String,
}

/// Asks on a fresh connection who is there, and gives the connection back when it is the expected one. `expected`: an
/// id; empty: whoever answers.
pub async fn verified<I>(io: I, expected: &str) -> io::Result<I>
where
    I: Read + Write + Send + Unpin + 'static,
{
    let (mut sender, mut connection) = hyper::client::conn::http1::handshake(io).await.map_err(io::Error::other)?;
    let question = Request::get("/info").header(header::HOST, "docker").body(Empty::<Bytes>::new());
    let exchange = async {
        let answer = sender.send_request(question.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST).collect().await.map_err(io::Error::other)?.to_bytes();
        if !status.is_success() {
            let told = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            return Err(io::Error::other(format!("the daemon does not tell its id: {status}: {told}")));
        }
        serde_json::from_slice::<Info>(&body).map_err(io::Error::other)
    };
    let mut exchange = pin!(exchange);
    let info = tokio::select! {
        biased;
        info = &mut exchange => info?,
        ended = &mut connection => {
            ended.map_err(io::Error::other)?;
            // What ended it was told to who has asked.
            exchange.await?;
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed a new connection"));
        }
    };
    if expected.is_empty() || info.id == expected {
        // The answer was read to its end, so that nothing of it is left in the buffer.
        Ok(connection.into_parts().io)
    } else {
        Err(io::Error::other(WrongDaemon { expected: expected.to_owned(), found: info.id }))
    }
}

/// The mismatch behind an error, if it is one.
pub fn wrong_daemon<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a WrongDaemon> {
    behind(error)
}

/// The first cause of this type; also looks into what an [`io::Error`] was made of, which is no source of it.
pub fn behind<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(at) = cause {
        let inner = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = at.downcast_ref().or_else(|| inner?.downcast_ref()) {
            return Some(found);
        }
        cause = at.source();
    }
    None
}
