//! Throughput and tail latency against calls in flight, as a picture.

use std::path::Path;

use bench_driver::{Report, RunArgs};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Failure;
use crate::table::Group;

/// Payloads that have a row of panels.
const PAYLOADS: [(usize, &str); 2] = [(32, "32 B"), (1 << 10, "1 KiB")];

/// What a panel shows.
type Figure = (&'static str, fn(&Report) -> f64);
const FIGURES: [Figure; 2] = [("calls a second", Report::rate), ("p99, µs", |report| report.latency.p99)];

/// Who, and points of calls in flight and figure.
type Series = (String, Vec<(f64, f64)>);

/// Draws the plain echoes over one TCP connection.
pub(crate) fn draw(path: &Path, groups: &[Group], facts: &[(&str, String)]) -> Result<(), Failure> {
    let area = SVGBackend::new(path, (1200, 900)).into_drawing_area();
    area.fill(&WHITE).map_err(text)?;
    let (panels, foot) = area.split_vertically(870);
    let facts: Vec<String> = facts.iter().map(|(what, value)| format!("{what}: {value}")).collect();
    foot.titled(&facts.join(" · "), ("sans-serif", 12)).map_err(text)?;
    let panels = panels.split_evenly((PAYLOADS.len(), FIGURES.len()));
    let shown = PAYLOADS.iter().flat_map(|payload| FIGURES.iter().map(move |figure| (payload, figure)));
    for (panel, ((payload, size), (what, figure))) in panels.iter().zip(shown) {
        let series = series(groups, *payload, *figure);
        if !series.is_empty() {
            draw_panel(panel, &format!("echo of {size}: {what}"), &series)?;
        }
    }
    area.present().map_err(text)
}

fn series(groups: &[Group], payload: usize, figure: fn(&Report) -> f64) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for group in groups {
        let run = &group.case.run;
        if group.case.name() != RunArgs::echo(payload, run.in_flight, run.seconds).case() {
            continue;
        }
        for row in &group.rows {
            let (name, point) = (row.subject.name(), (run.in_flight as f64, row.median(figure)));
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push(point),
                None => all.push((name, vec![point])),
            }
        }
    }
    all
}

fn draw_panel(panel: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, series: &[Series]) -> Result<(), Failure> {
    let points = || series.iter().flat_map(|(_, points)| points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (least, most) = points().map(of).fold((f64::MAX, 0.0_f64), |(a, b), x| (a.min(x), b.max(x)));
        ((least.max(f64::MIN_POSITIVE) / 1.3)..(most * 1.3)).log_scale()
    };
    let mut chart = ChartBuilder::on(panel)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(range(|point| point.0), range(|point| point.1))
        .map_err(text)?;
    chart.configure_mesh().x_desc("calls in flight").light_line_style(TRANSPARENT).draw().map_err(text)?;
    for (index, (name, points)) in series.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3))
            .map_err(text)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 11))
        .draw()
        .map_err(text)
}

fn text(error: impl std::fmt::Display) -> Failure {
    error.to_string().into()
}
