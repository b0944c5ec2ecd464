//! `portreeve cp`: files and directories into an instance's container and out of it, as a tar stream over exec, as
//! kubectl does it. The container's image must have `tar`; what goes through is never held whole.
//!
//! ```text
//! local files ──▶ pack ──▶ queue ──▶ exec `tar -x` in the container
//! local files ◀── unpack ◀── queue ◀── exec `tar -c` in the container
//! ```
//!
//! What comes out of a container is not trusted: see [`unpack`].

mod far;
mod pack;
mod pipe;
mod place;
mod tree;
mod unpack;

use std::path::{Path, PathBuf};

use clap::Args;

use self::far::{Ended, Far};
use self::pipe::{Drain, Source, pipe};
use self::place::{FarPath, Place};
use super::error::{Error, Exit, Result};
use super::exec::converse;
use super::session::Session;

/// What a shell and a daemon say of a command that cannot be run, or is not there.
const CANNOT_RUN: [u8; 2] = [126, 127];

/// Copy files and directories to and from instances.
///
/// One side is [NAMESPACE/]NAME:PATH. A file or directory that is copied into a directory of an instance goes there
/// under its own name; a directory that is copied out becomes DST. Modes are kept, owners are not. A sleeping instance
/// wakes. The image must have tar.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve cp ./site alice:/home/app
  portreeve cp alice:/var/log/app.log .
  portreeve cp staging/alice:/data ./data

  # a tar stream
  portreeve cp alice:/data - | tar tf -
  portreeve cp - alice:/data < data.tar")]
pub struct CpArgs {
    /// What to copy: a path, [NAMESPACE/]NAME:PATH, or - for a tar stream on standard input
    #[arg(value_name = "SRC")]
    pub from: String,
    /// Where to: a path, [NAMESPACE/]NAME:PATH, or - for a tar stream on standard output
    #[arg(value_name = "DST")]
    pub to: String,
    /// The container; an instance has one, `main`
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
}

pub async fn run(args: &CpArgs, session: &Session) -> Result<Exit> {
    let far = |at: &FarPath| Far {
        session,
        namespace: at.namespace.clone().unwrap_or_else(|| session.namespace.clone()),
        name: at.name.clone(),
        container: args.container.clone(),
    };
    match (args.from.parse()?, args.to.parse()?) {
        (Place::Here(from), Place::There(to)) => upload(&from, &far(&to), &to).await,
        (Place::There(from), Place::Here(to)) => download(&far(&from), &from, to).await,
        (Place::Stream, Place::There(to)) => {
            let far = far(&to);
            let ended = converse(session, &far.path(&extract(&to.path.word()), true), true, false).await?;
            streamed(&far, ended)
        }
        (Place::There(from), Place::Stream) => {
            let far = far(&from);
            let ended = converse(session, &far.path(&create(&from), false), false, false).await?;
            streamed(&far, ended)
        }
        (Place::There(_), Place::There(_)) => Err(Error::usage("one side must be local: copy in two steps")),
        (Place::Here(_) | Place::Stream, Place::Here(_) | Place::Stream) => {
            Err(Error::usage("one side must be in an instance: [NAMESPACE/]NAME:PATH"))
        }
    }
}

fn create(from: &FarPath) -> Vec<String> {
    ["tar", "cf", "-", &from.path.word()].map(str::to_owned).to_vec()
}

/// With the modes of the archive, also when its user is not root; times are those of the copy.
fn extract(directory: &str) -> Vec<String> {
    ["tar", "-p", "-xmf", "-", "-C", directory].map(str::to_owned).to_vec()
}

/// How a tar ended whose errors are on stderr already.
fn streamed(far: &Far<'_>, exit: Exit) -> Result<Exit> {
    match exit {
        Exit::Command(code) if CANNOT_RUN.contains(&code) => Err(no_tar(far, code)),
        Exit::Command(_) | Exit::Failed | Exit::Different => Ok(Exit::Failed),
        Exit::Done => Ok(Exit::Done),
    }
}

