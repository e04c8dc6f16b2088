//! Where an operation looks for messages: what is known of each partition, and the asks under way.
//!
//! ```text
//!          nothing there            watched             told
//! Open ───────────────────▶ Empty ───────────▶ Watched ──────▶ Told
//!   ▲                                                           │ asked, or passed on
//!   └───────────────────────────────────────────────────────────┘
//! ```

use crate::base::units::Partition;

/// The most messages, and the size in bytes, of a claim.
pub(super) const CLAIM_MESSAGES_MAX: u32 = 1_000;
pub(super) const CLAIM_BYTES_MAX: usize = 256 << 10;

/// The most asks under way for one partition, so that the time of one sync does not bound what a worker gets.
const ASKS_OF_PARTITION_MAX: usize = 4;

/// The most asks under way for an operation. Bounds the claims that wait until the output has room.
const ASKS_MAX: usize = 16;

/// The most messages of a claim while the budget is exhausted.
pub(super) const PRESSED_MESSAGES_MAX: u64 = 16;

/// The least that a further ask for a partition is worth, and the least to divide the credit into, in messages.
const SHARE_MIN: u64 = 100;

/// What is known of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It may have messages to claim.
    Open,
    /// It had none, and is not watched.
    Empty,
    /// The store tells when it may have some.
    Watched,
    /// The store has told, and waits for an ask.
    Told,
}

/// A partition that the operation claims from.
#[derive(Debug)]
struct Place {
    partition: Partition,
    state: State,
    /// The most messages of each ask under way.
    asks: Vec<u32>,
    /// Whether the last answer was a claim, so that another ask is likely to find more.
    has_more: bool,
    /// Whether the partition's owner knows the operation.
    is_known: bool,
}

/// A command for a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Claim at most this many messages.
    Ask(Partition, u32),
    /// Watch, for at most this many messages.
    Watch(Partition, u32),
    /// Give up the turn and the watch.
    Pass(Partition),
}

/// What an operation may ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// The most messages of all further asks.
    pub(super) messages: u64,
    /// Whether only one ask may be under way.
    pub(super) is_pressed: bool,
}

/// The places of an operation, and the messages that their asks may bring.
#[derive(Debug)]
pub(super) struct Asks {
    places: Vec<Place>,
    /// The index of the place to ask next. The one before it was asked last.
    turn: usize,
    /// The number of asks under way, and the sum of their messages.
    under_way: usize,
    reserved: u64,
}

impl Asks {
    pub(super) fn new(partitions: impl Iterator<Item = Partition>) -> Self {
        Self { places: partitions.map(Place::new).collect(), turn: 0, under_way: 0, reserved: 0 }
    }

    /// Adds partitions.
    pub(super) fn add(&mut self, partitions: impl Iterator<Item = Partition>) {
        self.places.extend(partitions.map(Place::new));
    }

    /// Returns the number of messages that the asks under way may bring.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Returns whether no ask is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// Returns the partitions whose owners know the operation.
    pub(super) fn known(&self) -> impl Iterator<Item = Partition> {
        self.places.iter().filter(|place| place.is_known).map(|place| place.partition)
    }

    fn place(&mut self, partition: Partition) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.partition == partition)
    }

    /// Handles the answer to an ask: the number of claimed messages, 0 if there were none.
    pub(super) fn handle_claimed(&mut self, partition: Partition, messages: u32) {
        let Some(place) = self.place(partition) else { return };
        // Answers may overtake each other, so which ask this one belongs to is not known. The smallest that it fits
        // leaves at least as much reserved as the others may bring.
        let fitting = (0..place.asks.len()).filter(|index| place.asks[*index] >= messages);
        let Some(index) = fitting.min_by_key(|index| place.asks[*index]) else { return };
        let ask = place.asks.swap_remove(index);
        place.has_more = messages > 0;
        if messages == 0 && place.state == State::Open {
            place.state = State::Empty;
        }
        self.under_way -= 1;
        self.reserved -= u64::from(ask);
    }

    /// Handles that a watched partition may have messages.
    pub(super) fn handle_watched(&mut self, partition: Partition) {
        if let Some(place) = self.place(partition).filter(|place| place.state == State::Watched) {
            place.state = State::Told;
        }
    }

    /// Forgets every watch, because the operation has given them up.
    pub(super) fn pause(&mut self) {
        self.places.iter_mut().for_each(|place| place.state = State::Open);
    }

    /// Decides what to ask. Takes the partitions in turn, so that none is passed over more often than there are
    /// partitions. Watches those that have nothing, as long as anything may be asked for.
    pub(super) fn pump(&mut self, mut allowance: Allowance, mut step: impl FnMut(Step)) {
        let asks_max = if allowance.is_pressed { 1 } else { ASKS_MAX };
        let waiting = self.places.iter().filter(|place| place.is_open() && place.asks.is_empty()).count();
        let share = (allowance.messages / waiting.max(1) as u64).max(SHARE_MIN);
        let share = share.min(u64::from(CLAIM_MESSAGES_MAX));
        let mut passed = 0;
        while passed < self.places.len() && allowance.messages > 0 && self.under_way < asks_max {
            let size = share.min(allowance.messages);
            let turn = self.turn;
            self.turn = (turn + 1) % self.places.len();
            let place = &mut self.places[turn];
            if !place.takes(size) {
                passed += 1;
                continue;
            }
            passed = 0;
            (place.state, place.is_known) = (State::Open, true);
            // At most `CLAIM_MESSAGES_MAX`.
            place.asks.push(size as u32);
            self.under_way += 1;
            self.reserved += size;
            allowance.messages -= size;
            step(Step::Ask(place.partition, size as u32));
        }
        for place in &mut self.places {
            match place.state {
                State::Told => {
                    // Others wait for the turn.
                    place.state = State::Open;
                    step(Step::Pass(place.partition));
                }
                State::Empty if allowance.messages > 0 => {
                    (place.state, place.is_known) = (State::Watched, true);
                    let wanted = allowance.messages.min(u64::from(CLAIM_MESSAGES_MAX)) as u32;
                    step(Step::Watch(place.partition, wanted));
                }
                State::Open | State::Empty | State::Watched => {}
            }
        }
    }
}

