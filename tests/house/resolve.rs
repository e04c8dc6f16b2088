//! Resolves a written path to an item of a module of the crate, through every rename and re-export on the
//! way, or to something in another crate.

use crate::source::{House, Written};
use std::collections::BTreeSet;

/// The target of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// An item of a module of the crate, or the module itself if `item` is `None`.
    Inside { module: Vec<String>, item: Option<String> },
    /// A path in another crate. `core` and `alloc` count as `std`.
    Outside(Vec<String>),
}

impl Target {
    /// Returns the room, unless the target is the crate's root or in another crate.
    pub fn room(&self) -> Option<&str> {
        match self {
            Self::Inside { module, .. } => module.first().map(String::as_str),
            Self::Outside(_) => None,
        }
    }

    /// Returns the path from the crate's root, or from the other crate's name.
    pub fn segments(&self) -> Vec<String> {
        match self {
            Self::Inside { module, item } => module.iter().chain(item).cloned().collect(),
            Self::Outside(path) => path.clone(),
        }
    }
}

/// The steps from a path to its target: one for each re-export in another module, and the target.
pub type Chain = Vec<Target>;

/// The (module, name) pairs that a lookup has visited. They stop it at a circle of `use` declarations.
type Seen = BTreeSet<(Vec<String>, String)>;

impl House {
    /// Resolves `written` in the module `from`. Returns several chains if the module imports a name more than
    /// once, for example in two functions.
    pub fn resolve(&self, from: &[String], written: &Written) -> Vec<Chain> {
        self.start(from, written, &mut Seen::new())
    }

    fn start(&self, from: &[String], written: &Written, seen: &mut Seen) -> Vec<Chain> {
        let segments = &written.segments[..];
        let Some(first) = segments.first() else { return Vec::new() };
        if !written.outer && first == "crate"
            || self.own_names.contains(first) && !self.has(from, first, seen)
        {
            return self.walk(&[], &segments[1..], seen);
        }
        if !written.outer && (first == "self" || first == "super") {
            let mut at = from.to_vec();
            let mut rest = segments;
            while let Some(step @ ("self" | "super")) = rest.first().map(String::as_str) {
                if step == "super" {
                    at.pop();
                }
                rest = &rest[1..];
            }
            return self.walk(&at, rest, seen);
        }
        if !written.outer && self.has(from, first, &mut seen.clone()) {
            return self.walk(from, segments, seen);
        }
        let std = if first == "core" || first == "alloc" { "std" } else { first };
        let path = [std.to_owned()].into_iter().chain(segments[1..].iter().cloned()).collect();
        vec![vec![Target::Outside(path)]]
    }

    /// Resolves `rest` from the module `at`.
    fn walk(&self, at: &[String], rest: &[String], seen: &mut Seen) -> Vec<Chain> {
        let Some(name) = rest.first() else {
            return vec![vec![Target::Inside { module: at.to_vec(), item: None }]];
        };
        let child = join(at, name);
        if self.modules.contains_key(&child) {
            return self.walk(&child, &rest[1..], seen);
        }
        let here = Target::Inside { module: at.to_vec(), item: Some(name.clone()) };
        let Some(module) = self.modules.get(at) else { return vec![vec![here]] };
        if !seen.insert((at.to_vec(), name.clone())) {
            return Vec::new();
        }
        let mut chains = Vec::new();
        for (_, to) in module.bindings.iter().filter(|(bound, _)| bound == name) {
            let mut segments = to.segments.clone();
            segments.extend_from_slice(&rest[1..]);
            let to = Written { segments, ..to.clone() };
            chains.extend(self.start(at, &to, &mut seen.clone()));
        }
        if chains.is_empty() && !module.items.contains(name) {
            for source in self.glob_sources(at, seen) {
                if self.has(&source, name, &mut seen.clone()) {
                    chains.extend(self.walk(&source, rest, &mut seen.clone()));
                }
            }
        }
        if chains.is_empty() {
            return vec![vec![here]];
        }
        chains.iter_mut().for_each(|chain| chain.insert(0, here.clone()));
        chains
    }

    /// Returns whether the module has the name as a child, an item or an import.
    fn has(&self, at: &[String], name: &String, seen: &mut Seen) -> bool {
        let Some(module) = self.modules.get(at) else { return false };
        if self.modules.contains_key(&join(at, name)) || module.items.contains(name) {
            return true;
        }
        // An import of a crate under its own name is that crate.
        let bound = |(bound, to): &(String, Written)| bound == name && to.segments != [name.clone()];
        if module.bindings.iter().any(bound) && !seen.contains(&(at.to_vec(), name.clone())) {
            return true;
        }
        seen.insert((at.to_vec(), format!("*{name}")))
            && self.glob_sources(at, seen).iter().any(|source| self.has(source, name, seen))
    }

    /// Returns the modules of the crate that the module imports with `*`.
    fn glob_sources(&self, at: &[String], seen: &mut Seen) -> Vec<Vec<String>> {
        if !seen.insert((at.to_vec(), "*".to_owned())) {
            return Vec::new();
        }
        let globs = self.modules.get(at).map_or(&[][..], |module| &module.globs);
        let chains = globs.iter().flat_map(|glob| self.start(at, glob, seen)).collect::<Vec<_>>();
        seen.remove(&(at.to_vec(), "*".to_owned()));
        let ends = chains.into_iter().filter_map(|mut chain| chain.pop());
        ends.filter_map(|end| match end {
            Target::Inside { module, item: None } => Some(module),
            _ => None,
        })
        .collect()
    }
}

fn join(module: &[String], name: &str) -> Vec<String> {
    module.iter().cloned().chain([name.to_owned()]).collect()
}
