//! Which frames of a clip are taken.

use std::fmt;
use std::str::FromStr;

use strand_data::{draw, frames};

use super::timeline::Timeline;
use crate::ToolsError;

/// How frames are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampling {
    /// The middle of each of T equal parts.
    #[default]
    Middle,
    /// One frame of each of T equal parts, drawn anew for each clip.
    Rand,
    /// So many frames a second, at most T.
    Fps(f64),
}

impl FromStr for Sampling {
    type Err = ToolsError;

    /// Reads `middle`, `rand` or `fps=2`.
    fn from_str(text: &str) -> Result<Sampling, ToolsError> {
        let rate = text.strip_prefix("fps=").and_then(|rate| rate.parse().ok());
        match (text, rate) {
            ("middle", _) => Ok(Sampling::Middle),
            ("rand", _) => Ok(Sampling::Rand),
            (_, Some(rate)) if rate > 0.0 && f64::is_finite(rate) => Ok(Sampling::Fps(rate)),
            _ => Err(ToolsError::Options(format!(
                "unknown sampling `{text}`: `middle`, `rand` and `fps=RATE` are known"
            ))),
        }
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sampling::Middle => f.write_str("middle"),
            Sampling::Rand => f.write_str("rand"),
            Sampling::Fps(rate) => write!(f, "fps={rate}"),
        }
    }
}

/// A part of a video, and how many frames of it are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// Start in seconds; the video's where unset.
    pub start: Option<f64>,
    /// End in seconds; the video's where unset.
    pub end: Option<f64>,
    /// T.
    pub frames: usize,
}

impl Clip {
    /// The chosen frames, ascending; the last repeats where the clip is short. `Err` says why there is none.
    pub fn choose(
        &self,
        timeline: &Timeline,
        sampling: Sampling,
        seed: u64,
        video: &str,
    ) -> Result<Vec<usize>, String> {
        let fps = timeline.fps();
        let range = frames::clip(timeline.num_frames(), fps, self.start, self.end);
        let chosen = match sampling {
            Sampling::Middle => frames::middle(range.len(), self.frames),
            Sampling::Rand => {
                let mut rng = draw(seed, 0, &format!("{video} {self:?}"), "extracted frames");
                frames::rand(range.len(), self.frames, &mut rng)
            }
            Sampling::Fps(rate) => frames::fps(range.len(), fps, rate, self.frames),
        };
        if chosen.is_empty() {
            return Err(format!(
                "no frame from {} s to {}: it has {} frames, {fps:.3} a second",
                self.start.unwrap_or(0.0),
                self.end.map_or("the end".to_owned(), |end| format!("{end} s")),
                timeline.num_frames()
            ));
        }
        Ok(chosen.into_iter().map(|frame| range.start + frame).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplings_read_what_they_write() {
        for sampling in [Sampling::Middle, Sampling::Rand, Sampling::Fps(0.5)] {
            assert_eq!(sampling.to_string().parse::<Sampling>().unwrap(), sampling);
        }
        for text in ["midle", "fps=0", "fps=inf", "fps=", "fps=NaN", ""] {
            assert!(text.parse::<Sampling>().is_err(), "{text}");
        }
    }
}
