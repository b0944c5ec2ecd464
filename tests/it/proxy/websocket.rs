//! Whatever two ends say to each other over a WebSocket arrives as it was sent, byte by byte: every opcode and length, whole and
//! in pieces, broken frames too, in both directions at once, from the first byte to the last of whoever ends first.
//!
//! The proxy has no say in the protocol: what an end makes of a frame is between the two.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use portreeve::proxy::{Front, Limits};

use super::front::{Authority, secured};
use super::world::*;

const ASK: &str = "GET /socket HTTP/1.1\r\nHost: alice.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// One end's part of a conversation.
#[derive(Clone, Debug)]
struct Side {
    says: Vec<u8>,
    /// How much of it is written with the head.
    early: usize,
    /// How much at a time after that.
    piece: usize,
    ends: Ends,
}

/// How an end ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    /// It says no more, and listens on.
    First,
    /// When the other one has.
    Second,
}

async fn talk<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, side: Side, mut heard: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let (ended, mut other_ended) = tokio::sync::watch::channel(false);
    let writing = tokio::spawn(async move {
        for piece in side.says[side.early..].chunks(side.piece) {
            write.write_all(piece).await.unwrap();
            write.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        if side.ends == Ends::Second {
            // It has ended, or is gone.
            let _ = other_ended.wait_for(|ended| *ended).await;
        }
        write.shutdown().await.unwrap();
        write
    });
    soon("the other end", read.read_to_end(&mut heard)).await.unwrap();
    ended.send_replace(true);
    soon("its own end", writing).await.unwrap();
    heard
}

/// The first bytes up to the end of a head; what follows it.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = vec![];
    loop {
        assert!(
            soon("a head", stream.read_buf(&mut bytes)).await.unwrap() > 0,
            "{:?}",
            String::from_utf8_lossy(&bytes)
        );
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            return bytes.split_off(end + 4);
        }
    }
}

struct Bench {
    world: World,
    authority: Authority,
    address: std::net::SocketAddr,
    /// What the app says next, and what it has heard.
    next: Arc<Mutex<Option<Side>>>,
    heard: tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Bench {
    async fn new() -> Bench {
        let (world, authority) = secured(Front::default(), Limits::default()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tell, heard) = tokio::sync::mpsc::unbounded_channel();
        let bench = Bench { world, authority, address: listener.local_addr().unwrap(), next: Arc::default(), heard };
        let next = bench.next.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (next, tell) = (next.clone(), tell.clone());
                tokio::spawn(async move {
                    let early = head(&mut stream).await;
                    let side = next.lock().unwrap().take().expect("one conversation at a time");
                    let first = [ANSWER.as_bytes(), &side.says[..side.early]].concat();
                    stream.write_all(&first).await.unwrap();
                    let _ = tell.send(talk(stream, side, early).await);
                });
            }
        });
        bench
    }

    /// What each has heard: the app, the visitor.
    async fn converse(&mut self, visitor: Side, app: Side, sleeps: bool, tls: bool) -> (Vec<u8>, Vec<u8>) {
        *self.next.lock().unwrap() = Some(app);
        if sleeps {
            self.world.put(&asleep("alice", self.address)).await;
            self.world.waker.plan(awake("alice", self.address), std::time::Duration::from_millis(5));
        } else {
            self.world.put(&awake("alice", self.address)).await;
        }
        let first = [ASK.as_bytes(), &visitor.says[..visitor.early]].concat();
        let heard = if tls {
            let mut stream = self.authority.connect(self.world.secure, "alice.test", "http/1.1", b"").await.unwrap();
            stream.write_all(&first).await.unwrap();
            stream.flush().await.unwrap();
            let early = head(&mut stream).await;
            talk(stream, visitor, early).await
        } else {
            let mut stream = TcpStream::connect(self.world.address).await.unwrap();
            stream.write_all(&first).await.unwrap();
            let early = head(&mut stream).await;
            talk(stream, visitor, early).await
        };
        (soon("the app's word", self.heard.recv()).await.unwrap(), heard)
    }
}

/// A frame as RFC 6455 §5.2 has it, or nearly.
#[derive(Clone, Debug)]
struct Frame {
    first: u8,
    masked: bool,
    length: usize,
    /// Added to the length that it tells: it ends too early or too late.
    lie: i8,
    /// Told in more bytes than it needs.
    long: bool,
}

