//! Between the threads that read and write files and the task that speaks to the server: a bounded queue of chunks, as
//! a [`Write`] on one side and a [`Read`] on the other.
//!
//! Invariant: an end is said (by an empty chunk). A queue that closes without it broke off, and must not look like one
//! that ended.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc;

/// Of one chunk.
const CHUNK: usize = 32 * 1024;
/// How many chunks wait at most.
const QUEUE: usize = 16;

pub fn pipe() -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
    mpsc::channel(QUEUE)
}

/// Writes into the queue; waits while it is full. Only in threads that may block.
pub struct Drain {
    queue: mpsc::Sender<Bytes>,
    held: BytesMut,
}

impl Drain {
    pub fn new(queue: mpsc::Sender<Bytes>) -> Drain {
        Drain { queue, held: BytesMut::with_capacity(CHUNK) }
    }

    /// Says the end.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Bytes::new())
    }

    fn send(&self, chunk: Bytes) -> io::Result<()> {
        self.queue.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Drain {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(CHUNK - self.held.len());
        self.held.extend_from_slice(&data[..taken]);
        if self.held.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let chunk = self.held.split().freeze();
        self.send(chunk)
    }
}

/// Reads from the queue; waits while it is empty. Only in threads that may block.
pub struct Source {
    queue: mpsc::Receiver<Bytes>,
    held: Bytes,
    over: bool,
}

impl Source {
    pub fn new(queue: mpsc::Receiver<Bytes>) -> Source {
        Source { queue, held: Bytes::new(), over: false }
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.held.is_empty() && !self.over {
            let broke_off = || io::Error::new(io::ErrorKind::UnexpectedEof, "the stream broke off");
            self.held = self.queue.blocking_recv().ok_or_else(broke_off)?;
            self.over = self.held.is_empty();
        }
        let taken = self.held.len().min(into.len());
        self.held.copy_to_slice(&mut into[..taken]);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_an_end_is_told_from_a_break() {
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        for ends in [true, false] {
            let (input, output) = pipe();
            let copy = sent.clone();
            let writer = std::thread::spawn(move || {
                let mut drain = Drain::new(input);
                drain.write_all(&copy).and_then(|()| if ends { drain.finish() } else { drain.flush() })
            });
            let mut read = vec![];
            let end = Source::new(output).read_to_end(&mut read);
            writer.join().unwrap().unwrap();
            assert!(read == sent);
            assert_eq!(end.is_ok(), ends);
        }
    }

    #[test]
    fn a_writer_whose_reader_is_gone_ends() {
        let (input, output) = pipe();
        drop(output);
        let error = Drain::new(input).write_all(&[0; 2 * CHUNK]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
