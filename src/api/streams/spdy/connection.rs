//! One SPDY connection: the client's streams, each with a reader and a writer of its own.
//!
//! [`Driver::run`] moves the bytes; it must be polled beside whatever uses the streams, and its end is the end of the
//! client. Bounds: streams at a time, pieces waiting in each, frames waiting to be sent. A stream that is not read holds
//! the others up; where a [`Patience`] is set, it is reset after that.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, timeout};

use super::SpdyError;
use super::block::{Deflater, Headers};
use super::frame::{self, Decoder, Frame, Reset};
use crate::api::streams::feed::{Feed, Reader, feed};
use crate::api::streams::{BEAT, Gone, SILENCE, STALL};

/// Streams of one connection at a time: 256 forwarded connections.
pub const MOST_STREAMS: usize = 512;
/// Bytes read at once, and in one frame that is sent.
const CHUNK: usize = 16 << 10;
/// Frames that wait to be sent.
const FRAMES: usize = 32;
/// New streams that wait to be taken.
const NEWCOMERS: usize = 16;

/// What becomes of a stream that is not read while the connection has more for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// The connection waits for it.
    Endless,
    /// It is reset after so long, for the sake of the others.
    Limited(Duration),
}

/// A stream that the client has opened.
pub struct Stream {
    pub headers: Headers,
    pub reader: Reader,
    pub writer: Writer,
}

/// Our half of a stream. It is ended by [`Writer::finish`] or [`Writer::reset`], not by being dropped.
pub struct Writer {
    stream: u32,
    frames: mpsc::Sender<Bytes>,
    _place: Arc<OwnedSemaphorePermit>,
}

impl Writer {
    /// Waits while the client reads more slowly.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        for chunk in bytes.chunks(CHUNK) {
            self.frames.send(frame::data(self.stream, chunk, false)).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Our end; what the client sends still comes.
    pub async fn finish(&mut self) {
        let _ = self.frames.send(frame::data(self.stream, &[], true)).await;
    }

    /// Breaks both directions off.
    pub async fn reset(&mut self, why: Reset) {
        let _ = self.frames.send(frame::reset(self.stream, why)).await;
    }
}

/// Moves the bytes of a connection.
pub struct Driver<IO> {
    read: ReadHalf<IO>,
    write: WriteHalf<IO>,
    inbound: Inbound,
    outgoing: mpsc::Receiver<Bytes>,
    /// A frame is being written: the client's silence may be that of one who does not read.
    writing: Arc<AtomicBool>,
}

/// What comes in, and where it goes.
struct Inbound {
    decoder: Decoder,
    deflater: Deflater,
    streams: HashMap<u32, Feed>,
    last_opened: u32,
    places: Arc<Semaphore>,
    newcomers: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Bytes>,
    patience: Patience,
}

/// A connection over `io`, and the streams that the client opens on it.
pub fn connection<IO>(io: IO, patience: Patience) -> (Driver<IO>, mpsc::Receiver<Stream>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (read, write) = tokio::io::split(io);
    let (newcomers, accept) = mpsc::channel(NEWCOMERS);
    let (frames, outgoing) = mpsc::channel(FRAMES);
    let inbound = Inbound {
        decoder: Decoder::default(),
        deflater: Deflater::default(),
        streams: HashMap::new(),
        last_opened: 0,
        places: Arc::new(Semaphore::new(MOST_STREAMS)),
        newcomers,
        frames,
        patience,
    };
    (Driver { read, write, inbound, outgoing, writing: Arc::default() }, accept)
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    /// Until the client has closed the connection, broken it or the protocol, or is gone.
    pub async fn run(self) -> Result<(), SpdyError> {
        let Driver { read, write, inbound, outgoing, writing } = self;
        tokio::select! {
            ended = listen(read, inbound, &writing) => ended,
            failed = speak(write, outgoing, &writing) => Err(failed),
        }
    }
}

async fn listen(mut read: impl AsyncRead + Unpin, mut inbound: Inbound, writing: &AtomicBool) -> Result<(), SpdyError> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(frame) = inbound.decoder.next(&mut buffer)? {
            inbound.take(frame).await?;
        }
        buffer.reserve(CHUNK);
        // What is read at once is what one piece can be.
        match timeout(SILENCE, (&mut read).take(CHUNK as u64).read_buf(&mut buffer)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return Err(SpdyError::Io(e)),
            Err(_) if writing.load(Ordering::Relaxed) => {}
            Err(_) => return Err(SpdyError::Silent),
        }
    }
}

