//! What the judge knows, and how it decides. Never blocks: requests over the network are left for the workers.
//!
//! ```text
//! question ──▶ registry ──▶ throttle ──▶ provider ──▶ provider ──▶ … ──▶ refused
//!                 │             │           │ │ asks the network: the question joins a flight, and goes on with
//!                 ▼             ▼           ▼ │ the same or the next provider when that lands
//!               granted      refused     granted, refused
//! ```
//! One thread makes every verdict and puts it in the shards' order, with the files, rules and keys of that moment.
//! Workers bring only facts. So no shard gets an older verdict behind a newer one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::breaker::Breaker;
use super::credential::{Credential, Key};
use super::http::Fault;
use super::job::{Done, Job, PROVIDER_TIMEOUT};
use super::outbox::Outbox;
use super::provider::jwt::{self, KeySet, Refresh, Want};
use super::provider::keystone::{self, Facts, LookupFault};
use super::provider::{Evidence, Need, Opinion};
use super::question::{Answer, Audience, Denial, Question, Verdict};
use super::read::{Keys, Material};
use super::registry::Registry;
use super::settings::ProviderKind;
use super::snapshot::Snapshot;
use super::throttle::Throttle;
use crate::access::Grant;
use crate::base::clock::Now;
use crate::base::millis::Millis;

/// How many questions wait for the network. Each may hold a token of 16 KiB: 64 MiB at worst.
const WAITING_MAX: usize = 4_096;

/// How many tokens are checked again at once, so that newcomers find free threads.
const RECHECKS_MAX: usize = 64;

/// The time after which a token that could not be checked again is tried again, at most.
const RECHECK_AGAIN: Millis = Millis::from_secs(10);

/// The time between two sweeps of the registry.
const SWEEP_EVERY: Millis = Millis::from_secs(5);

/// Grants that end within this time are counted for the metrics.
const SOON: Millis = Millis::from_secs(300);

/// A question, and how far it has come.
#[derive(Debug)]
struct Asked {
    question: Question,
    /// The provider that is asked, by its place in the order.
    at: usize,
    /// The reason of a refusal, if no provider grants.
    fallback: Denial,
    /// Whether the keys were fetched for it.
    has_fetched: bool,
}

/// A lookup of one token, under way.
#[derive(Debug)]
struct Flight {
    number: u64,
    until: Millis,
    waiting: Vec<Asked>,
    is_recheck: bool,
}

/// What the judge knows.
#[derive(Debug)]
pub(super) struct State {
    material: Material,
    /// The keys of an address.
    refresh: Option<Refresh>,
    /// When the fetch that is under way must have ended.
    fetch_until: Option<(Millis, u64)>,
    waiting_for_keys: Vec<Asked>,
    registry: Registry,
    throttle: Throttle,
    breaker: Breaker,
    flights: HashMap<Key, Flight>,
    numbers: u64,
    jobs: Vec<Job>,
    outbox: Outbox,
    swept: Millis,
    snapshot: Arc<Mutex<Snapshot>>,
}

impl State {
    pub(super) fn new(now: Now, material: Material, audience: Arc<dyn Audience>) -> Self {
        let mut this = Self {
            refresh: None,
            material,
            fetch_until: None,
            waiting_for_keys: Vec::new(),
            registry: Registry::default(),
            throttle: Throttle::default(),
            breaker: Breaker::default(),
            flights: HashMap::new(),
            numbers: 0,
            jobs: Vec::new(),
            outbox: Outbox::new(audience),
            swept: now.mono,
            snapshot: Arc::default(),
        };
        if let Keys::Address(_) = this.material.keys {
            this.refresh = Some(Refresh::new(now.mono));
        }
        this.tick(now);
        this
    }

    /// Returns what is counted. Others may read it at any time.
    pub(super) fn snapshot(&self) -> Arc<Mutex<Snapshot>> {
        self.snapshot.clone()
    }

    /// Takes the requests that must be made.
    pub(super) fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// Returns how soon [`Self::tick`] must be called again.
    pub(super) fn pause(&self) -> Duration {
        Duration::from_millis(if !self.outbox.is_empty() {
            2
        } else if !self.flights.is_empty() || self.fetch_until.is_some() {
            50
        } else {
            250
        })
    }

