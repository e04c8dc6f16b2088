//! Random requests and orders of the store's answers, against a model of numbers.

use std::collections::{BTreeMap, BTreeSet};

use millstream::base::claim::{Leaving, Settle};
use millstream::base::units::Sequence;
use millstream::operation::Command;
use millstream::pb::ClaimRequest;
use proptest::prelude::*;

use super::worker::{Worker, ranges, sequence, setup};
use crate::random::Random;

const WINDOW: u32 = 40;

/// What the client has asked for.
struct Model {
    worker: Worker,
    schedule: Random,
    credit: i64,
    /// The highest credit so far.
    highest: i64,
    /// What settles each number: the first settlement that named it.
    settled: BTreeMap<u64, Settle>,
    requests: u64,
    /// The last request that names something to settle.
    last_awaited: u64,
    /// The commands that the store has not answered, by request.
    unanswered: BTreeMap<Sequence, usize>,
    /// The numbers that the store has given out again.
    lost: BTreeSet<u64>,
    told_lost: BTreeSet<u64>,
    told_settled: i64,
}

impl Model {
    fn new(messages: &[usize], seed: u64) -> Self {
        Self {
            worker: Worker::begin(setup(), messages, WINDOW),
            schedule: Random(seed),
            credit: 0,
            highest: 0,
            settled: BTreeMap::new(),
            requests: 0,
            last_awaited: 0,
            unanswered: BTreeMap::new(),
            lost: BTreeSet::new(),
            told_lost: BTreeSet::new(),
            told_settled: 0,
        }
    }

    fn step(&mut self) {
        match self.schedule.below(8) {
            0 | 1 => self.request(),
            2 | 3 => self.handle(),
            4 | 5 => self.answer(),
            6 => self.worker.harness.rig.writable = !self.schedule.one_in(3),
            _ => self.worker.poll(),
        }
        self.watch_commands();
        self.judge();
    }

    /// Sends a random request.
    fn request(&mut self) {
        let known = self.worker.numbers.len() as u64;
        let mut list =
            |one_in| -> Vec<u64> { (1..=known).filter(|_| self.schedule.one_in(one_in)).collect() };
        let [ack, reject, release, renew] = [list(6), list(15), list(15), list(9)];
        self.credit += self.schedule.between(0, 20) as i64 - 5;
        let request = ClaimRequest {
            max_msgnum_to_send: Some(self.credit),
            ack: ranges(&ack),
            reject: ranges(&reject),
            release: ranges(&release),
            renew: ranges(&renew),
            ..ClaimRequest::default()
        };
        if !self.worker.send(&request) {
            return;
        }
        self.requests += 1;
        self.highest = self.highest.max(self.credit);
        if [&ack, &reject, &release, &renew].iter().any(|list| !list.is_empty()) {
            self.last_awaited = self.requests;
        }
        for (numbers, what) in
            [(ack, Settle::Ack), (reject, Settle::Reject), (release, Settle::Release(None))]
        {
            for number in numbers {
                if !self.told_lost.contains(&number) {
                    self.settled.entry(number).or_insert(what);
                }
            }
        }
    }

    /// Counts new commands, before the store handles them.
    fn watch_commands(&mut self) {
        let sent = self.worker.numbers.len() as u64;
        let most = u64::try_from(self.highest).unwrap_or(0);
        assert!(self.worker.reserved + sent <= most, "asks must stay within the credit");
        let leased =
            (1..=sent).filter(|number| !self.settled.contains_key(number) && !self.lost.contains(number));
        let leased = leased.count() as u64 + self.worker.reserved;
        assert!(leased <= u64::from(WINDOW), "{leased} messages are leased");
    }

