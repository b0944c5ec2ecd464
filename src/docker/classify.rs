//! What an error of the client library means to us. The daemon's status codes are coarse, so some of its words decide;
//! they are kept in the message as they came.

use std::error::Error as _;
use std::io;

use ::bollard::errors::Error;

use super::credentials::Shut;
use super::engine::{EngineError, EngineErrorKind};
use super::identity::wrong_daemon;

pub fn error(op: &'static str, object: &str, error: &Error) -> EngineError {
    let (kind, message) = match error {
        Error::DockerResponseServerError { status_code, message } => {
            (status(op, *status_code, message), message.clone())
        }
        Error::DockerStreamError { error } | Error::DockerContainerWaitError { error, .. } => {
            (pull(error), error.clone())
        }
        Error::RequestTimeoutError => (EngineErrorKind::Timeout, "no answer in time".to_owned()),
        // The library's error shows only what is behind its own cause.
        Error::IOError { err } if let Some(wrong) = wrong_daemon(err) => {
            (EngineErrorKind::WrongDaemon, wrong.to_string())
        }
        other if let Some(wrong) = wrong_daemon(other) => (EngineErrorKind::WrongDaemon, wrong.to_string()),
        Error::IOError { err } if let Some(shut) = Shut::behind(err) => kind_of(shut),
        other if let Some(shut) = Shut::behind(other) => kind_of(shut),
        Error::IOError { err } if err.kind() == io::ErrorKind::Unsupported => (EngineErrorKind::Invalid, causes(error)),
        Error::IOError { err } if err.kind() == io::ErrorKind::NotConnected => {
            (EngineErrorKind::Unreachable, causes(error))
        }
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => (EngineErrorKind::Server, causes(error)),
        other => (way(other), causes(other)),
    };
    EngineError { op, object: object.to_owned(), kind, message }
}

fn kind_of(shut: Shut) -> (EngineErrorKind, String) {
    match shut {
        Shut::Bad(bad) => (EngineErrorKind::Credentials, bad.0),
        Shut::Refused(refused) => (EngineErrorKind::LoginRefused, refused.0),
    }
}

/// Of an error on the way: nothing was done if there was no connection or no handshake; else nobody knows.
fn way(error: &Error) -> EngineErrorKind {
    if let Error::HyperLegacyError { err } = error
        && err.is_connect()
    {
        return EngineErrorKind::Unreachable;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(at) = cause {
        // A refused client certificate shows only on the first read.
        let io = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if at.is::<rustls::Error>() || io.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return EngineErrorKind::Unreachable;
        }
        cause = at.source();
    }
    EngineErrorKind::Timeout
}

/// Of a daemon's answer.
fn status(op: &str, code: u16, message: &str) -> EngineErrorKind {
    use EngineErrorKind::*;
    let says = |text: &str| message.contains(text);
    if says("no space left on device") || says("disk quota exceeded") {
        return NoSpace;
    }
    if says("port is already allocated") || says("address already in use") || says("failed to bind port") {
        return PortTaken;
    }
    // Two of its parts look for this, each in its own words.
    if op == "create network"
        && ["Pool overlaps with other one", "conflicts with network", "networks have overlapping"].into_iter().any(says)
    {
        return SubnetTaken;
    }
    match code {
        404 if op == "pull image" || says("No such image") => ImageMissing,
        // A start that fails for want of its network: the container is there.
        404 if op == "start container" && !says("No such container") => Invalid,
        404 => NotFound,
        409 => Conflict,
        403 if says("has active endpoints") => Conflict,
        400..=499 => Invalid,
        _ if op == "pull image" => pull(message),
        _ if says("error while creating mount source path") || says("error while mounting volume") => Invalid,
        _ => Server,
    }
}

/// Of a pull: what the registry refuses stays refused; the rest may pass.
fn pull(message: &str) -> EngineErrorKind {
    let refused = [
        "manifest unknown",
        "not found",
        "pull access denied",
        "repository does not exist",
        "unauthorized",
        "authentication required",
        "no basic auth credentials",
        "denied",
        "invalid reference format",
        "no matching manifest",
    ];
    if message.contains("no space left on device") {
        EngineErrorKind::NoSpace
    } else if refused.iter().any(|text| message.contains(text)) {
        EngineErrorKind::ImageMissing
    } else {
        EngineErrorKind::Server
    }
}

/// The whole chain of causes, each said once.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(at) = cause {
        let more = at.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = at.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemons_answers_are_told_apart_by_code_and_words() {
        use EngineErrorKind::*;
        for (op, code, message, kind) in [
            ("create container", 404, "No such image: app:1", ImageMissing),
            ("start container", 404, "No such container: 0af9", NotFound),
            ("start container", 404, "network 0af9 not found", Invalid),
            ("connect network", 404, "network pr.x not found", NotFound),
            ("create container", 409, "Conflict. The container name \"/pr.x\" is already in use", Conflict),
            (
                "remove network",
                403,
                "error while removing network: network pr.x id 0af9 has active endpoints",
                Conflict,
            ),
            ("start container", 500, "… Bind for 0.0.0.0:80 failed: port is already allocated", PortTaken),
            ("start container", 500, "… listen tcp 10.0.0.1:80: bind: address already in use", PortTaken),
            ("start container", 500, "failed to bind host port 0.0.0.0:53/tcp: address already in use", PortTaken),
            ("create container", 500, "mkdir /var/lib/docker/x: no space left on device", NoSpace),
            ("create container", 400, "Minimum memory limit allowed is 6MB", Invalid),
            ("start container", 500, "task 0af9: already exists: unknown", Server),
            ("create network", 403, "Pool overlaps with other one on this address space", SubnetTaken),
            (
                "create network",
                403,
                "invalid pool request: Pool overlaps with other one on this address space",
                SubnetTaken,
            ),
            (
                "create network",
                403,
                "cannot create network 0af9 (br-0af9): conflicts with network 17c4 (br-17c4): networks have overlapping IPv4",
                SubnetTaken,
            ),
            ("create network", 403, "operation is not permitted on predefined bridge network", Invalid),
            ("pull image", 500, "Get https://x/v2/: unauthorized: authentication required", ImageMissing),
            ("pull image", 500, "Get https://x/v2/: dial tcp: connection refused", Server),
        ] {
            let answer = Error::DockerResponseServerError { status_code: code, message: message.into() };
            let told = error(op, "x", &answer);
            assert_eq!((told.kind, told.message.as_str()), (kind, message));
        }
    }
}
