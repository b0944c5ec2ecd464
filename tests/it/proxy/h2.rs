//! HTTP/2 frame by frame, for what no well-behaved client sends. The header blocks are literals, and as wrong as wanted.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::front::Authority;
use super::world::*;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Of what ends a stream or a connection: why.
    pub fn reason(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// Of the head of an answer.
    pub fn status(&self) -> u16 {
        // The table of names has shrunk to nothing, which the first block says.
        let block: Vec<u8> = self.payload.iter().copied().skip_while(|b| (0x20..0x40).contains(b)).collect();
        match block[0] {
            indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
            0x08 | 0x18 | 0x48 if block[1] & 0x80 == 0 => std::str::from_utf8(&block[2..5]).unwrap().parse().unwrap(),
            0x08 | 0x18 | 0x48 => huffman(&block[2..2 + usize::from(block[1] & 0x7f)]),
            other => panic!("no status in a block that begins with {other:#x}"),
        }
    }
}

/// Three digits in the code of RFC 7541, appendix B.
fn huffman(bytes: &[u8]) -> u16 {
    let bits: Vec<u32> = bytes.iter().flat_map(|b| (0..8).rev().map(move |n| u32::from(b >> n & 1))).collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let value = |n: usize| bits[at..at + n].iter().fold(0, |v, b| v << 1 | b);
        let (digit, length) = if value(5) <= 2 { (value(5), 5) } else { (value(6) - 0x19 + 3, 6) };
        (at, number) = (at + length, number * 10 + digit);
    }
    u16::try_from(number).unwrap()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = [&length[1..], &[kind, flags]].concat();
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Names and values as literals that nobody keeps.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![];
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            match text.len() {
                short @ 0..127 => bytes.push(short as u8),
                long => {
                    bytes.push(127);
                    let mut rest = long - 127;
                    while rest >= 128 {
                        bytes.push((rest % 128) as u8 | 0x80);
                        rest /= 128;
                    }
                    bytes.push(rest as u8);
                }
            }
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// A plain request's own, and these.
pub fn get<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[(":method", "GET"), (":scheme", "https"), (":authority", "alice.test"), (":path", "/")], more].concat()
}

/// A connection.
pub struct Raw {
    stream: TlsStream<TcpStream>,
    bytes: Vec<u8>,
}

impl Raw {
    /// After the handshake of TLS.
    pub async fn silent(world: &World, authority: &Authority) -> Raw {
        let stream = authority.connect(world.secure, "alice.test", "h2", b"").await.unwrap();
        Raw { stream, bytes: vec![] }
    }

    /// After the preface, with these settings; the server's table of names stays empty.
    pub async fn begin(world: &World, authority: &Authority, settings: &[(u16, u32)]) -> Raw {
        let mut raw = Raw::silent(world, authority).await;
        let all = [&[(1, 0)], settings].concat();
        let payload: Vec<u8> =
            all.iter().flat_map(|(id, v)| [&id.to_be_bytes()[..], &v.to_be_bytes()].concat()).collect();
        raw.write(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()).await.unwrap();
        let ack = raw.until("its word on our settings", |f| f.kind == SETTINGS && f.flags == ACK).await;
        assert!(ack.is_some());
        raw.write(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
        raw
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// `None` at the end, however it came.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if self.bytes.len() >= 9 {
                let length = u32::from_be_bytes([0, self.bytes[0], self.bytes[1], self.bytes[2]]) as usize;
                if self.bytes.len() >= 9 + length {
                    let all: Vec<u8> = self.bytes.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes(all[5..9].try_into().unwrap());
                    return Some(Frame { kind: all[3], flags: all[4], stream, payload: all[9..].to_vec() });
                }
            }
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    }

    /// The first such frame; `None` when the connection ends before.
    pub async fn until(&mut self, what: &str, is: impl Fn(&Frame) -> bool) -> Option<Frame> {
        soon(what, async {
            loop {
                match self.next().await {
                    Some(frame) if is(&frame) => return Some(frame),
                    Some(_) => {}
                    None => return None,
                }
            }
        })
        .await
    }

    /// What becomes of a stream, its connection's end included.
    pub async fn outcome(&mut self, what: &str, stream: u32) -> Outcome {
        let ended = |f: &Frame| f.kind == GOAWAY || f.stream == stream && matches!(f.kind, HEADERS | RST_STREAM);
        match self.until(what, ended).await {
            Some(f) if f.kind == HEADERS => Outcome::Answered(f.status()),
            Some(f) => Outcome::Ended(f.reason()),
            None => Outcome::Cut,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered(u16),
    /// The stream or the connection, with this reason.
    Ended(u32),
    Cut,
}

#[test]
fn a_status_is_read_from_a_block() {
    let head = |payload: &[u8]| Frame { kind: HEADERS, flags: 4, stream: 1, payload: payload.to_vec() }.status();
    assert_eq!((head(&[0x88]), head(&[0x20, 0x8d]), head(&[0x48, 3, b'5', b'0', b'1'])), (200, 404, 501));
    // 302, as in RFC 7541, appendix C.6.1.
    assert_eq!(head(&[0x48, 0x82, 0x64, 0x02]), 302);
}
