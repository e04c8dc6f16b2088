//! The client side of a claim operation (protocol section 17).

use std::ops::Range;

use super::ranges::{Ranges, from_pairs};
use super::{Half, Outcome, Renewable, Renewal, ServerFault};
use crate::auth::Secret;
use crate::base::units::MsgNum;
use crate::front::PbWriter;
use crate::pb::{
    ClaimRequest, ClaimResponseReader, ClaimSetupRequest, ReceivedClaim, ReceivedMessage, Settlement,
    SetupRequest, Status,
};
use crate::ws::Sender;
use prost::Message;

/// The most settlements of other operations' claims in one request. Keeps requests far below any server's limit.
const SETTLEMENTS_MAX: usize = 1_000;

/// The parameters of a worker.
#[derive(Clone, Debug, Default)]
pub struct ClaimOptions {
    /// The queue, or `queue/<n>` for one partition.
    pub queue: String,
    /// How long a claim lasts, in seconds. `None` takes the server's default.
    pub ttl: Option<u32>,
    /// How long claimed messages live at least after their claim has ended, in seconds. `None` takes the server's
    /// default.
    pub grace: Option<u32>,
    /// Whether the claims are released when the connection is lost.
    pub release_on_disconnect: bool,
}

/// What happens to claimed messages. The discriminants are the `kind` of a Settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Settle {
    /// They are done, and deleted for everybody.
    Ack,
    /// They are given out again, after a delay in seconds. `None` takes the delay that grows with the count.
    Release(Option<u32>),
    /// They cannot be processed.
    Reject,
    /// Their claim lasts longer: from now on as long as a new one.
    Renew,
}

impl Settle {
    /// Returns the settlement of messages of another operation's claim.
    pub fn of_claim(self, claim_id: &str, first_id: &str, last_id: &str) -> Settlement {
        let (kind, seconds) = match self {
            Self::Ack => (1, None),
            Self::Release(delay) => (2, delay),
            Self::Reject => (3, None),
            Self::Renew => (4, None),
        };
        Settlement {
            claim_id: Some(claim_id.to_owned()),
            first_id: Some(first_id.to_owned()),
            last_id: Some(last_id.to_owned()),
            kind: Some(kind),
            seconds,
        }
    }
}

