//! WebSocket echo (RFC 6455): the handshake, and frames of at most 1 MiB sent back as they came.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::connection::{Answer, Response};
use crate::request::{Reader, Request};

const MAX_FRAME: u64 = 1 << 20;

const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const CLOSE: u8 = 0x8;

pub fn answer(request: &Request) -> Answer {
    match request.header("sec-websocket-key") {
        Some(key) if request.lists("upgrade", "websocket") && request.lists("connection", "upgrade") => {
            Answer::WebSocket { accept: accept(key) }
        }
        _ => Answer::Whole(Response::text(400, "not a WebSocket handshake\n")),
    }
}

fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")))
}

/// Sends every frame back until the client closes.
pub fn echo(reader: &mut Reader) -> io::Result<()> {
    loop {
        let head = reader.take(2)?;
        let (first, opcode, masked) = (head[0], head[0] & 0x0f, head[1] & 0x80 != 0);
        let length = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(array(reader.take(2)?))),
            127 => u64::from_be_bytes(array(reader.take(8)?)),
            short => u64::from(short),
        };
        if !masked {
            return send(reader, 0x80 | CLOSE, &1002_u16.to_be_bytes());
        }
        if length > MAX_FRAME {
            return send(reader, 0x80 | CLOSE, &1009_u16.to_be_bytes());
        }
        let mask = reader.take(4)?;
        let mut payload = reader.take(length as usize)?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        match opcode {
            CLOSE => return send(reader, first, &payload),
            PING => send(reader, 0x80 | PONG, &payload)?,
            PONG => {}
            _ => send(reader, first, &payload)?,
        }
    }
}

fn array<const N: usize>(bytes: Vec<u8>) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes);
    out
}

fn send(reader: &mut Reader, first: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![first];
    match payload.len() {
        n @ 0..=125 => frame.push(n as u8),
        n @ 126..=65535 => {
            frame.push(126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    reader.stream.write_all(&frame)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_handshake_answers_as_the_rfc_s_example() {
        assert_eq!(super::accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
