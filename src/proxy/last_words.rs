//! Hearing an app out that hangs up in the middle of a request.
//!
//! An app may answer before it has read all of an upload, and close: it is too large, its sender is not known. What is still
//! written then fails, though the answer is there to be read. hyper gives a connection up when writing to it fails; so here a
//! write that cannot be made is not told but waits, until the app was heard to the end or nobody listens any more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub struct LastWords<S> {
    pub inner: S,
    listener: Arc<Listener>,
    /// Why nothing can be written any more.
    failed: Option<io::Error>,
}

/// Whether somebody waits for what the app may still say.
#[derive(Debug, Default)]
pub struct Listener {
    left: AtomicBool,
    writer: AtomicWaker,
}

impl Listener {
    /// Nobody does any more.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Release);
        self.writer.wake();
    }
}

impl<S> LastWords<S> {
    pub fn new(inner: S, listener: Arc<Listener>) -> LastWords<S> {
        LastWords { inner, listener, failed: None }
    }

    /// A failure waits for as long as somebody listens.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let error = match self.failed.take() {
            Some(error) => error,
            None => match write(&mut self.inner, cx) {
                Poll::Ready(Err(error)) => error,
                written => return written,
            },
        };
        self.listener.writer.register(cx.waker());
        if self.listener.left.load(Ordering::Acquire) {
            return Poll::Ready(Err(error));
        }
        self.failed = Some(error);
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWords<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        // The end of an app that closed properly, and was written to afterwards, is an end. One that was torn off is not, though
        // the write has already been told so and the kernel tells it once: an answer without a length would seem to be whole.
        let torn = self.failed.as_ref().is_some_and(|error| error.kind() != io::ErrorKind::BrokenPipe);
        if torn && buffer.filled().len() == before && buffer.remaining() > 0 {
            return Poll::Ready(Err(self.failed.take().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LastWords<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |inner, cx| Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |inner, cx| Pin::new(inner).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
