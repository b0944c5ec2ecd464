//! What goes on inside containers: commands, their output, and the containers' own.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http::{Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use portreeve::docker::engine::{
    AttachOptions, EngineErrorKind, EngineRead, EngineResult, ExecOptions, LogOptions, OutputStream,
};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::image::SimCommand;
use super::answer::{self, Body, Refused, Reply, empty};
use super::{Asked, Host};

const RAW: &str = "application/vnd.docker.raw-stream";

/// A frame: a stream byte, three zeros, a big-endian length, the payload.
fn frame(stream: OutputStream, payload: &[u8]) -> Bytes {
    let kind = match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    };
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [&[kind, 0, 0, 0], &length.to_be_bytes()[..], payload].concat().into()
}

type Output = BoxStream<'static, EngineResult<(OutputStream, Bytes)>>;

fn framed(output: Output) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    output.map(|piece| piece.map(|(stream, bytes)| frame(stream, &bytes)).map_err(io::Error::other))
}

/// 101, and then the connection is the client's and ours.
fn upgraded() -> Response<Body> {
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    for (name, value) in [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "tcp"), (header::CONTENT_TYPE, RAW)] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

fn told(error: portreeve::docker::engine::EngineError) -> Refused {
    let status = match error.kind {
        EngineErrorKind::NotFound => StatusCode::NOT_FOUND,
        EngineErrorKind::Conflict => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refused::new(status, error.message)
}

pub async fn logs(host: &Host, asked: &Asked) -> Reply {
    let id = host.resolve(&asked.object)?;
    let query = &asked.query;
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Refused::bad("Bad parameters: you must choose at least one stream"));
    }
    let options = LogOptions {
        follow: query.flag("follow"),
        tail: query.get("tail").parse().ok(),
        since: query.time("since")?,
        until: query.time("until")?,
        timestamps: query.flag("timestamps"),
    };
    let output = host.engine.logs(&id, options).await.map_err(told)?;
    let wanted = output.filter(move |piece| {
        let wanted = piece.as_ref().map_or(true, |(stream, _)| match stream {
            OutputStream::Stdout => stdout,
            OutputStream::Stderr => stderr,
        });
        std::future::ready(wanted)
    });
    Ok(answer::stream(RAW, framed(wanted.boxed())))
}

pub async fn attach(host: &Host, asked: &Asked, upgrade: Option<OnUpgrade>) -> Reply {
    let id = host.resolve(&asked.object)?;
    let options = AttachOptions { stdout: asked.query.flag("stdout"), stderr: asked.query.flag("stderr") };
    let output = host.engine.attach(&id, options).await.map_err(told)?;
    let Some(upgrade) = upgrade else { return Ok(answer::stream(RAW, framed(output))) };
    tokio::spawn(async move {
        // The client went away before the answer.
        let Ok(connection) = upgrade.await else { return };
        let mut connection = TokioIo::new(connection);
        let mut output = Box::pin(framed(output));
        while let Some(Ok(piece)) = output.next().await {
            if connection.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = connection.shutdown().await;
    });
    Ok(upgraded())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Given {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    tty: bool,
    cmd: Option<Vec<String>>,
}

pub fn create(host: &Host, asked: &Asked) -> Reply {
    let id = host.resolve(&asked.object)?;
    let given: Given = serde_json::from_slice(&asked.body).map_err(|e| Refused::bad(e.to_string()))?;
    let Some(command) = given.cmd.filter(|cmd| !cmd.is_empty()) else {
        return Err(Refused::bad("No exec command specified"));
    };
    let options = ExecOptions {
        command,
        stdin: given.attach_stdin,
        stdout: given.attach_stdout,
        stderr: given.attach_stderr,
        tty: given.tty,
    };
    let made = host.engine.step(|world| world.exec(&id, options));
    let exec_id = made.map_err(|refusal| Refused::of(asked.call, refusal))?;
    Ok(answer::json(StatusCode::CREATED, &json!({"Id": exec_id})))
}

/// Runs the command: what it writes goes to the client, and what the client writes goes to it.
pub async fn start(host: &Arc<Host>, asked: &Asked, upgrade: Option<OnUpgrade>) -> Reply {
    let exec_id = asked.object.clone();
    let run = host.engine.world().run_exec(&exec_id);
    let (command, spec, tty) = run.map_err(|refusal| Refused::of(asked.call, refusal))?;
    host.pace.quick(asked.call).await;
    let packed = move |bytes: &[u8]| {
        if tty { Bytes::copy_from_slice(bytes) } else { frame(OutputStream::Stdout, bytes) }
    };
    let Some(upgrade) = upgrade else {
        let (output, code) = command.outcome(&spec);
        host.engine.step(|world| world.exec_ended(&exec_id, code));
        return Ok(answer::stream(RAW, futures::stream::iter([Ok(packed(&output))])));
    };
    let host = host.clone();
    tokio::spawn(async move {
        let Ok(connection) = upgrade.await else { return };
        let mut connection = TokioIo::new(connection);
        let code = if let SimCommand::Echoes = command {
            let mut buffer = vec![0; 16 << 10];
            loop {
                match connection.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) if connection.write_all(&packed(&buffer[..n])).await.is_err() => break,
                    Ok(_) => {}
                }
            }
            0
        } else {
            let (output, code) = command.outcome(&spec);
            if !output.is_empty() {
                // Whoever asked may have gone.
                let _ = connection.write_all(&packed(&output)).await;
            }
            code
        };
        host.engine.step(|world| world.exec_ended(&exec_id, code));
        let _ = connection.shutdown().await;
    });
    Ok(upgraded())
}

pub fn inspect(host: &Host, asked: &Asked) -> Reply {
    let world = host.engine.world();
    let exec = world.execs.get(&asked.object).filter(|exec| world.containers.contains_key(&exec.container));
    let exec = exec.ok_or_else(|| Refused::not_found(format!("No such exec instance: {}", asked.object)))?;
    let options = &exec.options;
    Ok(answer::json(
        StatusCode::OK,
        &json!({
            "ID": asked.object, "Running": exec.exit_code.is_none(), "ExitCode": exec.exit_code,
            "ProcessConfig": {
                "tty": options.tty, "entrypoint": options.command.first(),
                "arguments": options.command.get(1..), "privileged": false,
            },
            "OpenStdin": options.stdin, "OpenStderr": options.stderr, "OpenStdout": options.stdout,
            "CanRemove": false, "ContainerID": exec.container, "DetachKeys": "", "Pid": 4242,
        }),
    ))
}

pub fn resize(host: &Host, asked: &Asked) -> Reply {
    let world = host.engine.world();
    match world.execs.get(&asked.object) {
        Some(exec) if exec.exit_code.is_none() => Ok(empty(StatusCode::OK)),
        Some(_) => Err(Refused::not_found("no such exec")),
        None => Err(Refused::not_found(format!("No such exec instance: {}", asked.object))),
    }
}
