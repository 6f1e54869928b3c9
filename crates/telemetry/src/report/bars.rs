//! Accuracy by kind of question and stage, as grouped bars.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::chart::{Area, Drawn, INK, LINE, SOFT, WIDTH, font, svg, text};
use super::palette::Palette;
use crate::{Evaluation, TelemetryError};

const HEIGHT: u32 = 270;
/// Least width of a bar, for its number to fit above it.
const BAR_WIDTH: u32 = 27;
/// Share of a group's width that stays empty.
const GAP: f64 = 0.22;

/// Draws as many rows of groups as the numbers above the bars need.
pub(super) fn draw(
    evaluations: &[&Evaluation],
    kinds: &[String],
    palette: &Palette,
) -> Result<String, TelemetryError> {
    let group = (evaluations.len() as u32 + 1) * BAR_WIDTH;
    let most = (WIDTH / group).max(1) as usize;
    let rows = kinds.len().div_ceil(most).max(1);
    let per_row = kinds.len().div_ceil(rows).max(1);
    let row = |kinds: &[String]| {
        svg("accuracy", HEIGHT, |area| plot(area, evaluations, kinds, per_row, palette))
    };
    kinds.chunks(per_row).map(row).collect()
}

/// Groups stand at 0, 1, …; the axis has room for `room` of them, so that rows align.
fn plot(
    area: &Area<'_>,
    evaluations: &[&Evaluation],
    kinds: &[String],
    room: usize,
    palette: &Palette,
) -> Drawn {
    let mut chart = ChartBuilder::on(area)
        .margin_top(20)
        .margin_right(4)
        .x_label_area_size(30)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..room as f64, 0.0..1.0)
        .map_err(text)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(TRANSPARENT)
        .label_style(font(12.0, SOFT, false))
        .y_labels(6)
        .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .draw()
        .map_err(text)?;
    for (index, kind) in kinds.iter().enumerate() {
        let group = Group { left: index as f64, kind, evaluations };
        draw_group(&mut chart, &group, palette)?;
    }
    Ok(())
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn draw_group(chart: &mut Chart<'_, '_>, group: &Group<'_>, palette: &Palette) -> Drawn {
    chart.draw_series(group.bars(palette)).map_err(text)?;
    chart.draw_series(group.numbers()).map_err(text)?;
    if let Some(chance) = group.chance() {
        let style = INK.mix(0.55).stroke_width(1);
        let dashes = DashedLineSeries::new(chance, 4, 3, style);
        chart.draw_series(dashes).map_err(text)?;
    }
    let style = font(13.0, INK, true).pos(Pos::new(HPos::Center, VPos::Top));
    let middle = EmptyElement::at((group.left + 0.5, 0.0));
    let name = Text::new(group.kind.replace('_', " "), (0, 9), style);
    chart.draw_series([middle + name]).map_err(text)?;
    Ok(())
}

type Label = Text<'static, (f64, f64), String>;

/// The bars of one kind.
struct Group<'a> {
    left: f64,
    kind: &'a str,
    evaluations: &'a [&'a Evaluation],
}

impl Group<'_> {
    /// Left edge, right edge and accuracy of the bar of each stage that has the kind.
    fn spans(&self) -> impl Iterator<Item = (&str, f64, f64, f64)> {
        let width = (1.0 - GAP) / self.evaluations.len() as f64;
        let start = self.left + GAP / 2.0;
        let span = move |(index, evaluation): (usize, &&'_ Evaluation)| {
            let left = start + index as f64 * width;
            (index, left, left + width, evaluation.by_kind.get(self.kind).copied())
        };
        self.evaluations.iter().enumerate().map(span).filter_map(|(index, left, right, score)| {
            let stage = self.evaluations[index].stage.as_str();
            score.map(|score| (stage, left, right, score.accuracy()))
        })
    }

    fn bars(&self, palette: &Palette) -> Vec<Rectangle<(f64, f64)>> {
        let bar = |(stage, left, right, accuracy)| {
            let mut bar =
                Rectangle::new([(left, 0.0), (right, accuracy)], palette.color(stage).filled());
            bar.set_margin(0, 0, 1, 1);
            bar
        };
        self.spans().map(bar).collect()
    }

    fn numbers(&self) -> Vec<Label> {
        let style = font(11.0, INK, false).pos(Pos::new(HPos::Center, VPos::Bottom));
        let number = |(_, left, right, accuracy): (&str, f64, f64, f64)| {
            let place = ((left + right) / 2.0, accuracy + 0.015);
            Text::new(format!("{:.0}", accuracy * 100.0), place, style.clone())
        };
        self.spans().map(number).collect()
    }

    /// The ends of the line at what guessing gets.
    fn chance(&self) -> Option<[(f64, f64); 2]> {
        let mut scores = self.evaluations.iter().filter_map(|one| one.by_kind.get(self.kind));
        let chance = scores.find_map(|score| score.chance)?;
        Some([(self.left + 0.05, chance), (self.left + 0.95, chance)])
    }
}
