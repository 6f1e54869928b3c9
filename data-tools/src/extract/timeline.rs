//! The frames of a video and their times, without decoding any.

use std::collections::BTreeSet;
use std::path::Path;

use tokio::io::AsyncReadExt;

use super::ffmpeg::Ffmpeg;
use crate::ToolsError;

/// A list of packets longer than this is not believed: it would be a video of weeks.
const MOST_BYTES: u64 = 1 << 30;

/// How ffmpeg writes a time that is not known.
const NO_TIME: i64 = i64::MIN;

/// When each frame of a video is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// Times in units of `unit`, ascending, all different.
    times: Vec<i64>,
    /// Seconds of a unit.
    unit: f64,
    /// How long the last frame is shown, in units; 0 where it is not known.
    last: i64,
}

impl Timeline {
    /// Reads the times of all packets of the first video stream: `ffmpeg -c copy -f framecrc`. Where the packets have
    /// no times (AVI with B-frames), all frames are decoded once to get theirs.
    ///
    /// # Errors
    /// Those of [`Ffmpeg::run`], and [`ToolsError::Video`] for a file without a frame or without times.
    pub async fn probe(ffmpeg: &Ffmpeg, file: &Path) -> Result<Timeline, ToolsError> {
        if let Some(timeline) = read(ffmpeg, file, &["-c", "copy", "-f", "framecrc"]).await? {
            return Ok(timeline);
        }
        let decoded = read(ffmpeg, file, &["-fps_mode", "passthrough", "-f", "framecrc"]).await?;
        decoded.ok_or_else(|| ToolsError::Video {
            path: file.to_owned(),
            reason: "its frames have no times".to_owned(),
        })
    }

    /// Number of frames, at least 1.
    pub fn num_frames(&self) -> usize {
        self.times.len()
    }

    /// The time stamp of a frame, in the units of the file; that of the last one where there is no such frame.
    pub fn stamp(&self, frame: usize) -> i64 {
        self.times[frame.min(self.times.len() - 1)]
    }

    /// The time of a frame in seconds.
    pub fn seconds(&self, frame: usize) -> f64 {
        self.stamp(frame) as f64 * self.unit
    }

    /// Frames per second, on average.
    pub fn fps(&self) -> f64 {
        let shown = self.times.len() as f64;
        let length = (self.stamp(usize::MAX) - self.times[0]) as f64 * self.unit;
        let last = self.last as f64 * self.unit;
        match (last > 0.0, length > 0.0) {
            (true, _) => shown / (length + last),
            (false, true) => (shown - 1.0) / length,
            // One frame of unknown length: any rate tells the same.
            (false, false) => 1.0,
        }
    }
}

async fn read(
    ffmpeg: &Ffmpeg,
    file: &Path,
    arguments: &[&str],
) -> Result<Option<Timeline>, ToolsError> {
    ffmpeg
        .run(file, arguments, |stdout| async move {
            let mut text = String::new();
            let read = stdout.take(MOST_BYTES).read_to_string(&mut text).await;
            read.map_err(|error| error.to_string())?;
            parse(&text)
        })
        .await
}

/// Reads `#tb 0: 1/24000` and lines `stream, dts, pts, duration, …`; `None` where a line has no time.
fn parse(text: &str) -> Result<Option<Timeline>, String> {
    let unit = text.lines().find_map(|line| line.strip_prefix("#tb 0:"));
    let unit = unit.and_then(ratio).ok_or("it has no unit of time, so it is not a video")?;
    let (mut times, mut latest) = (BTreeSet::new(), (i64::MIN, 0));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split(',').map(str::trim).skip(2);
        let time = fields.next().and_then(|time| time.parse().ok());
        let Some(time) = time.filter(|&time| time != NO_TIME) else {
            return Ok(None);
        };
        let length = fields.next().and_then(|length| length.parse().ok());
        latest = latest.max((time, length.unwrap_or(0)));
        times.insert(time);
    }
    if times.is_empty() {
        return Err("it has no frame".to_owned());
    }
    Ok(Some(Timeline { times: times.into_iter().collect(), unit, last: latest.1 }))
}

fn ratio(text: &str) -> Option<f64> {
    let (above, below) = text.trim().split_once('/')?;
    let (above, below): (f64, f64) = (above.parse().ok()?, below.parse().ok()?);
    (above > 0.0 && below > 0.0).then_some(above / below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_the_order_they_are_shown() {
        let text =
            "#tb 0: 1/100\n0, -2, 0, 4, 99, 0x1\n0, -1, 8, 4, 9, 0x2, F=0x0\n0, 0, 4, 4, 9, 0x3\n";
        let timeline = parse(text).unwrap().unwrap();
        assert_eq!(timeline.times, [0, 4, 8]);
        assert_eq!(timeline.seconds(2), 0.08);
        assert_eq!(timeline.fps(), 25.0);
    }

    #[test]
    fn without_a_last_length_the_gaps_tell_the_rate() {
        let timeline =
            parse("#tb 0: 1/10\n0, 0, 5, 0, 9, 0x1\n0, 1, 10, 0, 9, 0x1\n").unwrap().unwrap();
        assert_eq!(timeline.fps(), 2.0);
        let one = parse("#tb 0: 1/10\n0, 0, 5, 0, 9, 0x1\n").unwrap();
        assert_eq!(one.unwrap().fps(), 1.0);
    }

    #[test]
    fn packets_without_times_are_told_apart() {
        for time in ["NOPTS", "-9223372036854775808"] {
            let text = format!("#tb 0: 1/10\n0, 0, 5, 1, 9, 0x1\n0, 1, {time}, 1, 9, 0x1\n");
            assert_eq!(parse(&text), Ok(None));
        }
    }

    #[test]
    fn what_is_no_list_of_frames_is_refused() {
        for (text, named) in
            [("", "not a video"), ("#tb 0: 0/1\n", "not a video"), ("#tb 0: 1/10\n", "no frame")]
        {
            assert!(parse(text).expect_err(named).contains(named));
        }
    }
}
