//! `logs --previous`: which part of a container's log is of the run that ended last. A container that is started again
//! keeps one log, so runs are told apart by the times of their lines; [`super::attach`] asks.
//!
//! ```text
//!   run ──▶ finished ··│·· started ──▶ the run under way
//!                    edge
//! ```
//!
//! The daemon stamps a line when it reads it, which may be a little after the process that wrote it has ended, and notes
//! a start a little after the process has begun to write. So the line is drawn between the two, not at either.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};

use crate::docker::engine::{ContainerInfo, RunState};
use crate::model::{InstanceStatus, Time};

/// How much earlier than its noted start a run's first line may be stamped, where runs may follow closely.
const EARLY: SignedDuration = SignedDuration::from_millis(50);
/// The same of a daemon that has much to do, where no other run ended shortly before.
const EARLIEST: SignedDuration = SignedDuration::from_secs(1);

/// A part of a log, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// The part of the run that ended last; `None` when no run of this container has ended.
///
/// The daemon remembers the start of one run only. That of the run before is known when it ended by itself, to the
/// second, from the instance's status; else everything before the run under way counts as one.
pub fn window(container: &ContainerInfo, status: &InstanceStatus) -> Option<Window> {
    let started = container.started_at?;
    match container.state {
        RunState::Running | RunState::Paused | RunState::Restarting => {
            let finished = container.finished_at?;
            let of_that_run = status.last_exit.as_ref().filter(|exit| exit.finished_at == finished.into());
            let since = of_that_run.and_then(|exit| exit.started_at).map(|t| beginning(t.timestamp(), finished, None));
            Some(Window { since, until: Some(edge(finished, started)) })
        }
        RunState::Exited | RunState::Dead | RunState::Removing => {
            let finished = container.finished_at.unwrap_or(started);
            // The end that was told last may be the one of this very run.
            let told = status.last_exit.as_ref().map(|exit| exit.finished_at).filter(|end| *end < finished.into());
            let before = told.max(status.ended_at.map(|end| end.timestamp().into())).map(Time::timestamp);
            Some(Window { since: Some(beginning(started, finished, before)), until: None })
        }
        // Its start has failed.
        RunState::Created => None,
    }
}

/// The first moment that counts for a run, given the second in which one before it ended. A run may be over before its
/// daemon has noted that it started.
fn beginning(started: Timestamp, finished: Timestamp, before: Option<Timestamp>) -> Timestamp {
    let first = started.min(finished);
    let close = earlier(first, started.duration_since(finished).max(EARLY));
    let free = before.and_then(|second| second.checked_add(SignedDuration::from_secs(1)).ok()).unwrap_or(close);
    free.clamp(earlier(first, EARLIEST).min(close), close)
}

/// The last moment that counts for a run which ended before another began: half way between. A clock that was set back
/// in between leaves only the start to go by.
fn edge(finished: Timestamp, started: Timestamp) -> Timestamp {
    let between = started.duration_since(finished);
    if between.is_negative() { earlier(started, EARLY) } else { earlier(started, between / 2) }
}

fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

/// How many lines there are; a last one without an end counts.
pub async fn count_lines<E>(mut output: BoxStream<'static, Result<Bytes, E>>) -> Result<u64, E> {
    let (mut lines, mut open) = (0, false);
    while let Some(bytes) = output.next().await {
        let bytes = bytes?;
        lines += bytes.iter().filter(|b| **b == b'\n').count() as u64;
        open = bytes.last().map_or(open, |b| *b != b'\n');
    }
    Ok(lines + u64::from(open))
}

