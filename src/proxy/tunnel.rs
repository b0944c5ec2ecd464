//! An upgraded connection: bytes both ways, until both ends are done.
//!
//! Its instance counts as in use for as long. An end that has closed leaves the other a while to finish, so that a
//! visitor who never closes cannot keep an app awake that has long hung up.

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Limits, OpenGuard};

/// Bytes copied at once, per direction: what a tunnel costs in memory.
const CHUNK: usize = 8 * 1024;

/// Runs until both directions have ended, one has failed, or the second outlasts the first by `limits.linger`.
pub async fn run(visitor: OnUpgrade, app: OnUpgrade, open: OpenGuard, limits: &Limits) {
    // The visitor's side resolves once the 101 is out.
    let (visitor, app) = match futures::try_join!(visitor, app) {
        Ok(both) => both,
        Err(e) => return tracing::debug!(error = %e, "an upgrade did not come about"),
    };
    match (plain(visitor), plain(app)) {
        (Ok((visitor, early_visitor)), Ok((app, early_app))) => {
            let ((vr, vw), (ar, aw)) = (visitor.into_split(), app.into_split());
            relay((vr, early_visitor), aw, (ar, early_app), vw, &open, limits).await;
        }
        (visitor, app) => {
            let (vr, vw) = tokio::io::split(boxed(visitor));
            let (ar, aw) = tokio::io::split(boxed(app));
            relay((vr, Default::default()), aw, (ar, Default::default()), vw, &open, limits).await;
        }
    }
}

type Plain = (TcpStream, bytes::Bytes);

/// The bare socket and what was read from it ahead: saves a layer of dynamic calls per read and write.
fn plain(upgraded: Upgraded) -> Result<Plain, Upgraded> {
    upgraded.downcast::<TokioIo<TcpStream>>().map(|parts| (parts.io.into_inner(), parts.read_buf))
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Either kind as one type, what was read ahead first.
fn boxed(side: Result<Plain, Upgraded>) -> Box<dyn Duplex> {
    match side {
        Ok((stream, early)) => {
            let (read, write) = stream.into_split();
            Box::new(tokio::io::join(std::io::Cursor::new(early).chain(read), write))
        }
        Err(upgraded) => Box::new(TokioIo::new(upgraded)),
    }
}

async fn relay<VR, VW, AR, AW>(
    from_visitor: (VR, bytes::Bytes),
    to_app: AW,
    from_app: (AR, bytes::Bytes),
    to_visitor: VW,
    open: &OpenGuard,
    limits: &Limits,
) where
    VR: AsyncRead + Unpin,
    VW: AsyncWrite + Unpin,
    AR: AsyncRead + Unpin,
    AW: AsyncWrite + Unpin,
{
    let up = pump(from_visitor, to_app, open);
    let down = pump(from_app, to_visitor, open);
    tokio::pin!(up, down);
    let (first, second) = tokio::select! {
        ended = &mut up => (ended, futures::future::Either::Left(down)),
        ended = &mut down => (ended, futures::future::Either::Right(up)),
    };
    let ended = match first {
        Ok(()) => tokio::time::timeout(limits.linger, second).await.unwrap_or(Ok(())),
        Err(e) => Err(e),
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "a tunnel broke off");
    }
}

/// Copies one direction to its end, and passes the end on.
async fn pump(
    (mut from, early): (impl AsyncRead + Unpin, bytes::Bytes),
    mut to: impl AsyncWrite + Unpin,
    open: &OpenGuard,
) -> std::io::Result<()> {
    to.write_all(&early).await?;
    drop(early);
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        open.touch_if_due();
        to.write_all(&buffer[..n]).await?;
        // Sockets have nothing to flush; layers above them do.
        to.flush().await?;
    }
}