impl Frame {
    fn write(&self, bytes: &mut Vec<u8>) {
        let told = (self.length as u64).saturating_add_signed(self.lie.into());
        let mask = u8::from(self.masked) << 7;
        bytes.push(self.first);
        match told {
            0..126 if !self.long => bytes.push(mask | told as u8),
            0..65_536 => {
                bytes.push(mask | 126);
                bytes.extend((told as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend(told.to_be_bytes());
            }
        }
        if self.masked {
            bytes.extend([0x37, 0xfa, 0x21, 0x3d]);
        }
        bytes.extend((0..self.length).map(|n| (n % 251) as u8));
    }
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let borders = proptest::sample::select(vec![0, 1, 2, 4, 125, 126, 127, 1000, 8191, 8192, 65_535, 65_536]);
    let length = prop_oneof![3 => borders, 2 => 0..300_usize];
    let lie = prop_oneof![9 => Just(0_i8), 1 => any::<i8>()];
    // Pings, pongs and ends more often than others.
    let first = prop_oneof![3 => any::<u8>(), 2 => proptest::sample::select(vec![0x89_u8, 0x8a, 0x88, 0x81, 0x82, 0x01, 0x00, 0x80])];
    let one = (first, any::<bool>(), length, lie, proptest::bool::weighted(0.1));
    let one = one.prop_map(|(first, masked, length, lie, long)| Frame { first, masked, length, lie, long });
    (proptest::collection::vec(one, 0..8), any::<Option<u8>>()).prop_map(|(frames, half)| {
        let mut bytes = vec![];
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        // The last one may break off in its head.
        bytes.extend(half);
        bytes
    })
}

fn side() -> impl Strategy<Value = Side> {
    let piece = proptest::sample::select(vec![1, 2, 3, 7, 100, 1400, 8192, 8193, 100_000]);
    (frames(), any::<proptest::sample::Index>(), any::<bool>(), piece).prop_map(|(says, early, some, piece)| {
        let early = if some { early.index(says.len().min(3000) + 1) } else { 0 };
        // A large conversation byte by byte takes seconds.
        let piece = piece.max(says.len() / 2000);
        Side { says, early, piece, ends: Ends::First }
    })
}

#[test]
fn what_is_said_arrives_as_it_was_said() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bench = Mutex::new(runtime.block_on(Bench::new()));
    let cases = std::env::var("WEBSOCKET_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let ends = proptest::sample::select(vec![
        (Ends::First, Ends::First),
        (Ends::First, Ends::Second),
        (Ends::Second, Ends::First),
    ]);
    let strategy = (side(), side(), ends, proptest::bool::weighted(0.3), any::<bool>());
    let checked = TestRunner::new(config).run(&strategy, |(mut visitor, mut app, ends, sleeps, tls)| {
        (visitor.ends, app.ends) = ends;
        let (up, down) = (visitor.says.clone(), app.says.clone());
        let mut bench = bench.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (app_heard, visitor_heard) = runtime.block_on(bench.converse(visitor, app, sleeps, tls));
        prop_assert!(app_heard == up, "the app heard {} bytes, not the {} said", app_heard.len(), up.len());
        prop_assert!(
            visitor_heard == down,
            "the visitor heard {} bytes, not the {} said",
            visitor_heard.len(),
            down.len()
        );
        Ok(())
    });
    checked.unwrap_or_else(|e| panic!("{e}"));
    runtime.block_on(bench.into_inner().unwrap().world.until_closed("alice"));
}

#[tokio::test]
async fn a_conversation_may_be_split_anywhere() {
    let mut bench = Bench::new().await;
    let mut says = vec![];
    for (first, masked, length) in
        [(0x01, true, 3), (0x89, true, 2), (0x00, true, 0), (0x80, true, 126), (0x8a, false, 1), (0x88, true, 2)]
    {
        Frame { first, masked, length, lie: 0, long: false }.write(&mut says);
    }
    for tls in [false, true] {
        for at in 0..=says.len() {
            let part = |ends| Side { says: says.clone(), early: at, piece: says.len().max(1), ends };
            let (up, down) = bench.converse(part(Ends::First), part(Ends::Second), false, tls).await;
            assert!(up == says && down == says, "split at {at}, TLS {tls}");
            let pieces = |ends| Side { says: says.clone(), early: 0, piece: at.max(1), ends };
            let (up, down) = bench.converse(pieces(Ends::Second), pieces(Ends::First), false, tls).await;
            assert!(up == says && down == says, "in pieces of {at}, TLS {tls}");
        }
    }
    bench.world.until_closed("alice").await;
}
