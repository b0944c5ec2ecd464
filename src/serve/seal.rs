//! The seal over Secrets: finds its keys at the start, and refuses to start without those that are needed.
//!
//! A new key is made only where nothing is sealed yet. A key that cannot be found must never be replaced by another:
//! what is sealed would be lost without anyone having said so.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::cli::serve::{ServeArgs, StoreKind};
use crate::model::Kind;
use crate::store::seal::KeyFileError;
use crate::store::{Keyring, SealingStore, SharedStore};

/// The store as those see it who may see what is sealed.
pub async fn over(store: &SharedStore, args: &ServeArgs) -> anyhow::Result<SharedStore> {
    let prefix = Kind::Secret.prefix(None);
    let ring = match (&args.seal_key, args.store) {
        // Forgotten together with what it seals.
        (None, StoreKind::Memory) => Keyring::ephemeral().context("make a key for sealing")?,
        (named, _) => {
            let path = key_path(named.as_deref(), &args.data_dir)?;
            let ring = match Keyring::load(&path) {
                Ok(ring) => ring,
                Err(KeyFileError::Missing(_)) => made_at(&path, store, &prefix).await?,
                Err(e) => return Err(e.into()),
            };
            SealingStore::check(&**store, Some(&ring), &prefix)
                .await
                .with_context(|| format!("the keys in {} do not open every sealed record", path.display()))?;
            ring
        }
    };
    Ok(SealingStore::over(store.clone(), Arc::new(ring), &prefix))
}

/// A new key, where nothing is sealed yet.
async fn made_at(path: &Path, store: &SharedStore, prefix: &str) -> anyhow::Result<Keyring> {
    let sealed = SealingStore::check(&**store, None, prefix).await.context("look at the sealed records")?;
    if sealed > 0 {
        bail!(
            "the store holds {sealed} sealed records, and the seal key file {} is not there; put the file back, \
             or name it with --seal-key. No other key opens them, so none is made",
            path.display()
        );
    }
    let ring =
        Keyring::create(path).context("make the key that seals Secrets; --seal-key names another place for it")?;
    tracing::info!(file = %path.display(), key = ring.sealing_id(), "made a key that seals Secrets; keep a copy of it");
    Ok(ring)
}

/// Where the key file is: beside the data directory unless named, and never in it, so that a copy of the data alone
/// opens nothing.
fn key_path(named: Option<&Path>, data_dir: &Path) -> anyhow::Result<PathBuf> {
    let data = data_dir.canonicalize().with_context(|| format!("find the data directory {}", data_dir.display()))?;
    let Some(path) = named else {
        let Some(name) = data.file_name() else {
            bail!("--seal-key must name a file, as {} has no name", data.display())
        };
        let mut name = name.to_owned();
        name.push(".seal.key");
        return Ok(data.with_file_name(name));
    };
    let path = std::path::absolute(path).with_context(|| format!("--seal-key {}", path.display()))?;
    // The nearest directory that is there decides: the others are still to be made in it.
    let place = path.ancestors().skip(1).find_map(|dir| dir.canonicalize().ok()).unwrap_or_default();
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    if place.starts_with(&data) || real.starts_with(&data) || path.starts_with(&data) {
        bail!("--seal-key {}: must not be inside the data directory {}", path.display(), data.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_or_strange_key_stops_the_start_and_none_is_made() {
        use crate::store::{MemoryStore, Op, Txn};

        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            serve: ServeArgs,
        }
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let args = <Alone as clap::Parser>::parse_from(["serve", "--data-dir", data.to_str().unwrap()]).serve;
        let raw = MemoryStore::new();
        let opened = over(&raw, &args).await.unwrap();
        let key = "secrets/default/db".to_owned();
        let value = r#"{"metadata": {"name": "db"}, "data": {"a": "eA=="}}"#.into();
        opened.txn(Txn { when: vec![], then: vec![Op::Put { key: key.clone(), value }] }).await.unwrap();
        let again = over(&raw, &args).await.unwrap();
        assert!(again.get(&key).await.unwrap().is_some(), "the same file opens it after a restart");

        let file = dir.path().join("data.seal.key");
        let kept = dir.path().join("kept");
        std::fs::rename(&file, &kept).unwrap();
        let told = over(&raw, &args).await.err().unwrap().to_string();
        assert!(told.contains("holds 1 sealed records") && told.contains("data.seal.key is not there"), "{told}");
        assert!(!file.exists(), "a new key was made");
        Keyring::create(&file).unwrap();
        let told = format!("{:#}", over(&raw, &args).await.err().unwrap());
        assert!(told.contains("secrets/default/db: it is sealed with the key"), "{told}");
        std::fs::rename(&kept, &file).unwrap();
        over(&raw, &args).await.unwrap();
    }

    #[test]
    fn the_key_is_beside_the_data_and_never_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().canonicalize().unwrap().join("data");
        std::fs::create_dir_all(data.join("in")).unwrap();
        assert_eq!(key_path(None, &data).unwrap(), data.with_file_name("data.seal.key"));
        let elsewhere = data.with_file_name("keys/seal");
        assert_eq!(key_path(Some(&elsewhere), &data).unwrap(), elsewhere);
        std::os::unix::fs::symlink(&data, data.with_file_name("link")).unwrap();
        for inside in ["data/key", "data/in/new/key", "link/key", "data"] {
            let error = key_path(Some(&data.with_file_name(inside)), &data).expect_err(inside);
            assert!(error.to_string().contains("must not be inside the data directory"), "{error}");
        }
    }
}
