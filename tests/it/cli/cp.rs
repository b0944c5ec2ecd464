//! `cp`, through the real API to a stand-in for a container that runs this machine's own tar, and busybox's.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use portreeve::api::attach::{AttachOptions, Connection, ExecControl, ExecIo, ExecOptions, LogOptions, OutputStream};
use portreeve::api::{Attach, AttachError};
use portreeve::model::Key;
use tokio::process::{Child, Command};
use tokio_util::io::ReaderStream;

use super::objects::against;
use super::*;
use crate::support::api_server::{ApiServer, instance, running};

/// Which tar the container's image has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tar {
    Gnu,
    Busybox,
    Missing,
}

/// Runs commands as they are, in a directory. One that is missing ends as a daemon tells it.
struct Machine {
    directory: PathBuf,
    tar: Tar,
}

#[async_trait::async_trait]
impl Attach for Machine {
    async fn exec(&self, _: &Key, options: ExecOptions) -> Result<ExecIo, AttachError> {
        let words = options.command;
        let mut command = match (self.tar, words[0].as_str()) {
            (Tar::Missing, _) => {
                let mut command = Command::new("sh");
                command.args(["-c", "echo 'exec: \"tar\": executable file not found in $PATH'; exit 127"]);
                command
            }
            (Tar::Busybox, _) => {
                let mut command = Command::new("busybox");
                command.args(&words);
                command
            }
            (Tar::Gnu, program) => {
                let mut command = Command::new(program);
                command.args(&words[1..]);
                command
            }
        };
        command.current_dir(&self.directory).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let stdin = child.stdin.take().expect("a pipe");
        let of = |stream| move |read: std::io::Result<Bytes>| Ok((stream, read.expect("output")));
        let out = ReaderStream::new(child.stdout.take().expect("a pipe")).map(of(OutputStream::Stdout));
        let err = ReaderStream::new(child.stderr.take().expect("a pipe")).map(of(OutputStream::Stderr));
        let output = futures::stream::select(out, err).boxed();
        let input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>> =
            if options.stdin { Box::pin(stdin) } else { Box::pin(tokio::io::sink()) };
        Ok(ExecIo { input, output, control: Box::new(Process(tokio::sync::Mutex::new(child))) })
    }
    async fn logs(
        &self,
        key: &Key,
        _: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, AttachError>>, AttachError> {
        Err(AttachError::NoContainer(key.clone()))
    }
    async fn attach(&self, key: &Key, _: AttachOptions) -> Result<ExecIo, AttachError> {
        Err(AttachError::NoContainer(key.clone()))
    }
    async fn connect(&self, key: &Key, _: u16) -> Result<Connection, AttachError> {
        Err(AttachError::NoContainer(key.clone()))
    }
}

struct Process(tokio::sync::Mutex<Child>);

#[async_trait::async_trait]
impl ExecControl for Process {
    async fn resize(&self, _: u16, _: u16) -> Result<(), AttachError> {
        Ok(())
    }
    async fn exit_code(&self) -> Result<i64, AttachError> {
        Ok(self.0.lock().await.wait().await.expect("it ends").code().unwrap_or(-1).into())
    }
}

/// A server with the instance `alice`, her directory, and one of ours.
struct World {
    server: ApiServer,
    dir: tempfile::TempDir,
}

impl World {
    async fn new(tar: Tar) -> World {
        let dir = home();
        for name in ["there", "here"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        let machine = Machine { directory: dir.path().join("there"), tar };
        let server = ApiServer::start_with(Arc::new(machine)).await;
        server.client.post(crate::support::client::INSTANCES, &instance("alice")).await.expect(201);
        server.put_status("alice", running()).await;
        World { server, dir }
    }

    fn there(&self, path: &str) -> PathBuf {
        self.dir.path().join("there").join(path)
    }

    fn here(&self, path: &str) -> PathBuf {
        self.dir.path().join("here").join(path)
    }

    async fn cp(&self, from: &str, to: &str) -> Output {
        against(&self.server, &["cp", from, to], "").await
    }

    #[track_caller]
    fn ok(output: &Output) {
        assert_eq!((output.status.code(), stderr(output).as_str()), (Some(0), ""));
    }

    /// How a copy fails.
    async fn fails(&self, from: &str, to: &str) -> (i32, String) {
        let output = self.cp(from, to).await;
        (output.status.code().expect("not killed"), stderr(&output))
    }
}

/// This machine's tars.
fn tars() -> Vec<Tar> {
    let has = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|d| d.join(program).is_file())
    };
    let found = [("tar", Tar::Gnu), ("busybox", Tar::Busybox)];
    found.into_iter().filter(|(program, _)| has(program)).map(|(_, tar)| tar).collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o777
}

