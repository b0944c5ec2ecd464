//! HTTP/2 from visitors who mean harm, or err: each is told so and ends by itself, and everybody else is served as ever.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portreeve::proxy::{Front, Limits};

use super::front::{Authority, secured};
use super::h2::*;
use super::world::*;

const COMPRESSION_ERROR: u32 = 9;
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();

struct Bench {
    world: World,
    authority: Authority,
    app: App,
}

impl Bench {
    async fn new() -> Bench {
        Bench::with(App::hello("alice").await).await
    }

    async fn with(app: App) -> Bench {
        let (world, authority) = secured(Front::default(), Limits::default()).await;
        world.put(&awake("alice", app.address)).await;
        Bench { world, authority, app }
    }

    async fn begin(&self, settings: &[(u16, u32)]) -> Raw {
        Raw::begin(&self.world, &self.authority, settings).await
    }

    /// Somebody else, over both versions.
    async fn serves_others(&self) {
        let mut raw = self.begin(&[]).await;
        raw.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&get(&[])))).await.unwrap();
        assert_eq!(raw.outcome("another visitor", 1).await, Outcome::Answered(200));
        assert_eq!(self.world.get("alice.test", "/").await.text(), "alice GET /");
    }

    /// What `frames` come to. Who is told off may be hung up on before all was written.
    async fn told_off(&self, what: &str, frames: &[u8]) -> Outcome {
        let mut raw = self.begin(&[]).await;
        let _ = raw.write(frames).await;
        raw.outcome(what, 1).await
    }
}

fn asks(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get(&[])))
}

fn begins_upload(stream: u32) -> Vec<u8> {
    let mut fields = get(&[]);
    fields[0].1 = "POST";
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

#[tokio::test]
async fn frames_that_are_wrong_end_their_stream_or_their_connection() {
    let bench = Bench::new().await;
    let most = 0x7fff_ffff_u32.to_be_bytes();
    let cases: &[(&str, Vec<u8>, &[u32])] = &[
        ("data of a stream that was never begun", frame(DATA, 0, 1, b"x"), &[PROTOCOL_ERROR]),
        ("the end of a stream that was never begun", frame(RST_STREAM, 0, 1, &CANCEL), &[PROTOCOL_ERROR]),
        ("room for a stream that was never begun", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), &[PROTOCOL_ERROR]),
        ("a head of the server's own streams", asks(2), &[PROTOCOL_ERROR]),
        ("a head of no stream", asks(0), &[PROTOCOL_ERROR]),
        ("data of no stream", frame(DATA, 0, 0, b"x"), &[PROTOCOL_ERROR]),
        ("a promise", frame(5, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]), &[PROTOCOL_ERROR]),
        ("a rest of a head without a head", frame(CONTINUATION, END_HEADERS, 1, &[0x82]), &[PROTOCOL_ERROR]),
        (
            "a frame within a head",
            [frame(HEADERS, 0, 1, &[0x82]), frame(PING, 0, 0, &[0; 8])].concat(),
            &[PROTOCOL_ERROR],
        ),
        ("a short ping", frame(PING, 0, 0, &[0; 7]), &[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[]), &[PROTOCOL_ERROR]),
        ("half a setting", frame(SETTINGS, 0, 0, &[0; 5]), &[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ("a word on settings that says more", frame(SETTINGS, ACK, 0, &[0; 6]), &[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ("a frame above the size allowed", frame(DATA, 0, 1, &[0; 16_385]), &[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ("no room at all", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), &[PROTOCOL_ERROR]),
        ("a name that is not in the table", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xfe]), &[COMPRESSION_ERROR]),
        ("a head that breaks off", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 5, b'x']), &[COMPRESSION_ERROR]),
        ("a window too large", [asks(1), frame(WINDOW_UPDATE, 0, 0, &most)].concat(), &[FLOW_CONTROL_ERROR]),
        (
            "a stream's window too large",
            [begins_upload(1), frame(WINDOW_UPDATE, 0, 1, &most)].concat(),
            &[FLOW_CONTROL_ERROR],
        ),
        (
            "more data than there is room for",
            [begins_upload(1), frame(DATA, 0, 1, &[0; 16_384]).repeat(65)].concat(),
            &[FLOW_CONTROL_ERROR],
        ),
        (
            "padding longer than its frame",
            [begins_upload(1), frame(DATA, 8, 1, &[200, 0, 0])].concat(),
            &[PROTOCOL_ERROR],
        ),
    ];
    for (what, frames, reasons) in cases {
        let mut raw = bench.begin(&[]).await;
        let _ = raw.write(frames).await;
        let ended = raw.until(what, |f| matches!(f.kind, GOAWAY | RST_STREAM)).await;
        // A reset of TCP may take the word along. The general reason is as good as the particular one (RFC 9113 §5.4).
        let fits = |f: &Frame| f.reason() == PROTOCOL_ERROR || reasons.contains(&f.reason());
        assert!(ended.as_ref().is_none_or(fits), "{what}: {ended:?}");
    }
    let late = [asks(1), frame(DATA, END_STREAM, 1, b"late")].concat();
    let outcome = bench.told_off("data after the end", &late).await;
    // The answer may have been quicker.
    let ended = [STREAM_CLOSED, PROTOCOL_ERROR].map(Outcome::Ended).contains(&outcome);
    assert!(ended || matches!(outcome, Outcome::Cut | Outcome::Answered(200)), "{outcome:?}");
    // What nobody knows is passed over.
    let unknown = [frame(0xbe, 0xff, 0, b"?"), frame(SETTINGS, 0, 0, &[0xbe, 0xef, 0, 0, 0, 1]), asks(1)].concat();
    assert_eq!(bench.told_off("unknown frames and settings", &unknown).await, Outcome::Answered(200));
    bench.serves_others().await;
    bench.world.until_closed("alice").await;
}

