//! The gate before a daemon: how many calls at once, how long each may take, and none for a while after too many
//! went unanswered. One per daemon, so that a hung one slows no other.

use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use ::bollard::errors::Error;

use super::breaker::{Admission, Breaker};
use super::classify;
use super::engine::{EngineError, EngineErrorKind, EngineResult};
use super::turns::{Turn, Turns, Weight};
use crate::clock::SharedClock;

pub struct Gate {
    clock: SharedClock,
    turns: Turns,
    breaker: Mutex<Breaker>,
    /// What whoever is there said when it last refused us: it holds while nobody is asked.
    refusal: Mutex<Option<String>>,
}

/// Leave to call; tells the breaker if its holder goes away undecided.
pub struct Pass<'a> {
    gate: &'a Gate,
    admission: Admission,
    decided: bool,
}

impl Gate {
    pub fn new(clock: SharedClock) -> Gate {
        let breaker = Mutex::new(Breaker::new());
        Gate { clock, turns: Turns::default(), breaker, refusal: Mutex::default() }
    }

    pub async fn turn(&self, op: &'static str, object: &str, weight: Weight) -> EngineResult<Turn> {
        self.turns.take(op, object, weight).await
    }

    /// Waits for a turn, then makes the call within `limit`.
    pub async fn call<T>(
        &self,
        op: &'static str,
        object: &str,
        weight: Weight,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> EngineResult<T> {
        let turn = self.turn(op, object, weight).await?;
        self.call_in(turn, op, object, limit, call).await
    }

    /// Makes the call within `limit`, in a turn taken before.
    pub async fn call_in<T>(
        &self,
        _turn: Turn,
        op: &'static str,
        object: &str,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> EngineResult<T> {
        let pass = self.enter(op, object)?;
        let result = match tokio::time::timeout(limit, call).await {
            Ok(result) => result.map_err(|e| classify::error(op, object, &e)),
            Err(_) => Err(timed_out(op, object, limit)),
        };
        pass.decide(result.as_ref().err());
        result
    }

    /// Leave for a call that waits by itself; `Unreachable` while the breaker is open.
    pub fn enter(&self, op: &'static str, object: &str) -> EngineResult<Pass<'_>> {
        let now = self.clock.monotonic();
        match self.breaker.lock().expect("no panic while held").admit(now) {
            Admission::Refused => {
                let (kind, message) = match self.refusal.lock().expect("no panic while held").clone() {
                    Some(refusal) => (EngineErrorKind::LoginRefused, refusal),
                    None => {
                        let message = "not tried: the daemon left the last calls unanswered".to_owned();
                        (EngineErrorKind::Unreachable, message)
                    }
                };
                Err(EngineError { op, object: object.to_owned(), kind, message })
            }
            admission => Ok(Pass { gate: self, admission, decided: false }),
        }
    }
}

impl Pass<'_> {
    /// Any answer, also a refusal, is a sign of life. But who is refused at the door knocks no more often than where
    /// nobody answers.
    pub fn decide(mut self, error: Option<&EngineError>) {
        self.decided = true;
        let now = self.gate.clock.monotonic();
        let mut breaker = self.gate.breaker.lock().expect("no panic while held");
        let kind = error.map(|e| e.kind);
        if kind != Some(EngineErrorKind::Credentials) {
            let refused = error.filter(|e| e.kind == EngineErrorKind::LoginRefused).map(|e| e.message.clone());
            *self.gate.refusal.lock().expect("no panic while held") = refused;
        }
        match kind {
            Some(EngineErrorKind::Unreachable | EngineErrorKind::Timeout | EngineErrorKind::LoginRefused) => {
                breaker.failed(self.admission, now);
            }
            // Nobody was asked.
            Some(EngineErrorKind::Credentials) => breaker.abandoned(self.admission, now),
            _ => breaker.answered(),
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.decided {
            let now = self.gate.clock.monotonic();
            self.gate.breaker.lock().expect("no panic while held").abandoned(self.admission, now);
        }
    }
}

pub fn timed_out(op: &'static str, object: &str, limit: Duration) -> EngineError {
    let message = format!("no answer within {} s: unknown whether it was done", limit.as_secs());
    EngineError { op, object: object.to_owned(), kind: EngineErrorKind::Timeout, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::VirtualClock;

    fn error(kind: EngineErrorKind) -> EngineError {
        EngineError { op: "info", object: "h".into(), kind, message: "the key is not known".into() }
    }

    #[test]
    fn who_is_refused_at_the_door_is_told_so_while_nobody_knocks() {
        let gate = Gate::new(VirtualClock::new());
        for _ in 0..3 {
            gate.enter("info", "h").expect("leave to call").decide(Some(&error(EngineErrorKind::LoginRefused)));
        }
        let Err(told) = gate.enter("list", "h") else { panic!("it knocks again at once") };
        assert_eq!((told.kind, told.message.as_str()), (EngineErrorKind::LoginRefused, "the key is not known"));
    }

    #[test]
    fn want_of_credentials_closes_nothing_as_nobody_was_asked() {
        let gate = Gate::new(VirtualClock::new());
        for _ in 0..10 {
            gate.enter("info", "h").expect("leave to call").decide(Some(&error(EngineErrorKind::Credentials)));
        }
        for _ in 0..3 {
            gate.enter("info", "h").expect("leave to call").decide(Some(&error(EngineErrorKind::Unreachable)));
        }
        let Err(told) = gate.enter("info", "h") else { panic!("three were not answered") };
        assert_eq!(told.kind, EngineErrorKind::Unreachable);
    }
}