    /// Answers a question, or has it wait for the network.
    pub(super) fn handle_question(&mut self, now: Now, question: Question) {
        if let Some((_, grant)) = self.registry.live(now.unix, &question.key) {
            self.counts().known += 1;
            return self.answer(&question, Ok(grant));
        }
        let asked = Asked { question, at: 0, fallback: Denial::Unknown, has_fetched: false };
        let may_be_refused =
            matches!(asked.question.credential, Credential::Token(_)) && !asked.question.is_renewal;
        if may_be_refused
            && asked.question.address.is_some_and(|address| self.throttle.refuses(now.mono, address))
        {
            return self.refuse(now, &asked, None, Denial::Throttled);
        }
        self.decide(now, asked);
    }

    /// Handles the end of a request.
    pub(super) fn handle_done(&mut self, now: Now, done: Done) {
        match done {
            Done::LookedUp { flight, key, result, took } => {
                if self.flights.get(&key).is_some_and(|known| known.number == flight)
                    && let Some(flight) = self.flights.remove(&key)
                {
                    self.land(now, key, flight, result, took);
                }
            }
            Done::Fetched { number, result, took } => self.handle_keys(now, number, result, took),
        }
    }

    /// Puts other files and settings into effect. Every grant in use is judged again.
    pub(super) fn apply(&mut self, now: Now, mut material: Material) {
        match (&self.material.keys, &material.keys) {
            (Keys::Address(before), Keys::Address(after))
                if before.fingerprint == after.fingerprint && !is_of_others(&self.material, &material) => {}
            (_, Keys::Address(_)) => {
                self.fetch_until = None;
                let refresh = self.refresh.get_or_insert_with(|| Refresh::new(now.mono));
                refresh.move_to(now.mono);
                if is_of_others(&self.material, &material) {
                    refresh.forget();
                }
            }
            (_, Keys::File(_) | Keys::None) => (self.refresh, self.fetch_until) = (None, None),
        }
        let mut stranded = std::mem::take(&mut self.waiting_for_keys);
        match (&self.material.keystone, &mut material.keystone) {
            // The client has a token and connections.
            (Some(before), Some(after)) if before.fingerprint == after.fingerprint => {
                after.by = before.by.clone()
            }
            _ => {
                // What the other Keystone said does not count.
                let flights = std::mem::take(&mut self.flights);
                stranded.extend(flights.into_values().flat_map(|flight| flight.waiting));
                self.breaker = Breaker::default();
                self.registry.recheck_all(now.mono);
            }
        }
        self.material = material;
        self.rejudge(now);
        stranded.into_iter().for_each(|asked| self.decide(now, asked));
        self.tick(now);
    }

    /// Does what is due: timeouts, fetches, rechecks, answers that shards had no room for.
    pub(super) fn tick(&mut self, now: Now) {
        self.outbox.flush();
        self.end_late(now);
        if let Some(number) = self.refresh.as_mut().and_then(|refresh| refresh.due(now.mono)) {
            self.fetch(now, number);
        }
        self.recheck(now);
        if now.mono.since(self.swept) >= SWEEP_EVERY {
            self.swept = now.mono;
            let (grants, expiring) = self.registry.sweep(now.unix, now.unix + SOON);
            let throttled = self.throttle.throttled(now.mono);
            let mut counts = self.counts();
            (counts.grants, counts.expiring, counts.throttled) = (grants, expiring, throttled);
        }
        let waiting = self.waiting();
        self.counts().waiting = waiting;
    }

    /// Asks the providers in turn, from the one at which the question is.
    fn decide(&mut self, now: Now, mut asked: Asked) {
        while let Some(kind) = self.material.settings.providers.0.get(asked.at).copied() {
            match self.opinion(now, kind, &asked.question.credential) {
                Opinion::Granted(grant, evidence) => {
                    let grant = self.register(now, asked.question.key, kind, grant, evidence);
                    self.count(Some(kind), None);
                    return self.answer(&asked.question, Ok(grant));
                }
                Opinion::Denied(denial) => return self.refuse(now, &asked, Some(kind), denial),
                Opinion::NotMine(denial) => asked.note(denial),
                Opinion::Ask(Need::Key(kid)) => match self.want_key(now, &asked, kid) {
                    Want::Refused(Denial::Unavailable) => asked.note(Denial::Unavailable),
                    Want::Refused(denial) => return self.refuse(now, &asked, Some(kind), denial),
                    Want::Wait => return self.waiting_for_keys.push(asked),
                    Want::Fetch(number) => {
                        self.waiting_for_keys.push(asked);
                        return self.fetch(now, number);
                    }
                },
                Opinion::Ask(Need::Keystone(token)) => {
                    if self.waiting() >= WAITING_MAX {
                        asked.note(Denial::Unavailable);
                    } else if let Some(flight) = self.flights.get_mut(&asked.question.key) {
                        return flight.waiting.push(asked);
                    } else if self.breaker.refuses(now.mono) {
                        asked.note(Denial::Unavailable);
                    } else {
                        let key = asked.question.key;
                        return self.look_up(now, key, token, vec![asked], false);
                    }
                }
            }
            asked.at += 1;
        }
        let denial = asked.fallback;
        self.refuse(now, &asked, None, denial);
    }

