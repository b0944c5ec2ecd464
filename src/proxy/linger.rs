//! Closing a visitor's connection so that what was said last is heard.
//!
//! An answer may be out before its request is in: too large, or for nobody. Who closes a socket that bytes still come to resets
//! it, and a visitor that is still sending loses the answer with it. So our direction is closed first, and the rest of the
//! visitor's is read and thrown away until it ends or a patience does (RFC 9112 §9.6).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a visitor may say nothing before nothing more is expected.
const QUIET: Duration = Duration::from_secs(5);
/// Thrown away at a time.
const PIECE: usize = 8 << 10;

/// What is still to come over a connection.
#[derive(Debug, Default)]
pub struct Unread {
    requests: AtomicU64,
    /// The number of the last request, if it has a body that was not read to its end; else 0.
    body: AtomicU64,
    tunnel: AtomicBool,
}

impl Unread {
    /// A request has begun; returns its number.
    pub fn begin(&self, has_body: bool) -> u64 {
        let number = self.requests.fetch_add(1, Ordering::AcqRel) + 1;
        self.body.store(if has_body { number } else { 0 }, Ordering::Release);
        number
    }

    /// The body of this request is read. It may be late: the next one may have begun.
    pub fn finish(&self, number: u64) {
        // Either it was the last one's, or there is nothing to do.
        let _ = self.body.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// It is no longer HTTP: what comes is read by others, also when our direction is closed.
    pub fn hand_over(&self) {
        self.tunnel.store(true, Ordering::Release);
    }
}

pub struct Linger<S> {
    pub inner: S,
    unread: Arc<Unread>,
    /// For all of it.
    patience: Duration,
    end: Option<End>,
}

/// After our direction was closed.
struct End {
    patience: Pin<Box<Sleep>>,
    /// Since when nothing has come.
    quiet: Option<Pin<Box<Sleep>>>,
    more: bool,
}

impl<S> Linger<S> {
    pub fn new(inner: S, unread: Arc<Unread>, patience: Duration) -> Linger<S> {
        Linger { inner, unread, patience, end: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Linger<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Linger<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.unread.tunnel.load(Ordering::Acquire) {
            return Pin::new(&mut this.inner).poll_shutdown(cx);
        }
        let end = match &mut this.end {
            Some(end) => end,
            none => {
                ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
                let more = this.unread.body.load(Ordering::Acquire) != 0;
                none.insert(End { patience: Box::pin(sleep(this.patience)), quiet: None, more })
            }
        };
        // First, as there may always be something to read.
        if end.patience.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut piece = [0; PIECE];
        loop {
            let mut read = ReadBuf::new(&mut piece);
            match Pin::new(&mut this.inner).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => (end.more, end.quiet) = (true, None),
                // Its end, or nothing that could be helped.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending if !end.more => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    let quiet = end.quiet.get_or_insert_with(|| Box::pin(sleep(QUIET)));
                    return quiet.as_mut().poll(cx).map(Ok);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_read_late_says_nothing_of_the_next_requests() {
        let unread = Unread::default();
        let (first, second) = (unread.begin(true), unread.begin(true));
        unread.finish(first);
        assert_eq!(unread.body.load(Ordering::Acquire), second);
        unread.finish(second);
        assert_eq!(unread.body.load(Ordering::Acquire), 0);
        unread.begin(true);
        unread.begin(false);
        assert_eq!(unread.body.load(Ordering::Acquire), 0, "it has none, and what was before it is over");
    }
}
