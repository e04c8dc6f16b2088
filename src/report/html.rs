//! The report as a web page: one file that needs no network, in light, dark and print colours.

use std::fmt::Write;

use super::canvas::escape;
use super::chart::charts;
use super::compared::Compared;
use super::tables::{SWEEP, Table, environments, loads, results, settings, stages, sweep, systems};
use super::theme::{Theme, variables};

const STYLE: &str = include_str!("page.css");

/// Returns the page for these results.
pub fn page(title: &str, all: &[Compared]) -> String {
    let mut body = String::new();
    let title = escape(title);
    // Writing to a `String` never fails.
    let _ = writeln!(body, "<header><h1>{title}</h1></header>\n<main>");
    section(&mut body, "Results", &table(&results(all)), "");
    for one in all {
        if let Some(sweep) = sweep(one) {
            section(&mut body, &format!("By number of connections: {}", one.name), &table(&sweep), SWEEP);
        }
    }
    for chart in charts(Theme::Page, all) {
        let drawing = format!("<div class=\"chart\">{}</div>", chart.svg);
        section(&mut body, &chart.title, &drawing, &chart.caption);
    }
    for one in all {
        if let Some(stages) = stages(one) {
            let caption = "Recorded on the server's shards during the measured time.";
            section(&mut body, &format!("Stages in numbers: {}", one.name), &table(&stages), caption);
        }
    }
    section(&mut body, "Loads and verification", &table(&loads(all)), "");
    section(&mut body, "Systems under load", &table(&systems(all)), "");
    section(&mut body, "Where it ran", &table(&environments(all)), "");
    let commands: String = all
        .iter()
        .map(|one| {
            format!(
                "<p>{}</p><pre>millstream {}</pre>",
                escape(&one.name),
                escape(&one.file.command.join(" "))
            )
        })
        .collect();
    section(&mut body, "How it was run", &commands, "");
    if let Some(settings) = settings(all) {
        let folded =
            format!("<details><summary>Every setting of the servers</summary>{}</details>", table(&settings));
        section(&mut body, "Settings", &folded, "");
    }
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n:root{{{}}}\n@media (prefers-color-scheme: dark){{@media screen{{:root{{{}}}}}}}\n{STYLE}</style>\n</head>\n\
         <body>\n{body}</main>\n<footer>Made by millstream report {version}. Times: ns, µs, ms, s. Rates: k, M and G are \
         powers of 1,000.</footer>\n</body>\n</html>\n",
        variables(false),
        variables(true),
    )
}

/// Cells up to this many letters are not broken into lines, so that a number stays with its unit.
const UNBROKEN: usize = 24;

fn section(body: &mut String, title: &str, content: &str, caption: &str) {
    let (title, caption) = (escape(title), escape(caption));
    let caption =
        if caption.is_empty() { String::new() } else { format!("<p class=\"caption\">{caption}</p>") };
    let _ = writeln!(body, "<section><h2>{title}</h2>{caption}\n{content}</section>");
}

fn table(table: &Table) -> String {
    let cells = |tag: &str, row: &[String]| -> String {
        let cell = |cell: &String| {
            let class = if cell.chars().count() <= UNBROKEN { " class=\"short\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", escape(cell))
        };
        row.iter().map(cell).collect()
    };
    let rows: String = table.rows.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", row))).collect();
    format!(
        "<div class=\"table\"><table><thead><tr>{}</tr></thead><tbody>\n{rows}</tbody></table></div>\n",
        cells("th", &table.head)
    )
}
