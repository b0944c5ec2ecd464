//! A slow wire to a server: passes bytes in both directions, those that come back at a limited rate, so that what takes
//! no time here takes as long as it does elsewhere. Docker's own name for a registry is its address, so a relay is also
//! another name for the same registry.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

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
        listener.set_nonblocking(true).expect("not blocking");
        let address = listener.local_addr().expect("an address");
        let ended = Arc::new(AtomicBool::new(false));
        let over = ended.clone();
        let listening = thread::spawn(move || {
            let mut wires = Vec::new();
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    // a server that is away is a connection that closes
                    Ok((client, _)) => wires.extend(connect(client, server, rate).unwrap_or_default()),
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

type Wires = Vec<(TcpStream, JoinHandle<()>)>;

fn connect(client: TcpStream, server: SocketAddr, rate: usize) -> io::Result<Wires> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    let piece = rate / (Duration::from_secs(1).as_millis() / TICK.as_millis()) as usize;
    let (there, back) = ((client.try_clone()?, server.try_clone()?), (server, client));
    Ok(vec![
        (there.0.try_clone()?, thread::spawn(move || pass(there.0, there.1, 64 << 10, Duration::ZERO))),
        (back.0.try_clone()?, thread::spawn(move || pass(back.0, back.1, piece, TICK))),
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
