//! Bicubic resizing with antialiasing, bit for bit as Pillow does it on 8-bit pictures (and so torchvision and the
//! image processors of Hugging Face, which encoders were trained with).
//!
//! Rows first, then columns, rounded to 8 bits after each. A new pixel is a weighted sum of old ones: the filter
//! (Keys, 1981, a = −1/2) is stretched over as many as the new pixel covers where the picture shrinks. Weights are
//! normalised and rounded to 22 binary places.

use crate::image::Frame;

/// Binary places of a weight: 8 bits of a value and 2 of overshoot leave so many of 32.
const PLACES: u32 = 22;

/// The filter is 0 from here on.
const SUPPORT: f64 = 2.0;

/// Brings a picture to `side` × `side` pixels, `[side, side, 3]`; the aspect ratio is not kept.
pub fn bicubic(frame: &Frame, side: usize) -> Vec<u8> {
    let (width, height) = (frame.width(), frame.height());
    let rows = if width == side { frame.rgb().to_vec() } else { squeeze_rows(frame, side) };
    if height == side {
        return rows;
    }
    let row = side * 3;
    let mut rgb = vec![0; side * row];
    for (target, taps) in rgb.chunks_exact_mut(row).zip(taps(height, side)) {
        let sources = &rows[taps.first * row..];
        for (at, value) in target.iter_mut().enumerate() {
            *value = taps.sum(|tap| sources[tap * row + at]);
        }
    }
    rgb
}

fn squeeze_rows(frame: &Frame, side: usize) -> Vec<u8> {
    let taps = taps(frame.width(), side);
    let mut rows = Vec::with_capacity(frame.height() * side * 3);
    for source in frame.rgb().chunks_exact(frame.width() * 3) {
        for taps in &taps {
            let pixels = &source[taps.first * 3..];
            rows.extend([0, 1, 2].map(|channel| taps.sum(|tap| pixels[tap * 3 + channel])));
        }
    }
    rows
}

/// The old pixels of a new one, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn sum(&self, value: impl Fn(usize) -> u8) -> u8 {
        let half = 1 << (PLACES - 1);
        let terms = self.weights.iter().enumerate();
        let sum = terms.fold(half, |sum, (tap, weight)| sum + i32::from(value(tap)) * weight);
        (sum >> PLACES).clamp(0, 255) as u8
    }
}

fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let taps_of = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        // Casts truncate, and what is below 0 becomes 0.
        let first = (center - SUPPORT * stretch + 0.5) as usize;
        let last = ((center + SUPPORT * stretch + 0.5) as usize).min(from);
        let weight = |pixel: usize| keys((pixel as f64 - center + 0.5) / stretch);
        let weights: Vec<f64> = (first..last).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let rounded = |weight: f64| (weight / sum * f64::from(1 << PLACES)).round() as i32;
        Taps { first, weights: weights.into_iter().map(rounded).collect() }
    };
    (0..to).map(taps_of).collect()
}

fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < SUPPORT {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that Pillow's `Image.resize((side, side), Image.BICUBIC)` was given too.
    fn noise(width: usize, height: usize) -> Frame {
        let value = |at: usize| ((at * 7919 + at * at % 251 * 13) % 256) as u8;
        Frame::new(width, height, (0..width * height * 3).map(value).collect()).unwrap()
    }

    #[test]
    fn every_bit_is_pillow_s() {
        for (width, height, side, hash) in [
            (37, 23, 14, 0xa116_98f5_5bfd_b432),
            (5, 9, 16, 0x6cad_676b_bce5_20ff),
            (640, 360, 224, 0x0d58_ef99_1ed8_a2e2),
            (14, 30, 14, 0xd939_52e2_0c10_bca8),
            (30, 14, 14, 0x7fbc_da6b_ce6d_e48b),
            (14, 14, 14, 0x1e36_1466_bafe_b38c),
        ] {
            let small = bicubic(&noise(width, height), side);
            assert_eq!(strand_store::xxh3(&small), hash, "{width} × {height} to {side}");
        }
    }

    #[test]
    fn one_colour_stays() {
        let small = bicubic(&Frame::filled(1920, 1080, [0, 127, 255]), 224);
        assert_eq!(small, Frame::filled(224, 224, [0, 127, 255]).rgb());
    }
}
