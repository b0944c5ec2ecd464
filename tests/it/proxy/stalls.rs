//! Visitors who stay and do nothing: they hold no place, and no app awake, for ever.

use std::time::Duration;

use futures::SinkExt as _;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portreeve::proxy::{Front, Limits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::front::{get2, secured, text};
use super::world::*;

fn impatient(stalled: Duration) -> Limits {
    Limits { stalled, ..Limits::default() }
}

/// An app that always has more to say.
async fn endless() -> App {
    App::new(|request: Request<Incoming>| async move {
        if request.uri().path() == "/short" {
            return Response::new(full("short"));
        }
        let (mut sender, body) = streamed();
        tokio::spawn(async move { while sender.send(Ok(Frame::data(vec![7; 64 << 10].into()))).await.is_ok() {} });
        Response::new(body)
    })
    .await
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_cut_off() {
    let (world, app) = (World::with(impatient(Duration::from_millis(300))).await, endless().await);
    world.put(&awake("alice", app.address)).await;
    let mut visitor = TcpStream::connect(world.address).await.unwrap();
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: alice.test\r\n\r\n").await.unwrap();
    until("the app has it", || world.open("alice") == 1).await;
    world.until_closed("alice").await;
    until("the app's connection is closed", || app.open() == 0).await;
}

#[tokio::test]
async fn over_http2_one_answer_is_cut_off_and_the_others_go_on() {
    let (world, authority) = secured(Front::default(), impatient(Duration::from_millis(300))).await;
    let app = endless().await;
    world.put(&awake("alice", app.address)).await;
    let mut sender = authority.http2(&world, "alice.test").await;
    let ask = |path: &str| get2("alice.test", path).body(full("")).unwrap();
    let mut unread = sender.send_request(ask("/")).await.unwrap().into_body();
    assert_eq!(world.open("alice"), 1);
    while world.open("alice") > 0 {
        assert_eq!(text(sender.send_request(ask("/short")).await.unwrap()).await, "short");
    }
    let end = soon("the end", async {
        loop {
            match unread.frame().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    });
    assert!(matches!(end.await, Some(Err(_))), "what was broken off must not look whole");
    assert_eq!(text(sender.send_request(ask("/short")).await.unwrap()).await, "short", "on the same connection");
}

#[tokio::test]
async fn who_does_not_send_the_rest_of_a_request_is_told_and_who_sends_it_slowly_is_served() {
    let world = World::with(impatient(Duration::from_secs(4))).await;
    let app = App::hello("alice").await;
    world.put(&awake("alice", app.address)).await;
    let upload = async |pieces: usize| {
        let mut visitor = TcpStream::connect(world.address).await.unwrap();
        visitor.write_all(b"PUT /f HTTP/1.1\r\nHost: alice.test\r\nContent-Length: 12\r\n\r\n").await.unwrap();
        for _ in 0..pieces {
            visitor.write_all(b"x").await.unwrap();
            tokio::time::sleep(Duration::from_millis(450)).await;
        }
        let (mut answer, mut piece) = (String::new(), [0; 512]);
        while !answer.contains("\r\n\r\n") {
            let n = soon("the answer", visitor.read(&mut piece)).await.unwrap();
            assert_ne!(n, 0, "{answer}");
            answer.push_str(std::str::from_utf8(&piece[..n]).unwrap());
        }
        answer.lines().next().unwrap().to_owned()
    };
    let (whole, part) = futures::join!(upload(12), upload(2));
    assert_eq!((&*whole, &*part), ("HTTP/1.1 200 OK", "HTTP/1.1 408 Request Timeout"));
    world.until_closed("alice").await;
    until("nothing is left of it", || app.open() <= 1).await;
}

#[tokio::test]
async fn once_the_app_answers_either_side_may_be_silent() {
    let world = World::with(impatient(Duration::from_millis(300))).await;
    let app = App::new(|request: Request<Incoming>| async move {
        let (mut sender, body) = streamed();
        tokio::spawn(async move {
            let mut heard = request.into_body();
            sender.send(Ok(Frame::data("hello ".into()))).await.unwrap();
            while let Some(Ok(frame)) = heard.frame().await {
                sender.send(Ok(frame)).await.unwrap();
            }
        });
        Response::new(body)
    })
    .await;
    world.put(&awake("alice", app.address)).await;
    let (mut said, body) = streamed();
    let mut chat = request("POST", "alice.test", "/", "");
    *chat.body_mut() = body;
    let mut visitor = world.connect().await;
    let mut heard = visitor.start(chat).await.unwrap().into_body();
    soon("a greeting", heard.frame()).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    said.send(Ok(Frame::data("still there".into()))).await.unwrap();
    let frame = soon("an echo", heard.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "still there");
    drop(said);
    assert!(soon("the end", heard.frame()).await.is_none());
    assert_eq!(world.get("alice.test", "/").await.status, StatusCode::OK);
}
