//! When the client renews the grant of its connection, without I/O and without a clock.
//!
//! The answer to a setup says how long the grant lasts. Before it ends, the client obtains another token and sends
//! it in a pb of its own, which has no message and no credit. The server also announces the end.

use std::time::{Duration, Instant};

use super::Outcome;
use crate::auth::Secret;
use crate::pb::Status;
use crate::ws::Sender;

/// A renewal is due when this part of a grant's life is left, and at the latest this time before its end.
const LEFT_PART: u32 = 5;
const LEFT_MAX: Duration = Duration::from_secs(60);

/// The first and the longest pause after a token that did not help. Each pause is twice the previous one.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// How long to wait for the answer to a token. A server may take 10 s to check one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How far two statements about one end may differ: they are in whole seconds, and take a while to arrive.
const ROUNDING: Duration = Duration::from_secs(2);

/// An operation whose connection needs a grant.
pub trait Renewable {
    /// Returns when a renewal is due.
    fn renewal(&mut self) -> &mut Renewal;

    /// Appends the request that carries only a token.
    fn send_token(&mut self, token: &Secret, sender: &mut Sender, out: &mut Vec<u8>);
}

/// What the client does now for its grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing, until the server says more.
    Nothing,
    /// Nothing before this time.
    Until(Instant),
    /// Obtain a token. Then call [`Renewal::sent`] or [`Renewal::delay`].
    Token,
}

/// The grant in force.
#[derive(Clone, Copy, Debug)]
struct Grant {
    end: Instant,
    /// When a renewal is due.
    due: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// No renewal is under way.
    Idle,
    /// A token is being obtained.
    Obtaining,
    /// A token was sent at this time, and is not answered.
    Sent(Instant),
}

/// What the server has said since the last look.
#[derive(Debug, Default)]
struct News {
    /// How long the grant lasts, and whether the answer to a setup says so. `None` in it means without end.
    granted: Option<(Option<Duration>, bool)>,
    refused: Option<Outcome>,
}

/// When the client renews the grant of its connection.
#[derive(Debug)]
pub struct Renewal {
    news: News,
    grant: Option<Grant>,
    step: Step,
    /// How many tokens in a row did not help, and when the next one may be obtained.
    failures: u32,
    earliest: Option<Instant>,
    /// How the server answered the last token, until someone asks.
    answer: Option<Result<(), Outcome>>,
    is_closed: bool,
}

impl Renewal {
    /// Creates the state of an operation without an answer to its setup.
    pub(super) fn new() -> Self {
        Self {
            news: News::default(),
            grant: None,
            step: Step::Idle,
            failures: 0,
            earliest: None,
            answer: None,
            is_closed: false,
        }
    }

    /// Handles the status of a setup's answer.
    pub(super) fn handle_setup(&mut self, status: &Status) {
        self.news.granted = Some((left(status), true));
    }

    /// Handles a `renewal`: the answer to a token, or the news that the grant ends soon.
    pub(super) fn handle_renewal(&mut self, status: &Status) {
        let outcome = Outcome::from(status);
        if outcome.code.is_success() {
            self.news.granted = Some((left(status), false));
        } else {
            self.news.refused = Some(outcome);
        }
    }

    /// Ends all renewals: the client's half is over, so no request may follow.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Returns what to do. Asks for a token once, until [`Self::sent`] or [`Self::delay`] is called.
    pub fn poll(&mut self, now: Instant) -> Want {
        self.look(now);
        let Some(Grant { due, .. }) = self.grant.filter(|_| self.may_send(now)) else { return Want::Nothing };
        let due = self.earliest.map_or(due, |earliest| due.max(earliest));
        match self.step {
            Step::Obtaining => return Want::Nothing,
            Step::Sent(at) if now < at + ANSWER_TIMEOUT => return Want::Until(at + ANSWER_TIMEOUT),
            Step::Idle if now < due => return Want::Until(due),
            Step::Sent(_) | Step::Idle => self.step = Step::Obtaining,
        }
        Want::Token
    }

