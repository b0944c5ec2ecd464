//! Writing what several streams have to say in one piece.
//!
//! HTTP/2 flushes whenever a stream has something to send, and apps answer in bursts: each answer would be a write, and a record
//! of TLS, of its own. So a flush lets all tasks that can run now go first, once, and then writes what they have added too.
//! It waits for nobody: a lone answer is out one turn of the scheduler later.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

/// What is kept together at most; a write of more goes past it.
const MOST: usize = 16 << 10;

pub struct Gather<S> {
    inner: BufWriter<S>,
    /// The others had their turn since the last flush began.
    yielded: bool,
}

impl<S: AsyncWrite> Gather<S> {
    pub fn new(inner: S) -> Gather<S> {
        Gather { inner: BufWriter::with_capacity(MOST, inner), yielded: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
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
        if !self.yielded && !self.inner.buffer().is_empty() {
            self.yielded = true;
            // Polled once it has this task woken when all others have run.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        let flushed = ready!(Pin::new(&mut self.inner).poll_flush(cx));
        self.yielded = false;
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// The writes that came to the socket, which takes `takes` bytes of each.
    struct Socket {
        writes: Vec<Vec<u8>>,
        takes: usize,
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.takes);
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(to: &mut Gather<Socket>, cx: &mut Context<'_>, bytes: &[u8]) {
        assert!(matches!(Pin::new(to).poll_write(cx, bytes), Poll::Ready(Ok(n)) if n == bytes.len()));
    }

    fn flush(what: &mut Gather<Socket>, cx: &mut Context<'_>) -> bool {
        Pin::new(what).poll_flush(cx).map(|flushed| flushed.expect("taken")).is_ready()
    }

    #[test]
    fn what_is_said_while_the_others_have_their_turn_is_one_write_with_the_first() {
        let woken = Arc::new(Woken::default());
        let (waker, mut socket) = (Waker::from(woken.clone()), Gather::new(Socket { writes: vec![], takes: 100 }));
        let cx = &mut Context::from_waker(&waker);
        for round in 1..=2 {
            write(&mut socket, cx, b"one ");
            assert!(!flush(&mut socket, cx), "the others first");
            assert_eq!(woken.0.load(Ordering::Relaxed), round, "it comes back by itself");
            write(&mut socket, cx, b"two");
            assert!(flush(&mut socket, cx));
            assert_eq!(socket.inner.get_ref().writes, vec![b"one two".to_vec(); round]);
        }
        assert!(flush(&mut socket, cx), "nothing to say, nothing to wait for");
    }

    #[test]
    fn much_goes_past_it_and_in_order() {
        let mut socket = Gather::new(Socket { writes: vec![], takes: 1 << 20 });
        let cx = &mut Context::from_waker(Waker::noop());
        write(&mut socket, cx, b"head");
        let much = vec![7; MOST];
        write(&mut socket, cx, &much);
        assert_eq!(socket.inner.get_ref().writes, [b"head".to_vec(), much]);
    }
}
