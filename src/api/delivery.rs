//! An answer's body on its way to its reader: handed out in small pieces, watched over, and holding what it takes.
//!
//! ```text
//! body ──≤ 64 KiB──▶ hyper ──▶ h2, TLS, socket
//!   ▲ asked?            └─ each piece holds the permit until the last of its bytes is gone
//! watcher: not asked for longer than patience, or the credentials have ended ──▶ Cut, end
//! ```
//!
//! hyper asks a body for more when the reader has room for it, so a body that is not asked has a reader that takes nothing.
//! Invariants: a reader that takes a piece within each patience is never cut off, however long the whole takes; one that
//! does not is, within twice the patience; what a client's account pays for is given back when the bytes are gone, not
//! when they are made. A reader that takes nothing of what has left this room is the matter of `stall`.
//!
//! Called by the server, for every answer.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::access::Session;
use super::cut::{Cut, unchanged};

/// Most bytes handed out at a time. hyper takes a whole piece at once and asks again when there is room for all of it: a
/// large one would look like a stall to who reads it slowly.
pub const PIECE: usize = 64 << 10;

/// Set on an answer that people read, at their own pace: its reader has an hour for each piece.
#[derive(Clone, Copy, Debug)]
pub struct AtLeisure;

/// Binds a body to its reader. `held` is dropped with the last of the bytes, and so is the session, whose credentials
/// end a body of unknown length when they end.
pub fn deliver(body: Body, cut: Cut, held: impl Any + Send + Sync, session: Option<Session>) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let (pace, gone) = (Arc::new(Pace::default()), CancellationToken::new());
    // What is short or known ends by itself.
    let leased = session.clone().filter(|s| body.size_hint().exact().is_none() && !s.lease_is_forever());
    let over = leased.is_some().then(CancellationToken::new);
    tokio::spawn(watch(pace.clone(), gone.clone(), cut, leased.zip(over.clone())));
    Body::new(Delivery {
        body,
        rest: Bytes::new(),
        over: over.map(|over| Box::pin(over.cancelled_owned())),
        begun: false,
        pace,
        held: Arc::new((held, session)),
        _gone: gone.drop_guard(),
    })
}

/// How a body is asked for.
#[derive(Debug)]
struct Pace {
    asked: AtomicU64,
    /// It is the reader's turn; else the body has nothing to give yet.
    handed: AtomicBool,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { asked: AtomicU64::new(0), handed: AtomicBool::new(true) }
    }
}

impl Pace {
    /// How often it was asked, if it is the reader's turn.
    fn waits(&self) -> Option<u64> {
        self.handed.load(Ordering::Acquire).then(|| self.asked.load(Ordering::Acquire))
    }
}

/// Sees to a body's end from outside of it, until it is `gone`.
async fn watch(pace: Arc<Pace>, gone: CancellationToken, cut: Cut, leased: Option<(Session, CancellationToken)>) {
    let lease = async {
        if let Some((session, over)) = leased {
            let ended = session.ended();
            // The watcher holds nothing of it.
            drop(session);
            ended.await;
            over.cancel();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = gone.cancelled() => {}
        () = lease => {}
        () = unchanged(cut.patience, || pace.waits()) => {
            tracing::info!("an answer whose reader took nothing for {:?} was cut off", cut.patience);
            cut.now();
        }
    }
}

struct Delivery<H> {
    body: Body,
    /// Of the body, not yet handed out.
    rest: Bytes,
    /// Cancelled when the credentials have ended.
    over: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    begun: bool,
    pace: Arc<Pace>,
    held: Arc<H>,
    _gone: DropGuard,
}

/// Bytes and what they hold.
struct Holding<B, H> {
    bytes: B,
    _held: H,
}

impl<B: AsRef<[u8]>, H> AsRef<[u8]> for Holding<B, H> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// The same bytes, with whose last part what they hold is dropped.
pub fn holding(bytes: impl AsRef<[u8]> + Send + 'static, held: impl Send + 'static) -> Bytes {
    Bytes::from_owner(Holding { bytes, _held: held })
}

type NextFrame = Option<Result<Frame<Bytes>, axum::Error>>;

impl<H: Send + Sync + 'static> Delivery<H> {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<NextFrame> {
        if self.over.as_mut().is_some_and(|over| over.as_mut().poll(context).is_ready()) {
            (self.over, self.body, self.rest) = (None, Body::empty(), Bytes::new());
        }
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        let bytes = self.rest.split_to(self.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(holding(bytes, self.held.clone())))))
    }
}

