//! A slow wire to a server: passes bytes in both directions, those that come back at a limited rate or late, so that what
//! takes no time here takes as long as it does elsewhere. Docker's own name for a registry is its address, so a relay is
//! also another name for the same registry.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::control_plane::now;

/// Between two pieces.
const TICK: Duration = Duration::from_millis(50);

pub struct Relay {
    pub address: SocketAddr,
    ended: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Relay {
    /// At `here` (on a free port for port 0), to `server`, at most so many bytes per second and connection.
    pub fn start(here: SocketAddr, server: SocketAddr, rate: usize) -> Relay {
        let listener = TcpListener::bind(here).expect("a free port");
        Relay::pass(listener, server, Slow::Rate(rate))
    }

    /// What the server sends arrives so much later.
    pub fn late(listener: TcpListener, server: SocketAddr, delay: Duration) -> Relay {
        Relay::pass(listener, server, Slow::Late(delay))
    }

    fn pass(listener: TcpListener, server: SocketAddr, slow: Slow) -> Relay {
        listener.set_nonblocking(true).expect("not blocking");
        let address = listener.local_addr().expect("an address");
        let ended = Arc::new(AtomicBool::new(false));
        let over = ended.clone();
        let listening = thread::spawn(move || {
            let mut wires = Vec::new();
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    // a server that is away is a connection that closes
                    Ok((client, _)) => wires.extend(connect(client, server, slow).unwrap_or_default()),
                    Err(_) => thread::sleep(TICK),
                }
            }
            for (stream, passing) in wires {
                let _ = stream.shutdown(Shutdown::Both);
                let _ = passing.join();
            }
        });
        Relay { address, ended, listening: Some(listening) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

/// How what comes back is held up.
#[derive(Clone, Copy)]
enum Slow {
    /// Bytes per second.
    Rate(usize),
    Late(Duration),
}

type Wires = Vec<(TcpStream, JoinHandle<()>)>;

fn connect(client: TcpStream, server: SocketAddr, slow: Slow) -> io::Result<Wires> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    let (there, back) = ((client.try_clone()?, server.try_clone()?), (server, client));
    let back_again = match slow {
        Slow::Rate(rate) => {
            let piece = rate / (Duration::from_secs(1).as_millis() / TICK.as_millis()) as usize;
            (back.0.try_clone()?, thread::spawn(move || pass(back.0, back.1, piece, TICK)))
        }
        Slow::Late(delay) => (back.0.try_clone()?, thread::spawn(move || pass_late(back.0, back.1, delay))),
    };
    Ok(vec![
        (there.0.try_clone()?, thread::spawn(move || pass(there.0, there.1, 64 << 10, Duration::ZERO))),
        back_again,
    ])
}

/// Until either side ends; then both do.
fn pass(mut from: TcpStream, mut to: TcpStream, piece: usize, pause: Duration) {
    let mut buffer = vec![0; piece];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        thread::sleep(pause);
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// The same, as a long way is: late, and not narrow.
fn pass_late(mut from: TcpStream, to: TcpStream, delay: Duration) {
    let (on_its_way, arrives) = channel();
    let Ok(source) = from.try_clone() else { return };
    let delivering = thread::spawn(move || deliver(arrives, source, to));
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if on_its_way.send((now() + delay, buffer[..n].to_vec())).is_err() {
            break;
        }
    }
    drop(on_its_way);
    let _ = delivering.join();
}

fn deliver(arrives: Receiver<(Duration, Vec<u8>)>, from: TcpStream, mut to: TcpStream) {
    for (due, bytes) in arrives {
        thread::sleep(due.saturating_sub(now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}
