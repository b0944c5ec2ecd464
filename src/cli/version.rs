//! `portreeve version` and `portreeve kubeconfig`: which program, which server, which credentials.

use clap::Args;

use super::args::Global;
use super::client::JSON;
use super::error::{Error, Exit, Result};
use super::kubeconfig::{Lookup, load};
use super::output::print;
use super::session::Session;

/// Print this program's version, and the server's.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve version
  portreeve version --client")]
pub struct VersionArgs {
    /// Do not ask the server
    #[arg(long)]
    pub client: bool,
}

pub async fn version(args: &VersionArgs, global: &Global) -> Result<Exit> {
    print(&format!("Client: {}\n", env!("CARGO_PKG_VERSION")))?;
    if !args.client {
        let session = Session::open(global)?;
        let answer = session.client.get("/version", JSON).await?;
        print(&format!("Server: {}\n", answer["gitVersion"].as_str().unwrap_or("unknown")))?;
    }
    Ok(Exit::Done)
}

/// Print which kubeconfig is used, or its contents.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  # where it is
  portreeve kubeconfig

  # for kubectl
  export KUBECONFIG=$(portreeve kubeconfig)

  # to another machine, together with its credentials
  portreeve kubeconfig --raw | ssh laptop 'cat > portreeve.kubeconfig'")]
pub struct KubeconfigArgs {
    /// The contents, credentials included, rather than the path
    #[arg(long)]
    pub raw: bool,
}

pub fn kubeconfig(args: &KubeconfigArgs, global: &Global) -> Result<Exit> {
    let files = Lookup::from_environment(global.kubeconfig.clone()).files()?;
    // what cannot be used is not worth pointing at
    load(&files, global.context.as_deref())?;
    if !args.raw {
        let joined = std::env::join_paths(&files).map_err(|e| Error::failed(e.to_string()))?;
        print(&format!("{}\n", joined.display()))?;
        return Ok(Exit::Done);
    }
    let [file] = files.as_slice() else {
        return Err(Error::usage("several files make up this kubeconfig; choose one with --kubeconfig"));
    };
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::failed(format!("cannot read the kubeconfig {}: {e}", file.display())))?;
    print(&text)?;
    Ok(Exit::Done)
}