    /// Returns whether a token may be sent: the server has granted something that ends, and has not ended.
    pub fn may_send(&self, now: Instant) -> bool {
        !self.is_closed && self.grant.is_some_and(|grant| now < grant.end)
    }

    /// Records that a token was sent.
    pub fn sent(&mut self, now: Instant) {
        self.step = Step::Sent(now);
    }

    /// Records that no other token is to be had yet. Asks again after a pause.
    pub fn delay(&mut self, now: Instant) {
        let pause = BACKOFF.0.saturating_mul(1 << self.failures.min(16)).min(BACKOFF.1);
        self.failures += 1;
        (self.step, self.earliest) = (Step::Idle, Some(now + pause));
    }

    /// Returns how the server answered a token, once for each answer.
    pub fn take_answer(&mut self) -> Option<Result<(), Outcome>> {
        self.answer.take()
    }

    /// Applies what the server has said.
    fn look(&mut self, now: Instant) {
        let News { granted, refused } = std::mem::take(&mut self.news);
        if let Some(refused) = refused {
            self.answer = Some(Err(refused));
            self.delay(now);
        }
        let Some((left, is_setup)) = granted else { return };
        let Some(left) = left else {
            // The grant has no end.
            (self.grant, self.step, self.failures) = (None, Step::Idle, 0);
            return;
        };
        let end = now + left;
        let before = self.grant;
        let is_answer = matches!(self.step, Step::Sent(_));
        let is_later = before.is_none_or(|before| end > before.end + ROUNDING);
        if is_setup || (is_later && (is_answer || before.is_some())) {
            self.grant = Some(Grant { end, due: end - (left / LEFT_PART).min(LEFT_MAX) });
            self.failures = 0;
            if is_answer {
                (self.step, self.answer) = (Step::Idle, Some(Ok(())));
            }
            return;
        }
        // An announcement, or the answer to a token that lasts no longer.
        self.grant = Some(Grant { end, due: now });
        if is_answer {
            self.delay(now);
        }
    }
}

