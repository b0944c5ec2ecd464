//! `portreeve port-forward`: ports of this machine that lead to an instance's, wherever it runs.
//!
//! ```text
//! local connection ──▶ one WebSocket of its own (`v5.channel.k8s.io`): channel 0 data, 1 errors, 255 an end
//! ```

use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use super::error::{Error, Exit, Result};
use super::exec::{CLOSE, PROTOCOL, frame};
use super::output::print;
use super::session::Session;
use super::url::{self, with_query};

const DATA: u8 = 0;
const ERROR: u8 = 1;
const CHUNK: usize = 16 << 10;
/// Local connections at a time; more wait in the kernel.
const MOST_CONNECTIONS: usize = 256;
/// Between an accept that failed and the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Reach an instance's ports at ports of this machine.
///
/// Every connection is a use of the instance: it wakes a sleeping one, and keeps it awake.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve port-forward alice 8080
  portreeve port-forward alice 9000:8080 :8081")]
pub struct PortForwardArgs {
    /// The instance
    pub name: String,
    /// [LOCAL:]PORT: the instance's port, and that of this machine; an empty LOCAL is a free one
    #[arg(required = true, value_name = "PORT", value_parser = parse_port)]
    pub ports: Vec<Port>,
    /// The address of this machine to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub address: IpAddr,
}

/// One pair of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// 0: a free one.
    pub local: u16,
    pub remote: u16,
}

fn parse_port(text: &str) -> std::result::Result<Port, String> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|n| *n > 0).ok_or(format!("{text:?} is not a port"));
    let (local, remote) = match text.split_once(':') {
        Some(("", remote)) => (0, number(remote)?),
        Some((local, remote)) => (number(local)?, number(remote)?),
        None => (number(text)?, number(text)?),
    };
    Ok(Port { local, remote })
}

pub async fn run(args: &PortForwardArgs, session: &Session) -> Result<Exit> {
    let path = url::pod(&session.namespace, &args.name);
    // so that a name that is not there is told at once, not with the first connection
    session.client.get(&path, super::client::JSON).await?;
    let mut listeners = vec![];
    for Port { local, remote } in &args.ports {
        let address = SocketAddr::new(args.address, *local);
        let listener =
            TcpListener::bind(address).await.map_err(|e| Error::failed(format!("listen on {address}: {e}")))?;
        let bound = listener.local_addr().map_err(|e| Error::failed(format!("listen on {address}: {e}")))?;
        print(&format!("Forwarding from {bound} -> {remote}\n"))?;
        listeners.push((listener, *remote));
    }
    let mut connections = FuturesUnordered::new();
    loop {
        let full = connections.len() >= MOST_CONNECTIONS;
        let accepted = async {
            if full {
                return pending().await;
            }
            let all = listeners.iter().map(|(listener, remote)| Box::pin(async { (listener.accept().await, *remote) }));
            let (accepted, remote) = futures::future::select_all(all).await.0;
            if accepted.is_err() {
                // Out of file descriptors, mostly: it fails again at once until a connection ends.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (accepted, remote)
        };
        tokio::select! {
            (accepted, remote) = accepted => match accepted {
                Ok((stream, _)) => connections.push(connection(session, &path, stream, remote)),
                Err(e) => eprintln!("accepting a connection failed: {e}"),
            },
            Some(()) = connections.next() => {}
        }
    }
}

/// One connection; what fails is said and ends it alone.
async fn connection(session: &Session, pod: &str, stream: TcpStream, port: u16) {
    if let Err(e) = relay(session, pod, stream, port).await {
        eprintln!("a connection to port {port} failed: {e}");
    }
}

async fn relay(session: &Session, pod: &str, mut local: TcpStream, port: u16) -> Result<()> {
    let path = with_query(&format!("{pod}/portforward"), &[("ports", &port.to_string())]);
    let (mut sink, mut source) = session.client.websocket(&path, PROTOCOL).await?.split();
    let (mut read, mut write) = local.split();
    let up = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = read.read(&mut buffer).await?;
            let message = if n == 0 { frame(CLOSE, &[DATA]) } else { frame(DATA, &buffer[..n]) };
            sink.send(message).await.map_err(std::io::Error::other)?;
            if n == 0 {
                // the other direction may go on for long
                return pending::<std::io::Result<()>>().await;
            }
        }
    };
    let down = async {
        // each channel begins with its port, two bytes
        let mut begun = [false; 2];
        while let Some(message) = source.next().await {
            let bytes = match message.map_err(|e| Error::failed(e.to_string()))? {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                _ => continue,
            };
            match bytes.split_first() {
                Some((channel @ (&DATA | &ERROR), _)) if !begun[usize::from(*channel)] => {
                    begun[usize::from(*channel)] = true;
                }
                Some((&DATA, data)) => write.write_all(data).await?,
                Some((&ERROR, why)) => return Err(Error::failed(String::from_utf8_lossy(why).into_owned())),
                Some((&CLOSE, [DATA])) => write.shutdown().await?,
                _ => {}
            }
        }
        Ok(())
    };
    let (up, down) = (pin!(up), pin!(down));
    tokio::select! {
        failed = up => Ok(failed?),
        ended = down => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_kubectl_reads_them() {
        assert_eq!(parse_port("8080"), Ok(Port { local: 8080, remote: 8080 }));
        assert_eq!(parse_port("1:2"), Ok(Port { local: 1, remote: 2 }));
        assert_eq!(parse_port(":2"), Ok(Port { local: 0, remote: 2 }));
        for bad in ["", "x", "0", "1:", "70000", "1:2:3", "0:1"] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
    }
}
