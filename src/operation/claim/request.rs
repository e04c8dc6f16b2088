//! A worker's request, and its check: everything in it is checked before anything is done.

use super::id::ClaimId;
use super::ranges::Ranges;
use crate::base::claim::{LeaseId, Leases, Settle};
use crate::base::error::PeerFault;
use crate::base::queue::{QueueInfo, parse_message_id};
use crate::base::units::{MsgNum, Offset, Partition};
use crate::operation::Settings;

/// The kinds of settlements by claim.
const ACK: u32 = 1;
const RELEASE: u32 = 2;
const REJECT: u32 = 3;
const RENEW: u32 = 4;

/// A worker's request.
#[derive(Clone, Debug, Default)]
pub struct ClaimRequest<'a> {
    /// The highest message number that the operation may send.
    pub credit: MsgNum,
    /// Messages that are done.
    pub ack: Ranges<'a>,
    /// Messages that cannot be processed.
    pub reject: Ranges<'a>,
    /// Messages to give out again, and the delay in seconds.
    pub release: Ranges<'a>,
    /// The delay of `release`, in seconds.
    pub release_delay: Option<u32>,
    /// Messages whose leases shall last longer.
    pub renew: Ranges<'a>,
    /// How long they shall last, in seconds.
    pub renew_ttl: Option<u32>,
    /// Settlements of other operations' claims.
    pub by_claim: Vec<ByClaim<'a>>,
    /// Whether nothing more shall be given out.
    pub stop: bool,
}

/// A settlement of another operation's claim.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByClaim<'a> {
    /// The claim; `None`: every claim of this client whose operation has ended.
    pub claim_id: Option<&'a str>,
    /// The first message; `None`: all of the claim.
    pub first_id: Option<&'a str>,
    /// The last message; `None`: only the first.
    pub last_id: Option<&'a str>,
    /// 1 ack, 2 release, 3 reject, 4 renew.
    pub kind: Option<u32>,
    /// The delay of a release, or the ttl of a renewal, in seconds.
    pub seconds: Option<u32>,
}

/// A checked settlement by claim.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named<'a> {
    /// The claim's id, as the client sent it.
    pub(super) id: Option<&'a str>,
    pub(super) kind: u32,
    pub(super) what: Settle,
    /// The partition of the claim; `None`: all partitions.
    pub(super) partition: Option<Partition>,
    pub(super) leases: Leases,
    /// The first and the last message; `None`: all of the claim.
    pub(super) offsets: Option<(Offset, Offset)>,
}

/// Checks a number of seconds.
pub(super) fn within(field: &'static str, value: u32, range: (u32, u32)) -> Result<u32, PeerFault> {
    let is_within = (range.0..=range.1).contains(&value);
    if is_within { Ok(value) } else { Err(PeerFault::ClaimSeconds { field, value, range }) }
}

impl<'a> ClaimRequest<'a> {
    /// Returns whether the request names something to settle.
    pub(super) fn settles(&self) -> bool {
        let lists = [self.ack, self.reject, self.release, self.renew];
        !self.by_claim.is_empty() || lists.iter().any(|list| !list.is_empty())
    }

