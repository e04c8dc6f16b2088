//! Finds circular dependencies among rooms and among the children of a module.
//!
//! Within a room, a child may use what its parents define: it is part of their implementation and can access
//! even their private items. Siblings are separate concepts, so the dependencies between them and the modules
//! inside them must not form a circle. A re-export of a sibling's item by the parent counts as a dependency
//! on the sibling. Test code does not count: it is not part of the product, and a module's tests often need
//! its neighbours.

use crate::judge::references;
use crate::resolve::Target;
use crate::source::House;
use std::collections::{BTreeMap, BTreeSet};

/// For each name, the names that it depends on.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// For each dependency, a place in the sources.
type Examples = BTreeMap<(String, String), String>;

/// Returns the circles among siblings at every depth below the rooms. Each line has an example of every
/// dependency.
pub fn among_siblings(house: &House) -> Vec<String> {
    let mut levels: BTreeMap<Vec<String>, (Graph, Examples)> = BTreeMap::new();
    for reference in references(house).iter().filter(|reference| !reference.mention.test) {
        for target in &reference.chain {
            let Target::Inside { module, .. } = target else { continue };
            let shared = module.iter().zip(reference.from).take_while(|(to, from)| to == from).count();
            // The modules are in different rooms, or one contains the other.
            if shared == 0 || shared == module.len() || shared == reference.from.len() {
                continue;
            }
            let (from, to) = (&reference.from[shared], &module[shared]);
            let (graph, examples) = levels.entry(module[..shared].to_vec()).or_default();
            graph.entry(from.clone()).or_default().insert(to.clone());
            examples
                .entry((from.clone(), to.clone()))
                .or_insert_with(|| format!("{}:{}", reference.file.display(), reference.mention.line));
        }
    }
    let mut found = Vec::new();
    for (parent, (graph, examples)) in levels {
        for circle in circles(&graph) {
            let arrows =
                examples.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
            let arrows: Vec<_> =
                arrows.map(|((from, to), place)| format!("{from} -> {to} ({place})")).collect();
            found.push(format!("{}: {}", parent.join("::"), arrows.join(", ")));
        }
    }
    found
}

/// Returns the groups of two or more names in which each depends on every other, directly or not.
pub fn circles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reach: Graph = graph.keys().map(|name| (name.clone(), reachable(graph, name))).collect();
    let mut found = BTreeSet::new();
    for (name, far) in &reach {
        let circle: BTreeSet<_> = far
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|back| back.contains(name)))
            .cloned()
            .collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut due = vec![from];
    while let Some(name) = due.pop() {
        for next in graph.get(name).into_iter().flatten() {
            if found.insert(next.clone()) {
                due.push(next);
            }
        }
    }
    found
}
