//! A picture in memory, and its area average.

/// A picture, 8 bits a channel, red-green-blue, row after row from the top left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Frame {
    /// A picture from its values `[height, width, 3]`; `None` where they do not fill it exactly or a side is 0.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Option<Frame> {
        let wanted = width.checked_mul(height)?.checked_mul(3)?;
        (wanted > 0 && rgb.len() == wanted).then_some(Frame { width, height, rgb })
    }

    /// A picture of one colour. A side of 0 becomes 1.
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Frame {
        let (width, height) = (width.max(1), height.max(1));
        let rgb = colour.repeat(width * height);
        Frame { width, height, rgb }
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The values `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Sets a pixel; outside of the picture nothing happens.
    pub fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            self.rgb[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// Brings the picture to `side` × `side` cells, each the mean over the area it covers (pixels that a border cuts
    /// count by their share). The aspect ratio is not kept. Values `[side, side, 3]` from 0 to 1.
    pub fn area_average(&self, side: usize) -> Vec<f32> {
        let columns = spans(self.width, side);
        let mut wide = vec![0.0; self.height * side * 3];
        for (source, target) in
            self.rgb.chunks_exact(self.width * 3).zip(wide.chunks_exact_mut(side * 3))
        {
            squeeze_row(source, target, &columns);
        }
        let mut cells = vec![0.0; side * side * 3];
        for (row, span) in cells.chunks_exact_mut(side * 3).zip(spans(self.height, side)) {
            for (at, weight) in span {
                add_scaled(row, &wide[at * side * 3..(at + 1) * side * 3], weight);
            }
        }
        cells
    }
}

fn squeeze_row(source: &[u8], target: &mut [f32], columns: &[Vec<(usize, f32)>]) {
    for (cell, span) in target.chunks_exact_mut(3).zip(columns) {
        for &(at, weight) in span {
            for (channel, value) in cell.iter_mut().enumerate() {
                *value += weight / 255.0 * f32::from(source[at * 3 + channel]);
            }
        }
    }
}

fn add_scaled(sum: &mut [f32], values: &[f32], weight: f32) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += weight * value;
    }
}

/// For each of `side` equal parts of `length` pixels: the pixels it covers, with weights that add up to 1.
fn spans(length: usize, side: usize) -> Vec<Vec<(usize, f32)>> {
    // In units of 1/side pixel all borders are whole numbers.
    let part = |index: usize| {
        let (start, end) = (index * length, (index + 1) * length);
        let covered = |pixel: usize| end.min((pixel + 1) * side) - start.max(pixel * side);
        let pixels = start / side..end.div_ceil(side);
        pixels.map(|pixel| (pixel, covered(pixel) as f32 / length as f32)).collect()
    };
    (0..side).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_cells_are_plain_means() {
        let mut frame = Frame::filled(4, 2, [0, 0, 0]);
        frame.set(0, 0, [255, 0, 0]);
        frame.set(3, 1, [0, 255, 255]);
        let cells = frame.area_average(2);
        assert_eq!(cells[..3], [0.5, 0.0, 0.0]);
        assert_eq!(cells[9..], [0.0, 0.5, 0.5]);
    }

    #[test]
    fn cut_pixels_count_by_their_share() {
        let frame = Frame::new(3, 1, [[0; 3], [90; 3], [255; 3]].concat()).unwrap();
        let cells = frame.area_average(2);
        let expected = [90.0 / 3.0 / 255.0, (90.0 / 3.0 + 255.0 * 2.0 / 3.0) / 255.0];
        for (cell, expected) in [(cells[0], expected[0]), (cells[3], expected[1])] {
            assert!((cell - expected).abs() < 1e-6, "{cell} {expected}");
        }
    }

    #[test]
    fn a_small_picture_is_enlarged() {
        let cells = Frame::filled(1, 1, [255, 0, 51]).area_average(3);
        assert!(cells.chunks(3).all(|cell| cell[0] == 1.0 && (cell[2] - 0.2).abs() < 1e-6));
    }

    #[test]
    fn values_have_to_fill_the_picture() {
        assert!(Frame::new(2, 2, vec![0; 11]).is_none());
        assert!(Frame::new(0, 2, vec![]).is_none());
        assert!(Frame::new(usize::MAX, 2, vec![]).is_none());
    }
}