impl Inbound {
    async fn take(&mut self, frame: Frame) -> Result<(), SpdyError> {
        match frame {
            Frame::Open { stream, headers, fin } => return self.open(stream, headers, fin).await,
            Frame::Data { stream, bytes, fin } => self.data(stream, bytes, fin).await,
            Frame::Reset { stream } => drop(self.streams.remove(&stream)),
            // Odd ones are the client's questions, even ones its answers to ours.
            Frame::Ping(id) if id % 2 == 1 => self.say(frame::ping(id)).await,
            Frame::Ping(_) | Frame::GoAway => {}
        }
        Ok(())
    }

    /// The queue of frames is read as long as this is polled.
    async fn say(&self, frame: Bytes) {
        let _ = self.frames.send(frame).await;
    }

    async fn open(&mut self, stream: u32, headers: Headers, fin: bool) -> Result<(), SpdyError> {
        if stream.is_multiple_of(2) || stream <= self.last_opened {
            return Err(SpdyError::Protocol("a stream number that is not the client's next"));
        }
        self.last_opened = stream;
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.say(frame::reset(stream, Reset::Refused)).await;
            return Ok(());
        };
        // Streams whose reader is gone and that the client never ended.
        if self.streams.len() >= 2 * MOST_STREAMS {
            self.streams.retain(|_, fed| !fed.pieces.is_closed());
        }
        let place = Arc::new(place);
        let (feed, reader) = feed(Some(place.clone()));
        let writer = Writer { stream, frames: self.frames.clone(), _place: place };
        let reply = frame::reply(stream, &mut self.deflater);
        self.say(reply).await;
        if fin {
            feed.end();
        } else {
            self.streams.insert(stream, feed);
        }
        // Nobody takes streams any more: it stays unanswered, as the session is at its end.
        let _ = self.newcomers.send(Stream { headers, reader, writer }).await;
        Ok(())
    }

    async fn data(&mut self, stream: u32, bytes: Bytes, fin: bool) {
        // One that was reset, or never opened.
        let Some(fed) = self.streams.get(&stream) else { return };
        if !bytes.is_empty() {
            let sent = match self.patience {
                Patience::Endless => Ok(fed.pieces.send(bytes).await),
                Patience::Limited(limit) => timeout(limit, fed.pieces.send(bytes)).await,
            };
            match sent {
                Ok(Ok(())) => {}
                // Its reader has had enough.
                Ok(Err(_)) => drop(self.streams.remove(&stream)),
                Err(_) => {
                    self.streams.remove(&stream);
                    self.say(frame::reset(stream, Reset::Cancel)).await;
                }
            }
        }
        if fin && let Some(fed) = self.streams.remove(&stream) {
            fed.end();
        }
    }
}