#[tokio::test]
async fn who_does_not_begin_as_agreed_is_hung_up_on() {
    let bench = Bench::new().await;
    for preface in [&b"GET / HTTP/1.1\r\nHost: alice.test\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", &[0; 64]] {
        let mut raw = Raw::silent(&bench.world, &bench.authority).await;
        raw.write(preface).await.unwrap();
        assert!(raw.until("the end", |f| f.kind == HEADERS).await.is_none());
    }
    bench.serves_others().await;
}

/// Two frames for each of many requests, which are over before they are answered (CVE-2023-44487).
#[tokio::test]
async fn requests_that_are_taken_back_at_once_leave_nothing_behind() {
    let bench = Bench::with(App::new(|_| std::future::pending()).await).await;
    let mut raw = bench.begin(&[]).await;
    let mut sent = 0;
    for some in 0..200_u32 {
        let many: Vec<u8> = (0..50)
            .flat_map(|n| {
                let stream = (some * 50 + n) * 2 + 1;
                [asks(stream), frame(RST_STREAM, 0, stream, &CANCEL)].concat()
            })
            .collect();
        if raw.write(&many).await.is_err() {
            break;
        }
        sent += 50;
    }
    let begun = bench.app.accepted();
    // It is hung up on for it, or has had no more of the app than a visitor may.
    let end = raw.until("an end of it", |f| f.kind == GOAWAY);
    let ended = tokio::time::timeout(Duration::from_secs(1), end).await;
    let told_off = matches!(&ended, Ok(Some(f)) if f.reason() == ENHANCE_YOUR_CALM) || matches!(ended, Ok(None));
    assert!(told_off || begun <= sent, "{begun} requests of {sent} reached the app: {ended:?}");
    bench.world.until_closed("alice").await;
    until("the app is let go", || bench.app.open() == 0).await;
    drop(raw);
    let other = App::hello("alice").await;
    bench.world.put(&awake("alice", other.address)).await;
    bench.serves_others().await;
}

#[tokio::test]
async fn a_head_without_end_is_not_kept() {
    let bench = Bench::new().await;
    for (what, piece) in [("large pieces", block(&[("x", &"y".repeat(16_000))])), ("empty pieces", vec![])] {
        let mut raw = bench.begin(&[]).await;
        raw.write(&frame(HEADERS, END_STREAM, 1, &block(&get(&[])))).await.unwrap();
        let many = frame(CONTINUATION, 0, 1, &piece).repeat(64);
        // 64 MiB of the large ones, 4 million of the empty ones.
        let mut times = 0;
        while times < if piece.is_empty() { 65_536 } else { 64 } && raw.write(&many).await.is_ok() {
            times += 1;
        }
        let ended = raw.until("its end", |f| f.kind == GOAWAY).await;
        assert!(
            ended.is_none_or(|f| [ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR].contains(&f.reason())),
            "{what}"
        );
    }
    bench.serves_others().await;
    assert_eq!(bench.app.accepted(), 1, "only the others reached the app");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_told_so() {
    let bench = Bench::new().await;
    let large = "y".repeat(12_000);
    let fields: Vec<(&str, &str)> = get(&[]).into_iter().chain((0..6).map(|_| ("x", &*large))).collect();
    let all = block(&fields);
    let mut frames = frame(HEADERS, END_STREAM, 1, &all[..16_384]);
    let pieces: Vec<&[u8]> = all[16_384..].chunks(16_384).collect();
    for (n, piece) in pieces.iter().enumerate() {
        frames.extend(frame(CONTINUATION, if n + 1 == pieces.len() { END_HEADERS } else { 0 }, 1, piece));
    }
    assert_eq!(bench.told_off("a large head", &frames).await, Outcome::Answered(431));
    // One field that is kept in the table, and named a thousand times by one byte each.
    let mut bomb = block(&get(&[]));
    // Of 127 + 1 + 30 * 128 bytes.
    bomb.extend([0x40, 1, b'x', 127, 0x81, 30]);
    bomb.extend([b'y'; 3968]);
    bomb.extend([0xbe; 1000]);
    let mut raw = bench.begin(&[]).await;
    let _ = raw.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await;
    let outcome = raw.outcome("a head that unpacks to much", 1).await;
    assert!(
        matches!(
            outcome,
            Outcome::Answered(431) | Outcome::Ended(COMPRESSION_ERROR | PROTOCOL_ERROR | ENHANCE_YOUR_CALM)
        ),
        "{outcome:?}"
    );
    bench.serves_others().await;
}

#[tokio::test]
async fn questions_whose_answers_nobody_reads_trouble_nobody_else() {
    let bench = Bench::new().await;
    for one in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]), frame(DATA, 0, 1, &[])] {
        let mut raw = bench.begin(&[]).await;
        raw.write(&begins_upload(1)).await.unwrap();
        let many = one.repeat(2000);
        let flood = tokio::spawn(async move {
            // Until it is hung up on, or nobody reads it any more.
            while raw.write(&many).await.is_ok() {}
        });
        for _ in 0..20 {
            bench.serves_others().await;
        }
        flood.abort();
        let _ = flood.await;
    }
    bench.world.until_closed("alice").await;
}

