//! The way to a daemon by ssh, as the docker command goes it: for each connection one
//! `ssh … docker system dial-stdio`, and HTTP over its standard input and output.
//!
//! The host's key must be known, whatever the settings say. The program is killed with its connection, and it ends by
//! itself when the host falls silent; its last word is in the error. Called by [`transport`](super::transport).
//!
//! Invariants: no argument is made of a text that could be an option or a second word; a key from a Secret is given to
//! ssh in memory and is never on a disk.

use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::credentials::{BadCredentials, LoginRefused, Opened, SecretSource};
use super::endpoint::{SshLogin, SshTo};
use crate::model::SYSTEM_NAMESPACE;

/// What holds whatever the settings of the user say: on the command line, the first word counts.
const OPTIONS: [&str; 19] = [
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "VerifyHostKeyDNS=no",
    "NoHostAuthenticationForLocalhost=no",
    "UpdateHostKeys=no",
    "ConnectTimeout=5",
    "ConnectionAttempts=1",
    // A host that is gone is noticed about as soon as over TCP.
    "ServerAliveInterval=2",
    "ServerAliveCountMax=3",
    // A connection of our own, which ends with us.
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "EscapeChar=none",
    "Compression=no",
    // Its reasons are among these.
    "LogLevel=INFO",
];
/// The private key's name in a Secret of type kubernetes.io/ssh-auth, and that of the hosts' keys beside it.
const KEY: &str = "ssh-privatekey";
const KNOWN_HOSTS: &str = "known_hosts";
/// Most bytes of what ssh says that are kept.
const MOST_SAID: u64 = 16 << 10;
/// Most characters of a line that is repeated.
const MOST_TOLD: usize = 400;
/// For ssh to end once it has closed its output.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// A connection. Dropping it kills the program.
pub struct SshStream {
    at: Arc<SshTo>,
    /// `None`: nothing more is written.
    input: Option<ChildStdin>,
    output: ChildStdout,
    program: Program,
    /// Whether anything has come: before that, nothing was done.
    heard: bool,
}

/// What is left of a program when it has closed its output.
type Ending = Pin<Box<dyn Future<Output = Option<io::Error>> + Send>>;

enum Program {
    Runs(Box<Running>),
    Ends(Ending),
    Ended,
}

struct Running {
    child: Child,
    errors: ChildStderr,
    /// Read by ssh when it likes, by their paths.
    files: Vec<File>,
}

/// Starts ssh. Whether it gets through shows on the first read.
pub async fn connect(to: &Arc<SshTo>, secrets: &Arc<dyn SecretSource>) -> io::Result<SshStream> {
    let (login, files) = login(&to.login, secrets).await?;
    let mut command = Command::new("ssh");
    command.args(arguments(to, &login));
    run(command, to, files)
}

/// `files`: kept as long as the program runs.
fn run(mut command: Command, to: &Arc<SshTo>, files: Vec<File>) -> io::Result<SshStream> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // A terminal's Ctrl-C is for us: we stop in order.
    command.process_group(0);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            let why = "there is no ssh on the control plane's machine; Debian's package is openssh-client";
            BadCredentials(why.to_owned()).into()
        }
        _ => io::Error::new(e.kind(), format!("starting ssh: {e}")),
    })?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(input), Some(output), Some(errors)) = pipes else {
        return Err(io::Error::other("ssh has not the pipes that were asked for"));
    };
    let program = Program::Runs(Box::new(Running { child, errors, files }));
    Ok(SshStream { at: to.clone(), input: Some(input), output, program, heard: false })
}

/// All that follows the name of the program.
fn arguments(to: &SshTo, login: &[String]) -> Vec<String> {
    let mut all = vec!["-T".to_owned()];
    all.extend(login.iter().cloned());
    all.extend(OPTIONS.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]));
    if let Some(user) = &to.user {
        all.extend(["-l".to_owned(), user.clone()]);
    }
    if let Some(port) = to.port {
        all.extend(["-p".to_owned(), port.to_string()]);
    }
    all.extend(["--", to.host.as_str(), "docker", "system", "dial-stdio"].map(str::to_owned));
    all
}

