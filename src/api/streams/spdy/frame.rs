//! Frames to bytes and back. Pure: bytes come in any pieces, and nothing is kept but an unfinished control frame.
//!
//! A data frame is passed on piece by piece as it comes, so its length needs no bound; control frames have one.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SpdyError;
use super::block::{Deflater, Headers, Inflater};

const HEAD: usize = 8;
/// Largest control frame that a client may send.
pub const MOST_CONTROL: usize = 64 << 10;
/// First two bytes of a control frame: the control bit and version 3.
const CONTROL: u16 = 0x8003;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FIN: u8 = 1;

/// Why a stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    Protocol = 1,
    Refused = 3,
    Cancel = 5,
}

/// What a client may say.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A new stream. `fin`: the client will send nothing on it.
    Open {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    /// A piece of a data frame. `fin`: the client's last on this stream.
    Data {
        stream: u32,
        bytes: Bytes,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    Ping(u32),
    /// The client opens no more streams.
    GoAway,
}

/// The inside of a data frame.
struct Inside {
    stream: u32,
    fin: bool,
    left: usize,
}

#[derive(Default)]
pub struct Decoder {
    inflater: Inflater,
    inside: Option<Inside>,
}

impl Decoder {
    /// The next frame or piece in `buffer`, which loses it; `None`: more bytes are needed. After an error the
    /// connection cannot go on.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some(inside) = &mut self.inside {
                if buffer.is_empty() {
                    return Ok(None);
                }
                let bytes = buffer.split_to(inside.left.min(buffer.len())).freeze();
                inside.left -= bytes.len();
                let (stream, ended) = (inside.stream, inside.left == 0);
                let fin = inside.fin && ended;
                if ended {
                    self.inside = None;
                }
                return Ok(Some(Frame::Data { stream, bytes, fin }));
            }
            let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
            let (first, flags) = (u32::from_be_bytes([head[0], head[1], head[2], head[3]]), head[4]);
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            if first >> 31 == 0 {
                buffer.advance(HEAD);
                let (stream, fin) = (first, flags & FIN != 0);
                if length == 0 {
                    return Ok(Some(Frame::Data { stream, bytes: Bytes::new(), fin }));
                }
                self.inside = Some(Inside { stream, fin, left: length });
                continue;
            }
            let (version, kind) = ((first >> 16) as u16, first as u16);
            if version != CONTROL {
                return Err(SpdyError::Protocol("another version than 3"));
            }
            if length > MOST_CONTROL {
                return Err(SpdyError::Protocol("a control frame that is too large"));
            }
            if buffer.len() < HEAD + length {
                return Ok(None);
            }
            let mut frame = buffer.split_to(HEAD + length);
            frame.advance(HEAD);
            if let Some(frame) = self.control(kind, flags, &frame)? {
                return Ok(Some(frame));
            }
        }
    }

    /// `None`: nothing that matters here.
    fn control(&mut self, kind: u16, flags: u8, mut body: &[u8]) -> Result<Option<Frame>, SpdyError> {
        let least = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | HEADERS | PING | GOAWAY => 4,
            RST_STREAM => 8,
            // SETTINGS, WINDOW_UPDATE and others: without flow control there is nothing to heed.
            _ => return Ok(None),
        };
        if body.len() < least {
            return Err(SpdyError::Protocol("a control frame that is too short"));
        }
        let number = body.get_u32() & 0x7fff_ffff;
        Ok(match kind {
            SYN_STREAM => {
                // The associated stream, the priority.
                body.advance(6);
                let headers = self.inflater.headers(body)?;
                Some(Frame::Open { stream: number, headers, fin: flags & FIN != 0 })
            }
            SYN_REPLY | HEADERS => {
                // Only for the state of the compression, which all blocks share.
                self.inflater.headers(body)?;
                None
            }
            RST_STREAM => Some(Frame::Reset { stream: number }),
            PING => Some(Frame::Ping(number)),
            _ => Some(Frame::GoAway),
        })
    }
}

fn control(kind: u16, flags: u8, body: &[&[u8]]) -> Bytes {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(HEAD + length);
    frame.put_u16(CONTROL);
    frame.put_u16(kind);
    put_length(&mut frame, flags, length);
    for part in body {
        frame.put_slice(part);
    }
    frame.freeze()
}

fn put_length(frame: &mut BytesMut, flags: u8, length: usize) {
    frame.put_u8(flags);
    frame.put_uint(length as u64, 3);
}

