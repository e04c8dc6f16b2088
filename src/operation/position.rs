//! Finds the starting positions of a consume operation. Some are known at once, the store resolves the
//! others.

use super::command::Command;
use super::consume::Beginning;
use super::marker::{MarkerPlace, Start};
use super::resources::Resources;
use super::subject::Subject;
use crate::base::error::PeerFault;
use crate::base::queue::Position;
use crate::base::units::{Offset, Partition};

/// A search for the starting positions of one operation.
#[derive(Debug)]
pub struct Positioning {
    /// The result so far. Positions that the store still resolves hold the marker's position, or 0.
    beginning: Beginning,
    /// The number of positions that the store has not resolved yet.
    waiting: usize,
}

impl Positioning {
    /// Starts the search for `start` in every partition of the queue.
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
                MarkerPlace::OtherLife => {
                    beginning.is_rewound = true;
                    Vec::new()
                }
                MarkerPlace::Here(positions) => {
                    beginning.positions = positions;
                    Vec::new()
                }
                MarkerPlace::OtherTimeline(timeline, positions) => {
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

    /// Returns the client and the queue of the operation.
    pub fn subject(&self) -> &Subject {
        &self.beginning.subject
    }

    /// Handles a position that the store has resolved.
    pub fn handle_position(&mut self, partition: Partition, position: Offset) {
        let beginning = &mut self.beginning;
        let asked = std::mem::replace(&mut beginning.positions[partition.index()], position);
        beginning.is_rewound |= position < asked;
        self.waiting -= 1;
    }

    /// Returns the starting point, once every position is known.
    pub fn found(&self) -> Option<Beginning> {
        (self.waiting == 0).then(|| self.beginning.clone())
    }
}
