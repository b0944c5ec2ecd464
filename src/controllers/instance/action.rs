//! The effects that a plan asks for, as data. `Display` is what logs, dry runs and golden files show.

use std::fmt;
use std::time::Duration;

use crate::controllers::probes::ProbeTarget;
use crate::docker::engine::{ContainerSpec, EngineErrorKind, Limits};
use crate::model::{InstanceStatus, Key};

use super::adoption::Offer;
use super::freezing::UNPAUSE_FAILED;

/// Time between SIGTERM and SIGKILL.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// One effect. Every one is idempotent: repeated after a lost answer it changes nothing more.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Commit a node, host ports and a subnet to the status, before anything is made. `network`: the instance's network
    /// is to be made, which needs a subnet; else the one that it has stays.
    Bind {
        network: bool,
    },
    /// Commit what the instance holds of its node's memory and CPU, before anything uses them. `runs`: what is there
    /// already holds them, so nobody asks whether there is room.
    Reserve {
        runs: bool,
    },
    /// Commit that a container that runs already is the instance's, with the node and the host ports that it has.
    Adopt(Box<Offer>),
    /// Commit that the instance has left its node, with where it goes; nothing of it is left there.
    Leave,
    /// Commit that the instance is on another node: its own is lost, with whatever may still run there.
    LeaveLost,
    /// Write this status: what the steps after it are about to do.
    Mark(Box<InstanceStatus>),
    /// `login`: the Secret that has the login to the registry.
    Pull {
        image: String,
        login: Option<Key>,
    },
    CreateVolume {
        name: String,
        volume: String,
    },
    CreateNetwork {
        name: String,
    },
    /// Open the values that the new container is to have, and drop them: before the old one is given up for it.
    CheckValues(Box<ContainerSpec>),
    CreateContainer(Box<ContainerSpec>),
    /// `again`: it ran before, and somebody waits for it; not the end of making an instance.
    Start {
        id: String,
        again: bool,
    },
    /// Freeze it, if it is still not used.
    Pause {
        id: String,
    },
    /// `drift`: somebody else has frozen it.
    Unpause {
        id: String,
        drift: bool,
    },
    /// Forget its use, unless something is open: it rests, and that was no wish to wake it.
    Rest,
    /// `only_if_idle`: look at the activity once more, right before; a request may have come.
    Stop {
        id: String,
        only_if_idle: bool,
    },
    RemoveContainer {
        id: String,
    },
    /// A container in the way of order, not of the app: when it stays, the rest goes on without.
    RemoveStray {
        id: String,
    },
    Rename {
        id: String,
        name: String,
    },
    UpdateLimits {
        id: String,
        limits: Limits,
    },
    /// Probe again and again, for a while. `fresh`: it was started just now, and not probed yet.
    AwaitStartup {
        target: ProbeTarget,
        fresh: bool,
    },
    RemoveNetwork {
        name: String,
    },
    RemoveVolume {
        name: String,
    },
    /// Let the record go: everything is gone.
    DropFinalizer,
}

impl Action {
    /// Whether the rest of a plan goes on when this fails so.
    pub fn may_be_left(&self, kind: EngineErrorKind) -> bool {
        matches!(self, Action::RemoveStray { .. }) && kind != EngineErrorKind::Timeout && !kind.is_away()
    }

    /// The reason of the Event and condition when it fails.
    pub fn failure_reason(&self) -> &'static str {
        match self {
            Action::Bind { .. } | Action::Reserve { .. } | Action::Adopt(_) | Action::Leave | Action::LeaveLost => {
                "BindFailed"
            }
            Action::Mark(_) | Action::Rest | Action::DropFinalizer => "StoreFailed",
            Action::Pull { .. } => "ImagePullFailed",
            Action::CreateVolume { .. } | Action::RemoveVolume { .. } => "VolumeFailed",
            Action::CreateNetwork { .. } | Action::RemoveNetwork { .. } => "NetworkFailed",
            Action::CheckValues(_) | Action::CreateContainer(_) => "CreateFailed",
            Action::Start { .. } => "StartFailed",
            Action::Pause { .. } => "PauseFailed",
            Action::Unpause { .. } => UNPAUSE_FAILED,
            Action::Stop { .. } => "StopFailed",
            Action::RemoveContainer { .. } | Action::RemoveStray { .. } => "RemoveFailed",
            Action::Rename { .. } => "RenameFailed",
            Action::UpdateLimits { .. } => "UpdateFailed",
            Action::AwaitStartup { .. } => "StartupProbeFailed",
        }
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Bind { network: true } => f.write_str("bind a node, host ports and a subnet"),
            Action::Bind { network: false } => f.write_str("bind a node and host ports"),
            Action::Adopt(offer) => write!(f, "adopt a container of {}", offer.spec.image),
            Action::Reserve { .. } => f.write_str("reserve memory and CPU"),
            Action::Leave => f.write_str("leave the node"),
            Action::LeaveLost => f.write_str("leave the lost node"),
            Action::Mark(status) => write!(f, "mark {:?}", status.phase),
            Action::Pull { image, .. } => write!(f, "pull image {image}"),
            Action::CreateVolume { name, .. } => write!(f, "create volume {name}"),
            Action::CreateNetwork { name } => write!(f, "create network {name}"),
            Action::CheckValues(spec) => write!(f, "check the values for {}", spec.name),
            Action::CreateContainer(spec) => write!(f, "create container {} from {}", spec.name, spec.image),
            Action::Start { id, .. } => write!(f, "start {}", short(id)),
            Action::Pause { id } => write!(f, "pause {} if still idle", short(id)),
            Action::Unpause { id, .. } => write!(f, "unpause {}", short(id)),
            Action::Rest => f.write_str("forget its use"),
            Action::Stop { id, only_if_idle } => {
                write!(f, "stop {}{}", short(id), if *only_if_idle { " if still idle" } else { "" })
            }
            Action::RemoveContainer { id } | Action::RemoveStray { id } => write!(f, "remove container {}", short(id)),
            Action::Rename { id, name } => write!(f, "rename {} to {name}", short(id)),
            Action::UpdateLimits { id, limits } => write!(
                f,
                "update {} to memory {}, cpu {}m, pids {}",
                short(id),
                limits.memory,
                limits.cpu_milli,
                limits.pids
            ),
            Action::AwaitStartup { target, .. } => write!(f, "await {target}"),
            Action::RemoveNetwork { name } => write!(f, "remove network {name}"),
            Action::RemoveVolume { name } => write!(f, "remove volume {name}"),
            Action::DropFinalizer => f.write_str("drop the finalizer"),
        }
    }
}

/// What to do now, what to report, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is seen, to be written first if it differs.
    pub status: InstanceStatus,
    /// In order; the first that fails ends the plan. After the last one everything is looked at afresh.
    pub actions: Vec<Action>,
    /// Look again after this long though nothing changes.
    pub recheck: Option<Duration>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.status.phase)?;
        for action in &self.actions {
            write!(f, "; {action}")?;
        }
        Ok(())
    }
}
