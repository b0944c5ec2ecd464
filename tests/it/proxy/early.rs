//! Answers that come before their request is at its end: of an app that hangs up then, and of the proxy itself. Their visitor
//! gets them whole, however much of the request is still on its way.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use portreeve::proxy::{Front, Limits};

use super::front::secured;
use super::world::*;

const MUCH: usize = 8 << 20;
const ROUNDS: usize = 12;
const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntoo big";

/// Reads the head of a request, answers, and closes: what comes of the body is not read, so its end is a reset.
async fn hasty(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![];
                while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let _ = stream.write_all(answer).await;
            });
        }
    });
    address
}

/// All that a visitor gets who sends its whole request, whatever is answered meanwhile. A reset, which some systems throw away
/// the answer for, shows in what is sent after it.
async fn upload(world: &World, host: &str, size: usize) -> std::io::Result<String> {
    let stream = TcpStream::connect(world.address).await?;
    let (mut from, mut to) = stream.into_split();
    let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n");
    let sending = async {
        to.write_all(head.as_bytes()).await?;
        to.write_all(&vec![7; size]).await
    };
    let mut answer = vec![];
    let both = async { tokio::join!(sending, from.read_to_end(&mut answer)) };
    let (sent, read) = soon("the answer", both).await;
    sent.and(read)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn an_app_that_answers_before_the_upload_is_over_and_hangs_up_is_heard() {
    let world = World::new().await;
    world.put(&awake("alice", hasty(ANSWER).await)).await;
    for size in [100_000, 300_000, MUCH] {
        for round in 0..ROUNDS {
            let answer = upload(&world, "alice.test", size).await;
            let answer = answer.unwrap_or_else(|e| panic!("{size} bytes, round {round}: {e}"));
            assert!(answer.starts_with("HTTP/1.1 413 "), "{size} bytes, round {round}: {answer}");
            assert!(answer.ends_with("too big"), "{size} bytes, round {round}: {answer}");
        }
    }
    until("nobody is left", || world.open("alice") == 0).await;
}

#[tokio::test]
async fn an_answer_without_a_length_that_was_torn_off_is_not_passed_off_as_whole() {
    let world = World::new().await;
    world.put(&awake("alice", hasty(b"HTTP/1.1 200 OK\r\n\r\na part").await)).await;
    for round in 0..ROUNDS {
        let answer = upload(&world, "alice.test", MUCH).await.unwrap_or_default();
        assert!(!answer.ends_with("0\r\n\r\n"), "round {round}: {answer}");
    }
}

#[tokio::test]
async fn what_the_proxy_itself_answers_reaches_who_still_sends() {
    let world = World::new().await;
    for round in 0..ROUNDS {
        let answer = upload(&world, "nobody.test", MUCH).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert!(answer.starts_with("HTTP/1.1 404 "), "round {round}: {answer}");
    }
}

#[tokio::test]
async fn an_app_that_hangs_up_in_the_middle_of_an_upload_is_heard_over_http2() {
    let (world, authority) = secured(Front::default(), Limits::default()).await;
    world.put(&awake("alice", hasty(ANSWER).await)).await;
    for round in 0..ROUNDS {
        let mut sender = authority.http2(&world, "alice.test").await;
        let chunks = (0..MUCH >> 14).map(|_| Ok(Frame::data(Bytes::from(vec![7; 1 << 14]))));
        let body = StreamBody::new(futures::stream::iter(chunks)).boxed();
        let request = http::Request::post("https://alice.test/").body(body).unwrap();
        let answer = soon("the answer", sender.send_request(request)).await;
        let answer = answer.unwrap_or_else(|e| panic!("round {round}: {e:?}"));
        assert_eq!(answer.status(), 413, "round {round}");
        let text = answer.into_body().collect().await.unwrap_or_else(|e| panic!("round {round}: {e:?}")).to_bytes();
        assert_eq!(text, "too big", "round {round}");
    }
}
