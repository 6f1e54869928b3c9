//! Counts as bars: how something is distributed.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::chart::{Area, Drawn, INK, LINE, SOFT, WIDTH, font, svg, text};
use super::page;
use crate::TelemetryError;

const HEIGHT: u32 = 190;
/// The colour of bars.
const BAR: RGBColor = RGBColor(37, 99, 235);
/// Bars that there is room for at least: fewer stay slim.
const LEAST_ROOM: usize = 8;
/// Width of a character of a label, in the chart's units.
const CHARACTER: u32 = 7;

/// Counts by label, in the order in which they are drawn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// What is counted.
    pub title: String,
    /// A line of explanation.
    pub about: String,
    /// Labels and their counts.
    pub bars: Vec<(String, u64)>,
}

/// A page with a chart for each histogram, in one file that needs nothing else.
///
/// # Errors
/// A chart cannot be drawn.
pub fn html(
    title: &str,
    facts: &[String],
    histograms: &[Histogram],
) -> Result<String, TelemetryError> {
    let mut body = page::header(title, facts);
    for histogram in histograms {
        let chart = svg(&histogram.title, HEIGHT, |area| plot(area, histogram))?;
        body.push_str(&page::section(&histogram.title, &histogram.about, &chart));
    }
    Ok(page::document(title, &body))
}

/// One picture with all histograms below each other.
///
/// # Errors
/// A chart cannot be drawn.
pub fn picture(title: &str, histograms: &[Histogram]) -> Result<String, TelemetryError> {
    let rows = histograms.len().max(1);
    svg(title, HEIGHT * rows as u32, |area| {
        area.fill(&WHITE).map_err(text)?;
        for (area, histogram) in area.split_evenly((rows, 1)).iter().zip(histograms) {
            let style = font(14.0, INK, true);
            area.draw(&Text::new(histogram.title.clone(), (48, 6), style)).map_err(text)?;
            plot(area, histogram)?;
        }
        Ok(())
    })
}

/// Bars stand side by side in the middle, their labels below.
fn plot(area: &Area<'_>, histogram: &Histogram) -> Drawn {
    let most = histogram.bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1) as f64;
    let room = histogram.bars.len().max(LEAST_ROOM);
    let first = (room - histogram.bars.len()) as f64 / 2.0;
    let mut chart = ChartBuilder::on(area)
        .margin_top(30)
        .margin_right(4)
        .x_label_area_size(26)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..room as f64, 0.0..most * 1.12)
        .map_err(text)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(TRANSPARENT)
        .label_style(font(12.0, SOFT, false))
        .y_labels(4)
        .y_label_formatter(&|count| format!("{count:.0}"))
        .draw()
        .map_err(text)?;
    let bar = |(index, (_, count)): (usize, &(String, u64))| {
        let left = first + index as f64;
        Rectangle::new([(left + 0.08, 0.0), (left + 0.92, *count as f64)], BAR.filled())
    };
    chart.draw_series(histogram.bars.iter().enumerate().map(bar)).map_err(text)?;
    let width = WIDTH / room as u32;
    let below = font(11.5, SOFT, false).pos(Pos::new(HPos::Center, VPos::Top));
    let above = font(11.0, INK, false).pos(Pos::new(HPos::Center, VPos::Bottom));
    for (index, (label, count)) in histogram.bars.iter().enumerate() {
        let middle = first + index as f64 + 0.5;
        let name = Text::new(fitting(label, width), (0, 6), below.clone());
        let number = Text::new(fitting(&count.to_string(), width), (0, -3), above.clone());
        chart.draw_series([EmptyElement::at((middle, 0.0)) + name]).map_err(text)?;
        chart.draw_series([EmptyElement::at((middle, *count as f64)) + number]).map_err(text)?;
    }
    Ok(())
}

/// A label cut to a width.
fn fitting(label: &str, width: u32) -> String {
    let most = (width / CHARACTER).max(2) as usize;
    match label.chars().count() <= most {
        true => label.to_owned(),
        false => label.chars().take(most - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histograms() -> Vec<Histogram> {
        let bars =
            |count: u64| (0..count).map(|bar| (format!("{bar}–{}", bar + 1), bar * bar)).collect();
        let one = |title: &str, count| Histogram {
            title: title.into(),
            about: "a < b".into(),
            bars: bars(count),
        };
        vec![one("frames", 12), one("nothing", 0)]
    }

    #[test]
    fn every_histogram_is_drawn() {
        let page = html("set", &["60 rows".into()], &histograms()).unwrap();
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("60 rows") && page.contains("a &lt; b") && page.contains("121"));
        let picture = picture("set", &histograms()).unwrap();
        assert_eq!(picture.matches("<svg").count(), 1);
        assert!(picture.contains("frames") && picture.contains("nothing"));
    }

    #[test]
    fn long_labels_are_cut() {
        assert_eq!(fitting("direction", 70), "direction");
        assert_eq!(fitting("direction", 35), "dire…");
    }
}
