//! A loss over the steps of a run, one colour a stage.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::chart::{Area, Drawn, INK, LINE, SOFT, font, svg, text};
use super::palette::Palette;
use crate::{Metrics, TelemetryError};

const HEIGHT: u32 = 320;
/// Points of one stage's curve; longer stages show means of neighbouring steps.
const MAX_POINTS: usize = 500;
/// Where the greatest loss is this many times the least, the axis is logarithmic.
const LOG_FROM: f64 = 12.0;

/// The curve of one stage.
struct Curve {
    stage: String,
    points: Vec<(f64, f64)>,
}

/// The vertical axis: losses are drawn as `place(loss)`.
struct Axis {
    log: bool,
    range: std::ops::Range<f64>,
    ticks: Vec<f64>,
}

/// Draws `loss` over the steps; `None` where no step has one.
pub(super) fn draw(
    title: &str,
    metrics: &[Metrics],
    palette: &Palette,
    loss: impl Fn(&Metrics) -> Option<f64>,
) -> Result<Option<String>, TelemetryError> {
    let curves = curves(metrics, palette, loss);
    if curves.is_empty() {
        return Ok(None);
    }
    let last = metrics.iter().map(|step| step.step).max().unwrap_or(1);
    let image = svg(title, HEIGHT, |area| plot(area, &curves, palette, last as f64))?;
    Ok(Some(image))
}

fn curves(
    metrics: &[Metrics],
    palette: &Palette,
    loss: impl Fn(&Metrics) -> Option<f64>,
) -> Vec<Curve> {
    let curve = |stage: &String| {
        let of_stage = metrics.iter().filter(|step| step.stage == *stage);
        let finite = of_stage.filter_map(|step| {
            let loss = loss(step).filter(|loss| loss.is_finite())?;
            Some((step.step as f64, loss))
        });
        Curve { stage: stage.clone(), points: thin(&finite.collect::<Vec<_>>()) }
    };
    let curves = palette.stages().iter().map(curve);
    curves.filter(|curve| !curve.points.is_empty()).collect()
}

fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let loss = chunk.iter().map(|(_, loss)| loss).sum::<f64>() / chunk.len() as f64;
        (chunk[chunk.len() / 2].0, loss)
    };
    points.chunks(size).map(mean).collect()
}

/// Mean over a window around each point that narrows towards the ends: it lags behind nowhere.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let widest = points.len() / 40;
    let average = |(index, &(step, _)): (usize, &(f64, f64))| {
        let half = widest.min(index).min(points.len() - 1 - index);
        let window = &points[index - half..=index + half];
        let sum: f64 = window.iter().map(|(_, loss)| loss).sum();
        (step, sum / window.len() as f64)
    };
    points.iter().enumerate().map(average).collect()
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn plot(area: &Area<'_>, curves: &[Curve], palette: &Palette, last: f64) -> Drawn {
    let axis = Axis::new(curves);
    let mut chart = ChartBuilder::on(area)
        .margin_top(24)
        .margin_right(12)
        .x_label_area_size(30)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..last.max(1.0), axis.range.clone())
        .map_err(text)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .y_labels(0)
        .axis_style(LINE)
        .label_style(font(12.0, SOFT, false))
        .x_labels(8)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .draw()
        .map_err(text)?;
    grid(&mut chart, &axis, last)?;
    for curve in curves {
        let color = palette.color(&curve.stage);
        start(&mut chart, &axis, curve)?;
        line(&mut chart, &axis, &curve.points, color.mix(0.28).stroke_width(1))?;
        line(&mut chart, &axis, &smooth(&curve.points), color.stroke_width(2))?;
    }
    Ok(())
}

/// Lines across and their losses: the library's own key points are not round on a logarithmic axis.
fn grid(chart: &mut Chart<'_, '_>, axis: &Axis, last: f64) -> Drawn {
    let across = |&tick: &f64| PathElement::new([(0.0, tick), (last, tick)], LINE);
    chart.draw_series(axis.ticks.iter().map(across)).map_err(text)?;
    let style = font(12.0, SOFT, false).pos(Pos::new(HPos::Right, VPos::Center));
    let label = |&tick: &f64| {
        EmptyElement::at((0.0, tick)) + Text::new(axis.label(tick), (-8, 0), style.clone())
    };
    chart.draw_series(axis.ticks.iter().map(label)).map_err(text)?;
    Ok(())
}

