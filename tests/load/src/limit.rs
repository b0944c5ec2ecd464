//! The least that a fan-out can cost: bytes that are ready, written to so many sockets, one after the other.
//!
//! A process of its own, so that its CPU can be told. The first connection gives the numbers of events, the others hear them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::Result;

use crate::watches::mark;

/// Serves until the first connection ends. `size`: bytes of an event.
pub fn serve(listeners: usize, size: usize) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let (mut control, _) = listener.accept()?;
    let mut sockets: Vec<TcpStream> = vec![];
    while sockets.len() < listeners {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    let mut event = vec![b'x'; size];
    let mut number = [0; 8];
    while control.read_exact(&mut number).is_ok() {
        let mark = mark(u64::from_le_bytes(number));
        event[..mark.len()].copy_from_slice(mark.as_bytes());
        for socket in &mut sockets {
            socket.write_all(&event)?;
        }
    }
    Ok(())
}
