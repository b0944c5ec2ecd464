//! One forwarded connection: bytes between a client's stream and the app's socket, each direction to its own end.

use std::pin::pin;
use std::time::Duration;

use futures::future::Either;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::feed::{Piece, Reader};
use super::{Gone, STALL};
use crate::api::attach::Connection;

/// Bytes copied at once.
const CHUNK: usize = 16 << 10;
/// How long the app may be silent after the client's end: its answer to a finished upload may take a while, but an app
/// that never hangs up must not be kept awake for ever.
const AFTER_CLIENT: Duration = Duration::from_secs(300);
/// How long the client may be silent after the app's end. Short: kubectl keeps its user's connection open until the
/// whole exchange is said to be over.
const AFTER_APP: Duration = Duration::from_secs(1);

/// Where the app's bytes go.
pub trait Sink: Send {
    /// Waits while the client reads more slowly.
    fn send(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), Gone>> + Send;
    /// The app's end; the client may still send.
    fn finish(&mut self) -> impl Future<Output = ()> + Send;
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions are done.
    Done,
    /// One end broke off.
    Broken,
}

/// Runs until both directions have ended, or one has broken off.
pub async fn run(app: Connection, from: &mut Reader, to: &mut impl Sink) -> End {
    let Connection { io, in_use: _in_use } = app;
    let (read, write) = tokio::io::split(io);
    // Each direction tells how long the other may then be silent; they have no clock but the pieces themselves.
    let (client_over, app_over) = (tokio::sync::watch::Sender::new(false), tokio::sync::watch::Sender::new(false));
    let up = up(from, write, app_over.subscribe());
    let down = down(read, to, client_over.subscribe());
    let (up, down) = (pin!(up), pin!(down));
    match futures::future::select(up, down).await {
        Either::Left((End::Done, down)) => {
            client_over.send_replace(true);
            down.await
        }
        Either::Right((End::Done, up)) => {
            app_over.send_replace(true);
            up.await
        }
        Either::Left((End::Broken, _)) | Either::Right((End::Broken, _)) => End::Broken,
    }
}

/// What a direction waits for, or `None` when the other is over and this one was silent for as long as it may be.
async fn unless_silent<T>(
    next: impl Future<Output = T>,
    other_over: &mut tokio::sync::watch::Receiver<bool>,
    limit: Duration,
) -> Option<T> {
    let silent = async {
        // The sender lives as long as this.
        let _ = other_over.wait_for(|over| *over).await;
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        biased;
        next = next => Some(next),
        () = silent => None,
    }
}

async fn up(
    from: &mut Reader,
    mut app: impl AsyncWrite + Unpin,
    mut app_over: tokio::sync::watch::Receiver<bool>,
) -> End {
    loop {
        let Some(piece) = unless_silent(from.next(), &mut app_over, AFTER_APP).await else { return End::Done };
        let written = match &piece {
            Piece::Data(bytes) => {
                timeout(STALL, async { app.write_all(bytes).await.is_ok() && app.flush().await.is_ok() })
            }
            Piece::End => {
                drop(app.shutdown().await);
                return End::Done;
            }
            Piece::Broken => return End::Broken,
        };
        match written.await {
            Ok(true) => {}
            // The app does not want more, but may have more to say.
            Ok(false) => return End::Done,
            Err(_) => return End::Broken,
        }
    }
}

async fn down(
    mut app: impl AsyncRead + Unpin,
    to: &mut impl Sink,
    mut client_over: tokio::sync::watch::Receiver<bool>,
) -> End {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = unless_silent(app.read(&mut buffer), &mut client_over, AFTER_CLIENT).await;
        match read {
            Some(Ok(0)) => {
                to.finish().await;
                return End::Done;
            }
            Some(Ok(n)) => {
                if to.send(&buffer[..n]).await.is_err() {
                    return End::Broken;
                }
            }
            Some(Err(_)) | None => return End::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;

    use super::*;
    use crate::api::streams::feed::{Feed, feed};

    /// `None` is the end.
    struct Told(mpsc::Sender<Option<Bytes>>);

    impl Sink for Told {
        async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
            self.0.send(Some(Bytes::copy_from_slice(bytes))).await.map_err(|_| Gone)
        }
        async fn finish(&mut self) {
            let _ = self.0.send(None).await;
        }
    }

    struct Ends {
        client: Feed,
        told: mpsc::Receiver<Option<Bytes>>,
        app: DuplexStream,
        pipe: tokio::task::JoinHandle<End>,
    }

    fn piped() -> Ends {
        let (client, mut reader) = feed(None);
        let (sender, told) = mpsc::channel(1);
        let (near, app) = tokio::io::duplex(1024);
        let app_side = Connection { io: Box::new(near), in_use: Box::new(()) };
        let pipe = tokio::spawn(async move { run(app_side, &mut reader, &mut Told(sender)).await });
        Ends { client, told, app, pipe }
    }

    #[tokio::test(start_paused = true)]
    async fn the_app_hears_the_clients_end_and_still_answers() {
        let Ends { client, mut told, mut app, pipe } = piped();
        client.pieces.send("question".into()).await.unwrap();
        client.end();
        let mut heard = String::new();
        app.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "question");
        tokio::time::sleep(AFTER_CLIENT / 2).await;
        app.write_all(b"answer").await.unwrap();
        assert_eq!(told.recv().await, Some(Some("answer".into())));
        drop(app);
        assert_eq!(told.recv().await, Some(None));
        assert_eq!(pipe.await.unwrap(), End::Done);
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_apps_end_the_client_has_a_moment() {
        let Ends { client, mut told, mut app, pipe } = piped();
        app.shutdown().await.unwrap();
        assert_eq!(told.recv().await, Some(None));
        tokio::time::sleep(AFTER_APP / 2).await;
        client.pieces.send("late".into()).await.unwrap();
        let mut heard = [0; 4];
        app.read_exact(&mut heard).await.unwrap();
        assert_eq!((&heard, pipe.await.unwrap()), (b"late", End::Done));
    }

    #[tokio::test(start_paused = true)]
    async fn what_breaks_off_breaks_the_other_end() {
        let Ends { client, app, pipe, told } = piped();
        drop(client);
        assert_eq!(pipe.await.unwrap(), End::Broken);
        drop((app, told));
        let Ends { client, mut app, pipe, told } = piped();
        drop(told);
        app.write_all(b"nobody hears").await.unwrap();
        assert_eq!(pipe.await.unwrap(), End::Broken);
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_never_hangs_up_is_left_after_a_while() {
        let Ends { client, app, pipe, told } = piped();
        client.end();
        assert_eq!(pipe.await.unwrap(), End::Broken);
        drop((app, told));
    }
}
