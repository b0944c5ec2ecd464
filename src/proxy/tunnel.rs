//! An upgraded connection: bytes both ways, until both ends are done.
//!
//! What passes over it is use of its instance (`messages.rs`). An end that has closed leaves the other a while to finish, so
//! that a visitor who never closes cannot keep an app awake that has long hung up.
//!
//! A tunnel through which nothing passes has no buffer: bytes are read into one that the thread has, and only what the other
//! side does not take at once is kept.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Limits;
use super::last_words::LastWords;
use super::linger::Linger;
use super::messages::Use;
use crate::stall::Stall;

/// Bytes copied at once.
const CHUNK: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// Runs until both directions have ended, one has failed, or the second outlasts the first by `limits.linger`.
pub async fn run(visitor: OnUpgrade, app: OnUpgrade, counted: Use, limits: &Limits) {
    // The visitor's side resolves once the 101 is out.
    let (visitor, app) = match futures::try_join!(visitor, app) {
        Ok(both) => both,
        Err(e) => return tracing::debug!(error = %e, "an upgrade did not come about"),
    };
    let visitor = plain::<Linger<Stall<TcpStream>>>(visitor).map(|(stream, early)| (stream.inner.inner, early));
    let app = plain::<LastWords<TcpStream>>(app).map(|(stream, early)| (stream.inner, early));
    match (visitor, app) {
        (Ok((visitor, early_visitor)), Ok((app, early_app))) => {
            let ((vr, vw), (ar, aw)) = (visitor.into_split(), app.into_split());
            let vw = Stall::new(vw, limits.stalled);
            relay(Pump::new(vr, early_visitor, aw), Pump::new(ar, early_app, vw), &counted, limits).await;
        }
        (visitor, app) => {
            let (vr, vw) = tokio::io::split(boxed(visitor));
            let (ar, aw) = tokio::io::split(boxed(app));
            relay(Pump::new(vr, Bytes::new(), aw), Pump::new(ar, Bytes::new(), vw), &counted, limits).await;
        }
    }
}

type Plain = (TcpStream, Bytes);

/// The bare socket and what was read from it ahead: saves a layer of dynamic calls per read and write.
fn plain<S>(upgraded: Upgraded) -> Result<(S, Bytes), Upgraded>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    upgraded.downcast::<TokioIo<S>>().map(|parts| (parts.io.into_inner(), parts.read_buf))
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

async fn relay<VR, VW, AR, AW>(mut up: Pump<VR, AW>, mut down: Pump<AR, VW>, counted: &Use, limits: &Limits)
where
    VR: AsyncRead + Unpin,
    VW: AsyncWrite + Unpin,
    AR: AsyncRead + Unpin,
    AW: AsyncWrite + Unpin,
{
    let (mut sent, mut answered) = (counted.messages(), counted.messages());
    let up = poll_fn(|cx| up.poll(cx, |bytes| counted.note(&mut sent, bytes)));
    let down = poll_fn(|cx| down.poll(cx, |bytes| counted.note_answer(&mut answered, bytes)));
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

/// One direction, to its end, which is passed on.
struct Pump<R, W> {
    from: R,
    to: W,
    early: Bytes,
    /// What has been read and not been taken yet.
    rest: Vec<u8>,
    taken: usize,
    /// Sockets have nothing to flush; layers above them do.
    flushed: bool,
    ended: bool,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Pump<R, W> {
    fn new(from: R, early: Bytes, to: W) -> Pump<R, W> {
        // Empty as it may be, it keeps the buffer that the connection's heads were read into.
        let early = if early.is_empty() { Bytes::new() } else { early };
        Pump { from, to, early, rest: Vec::new(), taken: 0, flushed: true, ended: false }
    }

    /// `note` sees all that passes, once.
    fn poll(&mut self, cx: &mut Context<'_>, mut note: impl FnMut(&[u8])) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            note(&early);
            self.rest = early.into();
        }
        loop {
            while self.taken < self.rest.len() {
                let n = ready!(Pin::new(&mut self.to).poll_write(cx, &self.rest[self.taken..]))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                (self.taken, self.flushed) = (self.taken + n, false);
            }
            if self.taken > 0 {
                (self.rest, self.taken) = (Vec::new(), 0);
            }
            if self.ended {
                return Pin::new(&mut self.to).poll_shutdown(cx);
            }
            ready!(SCRATCH.with_borrow_mut(|scratch| self.pass(cx, &mut note, scratch)))?;
        }
    }

    /// Reads once, and writes as much of it as is taken at once.
    fn pass(&mut self, cx: &mut Context<'_>, note: &mut impl FnMut(&[u8]), scratch: &mut [u8]) -> Poll<io::Result<()>> {
        let mut read = ReadBuf::new(scratch);
        if Pin::new(&mut self.from).poll_read(cx, &mut read)?.is_pending() {
            if !self.flushed {
                self.flushed = Pin::new(&mut self.to).poll_flush(cx)?.is_ready();
            }
            return Poll::Pending;
        }
        let read = read.filled();
        self.ended = read.is_empty();
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        note(read);
        self.flushed = false;
        let taken = match Pin::new(&mut self.to).poll_write(cx, read)? {
            Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(n) => n,
            Poll::Pending => 0,
        };
        if taken < read.len() {
            self.rest = read[taken..].to_vec();
        }
        Poll::Ready(Ok(()))
    }
}