    /// Lets the store handle the oldest command.
    fn handle(&mut self) {
        let Some(command) = self.worker.asked.pop_front() else { return };
        if let Command::Settle { sequence, .. } = &command {
            *self.unanswered.entry(*sequence).or_default() += 1;
        }
        let most = self.schedule.between(1, 9);
        let mut lost = Vec::new();
        let schedule = &mut self.schedule;
        self.worker.handle(command, most, &mut |place| {
            let loses = schedule.one_in(12);
            lost.extend(loses.then_some(place));
            loses
        });
        for place in lost {
            let number = self.worker.numbers.iter().position(|of| *of == place).unwrap();
            self.lost.insert(number as u64 + 1);
        }
        self.worker.watch();
    }

    /// Passes one of the store's answers, in random order.
    fn answer(&mut self) {
        if self.worker.answers.is_empty() {
            return;
        }
        let index = self.schedule.below(self.worker.answers.len());
        if let Some(sequence) = sequence(&self.worker.answers[index]) {
            let left = self.unanswered.get_mut(&sequence).unwrap();
            *left -= 1;
            if *left == 0 {
                self.unanswered.remove(&sequence);
            }
        }
        self.worker.answer(index);
    }

    /// Checks what the client has read.
    fn judge(&mut self) {
        for response in std::mem::take(&mut self.worker.responses) {
            assert_eq!(response.status, None);
            for number in expand(&response.lost) {
                assert!(self.lost.contains(&number), "{number} is not lost");
                self.told_lost.insert(number);
            }
            if let Some(settled) = response.settled_requests {
                assert!(settled > self.told_settled && settled <= self.requests as i64);
                self.told_settled = settled;
            }
        }
        let waits = self.worker.asked.iter().filter_map(|command| match command {
            Command::Settle { sequence, .. } => Some(*sequence),
            _ => None,
        });
        let first = waits.chain(self.unanswered.keys().copied()).min();
        assert!(
            first.is_none_or(|Sequence(first)| (self.told_settled as u64) < first),
            "it is not durable yet"
        );
    }

    /// Does everything that can still happen, and ends the operation.
    fn finish(&mut self) {
        self.worker.harness.rig.writable = true;
        loop {
            self.worker.poll();
            self.watch_commands();
            self.judge();
            if self.worker.asked.is_empty() && self.worker.answers.is_empty() {
                break;
            }
            self.handle();
            self.answer();
        }
        assert!(self.told_settled as u64 >= self.last_awaited, "every settlement is answered");
        assert_eq!(self.told_lost, self.lost, "what is lost is told");
        for (index, place) in self.worker.numbers.iter().enumerate() {
            let number = index as u64 + 1;
            let told = self.worker.settled.get(place).copied();
            let expected = self.settled.get(&number).copied();
            let is_lost_renewal = self.lost.contains(&number) && matches!(told, Some(Settle::Renew(_)));
            assert!(
                told == expected || is_lost_renewal,
                "{number}: {told:?}, but the client said {expected:?}"
            );
        }
        self.worker.fin();
        assert!(self.worker.ended);
        let known: BTreeSet<_> = self.worker.left.iter().map(|(partition, _)| *partition).collect();
        let returned =
            self.worker.left.iter().filter(|(_, leaving)| *leaving == Leaving::Settle(Settle::Return));
        assert_eq!(returned.count(), known.len(), "each partition is left once");
        let budget = &self.worker.harness.rig.budget;
        assert_eq!((budget.reserved(), budget.held()), (0, 0));
    }
}

/// Returns the numbers of ranges.
fn expand(pairs: &[u64]) -> Vec<u64> {
    let mut end = 0;
    let mut numbers = Vec::new();
    for pair in pairs.chunks(2) {
        numbers.extend(end + pair[0] + 1..=end + pair[0] + pair[1]);
        end += pair[0] + pair[1];
    }
    numbers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_order_of_answers_settles_each_number_once_and_keeps_to_the_credit(
        messages in proptest::collection::vec(0usize..60, 1..5),
        seed in any::<u64>(),
        steps in 0usize..600,
    ) {
        let mut model = Model::new(&messages, seed);
        for _ in 0..steps {
            model.step();
        }
        model.finish();
    }
}
