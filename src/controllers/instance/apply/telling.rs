//! Events of what a plan found out, from a status and the one before. Failures of actions are told where they happen.

use crate::model::{ConditionStatus, InstanceStatus, Phase, condition};

use super::super::super::recorder::EventType;
use super::super::adoption::NOT_ADOPTABLE;
use super::super::freezing::FROZEN;
use super::super::health::{HAS_STARTED, LIVENESS_FAILED, READINESS_FAILED};
use super::super::loss::HOST_LOST;
use super::super::report::NO_ROOM;
use super::super::routes::{HOSTNAME_CONFLICT, ROUTES_ACCEPTED};
use super::Executor;

/// Reasons that are told of one that cannot run.
const TOLD: [&str; 12] = [
    "Unschedulable",
    "HostsNotReady",
    NO_ROOM,
    "HostUnreachable",
    "CrashLoopBackOff",
    "StartupProbeFailed",
    "VolumeLost",
    "NameConflict",
    NOT_ADOPTABLE,
    "ImageMissing",
    "SecretMissing",
    "ConfigMapMissing",
];

impl Executor<'_> {
    pub(super) fn tell_changes(&self, old: &InstanceStatus) {
        let new = &self.instance.status;
        if new.last_exit != old.last_exit
            && let Some(exit) = new.last_exit.as_ref().filter(|exit| !exit.unhealthy)
        {
            let how = if exit.oom_killed { " (killed for passing its memory limit)" } else { "" };
            self.event(
                EventType::Warning,
                "Exited",
                format!("the container ended with exit code {}{how}", exit.exit_code),
            );
        }
        let lost = |s: &InstanceStatus| condition(&s.conditions, HOST_LOST).map(|c| (c.status, c.reason.clone()));
        if lost(new) != lost(old)
            && let Some(told) = condition(&new.conditions, HOST_LOST).filter(|c| c.status == ConditionStatus::True)
        {
            self.event(EventType::Warning, HOST_LOST, told.message.clone());
        }
        let conflict = |s: &InstanceStatus| condition(&s.conditions, ROUTES_ACCEPTED).map(|c| c.message.clone());
        match (conflict(old), conflict(new)) {
            (before, Some(now)) if before.as_ref() != Some(&now) => {
                self.event(EventType::Warning, HOSTNAME_CONFLICT, now);
            }
            (Some(_), None) => {
                self.event(EventType::Normal, ROUTES_ACCEPTED, "all hosts of its routes are its own now")
            }
            _ => {}
        }
        self.tell_readiness(old);
    }

    fn tell_readiness(&self, old: &InstanceStatus) {
        let new = &self.instance.status;
        let Some(now) = condition(&new.conditions, "Ready") else { return };
        let before = condition(&old.conditions, "Ready");
        if before.is_some_and(|before| (before.status, &before.reason) == (now.status, &now.reason)) {
            return;
        }
        let (reason, message) = (now.reason.as_str(), now.message.clone());
        match (now.status, new.phase) {
            (ConditionStatus::True, _) if before.is_some_and(|before| before.reason == READINESS_FAILED) => {
                self.event(EventType::Normal, "Ready", "the readiness probe passes");
            }
            (ConditionStatus::True, _) if before.is_some_and(|before| before.reason == FROZEN) => {
                self.event(EventType::Normal, "Ready", "the app goes on where it was frozen");
            }
            (ConditionStatus::True, _) => self.event(EventType::Normal, "Ready", HAS_STARTED),
            (_, Phase::Frozen) if reason == FROZEN => self.event(EventType::Normal, FROZEN, message),
            (_, Phase::Running) if reason == READINESS_FAILED => self.event(EventType::Warning, "Unhealthy", message),
            (_, Phase::Starting) if reason == LIVENESS_FAILED => {
                self.event(EventType::Warning, "Unhealthy", message);
                self.event(EventType::Normal, "Killing", "the container is stopped, to be started again");
            }
            (_, Phase::Asleep | Phase::Stopped) if reason == "VolumeLost" => {
                self.event(EventType::Warning, reason, message);
            }
            (_, Phase::Asleep) => self.event(EventType::Normal, "Asleep", message),
            (_, Phase::Stopped) => self.event(EventType::Normal, "Stopped", message),
            (_, Phase::Failed | Phase::Lost | Phase::Pending) if TOLD.contains(&reason) => {
                self.event(EventType::Warning, reason, message);
            }
            _ => {}
        }
    }
}