/// Returns how long the grant lasts, or `None` if it has no end.
fn left(status: &Status) -> Option<Duration> {
    status.token_expires_s.map(|secs| Duration::from_secs(secs.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(code: u32, left: Option<u32>) -> Status {
        Status { status_code: Some(code), token_expires_s: left, ..Status::default() }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn granted(left: Option<u32>) -> Renewal {
        let mut renewal = Renewal::new();
        renewal.handle_setup(&status(100, left));
        renewal
    }

    #[test]
    fn a_grant_without_an_end_is_never_renewed() {
        let began = Instant::now();
        assert_eq!(Renewal::new().poll(began), Want::Nothing, "before the setup is answered");
        assert_eq!(granted(None).poll(began), Want::Nothing);
    }

    #[test]
    fn a_renewal_is_due_when_a_fifth_is_left_and_at_most_60_s_before_the_end() {
        let began = Instant::now();
        for (life, due) in [(10, 8), (100, 80), (300, 240), (3_600, 3_540)] {
            let mut renewal = granted(Some(life));
            assert_eq!(renewal.poll(began), Want::Until(began + secs(due)), "{life}");
            assert_eq!(renewal.poll(began + secs(due)), Want::Token);
            assert_eq!(renewal.poll(began + secs(due)), Want::Nothing, "asks only once");
        }
    }

    #[test]
    fn an_announcement_makes_a_renewal_due_at_once() {
        let began = Instant::now();
        let mut renewal = granted(Some(100));
        renewal.poll(began);
        renewal.handle_renewal(&status(100, Some(60)));
        assert_eq!(renewal.poll(began + secs(40)), Want::Token);
        renewal.sent(began + secs(40));
        renewal.handle_renewal(&status(100, Some(200)));
        assert_eq!(renewal.poll(began + secs(41)), Want::Until(began + secs(201)), "a fifth of 200 s");
        assert_eq!(renewal.take_answer(), Some(Ok(())));
        assert_eq!(renewal.take_answer(), None);
    }

    #[test]
    fn the_same_token_is_tried_again_with_pauses_until_the_end() {
        let began = Instant::now();
        let mut renewal = granted(Some(100));
        let mut now = began;
        let mut pauses = Vec::new();
        loop {
            match renewal.poll(now) {
                Want::Token => renewal.delay(now),
                Want::Until(at) => {
                    pauses.push((at - now).as_secs());
                    now = at;
                }
                Want::Nothing => break,
            }
        }
        assert_eq!(pauses, [80, 1, 2, 4, 8, 10]);
        assert!(now >= began + secs(100), "no attempt follows the end");
    }

    #[test]
    fn a_refusal_is_told_once_and_another_token_is_asked_for_later() {
        let began = Instant::now();
        let mut renewal = granted(Some(100));
        renewal.poll(began);
        assert_eq!(renewal.poll(began + secs(80)), Want::Token);
        renewal.sent(began + secs(80));
        assert_eq!(renewal.poll(began + secs(80)), Want::Until(began + secs(110)), "waits for the answer");
        renewal.handle_renewal(&status(401, Some(19)));
        assert_eq!(renewal.poll(began + secs(81)), Want::Until(began + secs(82)));
        assert_eq!(renewal.take_answer().unwrap().unwrap_err().code.0, 401);
        assert_eq!(renewal.take_answer(), None);
        assert_eq!(renewal.poll(began + secs(82)), Want::Token);
    }

    #[test]
    fn an_announcement_that_crosses_a_token_does_no_harm() {
        let began = Instant::now();
        let mut renewal = granted(Some(100));
        renewal.poll(began);
        assert_eq!(renewal.poll(began + secs(80)), Want::Token);
        renewal.sent(began + secs(80));
        renewal.handle_renewal(&status(100, Some(20)));
        assert_eq!(renewal.poll(began + secs(80)), Want::Until(began + secs(81)));
        renewal.handle_renewal(&status(100, Some(1_000)));
        assert_eq!(
            renewal.poll(began + secs(80)),
            Want::Until(began + secs(1_020)),
            "the answer still counts"
        );
    }

    #[test]
    fn nothing_is_sent_after_the_end_of_the_half() {
        let began = Instant::now();
        let mut renewal = granted(Some(100));
        renewal.poll(began);
        renewal.close();
        assert_eq!(renewal.poll(began + secs(90)), Want::Nothing);
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Pass(u64),
        Says(u32, Option<u32>),
        SameToken,
        OtherToken,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u64..40_000).prop_map(Event::Pass),
            (prop_oneof![Just(100), Just(401), Just(503)], proptest::option::of(0u32..200))
                .prop_map(|(code, left)| Event::Says(code, left)),
            Just(Event::SameToken),
            Just(Event::OtherToken),
        ]
    }

    proptest! {
        /// Whatever the server says, a client whose tokens do not help asks its source at most once a second, has
        /// one question open at a time, and asks nothing after the end.
        #[test]
        fn the_source_is_never_asked_in_a_hurry(events in proptest::collection::vec(event(), 1..60)) {
            let mut now = Instant::now();
            let mut renewal = granted(Some(100));
            let (mut is_asked, mut vain) = (false, None::<Instant>);
            for event in events {
                match event {
                    Event::Pass(ms) => now += Duration::from_millis(ms),
                    Event::Says(code, left) => {
                        renewal.handle_renewal(&status(code, left));
                        // A refusal also ends a question whose answer is not known yet.
                        is_asked &= code == 100 && left.is_some();
                    }
                    Event::SameToken if is_asked => {
                        renewal.delay(now);
                        (is_asked, vain) = (false, Some(now));
                    }
                    Event::OtherToken if is_asked && renewal.may_send(now) => {
                        renewal.sent(now);
                        is_asked = false;
                    }
                    Event::SameToken | Event::OtherToken => {}
                }
                match renewal.poll(now) {
                    Want::Token => {
                        prop_assert!(!is_asked, "one question at a time");
                        prop_assert!(vain.is_none_or(|at| now >= at + BACKOFF.0));
                        prop_assert!(renewal.may_send(now));
                        is_asked = true;
                    }
                    Want::Until(at) => prop_assert!(at > now),
                    Want::Nothing => {}
                }
            }
        }
    }
}