    fn opinion(&self, now: Now, kind: ProviderKind, credential: &Credential) -> Opinion {
        let settings = &self.material.settings;
        match (kind, credential) {
            (ProviderKind::Mtls, Credential::Certificate(certificate)) => {
                self.material.certified.judge(now, certificate)
            }
            (ProviderKind::Static, Credential::Token(token)) => self.material.listed.judge(token.expose()),
            (ProviderKind::Jwt, Credential::Token(token)) => {
                let none = KeySet::default();
                jwt::judge(settings, self.keys(now).unwrap_or(&none), now, token.expose())
            }
            (ProviderKind::Keystone, Credential::Token(token)) => keystone::judge(token),
            (ProviderKind::Mtls, Credential::Token(_)) | (_, Credential::Certificate(_)) => {
                Opinion::NotMine(Denial::Unknown)
            }
        }
    }

    /// Judges a grant in use again.
    fn again(&self, now: Now, evidence: &Evidence) -> Result<Grant, Denial> {
        let settings = &self.material.settings;
        match evidence {
            Evidence::Listed(digest) => self.material.listed.grant(digest),
            Evidence::Certificate(certificate) => self.material.certified.grant(now, certificate),
            Evidence::Keystone(_, facts) => facts.grant(settings, now),
            // The provider is not used.
            Evidence::Signed(_) if matches!(self.material.keys, Keys::None) => Err(Denial::Revoked),
            Evidence::Signed(signed) => signed.grant(settings, self.last_keys(), now),
        }
    }

    /// Judges every grant in use again, and has the shards forget whom they refused.
    fn rejudge(&mut self, now: Now) {
        let mut registry = std::mem::take(&mut self.registry);
        let changes = registry.rejudge(|evidence| self.again(now, evidence));
        self.registry = registry;
        self.publish(changes);
        self.outbox.tell_reloaded();
    }

    fn publish(&mut self, changes: Vec<(Key, Verdict)>) {
        if !changes.is_empty() {
            self.counts().changed += changes.len() as u64;
            self.outbox.tell_all(&changes.into());
        }
    }

    /// Returns the keys for newcomers.
    fn keys(&self, now: Now) -> Option<&KeySet> {
        match (&self.material.keys, &self.refresh) {
            (Keys::File(keys), _) => Some(keys),
            (_, Some(refresh)) => refresh.keys(now.mono),
            _ => None,
        }
    }

    /// Returns the keys for grants in use. `None` if they are not known yet.
    fn last_keys(&self) -> Option<&KeySet> {
        match (&self.material.keys, &self.refresh) {
            (Keys::File(keys), _) => Some(keys),
            (_, Some(refresh)) => refresh.last_keys(),
            _ => None,
        }
    }

    fn register(
        &mut self,
        now: Now,
        key: Key,
        kind: ProviderKind,
        grant: Grant,
        evidence: Evidence,
    ) -> Arc<Grant> {
        let recheck = (kind == ProviderKind::Keystone).then(|| now.mono + self.jittered());
        let (grant, is_changed) = self.registry.insert(key, kind, grant, evidence, recheck);
        if is_changed {
            self.publish(vec![(key, Ok(grant.clone()))]);
        }
        grant
    }

    /// Returns 80 to 100 % of the time between two checks of a token, so that tokens of one moment spread.
    fn jittered(&mut self) -> Millis {
        self.numbers += 1;
        // The golden ratio spreads consecutive numbers evenly.
        let fifth = self.numbers.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let recheck = Millis::from(self.material.settings.recheck).get();
        Millis::new(recheck - ((u128::from(recheck) * u128::from(fifth)) >> 32) as u64 / 5)
    }

