//! What goes wrong on the wire, on demand.

use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use serde::Deserialize;
use tokio::sync::watch;

use super::answer::Refused;
use super::call::Call;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mishap {
    /// Taken, not done, and never answered.
    Hang,
    /// The connection closes without an answer; nothing is done.
    Reset,
    /// A 500 of a daemon that did nothing.
    Fail,
    /// A 500 of a daemon that did it all the same.
    FailDone,
    /// Done, and never answered.
    Lost,
}

/// Calls that a daemon answers from its own memory: these go on when its runtime hangs.
const WITHOUT_RUNTIME: [Call; 11] = [
    Call::Ping,
    Call::Version,
    Call::Events,
    Call::ListContainers,
    Call::InspectContainer,
    Call::ListImages,
    Call::InspectImage,
    Call::ListNetworks,
    Call::InspectNetwork,
    Call::ListVolumes,
    Call::InspectVolume,
];

#[derive(Clone, Copy, Debug)]
struct Rule {
    what: Mishap,
    /// `None`: every call.
    call: Option<Call>,
    /// How often it still strikes; `None`: until it is healed.
    left: Option<u32>,
}

/// The faults of one daemon.
#[derive(Debug)]
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
    /// Its containerd hangs: what needs it is never answered.
    half_dead: watch::Sender<bool>,
    /// Streams of events stay open and say nothing.
    stalled: watch::Sender<bool>,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults { rules: Mutex::default(), half_dead: watch::channel(false).0, stalled: watch::channel(false).0 }
    }
}

impl Faults {
    pub fn arm(&self, what: Mishap, call: Option<Call>, times: Option<u32>) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(Rule { what, call, left: times });
    }

    pub fn set_half_dead(&self, so: bool) {
        self.half_dead.send_replace(so);
    }

    /// What happens meanwhile is never told.
    pub fn stall_events(&self, so: bool) {
        self.stalled.send_replace(so);
    }

    /// Ends all faults. What hangs already goes on hanging, as it does.
    pub fn heal(&self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.set_half_dead(false);
        self.stall_events(false);
    }

    /// Whether events are stalled, now and later.
    pub fn stalled(&self) -> watch::Receiver<bool> {
        self.stalled.subscribe()
    }

    /// Whether its containerd hangs, now and later.
    pub fn half_dead(&self) -> watch::Receiver<bool> {
        self.half_dead.subscribe()
    }

    /// What befalls a call that has arrived.
    pub fn meets(&self, call: Call) -> Option<Mishap> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let at = rules.iter().position(|rule| rule.call.is_none_or(|c| c == call));
        let Some(at) = at else {
            return (*self.half_dead.borrow() && !WITHOUT_RUNTIME.contains(&call)).then_some(Mishap::Hang);
        };
        let rule = &mut rules[at];
        let what = rule.what;
        if let Some(left) = &mut rule.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                rules.remove(at);
            }
        }
        Some(what)
    }
}

pub fn server_error() -> Refused {
    let message = "containerd: connection error: transport is closing: unavailable";
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_the_calls_that_it_is_for_and_no_more_often_than_told() {
        let faults = Faults::default();
        faults.arm(Mishap::Fail, Some(Call::Start), Some(2));
        assert_eq!(faults.meets(Call::Info), None);
        assert_eq!((faults.meets(Call::Start), faults.meets(Call::Start)), (Some(Mishap::Fail), Some(Mishap::Fail)));
        assert_eq!(faults.meets(Call::Start), None);
        faults.set_half_dead(true);
        assert_eq!((faults.meets(Call::Info), faults.meets(Call::Ping)), (Some(Mishap::Hang), None));
        faults.arm(Mishap::Reset, None, None);
        assert_eq!((faults.meets(Call::Ping), faults.meets(Call::Ping)), (Some(Mishap::Reset), Some(Mishap::Reset)));
        faults.heal();
        assert_eq!(faults.meets(Call::Info), None);
    }
}
