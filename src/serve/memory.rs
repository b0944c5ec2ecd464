//! Gives back to the kernel what was freed. The C library keeps it for later in as many heaps as there are threads: after a
//! burst of work some two fifths of all resident memory were such remains.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::exposition::resident_now;

const LOOK: Duration = Duration::from_secs(30);
/// Not for less: it takes some milliseconds, during which who allocates may have to wait.
const GROWN: i64 = 16 << 20;

/// Until `stop`.
pub async fn run(stop: CancellationToken) {
    let mut least = resident_now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let (Some(before), Some(now)) = (least, resident_now()) else {
            least = resident_now();
            continue;
        };
        if now - before < GROWN {
            least = Some(before.min(now));
            continue;
        }
        // A panic in there is none of ours to tell.
        let _ = tokio::task::spawn_blocking(trim).await;
        least = resident_now();
        tracing::debug!(before, grown = now, after = least, "gave back what was freed");
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the C library's own call; nothing else tells it to")]
fn trim() {
    // SAFETY: malloc_trim(3) has no preconditions and is safe among threads.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_env = "gnu")]
    const ALONE: &str = "serve::memory::tests::what_was_freed_is_given_back_by_a_process_that_does_nothing_else";

    /// In a process of its own: others allocate and free meanwhile in this one.
    #[cfg(target_env = "gnu")]
    #[test]
    fn what_was_freed_is_given_back() {
        let mut alone = std::process::Command::new(std::env::current_exe().expect("this program"));
        let told = alone.args(["--exact", ALONE, "--ignored", "--test-threads=1"]).output().expect("it runs again");
        let text = String::from_utf8_lossy(&told.stdout);
        assert!(told.status.success() && text.contains("1 passed"), "{text}");
    }

    /// As much in small pieces, with one left in between every so often, is what an allocator cannot give back by itself.
    #[cfg(target_env = "gnu")]
    #[test]
    #[ignore = "the test above runs it"]
    fn what_was_freed_is_given_back_by_a_process_that_does_nothing_else() {
        let mut pieces: Vec<Option<Box<[u8]>>> = (0..64 << 10).map(|n| Some(vec![n as u8; 1 << 10].into())).collect();
        for (n, piece) in pieces.iter_mut().enumerate() {
            if n % 64 != 0 {
                *piece = None;
            }
        }
        let before = resident_now().expect("of this process");
        trim();
        let after = resident_now().expect("of this process");
        assert!(before - after > 32 << 20, "{before} {after}");
        assert_eq!(pieces.iter().flatten().count(), 1 << 10);
    }
}
