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
        Gate { clock, turns: Turns::default(), breaker }
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
            Admission::Refused => Err(EngineError {
                op,
                object: object.to_owned(),
                kind: EngineErrorKind::Unreachable,
                message: "not tried: the daemon left the last calls unanswered".to_owned(),
            }),
            admission => Ok(Pass { gate: self, admission, decided: false }),
        }
    }
}

impl Pass<'_> {
    /// Any answer, also a refusal, is a sign of life.
    pub fn decide(mut self, error: Option<&EngineError>) {
        self.decided = true;
        let now = self.gate.clock.monotonic();
        let mut breaker = self.gate.breaker.lock().expect("no panic while held");
        match error.map(|e| e.kind) {
            Some(EngineErrorKind::Unreachable | EngineErrorKind::Timeout) => breaker.failed(self.admission, now),
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
