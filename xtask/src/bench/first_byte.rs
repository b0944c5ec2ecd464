//! A GET request on a connection of its own, up to the first byte of a good answer.
//!
//! The same code measures both sides of [`super::wake`].

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::clock;

/// Opens, asks, and returns the moment at which the first bytes of a 200 had arrived.
///
/// # Errors
/// No connection within `connect`, silence for `silence`, or another status.
pub fn get(address: SocketAddr, host: &str, target: &str, connect: Duration, silence: Duration) -> Result<Instant> {
    let mut stream =
        TcpStream::connect_timeout(&address, connect).with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(silence))?;
    stream.set_write_timeout(Some(silence))?;
    let head = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut bytes = [0_u8; 4096];
    let length = stream.read(&mut bytes)?;
    let at = clock::now();
    // a status line comes in one piece, or this is no measurement
    let line = String::from_utf8_lossy(&bytes[..length]);
    if !line.starts_with("HTTP/1.1 200") {
        bail!("http://{host}{target}: {:?}", line.lines().next().unwrap_or_default());
    }
    // to the end: what closes early is cut off, and the other side would note an error
    while stream.read(&mut bytes)? > 0 {}
    Ok(at)
}