impl<H: Send + Sync + 'static> http_body::Body for Delivery<H> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<NextFrame> {
        self.begun = true;
        self.pace.asked.fetch_add(1, Ordering::AcqRel);
        let next = self.poll_next(context);
        self.pace.handed.store(next.is_ready(), Ordering::Release);
        next
    }

    /// Once begun, the end is to be asked for: over HTTP/2 that happens when the reader has room for all that came before,
    /// and until then the stream can be cut.
    fn is_end_stream(&self) -> bool {
        !self.begun && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn start(body: Body) -> (Body, Cut, std::sync::Weak<()>) {
        let (cut, held) = (Cut::new(PATIENCE), Arc::new(()));
        let weak = Arc::downgrade(&held);
        (deliver(body, cut.clone(), held, None), cut, weak)
    }

    async fn piece(body: &mut Body) -> Option<Bytes> {
        Some(body.frame().await?.expect("no error").into_data().expect("data"))
    }

    async fn is_cut_within(cut: &Cut, time: Duration) -> bool {
        tokio::time::timeout(time, cut.done()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_body_takes_is_held_until_its_last_byte_is_gone() {
        let text: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let (mut body, _, held) = start(text.clone().into());
        assert_eq!(body.size_hint().exact(), Some(200_000));
        let mut pieces = vec![];
        while let Some(bytes) = piece(&mut body).await {
            assert!(bytes.len() <= PIECE && !body.is_end_stream());
            pieces.push(bytes);
        }
        assert_eq!(pieces.concat(), text);
        drop(body);
        let last = pieces.pop();
        drop(pieces);
        assert_eq!(held.strong_count(), 1, "the last piece is still on its way");
        drop(last);
        assert_eq!(held.strong_count(), 0);
        let (empty, ..) = start(Body::empty());
        assert!(empty.is_end_stream(), "its end goes with the head");
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_reads_to_the_end_and_who_stalls_is_cut_off() {
        let (mut body, cut, _) = start(vec![7; 10 * PIECE].into());
        let mut pieces = 0;
        while piece(&mut body).await.is_some() {
            pieces += 1;
            assert!(!is_cut_within(&cut, PATIENCE - Duration::from_secs(1)).await, "piece {pieces}");
        }
        assert_eq!(pieces, 10);
        drop(body);
        assert!(!is_cut_within(&cut, 3 * PATIENCE).await, "who has read the end is not cut off");

        // Nothing, the first piece, everything but the end.
        for taken in [0, 1, 2] {
            let (mut body, cut, _) = start(vec![7; 2 * PIECE].into());
            for _ in 0..taken {
                piece(&mut body).await.expect("a piece");
            }
            assert!(is_cut_within(&cut, 2 * PATIENCE + Duration::from_secs(1)).await, "after {taken}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_has_nothing_to_give_is_no_fault_of_its_reader() {
        let (sender, pieces) = tokio::sync::mpsc::channel::<Bytes>(1);
        let stream = futures::stream::unfold(pieces, async |mut pieces| {
            pieces.recv().await.map(|bytes| (Ok::<_, std::convert::Infallible>(bytes), pieces))
        });
        let (mut body, cut, _) = start(Body::from_stream(stream));
        let reader = tokio::spawn(async move {
            piece(&mut body).await.expect("a piece");
            body
        });
        assert!(!is_cut_within(&cut, 5 * PATIENCE).await);
        sender.send(Bytes::from_static(b"late")).await.expect("a reader");
        let _unread = reader.await.expect("read");
        assert!(is_cut_within(&cut, 2 * PATIENCE + Duration::from_secs(1)).await);
    }
}