/// The arguments for whom to be and whom to trust, and the files that they name.
async fn login(login: &SshLogin, secrets: &Arc<dyn SecretSource>) -> io::Result<(Vec<String>, Vec<File>)> {
    let option = |text: String| ["-o".to_owned(), text];
    let mut all = vec![];
    match login {
        SshLogin::Files { identity, known_hosts } => {
            if let Some(path) = identity {
                all.extend(option("IdentitiesOnly=yes".to_owned()));
                all.extend(option(format!("IdentityFile={path}")));
            }
            if let Some(path) = known_hosts {
                all.extend(known_in(path));
            }
            Ok((all, vec![]))
        }
        SshLogin::Secret(name) => {
            let secret = Opened::from(secrets, name).await?;
            let value = |key: &str, what: &str| {
                let lacks = || secret.bad(&format!("has no key {key}: {what}"));
                secret.get(key).ok_or_else(lacks)
            };
            let key = in_memory(value(KEY, "the private key to log in with")?)?;
            let known = in_memory(value(KNOWN_HOSTS, "the host's keys, as ssh-keyscan prints them")?)?;
            all.extend(["-F".to_owned(), "none".to_owned()]);
            for text in ["IdentitiesOnly=yes", "IdentityAgent=none", "PreferredAuthentications=publickey"] {
                all.extend(option(text.to_owned()));
            }
            all.extend(option(format!("IdentityFile={}", path_of(&key))));
            all.extend(known_in(&path_of(&known)));
            Ok((all, vec![key, known]))
        }
    }
}

fn known_in(path: &str) -> [String; 4] {
    [
        "-o".to_owned(),
        format!("UserKnownHostsFile={path}"),
        "-o".to_owned(),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
    ]
}

/// A file that only this user's processes can read, and that is on no disk.
fn in_memory(content: &[u8]) -> io::Result<File> {
    let file = memfd_create("portreeve-ssh", MemfdFlags::CLOEXEC)?;
    // ssh takes no key that others might read.
    fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    // Nor one whose last line has lost its end.
    let mut whole = Zeroizing::new(content.to_vec());
    if !whole.ends_with(b"\n") {
        whole.push(b'\n');
    }
    file.write_all(&whole)?;
    Ok(file)
}

/// By our process: ssh closes what it inherits.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

impl Running {
    /// Waits for the end; an error unless it is a good one.
    async fn end(mut self, at: Arc<SshTo>) -> Option<io::Error> {
        let mut said = Vec::new();
        let rest = async {
            let _ = (&mut self.errors).take(MOST_SAID).read_to_end(&mut said).await;
            self.child.wait().await
        };
        let status = timeout(ENDS_WITHIN, rest).await;
        drop(self.files);
        match status {
            Ok(Ok(status)) if !status.success() => Some(fault(&at, status, &String::from_utf8_lossy(&said))),
            _ => None,
        }
    }
}

/// What the program's end means.
fn fault(at: &SshTo, status: ExitStatus, said: &str) -> io::Error {
    let port = at.port.map(|port| format!("-p {port} ")).unwrap_or_default();
    let place = match &at.login {
        SshLogin::Secret(name) => format!("the key {KNOWN_HOSTS} of Secret {SYSTEM_NAMESPACE}/{name}"),
        SshLogin::Files { known_hosts: Some(path), .. } => path.clone(),
        SshLogin::Files { known_hosts: None, .. } => "~/.ssh/known_hosts of the control plane's user".to_owned(),
    };
    let host = &at.host;
    let keys = format!("`ssh-keyscan {port}{host}`");
    let user = at.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
    let refused = |why: String| LoginRefused(format!("ssh to {user}{host}: {why}")).into();
    if said.contains("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        return refused(format!(
            "another host key than the known one is shown there, so nothing was sent: the host was set up anew, or someone \
             is in between; if its own console shows the fingerprint that {keys} has, replace its lines in {place}"
        ));
    }
    if said.contains("Host key verification failed") {
        return refused(format!(
            "the key of the host is not known, so nothing was sent: when the fingerprint is right, add the lines of {keys} \
             to {place}"
        ));
    }
    let told = last_line(said).unwrap_or_else(|| format!("ended with {status}"));
    // Of ssh itself; a program over there ends with other codes.
    if status.code() == Some(255) && told.contains("Permission denied (") {
        return refused(told);
    }
    let silent = said.contains("not responding");
    let kind = if silent { io::ErrorKind::TimedOut } else { io::ErrorKind::ConnectionAborted };
    io::Error::new(kind, format!("ssh to {user}{host}: {told}"))
}

