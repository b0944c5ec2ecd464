//! A socket that gives up when its other end takes nothing: what was handed to the kernel's buffers and stays there holds
//! memory and a place, and neither HTTP nor TCP ends that by itself while the other end only says that it is alive.
//!
//! Under TLS, so that every byte that the kernel takes counts. Called by the API's server and the proxy, for each connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

pub struct Stall<S> {
    pub inner: S,
    patience: Duration,
    /// Since when nothing was taken.
    since: Option<Pin<Box<Sleep>>>,
}

impl<S> Stall<S> {
    /// `patience`: how long a write may wait without a byte of it being taken.
    pub fn new(inner: S, patience: Duration) -> Stall<S> {
        Stall { inner, patience, since: None }
    }

    /// Passes on what a write came to; one that waits for longer than patience has failed.
    fn within<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.since = None;
            return written;
        }
        let patience = self.patience;
        let since = self.since.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(since.as_mut().poll(cx));
        self.since = None;
        let why = format!("the other end took nothing for {patience:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stall<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stall<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.within(cx, written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.within(cx, written)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_takes_fails_and_one_that_is_taken_slowly_does_not() {
        let patience = Duration::from_millis(400);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = Stall::new(listener.accept().await.unwrap().0, patience);
        let much = vec![7; 64 << 20];
        let error = stream.write_all(&much).await.expect_err("more than all buffers hold");
        assert_eq!(
            (error.kind(), error.to_string()),
            (io::ErrorKind::TimedOut, "the other end took nothing for 400ms".into())
        );
        // The reader goes on; so does whoever writes then.
        let reader = tokio::spawn(async move {
            let mut left = vec![0; 256 << 10];
            while client.read(&mut left).await.expect("bytes") > 0 {
                tokio::task::yield_now().await;
            }
        });
        stream.write_all(&much).await.expect("taken");
        drop(stream);
        reader.await.expect("read to the end");
    }
}
