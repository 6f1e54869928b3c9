//! Decoding the chosen frames, and only those, one picture in memory at a time.

use std::path::Path;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};

use super::ffmpeg::Ffmpeg;
use super::timeline::Timeline;
use crate::ToolsError;
use crate::image::Frame;

/// Bytes of a line of a picture's header.
const MOST_LINE: u64 = 64;

/// Pixels along a side.
const MOST_SIDE: usize = 16_384;

/// Decodes some frames of a video, given in ascending order without repeats, and hands each to `take`.
///
/// Frames are chosen by their time and not by their number, so that a file whose packets are not all shown gives an
/// error and never another frame.
///
/// # Errors
/// Those of [`Ffmpeg::run`]; [`ToolsError::Video`] also where the file gives fewer frames than its packets promise.
pub async fn decode(
    ffmpeg: &Ffmpeg,
    file: &Path,
    timeline: &Timeline,
    frames: &[usize],
    take: impl FnMut(Frame),
) -> Result<(), ToolsError> {
    let chosen: Vec<String> =
        frames.iter().map(|&frame| format!("eq(pts,{})", timeline.stamp(frame))).collect();
    let filter = format!("select='{}'", chosen.join("+"));
    let count = frames.len().to_string();
    let arguments = [
        "-vf",
        &filter,
        "-fps_mode",
        "passthrough",
        "-frames:v",
        &count,
        "-c:v",
        "ppm",
        "-f",
        "image2pipe",
    ];
    let read =
        |stdout| read_pictures(BufReader::with_capacity(1 << 18, stdout), frames.len(), take);
    ffmpeg.run(file, &arguments, read).await
}

async fn read_pictures(
    mut stream: impl AsyncBufRead + Unpin,
    count: usize,
    mut take: impl FnMut(Frame),
) -> Result<(), String> {
    for index in 0..count {
        let Some((width, height)) = read_header(&mut stream).await? else {
            return Err(format!("only {index} of the {count} frames could be decoded"));
        };
        let mut rgb = vec![0; width * height * 3];
        let read = stream.read_exact(&mut rgb).await;
        read.map_err(|error| format!("frame {index} of {count}: {error}"))?;
        take(Frame::new(width, height, rgb).ok_or("a frame without a pixel")?);
    }
    // ffmpeg ends in peace only when all that it writes is read.
    let rest = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    match rest {
        Ok(0) => Ok(()),
        _ => Err(format!("more than the {count} frames came out")),
    }
}

/// The size that the next picture's header tells: `P6`, width and height, 255. `None` at the end.
async fn read_header(
    stream: &mut (impl AsyncBufRead + Unpin),
) -> Result<Option<(usize, usize)>, String> {
    let mut lines = Vec::new();
    for _ in 0..3 {
        let mut line = String::new();
        let read = stream.take(MOST_LINE).read_line(&mut line).await;
        read.map_err(|error| error.to_string())?;
        lines.push(line.trim_end().to_owned());
    }
    if lines.iter().all(String::is_empty) {
        return Ok(None);
    }
    let sides = lines[1].split_once(' ');
    let sides: Option<(usize, usize)> =
        sides.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match sides {
        Some((width, height))
            if lines[0] == "P6"
                && lines[2] == "255"
                && (1..=MOST_SIDE).contains(&width.max(height)) =>
        {
            Ok(Some((width, height)))
        }
        _ => Err(format!("a picture that begins with {lines:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pictures(bytes: &[u8], count: usize) -> Result<Vec<Frame>, String> {
        let mut frames = Vec::new();
        read_pictures(bytes, count, |frame| frames.push(frame)).await?;
        Ok(frames)
    }

    #[tokio::test]
    async fn pictures_follow_one_another() {
        let frames = pictures(b"P6\n1 1\n255\nabcP6\n2 1\n255\n\n\nP6\n\n", 2).await.unwrap();
        assert_eq!(frames[0].rgb(), b"abc");
        assert_eq!((frames[1].width(), frames[1].rgb()), (2, &b"\n\nP6\n\n"[..]));
    }

    #[tokio::test]
    async fn missing_and_broken_pictures_are_errors() {
        for (bytes, named) in [
            (&b"P6\n1 1\n255\nabc"[..], "only 1 of the 2"),
            (b"P6\n1 1\n255\nabcP6\n9 9\n255\nabc", "frame 1 of 2"),
            (b"P5\n1 1\n255\n", "begins with"),
            (b"P6\n99999 99999\n255\n", "begins with"),
            (b"P6\n0 0\n255\n", "begins with"),
            (b"P6\n1 1\n255\nabcP6\n1 1\n255\nabcP6\n", "more than"),
        ] {
            let error = pictures(bytes, 2).await.expect_err(named);
            assert!(error.contains(named), "{error}");
        }
    }
}