impl Place {
    fn new(partition: Partition) -> Self {
        Self { partition, state: State::Open, asks: Vec::new(), has_more: false, is_known: false }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Told)
    }

    /// Returns whether to ask for `size` messages, maybe beside other asks.
    fn takes(&self, size: u64) -> bool {
        let is_worth_it = size >= SHARE_MIN && self.has_more && self.asks.len() < ASKS_OF_PARTITION_MAX;
        self.is_open() && (self.asks.is_empty() || is_worth_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pump(asks: &mut Asks, messages: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        asks.pump(Allowance { messages, is_pressed: false }, |step| steps.push(step));
        steps
    }

    fn of(count: u16) -> Asks {
        Asks::new(Partition::all(count))
    }

    #[test]
    fn one_message_is_asked_for_in_one_partition_and_all_others_are_watched() {
        let mut asks = of(3);
        for partition in Partition::all(3) {
            let steps = pump(&mut asks, 1);
            assert!(steps.contains(&Step::Ask(partition, 1)), "{steps:?}");
            assert_eq!(asks.reserved(), 1);
            assert_eq!(pump(&mut asks, 0), [], "the credit is reserved");
            asks.handle_claimed(partition, 0);
        }
        let watches: Vec<_> = Partition::all(3).map(|partition| Step::Watch(partition, 1)).collect();
        let mut told = Vec::new();
        for _ in 0..2 {
            told.extend(pump(&mut asks, 1));
        }
        assert!(watches.iter().all(|watch| told.contains(watch)) && told.len() == 3, "{told:?}");
        asks.handle_watched(Partition(1));
        asks.handle_watched(Partition(2));
        assert_eq!(pump(&mut asks, 1), [Step::Ask(Partition(1), 1), Step::Pass(Partition(2))]);
        asks.handle_claimed(Partition(1), 1);
        assert_eq!(pump(&mut asks, 1), [Step::Ask(Partition(2), 1)], "what was passed on is asked next");
    }

    #[test]
    fn a_large_credit_is_divided_and_several_asks_may_be_under_way() {
        let mut asks = of(2);
        let steps = pump(&mut asks, 10_000);
        assert_eq!(steps, [Step::Ask(Partition(0), 1_000), Step::Ask(Partition(1), 1_000)]);
        asks.handle_claimed(Partition(0), 1_000);
        assert_eq!(pump(&mut asks, 9_000), [Step::Ask(Partition(0), 1_000); 4]);
        assert_eq!(pump(&mut of(8), 150), [Step::Ask(Partition(0), 100), Step::Ask(Partition(1), 50)]);
    }

    #[test]
    fn a_small_further_ask_waits_for_the_one_under_way() {
        let mut asks = of(1);
        asks.pump(Allowance { messages: 100, is_pressed: true }, |_| {});
        asks.handle_claimed(Partition(0), 100);
        assert_eq!(pump(&mut asks, 3), [Step::Ask(Partition(0), 3)]);
        assert_eq!(pump(&mut asks, 97), []);
        assert_eq!(pump(&mut asks, 100), [Step::Ask(Partition(0), 100)]);
    }

    proptest! {
        #[test]
        fn no_partition_with_messages_is_passed_over_more_often_than_there_are_partitions(
            count in 1u16..9,
            steps in proptest::collection::vec((0u64..300, any::<bool>(), 0u16..9), 1..200),
        ) {
            let mut asks = of(count);
            // For each partition: how many asks others got since it last was asked, was empty or had its asks under way.
            let mut passed = vec![0u32; usize::from(count)];
            let mut under_way: Vec<(Partition, u32)> = Vec::new();
            for (messages, finds, which) in steps {
                let reserved: u64 = under_way.iter().map(|(_, most)| u64::from(*most)).sum();
                prop_assert!(asks.reserved() >= reserved);
                let before = asks.reserved();
                for step in pump(&mut asks, messages) {
                    if let Step::Ask(partition, most) = step {
                        under_way.push((partition, most));
                        for other in Partition::all(count) {
                            let waits = asks.places[other.index()].is_open() && under_way.iter().all(|(of, _)| *of != other);
                            passed[other.index()] = if waits { passed[other.index()] + 1 } else { 0 };
                            prop_assert!(passed[other.index()] <= u32::from(count));
                        }
                    }
                }
                prop_assert!(asks.reserved() - before <= messages);
                if !under_way.is_empty() {
                    let (partition, most) = under_way.remove(usize::from(which) % under_way.len());
                    asks.handle_claimed(partition, if finds { most } else { 0 });
                }
                asks.handle_watched(Partition(which));
            }
        }
    }
}