/// The last line with anything in it, fit to be shown.
fn last_line(said: &str) -> Option<String> {
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(MOST_TOLD).collect())
}

impl SshStream {
    /// Waits for the program's end; an error unless it ended well, or its end has been told.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Error>> {
        if let Program::Runs(_) = self.program
            && let Program::Runs(running) = std::mem::replace(&mut self.program, Program::Ended)
        {
            self.program = Program::Ends(Box::pin(running.end(self.at.clone())));
        }
        let Program::Ends(ending) = &mut self.program else { return Poll::Ready(None) };
        let told = ready!(ending.as_mut().poll(cx));
        self.program = Program::Ended;
        Poll::Ready(told)
    }
}

impl AsyncRead for SshStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.output).poll_read(cx, buf))?;
        if buf.filled().len() > before || buf.remaining() == 0 {
            this.heard = true;
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(ready!(this.poll_end(cx)).map_or(Ok(()), Err))
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(input) = &mut this.input else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        match ready!(Pin::new(input).poll_write(cx, bytes)) {
            // It did not get through: its own words say why.
            Err(broken) if !this.heard => Poll::Ready(Err(ready!(this.poll_end(cx)).unwrap_or(broken))),
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().input {
            Some(input) => Pin::new(input).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Only what goes there ends: the daemon may have more to say.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        drop(self.get_mut().input.take());
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::docker::credentials::NoSecrets;

    fn to(login: SshLogin) -> SshTo {
        SshTo { user: Some("deploy".into()), host: "10.0.0.3".into(), port: Some(2222), login }
    }

    fn files(identity: Option<&str>, known_hosts: Option<&str>) -> SshLogin {
        SshLogin::Files { identity: identity.map(Into::into), known_hosts: known_hosts.map(Into::into) }
    }

    #[tokio::test]
    async fn the_host_and_the_command_follow_the_end_of_options() {
        let secrets: Arc<dyn SecretSource> = Arc::new(NoSecrets);
        let (given, _) = login(&files(Some("/id"), Some("/known")), &secrets).await.expect("files");
        let all = arguments(&to(files(None, None)), &given);
        let end = all.iter().position(|a| a == "--").expect("an end of options");
        assert_eq!(all[end + 1..], ["10.0.0.3", "docker", "system", "dial-stdio"]);
        assert_eq!(all[end - 4..end], ["-l", "deploy", "-p", "2222"]);
        // What is said first counts, and a login says nothing of how strictly to look.
        for option in ["StrictHostKeyChecking=yes", "BatchMode=yes", "UserKnownHostsFile=/known", "IdentityFile=/id"] {
            let at = all.iter().position(|a| a == option).unwrap_or_else(|| panic!("{option}: {all:?}"));
            assert_eq!(all[at - 1], "-o");
        }
        assert_eq!(all.iter().filter(|a| a.starts_with("StrictHostKeyChecking")).count(), 1);
        let (given, _) = login(&files(None, None), &secrets).await.expect("the user's own settings");
        assert_eq!(given, [""; 0]);
        let error = login(&SshLogin::Secret("w1".into()), &secrets).await.expect_err("there is none");
        assert_eq!(error.to_string(), "there is no Secret portreeve-system/w1");
    }

    #[test]
    fn a_key_is_given_in_memory_for_its_owner_alone() {
        let file = in_memory(b"a key").expect("a file");
        let path = path_of(&file);
        assert_eq!(std::fs::read(&path).expect("readable"), b"a key\n");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        drop(file);
        assert!(std::fs::read(&path).is_err(), "it is gone with its connection");
    }

    #[test]
    fn the_last_word_of_ssh_is_told_and_an_unknown_key_with_its_cure() {
        let told = |login: SshLogin, said: &str| {
            let error = fault(&to(login), ExitStatus::from_raw(255 << 8), said);
            (error.kind(), error.to_string())
        };
        let own = || files(None, None);
        let (kind, text) = told(own(), "a banner\r\ndeploy@10.0.0.3: Permission denied (publickey).\r\n\n");
        assert_eq!(text, "ssh to deploy@10.0.0.3: deploy@10.0.0.3: Permission denied (publickey).");
        assert_eq!(kind, io::ErrorKind::PermissionDenied);
        let (kind, text) = told(own(), "ssh: connect to host 10.0.0.3 port 2222: Connection refused");
        assert!(text.ends_with("Connection refused") && kind == io::ErrorKind::ConnectionAborted, "{text}");
        let (kind, _) = told(own(), "Timeout, server 10.0.0.3 not responding.\r\n");
        assert_eq!(kind, io::ErrorKind::TimedOut);
        assert!(told(own(), "").1.ends_with("ended with exit status: 255"));
        assert!(!told(own(), "\u{1b}[31mred").1.contains('\u{1b}'));
        let strict = "No ED25519 host key is known for [10.0.0.3]:2222 and you have requested strict checking.\r\n\
                      Host key verification failed.\r\n";
        for (login, place) in [
            (own(), "~/.ssh/known_hosts of the control plane's user"),
            (files(None, Some("/known")), "/known"),
            (SshLogin::Secret("w1".into()), "the key known_hosts of Secret portreeve-system/w1"),
        ] {
            let (_, text) = told(login, strict);
            assert!(text.contains("not known") && text.contains("`ssh-keyscan -p 2222 10.0.0.3`"), "{text}");
            assert!(text.ends_with(&format!("to {place}")), "{text}");
        }
        let (_, text) = told(own(), &format!("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n{strict}"));
        assert!(text.contains("another host key than the known one"), "{text}");
    }

    fn scripted(script: &str) -> SshStream {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, &Arc::new(to(files(None, None))), vec![]).expect("sh runs")
    }

    #[tokio::test]
    async fn what_never_got_through_says_why_to_who_reads_and_to_who_writes() {
        let script = "exec <&-; echo 'a banner' >&2; echo 'Permission denied (publickey).' >&2; exit 255";
        let mut stream = scripted(script);
        let error = stream.read_u8().await.expect_err("it ended");
        assert_eq!(error.to_string(), "ssh to deploy@10.0.0.3: Permission denied (publickey).");
        assert!(error.get_ref().is_some_and(|inner| inner.is::<LoginRefused>()));
        let mut stream = scripted(script);
        let error = loop {
            if let Err(error) = stream.write_all(b"GET /_ping HTTP/1.1\r\n\r\n").await {
                break error;
            }
            tokio::task::yield_now().await;
        };
        assert!(error.to_string().ends_with("Permission denied (publickey)."), "{error}");
    }

    #[tokio::test]
    async fn the_end_of_what_goes_there_is_not_the_end_of_what_comes() {
        let mut stream = scripted("cat; echo 'what a server says at the end' >&2; echo more");
        stream.write_all(b"ab").await.expect("written");
        stream.shutdown().await.expect("shut");
        let mut all = String::new();
        stream.read_to_string(&mut all).await.expect("a good end, whatever was said");
        assert_eq!(all, "abmore\n");
        assert!(stream.write_all(b"x").await.is_err());
        let mut cut = scripted("printf half; echo 'Timeout, server 10.0.0.3 not responding.' >&2; exit 255");
        let error = cut.read_to_string(&mut all).await.expect_err("cut off");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }

    #[tokio::test]
    async fn the_program_is_killed_with_its_connection() {
        let mut stream = scripted("echo $$; exec sleep 1000");
        let mut pid = String::new();
        while !pid.ends_with('\n') {
            pid.push(char::from(stream.read_u8().await.expect("a pid")));
        }
        let stat = format!("/proc/{}/stat", pid.trim());
        assert!(std::fs::exists(&stat).expect("known"));
        drop(stream);
        let gone = async {
            // Until it is reaped it is listed as a dead one.
            while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.expect("killed");
    }
}
