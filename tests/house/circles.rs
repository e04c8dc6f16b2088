//! Circles: among rooms, and among the children of one module.
//!
//! Within a room, a child may use what its parents define: it is a part of their implementation, and sees even what
//! they keep private. Siblings are separate concepts, so their arrows, and those of the modules inside them, must not
//! form a circle. A re-export of a sibling's item by the parent leads to the sibling. Test code does not count: it is
//! not in the product, and a module's tests often need its neighbours.

use crate::judge::references;
use crate::resolve::Target;
use crate::source::House;
use std::collections::{BTreeMap, BTreeSet};

/// Names, and the names that each one knows.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// For each arrow, a place in the sources.
type Examples = BTreeMap<(String, String), String>;

/// The circles among siblings, at every depth below the rooms, one line each with an example of every arrow.
pub fn among_siblings(house: &House) -> Vec<String> {
    let mut levels: BTreeMap<Vec<String>, (Graph, Examples)> = BTreeMap::new();
    for reference in references(house).iter().filter(|reference| !reference.mention.test) {
        for target in &reference.chain {
            let Target::Inside { module, .. } = target else { continue };
            let shared = module.iter().zip(reference.from).take_while(|(to, from)| to == from).count();
            // In different rooms, or in a module and one around it.
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

/// The groups of two names or more in which each one leads to every other.
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
