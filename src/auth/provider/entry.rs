//! What the lines of files entitle a client to: projects and rules.

use std::fmt::Display;
use std::path::Path;
use std::str::SplitWhitespace;
use std::sync::Arc;

use crate::access::{Projects, Rule};
use crate::auth::token;
use crate::base::names::Project;
use crate::base::setting::Unworkable;

/// The projects and rules of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::auth) struct Entitled {
    /// The projects.
    pub(in crate::auth) projects: Projects,
    /// The rules.
    pub(in crate::auth) rules: Arc<[Rule]>,
}

impl Entitled {
    /// Parses `PROJECTS RULE RULE`.
    pub(in crate::auth) fn parse(mut words: SplitWhitespace<'_>) -> Result<Self, String> {
        let projects = projects(words.next().ok_or("the projects are missing; * is every project")?)?;
        let rules: Arc<[Rule]> = words.map(Rule::parse).collect::<Result<_, _>>()?;
        if rules.is_empty() {
            return Err("the rules are missing; all:* allows everything".into());
        }
        Ok(Self { projects, rules })
    }
}

/// Parses `*`, or names of projects with commas between them.
pub(in crate::auth) fn projects(text: &str) -> Result<Projects, String> {
    if text == "*" {
        return Ok(Projects::Any);
    }
    let parse = |name| Project::parse(name).map_err(|fault| format!("{text:?}: {fault}"));
    text.split(',').map(parse).collect::<Result<_, _>>().map(Projects::Listed)
}

/// Reads the lines of a file. Errors name the setting, the file and the line.
pub(in crate::auth) fn read_lines(
    key: &str,
    path: &Path,
    bytes: &[u8],
    mut read: impl FnMut(&str) -> Result<(), String>,
) -> Result<(), Unworkable> {
    let path = path.display();
    let failed = |why: &dyn Display| Unworkable(format!("{key}: {path}: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|_| failed(&"not UTF-8 text"))?;
    for (number, line) in token::lines(text).map_err(|why| failed(&why))? {
        read(line).map_err(|why| Unworkable(format!("{key}: {path}, line {number}: {why}")))?;
    }
    Ok(())
}