#[tokio::test]
async fn who_takes_nothing_gets_nothing_until_it_does() {
    const LENGTH: usize = 4 << 20;
    let bench = Bench::with(
        App::new(|_: http::Request<Incoming>| async { http::Response::new(full(vec![b'x'; LENGTH])) }).await,
    )
    .await;
    // A first window of nothing.
    let mut raw = bench.begin(&[(4, 0)]).await;
    raw.write(&asks(1)).await.unwrap();
    assert_eq!(raw.outcome("the head", 1).await, Outcome::Answered(200));
    for _ in 0..3 {
        let mut other = bench.begin(&[]).await;
        other.write(&asks(1)).await.unwrap();
        assert_eq!(other.outcome("another visitor", 1).await, Outcome::Answered(200));
    }
    // A ping is answered after whatever could have been sent before it.
    raw.write(&frame(PING, 0, 0, &[1; 8])).await.unwrap();
    let next = raw.until("its echo", |f| f.kind == DATA || f.kind == PING && f.flags == ACK).await.unwrap();
    assert_eq!(next.kind, PING, "{} bytes that nobody has room for", next.payload.len());
    let room = u32::try_from(LENGTH).unwrap().to_be_bytes();
    raw.write(&[frame(WINDOW_UPDATE, 0, 0, &room), frame(WINDOW_UPDATE, 0, 1, &room)].concat()).await.unwrap();
    let mut got = 0;
    while got < LENGTH {
        got += raw.until("data", |f| f.kind == DATA).await.unwrap().payload.len();
    }
    assert_eq!(got, LENGTH);
}

#[tokio::test]
async fn more_streams_than_are_allowed_are_refused_and_the_others_go_on() {
    let (world, authority) = secured(Front::default(), Limits::default()).await;
    let app = App::hello("alice").await;
    world.put(&asleep("alice", app.address)).await;
    let mut raw = Raw::begin(&world, &authority, &[]).await;
    let allowed = Limits::default().streams_per_connection;
    for stream in 0..allowed {
        raw.write(&asks(stream * 2 + 1)).await.unwrap();
    }
    until("all wait", || world.open("alice") == allowed as usize).await;
    let beyond = allowed * 2 + 1;
    raw.write(&asks(beyond)).await.unwrap();
    assert_eq!(raw.outcome("one too many", beyond).await, Outcome::Ended(REFUSED_STREAM));
    world.put(&awake("alice", app.address)).await;
    for _ in 0..allowed {
        let head = raw.until("an answer", |f| f.kind == HEADERS).await.unwrap();
        assert_eq!(head.status(), 200);
    }
    world.until_closed("alice").await;
}

/// The tests above would pass where nothing is read at all.
#[tokio::test]
async fn a_plain_request_frame_by_frame_is_answered() {
    let bench = Bench::with(
        App::new(|request: http::Request<Incoming>| async move {
            http::Response::new(full(request.into_body().collect().await.unwrap().to_bytes()))
        })
        .await,
    )
    .await;
    let mut raw = bench.begin(&[]).await;
    let pieces =
        [frame(DATA, 0, 1, b"hel"), frame(DATA, 8, 1, b"\x02lo\0\0"), frame(DATA, END_STREAM, 1, b"")].concat();
    raw.write(&[begins_upload(1), pieces].concat()).await.unwrap();
    assert_eq!(raw.outcome("the head", 1).await, Outcome::Answered(200));
    assert_eq!(raw.until("the body", |f| f.kind == DATA).await.unwrap().payload, b"hello");
}
