//! The bodies that pass through: streamed frame by frame, never collected.
//!
//! A response body carries what must live as long as it: the count of the open request, and the lease of the
//! connection to the app, which goes back to its pool when the last byte has been read from it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::OpenGuard;
use super::front::Place;
use super::headers;
use super::linger::Unread;
use super::stalled::Sent;
use super::upstream::Lease;

/// What a visitor gets.
pub enum ResponseBody {
    /// One of our own pages; `None` once it is out.
    Page(Option<Bytes>),
    /// What a waiting page follows; ends with its sender.
    Progress {
        events: mpsc::Receiver<Bytes>,
        /// Kept as long.
        #[expect(dead_code, reason = "held, not read")]
        place: Arc<Place>,
    },
    App {
        stream: Incoming,
        /// `None` once the connection went back.
        lease: Option<Lease>,
        /// Counts until the visitor has all of it, or is gone.
        open: OpenGuard,
        sent: Option<Arc<Sent>>,
        /// Kept as long.
        #[expect(dead_code, reason = "held, not read")]
        place: Arc<Place>,
    },
}

impl ResponseBody {
    pub fn app(stream: Incoming, lease: Lease, open: OpenGuard, place: Arc<Place>) -> ResponseBody {
        let mut lease = Some(lease);
        if stream.is_end_stream() {
            give_back(&mut lease);
        }
        ResponseBody::App { stream, lease, open, sent: Sent::here(), place }
    }
}

fn give_back(lease: &mut Option<Lease>) {
    if let Some(lease) = lease.take() {
        lease.give_back();
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut *self {
            ResponseBody::Page(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            ResponseBody::Progress { events, .. } => {
                events.poll_recv(cx).map(|event| event.map(|e| Ok(Frame::data(e))))
            }
            ResponseBody::App { stream, lease, open, sent, .. } => {
                if let Some(sent) = sent {
                    sent.asked();
                }
                let frame = ready!(Pin::new(&mut *stream).poll_frame(cx));
                if let Some(sent) = sent {
                    sent.given();
                }
                match &frame {
                    // hyper may not ask again after the last frame of a known length.
                    Some(Ok(_)) if !stream.is_end_stream() => {
                        open.touch_if_due();
                    }
                    Some(Ok(_)) | None => {
                        give_back(lease);
                    }
                    // The error reaches hyper, which cuts the visitor's connection: no clean end of a broken body.
                    Some(Err(_)) => *lease = None,
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Page(bytes) => bytes.is_none(),
            ResponseBody::Progress { .. } => false,
            ResponseBody::App { stream, .. } => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Page(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            ResponseBody::Progress { .. } => SizeHint::default(),
            ResponseBody::App { stream, .. } => stream.size_hint(),
        }
    }
}

/// What an app gets.
pub enum RequestBody {
    Empty,
    Stream(Incoming, Arc<Upload>, Box<Terms>),
}

/// Under which conditions a body is passed on.
pub struct Terms {
    /// Fields that its trailers must not have.
    spoken_for: Vec<HeaderName>,
    /// How long the visitor may send nothing of it while the app waits for it.
    patience: Duration,
    since: Option<Pin<Box<Sleep>>>,
}

/// Why a request's body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the visitor broke off")]
    Broken(#[source] hyper::Error),
    #[error("the visitor sent nothing for too long")]
    Stalled,
}

/// How far a request's body has got.
#[derive(Default)]
pub struct Upload {
    /// Told as well.
    unread: Option<(Arc<Unread>, u64)>,
    done: AtomicBool,
    answered: AtomicBool,
    stalled: AtomicBool,
    broken: AtomicBool,
}

impl Upload {
    /// It has been read to its end, as its connection's lease wants to know.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    fn finish(&self) {
        self.done.store(true, Ordering::Release);
        if let Some((unread, number)) = &self.unread {
            unread.finish(*number);
        }
    }

    /// The app has begun to answer. From then on both directions may pause for as long as the two like.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Release);
    }

    /// Its visitor did not send the rest of it.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// What came of it cannot be read, or its visitor is gone: no fault of the app.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

impl RequestBody {
    /// `spoken_for`: fields that are not the visitor's to say, in trailers neither.
    pub fn new(
        stream: Incoming,
        spoken_for: Vec<HeaderName>,
        patience: Duration,
        unread: Option<(Arc<Unread>, u64)>,
    ) -> RequestBody {
        if stream.is_end_stream() {
            RequestBody::Empty
        } else {
            let upload = Arc::new(Upload { unread, ..Upload::default() });
            RequestBody::Stream(stream, upload, Box::new(Terms { spoken_for, patience, since: None }))
        }
    }

    /// `None` when there is nothing to upload.
    pub fn upload(&self) -> Option<Arc<Upload>> {
        match self {
            RequestBody::Empty => None,
            RequestBody::Stream(_, upload, _) => Some(upload.clone()),
        }
    }
}

impl Terms {
    /// Whether it has come to nothing: called when there is nothing to pass on.
    fn poll_stalled(&mut self, cx: &mut Context<'_>, upload: &Upload) -> Poll<()> {
        if upload.answered.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let patience = self.patience;
        ready!(self.since.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience))).as_mut().poll(cx));
        // The app may have answered since then, which is not told to who waits here.
        self.since = None;
        if upload.answered.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        upload.stalled.store(true, Ordering::Release);
        Poll::Ready(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Stream(stream, upload, terms) => {
                let Poll::Ready(mut frame) = Pin::new(&mut *stream).poll_frame(cx) else {
                    return terms.poll_stalled(cx, upload).map(|()| Some(Err(BodyError::Stalled)));
                };
                terms.since = None;
                // Some servers take trailers for headers.
                if let Some(Ok(frame)) = &mut frame
                    && let Some(trailers) = frame.trailers_mut()
                {
                    headers::remove_claims(trailers);
                    headers::remove_all_like(trailers, &terms.spoken_for);
                }
                if frame.is_none() || stream.is_end_stream() {
                    upload.finish();
                }
                if let Some(Err(_)) = &frame {
                    upload.broken.store(true, Ordering::Release);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Stream(stream, ..) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Stream(stream, ..) => stream.size_hint(),
        }
    }
}
