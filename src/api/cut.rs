//! Ending an answer from outside of it: its HTTP/2 stream, or its HTTP/1 connection.
//!
//! hyper asks a body for more only when the client has taken what there was. So a body whose reader stalls is never asked,
//! and patience with it cannot be kept in it: a task beside it ends it by a [`Cut`].
//!
//! ```text
//! server: Cut of the connection (HTTP/1), Streams: Cut of each stream (HTTP/2) ──▶ delivery ──▶ now()
//! ```

use std::time::Duration;

use axum::extract::Request;
use tokio_util::sync::CancellationToken;

/// How long a reader may take nothing of what is ready for it, its end included.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The same where people read: a log may wait in their pager. Also how long a socket may take nothing at all; sessions
/// with containers have it to themselves, and patience of their own.
pub const LEISURE: Duration = Duration::from_secs(3600);

tokio::task_local! {
    /// The cut of the HTTP/2 stream whose task this is.
    static STREAM: Cut;
}

/// Ends what it was made for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cut {
    done: CancellationToken,
    pub patience: Duration,
}

impl Cut {
    pub fn new(patience: Duration) -> Cut {
        Cut { done: CancellationToken::new(), patience }
    }

    /// The cut of the answer to a request, whose task this must be.
    pub fn of(request: &Request) -> Cut {
        let of_connection = || request.extensions().get::<Cut>().cloned();
        // Without a server there is nothing to cut.
        STREAM.try_with(Cut::clone).ok().or_else(of_connection).unwrap_or_else(|| Cut::new(PATIENCE))
    }

    /// The same for a reader who has more time.
    pub fn with_patience(self, patience: Duration) -> Cut {
        Cut { patience, ..self }
    }

    /// Ends it: what was not sent yet is dropped, and the client sees that the answer is broken off.
    pub fn now(&self) {
        self.done.cancel();
    }

    /// Until it is ended.
    pub async fn done(&self) {
        self.done.cancelled().await;
    }
}

/// Until two looks in a row, `every` apart, have seen the same; not while there is nothing to be seen. After the moment from
/// which on it stays the same, that takes once to twice `every`.
pub async fn unchanged<T: PartialEq>(every: Duration, look: impl Fn() -> Option<T>) {
    let mut before = None;
    loop {
        tokio::time::sleep(every).await;
        let now = look();
        if now.is_some() && now == before {
            return;
        }
        before = now;
    }
}

/// Runs the streams of HTTP/2 connections, each so that it can be cut: dropping its task resets the stream, and drops what
/// was queued for it.
#[derive(Clone)]
pub struct Streams {
    pub patience: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let cut = Cut::new(self.patience);
        let task = STREAM.scope(cut.clone(), async move {
            tokio::select! {
                biased;
                () = cut.done() => {}
                () = stream => {}
            }
        });
        tokio::spawn(task);
    }
}
