//! Draws the picture of `docs/decisions/credit-by-delay.md`: what each law does to delay and rate in one scenario.

use std::fmt::Write as _;
use std::time::Duration;

use super::laws::{Law, Rule, Simple};
use super::{Disk, Kind, MS, Regulator, SECOND, Seen, TARGET, run_with};

/// The length of the scenario, and of the time that each point of a line covers.
const UNTIL: u64 = 5 * SECOND;
const STEP: u64 = 25 * MS;
/// The size of a panel, and the distances of panels.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 70.0;
const LEFT: f64 = 110.0;
const ACROSS: f64 = 490.0;
const DOWN: f64 = 95.0;
const TOP: f64 = 60.0;
/// The ranges of the axes: delays in milliseconds, on a logarithmic axis, and messages a second.
const DELAYS: (f64, f64) = (1.0, 10_000.0);
const RATE_MAX: f64 = 7e6;

/// 16 producers; 200 more from 1 s; the disk stalls from 2 s to 2.5 s, and is a sixth as fast from 3.5 s.
fn seen(law: &mut impl Law) -> Seen {
    let disk = Disk {
        stalls_ns: (2 * SECOND, 2_500 * MS),
        becomes: (3_500 * MS, 100_000_000, 200_000),
        ..Disk::FAST
    };
    let kinds = [Kind::closed_loop(16), Kind { starts_ns: SECOND, ..Kind::closed_loop(200) }];
    run_with(law, disk, &kinds, UNTIL)
}

fn line(of: impl Fn((u64, u64)) -> f64) -> String {
    let mut points = String::new();
    for at in (0..UNTIL).step_by(STEP as usize) {
        let (x, y) = (WIDTH * at as f64 / UNTIL as f64, HEIGHT * (1.0 - of((at, at + STEP)).clamp(0.0, 1.0)));
        let _ = write!(points, "{x:.1},{y:.1} ");
    }
    format!("<polyline points='{}' fill='none' ", points.trim_end())
}

fn panel(svg: &mut String, row: usize, name: &str, seen: &Seen) {
    let of_delay = |ms: f64| (ms.max(DELAYS.0) / DELAYS.0).ln() / (DELAYS.1 / DELAYS.0).ln();
    let y = TOP + DOWN * row as f64;
    let target = HEIGHT * (1.0 - of_delay(TARGET as f64 / MS as f64));
    let (median, worst) =
        (line(|step| of_delay(seen.delay_ms(0.5, step))), line(|step| of_delay(seen.delay_ms(0.99, step))));
    let rate = line(|step| seen.rate(step) / RATE_MAX);
    let frame = format!("<rect width='{WIDTH}' height='{HEIGHT}' fill='none' stroke='#999'/>");
    let _ = write!(
        svg,
        "<text x='8' y='{:.0}'>{name}</text>\n\
         <g transform='translate({LEFT},{y})'>{frame}\n\
         <line x2='{WIDTH}' y1='{target:.1}' y2='{target:.1}' stroke='#999' stroke-dasharray='3'/>\n\
         {worst}stroke='#e69f00'/>\n{median}stroke='#0072b2' stroke-width='1.5'/></g>\n\
         <g transform='translate({},{y})'>{frame}\n{rate}stroke='#009e73' stroke-width='1.5'/></g>\n",
        y + HEIGHT / 2.0 + 4.0,
        LEFT + ACROSS,
    );
}

#[test]
#[ignore = "prints docs/decisions/credit-by-delay.svg"]
fn draw() {
    let simple = |rule| seen(&mut Simple::new(rule));
    let rows = [
        ("off", seen(&mut Regulator::new(Duration::ZERO))),
        ("BDP", simple(Rule::Bdp)),
        ("CoDel-like", simple(Rule::CoDel { count: 0 })),
        ("PI", simple(Rule::Pi { error_s: 0.0 })),
        ("Vegas-like", simple(Rule::Vegas { shortest_s: f64::MAX })),
        ("regulator", seen(&mut Regulator::new(Duration::from_nanos(TARGET)))),
    ];
    let (width, height) = (LEFT + ACROSS + WIDTH + 20.0, TOP + DOWN * rows.len() as f64 + 20.0);
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' font-family='sans-serif' font-size='13'>\n\
         <rect width='{width}' height='{height}' fill='#fff'/>\n\
         <text x='{LEFT}' y='22'>delay, 1 ms to 10 s (logarithmic): median blue, p99 orange; target dashed</text>\n\
         <text x='{}' y='22'>rate, 0 to 7 M/s</text>\n\
         <text x='{LEFT}' y='42' fill='#555'>0 to 5 s: 16 producers; 1 s: 216; 2 to 2.5 s: the disk stalls; 3.5 s: a sixth as fast</text>\n",
        LEFT + ACROSS,
    );
    for (row, (name, seen)) in rows.iter().enumerate() {
        panel(&mut svg, row, name, seen);
        let of = |from: u64, to: u64| {
            let between = (from * MS, to * MS);
            format!("{:.1} M/s {:.0} ms", seen.rate(between) / 1e6, seen.delay_ms(0.99, between))
        };
        eprintln!(
            "| {name} | {} | {} | {} | {} |",
            of(500, 1_000),
            of(1_500, 2_000),
            of(2_600, 3_000),
            of(4_500, 5_000)
        );
    }
    svg.push_str("</svg>\n");
    println!("{svg}");
}
