//! Checks every path in the crate against the rules.

use crate::resolve::Target;
use crate::rules::{NEVER, Never, ONLY, ROOMS};
use crate::source::{House, Mention};
use std::collections::BTreeMap;
use std::path::Path;

/// A path in a module, and the steps of its resolution.
#[derive(Debug)]
pub struct Reference<'a> {
    pub from: &'a [String],
    pub file: &'a Path,
    pub mention: &'a Mention,
    pub chain: Vec<Target>,
}

impl Reference<'_> {
    pub fn room(&self) -> &str {
        &self.from[0]
    }

    /// Returns the steps that lead to other rooms or to the root. If a room re-exports an item of its own,
    /// the item's module counts, not the place of the re-export.
    pub fn arrows(&self) -> impl Iterator<Item = &Target> {
        let last = self.chain.last();
        let end = last.and_then(Target::room);
        self.chain.iter().filter(move |step| {
            let inside = matches!(step, Target::Inside { .. });
            inside && step.room() != Some(self.room()) && (Some(*step) == last || step.room() != end)
        })
    }

    /// Formats a message with the file, the line, and the steps from the written path to its target.
    fn place(&self, message: &str) -> String {
        let written = &self.mention.written;
        let colons = if written.outer && written.segments != ["async"] { "::" } else { "" };
        let star = if written.glob { "::*" } else { "" };
        let mut steps = vec![format!("`{colons}{}{star}`", written.segments.join("::"))];
        steps.extend(self.chain.iter().map(|target| from_crate(target).join("::")));
        let test = if self.mention.test { " (test code)" } else { "" };
        format!("{}:{}: {message}{test}: {}", self.file.display(), self.mention.line, steps.join(" -> "))
    }
}

/// Returns every reference in the crate, except in the root, which only declares the rooms.
pub fn references(house: &House) -> Vec<Reference<'_>> {
    let mut found = Vec::new();
    for (from, module) in house.modules.iter().filter(|(from, _)| !from.is_empty()) {
        for mention in &module.mentions {
            found.extend(house.resolve(from, &mention.written).into_iter().map(|chain| Reference {
                from,
                file: &module.file,
                mention,
                chain,
            }));
        }
    }
    found
}

/// Returns the violations, one line each, sorted by file. A file that violates a rule several times with the
/// same item is reported once, with the first line.
pub fn problems(house: &House) -> Vec<String> {
    let mut broken = BTreeMap::new();
    for reference in references(house) {
        for target in &reference.chain {
            let rules = between_rooms(&reference, target).into_iter();
            let rules = rules.chain(never(&reference, target)).chain(only(&reference, target));
            for message in rules {
                let place = (reference.mention.line, reference.place(&message));
                let first = broken
                    .entry((reference.file.to_owned(), message, target.segments()))
                    .or_insert_with(|| place.clone());
                *first = place.min(first.clone());
            }
        }
    }
    let mut lines: Vec<_> =
        broken.into_iter().map(|((file, ..), (line, problem))| (file, line, problem)).collect();
    lines.extend(house.unreached.iter().map(|file| {
        let problem = format!("{}: no `mod` reaches the file", file.display());
        (file.clone(), 0, problem)
    }));
    lines.sort();
    lines.into_iter().map(|(.., problem)| problem).collect()
}

