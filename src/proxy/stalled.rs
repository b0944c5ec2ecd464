//! Ending an answer over HTTP/2 whose visitor takes nothing of it.
//!
//! hyper asks a body for more only when the visitor has taken what there was, so patience cannot be kept in the body: the task
//! of its stream keeps it. Dropping that task resets the stream; the connection's others go on. A connection of HTTP/1 that
//! takes nothing is the matter of `crate::stall`.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

tokio::task_local! {
    /// What is known of the answer that this task sends.
    static SENT: Arc<Sent>;
}

/// How far an answer has got.
#[derive(Debug, Default)]
pub struct Sent {
    frames: AtomicU64,
    /// The last of them is with the visitor, not with the app.
    visitors_turn: AtomicBool,
}

impl Sent {
    /// Of the answer whose task this is; `None` over HTTP/1, where it does not matter.
    pub fn here() -> Option<Arc<Sent>> {
        SENT.try_with(Arc::clone).ok()
    }

    /// There is room for more, and the app is asked.
    pub fn asked(&self) {
        self.visitors_turn.store(false, Ordering::Relaxed);
    }

    /// The app has given something.
    pub fn given(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.visitors_turn.store(true, Ordering::Relaxed);
    }

    /// How much had been given when it became the visitor's turn.
    fn waits_for_visitor(&self) -> Option<u64> {
        self.visitors_turn.load(Ordering::Relaxed).then(|| self.frames.load(Ordering::Relaxed))
    }
}

/// Runs the streams of a connection of HTTP/2, each for as long as its visitor takes something within `patience`.
#[derive(Clone, Debug)]
pub struct Streams {
    pub patience: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let sent = Arc::<Sent>::default();
        tokio::spawn(SENT.scope(sent.clone(), unless_stalled(stream, sent, self.patience)));
    }
}

async fn unless_stalled(stream: impl Future<Output = ()>, sent: Arc<Sent>, patience: Duration) {
    let mut stream = pin!(stream);
    let mut waiting: Option<(u64, Pin<Box<Sleep>>)> = None;
    std::future::poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(());
        }
        let Some(frames) = sent.waits_for_visitor() else {
            waiting = None;
            return std::task::Poll::Pending;
        };
        let (_, until) = match &mut waiting {
            Some(known) if known.0 == frames => known,
            _ => waiting.insert((frames, Box::pin(sleep(patience)))),
        };
        let ended = until.as_mut().poll(cx);
        if ended.is_ready() {
            tracing::debug!(?patience, "an answer that its visitor took nothing of was broken off");
        }
        ended
    })
    .await;
}