/// An upright line and the stage's name where it starts.
fn start(chart: &mut Chart<'_, '_>, axis: &Axis, curve: &Curve) -> Drawn {
    let step = curve.points[0].0;
    let upright = [(step, axis.range.start), (step, axis.range.end)];
    chart.draw_series([PathElement::new(upright, LINE)]).map_err(text)?;
    let style = font(12.5, INK, true).pos(Pos::new(HPos::Left, VPos::Bottom));
    let name = Text::new(curve.stage.clone(), (2, -5), style);
    chart.draw_series([EmptyElement::at((step, axis.range.end)) + name]).map_err(text)?;
    Ok(())
}

fn line(chart: &mut Chart<'_, '_>, axis: &Axis, points: &[(f64, f64)], style: ShapeStyle) -> Drawn {
    let placed = points.iter().map(|&(step, loss)| (step, axis.place(loss)));
    chart.draw_series(LineSeries::new(placed, style)).map_err(text)?;
    Ok(())
}

impl Axis {
    fn new(curves: &[Curve]) -> Axis {
        let losses = curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1));
        let (least, greatest) = losses.fold((f64::INFINITY, 0.0), |(least, greatest), loss| {
            (f64::min(least, loss), f64::max(greatest, loss))
        });
        let log = least > 0.0 && greatest / least > LOG_FROM;
        match log {
            true => Axis::logarithmic(least, greatest),
            false => Axis::linear(greatest),
        }
    }

    fn linear(greatest: f64) -> Axis {
        let top = if greatest > 0.0 { greatest * 1.05 } else { 1.0 };
        let rough = top / 5.0;
        let magnitude = 10f64.powf(rough.log10().floor());
        let nice = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude);
        let step = nice.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let count = (top / step) as usize;
        Axis {
            log: false,
            range: 0.0..top,
            ticks: (0..=count).map(|tick| tick as f64 * step).collect(),
        }
    }

    fn logarithmic(least: f64, greatest: f64) -> Axis {
        let range = least.log10() - 0.05..greatest.log10() + 0.05;
        let decades = range.start.floor() as i32..=range.end.ceil() as i32;
        let factors: &[f64] = match range.end - range.start < 3.0 {
            true => &[1.0, 2.0, 5.0],
            false => &[1.0],
        };
        let ticks = decades.flat_map(|decade| {
            factors.iter().map(move |factor| factor.log10() + f64::from(decade))
        });
        Axis { log: true, ticks: ticks.filter(|tick| range.contains(tick)).collect(), range }
    }

    fn place(&self, loss: f64) -> f64 {
        match self.log {
            true => loss.log10(),
            false => loss,
        }
    }

    fn label(&self, place: f64) -> String {
        let loss = if self.log { 10f64.powf(place) } else { place };
        let rounded = format!("{loss:.4}");
        let short = rounded.trim_end_matches('0').trim_end_matches('.');
        short.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_become_means_of_neighbours() {
        let points: Vec<_> = (0..1500).map(|step| (f64::from(step), 2.0)).collect();
        let thinned = thin(&points);
        assert_eq!(thinned.len(), MAX_POINTS);
        assert!(thinned.iter().all(|(_, loss)| *loss == 2.0));
    }

    #[test]
    fn an_average_follows_a_line_from_its_first_to_its_last_point() {
        let points: Vec<_> = (0..300).map(|step| (f64::from(step), f64::from(step))).collect();
        let smooth = smooth(&points);
        assert!(smooth.iter().all(|(step, loss)| (step - loss).abs() < 1e-9));
    }

    #[test]
    fn ticks_are_round_numbers() {
        let linear = Axis::linear(0.42);
        let labels: Vec<_> = linear.ticks.iter().map(|tick| linear.label(*tick)).collect();
        assert_eq!(labels, ["0", "0.1", "0.2", "0.3", "0.4"]);
        let log = Axis::logarithmic(0.01, 3.0);
        let labels: Vec<_> = log.ticks.iter().map(|tick| log.label(*tick)).collect();
        assert_eq!(labels, ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]);
    }
}