    fn want_key(&mut self, now: Now, asked: &Asked, kid: Option<Box<str>>) -> Want {
        let is_full = self.waiting() >= WAITING_MAX;
        match &mut self.refresh {
            // A file has all keys.
            None => Want::Refused(Denial::Invalid),
            Some(refresh) if asked.has_fetched => {
                kid.into_iter().for_each(|kid| refresh.remember_unknown(now.mono, kid));
                Want::Refused(Denial::Invalid)
            }
            Some(_) if is_full => Want::Refused(Denial::Unavailable),
            Some(refresh) => refresh.want(now.mono, kid.as_deref()),
        }
    }

    fn fetch(&mut self, now: Now, number: u64) {
        if let Keys::Address(remote) = &self.material.keys {
            let from = remote.by.clone();
            self.fetch_until = Some((now.mono + Millis::from(PROVIDER_TIMEOUT), number));
            self.jobs.push(Job::Fetch { number, from });
        }
    }

    fn handle_keys(&mut self, now: Now, number: u64, result: Result<KeySet, Fault>, took: Duration) {
        let Some(refresh) = &mut self.refresh else { return };
        let keys = result.as_ref().ok().cloned();
        let (is_answer, keys_left) = (keys.is_some(), keys.as_ref().map_or(0, KeySet::len));
        let Some(is_changed) = refresh.handle(now.mono, number, keys) else { return };
        self.fetch_until = None;
        self.counts().requests.entry(ProviderKind::Jwt).or_default().count(is_answer, took);
        if let Err(why) = result {
            tracing::warn!(%why, "fetching auth_jwt_keys failed: the server keeps the keys that it has");
        }
        if is_changed {
            match keys_left {
                0 => tracing::warn!(
                    "auth_jwt_keys publishes no key that verifies signatures: no token of jwt is accepted"
                ),
                count => tracing::info!(count, "the keys of auth_jwt_keys have changed"),
            }
            self.rejudge(now);
        }
        for mut asked in std::mem::take(&mut self.waiting_for_keys) {
            asked.has_fetched = is_answer;
            if !is_answer {
                asked.note(Denial::Unavailable);
                asked.at += 1;
            }
            self.decide(now, asked);
        }
    }

    fn look_up(&mut self, now: Now, key: Key, token: super::Secret, waiting: Vec<Asked>, is_recheck: bool) {
        let Some(keystone) = &self.material.keystone else { return };
        self.numbers += 1;
        let until = now.mono + Millis::from(PROVIDER_TIMEOUT);
        let number = self.numbers;
        self.jobs.push(Job::LookUp { flight: number, key, token, client: keystone.by.clone() });
        self.flights.insert(key, Flight { number, until, waiting, is_recheck });
    }

    /// Handles what Keystone says of a token.
    fn land(
        &mut self,
        now: Now,
        key: Key,
        flight: Flight,
        result: Result<Facts, LookupFault>,
        took: Duration,
    ) {
        let kind = ProviderKind::Keystone;
        let is_answer = !matches!(result, Err(LookupFault::Unavailable(_)));
        self.breaker.count(now.mono, is_answer);
        self.counts().requests.entry(kind).or_default().count(is_answer, took);
        let verdict = match result {
            Ok(facts) => facts.grant(&self.material.settings, now).map(|grant| (grant, facts)),
            Err(LookupFault::Unknown) => Err(Denial::Unknown),
            Err(LookupFault::Unavailable(why)) => {
                tracing::warn!(%why, "keystone has not answered");
                Err(Denial::Unavailable)
            }
        };
        match (verdict, self.token_of(&flight, &key)) {
            (Ok((grant, facts)), Some(token)) => {
                let grant = self.register(now, key, kind, grant, Evidence::Keystone(token, facts));
                for asked in flight.waiting {
                    self.count(Some(kind), None);
                    self.answer(&asked.question, Ok(grant.clone()));
                }
            }
            (Ok(_), None) => {}
            (Err(denial), _) => {
                self.end_by_recheck(now, key, denial);
                for mut asked in flight.waiting {
                    if denial == Denial::Expired {
                        self.refuse(now, &asked, Some(kind), denial);
                    } else {
                        asked.note(denial);
                        asked.at += 1;
                        self.decide(now, asked);
                    }
                }
            }
        }
    }

    /// Returns the token of a flight: that of a question, or of the grant that is checked again.
    fn token_of(&self, flight: &Flight, key: &Key) -> Option<super::Secret> {
        let asked = flight.waiting.iter().find_map(|asked| match &asked.question.credential {
            Credential::Token(token) => Some(token.clone()),
            Credential::Certificate(_) => None,
        });
        asked.or_else(|| self.registry.token(key))
    }

