//! How many files the process may have open: each visitor takes two, its connection and the app's.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::proxy::Limits;

/// What the store, the API and the daemons' connections take at most, with room to spare.
const OURS: u64 = 1_024;

/// Raises the soft limit, which shells keep at 1024 for programs that use select(2), to the hard one. The limits of the proxy that
/// go with what there is then.
pub fn limits() -> Limits {
    let told = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: told.maximum, ..told }).is_ok();
    let files = if raised { told.maximum } else { told.current };
    let limits = fitting(files);
    let (connections, wanted) = (limits.connections, Limits::default().connections);
    if connections < wanted {
        tracing::warn!(
            ?files,
            connections,
            "the limit of open files allows fewer visitors than {wanted} (LimitNOFILE=)"
        );
    }
    limits
}

/// `None`: as many files as one likes.
fn fitting(files: Option<u64>) -> Limits {
    let mut limits = Limits::default();
    if let Some(files) = files {
        // Never none: who is served says what is wrong.
        let room = files.saturating_sub(OURS.min(files / 2)) / 2;
        limits.connections = limits.connections.min(usize::try_from(room).unwrap_or(usize::MAX)).max(16);
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_visitors_are_let_in_as_there_are_files_for() {
        let all = Limits::default().connections;
        let let_in = |files| fitting(files).connections;
        assert_eq!((let_in(None), let_in(Some(1 << 20))), (all, all));
        assert_eq!((let_in(Some(65_536)), let_in(Some(16_384))), (all, 7_680));
        assert_eq!((let_in(Some(1_024)), let_in(Some(8))), (256, 16));
    }
}
