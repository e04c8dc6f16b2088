//! `millstream report`: draws and compares results of `bench --out`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Failure;
use super::output::Output;
use crate::process::terminal::say;
use crate::report::{Compared, page, png, summary, svg, text};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads files that `millstream bench --out FILE` wrote. Compares every result
with the first. The web page is one self-contained file and needs no network.

Examples:
  millstream report result.json                           write report.html
  millstream report before.json after.json --html c.html  compare two results
  millstream report result.json --markdown -              print tables

Exit codes:
  0    written
  2    a file cannot be read or written, or is not a result of bench
  141  standard output was closed")]
pub(super) struct Args {
    /// Files that `bench --out` wrote. The first is the baseline
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// Heading of the page
    #[arg(long, default_value = "Millstream: a load")]
    title: String,
    /// Write the web page to this file [default: report.html, if no other output is requested]
    #[arg(long)]
    html: Option<PathBuf>,
    /// Write the numbers as JSON to this file; - for standard output
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables as Markdown to this file, with links to the charts of --svg; - for standard output
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Write each chart as SVG into this directory
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Write each chart as PNG into this directory
    #[arg(long)]
    png: Option<PathBuf>,
}

fn failed(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> Failure {
    move |error| Failure(format!("{}: {error}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if path == Path::new("-") {
        let mut out = Output::new();
        std::io::Write::write_all(&mut out, bytes)?;
        return out.finish();
    }
    std::fs::write(path, bytes).map_err(|error| failed(path)(&error))?;
    say(format_args!("{}", path.display()));
    Ok(())
}

fn directory(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).map_err(|error| failed(path)(&error))
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut files = Vec::new();
    for path in &args.results {
        let content = std::fs::read_to_string(path).map_err(|error| failed(path)(&error))?;
        files.push((path.display().to_string(), content));
    }
    let all = Compared::read(&files).map_err(Failure)?;
    let Args { title, html, json, markdown, .. } = args;
    let is_only_page = json.is_none() && markdown.is_none() && args.svg.is_none() && args.png.is_none();
    let html = html.clone().or_else(|| is_only_page.then(|| "report.html".into()));
    if let Some(path) = html {
        write(&path, page(title, &all).as_bytes())?;
    }
    if let Some(path) = json {
        write(path, (summary(&all)? + "\n").as_bytes())?;
    }
    if let Some(path) = markdown {
        // Links are relative to the Markdown file.
        let beside = path.parent().unwrap_or(Path::new(""));
        let pictures =
            args.svg.as_deref().map(|svg| svg.strip_prefix(beside).unwrap_or(svg).display().to_string());
        write(path, text(title, &all, pictures.as_deref()).as_bytes())?;
    }
    if let Some(path) = &args.svg {
        directory(path)?;
        for chart in svg(&all) {
            write(&path.join(format!("{}.svg", chart.name)), chart.svg.as_bytes())?;
        }
    }
    if let Some(path) = &args.png {
        directory(path)?;
        for chart in svg(&all) {
            let picture = png(&chart).map_err(|error| Failure(error.to_string()))?;
            write(&path.join(format!("{}.png", chart.name)), &picture)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
