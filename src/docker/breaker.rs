//! A breaker: after some failures in a row it lets nothing through for a while, then one probe.
//!
//! Pure: the time is an argument. A daemon that hangs would otherwise hold every caller for a whole timeout.

use std::time::Duration;

const FAILURES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Pass,
    /// Passes, and decides for all: tell how it went.
    Probe,
    Refused,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration, pause: Duration },
    Probing { pause: Duration },
}

#[derive(Debug)]
pub struct Breaker {
    state: State,
}

impl Breaker {
    pub fn new() -> Breaker {
        Breaker { state: State::Closed { failures: 0 } }
    }

    /// `now`: monotonic.
    pub fn admit(&mut self, now: Duration) -> Admission {
        match self.state {
            State::Closed { .. } => Admission::Pass,
            State::Open { until, pause } if now >= until => {
                self.state = State::Probing { pause };
                Admission::Probe
            }
            State::Open { .. } | State::Probing { .. } => Admission::Refused,
        }
    }

    /// The daemon answered, whatever it said.
    pub fn answered(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    /// No connection, or no answer in time.
    pub fn failed(&mut self, admission: Admission, now: Duration) {
        self.state = match (&self.state, admission) {
            (State::Probing { pause }, Admission::Probe) => {
                let pause = (*pause * 2).min(LONGEST_PAUSE);
                State::Open { until: now + pause, pause }
            }
            (State::Closed { failures }, _) if failures + 1 < FAILURES => State::Closed { failures: failures + 1 },
            (State::Closed { .. }, _) => State::Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE },
            // Calls from before the breaker opened tell nothing new.
            (State::Open { .. } | State::Probing { .. }, _) => return,
        };
    }

    /// A caller went away before its call was decided.
    pub fn abandoned(&mut self, admission: Admission, now: Duration) {
        if let (State::Probing { pause }, Admission::Probe) = (&self.state, admission) {
            self.state = State::Open { until: now, pause: *pause };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn opened() -> Breaker {
        let mut breaker = Breaker::new();
        for _ in 0..FAILURES {
            assert_eq!(breaker.admit(S), Admission::Pass);
            breaker.failed(Admission::Pass, S);
        }
        breaker
    }

    #[test]
    fn it_opens_after_three_failures_in_a_row_only() {
        let mut breaker = Breaker::new();
        for _ in 0..10 {
            breaker.failed(Admission::Pass, S);
            breaker.failed(Admission::Pass, S);
            breaker.answered();
        }
        assert_eq!(breaker.admit(S), Admission::Pass);
        assert_eq!(opened().admit(S), Admission::Refused);
    }

    #[test]
    fn one_probe_decides_and_pauses_grow_to_their_limit() {
        let mut breaker = opened();
        let (mut now, mut pauses) = (S, Vec::new());
        for _ in 0..7 {
            let began = now;
            while breaker.admit(now) == Admission::Refused {
                now += S;
            }
            pauses.push((now - began).as_secs());
            assert_eq!(breaker.admit(now), Admission::Refused, "one probe at a time");
            breaker.failed(Admission::Pass, now);
            breaker.failed(Admission::Probe, now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(breaker.admit(now + 30 * S), Admission::Probe);
        breaker.answered();
        assert_eq!(breaker.admit(now), Admission::Pass);
    }

    #[test]
    fn an_abandoned_probe_makes_room_for_the_next() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(2 * S), Admission::Probe);
        breaker.abandoned(Admission::Probe, 2 * S);
        assert_eq!(breaker.admit(2 * S), Admission::Probe);
    }
}
