//! exec and attach over SPDY: one stream per channel, named by its header `streamtype`.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::feed::{Piece, Reader};
use super::session::{self, Input, Output, Said, Size, Subject};
use super::spdy::connection::{Patience, Stream, Writer, connection};
use super::{CLOSE_TIMEOUT, Gone, V4, V5};
use crate::api::attach::{Attach, OutputStream};
use crate::model::Key;

/// v5 differs from v4 only in what WebSockets can say.
pub const PROTOCOLS: [&str; 2] = [V4, V5];
/// How long a client may take to open its streams.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
/// No window size is longer.
const MOST_SIZE: usize = 1024;

/// Which streams a session has, beside `error`.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub resize: bool,
}

/// Runs a session, and waits for the client to close.
pub async fn run<IO>(io: IO, attach: &dyn Attach, key: &Key, subject: &Subject, wanted: Wanted)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (driver, mut accept) = connection(io, Patience::Endless);
    let session = async {
        let Ok(Some((mut ears, mut mouth))) = timeout(STREAMS_WITHIN, gather(&mut accept, wanted)).await else {
            return tracing::debug!(%key, "a client did not open its streams");
        };
        // What is still queued goes out while the driver runs on, until the client closes.
        if session::run(attach, key, subject, &mut ears, &mut mouth).await.is_ok() {
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        }
    };
    tokio::select! {
        ended = driver.run() => if let Err(e) = ended {
            tracing::debug!(%key, error = &e as &dyn std::error::Error, "a client's connection ended badly");
        },
        () = session => {}
    }
}

/// Waits for all the streams of the session; `None`: the client has gone or has opened others.
async fn gather(accept: &mut mpsc::Receiver<Stream>, wanted: Wanted) -> Option<(Ears, Mouth)> {
    let (mut error, mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None, None);
    let mut missing = 1 + [wanted.stdin, wanted.stdout, wanted.stderr, wanted.resize].iter().filter(|w| **w).count();
    while missing > 0 {
        let stream = accept.recv().await?;
        let slot = match stream.headers.get("streamtype")? {
            "error" => &mut error,
            "stdin" if wanted.stdin => &mut stdin,
            "stdout" if wanted.stdout => &mut stdout,
            "stderr" if wanted.stderr => &mut stderr,
            "resize" if wanted.resize => &mut resize,
            _ => return None,
        };
        if slot.replace((stream.reader, stream.writer)).is_some() {
            return None;
        }
        missing -= 1;
    }
    let (heard, told) = (|s: Option<(Reader, Writer)>| s.map(|s| s.0), |s: Option<(Reader, Writer)>| s.map(|s| s.1));
    let ears = Ears { stdin: heard(stdin), resize: heard(resize), size: BytesMut::new() };
    Some((ears, Mouth { stdout: told(stdout), stderr: told(stderr), error: told(error) }))
}

struct Ears {
    /// `None` when there is none, or it has ended.
    stdin: Option<Reader>,
    resize: Option<Reader>,
    /// The beginning of a window size.
    size: BytesMut,
}

async fn piece(of: &mut Option<Reader>) -> Piece {
    match of {
        Some(reader) => reader.next().await,
        None => std::future::pending().await,
    }
}

impl Input for Ears {
    /// Never `None`: the driver's end tells that the client is gone.
    async fn next(&mut self) -> Option<Said> {
        loop {
            if let Some(size) = parse_size(&mut self.size) {
                return Some(Said::Resize(size));
            }
            tokio::select! {
                input = piece(&mut self.stdin) => return Some(match input {
                    Piece::Data(bytes) => Said::Stdin(bytes),
                    Piece::End | Piece::Broken => {
                        self.stdin = None;
                        Said::StdinEnd
                    }
                }),
                size = piece(&mut self.resize) => match size {
                    Piece::Data(bytes) if self.size.len() + bytes.len() <= MOST_SIZE => self.size.extend_from_slice(&bytes),
                    Piece::Data(_) => self.size.clear(),
                    Piece::End | Piece::Broken => self.resize = None,
                },
            }
        }
    }
}

/// The first size in `bytes`, which lose it; they follow each other without more than white space between.
fn parse_size(bytes: &mut BytesMut) -> Option<Size> {
    let mut sizes = serde_json::Deserializer::from_slice(bytes).into_iter::<Size>();
    match sizes.next()? {
        Ok(size) => {
            let used = sizes.byte_offset();
            bytes.advance(used);
            Some(size)
        }
        Err(e) => {
            if !e.is_eof() {
                bytes.clear();
            }
            None
        }
    }
}

struct Mouth {
    stdout: Option<Writer>,
    stderr: Option<Writer>,
    error: Option<Writer>,
}

impl Output for Mouth {
    async fn send(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), Gone> {
        let writer = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        match writer {
            Some(writer) => writer.send(&bytes).await,
            None => Ok(()),
        }
    }

    /// The driver has its own.
    async fn beat(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    async fn end(&mut self, status: &Value) -> Result<(), Gone> {
        if let Some(mut error) = self.error.take() {
            error.send(status.to_string().as_bytes()).await?;
            error.finish().await;
        }
        for mut writer in [self.stdout.take(), self.stderr.take()].into_iter().flatten() {
            writer.finish().await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_sizes_are_read_however_they_come() {
        let mut bytes = BytesMut::from("{\"Width\":80,\"Height\":24}\n{\"Width\":81,");
        assert_eq!(parse_size(&mut bytes).map(|s| (s.width, s.height)), Some((80, 24)));
        assert!(parse_size(&mut bytes).is_none());
        bytes.extend_from_slice(b"\"Height\":25}\n");
        assert_eq!(parse_size(&mut bytes).map(|s| (s.width, s.height)), Some((81, 25)));
        assert!(parse_size(&mut bytes).is_none());
        bytes.extend_from_slice(b"nonsense");
        assert!(parse_size(&mut bytes).is_none());
        assert!(bytes.is_empty());
    }
}