    /// Checks the request. `sent` is the last number that was sent, `ttl_secs` the operation's ttl. Returns its lists, in
    /// the order in which they count, and the settlements by claim that name something.
    #[expect(clippy::type_complexity, reason = "used in one place")]
    pub(super) fn check(
        &self,
        sent: MsgNum,
        ttl_secs: u32,
        queue: &QueueInfo,
        settings: &Settings,
    ) -> Result<([(Ranges<'a>, Settle); 4], Vec<Named<'a>>), PeerFault> {
        // Never negative.
        let sent = sent.to_wire() as u64;
        let fields =
            [("ack", self.ack), ("reject", self.reject), ("release", self.release), ("renew", self.renew)];
        fields.into_iter().try_for_each(|(field, list)| list.check(field, sent))?;
        let (_, ttl_max) = settings.claim_ttl_secs();
        let delay =
            self.release_delay.map(|delay| within("release_delay", delay, (0, ttl_max))).transpose()?;
        let ttl =
            self.renew_ttl.map(|ttl| within("renew_ttl", ttl, settings.claim_ttl_secs())).transpose()?;
        let lists = [
            (self.ack, Settle::Ack),
            (self.reject, Settle::Reject),
            (self.release, Settle::Release(delay)),
            (self.renew, Settle::Renew(ttl.unwrap_or(ttl_secs))),
        ];
        let named = self.by_claim.iter().map(|by_claim| by_claim.check(ttl_secs, queue, settings));
        let mut named: Vec<Named<'_>> = named.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        // Of the settlements of everything that has ended, only the first of a kind has an effect.
        let mut had = [false; RENEW as usize + 1];
        named.retain(|named| {
            named.leases != Leases::Ended || !std::mem::replace(&mut had[named.kind as usize], true)
        });
        Ok((lists, named))
    }
}

impl<'a> ByClaim<'a> {
    /// Checks the settlement. Returns `None` if it names nothing that exists.
    fn check(
        &self,
        ttl_secs: u32,
        queue: &QueueInfo,
        settings: &Settings,
    ) -> Result<Option<Named<'a>>, PeerFault> {
        let bad = |why: &str| PeerFault::PbInvalid(format!("by_claim: {why}"));
        let (_, ttl_max) = settings.claim_ttl_secs();
        let kind = self.kind.ok_or_else(|| bad("kind is absent"))?;
        let what = match kind {
            ACK => Settle::Ack,
            REJECT => Settle::Reject,
            RELEASE => Settle::Release(
                self.seconds.map(|delay| within("by_claim: seconds", delay, (0, ttl_max))).transpose()?,
            ),
            RENEW => Settle::Renew(within(
                "by_claim: seconds",
                self.seconds.unwrap_or(ttl_secs),
                settings.claim_ttl_secs(),
            )?),
            _ => return Err(bad("kind: 1 (ack), 2 (release), 3 (reject) or 4 (renew)")),
        };
        let id = |text: Option<&str>, field| {
            let parsed = text.map(|text| parse_message_id(text).ok_or_else(|| bad(field)));
            parsed.transpose()
        };
        let first = id(self.first_id, "first_id: not the id of a message")?;
        let last = id(self.last_id, "last_id: not the id of a message")?;
        let messages = match (first, last) {
            (None, None) => None,
            (None, Some(_)) => return Err(bad("last_id without first_id")),
            (Some(first), last) => {
                let last = last.unwrap_or(first);
                if last < first || last.0 != first.0 {
                    return Err(bad("last_id: not behind first_id in the same partition"));
                }
                Some((first.0, (first.1, last.1)))
            }
        };
        let Some(text) = self.claim_id else {
            if messages.is_some() {
                return Err(bad("first_id without claim_id"));
            }
            if matches!(kind, ACK | REJECT) {
                return Err(bad("kind: 2 (release) or 4 (renew) without claim_id"));
            }
            return Ok(Some(Named {
                id: None,
                kind,
                what,
                partition: None,
                leases: Leases::Ended,
                offsets: None,
            }));
        };
        let claim = ClaimId::parse(text).ok_or_else(|| bad("claim_id: not the id of a claim"))?;
        let place = claim.place(queue).filter(|(partition, _)| partition.0 < queue.partitions);
        let Some((partition, LeaseId(lease))) = place else { return Ok(None) };
        if messages.is_some_and(|(of, _)| of != partition) {
            return Err(bad("first_id: not in the partition of the claim"));
        }
        let leases = Leases::One(LeaseId(lease));
        let offsets = messages.map(|(_, offsets)| offsets);
        Ok(Some(Named { id: Some(text), kind, what, partition: Some(partition), leases, offsets }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::queue::{QueueId, Signing};

    fn queue() -> QueueInfo {
        let signing = Signing { key: 5, ..Signing::default() };
        QueueInfo {
            id: QueueId(1),
            incarnation: 9,
            partitions: 4,
            hash: 7,
            signing,
            policy: Default::default(),
        }
    }

    fn check(by_claim: ByClaim<'_>) -> Result<Option<String>, String> {
        let checked = by_claim.check(300, &queue(), &Settings::default());
        let text = |named: Named<'_>| {
            format!("{:?} {:?} {:?} {:?}", named.partition, named.leases, named.offsets, named.what)
        };
        checked.map(|named| named.map(text)).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_settlement_by_claim_names_a_claim_or_some_of_its_messages() {
        let id = ClaimId::of(&queue(), Partition(3), LeaseId(8)).to_string();
        let ack = ByClaim { claim_id: Some(&id), kind: Some(ACK), ..ByClaim::default() };
        assert_eq!(check(ack), Ok(Some("Some(3) One(LeaseId(8)) None Ack".into())));
        let one = ByClaim { first_id: Some("3.a"), ..ack };
        assert_eq!(check(one), Ok(Some("Some(3) One(LeaseId(8)) Some((10, 10)) Ack".into())));
        let some = ByClaim { last_id: Some("3.c"), kind: Some(RENEW), ..one };
        assert_eq!(check(some), Ok(Some("Some(3) One(LeaseId(8)) Some((10, 12)) Renew(300)".into())));
        let ended = ByClaim { kind: Some(RELEASE), seconds: Some(0), ..ByClaim::default() };
        assert_eq!(check(ended), Ok(Some("None Ended None Release(Some(0))".into())));
        for (bad, why) in [
            (ByClaim { kind: None, ..ack }, "kind is absent"),
            (ByClaim { kind: Some(5), ..ack }, "kind: 1"),
            (ByClaim { claim_id: Some("x"), ..ack }, "claim_id"),
            (ByClaim { first_id: Some("x"), ..ack }, "first_id"),
            (ByClaim { first_id: Some("2.1"), ..ack }, "not in the partition"),
            (ByClaim { last_id: Some("3.1"), ..ack }, "without first_id"),
            (ByClaim { last_id: Some("3.9"), ..one }, "not behind first_id"),
            (ByClaim { claim_id: None, ..ack }, "without claim_id"),
            (ByClaim { claim_id: None, ..one }, "without claim_id"),
            (ByClaim { seconds: Some(0), ..some }, "0 is not within 1 to 43200 seconds"),
            (ByClaim { seconds: Some(43_201), ..ended }, "43201 is not within 0 to 43200 seconds"),
        ] {
            assert!(check(bad).is_err_and(|text| text.contains(why)), "{bad:?}");
        }
    }

    #[test]
    fn a_claim_of_another_queue_names_nothing() {
        let other = QueueInfo { hash: 8, ..queue() };
        let id = ClaimId::of(&other, Partition(3), LeaseId(8)).to_string();
        assert_eq!(check(ByClaim { claim_id: Some(&id), kind: Some(ACK), ..ByClaim::default() }), Ok(None));
    }
}
