//! The report as Markdown, for pasting into documents.

use super::chart::charts;
use super::compared::Compared;
use super::tables::{SWEEP, Table, environments, loads, results, stages, sweep, systems};
use super::theme::Theme;

/// Returns the tables of these results. With `pictures`, also links to the charts in that directory.
pub fn text(title: &str, all: &[Compared], pictures: Option<&str>) -> String {
    let mut text = format!("# {}\n\n{}", line(title), table(&results(all)));
    for one in all {
        if let Some(sweep) = sweep(one) {
            let name = line(&one.name);
            text += &format!("## By number of connections: {name}\n\n{SWEEP}\n\n{}", table(&sweep));
        }
    }
    if let Some(directory) = pictures {
        for chart in charts(Theme::Light, all) {
            let title = line(&chart.title);
            text +=
                &format!("## {title}\n\n{}\n\n![{title}]({directory}/{}.svg)\n\n", chart.caption, chart.name);
        }
    }
    for one in all {
        if let Some(stages) = stages(one) {
            text += &format!("## Stages in the server: {}\n\n{}", line(&one.name), table(&stages));
        }
    }
    for (heading, of) in [
        ("Loads and verification", loads(all)),
        ("Systems under load", systems(all)),
        ("Where it ran", environments(all)),
    ] {
        text += &format!("## {heading}\n\n{}", table(&of));
    }
    text
}

/// Escapes text so that it stays on one line and has no markup.
fn line(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ");
    let marks = ["\\", "<", "[", "]", "|", "*", "`"];
    marks.iter().fold(text, |text, mark| text.replace(mark, &format!("\\{mark}")))
}

fn table(table: &Table) -> String {
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| line(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = format!("|{}\n", " --- |".repeat(table.head.len()));
    let rows: String = table.rows.iter().map(|cells| row(cells)).collect();
    format!("{}{rule}{rows}\n", row(&table.head))
}
