//! Draws the rooms and their dependencies, as text and for Graphviz.

use crate::circles::{Graph, circles};
use crate::judge::{height, references};
use crate::rules::MAIN;
use crate::source::House;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// The rooms and the dependencies between them.
#[derive(Debug)]
pub struct Drawing {
    /// The rooms from bottom to top. Rooms that are not in the table come last.
    rooms: Vec<String>,
    /// For each pair of rooms, how many different items of the second the first uses.
    arrows: BTreeMap<(String, String), usize>,
}

impl Drawing {
    /// Creates the drawing of the product's code, without tests.
    pub fn of(house: &House) -> Self {
        let mut rooms: Vec<_> = house
            .modules
            .keys()
            .filter(|path| path.len() == 1 && path[0] != MAIN)
            .map(|path| path[0].clone())
            .collect();
        rooms.sort_by_key(|room| height(room).unwrap_or(usize::MAX));
        let mut named = BTreeSet::new();
        for reference in references(house).iter().filter(|reference| !reference.mention.test) {
            let from = reference.room();
            for arrow in reference.arrows().filter(|_| from != MAIN) {
                if let Some(to) = arrow.room() {
                    named.insert((from.to_owned(), to.to_owned(), reference.file, arrow.segments()));
                }
            }
        }
        let mut arrows = BTreeMap::new();
        for (from, to, ..) in named {
            *arrows.entry((from, to)).or_default() += 1;
        }
        Self { rooms, arrows }
    }

    /// Returns the circles among rooms, even if the table allows the dependencies.
    pub fn circles(&self) -> Vec<BTreeSet<String>> {
        let mut graph = Graph::new();
        for (from, to) in self.arrows.keys() {
            graph.entry(from.clone()).or_default().insert(to.clone());
        }
        circles(&graph)
    }

    /// Returns a line for each room from top to bottom, with the number of items for each dependency.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for room in self.rooms.iter().rev() {
            let arrows = self.arrows.iter().filter(|((from, _), _)| from == room);
            let arrows: Vec<_> = arrows
                .map(|((from, to), count)| {
                    format!("{to} {count}{}", if upward(from, to) { " (UP)" } else { "" })
                })
                .collect();
            writeln!(text, "{room:>11} -> {}", arrows.join(", ")).unwrap();
        }
        for circle in self.circles() {
            writeln!(text, "CIRCLE: {}", circle.into_iter().collect::<Vec<_>>().join(", ")).unwrap();
        }
        text
    }

    /// Returns the drawing for Graphviz (`dot -Tsvg`). Dependencies on rooms above are red.
    pub fn dot(&self) -> String {
        let mut dot =
            "digraph house {\n  rankdir=TB;\n  node [shape=box, fontname=\"sans-serif\"];\n".to_owned();
        for room in self.rooms.iter().rev() {
            writeln!(dot, "  \"{room}\";").unwrap();
        }
        for ((from, to), count) in &self.arrows {
            let colour = if upward(from, to) { ", color=red, constraint=false" } else { "" };
            writeln!(dot, "  \"{from}\" -> \"{to}\" [label={count}{colour}];").unwrap();
        }
        dot + "}\n"
    }
}

/// Returns whether the table has both rooms and `to` is above `from`.
fn upward(from: &str, to: &str) -> bool {
    height(from).zip(height(to)).is_some_and(|(from, to)| from < to)
}
