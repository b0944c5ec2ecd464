//! The bodies that pass through: streamed frame by frame, never collected.
//!
//! A response body carries what must live as long as it: the count of the open request, and the lease of the
//! connection to the app, which goes back to its pool when the last byte has been read from it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::OpenGuard;
use super::front::Place;
use super::headers;
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
        ResponseBody::App { stream, lease, open, place }
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
            ResponseBody::App { stream, lease, open, .. } => {
                let frame = ready!(Pin::new(&mut *stream).poll_frame(cx));
                match &frame {
                    // hyper may not ask again after the last frame of a known length.
                    Some(Ok(_)) if !stream.is_end_stream() => open.touch_if_due(),
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
    /// With the fields that its trailers must not have.
    Stream(Incoming, Upload, Vec<HeaderName>),
}

/// Whether a request's body has been read to its end, as its connection's lease wants to know.
#[derive(Clone, Default)]
pub struct Upload(Arc<AtomicBool>);

impl Upload {
    pub fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn done(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl RequestBody {
    /// `spoken_for`: fields that are not the visitor's to say, in trailers neither.
    pub fn new(stream: Incoming, spoken_for: Vec<HeaderName>) -> RequestBody {
        if stream.is_end_stream() {
            RequestBody::Empty
        } else {
            RequestBody::Stream(stream, Upload::default(), spoken_for)
        }
    }

    /// `None` when there is nothing to upload.
    pub fn upload(&self) -> Option<Upload> {
        match self {
            RequestBody::Empty => None,
            RequestBody::Stream(_, upload, _) => Some(upload.clone()),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut *self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Stream(stream, upload, spoken_for) => {
                let mut frame = ready!(Pin::new(&mut *stream).poll_frame(cx));
                // Some servers take trailers for headers.
                if let Some(Ok(frame)) = &mut frame
                    && let Some(trailers) = frame.trailers_mut()
                {
                    headers::remove_claims(trailers);
                    headers::remove_all_like(trailers, spoken_for);
                }
                if frame.is_none() || stream.is_end_stream() {
                    upload.done();
                }
                Poll::Ready(frame)
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
