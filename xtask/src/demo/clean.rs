//! Leaving the machine as it was found: after this run, or after an earlier one that was killed.

use anyhow::{Context, Result};

use super::engine;
use super::place::{Place, Record};
use crate::docker::{Docker, Object};
use crate::image::APP;

const UID_LABEL: &str = "portreeve.dev/uid";

/// Removes what the record speaks of. The server must have been stopped, or belongs to a run that was killed.
pub fn clean(place: &Place, record: &Record) -> Result<()> {
    if let Some(server) = record.server.as_ref().filter(|s| s.alive()) {
        // its parent died; it may be draining
        server.kill()?;
    }
    if record.private {
        // all that was made in it goes along
        engine::remove_private(place.name)?;
    } else {
        in_daemon(record).context("removing what was made in the Docker daemon")?;
    }
    place.empty()
}

/// What an earlier run left, if it was killed.
pub fn leftovers(place: &Place) -> Result<()> {
    if let Some(record) = place.record() {
        eprintln!("removing what an earlier {} left", place.name);
        clean(place, &record)?;
    }
    place.empty()
}

fn in_daemon(record: &Record) -> Result<()> {
    let docker = Docker::at(&record.socket);
    if record.uids.is_empty() && !record.image_is_ours {
        return Ok(());
    }
    docker.ping().context("the daemon does not answer")?;
    // containers hold networks and volumes
    for object in [Object::Container, Object::Network, Object::Volume] {
        for uid in &record.uids {
            for id in docker.labelled(object, &format!("{UID_LABEL}={uid}"))? {
                docker.remove(object, &id)?;
            }
        }
    }
    if record.image_is_ours {
        docker.remove_image(APP.reference)?;
    }
    Ok(())
}
