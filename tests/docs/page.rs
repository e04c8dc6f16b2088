//! Finds sections, tables and code in a Markdown page.

use std::fs;

use super::root;

/// The text of a page, or of one section of it.
#[derive(Clone, Debug)]
pub struct Page(String);

impl Page {
    /// Reads a page of the repository.
    pub fn read(path: &str) -> Self {
        Self(fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    /// Returns the numbers of the numbered sections (`## 3. Statuses`), in order.
    pub fn section_numbers(&self) -> Vec<u32> {
        let headings = self.0.lines().filter_map(|line| line.strip_prefix("## "));
        headings.filter_map(|heading| heading.split_once(". ")?.0.parse().ok()).collect()
    }

    /// Returns the text below a heading, up to the next heading of the same or a higher level.
    pub fn section(&self, heading: &str) -> Self {
        let level = heading.bytes().take_while(|byte| *byte == b'#').count();
        let mut lines = self.0.lines().skip_while(|line| *line != heading);
        assert!(lines.next().is_some(), "no heading {heading:?}");
        let is_end = |line: &&str| {
            let hashes = line.bytes().take_while(|byte| *byte == b'#').count();
            (1..=level).contains(&hashes)
        };
        Self(lines.take_while(|line| !is_end(line)).collect::<Vec<_>>().join("\n"))
    }

    /// Returns the rows of the table whose first column has this title. Leaves out rows with only a bold
    /// heading.
    pub fn table(&self, title: &str) -> Vec<Vec<&str>> {
        let mut lines = self.0.lines().skip_while(|line| first_cell(line) != Some(title));
        assert!(lines.next().is_some() && lines.next().is_some(), "no table {title:?}");
        let rows = lines.map_while(|line| line.strip_prefix('|')?.strip_suffix('|'));
        let rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
        rows.filter(|row| !row[0].starts_with("**")).collect()
    }

    /// Returns the texts between single backticks, outside of code blocks.
    pub fn code(&self) -> Vec<&str> {
        let mut in_block = false;
        let mut code = Vec::new();
        for line in self.0.lines() {
            if line.starts_with("```") {
                in_block = !in_block;
            } else if !in_block {
                code.extend(line.split('`').skip(1).step_by(2));
            }
        }
        code
    }

    /// Returns the lines of the code block that begins with three backticks and `info`.
    pub fn block(&self, info: &str) -> Vec<&str> {
        let fence = format!("```{info}");
        let mut lines = self.0.lines().skip_while(|line| *line != fence);
        assert!(lines.next().is_some(), "no code block {info:?}");
        lines.take_while(|line| *line != "```").collect()
    }
}

fn first_cell(line: &str) -> Option<&str> {
    Some(line.strip_prefix('|')?.split('|').next()?.trim())
}

/// Returns the text of a cell that is code.
pub fn in_backticks(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}