/// An event from the server.
#[derive(Clone, Debug)]
pub enum ClaimEvent<'a> {
    /// A message was claimed. Its claim follows in [`ClaimEvent::Claimed`].
    Message(u64, &'a ReceivedMessage<'a>),
    /// The claim of the messages with these numbers.
    Claimed(Range<u64>, ReceivedClaim<'a>),
    /// The messages with these numbers were settled too late: they were given out again.
    Lost(Range<u64>),
    /// These messages of another operation's claim were settled too late.
    LostClaim(&'a Settlement),
    /// The settlements of this many requests, from the first on, are durable.
    Settled(u64),
}

/// One claim operation.
#[derive(Debug)]
pub struct Claimer {
    half: Half,
    /// The number of the last message received.
    received: u64,
    /// The highest message number that the server may send, and as told to it so far.
    wanted: u64,
    granted: u64,
    /// What is settled and not written yet.
    acks: Ranges,
    releases: Vec<(Option<u32>, Ranges)>,
    rejects: Ranges,
    renewals: Ranges,
    by_claim: Vec<Settlement>,
    /// Whether nothing more is to be given out, and whether the server was told.
    stop: (bool, bool),
    /// How many requests are written, and the settlements of how many are durable.
    requests: u64,
    settled: u64,
    accepted: bool,
    /// How the server ended the operation, if it failed.
    failure: Option<Outcome>,
    ended: bool,
    renewal: Renewal,
}

impl Claimer {
    /// Starts the operation: appends its setup. The server gives out nothing before [`Self::grant`].
    pub fn start(options: &ClaimOptions, sender: &mut Sender, out: &mut Vec<u8>) -> Self {
        let claim = Some(ClaimSetupRequest {
            queue_name: Some(options.queue.clone()),
            ttl: options.ttl,
            grace: options.grace,
            release_on_disconnect: options.release_on_disconnect.then_some(true),
        });
        PbWriter { sender, out }.pb(&SetupRequest { get: None, append: None, claim }, false);
        Self {
            half: Half::new(),
            received: 0,
            wanted: 0,
            granted: 0,
            acks: Ranges::default(),
            releases: Vec::new(),
            rejects: Ranges::default(),
            renewals: Ranges::default(),
            by_claim: Vec::new(),
            stop: (false, false),
            requests: 0,
            settled: 0,
            accepted: false,
            failure: None,
            ended: false,
            renewal: Renewal::new(),
        }
    }

    /// Lets the server send messages up to this number. A lower number than before has no effect.
    pub fn grant(&mut self, through: u64) {
        self.wanted = self.wanted.max(through);
    }

    /// Settles messages of this operation, with the next request.
    pub fn settle(&mut self, numbers: Range<u64>, what: Settle) {
        match what {
            Settle::Ack => self.acks.insert(numbers),
            Settle::Reject => self.rejects.insert(numbers),
            Settle::Renew => self.renewals.insert(numbers),
            Settle::Release(delay) => match self.releases.iter_mut().find(|(known, _)| *known == delay) {
                Some((_, ranges)) => ranges.insert(numbers),
                None => {
                    let mut ranges = Ranges::default();
                    ranges.insert(numbers);
                    self.releases.push((delay, ranges));
                }
            },
        }
    }

    /// Settles messages of another operation's claim, with the next request.
    pub fn settle_claim(&mut self, settlement: Settlement) {
        self.by_claim.push(settlement);
    }

    /// Has the server give out nothing more. It ends its half once everything is settled.
    pub fn stop(&mut self) {
        self.stop.0 = true;
    }

    /// Appends the requests for everything that is not written yet. Returns how many requests are written: once so
    /// many are settled, everything is durable.
    pub fn poll_transmit(&mut self, sender: &mut Sender, out: &mut Vec<u8>) -> u64 {
        loop {
            let (stop, stopped) = self.stop;
            let has_news = self.wanted > self.granted || stop && !stopped;
            let has_ranges = !self.acks.is_empty() || !self.rejects.is_empty() || !self.renewals.is_empty();
            if !has_news && !has_ranges && self.releases.is_empty() && self.by_claim.is_empty() {
                return self.requests;
            }
            // A request has one delay for all that it releases.
            let (release_delay, mut release) = self.releases.pop().unwrap_or_default();
            let rest = self.by_claim.split_off(self.by_claim.len().min(SETTLEMENTS_MAX));
            let request = ClaimRequest {
                max_msgnum_to_send: (self.wanted > self.granted)
                    .then(|| MsgNum::ZERO.plus(self.wanted).to_wire()),
                ack: self.acks.take_pairs(),
                release: release.take_pairs(),
                release_delay,
                reject: self.rejects.take_pairs(),
                renew: self.renewals.take_pairs(),
                renew_ttl: None,
                by_claim: std::mem::replace(&mut self.by_claim, rest),
                stop: (stop && !stopped).then_some(true),
                token: None,
            };
            self.granted = self.wanted;
            self.stop.1 = stop;
            self.requests += 1;
            PbWriter { sender, out }.pb(&request, false);
        }
    }

    /// Ends the client's half. The server releases what is not settled, and does not count that it was given out. Then
    /// it ends its half.
    pub fn finish(&mut self, sender: &mut Sender, out: &mut Vec<u8>) {
        self.renewal.close();
        PbWriter { sender, out }.fin();
    }

    /// Returns how the server ended the operation, if it failed.
    pub fn failure(&self) -> Option<&Outcome> {
        self.failure.as_ref()
    }

    /// Returns whether the server accepted the operation (status 100) and it has not failed.
    pub fn is_accepted(&self) -> bool {
        self.accepted && self.failure.is_none()
    }

    /// Returns whether the server has answered the setup.
    pub fn is_answered(&self) -> bool {
        self.accepted
    }

    /// Returns whether the server's half has ended.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Handles a piece of the server's half.
    pub fn handle_data(
        &mut self,
        piece: &[u8],
        fin: bool,
        mut each: impl FnMut(ClaimEvent<'_>),
    ) -> Result<(), ServerFault> {
        let Self { half, received, granted, requests, settled, accepted, failure, renewal, .. } = self;
        half.each_pb(piece, |pb| {
            if !*accepted {
                *accepted = true;
                let status = Status::decode(pb)?;
                let outcome = Outcome::from(&status);
                if outcome.code.is_success() {
                    renewal.handle_setup(&status);
                } else {
                    renewal.close();
                    *failure = Some(outcome);
                }
                return Ok(());
            }
            let mut reader = ClaimResponseReader::new(pb);
            let first = *received + 1;
            while let Some(message) = reader.next_message()? {
                *received += 1;
                if *received > *granted {
                    return Err(ServerFault("more messages than it may send".into()));
                }
                each(ClaimEvent::Message(*received, &message));
            }
            if first <= *received {
                let claim = reader.claim().ok_or_else(|| ServerFault("messages without a claim".into()))?;
                each(ClaimEvent::Claimed(first..*received + 1, claim));
            }
            for numbers in from_pairs(reader.lost(), *received)? {
                each(ClaimEvent::Lost(numbers));
            }
            reader.lost_claims().iter().for_each(|lost| each(ClaimEvent::LostClaim(lost)));
            if let Some(now) = reader.settled_requests() {
                if now > *requests || now < *settled {
                    return Err(ServerFault("settled_requests is out of order".into()));
                }
                *settled = now;
                each(ClaimEvent::Settled(now));
            }
            if let Some(status) = reader.renewal() {
                renewal.handle_renewal(status);
            }
            if let Some(status) = reader.status() {
                renewal.close();
                *failure = Some(Outcome::from(status));
            }
            Ok(())
        })?;
        self.ended |= fin;
        Ok(())
    }
}

impl Renewable for Claimer {
    fn renewal(&mut self) -> &mut Renewal {
        &mut self.renewal
    }

    fn send_token(&mut self, token: &Secret, sender: &mut Sender, out: &mut Vec<u8>) {
        let request = ClaimRequest { token: Some(token.expose().to_owned()), ..ClaimRequest::default() };
        // Every request counts for `settled_requests`.
        self.requests += 1;
        PbWriter { sender, out }.pb(&request, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{Claim, ClaimResponse, MessageAndMetadata};
    use crate::ws::{Input, Receiver, Role};

    /// A worker, and what it has written.
    struct Script {
        claimer: Claimer,
        sender: Sender,
        out: Vec<u8>,
        server: Receiver,
    }

    fn options() -> ClaimOptions {
        ClaimOptions { queue: "q".into(), ttl: Some(9), ..ClaimOptions::default() }
    }

    impl Script {
        /// Starts a worker that the server has accepted.
        fn accepted() -> Self {
            let (mut sender, mut out) = (Sender::new(Role::Client), Vec::new());
            let claimer = Claimer::start(&options(), &mut sender, &mut out);
            let mut script = Self { claimer, sender, out, server: Receiver::new(Role::Server) };
            let setup = SetupRequest::decode_length_delimited(&script.written()[..]).unwrap();
            assert_eq!(
                setup.claim.unwrap(),
                ClaimSetupRequest {
                    queue_name: Some("q".into()),
                    ttl: Some(9),
                    ..ClaimSetupRequest::default()
                }
            );
            let status = Status { status_code: Some(100), ..Status::default() };
            assert!(script.hear_raw(&status.encode_length_delimited_to_vec()).unwrap().is_empty());
            assert!(script.claimer.is_accepted());
            script
        }

        /// Returns the payload of the frames written since the last call.
        fn written(&mut self) -> Vec<u8> {
            let mut payload = Vec::new();
            let mut rest = &mut std::mem::take(&mut self.out)[..];
            while let Ok(Input::Data { payload: range, .. }) = self.server.handle(rest) {
                payload.extend_from_slice(&rest[range.clone()]);
                rest = &mut rest[range.end..];
            }
            payload
        }

        /// Returns the requests that the worker writes now.
        fn requests(&mut self) -> Vec<ClaimRequest> {
            self.claimer.poll_transmit(&mut self.sender, &mut self.out);
            let bytes = self.written();
            let mut rest = &bytes[..];
            std::iter::from_fn(|| {
                (!rest.is_empty()).then(|| ClaimRequest::decode_length_delimited(&mut rest).unwrap())
            })
            .collect()
        }

        fn hear_raw(&mut self, bytes: &[u8]) -> Result<Vec<String>, ServerFault> {
            let mut heard = Vec::new();
            self.claimer.handle_data(bytes, false, |event| {
                heard.push(match event {
                    ClaimEvent::Message(number, message) => {
                        format!("{number} {} #{}", message.id, message.claim_count)
                    }
                    ClaimEvent::Claimed(numbers, claim) => format!("{numbers:?} {} {}", claim.id, claim.ttl),
                    ClaimEvent::Lost(numbers) => format!("lost {numbers:?}"),
                    ClaimEvent::LostClaim(lost) => format!("lost {}", lost.claim_id()),
                    ClaimEvent::Settled(requests) => format!("settled {requests}"),
                });
            })?;
            Ok(heard)
        }

        /// Returns the events of a response.
        fn hear(&mut self, response: &ClaimResponse) -> Result<Vec<String>, ServerFault> {
            self.hear_raw(&response.encode_length_delimited_to_vec())
        }
    }

    fn claim(ids: &[&str]) -> ClaimResponse {
        let message = |id: &&str| MessageAndMetadata {
            id: Some((*id).to_owned()),
            payload: Some(bytes::Bytes::from_static(b"x")),
            claim_count: Some(2),
            ..Default::default()
        };
        ClaimResponse {
            messages: ids.iter().map(message).collect(),
            claim: Some(Claim { id: Some("c".into()), ttl: Some(8), ..Claim::default() }),
            ..ClaimResponse::default()
        }
    }

    fn settled(requests: i64) -> ClaimResponse {
        ClaimResponse { settled_requests: Some(requests), ..ClaimResponse::default() }
    }

    #[test]
    fn messages_are_claimed_within_the_credit_and_settled_in_ranges() {
        let mut script = Script::accepted();
        assert!(script.requests().is_empty(), "a worker that wants nothing writes nothing");
        script.claimer.grant(4);
        let [credit] = &script.requests()[..] else { panic!("one request") };
        assert_eq!(credit, &ClaimRequest { max_msgnum_to_send: Some(4), ..ClaimRequest::default() });
        let heard = script.hear(&claim(&["0.7", "0.8", "0.9"])).unwrap();
        assert_eq!(heard, ["1 0.7 #2", "2 0.8 #2", "3 0.9 #2", "1..4 c 8"]);
        assert_eq!(script.hear(&claim(&["1.0"])).unwrap(), ["4 1.0 #2", "4..5 c 8"]);

        script.claimer.settle(3..4, Settle::Ack);
        script.claimer.settle(1..2, Settle::Ack);
        script.claimer.settle(4..5, Settle::Renew);
        script.claimer.settle(2..3, Settle::Reject);
        script.claimer.grant(6);
        let [request] = &script.requests()[..] else { panic!("one request") };
        let expected = ClaimRequest {
            max_msgnum_to_send: Some(6),
            ack: vec![0, 1, 1, 1],
            reject: vec![1, 1],
            renew: vec![3, 1],
            ..ClaimRequest::default()
        };
        assert_eq!(request, &expected);
        assert_eq!(script.hear(&settled(2)).unwrap(), ["settled 2"]);
    }

    #[test]
    fn each_delay_has_a_request_of_its_own_and_many_settlements_are_split() {
        let mut script = Script::accepted();
        script.claimer.grant(9);
        script.requests();
        script.hear(&claim(&["0.1", "0.2", "0.3"])).unwrap();
        script.claimer.settle(1..2, Settle::Release(None));
        script.claimer.settle(2..3, Settle::Release(Some(0)));
        script.claimer.settle(3..4, Settle::Release(None));
        for _ in 0..SETTLEMENTS_MAX + 1 {
            script.claimer.settle_claim(Settle::Release(Some(5)).of_claim("old", "0.1", "0.2"));
        }
        script.claimer.stop();
        let requests = script.requests();
        let told: Vec<_> = requests
            .iter()
            .map(|one| (one.release.clone(), one.release_delay, one.by_claim.len(), one.stop()))
            .collect();
        assert_eq!(told, [(vec![1, 1], Some(0), SETTLEMENTS_MAX, true), (vec![0, 1, 1, 1], None, 1, false)]);
        let settlement = &requests[0].by_claim[0];
        assert_eq!((settlement.kind(), settlement.seconds), (2, Some(5)));
        assert!(script.requests().is_empty(), "everything is written once");
    }

    #[test]
    fn what_was_settled_too_late_is_told_before_its_request_counts() {
        let mut script = Script::accepted();
        script.claimer.grant(3);
        script.requests();
        script.hear(&claim(&["0.1", "0.2", "0.3"])).unwrap();
        script.claimer.settle(1..4, Settle::Ack);
        script.requests();
        let lost = Settle::Ack.of_claim("old", "0.1", "0.1");
        let response = ClaimResponse { lost: vec![1, 2], lost_claims: vec![lost], ..settled(2) };
        assert_eq!(script.hear(&response).unwrap(), ["lost 2..4", "lost old", "settled 2"]);
    }

    #[test]
    fn a_token_counts_as_a_request() {
        let mut script = Script::accepted();
        let token = Secret::new("t");
        script.claimer.send_token(&token, &mut script.sender, &mut script.out);
        script.claimer.grant(1);
        assert_eq!(script.claimer.poll_transmit(&mut script.sender, &mut script.out), 2);
    }

    #[test]
    fn a_server_that_breaks_the_rules_is_found_out() {
        let mut script = Script::accepted();
        assert!(script.hear(&claim(&["0.1"])).is_err(), "no credit");
        let mut script = Script::accepted();
        script.claimer.grant(5);
        script.requests();
        let unclaimed = ClaimResponse { claim: None, ..claim(&["0.1"]) };
        assert!(script.hear(&unclaimed).is_err(), "a message without a claim");
        let mut script = Script::accepted();
        assert!(script.hear(&settled(1)).is_err(), "no request was written");
        let mut script = Script::accepted();
        let lost = ClaimResponse { lost: vec![0, 1], ..ClaimResponse::default() };
        assert!(script.hear(&lost).is_err(), "no message was sent");
    }

    #[test]
    fn a_failure_ends_the_operation() {
        let mut script = Script::accepted();
        let status =
            Status { status_code: Some(501), reason_phrase: Some("no claims".into()), ..Status::default() };
        script.hear(&ClaimResponse { status: Some(status), ..ClaimResponse::default() }).unwrap();
        let failure = script.claimer.failure().unwrap();
        assert!(!failure.is_transient(), "a retry does not help");
        assert_eq!(failure.to_string(), "501 no claims");
    }
}
