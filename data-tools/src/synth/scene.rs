//! What a clip shows: one shape that moves, and lights that stand still.

use rand::Rng;
use strand_data::{below, draw};
use strand_store::xxh3;

use super::Split;
use super::mix::Kind;
use super::path::Paths;

/// Names and values of the colours.
pub const COLOURS: [(&str, [u8; 3]); 6] = [
    ("red", [255, 0, 0]),
    ("green", [0, 255, 0]),
    ("blue", [0, 0, 255]),
    ("yellow", [255, 255, 0]),
    ("purple", [255, 0, 255]),
    ("cyan", [0, 255, 255]),
];

/// Names of the shapes.
pub const SHAPES: [&str; 4] = ["ring", "square", "triangle", "cross"];

/// Fewest and most lights.
pub const LIGHTS: [usize; 2] = [2, 4];

/// One layout in this many is held out.
const HELD_OUT_ONE_IN: u64 = 5;

/// A small square that stays where it is; it may flash: fill its cell for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Light {
    /// Index into [`COLOURS`].
    pub colour: usize,
    /// Cell, counted along the rows.
    pub cell: usize,
    /// The step at which it flashes.
    pub flash: Option<usize>,
}

/// A clip, step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Cells along a side.
    pub grid: usize,
    /// Index into [`SHAPES`].
    pub shape: usize,
    /// Index into [`COLOURS`].
    pub colour: usize,
    /// Whether the shape moves along a row; else along a column.
    pub along_row: bool,
    /// Whether it moves right or down at first.
    pub forwards: bool,
    /// How often it turns back.
    pub turns: usize,
    /// The shape's cell at each step.
    pub path: Vec<usize>,
    /// Lights, all of different colours, none in the shape's way.
    pub lights: Vec<Light>,
}

/// What does not depend on time. No layout is both in training and held out.
struct Layout {
    shape: usize,
    colour: usize,
    along_row: bool,
    lane: usize,
    lights: Vec<Light>,
}

impl Scene {
    /// Draws the clip of a row whose question of this kind has this answer.
    pub(super) fn draw(paths: &Paths, grid: usize, row: &RowKey, kind: Kind, answer: u64) -> Scene {
        let mut rng = draw(row.seed, row.index, row.split.name(), "scene");
        let answer = answer as usize;
        let layout = loop {
            let layout = Layout::draw(grid, kind, answer, &mut rng);
            if layout.split() == row.split {
                break layout;
            }
        };
        let turns = if kind == Kind::Turns { answer } else { 0 };
        let forwards = match kind {
            Kind::Direction => answer.is_multiple_of(2),
            _ => below(&mut rng, 2) == 0,
        };
        let ring = paths.draw(turns, forwards, &mut rng);
        let mut lights = layout.lights;
        if kind == Kind::First {
            flash(&mut lights, ring.len(), answer, &mut rng);
        }
        let (along_row, lane) = (layout.along_row, layout.lane);
        Scene {
            grid,
            shape: layout.shape,
            colour: layout.colour,
            along_row,
            forwards,
            turns,
            path: ring.into_iter().map(|at| lane_cell(grid, along_row, lane, at)).collect(),
            lights,
        }
    }
}

/// Where the randomness of a row comes from.
pub(super) struct RowKey {
    pub seed: u64,
    pub split: Split,
    pub index: u64,
}

impl Layout {
    fn draw(grid: usize, kind: Kind, answer: usize, rng: &mut impl Rng) -> Layout {
        let mut colours: Vec<usize> = (0..COLOURS.len()).collect();
        shuffle(&mut colours, rng);
        let colour = match kind {
            Kind::Colour => answer,
            _ => colours[0],
        };
        colours.retain(|&other| other != colour);
        let free = below(rng, SHAPES.len() as u64) as usize;
        let shape = if kind == Kind::Shape { answer } else { free };
        let free = below(rng, 2) == 0;
        // Answers 0 to 3 are right, left, down, up.
        let along_row = if kind == Kind::Direction { answer < 2 } else { free };
        let lane = below(rng, grid as u64) as usize;
        let free = below(rng, (LIGHTS[1] - LIGHTS[0] + 1) as u64) as usize;
        let count = LIGHTS[0] + if kind == Kind::Count { answer } else { free };
        let lights = lights(&colours[..count], &beside(grid, along_row, lane), rng);
        Layout { shape, colour, along_row, lane, lights }
    }

    /// The split that this layout belongs to, for every seed.
    fn split(&self) -> Split {
        let mut key = format!("{} {} {} {}", self.shape, self.colour, self.along_row, self.lane);
        let mut lights: Vec<_> =
            self.lights.iter().map(|light| (light.cell, light.colour)).collect();
        lights.sort_unstable();
        for (cell, colour) in lights {
            key.push_str(&format!(" {cell}:{colour}"));
        }
        match xxh3(key.as_bytes()).is_multiple_of(HELD_OUT_ONE_IN) {
            true => Split::HeldOut,
            false => Split::Train,
        }
    }
}

fn lights(colours: &[usize], cells: &[usize], rng: &mut impl Rng) -> Vec<Light> {
    let mut cells = cells.to_vec();
    shuffle(&mut cells, rng);
    let light = |(&colour, cell)| Light { colour, cell, flash: None };
    colours.iter().zip(cells).map(light).collect()
}

/// The first two lights flash at different steps; `answer` says which of them is first.
fn flash(lights: &mut [Light], steps: usize, answer: usize, rng: &mut impl Rng) {
    let first = below(rng, steps as u64) as usize;
    let other = below(rng, steps.saturating_sub(1) as u64) as usize;
    let other = if other >= first { other + 1 } else { other };
    let mut times = [first.min(other), first.max(other)];
    if answer == 1 {
        times.reverse();
    }
    for (light, time) in lights.iter_mut().zip(times) {
        light.flash = Some(time);
    }
}

fn lane_cell(grid: usize, along_row: bool, lane: usize, at: usize) -> usize {
    if along_row { lane * grid + at } else { at * grid + lane }
}

/// The cells that are not in the lane.
fn beside(grid: usize, along_row: bool, lane: usize) -> Vec<usize> {
    let apart = |&cell: &usize| lane != if along_row { cell / grid } else { cell % grid };
    (0..grid * grid).filter(apart).collect()
}

pub(super) fn shuffle<T>(items: &mut [T], rng: &mut impl Rng) {
    for at in (1..items.len()).rev() {
        items.swap(at, below(rng, at as u64 + 1) as usize);
    }
}