fn no_tar(far: &Far<'_>, code: u8) -> Error {
    let Far { namespace, name, .. } = far;
    Error::failed(format!(
        "the container of {namespace}/{name} cannot run tar (exit code {code}): cp needs it in the instance's image"
    ))
}

/// Says what tar complained of; errs when it failed.
fn finished(far: &Far<'_>, ended: &Ended) -> Result<()> {
    // every tar says this of an absolute path, and it is as it should be
    let complaints = ended.errors.lines().filter(|l| !l.contains("emoving leading") && !l.trim().is_empty());
    let complaints: Vec<String> = complaints.map(super::table::printable).collect();
    match ended.exit {
        Exit::Command(code) if CANNOT_RUN.contains(&code) => return Err(no_tar(far, code)),
        Exit::Command(code) => {
            let Far { namespace, name, .. } = far;
            let said = if complaints.is_empty() { String::new() } else { format!(": {}", complaints.join("; ")) };
            return Err(Error::failed(format!("tar in {namespace}/{name} ended with exit code {code}{said}")));
        }
        Exit::Done | Exit::Failed | Exit::Different => complaints.iter().for_each(|line| eprintln!("{line}")),
    }
    Ok(())
}

async fn upload(from: &str, far: &Far<'_>, to: &FarPath) -> Result<Exit> {
    let source = Path::new(from);
    let meta = std::fs::metadata(source).map_err(|e| Error::failed(format!("cannot read {from}: {e}")))?;
    let test = ["test", "-d", &to.path.word()].map(str::to_owned);
    // as kubectl: any other end means no, also that the image has no such command
    let is_directory = to.path.is_top() || far.run(&test, None, None).await?.exit == Exit::Done;
    let (directory, name) = match is_directory {
        true => (to.path.word(), own_name(source)?),
        false if to.path.wants_directory && meta.is_file() => {
            return Err(Error::failed(format!("{} in {} is no directory", to.path.word(), far.name)));
        }
        false => to.path.parent_and_name(),
    };
    let (input, chunks) = pipe();
    let source = source.to_owned();
    let packing = tokio::task::spawn_blocking(move || pack::pack(&source, Path::new(&name), Drain::new(input)));
    let ended = far.run(&extract(&directory), Some(chunks), None).await;
    let packed = packing.await.unwrap_or_else(|_| Err(Error::failed("packing broke off")));
    match ended {
        Ok(ended) => finished(far, &ended).and(packed)?,
        // what we could not read ended it
        Err(e) => packed.and(Err(e))?,
    }
    Ok(Exit::Done)
}

/// The name of a file or directory, also of `.` and `..`.
fn own_name(path: &Path) -> Result<std::ffi::OsString> {
    let name = |path: &Path| path.file_name().map(ToOwned::to_owned);
    let found = name(path).or_else(|| path.canonicalize().ok().and_then(|p| name(&p)));
    found.ok_or_else(|| Error::failed(format!("{} has no name to copy it under", path.display())))
}

async fn download(far: &Far<'_>, from: &FarPath, to: String) -> Result<Exit> {
    let (output, chunks) = pipe();
    let wants_directory = to.ends_with('/');
    let asked = from.path.parts.clone();
    let unpacking = tokio::task::spawn_blocking(move || {
        unpack::unpack(Source::new(chunks), &asked, &PathBuf::from(to), wants_directory)
    });
    let ended = far.run(&create(from), None, Some(output)).await;
    let unpacked = unpacking.await.unwrap_or_else(|_| Err(Error::failed("unpacking broke off")));
    match ended {
        Ok(ended) => finished(far, &ended).and(unpacked)?,
        // what we could not write ended it
        Err(e) => unpacked.and(Err(e))?,
    }
    Ok(Exit::Done)
}
