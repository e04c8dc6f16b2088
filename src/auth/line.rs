//! A line of a file of tokens.

use std::fmt;
use std::path::Path;

use super::provider::listed::Listed;
use super::token::{Digest, check_name};
use crate::base::setting::Unworkable;

/// A line of a file of tokens: `NAME sha256:DIGEST PROJECTS RULE RULE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(String);

impl Line {
    /// Creates a line. Refuses what the server would refuse.
    pub fn new(name: &str, digest: Digest, projects: &str, rules: &[String]) -> Result<Self, String> {
        check_name(name)?;
        let line = format!("{name} {digest} {projects} {}", rules.join(" "));
        let file = format!("{line}\n");
        match Listed::read("line", Path::new("new"), file.as_bytes()) {
            Ok(_) if line.split_whitespace().count() == 3 + rules.len() => Ok(Self(line)),
            Ok(_) => Err("a name, project or rule contains white space".into()),
            Err(Unworkable(why)) => {
                Err(why.rsplit_once("line 1: ").map_or(why.clone(), |(_, why)| why.into()))
            }
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_the_server_would_refuse_is_refused() {
        let digest = Digest::of("x");
        let rules = |rules: &[&str]| rules.iter().map(|rule| (*rule).to_owned()).collect::<Vec<_>>();
        let line = Line::new("app", digest, "a,b", &rules(&["produce:x", "consume:*"])).unwrap();
        assert_eq!(line.to_string(), format!("app {digest} a,b produce:x consume:*"));
        for (name, projects, rule, why) in [
            ("a b", "a", "all:*", "is not a name"),
            ("#a", "a", "all:*", "is not a name"),
            ("", "a", "all:*", "is not a name"),
            ("a", "a b", "all:*", "is not a rule"),
            ("a", "a", "all:* all:x", "white space"),
            ("a", "a\nb", "all:*", "rules are missing"),
            ("a", "a/b", "all:*", "project"),
            ("a", "a", "write:*", "is not a rule"),
        ] {
            let said = Line::new(name, digest, projects, &rules(&[rule])).unwrap_err();
            assert!(said.contains(why), "{name} {projects} {rule}: {said}");
        }
    }
}
