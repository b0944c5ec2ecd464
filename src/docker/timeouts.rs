//! How long a call to a daemon may take. After that its outcome is unknown, never failed.

use std::time::Duration;

/// Connecting, with the TLS handshake.
pub const CONNECT: Duration = Duration::from_secs(5);
/// Silence on a connection after which its other end is asked whether it is there, thrice within three seconds.
pub const SILENCE: Duration = Duration::from_secs(2);
/// Reads, and writes that a healthy daemon does at once (rename, update, volumes).
pub const QUICK: Duration = Duration::from_secs(10);
/// Create, start, remove, of containers and networks: work for the daemon's disk, its runtime and its firewall. Sessions,
/// which wait for it.
pub const HEAVY: Duration = Duration::from_secs(60);
/// A pull may take as long as it moves: this much silence in its progress ends it.
pub const PULL_IDLE: Duration = Duration::from_secs(120);

/// Stopping: the grace that the container has, and time to kill it.
pub fn stop(grace: Duration) -> Duration {
    grace + QUICK
}