/// Sends frames, and a ping now and then: what cannot be sent tells that the client is gone, even while nothing of it is
/// read because a stream is full.
async fn speak(
    mut write: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<Bytes>,
    writing: &AtomicBool,
) -> SpdyError {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats.reset();
    let mut ping = 0_u32;
    loop {
        let frame = tokio::select! {
            Some(frame) = outgoing.recv() => frame,
            _ = beats.tick() => {
                ping = ping.wrapping_add(2) & 0x7fff_fffe;
                frame::ping(ping)
            }
        };
        writing.store(true, Ordering::Relaxed);
        let sent = async {
            write.write_all(&frame).await?;
            if outgoing.is_empty() { write.flush().await } else { Ok(()) }
        };
        match timeout(STALL, sent).await {
            Ok(Ok(())) => writing.store(false, Ordering::Relaxed),
            Ok(Err(e)) => return SpdyError::Io(e),
            Err(_) => return SpdyError::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;
    use crate::api::streams::feed::{PIECES, Piece};

    struct Client {
        io: DuplexStream,
        deflater: Deflater,
        buffer: BytesMut,
    }

    impl Client {
        async fn open(&mut self, stream: u32) {
            let headers = Headers(vec![("streamtype".into(), "data".into())]);
            let frame = frame::open(stream, &headers, false, &mut self.deflater);
            self.io.write_all(&frame).await.unwrap();
        }

        async fn say(&mut self, frame: Bytes) {
            self.io.write_all(&frame).await.unwrap();
        }

        /// The next frame's first four bytes as a number, and its body.
        async fn hear(&mut self) -> (u32, Bytes) {
            loop {
                if let Some(head) = self.buffer.first_chunk::<8>() {
                    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
                    if self.buffer.len() >= 8 + length {
                        let frame = self.buffer.split_to(8 + length).freeze();
                        return (u32::from_be_bytes(frame[..4].try_into().unwrap()), frame.slice(8..));
                    }
                }
                assert!(self.io.read_buf(&mut self.buffer).await.unwrap() > 0, "the connection was closed");
            }
        }

        async fn hear_kind(&mut self, kind: u32) -> Bytes {
            loop {
                let (first, body) = self.hear().await;
                if first == 0x8003_0000 | kind {
                    return body;
                }
            }
        }
    }

    fn connected(
        patience: Patience,
    ) -> (Client, tokio::task::JoinHandle<Result<(), SpdyError>>, mpsc::Receiver<Stream>) {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (driver, accept) = connection(near, patience);
        let client = Client { io: far, deflater: Deflater::default(), buffer: BytesMut::new() };
        (client, tokio::spawn(driver.run()), accept)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_carries_data_both_ways_and_each_half_ends_by_itself() {
        let (mut client, driver, mut accept) = connected(Patience::Endless);
        client.open(1).await;
        let Stream { headers, mut reader, mut writer } = accept.recv().await.unwrap();
        assert_eq!(headers.get("streamtype"), Some("data"));
        client.hear_kind(2).await;
        client.say(frame::data(1, b"question", true)).await;
        assert_eq!(reader.next().await, Piece::Data("question".into()));
        assert_eq!(reader.next().await, Piece::End);
        writer.send(b"answer").await.unwrap();
        writer.finish().await;
        assert_eq!(client.hear().await, (1, "answer".into()));
        assert_eq!(client.hear().await, (1, "".into()));
        client.say(frame::ping(1)).await;
        assert_eq!(client.hear_kind(6).await, Bytes::from_static(&[0, 0, 0, 1]));
        drop(client);
        driver.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_breaks_the_reader_and_so_does_the_end_of_the_connection() {
        let (mut client, driver, mut accept) = connected(Patience::Endless);
        client.open(1).await;
        client.open(3).await;
        let (mut one, mut three) = (accept.recv().await.unwrap(), accept.recv().await.unwrap());
        client.say(frame::reset(1, Reset::Cancel)).await;
        assert_eq!(one.reader.next().await, Piece::Broken);
        drop(client);
        driver.await.unwrap().unwrap();
        assert_eq!(three.reader.next().await, Piece::Broken);
        assert!(three.writer.send(b"x").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn more_streams_than_may_be_are_refused_until_one_ends() {
        let (mut client, _driver, mut accept) = connected(Patience::Endless);
        let mut held = Vec::new();
        for i in 0..MOST_STREAMS {
            client.open(u32::try_from(2 * i + 1).unwrap()).await;
            held.push(accept.recv().await.unwrap());
            client.hear_kind(2).await;
        }
        let next = u32::try_from(2 * MOST_STREAMS + 1).unwrap();
        client.open(next).await;
        let body = client.hear_kind(3).await;
        assert_eq!(body, [next.to_be_bytes(), 3_u32.to_be_bytes()].concat());
        let mut first = held.swap_remove(0);
        first.writer.finish().await;
        drop(first);
        client.open(next + 2).await;
        accept.recv().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_reads_waits_or_is_reset_as_told() {
        let (mut client, _driver, mut accept) = connected(Patience::Limited(Duration::from_secs(60)));
        client.open(1).await;
        client.open(3).await;
        let (stuck, mut other) = (accept.recv().await.unwrap(), accept.recv().await.unwrap());
        for _ in 0..=PIECES {
            client.say(frame::data(1, &[7; CHUNK], false)).await;
        }
        client.say(frame::data(3, b"after", true)).await;
        assert_eq!(other.reader.next().await, Piece::Data("after".into()), "it was not held up for ever");
        assert_eq!(client.hear_kind(3).await, [1_u32.to_be_bytes(), 5_u32.to_be_bytes()].concat());
        drop(stuck);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_holds_the_writer_and_is_given_up() {
        let (mut client, driver, mut accept) = connected(Patience::Endless);
        client.open(1).await;
        let mut stream = accept.recv().await.unwrap();
        let piece = vec![1; 1 << 20];
        let sent = tokio::time::timeout(STALL / 2, async { while stream.writer.send(&piece).await.is_ok() {} }).await;
        assert!(sent.is_err(), "the writer waits");
        assert!(matches!(driver.await.unwrap(), Err(SpdyError::Silent)));
        assert!(stream.writer.send(b"x").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn stream_numbers_must_rise() {
        for second in [1, 2] {
            let (mut client, driver, _accept) = connected(Patience::Endless);
            client.open(1).await;
            client.open(second).await;
            assert!(matches!(driver.await.unwrap(), Err(SpdyError::Protocol(_))), "{second}");
        }
    }
}