/// Returns the entries of the tables that no path in the crate needs. Such an entry allows what nobody decided
/// to allow.
pub fn unused(house: &House) -> Vec<String> {
    let references = references(house);
    let mut unused = Vec::new();
    for room in ROOMS {
        for may in room.may {
            let needs = |arrow: &Target| starts_with(&arrow.segments(), may);
            if !references.iter().any(|found| found.room() == room.name && found.arrows().any(needs)) {
                unused.push(format!("`{}` does not import `{may}`", room.name));
            }
        }
    }
    for rule in NEVER {
        let within = || references.iter().filter(|found| starts_with(found.from, rule.within));
        for save in rule.save {
            let names = |target: &Target| starts_with(&from_crate(target), save);
            if !within().any(|found| !is_exempt(rule, found) && found.chain.iter().any(names)) {
                unused.push(format!("`{}` does not use `{save}`", rule.within));
            }
        }
        for exempt in rule.except {
            let breaks = |target: &Target| forbidden(rule, target, false).is_some();
            if !within().any(|found| starts_with(found.from, exempt) && found.chain.iter().any(breaks)) {
                unused.push(format!("`{exempt}` needs no exemption within `{}`", rule.within));
            }
        }
    }
    for rule in ONLY {
        for by in rule.by {
            let names = |target: &Target| starts_with(&target.segments(), rule.path);
            if !references.iter().any(|found| starts_with(found.from, by) && found.chain.iter().any(names)) {
                unused.push(format!("`{by}` does not use `{}`", rule.path));
            }
        }
    }
    unused
}

fn between_rooms(reference: &Reference<'_>, target: &Target) -> Option<String> {
    let from = reference.room();
    let path = target.segments();
    if !reference.arrows().any(|arrow| arrow == target) {
        return None;
    }
    let Some(to) = target.room() else {
        return Some(format!("`{from}` imports the crate's root, and with it every room"));
    };
    let Some(room) = ROOMS.iter().find(|room| room.name == from) else {
        return Some(format!("`{from}` is not a room of the table"));
    };
    let allowed = room.may.iter().any(|may| starts_with(&path, may));
    (!allowed).then(|| match (height(from), height(to)) {
        (Some(own), Some(other)) if own < other => format!("`{from}` imports `{to}`, which is above it"),
        _ => format!("`{from}` may not use `{}`", path.join("::")),
    })
}

fn never(reference: &Reference<'_>, target: &Target) -> Vec<String> {
    let glob = reference.mention.written.glob;
    let rules = NEVER.iter().filter(|rule| starts_with(reference.from, rule.within));
    rules
        .filter(|rule| !is_exempt(rule, reference))
        .filter_map(|rule| {
            let never = forbidden(rule, target, glob)?;
            Some(format!("`{}` must not use `{never}`", rule.within))
        })
        .collect()
}

fn is_exempt(rule: &Never, reference: &Reference<'_>) -> bool {
    rule.except.iter().any(|module| starts_with(reference.from, module))
}

/// Returns the path of the rule that forbids the target. `glob` tells whether everything in it is imported.
fn forbidden(rule: &Never, target: &Target, glob: bool) -> Option<&'static str> {
    let path = from_crate(target);
    if rule.save.iter().any(|save| starts_with(&path, save)) {
        return None;
    }
    let named = rule.paths.iter().find(|never| {
        // `std::time::*` imports `Instant`.
        let brings = glob && starts_with(&split(never), &path.join("::"));
        starts_with(&path, never) || brings && matches!(target, Target::Outside(_))
    });
    named.copied()
}

fn only(reference: &Reference<'_>, target: &Target) -> Option<String> {
    let Target::Outside(path) = target else { return None };
    let rule = ONLY.iter().find(|rule| starts_with(path, rule.path))?;
    let known = rule.by.iter().any(|by| starts_with(reference.from, by));
    (!known).then(|| format!("only {} may use `{}`", rule.by.join(" and "), rule.path))
}

/// Returns the target's path, starting with `crate` if it is in the crate.
fn from_crate(target: &Target) -> Vec<String> {
    let root = matches!(target, Target::Inside { .. }).then(|| "crate".to_owned());
    root.into_iter().chain(target.segments()).collect()
}

/// Returns the position of a room from the bottom.
pub fn height(room: &str) -> Option<usize> {
    ROOMS.iter().position(|known| known.name == room)
}

fn split(path: &str) -> Vec<String> {
    path.split("::").map(str::to_owned).collect()
}

/// Returns whether `path` is `start` or below it.
fn starts_with(path: &[String], start: &str) -> bool {
    path.starts_with(&split(start))
}
