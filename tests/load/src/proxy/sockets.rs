//! WebSockets through a proxy. What is said is one binary frame each way, of which no proxy needs to know more than its bytes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::visitor::{Door, Duplex, head};
use crate::clock::{micros, now};

/// Opened at once, at most.
const OPENING: usize = 100;
/// The example of RFC 6455 §1.3: some proxies look whether the answer fits the key.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub type Socket = Box<dyn Duplex>;

pub async fn open(door: &Arc<Door>, count: usize) -> Result<Vec<Socket>> {
    let mut sockets = Vec::with_capacity(count);
    while sockets.len() < count {
        let some = OPENING.min(count - sockets.len());
        let opened: Vec<_> = (0..some).map(|_| tokio::spawn(one(door.clone()))).collect();
        for task in opened {
            sockets.push(task.await?.with_context(|| format!("WebSocket {} of {count}", sockets.len() + 1))?);
        }
    }
    Ok(sockets)
}

async fn one(door: Arc<Door>) -> Result<Socket> {
    let mut stream = door.enter().await?;
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\r\n",
        door.host
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut buffer = [0; 2048];
    let (length, have) = head(&mut stream, &mut buffer).await?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    if !text.starts_with("HTTP/1.1 101") || have != length {
        bail!("not switched: {text}");
    }
    Ok(stream)
}

/// A masked binary frame with a mask of zeros.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x82];
    match u16::try_from(bytes) {
        Ok(short @ 0..126) => frame.push(0x80 | short as u8),
        Ok(long) => {
            frame.push(0x80 | 126);
            frame.extend(long.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((bytes as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.resize(frame.len() + bytes, b'x');
    frame
}

/// On each socket one message after the other, for so long: how long each was under way to the app and back.
pub async fn echo(sockets: &mut Vec<Socket>, bytes: usize, lasts: Duration) -> Result<Vec<u32>> {
    let (message, end) = (Arc::new(frame(bytes)), now() + lasts);
    let talks: Vec<_> = std::mem::take(sockets)
        .into_iter()
        .map(|mut socket| {
            let message = message.clone();
            tokio::spawn(async move {
                let (mut delays, mut back) = (vec![], vec![0; message.len()]);
                while now() < end {
                    let begin = now();
                    socket.write_all(&message).await?;
                    socket.flush().await?;
                    socket.read_exact(&mut back).await?;
                    delays.push(micros(begin));
                }
                anyhow::Ok((socket, delays))
            })
        })
        .collect();
    let mut all = vec![];
    for talk in talks {
        let (socket, delays) = talk.await??;
        sockets.push(socket);
        all.extend(delays);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_tells_its_length_as_the_protocol_does() {
        assert_eq!((frame(5)[..2].to_vec(), frame(5).len()), (vec![0x82, 0x85], 11));
        assert_eq!((frame(126)[..4].to_vec(), frame(126).len()), (vec![0x82, 0xfe, 0, 126], 134));
        assert_eq!((frame(65_536)[1], frame(65_536).len()), (0xff, 65_550));
    }
}
