//! Finds where a consume operation begins: some positions are known at once, the store is asked for the others.

use super::command::Command;
use super::consume::Beginning;
use super::marker::{Place, Start};
use super::resources::Resources;
use super::subject::Subject;
use crate::base::error::PeerFault;
use crate::base::queue::Position;
use crate::base::units::{Offset, Partition};

/// See the module's page.
#[derive(Debug)]
pub struct Positioning {
    /// As far as it is known: what is asked for is at the client's marker.
    beginning: Beginning,
    /// Positions that the store has not found yet.
    waiting: usize,
}

impl Positioning {
    /// Begins to look for `start` in every partition of the queue.
    pub fn start(subject: Subject, start: &Start, resources: &mut Resources<'_>) -> Result<Self, PeerFault> {
        let partitions = subject.queue.partitions;
        let all = subject.queue.all();
        let mut beginning =
            Beginning { subject, positions: vec![Offset::ZERO; usize::from(partitions)], is_rewound: false };
        let resolve: Vec<(Partition, Position)> = match start {
            Start::Oldest => Vec::new(),
            Start::Latest => all.map(|partition| (partition, Position::Latest)).collect(),
            Start::Time(time) => all.map(|partition| (partition, Position::Time(*time))).collect(),
            Start::Marker(marker) => match marker.place(&beginning.subject.queue)? {
                Place::OtherLife => {
                    beginning.is_rewound = true;
                    Vec::new()
                }
                Place::Here(positions) => {
                    beginning.positions = positions;
                    Vec::new()
                }
                Place::OtherTimeline(timeline, positions) => {
                    beginning.positions = positions;
                    let asked = all.zip(&beginning.positions).filter(|(_, offset)| **offset > Offset::ZERO);
                    asked
                        .map(|(partition, offset)| (partition, Position::After { timeline, offset: *offset }))
                        .collect()
                }
            },
        };
        let waiting = resolve.len();
        for (partition, position) in resolve {
            let (operation, target) = (beginning.subject.operation, beginning.subject.target(partition));
            resources.commands.push(Command::Resolve { operation, target, position });
        }
        Ok(Self { beginning, waiting })
    }

    /// What the operation is about.
    pub fn subject(&self) -> &Subject {
        &self.beginning.subject
    }

    /// The store has found a position.
    pub fn handle_position(&mut self, partition: Partition, position: Offset) {
        let beginning = &mut self.beginning;
        let asked = std::mem::replace(&mut beginning.positions[partition.index()], position);
        beginning.is_rewound |= position < asked;
        self.waiting -= 1;
    }

    /// Where the operation begins, once every position is known.
    pub fn found(&self) -> Option<Beginning> {
        (self.waiting == 0).then(|| self.beginning.clone())
    }
}
