//! Drawing a scene.

use super::scene::{COLOURS, Scene};
use crate::image::Frame;

/// Colour of the canvas.
const CANVAS: [u8; 3] = [24, 24, 24];

/// What the shape stands on: its cell is brighter than any other, so that one look finds it.
const PLATE: [u8; 3] = [160, 160, 160];

/// Draws one step of a scene on a canvas of `size` × `size` pixels.
pub fn render(scene: &Scene, step: usize, size: usize) -> Frame {
    let cell = size / scene.grid;
    let mut frame = Frame::filled(size, size, CANVAS);
    for light in &scene.lights {
        let lit = light.flash == Some(step);
        let inside = |x: f32, y: f32| lit || (x.abs() < 0.5 && y.abs() < 0.5);
        fill(&mut frame, scene.grid, light.cell, cell, COLOURS[light.colour].1, inside);
    }
    if let Some(&at) = scene.path.get(step) {
        fill(&mut frame, scene.grid, at, cell, PLATE, |_, _| true);
        let inside = |x, y| covers(scene.shape, x, y);
        let colour = COLOURS[scene.colour].1;
        fill(&mut frame, scene.grid, at, cell, colour, inside);
    }
    frame
}

/// Whether a shape covers a point of its cell, both coordinates from −1 (left, top) to 1.
fn covers(shape: usize, x: f32, y: f32) -> bool {
    match shape {
        0 => (0.25..1.0).contains(&(x * x + y * y)),
        1 => x.abs() < 0.8 && y.abs() < 0.8,
        2 => y < 0.9 && y > -0.9 && x.abs() < (y + 1.0) / 2.0,
        _ => x.abs() < 0.3 || y.abs() < 0.3,
    }
}

fn fill(
    frame: &mut Frame,
    grid: usize,
    at: usize,
    cell: usize,
    colour: [u8; 3],
    inside: impl Fn(f32, f32) -> bool,
) {
    let (left, top) = (at % grid * cell, at / grid * cell);
    let centred = |pixel: usize| (2 * pixel + 1) as f32 / cell as f32 - 1.0;
    for y in 0..cell {
        for x in (0..cell).filter(|&x| inside(centred(x), centred(y))) {
            frame.set(left + x, top + y, colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_differ_and_none_fills_its_cell() {
        let points = |shape| {
            let mut covered = Vec::new();
            for at in 0..64 {
                let centred = |pixel: usize| (2 * pixel + 1) as f32 / 8.0 - 1.0;
                covered.push(covers(shape, centred(at % 8), centred(at / 8)));
            }
            covered
        };
        for shape in 0..4 {
            let count = points(shape).iter().filter(|&&covered| covered).count();
            assert!((24..60).contains(&count), "shape {shape}: {count}");
            for other in 0..shape {
                assert_ne!(points(shape), points(other));
            }
        }
    }
}
