//! An endless body, made by a task of its own at the speed of its reader.
//!
//! ```text
//! Source::next ──piece──▶ room of the user ──▶ Source::encode ──one slot──▶ body ──▶ delivery
//!       ▲ deadline, shutdown, reader gone: kept here, where nobody has to ask
//! ```
//!
//! Invariants: nothing is encoded before the reader has taken what was encoded before; the encoded bytes of one user, those
//! that hyper holds included, stay within [`super::access::Session::room`]. Called by `watch`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::access::limits::ROOM;
use super::delivery::holding;

/// What a body is made of.
pub trait Source: Send + 'static {
    /// Something to tell, small or shared with others until it is encoded.
    type Piece: Send;

    /// Waits for the next piece; `None` ends the body.
    fn next(&mut self) -> impl Future<Output = Option<Self::Piece>> + Send;

    /// About how many bytes the piece will have.
    fn weight(piece: &Self::Piece) -> usize;

    /// The bytes; none to tell nothing.
    fn encode(&mut self, piece: Self::Piece) -> Vec<u8>;
}

/// A body fed by a task until the source ends or `over` does.
///
/// `room`: for how many bytes the reader's user has room.
pub fn body<S: Source>(source: S, room: Arc<Semaphore>, over: impl Future<Output = ()> + Send + 'static) -> Body {
    let (sender, pieces) = mpsc::channel(1);
    let gone = CancellationToken::new();
    let body = Body::new(Fed { pieces, _gone: gone.clone().drop_guard() });
    tokio::spawn(async move {
        // The sender goes with it: the body ends after what is in it.
        tokio::select! {
            biased;
            () = gone.cancelled() => {}
            () = over => {}
            () = feed(source, sender, &room) => {}
        }
    });
    body
}

async fn feed<S: Source>(mut source: S, body: Sender<Bytes>, room: &Arc<Semaphore>) {
    // Refused once the reader has gone.
    while let Ok(slot) = body.reserve().await {
        let bytes = loop {
            let Some(piece) = source.next().await else { return };
            // However heavy, a piece has room in the end.
            let weight = u32::try_from(S::weight(&piece).min(ROOM)).unwrap_or(u32::MAX);
            let Ok(permit) = room.clone().acquire_many_owned(weight).await else { return };
            let bytes = source.encode(piece);
            if !bytes.is_empty() {
                break holding(bytes, permit);
            }
        };
        slot.send(bytes);
    }
}

/// The body's side.
struct Fed {
    pieces: Receiver<Bytes>,
    _gone: DropGuard,
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    /// Counts what was encoded; a piece is its number, in a kilobyte of text.
    struct Counter(usize, Arc<AtomicUsize>);

    impl Source for Counter {
        type Piece = usize;
        async fn next(&mut self) -> Option<usize> {
            self.0 += 1;
            Some(self.0)
        }
        fn weight(_: &usize) -> usize {
            1024
        }
        fn encode(&mut self, piece: usize) -> Vec<u8> {
            self.1.fetch_add(1, Ordering::SeqCst);
            format!("{piece:1024}").into()
        }
    }

    fn start(room: &Arc<Semaphore>, lasts: Duration) -> (Body, Arc<AtomicUsize>) {
        let encoded = Arc::new(AtomicUsize::new(0));
        (body(Counter(0, encoded.clone()), room.clone(), tokio::time::sleep(lasts)), encoded)
    }

    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn number(body: &mut Body) -> (usize, Bytes) {
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        (std::str::from_utf8(&bytes).unwrap().trim().parse().unwrap(), bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_has_one_piece_made_for_it() {
        let room = Arc::new(Semaphore::new(1 << 20));
        let (mut body, encoded) = start(&room, Duration::from_secs(3600));
        for i in 1..=5 {
            assert_eq!(number(&mut body).await.0, i);
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(encoded.load(Ordering::SeqCst), 6, "one that waits to be taken");
        drop(body);
        settle().await;
        assert_eq!(room.available_permits(), 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_ends_at_its_time_whether_it_is_read_or_not() {
        let room = Arc::new(Semaphore::new(1 << 20));
        let (mut body, encoded) = start(&room, Duration::from_secs(10));
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(number(&mut body).await.0, 1);
        assert!(body.frame().await.is_none(), "after what was made comes the end");
        assert_eq!(encoded.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_user_has_under_way_is_bounded_until_it_is_sent() {
        let room = Arc::new(Semaphore::new(3 * 1024));
        let lasts = Duration::from_secs(3600);
        let mut held = vec![];
        let mut bodies: Vec<_> = (0..3).map(|_| start(&room, lasts)).collect();
        for (body, ..) in &mut bodies {
            held.push(number(body).await.1);
        }
        settle().await;
        let made =
            |bodies: &[(Body, Arc<AtomicUsize>)]| bodies.iter().map(|b| b.1.load(Ordering::SeqCst)).sum::<usize>();
        assert_eq!(made(&bodies), 3, "hyper holds three pieces: there is no room for a fourth");
        held.pop();
        settle().await;
        assert_eq!(made(&bodies), 4);
        drop(held);
        settle().await;
        assert_eq!(made(&bodies), 6, "each has one that waits");
    }
}