/// The output without its first lines.
pub fn skip_lines<E: Send + 'static>(
    output: BoxStream<'static, Result<Bytes, E>>,
    lines: u64,
) -> BoxStream<'static, Result<Bytes, E>> {
    let mut left = lines;
    let keep = move |item: Result<Bytes, E>| {
        let item = item.map(|mut bytes| {
            while left > 0 {
                let end = bytes.iter().position(|b| *b == b'\n').map(|at| at + 1);
                left -= u64::from(end.is_some());
                drop(bytes.split_to(end.unwrap_or(bytes.len())));
                if end.is_none() {
                    break;
                }
            }
            bytes
        });
        std::future::ready(Some(item).filter(|item| item.as_ref().map_or(true, |bytes| !bytes.is_empty())))
    };
    output.filter_map(keep).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LastExit;
    use futures::stream;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000_000 + millis).unwrap()
    }

    fn container(state: RunState, started: Option<i64>, finished: Option<i64>) -> ContainerInfo {
        ContainerInfo { state, started_at: started.map(at), finished_at: finished.map(at), ..ContainerInfo::default() }
    }

    fn exit(started: Option<i64>, finished: i64) -> InstanceStatus {
        let started_at = started.map(|t| Time::from(at(t)));
        let last_exit = LastExit {
            exit_code: 1,
            oom_killed: false,
            started_at,
            finished_at: at(finished).into(),
            seen_at: None,
            unhealthy: false,
        };
        InstanceStatus { last_exit: Some(last_exit), ..InstanceStatus::default() }
    }

    #[test]
    fn the_run_before_the_one_under_way_ends_half_way_to_its_start() {
        let unknown = InstanceStatus::default();
        let seen = window(&container(RunState::Running, Some(5_000), Some(4_000)), &unknown).unwrap();
        assert_eq!(seen, Window { since: None, until: Some(at(4_500)) });
        let known = exit(Some(2_000), 4_000);
        let seen = window(&container(RunState::Running, Some(5_000), Some(4_000)), &known).unwrap();
        assert_eq!(seen, Window { since: Some(at(1_950)), until: Some(at(4_500)) });
        let of_another = exit(Some(2_000), 3_000);
        let seen = window(&container(RunState::Paused, Some(5_000), Some(4_000)), &of_another).unwrap();
        assert_eq!(seen.since, None, "an end that is not that run's says nothing of its start");
        let before_this_was_kept = exit(None, 4_000);
        let seen = window(&container(RunState::Running, Some(5_000), Some(4_000)), &before_this_was_kept);
        assert_eq!(seen.unwrap().since, None);
    }

    #[test]
    fn a_run_that_is_over_is_the_previous_one_until_the_next_begins() {
        for state in [RunState::Exited, RunState::Dead] {
            let seen = window(&container(state, Some(5_000), Some(6_000)), &exit(Some(1_000), 6_000)).unwrap();
            assert_eq!(seen, Window { since: Some(at(4_950)), until: None });
        }
    }

    #[test]
    fn a_run_that_was_over_before_its_start_was_noted_has_its_lines() {
        let late = container(RunState::Exited, Some(5_595), Some(5_466));
        for status in [InstanceStatus::default(), exit(None, 5_466), exit(None, 5_100)] {
            assert_eq!(window(&late, &status).unwrap().since, Some(at(5_337)));
        }
    }

    #[test]
    fn a_start_may_be_noted_late_where_no_run_ended_shortly_before() {
        let over = container(RunState::Exited, Some(5_300), Some(6_000));
        assert_eq!(window(&over, &exit(None, 2_999)).unwrap().since, Some(at(4_300)));
        assert_eq!(window(&over, &exit(None, 3_700)).unwrap().since, Some(at(4_300)), "it ended before 4,000");
        assert_eq!(window(&over, &exit(None, 4_300)).unwrap().since, Some(at(5_000)), "it ended before 5,000");
        assert_eq!(window(&over, &exit(None, 5_100)).unwrap().since, Some(at(5_250)));
        let asked_for = InstanceStatus { ended_at: Some(at(4_300).into()), ..exit(None, 6_000) };
        assert_eq!(window(&over, &asked_for).unwrap().since, Some(at(5_000)));
        let at_once = InstanceStatus { ended_at: Some(at(6_000).into()), ..InstanceStatus::default() };
        assert_eq!(window(&over, &at_once).unwrap().since, Some(at(5_250)), "in which of the two it is not known");
    }

    #[test]
    fn a_first_run_has_none_before_it() {
        assert_eq!(window(&container(RunState::Running, Some(5_000), None), &exit(Some(1), 2)), None);
        assert_eq!(window(&container(RunState::Created, None, None), &InstanceStatus::default()), None);
        assert_eq!(window(&container(RunState::Created, Some(1), Some(2)), &InstanceStatus::default()), None);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_reach_into_the_run_under_way() {
        let seen = window(&container(RunState::Running, Some(5_000), Some(9_000)), &InstanceStatus::default()).unwrap();
        assert_eq!(seen.until, Some(at(4_950)));
        let extreme = ContainerInfo {
            state: RunState::Running,
            started_at: Some(Timestamp::MIN),
            finished_at: Some(Timestamp::MAX),
            ..ContainerInfo::default()
        };
        assert_eq!(window(&extreme, &InstanceStatus::default()).unwrap().until, Some(Timestamp::MIN));
    }

    #[tokio::test]
    async fn lines_are_counted_and_skipped_however_they_are_cut() {
        let text = "one\ntwo\n\nfour";
        for size in 1..=text.len() {
            let pieces = || {
                let pieces: Vec<Result<Bytes, ()>> =
                    text.as_bytes().chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
                stream::iter(pieces).boxed()
            };
            assert_eq!(count_lines(pieces()).await, Ok(4));
            for (skipped, rest) in [(0, text), (1, "two\n\nfour"), (3, "four"), (4, ""), (9, "")] {
                let left: Vec<Bytes> = skip_lines(pieces(), skipped).map(Result::unwrap).collect().await;
                assert_eq!(left.concat(), rest.as_bytes(), "{skipped} of it in pieces of {size}");
            }
        }
    }
}