/// `bytes`: less than 16 MiB.
pub fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + bytes.len());
    frame.put_u32(stream);
    put_length(&mut frame, if fin { FIN } else { 0 }, bytes.len());
    frame.put_slice(bytes);
    frame.freeze()
}

/// Agrees to a stream.
pub fn reply(stream: u32, deflater: &mut Deflater) -> Bytes {
    control(SYN_REPLY, 0, &[&stream.to_be_bytes(), &deflater.block(&Headers::default())])
}

pub fn reset(stream: u32, why: Reset) -> Bytes {
    control(RST_STREAM, 0, &[&stream.to_be_bytes(), &(why as u32).to_be_bytes()])
}

pub fn ping(id: u32) -> Bytes {
    control(PING, 0, &[&id.to_be_bytes()])
}

/// Opens a stream, as clients do.
#[cfg(test)]
pub fn open(stream: u32, headers: &Headers, fin: bool, deflater: &mut Deflater) -> Bytes {
    let flags = if fin { FIN } else { 0 };
    control(SYN_STREAM, flags, &[&stream.to_be_bytes(), &[0; 6], &deflater.block(headers)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn port_headers() -> Headers {
        Headers(
            [("streamtype", "error"), ("port", "8080"), ("requestid", "0")].map(|(n, v)| (n.into(), v.into())).into(),
        )
    }

    /// Everything in `bytes`, fed in pieces that end where `cuts` say; pieces of data are joined.
    fn decoded(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Frame>, SpdyError> {
        let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
        let mut ends: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut at = 0;
        for end in ends {
            buffer.extend_from_slice(&bytes[at..end]);
            at = end;
            while let Some(frame) = decoder.next(&mut buffer)? {
                match (frames.last_mut(), frame) {
                    (
                        Some(Frame::Data { stream, bytes, fin: last @ false }),
                        Frame::Data { stream: same, bytes: more, fin },
                    ) if *stream == same => {
                        *bytes = [bytes.as_ref(), more.as_ref()].concat().into();
                        *last = fin;
                    }
                    (_, frame) => frames.push(frame),
                }
            }
        }
        Ok(frames)
    }

    #[test]
    fn a_recorded_stream_opening_is_read() {
        // What a Go client (its zlib at the default level) sends for the first two streams of a connection.
        let recorded = include!("recorded.in");
        let frames = decoded(&recorded, &[]).unwrap();
        let names: Vec<_> = frames
            .iter()
            .map(|f| match f {
                Frame::Open { stream, headers, fin } => (*stream, headers.get("streamtype").map(str::to_owned), *fin),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, [(1, Some("error".to_owned()), false), (3, Some("data".to_owned()), false)]);
    }

    #[test]
    fn what_breaks_the_protocol_is_an_error() {
        let too_large = [&[0x80, 3, 0, 4, 0, 1, 0, 1][..], &[0; 100]].concat();
        for bad in [
            &b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01"[..],
            b"\x80\x03\0\x06\0\0\0\x02\0\0",
            b"GET / HTTP/1.1\r\n\r\n" as &[u8],
            &too_large,
        ] {
            let result = decoded(bad, &[]);
            // Text is a data frame of a stream that nobody has opened.
            assert!(result.is_err() || bad[0] < 0x80, "{bad:?}: {result:?}");
        }
        assert_eq!(
            decoded(b"\x80\x03\0\x04\0\0\0\0\x80\x03\0\x06\0\0\0\x04\0\0\0\x07", &[]).unwrap(),
            [Frame::Ping(7)]
        );
    }

    proptest! {
        #[test]
        fn frames_come_back_however_the_bytes_are_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
            cuts in prop::collection::vec(any::<usize>(), 0..40),
        ) {
            let mut deflater = Deflater::default();
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (i, payload) in payloads.iter().enumerate() {
                let stream = u32::try_from(2 * i + 1).unwrap();
                bytes.extend(open(stream, &port_headers(), false, &mut deflater));
                bytes.extend(data(stream, payload, true));
                bytes.extend(ping(stream));
                bytes.extend(reset(stream, Reset::Cancel));
                expected.push(Frame::Open { stream, headers: port_headers(), fin: false });
                expected.push(Frame::Data { stream, bytes: payload.clone().into(), fin: true });
                expected.push(Frame::Ping(stream));
                expected.push(Frame::Reset { stream });
            }
            prop_assert_eq!(decoded(&bytes, &cuts).unwrap(), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(any::<usize>(), 0..9)) {
            let _ = decoded(&bytes, &cuts);
        }
    }
}