    /// Ends a grant in use, if Keystone no longer knows its token, or has not answered for too long.
    fn end_by_recheck(&mut self, now: Now, key: Key, denial: Denial) {
        let grace = Millis::from(self.material.settings.recheck_grace);
        let pause = Millis::from(self.material.settings.recheck).min(RECHECK_AGAIN);
        if denial == Denial::Unavailable && self.registry.postpone(now.mono, key, pause, grace) {
            return;
        }
        // Keystone no longer knows an expired token. The shards end it by themselves, after a renewal in progress.
        let denial = match denial {
            Denial::Unknown if self.registry.ends_by(now.unix, &key) => Denial::Expired,
            Denial::Unknown => Denial::Revoked,
            other => other,
        };
        let is_news = match denial {
            Denial::Expired => self.registry.expire(&key),
            _ => self.registry.end(&key),
        };
        if is_news {
            self.publish(vec![(key, Err(denial))]);
        }
    }

    /// Starts to check tokens again whose time has come.
    fn recheck(&mut self, now: Now) {
        let mut under_way = self.flights.values().filter(|flight| flight.is_recheck).count();
        while under_way < RECHECKS_MAX
            && let Some((key, evidence)) = self.registry.due(now.mono)
        {
            let Evidence::Keystone(token, _) = evidence else { continue };
            if self.flights.contains_key(&key) {
                continue;
            }
            if self.breaker.refuses(now.mono) {
                self.end_by_recheck(now, key, Denial::Unavailable);
                continue;
            }
            self.look_up(now, key, token, Vec::new(), true);
            under_way += 1;
        }
    }

    /// Ends requests that take too long. What they bring later does not count.
    fn end_late(&mut self, now: Now) {
        let late: Vec<Key> =
            self.flights.iter().filter(|(_, flight)| flight.until <= now.mono).map(|(key, _)| *key).collect();
        for key in late {
            if let Some(flight) = self.flights.remove(&key) {
                let fault = LookupFault::Unavailable(Fault::new("no answer in time"));
                self.land(now, key, flight, Err(fault), PROVIDER_TIMEOUT);
            }
        }
        if let Some((until, number)) = self.fetch_until
            && until <= now.mono
        {
            self.handle_keys(now, number, Err(Fault::new("no answer in time")), PROVIDER_TIMEOUT);
        }
    }

    fn waiting(&self) -> usize {
        self.waiting_for_keys.len() + self.flights.values().map(|flight| flight.waiting.len()).sum::<usize>()
    }

    fn refuse(&mut self, now: Now, asked: &Asked, kind: Option<ProviderKind>, denial: Denial) {
        self.count(kind, Some(denial));
        let is_failure = match denial {
            Denial::Unknown | Denial::Invalid | Denial::Revoked => true,
            // The signature of such a token was verified.
            Denial::Expired => kind != Some(ProviderKind::Jwt),
            Denial::Missing | Denial::Throttled | Denial::Unavailable => false,
        };
        if is_failure
            && let (Credential::Token(_), Some(address)) =
                (&asked.question.credential, asked.question.address)
            && !self.registry.was_refused_before(&asked.question.key)
        {
            self.throttle.count(now.mono, address);
        }
        self.answer(&asked.question, Err(denial));
    }

    fn answer(&mut self, question: &Question, verdict: Verdict) {
        let Question { shard, tag, key, .. } = *question;
        self.outbox.tell(shard, Answer::Judged { tag, key, verdict });
    }

    fn count(&self, kind: Option<ProviderKind>, denial: Option<Denial>) {
        *self.counts().verdicts.entry((kind, denial)).or_default() += 1;
    }

    fn counts(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether the keys of provider jwt come from another address than before, or serve another issuer. They are
/// not trusted then, unlike the same ones over TLS of another authority.
fn is_of_others(before: &Material, after: &Material) -> bool {
    let address = |material: &Material| match &material.keys {
        Keys::Address(remote) => Some(remote.by.1.clone()),
        Keys::File(_) | Keys::None => None,
    };
    address(before) != address(after) || before.settings.jwt_issuer != after.settings.jwt_issuer
}

impl Asked {
    /// Remembers why a provider does not grant. That one cannot be asked counts most: the client may try again.
    fn note(&mut self, denial: Denial) {
        let weight = |denial| match denial {
            Denial::Unavailable => 2,
            Denial::Unknown => 0,
            _ => 1,
        };
        if weight(denial) > weight(self.fallback) {
            self.fallback = denial;
        }
    }
}

#[cfg(test)]
mod tests;
