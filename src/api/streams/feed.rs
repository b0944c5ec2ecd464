//! A bounded queue of what a client sends on one stream, with a proper end: what is cut off does not look finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Pieces that wait to be read.
pub const PIECES: usize = 16;

/// What a stream brings next.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    /// The client has sent everything.
    End,
    /// The stream was reset, or the connection is gone.
    Broken,
}

/// The receiving end.
pub struct Reader {
    pieces: mpsc::Receiver<Bytes>,
    ended: Arc<AtomicBool>,
    /// Given back when the stream is done with.
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

impl Reader {
    /// Cancel safe.
    pub async fn next(&mut self) -> Piece {
        match self.pieces.recv().await {
            Some(bytes) => Piece::Data(bytes),
            None if self.ended.load(Ordering::Acquire) => Piece::End,
            None => Piece::Broken,
        }
    }
}

/// The sending end: dropping it breaks the stream.
pub struct Feed {
    pub pieces: mpsc::Sender<Bytes>,
    ended: Arc<AtomicBool>,
}

impl Feed {
    /// The client's proper end.
    pub fn end(self) {
        self.ended.store(true, Ordering::Release);
    }
}

pub fn feed(place: Option<Arc<OwnedSemaphorePermit>>) -> (Feed, Reader) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let ended = Arc::new(AtomicBool::new(false));
    (Feed { pieces: sender, ended: ended.clone() }, Reader { pieces: receiver, ended, _place: place })
}
