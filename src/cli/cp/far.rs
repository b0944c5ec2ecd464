//! A command in an instance's container whose input and output are ours instead of the terminal's.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::cli::error::{Error, Exit, Result};
use crate::cli::exec::{self, CLOSE, Outlet, PROTOCOL, STDIN, frame, receive};
use crate::cli::session::Session;
use crate::cli::url::encode;

/// Of what a command says on stderr, in bytes.
const MOST_ERRORS: usize = 8 * 1024;

/// Where commands run.
pub struct Far<'a> {
    pub session: &'a Session,
    pub namespace: String,
    pub name: String,
    pub container: Option<String>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub exit: Exit,
    /// The beginning of what it said on stderr.
    pub errors: String,
}

impl Far<'_> {
    /// The path of a session with a command.
    pub fn path(&self, command: &[String], stdin: bool) -> String {
        let args = exec::ExecArgs { name: self.name.clone(), stdin, tty: false, command: command.to_vec() };
        let path = exec::path(&args, false, &self.namespace);
        match &self.container {
            Some(container) => format!("{path}&container={}", encode(container)),
            None => path,
        }
    }

    /// Runs a command to its end. `input` ends with an empty chunk; if it closes without, so does the session, with an
    /// error. `output` gets one when the command has ended, whatever its exit code.
    pub async fn run(
        &self,
        command: &[String],
        input: Option<mpsc::Receiver<Bytes>>,
        output: Option<mpsc::Sender<Bytes>>,
    ) -> Result<Ended> {
        let socket = self.session.client.websocket(&self.path(command, input.is_some()), PROTOCOL).await?;
        let (mut sink, mut source) = socket.split();
        let (queue, mut to_send) = mpsc::channel::<Message>(16);
        let send = async {
            while let Some(message) = to_send.recv().await {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
            // the reading side tells why
            std::future::pending::<()>().await;
        };
        let feed = async {
            let Some(mut input) = input else { return std::future::pending().await };
            while let Some(chunk) = input.recv().await {
                let end = chunk.is_empty();
                let message = if end { frame(CLOSE, &[STDIN]) } else { frame(STDIN, &chunk) };
                if queue.send(message).await.is_err() || end {
                    return std::future::pending().await;
                }
            }
        };
        let mut caught = Caught { output, errors: vec![] };
        let exit = tokio::select! {
            exit = receive(&mut source, &queue, &mut caught) => exit?,
            () = feed => return Err(Error::failed("the input broke off")),
            () = send => return Err(Error::failed("the connection broke")),
        };
        if let Some(output) = &caught.output {
            // one who has stopped reading knows why
            let _ = output.send(Bytes::new()).await;
        }
        Ok(Ended { exit, errors: String::from_utf8_lossy(&caught.errors).into_owned() })
    }
}

struct Caught {
    /// `None`: nobody wants to know.
    output: Option<mpsc::Sender<Bytes>>,
    errors: Vec<u8>,
}

impl Outlet for Caught {
    async fn stdout(&mut self, data: Bytes) -> Result<()> {
        match &self.output {
            // an empty chunk would be the end
            Some(output) if !data.is_empty() => {
                output.send(data).await.map_err(|_| Error::failed("the output is not taken"))
            }
            _ => Ok(()),
        }
    }

    async fn stderr(&mut self, data: Bytes) -> Result<()> {
        let room = MOST_ERRORS - self.errors.len();
        self.errors.extend_from_slice(&data[..data.len().min(room)]);
        Ok(())
    }
}
