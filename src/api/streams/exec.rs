//! `pods/exec` and `pods/attach`: what a client asks for, and over which transport.

use axum::extract::Request;
use axum::response::Response;

use super::remote::Wanted;
use super::session::Subject;
use super::{Kind, remote, upgrade, websocket};
use crate::api::attach::{AttachOptions, ExecOptions};
use crate::api::error::ApiError;
use crate::api::handler::Call;
use crate::api::logs::check_container;
use crate::api::query::Query;
use crate::api::views::{self, View, pods};
use crate::model::Key;

fn options(kind: Kind, query: &Query, name: &str) -> Result<(Subject, Wanted), ApiError> {
    let (stdin, stdout, tty) = (query.flag("stdin"), query.flag("stdout"), query.flag("tty"));
    // A terminal has one output.
    let stderr = query.flag("stderr") && !tty;
    if !(stdin || stdout || stderr) {
        return Err(ApiError::bad_request("you must specify at least one of stdin, stdout and stderr"));
    }
    let wanted = Wanted { stdin, stdout, stderr, resize: tty };
    if kind == Kind::Attach {
        // Containers are made without either, so that an app sees the same world whoever looks on.
        for (asked, what) in [(stdin, "standard input"), (tty, "terminal")] {
            if asked {
                let container = pods::CONTAINER;
                let message =
                    format!("container {container} of pod {name} has no {what}: attach without it, or use exec");
                return Err(ApiError::bad_request(message));
            }
        }
        return Ok((Subject::Attach(AttachOptions { stdout, stderr }), wanted));
    }
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(ApiError::bad_request("you must specify a command"));
    }
    Ok((Subject::Exec(ExecOptions { command, stdin, stdout, stderr, tty }), wanted))
}

pub async fn answer(kind: Kind, call: Call, name: String, request: Request) -> Result<Response, ApiError> {
    let namespace = call.place.namespace.clone().unwrap_or_default();
    views::fetch(&call.state, View::Pods, Some(&namespace), &name).await?;
    check_container(&call.query, &name)?;
    let (subject, wanted) = options(kind, &call.query, &name)?;
    let key = Key::instance(namespace, name);
    let attach = call.state.attach.clone();
    if upgrade::wants_spdy(request.headers()) {
        return upgrade::spdy(&call, request, &remote::PROTOCOLS, async move |io| {
            remote::run(io, attach.as_ref(), &key, &subject, wanted).await;
        });
    }
    upgrade::websocket(&call, request, &websocket::PROTOCOLS, async move |socket, _| {
        websocket::run(socket, attach.as_ref(), &key, &subject).await;
    })
    .await
}
