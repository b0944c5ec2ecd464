//! The app behind the proxies: ready bytes for two paths, and an echo for who switches. A process of its own, the same for all.

use std::net::Ipv4Addr;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::sockets::ACCEPT;

/// Serves on so many ports of this address until standard input ends; tells the ports first.
pub async fn serve(address: Ipv4Addr, ports: usize) -> Result<()> {
    let answers = Answers { small: answer(1 << 10), large: answer(1 << 20) };
    let answers: &'static Answers = Box::leak(Box::new(answers));
    let mut told = vec![];
    for _ in 0..ports {
        let listener = TcpListener::bind((address, 0)).await?;
        told.push(listener.local_addr()?.port().to_string());
        tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(one(stream, answers));
                }
            }
        });
    }
    println!("{}", told.join(" "));
    until_left().await;
    Ok(())
}

/// Waits until whoever started this program ends, or lets go of its standard input.
pub async fn until_left() {
    let mut byte = [0];
    while tokio::io::stdin().read(&mut byte).await.unwrap_or_default() > 0 {}
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

fn answer(bytes: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n\r\n");
    [head.into_bytes(), vec![b'x'; bytes]].concat()
}

/// Ends with whatever is wrong: the proxy sees it, and so does its visitor.
async fn one(mut stream: TcpStream, answers: &Answers) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut have) = (vec![0; 4096], 0);
    loop {
        match stream.read(&mut buffer[have..]).await? {
            0 => return Ok(()),
            n => have += n,
        }
        while let Some(end) = buffer[..have].windows(4).position(|w| w == b"\r\n\r\n") {
            let answer = match &buffer[..end] {
                head if head.starts_with(b"GET /echo ") => return echo(stream).await,
                head if head.starts_with(b"GET /1m ") => &answers.large,
                _ => &answers.small,
            };
            stream.write_all(answer).await?;
            buffer.copy_within(end + 4..have, 0);
            have -= end + 4;
        }
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n]).await?,
        }
    }
}
