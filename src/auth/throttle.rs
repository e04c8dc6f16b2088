//! Limits guessing: how many attempts of an address may fail.
//!
//! Counts with a generic cell rate algorithm: for each address only the time until which its failures are paid
//! for. After [`BURST`] failures, one attempt each [`PACE`] is allowed.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use crate::base::millis::Millis;

/// How many attempts may fail at once.
const BURST: u64 = 10;

/// The time after which one more attempt is allowed.
const PACE: Millis = Millis::new(1_000);

/// How many addresses are remembered. Beyond, the one that is allowed next is forgotten. 16,384 take 2 MiB.
const ADDRESSES_MAX: usize = 16_384;

/// The addresses whose attempts have failed.
#[derive(Debug, Default)]
pub struct Throttle {
    /// For each address, when its failures are paid for.
    paid: HashMap<IpAddr, Millis>,
    by_time: BTreeSet<(Millis, IpAddr)>,
}

impl Throttle {
    /// Returns whether an address must wait.
    pub fn refuses(&self, now: Millis, address: IpAddr) -> bool {
        let paid = self.paid.get(&counted(address)).copied().unwrap_or_default();
        paid.since(now) > Millis::new((BURST - 1) * PACE.get())
    }

    /// Counts a failed attempt.
    pub fn count(&mut self, now: Millis, address: IpAddr) {
        let address = counted(address);
        let before = self.paid.get(&address).copied();
        // Whatever was tried, the address has its turn again soon.
        let paid =
            (before.unwrap_or_default().max(now) + PACE).min(now + Millis::new(2 * BURST * PACE.get()));
        if let Some(before) = before {
            self.by_time.remove(&(before, address));
        }
        self.paid.insert(address, paid);
        self.by_time.insert((paid, address));
        while let Some((first, address)) = self.by_time.first().copied()
            && (first <= now || self.paid.len() > ADDRESSES_MAX)
        {
            self.by_time.pop_first();
            self.paid.remove(&address);
        }
    }

    /// Returns how many addresses must wait.
    pub fn throttled(&self, now: Millis) -> usize {
        let from = now + Millis::new((BURST - 1) * PACE.get() + 1);
        self.by_time.range((from, IpAddr::from([0, 0, 0, 0]))..).count()
    }
}

/// Returns what counts as one address: a /64 of IPv6, because a client has all of it.
pub fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Millis {
        Millis::new(100_000 + ms)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ten_failures_are_free_and_then_one_attempt_a_second() {
        let mut throttle = Throttle::default();
        let guesser = ip("192.0.2.1");
        for _ in 0..10 {
            assert!(!throttle.refuses(at(0), guesser));
            throttle.count(at(0), guesser);
        }
        assert!(throttle.refuses(at(999), guesser) && throttle.throttled(at(999)) == 1);
        assert!(!throttle.refuses(at(1_000), guesser));
        throttle.count(at(1_000), guesser);
        assert!(throttle.refuses(at(1_999), guesser) && !throttle.refuses(at(2_000), guesser));
        assert!(!throttle.refuses(at(0), ip("192.0.2.2")), "others may try");
        assert!(throttle.refuses(at(1_999), ip("::ffff:192.0.2.1")), "the same address");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let mut throttle = Throttle::default();
        for host in 0..10 {
            throttle.count(at(0), ip(&format!("2001:db8:0:1::{host:x}")));
        }
        assert!(throttle.refuses(at(1), ip("2001:db8:0:1:ffff::1")));
        assert!(!throttle.refuses(at(1), ip("2001:db8:0:2::1")));
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_remembered() {
        let mut throttle = Throttle::default();
        let guesser = ip("192.0.2.1");
        (0..20).for_each(|_| throttle.count(at(0), guesser));
        for host in 0..2 * ADDRESSES_MAX as u32 {
            throttle.count(at(0), IpAddr::V4((0x0a00_0000 + host).into()));
        }
        assert_eq!((throttle.paid.len(), throttle.by_time.len()), (ADDRESSES_MAX, ADDRESSES_MAX));
        assert!(throttle.refuses(at(1), guesser));
        throttle.count(at(60_000), ip("192.0.2.9"));
        assert_eq!(throttle.paid.len(), 1, "what is paid for is forgotten");
    }

    proptest! {
        #[test]
        fn at_most_the_burst_and_the_pace_are_allowed(gaps in prop::collection::vec(0u64..3_000, 1..200)) {
            let (mut throttle, mut now, mut tried) = (Throttle::default(), 0, 0);
            for gap in gaps {
                now += gap;
                if !throttle.refuses(at(now), ip("192.0.2.1")) {
                    throttle.count(at(now), ip("192.0.2.1"));
                    tried += 1;
                }
            }
            prop_assert!(tried <= BURST + now / PACE.get());
        }
    }
}