fn write(path: &Path, content: &[u8], mode: u32) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    std::fs::write(path, content).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changed");
}

/// Fills a directory with what trees have.
fn furnish(root: &Path) {
    write(&root.join("run"), b"#!/bin/sh\n", 0o750);
    write(&root.join("deep/er/data"), &[0, 255, b'\n', 0], 0o600);
    write(&root.join(format!("long/{}", "n".repeat(180))), b"long", 0o644);
    write(&root.join("ü b"), b"", 0o644);
    std::fs::create_dir(root.join("empty")).expect("a directory");
    std::fs::set_permissions(root.join("empty"), std::fs::Permissions::from_mode(0o711)).expect("changed");
    std::os::unix::fs::symlink("../run", root.join("deep/link")).expect("a link");
    std::fs::hard_link(root.join("run"), root.join("twin")).expect("a second name");
}

fn is_furnished(root: &Path) {
    let read = |path: &str| std::fs::read(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!((read("run").as_slice(), mode(&root.join("run"))), (&b"#!/bin/sh\n"[..], 0o750));
    assert_eq!((read("deep/er/data"), mode(&root.join("deep/er/data"))), (vec![0, 255, b'\n', 0], 0o600));
    assert_eq!((read(&format!("long/{}", "n".repeat(180))), read("ü b")), (b"long".to_vec(), vec![]));
    assert_eq!((mode(&root.join("empty")), read("twin")), (0o711, b"#!/bin/sh\n".to_vec()));
    assert_eq!(std::fs::read_link(root.join("deep/link")).expect("a link"), PathBuf::from("../run"));
}

#[tokio::test]
async fn a_tree_goes_in_and_comes_out_as_it_was() {
    for tar in tars() {
        let world = World::new(tar).await;
        furnish(&world.here("site"));
        let site = world.here("site").display().to_string();
        // into a directory under its own name, else as what it was called
        World::ok(&world.cp(&site, &format!("alice:{}", world.there("").display())).await);
        is_furnished(&world.there("site"));
        World::ok(&world.cp(&site, "default/alice:renamed").await);
        is_furnished(&world.there("renamed"));
        World::ok(&world.cp("alice:renamed", &world.here("back/again").display().to_string()).await);
        is_furnished(&world.here("back/again"));
        // over what is there, and from an absolute path
        let absolute = format!("alice:{}", world.there("site").display());
        World::ok(&world.cp(&absolute, &world.here("back/again").display().to_string()).await);
        is_furnished(&world.here("back/again"));
    }
}

#[tokio::test]
async fn a_file_is_renamed_or_keeps_its_name_and_its_bytes() {
    let world = World::new(Tar::Gnu).await;
    write(&world.here("-f"), b"\0binary\xff", 0o640);
    let (from, here) = (world.here("-f").display().to_string(), world.here("").display().to_string());
    World::ok(&world.cp(&from, "alice:-g").await);
    World::ok(&world.cp(&from, "alice:.").await);
    for name in ["-f", "-g"] {
        assert_eq!(
            (std::fs::read(world.there(name)).expect("read"), mode(&world.there(name))),
            (b"\0binary\xff".to_vec(), 0o640)
        );
    }
    World::ok(&world.cp("alice:-g", &here).await);
    assert_eq!(mode(&world.here("-g")), 0o640);
    World::ok(&world.cp("alice:-g", &format!("{here}/new/name")).await);
    assert_eq!(std::fs::read(world.here("new/name")).expect("read"), b"\0binary\xff");
}

#[tokio::test]
async fn fifty_megabytes_go_through_both_ways() {
    let world = World::new(Tar::Gnu).await;
    let content: Vec<u8> = (0..50_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    write(&world.here("big"), &content, 0o644);
    let big = world.here("big").display().to_string();
    World::ok(&world.cp(&big, "alice:copy").await);
    assert!(std::fs::read(world.there("copy")).expect("read") == content);
    let back = world.here("back").display().to_string();
    World::ok(&world.cp("alice:copy", &back).await);
    assert!(std::fs::read(world.here("back")).expect("read") == content);
}

#[tokio::test]
async fn a_tar_stream_goes_through_as_it_is() {
    let world = World::new(Tar::Gnu).await;
    furnish(&world.there("site"));
    let output = against(&world.server, &["cp", "alice:site", "-"], "").await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    std::fs::create_dir(world.there("copy")).expect("a directory");
    let mut command = portreeve(world.server.dir.path(), &["cp", "-", "alice:copy"]);
    command.env("PORTREEVE_KUBECONFIG", &world.server.kubeconfig).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    tokio::io::AsyncWriteExt::write_all(&mut stdin, &output.stdout).await.expect("it reads");
    drop(stdin);
    World::ok(&child.wait_with_output().await.expect("it ends"));
    is_furnished(&world.there("copy/site"));
}

#[tokio::test]
async fn what_cannot_be_copied_says_why() {
    let world = World::new(Tar::Gnu).await;
    write(&world.here("file"), b"x", 0o644);
    let file = world.here("file").display().to_string();
    let here = world.here("").display().to_string();
    for (from, to, code, why) in [
        ("alice:/no/such", here.as_str(), 1, "tar in default/alice ended with exit code 2: tar: /no/such: Cannot stat"),
        (&file, "alice:/no/such/place/", 1, "/no/such/place in alice is no directory"),
        (&file, "alice:/no/such/place", 1, "tar in default/alice ended with exit code 2: tar: /no/such: Cannot open"),
        (&format!("{here}/missing"), "alice:/x", 1, "missing: No such file or directory"),
        (&file, "nobody:/x", 1, "Error from server (NotFound): pods \"nobody\" not found"),
        ("alice:/a", "bob:/b", 2, "one side must be local"),
        (&file, &here, 2, "one side must be in an instance"),
        ("alice:", &here, 2, "says no path"),
    ] {
        let (ended, said) = world.fails(from, to).await;
        assert!(ended == code && said.contains(why), "{from} {to}: {ended}: {said}");
    }
    let other = against(&world.server, &["cp", "-c", "sidecar", &file, "alice:/x"], "").await;
    assert!(stderr(&other).contains("container sidecar is not valid for pod alice"), "{}", stderr(&other));
    // what is there stays when it is no file
    std::fs::create_dir_all(world.here("taken/file")).expect("a directory");
    write(&world.there("file"), b"x", 0o644);
    let (code, said) = world.fails("alice:file", &format!("{here}/taken")).await;
    assert!(code == 1 && said.contains("file is a directory here"), "{said}");
}

#[tokio::test]
async fn an_image_without_tar_is_named_as_the_reason() {
    let world = World::new(Tar::Missing).await;
    write(&world.here("file"), b"x", 0o644);
    let file = world.here("file").display().to_string();
    let here = world.here("new").display().to_string();
    for (from, to) in [(file.as_str(), "alice:/x"), ("alice:/x", here.as_str()), ("alice:/x", "-"), ("-", "alice:/x")] {
        let (code, said) = world.fails(from, to).await;
        let expected =
            "error: the container of default/alice cannot run tar (exit code 127): cp needs it in the instance's image";
        assert!(code == 1 && said.lines().last() == Some(expected), "{from} {to}: {said}");
    }
    assert!(!world.here("new").exists());
}
