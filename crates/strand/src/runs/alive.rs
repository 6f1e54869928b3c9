//! Whether the launcher of a run is still there.

use std::fs;
use std::path::Path;

use strand_control::{RunDir, RunRecord, Status, host};

/// The status in a word: a run whose launcher was killed has no time to write that down.
pub fn status(dir: &RunDir, record: &RunRecord) -> &'static str {
    match record.status {
        Status::Running if is_gone(dir) => "interrupted",
        Status::Running => "running",
        Status::Done => "done",
        Status::Stopped => "stopped",
        Status::Failed => "failed",
    }
}

/// True where the lock names a process of this machine that does not exist.
///
/// The lock itself is not tried: for that moment a real launcher could not take it.
fn is_gone(dir: &RunDir) -> bool {
    let holder = fs::read_to_string(dir.lock()).unwrap_or_default();
    let mut words = holder.split_whitespace();
    let pid = words.nth(1).and_then(|pid| pid.parse::<u32>().ok());
    let its_host = words.nth(1);
    match (pid, its_host) {
        (Some(pid), Some(its_host)) if its_host == host() => {
            !Path::new(&format!("/proc/{pid}")).exists()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use strand_control::{Layout, RunLock};

    use super::*;

    #[test]
    fn a_run_without_its_launcher_is_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path());
        let mut record = RunRecord::new("demo", "hash", Layout::default());
        let held = RunLock::acquire(&dir).unwrap();
        assert_eq!(status(&dir, &record), "running");
        drop(held);
        let dead = format!("process {} on {} since now\n", u32::MAX - 1, host());
        fs::write(dir.lock(), dead).unwrap();
        assert_eq!(status(&dir, &record), "interrupted");
        fs::write(dir.lock(), "process 1 on elsewhere since now\n").unwrap();
        assert_eq!(status(&dir, &record), "running");
        record.status = Status::Done;
        assert_eq!(status(&dir, &record), "done");
    }
}
