//! Streams as a daemon sends them: multiplexed output of logs and exec, and lines of JSON. Both pass on what has come
//! without waiting for more, and hold at most a bounded piece.

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream, Stream};

use super::engine::OutputStream;

/// No event is longer.
const MAX_LINE: usize = 1 << 20;

type Chunk = (OutputStream, Bytes);

/// Takes frames apart: a stream byte, three zeros, a big-endian length, the payload.
#[derive(Default)]
struct Demultiplexer {
    header: BytesMut,
    stream: Option<OutputStream>,
    left: usize,
}

impl Demultiplexer {
    fn feed(&mut self, mut bytes: Bytes, out: &mut VecDeque<io::Result<Chunk>>) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let missing = (8 - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes.split_to(missing));
                if self.header.len() < 8 {
                    return;
                }
                self.stream = match self.header[0] {
                    0 | 1 => Some(OutputStream::Stdout),
                    // 3: the daemon itself, about a failure of the stream.
                    2 | 3 => Some(OutputStream::Stderr),
                    other => {
                        let text = format!("output of an unknown kind: {other}");
                        out.push_back(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                        return;
                    }
                };
                self.header.advance(4);
                self.left = self.header.get_u32() as usize;
                continue;
            }
            let payload = bytes.split_to(self.left.min(bytes.len()));
            self.left -= payload.len();
            out.push_back(Ok((self.stream.unwrap_or(OutputStream::Stdout), payload)));
        }
    }
}

/// The output in `body`. Ends after an error.
pub fn demultiplex<S>(body: S) -> BoxStream<'static, io::Result<Chunk>>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let start = (Box::pin(body), Demultiplexer::default(), VecDeque::new(), false);
    stream::unfold(start, |(mut body, mut frames, mut ready, mut over)| async move {
        loop {
            if let Some(item) = ready.pop_front() {
                over |= Result::is_err(&item);
                if over {
                    ready.clear();
                }
                return Some((item, (body, frames, ready, over)));
            }
            if over {
                return None;
            }
            match body.next().await? {
                Ok(bytes) => frames.feed(bytes, &mut ready),
                Err(e) => ready.push_back(Err(e)),
            }
        }
    })
    .boxed()
}

/// The lines in `body`, without their ends. Ends after an error.
pub fn lines<S>(body: S) -> BoxStream<'static, io::Result<Bytes>>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let start = (Box::pin(body), BytesMut::new(), false);
    stream::unfold(start, |(mut body, mut held, over)| async move {
        if over {
            return None;
        }
        loop {
            if let Some(end) = held.iter().position(|b| *b == b'\n') {
                let line = held.split_to(end).freeze();
                held.advance(1);
                return Some((Ok(line), (body, held, false)));
            }
            if held.len() > MAX_LINE {
                let error = io::Error::new(io::ErrorKind::InvalidData, "a line longer than 1 MiB");
                return Some((Err(error), (body, held, true)));
            }
            match body.next().await? {
                Ok(bytes) => held.extend_from_slice(&bytes),
                Err(e) => return Some((Err(e), (body, held, true))),
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, text: &str) -> Vec<u8> {
        [&[kind, 0, 0, 0], &u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    }

    async fn split(bytes: &[u8], size: usize) -> Vec<(OutputStream, String)> {
        let chunks: Vec<_> = bytes.chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let mut all: Vec<(OutputStream, String)> = Vec::new();
        let mut output = demultiplex(stream::iter(chunks));
        while let Some(chunk) = output.next().await {
            let (kind, text) = chunk.unwrap();
            let text = String::from_utf8(text.to_vec()).unwrap();
            match all.last_mut() {
                Some((last, so_far)) if *last == kind => so_far.push_str(&text),
                _ => all.push((kind, text)),
            }
        }
        all
    }

    #[tokio::test]
    async fn frames_come_apart_however_they_are_cut() {
        let bytes = [frame(1, "out"), frame(2, "err"), frame(1, ""), frame(1, "more")].concat();
        for size in 1..=bytes.len() {
            let all = split(&bytes, size).await;
            let expected =
                [(OutputStream::Stdout, "out"), (OutputStream::Stderr, "err"), (OutputStream::Stdout, "more")];
            assert_eq!(all, expected.map(|(kind, text)| (kind, text.to_owned())), "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error_and_the_end() {
        let items: Vec<_> = demultiplex(stream::iter([Ok(Bytes::from_static(b"plain text"))])).collect().await;
        assert!(items.len() == 1 && items[0].is_err());
    }

    #[tokio::test]
    async fn lines_end_at_line_ends_and_have_a_limit() {
        let pieces = ["{\"a\"", ":1}\n{}", "\n", "rest"].map(|p| Ok(Bytes::from_static(p.as_bytes())));
        let all: Vec<_> = lines(stream::iter(pieces)).map(Result::unwrap).collect().await;
        assert_eq!(all, ["{\"a\":1}", "{}"]);
        let endless = stream::repeat_with(|| Ok(Bytes::from(vec![b'x'; 64 << 10])));
        let all: Vec<_> = lines(endless).collect().await;
        assert!(all.len() == 1 && all[0].is_err());
    }
}
