//! Throughput and tail latency against calls in flight, as a picture.

use std::path::Path;

use bench_driver::{Report, RunArgs};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Failure;
use crate::subject::Subject;
use crate::table::Group;

/// Payloads that have a row of panels.
const PAYLOADS: [(usize, &str); 2] = [(32, "32 B"), (1 << 10, "1 KiB")];

/// What a panel shows.
type Figure = (&'static str, fn(&Report) -> f64);
const FIGURES: [Figure; 2] = [("calls a second", Report::rate), ("p99, µs", |report| report.latency.p99)];

/// Facts that stand under the picture, a line each row.
const FACTS: [&[&str]; 2] = [&["cores", "CPU", "kernel", "commit", "date"], &["other frameworks"]];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Who, and points of calls in flight and figure.
type Series<'a> = (&'a Subject, Vec<(f64, f64)>);

/// Draws the plain echoes over one TCP connection.
pub(crate) fn draw(path: &Path, groups: &[Group], facts: &[(&str, String)]) -> Result<(), Failure> {
    let area = SVGBackend::new(path, (1300, 900)).into_drawing_area();
    area.fill(&WHITE).map_err(text)?;
    let (area, foot) = area.split_vertically(856);
    let (panels, legend) = area.split_horizontally(1120);
    let panels = panels.split_evenly((PAYLOADS.len(), FIGURES.len()));
    let shown = PAYLOADS.iter().flat_map(|payload| FIGURES.iter().map(move |figure| (payload, figure)));
    let mut subjects: Vec<&Subject> = Vec::new();
    for (panel, ((payload, size), (what, figure))) in panels.iter().zip(shown) {
        let series = series(groups, *payload, *figure);
        for (subject, _) in &series {
            if !subjects.contains(subject) {
                subjects.push(subject);
            }
        }
        if !series.is_empty() {
            draw_panel(panel, &format!("echo of {size}: {what}"), &series, &subjects)?;
        }
    }
    for (index, subject) in subjects.iter().enumerate() {
        let y = 60 + 22 * index as i32;
        legend.draw(&PathElement::new([(8, y), (36, y)], style(subject, &subjects))).map_err(text)?;
        legend.draw(&Text::new(subject.name(), (44, y - 6), ("sans-serif", 12))).map_err(text)?;
    }
    for (index, names) in FACTS.iter().enumerate() {
        let facts = names.iter().filter_map(|name| facts.iter().find(|(what, _)| what == name));
        let facts: Vec<String> = facts.map(|(what, value)| format!("{what}: {value}")).collect();
        let place = (12, 4 + 18 * index as i32);
        foot.draw(&Text::new(facts.join(" · "), place, ("sans-serif", 12))).map_err(text)?;
    }
    area.present().map_err(text)
}

fn series(groups: &[Group], payload: usize, figure: fn(&Report) -> f64) -> Vec<Series<'_>> {
    let mut all: Vec<Series<'_>> = Vec::new();
    for group in groups {
        let run = &group.case.run;
        if group.case.name() != RunArgs::echo(payload, run.in_flight, run.seconds).case() {
            continue;
        }
        for row in &group.rows {
            let point = (run.in_flight as f64, row.median(figure));
            match all.iter_mut().find(|(known, _)| **known == row.subject) {
                Some((_, points)) => points.push(point),
                None => all.push((&row.subject, vec![point])),
            }
        }
    }
    all
}

/// Each its colour; ours broad, floors thin.
fn style(subject: &Subject, all: &[&Subject]) -> ShapeStyle {
    let index = all.iter().position(|known| *known == subject).unwrap_or_default();
    let width = match subject {
        Subject::Ours(client) if client.is_floor() => 1,
        Subject::Ours(_) => 4,
        Subject::Peer(_) => 2,
    };
    // Steps of the golden ratio around the circle of colours: neighbours differ most.
    let hue = (index as f64 * 0.618).fract();
    HSLColor(hue, 0.85, if index.is_multiple_of(2) { 0.35 } else { 0.5 }).stroke_width(width)
}

fn draw_panel(panel: &Area<'_>, title: &str, series: &[Series<'_>], all: &[&Subject]) -> Result<(), Failure> {
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
    let whole = |value: &f64| format!("{value:.0}");
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("calls in flight").light_line_style(TRANSPARENT).x_label_formatter(&whole).y_label_formatter(&whole);
    mesh.draw().map_err(text)?;
    for (subject, points) in series {
        let line = LineSeries::new(points.iter().copied(), style(subject, all)).point_size(3);
        chart.draw_series(line).map_err(text)?;
    }
    Ok(())
}

fn text(error: impl std::fmt::Display) -> Failure {
    error.to_string().into()
}
