//! Grants: what an authenticated client may do.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use super::rule::{Right, Rule};
use crate::base::millis::UnixMillis;
use crate::base::names::{ClientId, Project};

/// What a client may do, and until when. What no rule allows is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The client, as its provider names it, like `static:app1`. Two clients with the same principal are the
    /// same one.
    pub principal: Arc<str>,
    /// The projects that it may work in.
    pub projects: Projects,
    /// What it may do there.
    pub rules: Arc<[Rule]>,
    /// When the grant ends. `None` if it has no end.
    pub expires: Option<UnixMillis>,
}

/// The projects of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Projects {
    /// Every project. Only the operator's configuration gives this.
    Any,
    /// These projects.
    Listed(Arc<[Project]>),
}

/// The reason why a client cannot work in a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectFault {
    /// The client names none, and has several.
    Ambiguous,
    /// The client has no such project.
    Forbidden,
}

impl fmt::Display for ProjectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ambiguous => "project: the client has several; name one in X-Project-Id",
            Self::Forbidden => "project: not one of the client's",
        })
    }
}

impl Grant {
    /// Returns the project to work in: the one that the client names; otherwise its only one. A client of every
    /// project that names none gets `default`.
    pub fn project(&self, named: Option<&Project>, default: &Project) -> Result<Project, ProjectFault> {
        match (&self.projects, named) {
            (Projects::Any, named) => Ok(named.unwrap_or(default).clone()),
            (Projects::Listed(projects), Some(named)) if projects.contains(named) => Ok(named.clone()),
            (Projects::Listed(_), Some(_)) => Err(ProjectFault::Forbidden),
            (Projects::Listed(projects), None) => match &projects[..] {
                [] => Err(ProjectFault::Forbidden),
                [only] => Ok(only.clone()),
                _ => Err(ProjectFault::Ambiguous),
            },
        }
    }

    /// Returns the project of a connection whose requests name their projects themselves: the one that the client names, if
    /// it may work there; otherwise its first one. A client of every project that names none gets `default`.
    pub fn home(&self, named: Option<&Project>, default: &Project) -> Result<Project, ProjectFault> {
        match (&self.projects, self.project(named, default)) {
            (Projects::Listed(projects), Err(fault)) => projects.first().cloned().ok_or(fault),
            (_, found) => found,
        }
    }

    /// Returns whether the client may work in a project.
    pub fn reaches(&self, project: &Project) -> bool {
        match &self.projects {
            Projects::Any => true,
            Projects::Listed(projects) => projects.contains(project),
        }
    }

    /// Returns whether a rule gives a right on a queue.
    pub fn allows(&self, right: Right, queue: &str) -> bool {
        self.rules.iter().any(|rule| rule.allows(right, queue))
    }

    /// Returns whether the rules give any right on a queue.
    pub fn knows(&self, queue: &str) -> bool {
        Right::ALL.into_iter().any(|right| self.allows(right, queue))
    }
}

/// Returns the id of a client among all principals: the same id of another principal is another client.
pub fn own_client(principal: &str, client: ClientId) -> ClientId {
    let mut hash = Context::new(&SHA256);
    hash.update(principal.as_bytes());
    hash.update(&client.as_u128().to_le_bytes());
    let mut bits = [0; 16];
    bits.copy_from_slice(&hash.finish().as_ref()[..16]);
    ClientId::from(u128::from_le_bytes(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(name: &str) -> Project {
        Project::parse(name).unwrap()
    }

    fn grant(projects: Projects, rules: &[&str]) -> Grant {
        let rules = rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect();
        Grant { principal: "static:app".into(), projects, rules, expires: None }
    }

    #[test]
    fn a_client_works_in_its_own_projects_only() {
        let default = project("default");
        let listed = |names: &[&str]| Projects::Listed(names.iter().map(|name| project(name)).collect());
        for (projects, named, expected) in [
            (listed(&["a"]), None, Ok("a")),
            (listed(&["a"]), Some("a"), Ok("a")),
            (listed(&["a"]), Some("default"), Err(ProjectFault::Forbidden)),
            (listed(&["a", "b"]), Some("b"), Ok("b")),
            (listed(&["a", "b"]), None, Err(ProjectFault::Ambiguous)),
            (listed(&[]), None, Err(ProjectFault::Forbidden)),
            (Projects::Any, Some("x"), Ok("x")),
            (Projects::Any, None, Ok("default")),
        ] {
            let grant = grant(projects, &[]);
            let found = grant.project(named.map(project).as_ref(), &default);
            assert_eq!(found, expected.map(project), "{:?} {named:?}", grant.projects);
        }
    }

    #[test]
    fn a_client_that_names_no_project_of_its_own_is_at_home_in_its_first() {
        let default = project("default");
        let listed = |names: &[&str]| Projects::Listed(names.iter().map(|name| project(name)).collect());
        for (projects, named, expected) in [
            (listed(&["a", "b"]), Some("b"), Ok("b")),
            (listed(&["a", "b"]), Some("x"), Ok("a")),
            (listed(&["a", "b"]), None, Ok("a")),
            (listed(&[]), Some("x"), Err(ProjectFault::Forbidden)),
            (Projects::Any, Some("x"), Ok("x")),
            (Projects::Any, None, Ok("default")),
        ] {
            let grant = grant(projects, &[]);
            let found = grant.home(named.map(project).as_ref(), &default);
            assert_eq!(found, expected.map(project), "{:?} {named:?}", grant.projects);
        }
    }

    #[test]
    fn what_no_rule_allows_is_refused() {
        let grant = grant(Projects::Any, &["consume:orders*", "produce,manage:log"]);
        assert!(grant.allows(Right::Consume, "orders-1"));
        assert!(!grant.allows(Right::Produce, "orders-1"));
        assert!(grant.allows(Right::Produce, "log") && grant.allows(Right::Manage, "log"));
        assert!(!grant.allows(Right::Produce, "log2") && !grant.allows(Right::Claim, "log"));
    }
}
