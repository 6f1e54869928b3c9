//! What a command says: on stderr, so that stdout belongs to results.

use std::time::{Duration, Instant};

/// Says one line: the area, then what happens.
pub fn say(area: &str, text: impl AsRef<str>) {
    eprintln!("{area}: {}", text.as_ref());
}

/// A duration for people: `4.2 s`, `3 min 07 s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    format!("{} min {:02} s", whole / 60, whole % 60)
}

/// Runs `work` and says how long it took.
pub fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let start = Instant::now();
    let value = work()?;
    Ok((value, start.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(Duration::from_millis(4230)), "4.2 s");
        assert_eq!(duration(Duration::from_millis(187_400)), "3 min 07 s");
        assert_eq!(duration(Duration::from_millis(119_600)), "2 min 00 s");
    }
}
