//! Which frames of a clip are used.
//!
//! The rules are those of ST-LLM's public code (as in VideoChat2): a clip of `n` frames is cut at
//! `trunc(linspace(0, n, t + 1))` into intervals; interval `i` holds the frames `a..=b` with `b` one before the next
//! edge.

use std::ops::Range;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::below;

/// How frames are chosen from a longer clip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameRule {
    /// The middle frame of each interval.
    #[default]
    Middle,
    /// One uniform draw in each interval.
    Rand,
}

/// The middle frame `(a + b) / 2` of each of `t` intervals of `n` frames; where there are fewer than `t` frames the
/// last one repeats. Empty where `n` or `t` is 0.
pub fn middle(n: usize, t: usize) -> Vec<usize> {
    let picked = intervals(n, t).map(|frames| (frames.start + frames.end - 1) / 2);
    padded(picked.collect(), t)
}

/// As [`middle`], with a uniform draw from each interval.
pub fn rand(n: usize, t: usize, rng: &mut impl Rng) -> Vec<usize> {
    let picked =
        intervals(n, t).map(|frames| frames.start + below(rng, frames.len() as u64) as usize);
    padded(picked.collect(), t)
}

/// One frame for each 1/`fps` seconds of a clip of `n` frames at `source_fps`: the one nearest to the middle of that
/// time. At most `limit` frames. Empty where a rate is not positive.
pub fn fps(n: usize, source_fps: f64, fps: f64, limit: usize) -> Vec<usize> {
    if !(source_fps > 0.0 && fps > 0.0) {
        return Vec::new();
    }
    let count = ((n as f64 / source_fps) * fps).ceil() as usize;
    let indices =
        (0..count).map(|i| ((i as f64 + 0.5) / fps * source_fps).round_ties_even() as usize);
    indices.take_while(|&index| index < n).take(limit).collect()
}

/// The frames of a clip from `start` to `end` seconds (the whole video where not given): seconds × rate, truncated,
/// within the `n` frames there are. Empty where the clip lies behind the end or ends before it starts.
pub fn clip(n: usize, source_fps: f64, start: Option<f64>, end: Option<f64>) -> Range<usize> {
    // Float-to-integer casts saturate: what is negative, infinite or not a number stays within bounds.
    let frame = |seconds: f64| ((seconds * source_fps) as usize).min(n);
    let start = start.map_or(0, frame);
    start..end.map_or(n, frame).max(start)
}

fn intervals(n: usize, t: usize) -> impl Iterator<Item = Range<usize>> {
    let count = n.min(t);
    let step = n as f64 / count.max(1) as f64;
    // The last edge is set and not computed, as numpy's linspace does it.
    let edge = move |i: usize| {
        if i == count { n } else { (i as f64 * step) as usize }
    };
    (0..count).map(move |i| edge(i)..edge(i + 1))
}

fn padded(mut frames: Vec<usize>, t: usize) -> Vec<usize> {
    if let Some(&last) = frames.last() {
        frames.resize(t, last);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw;

    #[test]
    fn middle_of_each_interval() {
        assert_eq!(middle(8, 4), [0, 2, 4, 6]);
        assert_eq!(middle(100, 4), [12, 37, 62, 87]);
        assert_eq!(middle(10, 3), [1, 4, 7]);
        assert_eq!(middle(16, 16), (0..16).collect::<Vec<_>>());
        assert_eq!(middle(1, 1), [0]);
    }

    #[test]
    fn short_clips_repeat_the_last_frame() {
        assert_eq!(middle(3, 6), [0, 1, 2, 2, 2, 2]);
        assert_eq!(rand(1, 3, &mut draw(0, 0, "", "")), [0, 0, 0]);
        assert!(middle(0, 4).is_empty());
        assert!(middle(4, 0).is_empty());
    }

    #[test]
    fn random_frames_stay_in_their_interval_and_reach_both_ends() {
        let mut rng = draw(1, 0, "", "frames");
        let mut seen = std::collections::HashSet::new();
        for _ in 0..500 {
            let frames = rand(10, 3, &mut rng);
            assert!(
                frames[0] < 3 && (3..6).contains(&frames[1]) && (6..10).contains(&frames[2]),
                "{frames:?}"
            );
            seen.extend(frames);
        }
        assert_eq!(seen.len(), 10);
    }

    #[test]
    fn fps_takes_the_middle_of_each_time() {
        assert_eq!(fps(50, 25.0, 1.0, 100), [12, 38]);
        assert_eq!(fps(50, 25.0, 2.0, 3), [6, 19, 31]);
        assert_eq!(fps(5, 25.0, 1.0, 100), Vec::<usize>::new());
        assert!(fps(50, 0.0, 1.0, 9).is_empty());
    }

    #[test]
    fn clip_bounds_are_truncated_and_stay_inside() {
        assert_eq!(clip(100, 10.0, Some(1.29), Some(3.99)), 12..39);
        assert_eq!(clip(100, 10.0, None, None), 0..100);
        assert_eq!(clip(100, 10.0, Some(5.0), Some(99.0)), 50..100);
        assert_eq!(clip(100, 10.0, Some(50.0), Some(60.0)), 100..100);
        assert_eq!(clip(100, 10.0, Some(f64::NAN), Some(-1.0)), 0..0);
    }
}
