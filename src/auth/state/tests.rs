use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::access::Right;
use crate::auth::http::{Http, Trusted, address};
use crate::auth::provider::jwt::tests::{Issuer, NOW, claims, settings};
use crate::auth::provider::keystone::tests::{client, facts};
use crate::auth::provider::listed::Listed;
use crate::auth::provider::mtls::Certified;
use crate::auth::read::Remote;
use crate::auth::settings::{Providers, Roles, Settings};
use crate::auth::token::Digest;
use crate::auth::{Keyer, Secret};
use crate::base::setting::{Kind, Value as _};
use crate::tls::ClientCertificate;

const GUESSER: &str = "192.0.2.1";

/// Two shards, whose inboxes may be full.
#[derive(Debug, Default)]
struct Shards {
    heard: Mutex<[Vec<Answer>; 2]>,
    is_full: Mutex<[bool; 2]>,
}

impl Audience for Shards {
    fn listeners(&self) -> u16 {
        2
    }

    fn tell(&self, shard: u16, answer: Answer) -> Result<(), Answer> {
        if self.is_full.lock().unwrap()[usize::from(shard)] {
            return Err(answer);
        }
        self.heard.lock().unwrap()[usize::from(shard)].push(answer);
        Ok(())
    }
}

struct Rig {
    state: State,
    shards: Arc<Shards>,
    now: Now,
    tags: u64,
    is_renewal: bool,
}

fn material(providers: &[ProviderKind], listed: &str) -> Material {
    let providers = Providers(providers.to_vec());
    let listed = match listed {
        "" => Listed::default(),
        text => Listed::read("auth_static_file", Path::new("t"), text.as_bytes()).unwrap(),
    };
    let roles = Roles::read("reader = consume:*; member = produce:*", &Kind::Text).unwrap();
    Material {
        keystone: providers
            .0
            .contains(&ProviderKind::Keystone)
            .then(|| Remote { by: client("http://127.0.0.1:1"), fingerprint: 1 }),
        settings: Settings { providers, roles, ..settings() },
        listed,
        certified: Certified::default(),
        keys: Keys::None,
        fingerprint: 0,
        warnings: Vec::new(),
    }
}

/// With keys of an address.
fn fetching(providers: &[ProviderKind]) -> Material {
    Material { keys: keys_at("http://127.0.0.1:1", 1), ..material(providers, "") }
}

fn keys_at(url: &str, fingerprint: u64) -> Keys {
    let by = Arc::new((Http::new(Trusted::system()), address("auth_jwt_keys", url).unwrap()));
    Keys::Address(Remote { by, fingerprint })
}

impl Rig {
    fn new(material: Material) -> Self {
        let shards = Arc::new(Shards::default());
        Self {
            state: State::new(NOW, material, shards.clone()),
            shards,
            now: NOW,
            tags: 0,
            is_renewal: false,
        }
    }

    fn keystone() -> Self {
        Self::new(material(&[ProviderKind::Keystone], ""))
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.later(Millis::new(ms));
        self.state.tick(self.now);
    }

    fn ask_from(&mut self, shard: u16, credential: Credential, address: &str) -> u64 {
        self.tags += 1;
        let key = Keyer::fixed().key(&credential);
        let address = address.parse::<IpAddr>().ok();
        self.state.handle_question(
            self.now,
            Question { shard, tag: self.tags, key, credential, address, is_renewal: self.is_renewal },
        );
        self.tags
    }

    fn ask(&mut self, token: &str) -> u64 {
        self.ask_from(0, token_credential(token), "")
    }

    /// Returns what a shard has heard since, without reloads.
    fn heard(&self, shard: usize) -> Vec<Answer> {
        let mut heard = self.heard_all(shard);
        heard.retain(|answer| !matches!(answer, Answer::Reloaded));
        heard
    }

    fn heard_all(&self, shard: usize) -> Vec<Answer> {
        std::mem::take(&mut self.shards.heard.lock().unwrap()[shard])
    }

    /// Returns the only verdict that shard 0 has heard since.
    fn verdict(&self) -> Verdict {
        let mut heard = self.heard(0);
        match (heard.pop(), heard.len()) {
            (Some(Answer::Judged { verdict, .. }), 0) => verdict,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the changes that a shard has heard, and nothing else.
    fn changes(&self, shard: usize) -> Vec<(Key, Verdict)> {
        let only_changes = |answer| match answer {
            Answer::Changed(changes) => changes.to_vec(),
            other => panic!("{other:?}"),
        };
        self.heard(shard).into_iter().flat_map(only_changes).collect()
    }

    fn lookups(&mut self) -> Vec<(u64, Key)> {
        let jobs = self.state.take_jobs();
        let lookup = |job| match job {
            Job::LookUp { flight, key, .. } => Some((flight, key)),
            Job::Fetch { .. } => None,
        };
        jobs.into_iter().filter_map(lookup).collect()
    }

    fn fetches(&mut self) -> Vec<u64> {
        let jobs = self.state.take_jobs();
        let fetch = |job| match job {
            Job::Fetch { number, .. } => Some(number),
            Job::LookUp { .. } => None,
        };
        jobs.into_iter().filter_map(fetch).collect()
    }

    fn looked_up(&mut self, (flight, key): (u64, Key), result: Result<Facts, LookupFault>) {
        self.state.handle_done(self.now, Done::LookedUp { flight, key, result, took: Duration::ZERO });
    }

    fn fetched(&mut self, number: u64, result: Result<KeySet, Fault>) {
        self.state.handle_done(self.now, Done::Fetched { number, result, took: Duration::ZERO });
    }

    /// Has Keystone grant a token.
    fn granted(&mut self, token: &str) -> Arc<Grant> {
        self.ask(token);
        let lookup = self.lookups()[0];
        self.looked_up(lookup, Ok(facts("member", NOW.unix.get() + 86_400_000)));
        self.verdict().unwrap()
    }
}

fn token_credential(token: &str) -> Credential {
    Credential::Token(Secret::new(token))
}

fn key(token: &str) -> Key {
    Keyer::fixed().key(&token_credential(token))
}

fn line(token: &str, rest: &str) -> String {
    format!("app {} {rest}\n", Digest::of(token))
}

fn unavailable() -> LookupFault {
    LookupFault::Unavailable(Fault::new("down"))
}

#[test]
fn a_static_token_is_answered_at_once_and_the_same_grant_is_shared() {
    let mut rig = Rig::new(material(&[ProviderKind::Static], &line("ms_a", "* all:*")));
    rig.ask("ms_a");
    let grant = rig.verdict().unwrap();
    rig.ask_from(1, token_credential("ms_a"), "");
    let heard = rig.heard(1);
    let Some(Answer::Judged { verdict: Ok(again), tag: 2, .. }) = heard.first() else { panic!("{heard:?}") };
    assert!(Arc::ptr_eq(&grant, again));
    rig.ask("ms_b");
    assert_eq!(rig.verdict(), Err(Denial::Unknown));
    let snapshot = rig.state.snapshot();
    let snapshot = snapshot.lock().unwrap();
    assert_eq!(snapshot.known, 1);
    assert_eq!(snapshot.verdicts[&(Some(ProviderKind::Static), None)], 1);
    assert_eq!(snapshot.verdicts[&(Some(ProviderKind::Static), Some(Denial::Unknown))], 1);
}

#[test]
fn a_reload_tells_every_shard_what_changed_and_nothing_else() {
    let before = line("ms_a", "* all:*") + &line("ms_b", "* all:*") + &line("ms_c", "* all:*");
    let mut rig = Rig::new(material(&[ProviderKind::Static], &before));
    let held: Vec<_> = ["ms_a", "ms_b", "ms_c"]
        .map(|token| {
            rig.ask(token);
            rig.verdict().unwrap()
        })
        .into();
    let after = line("ms_a", "* consume:*") + &line("ms_b", "* all:*");
    rig.state.apply(rig.now, material(&[ProviderKind::Static], &after));
    for shard in 0..2 {
        let changes = rig.changes(shard);
        assert_eq!(changes.len(), 2);
        for (changed, verdict) in changes {
            match verdict {
                Ok(grant) => assert!(changed == key("ms_a") && !grant.allows(Right::Produce, "q")),
                Err(denial) => assert!(changed == key("ms_c") && denial == Denial::Revoked),
            }
        }
    }
    rig.state.apply(rig.now, material(&[ProviderKind::Static], &after));
    assert!(rig.changes(0).is_empty(), "nothing has changed since");
    rig.ask("ms_c");
    assert_eq!(rig.verdict(), Err(Denial::Unknown));
    drop(held);
}

#[test]
fn a_grant_that_nobody_uses_is_forgotten() {
    let mut rig = Rig::new(material(&[ProviderKind::Static], &line("ms_a", "* all:*")));
    rig.ask("ms_a");
    let grant = rig.verdict().unwrap();
    rig.wait(5_000);
    assert_eq!(rig.state.snapshot().lock().unwrap().grants, 1);
    drop(grant);
    rig.wait(5_000);
    assert_eq!(rig.state.snapshot().lock().unwrap().grants, 0);
    rig.state.apply(rig.now, material(&[ProviderKind::Static], &line("ms_b", "* all:*")));
    assert!(rig.changes(0).is_empty());
}

#[test]
fn one_token_is_looked_up_once_for_all_who_ask() {
    let mut rig = Rig::keystone();
    let tags: Vec<u64> = (0..10).map(|_| rig.ask("t")).collect();
    let lookups = rig.lookups();
    assert_eq!(lookups.len(), 1);
    rig.looked_up(lookups[0], Ok(facts("member", NOW.unix.get() + 60_000)));
    let tag = |answer: &Answer| match answer {
        Answer::Judged { tag, verdict: Ok(_), .. } => *tag,
        other => panic!("{other:?}"),
    };
    let heard = rig.heard(0);
    assert_eq!(heard.iter().map(tag).collect::<Vec<_>>(), tags);
    rig.ask("t");
    assert!(rig.lookups().is_empty() && rig.verdict().is_ok(), "the grant is in use");
    drop(heard);
    rig.ask("t");
    assert_eq!(rig.lookups().len(), 1, "nobody uses it");
}

#[test]
fn a_provider_without_an_answer_is_unavailable_after_three_seconds_and_then_spared() {
    let mut rig = Rig::keystone();
    for token in 0..5 {
        rig.ask(&token.to_string());
    }
    let late = rig.lookups();
    rig.wait(2_999);
    assert!(rig.heard(0).is_empty());
    rig.wait(1);
    assert_eq!(rig.heard(0).len(), 5);
    rig.looked_up(late[0], Ok(facts("member", NOW.unix.get() + 60_000)));
    assert!(rig.heard(0).is_empty(), "too late");
    rig.ask("more");
    assert_eq!(rig.verdict(), Err(Denial::Unavailable));
    assert!(rig.lookups().is_empty(), "at once, without a request");
    rig.wait(5_000);
    rig.ask("more");
    let lookup = rig.lookups()[0];
    rig.looked_up(lookup, Err(LookupFault::Unknown));
    assert_eq!(rig.verdict(), Err(Denial::Unknown));
}

#[test]
fn a_later_provider_grants_what_an_earlier_one_does_not_know_or_cannot_tell() {
    let issuer = Issuer::es256("k");
    let jwt = || Material {
        keys: Keys::File(issuer.keys()),
        ..material(&[ProviderKind::Keystone, ProviderKind::Static, ProviderKind::Jwt], &line("t", "* all:*"))
    };
    let mut rig = Rig::new(jwt());
    for result in [Err(LookupFault::Unknown), Err(unavailable())] {
        for (token, expected) in
            [("t".to_owned(), "static:app"), (issuer.token(&claims()), "jwt:https://issuer.example|app%7C1")]
        {
            rig.ask(&token);
            let lookup = rig.lookups()[0];
            rig.looked_up(lookup, result.clone());
            assert_eq!(&*rig.verdict().unwrap().principal, expected);
        }
        rig.ask("other");
        let lookup = rig.lookups()[0];
        rig.looked_up(lookup, result.clone());
        let expected =
            if result == Err(LookupFault::Unknown) { Denial::Unknown } else { Denial::Unavailable };
        assert_eq!(rig.verdict(), Err(expected));
    }
}

#[test]
fn a_token_in_use_is_checked_again_and_ends_when_it_is_revoked() {
    let mut rig = Rig::keystone();
    let _held = rig.granted("t");
    rig.wait(239_000);
    assert!(rig.lookups().is_empty());
    rig.wait(61_000);
    let lookups = rig.lookups();
    assert_eq!(lookups.len(), 1, "once, within the time of the setting");
    rig.looked_up(lookups[0], Ok(facts("reader", NOW.unix.get() + 86_400_000)));
    let changes = rig.changes(1);
    assert!(matches!(&changes[..], [(_, Ok(grant))] if !grant.allows(Right::Produce, "q")), "{changes:?}");
    assert!(rig.changes(0).len() == 1);
    let _held = changes;
    rig.wait(300_000);
    let lookup = rig.lookups()[0];
    rig.looked_up(lookup, Err(LookupFault::Unknown));
    assert_eq!(rig.changes(0), [(key("t"), Err(Denial::Revoked))]);
    assert_eq!(rig.changes(1).len(), 1);
    rig.wait(300_000);
    assert!(rig.lookups().is_empty());
}

#[test]
fn another_keystone_is_asked_about_tokens_whose_check_was_under_way() {
    let mut rig = Rig::keystone();
    let _held = rig.granted("t");
    rig.wait(300_000);
    let under_way = rig.lookups();
    assert_eq!(under_way.len(), 1);
    let mut other = material(&[ProviderKind::Keystone], "");
    other.keystone = Some(Remote { by: client("http://127.0.0.1:2"), fingerprint: 2 });
    rig.state.apply(rig.now, other);
    rig.looked_up(under_way[0], Ok(facts("member", NOW.unix.get() + 86_400_000)));
    let again = rig.lookups();
    assert_eq!(again.len(), 1);
    rig.looked_up(again[0], Err(LookupFault::Unknown));
    assert_eq!(rig.changes(0), [(key("t"), Err(Denial::Revoked))]);
}

#[test]
fn a_recheck_just_after_the_end_says_expired_and_not_revoked() {
    let mut rig = Rig::keystone();
    rig.ask("t");
    let lookup = rig.lookups()[0];
    rig.looked_up(lookup, Ok(facts("member", NOW.unix.get() + 290_000)));
    let _held = rig.verdict().unwrap();
    rig.wait(300_000);
    let lookup = rig.lookups()[0];
    rig.looked_up(lookup, Err(LookupFault::Unknown));
    assert_eq!(rig.changes(0), [(key("t"), Err(Denial::Expired))]);
}

#[test]
fn a_recheck_without_an_answer_keeps_the_grant_for_the_grace_and_no_longer() {
    let mut rig = Rig::keystone();
    let _held = rig.granted("t");
    rig.wait(300_000);
    let (mut waited, mut changes) = (0, Vec::new());
    while changes.is_empty() {
        for lookup in rig.lookups() {
            rig.looked_up(lookup, Err(unavailable()));
        }
        changes = rig.changes(0);
        if changes.is_empty() {
            rig.wait(1_000);
            waited += 1;
        }
    }
    assert_eq!(changes, [(key("t"), Err(Denial::Unavailable))]);
    assert_eq!(waited, 3_600);
}

#[test]
fn a_recheck_that_is_answered_again_starts_the_grace_anew() {
    let mut rig = Rig::keystone();
    let _held = rig.granted("t");
    rig.wait(300_000);
    for _ in 0..3 {
        let lookup = rig.lookups()[0];
        rig.looked_up(lookup, Err(unavailable()));
        rig.wait(3_590_000);
        let lookup = rig.lookups()[0];
        rig.looked_up(lookup, Ok(facts("member", NOW.unix.get() + 86_400_000)));
        rig.wait(300_000);
    }
    assert!(rig.changes(0).is_empty());
}

#[test]
fn a_worker_that_computes_during_a_reload_brings_no_older_verdict() {
    let mut rig = Rig::keystone();
    rig.ask("t");
    let lookup = rig.lookups()[0];
    let mut after = material(&[ProviderKind::Keystone], "");
    after.settings.roles = Roles::read("member = consume:*", &Kind::Text).unwrap();
    rig.state.apply(rig.now, after);
    rig.looked_up(lookup, Ok(facts("member", NOW.unix.get() + 60_000)));
    assert!(!rig.verdict().unwrap().allows(Right::Produce, "q"), "the rules of the reload");
    // Another Keystone: what the old one says does not count.
    rig.ask("u");
    let lookup = rig.lookups()[0];
    let mut other = material(&[ProviderKind::Keystone], "");
    other.keystone = Some(Remote { by: client("http://127.0.0.1:2"), fingerprint: 2 });
    rig.state.apply(rig.now, other);
    rig.looked_up(lookup, Ok(facts("member", NOW.unix.get() + 60_000)));
    assert!(rig.heard(0).is_empty());
    let again = rig.lookups()[0];
    rig.looked_up(again, Err(LookupFault::Unknown));
    assert_eq!(rig.verdict(), Err(Denial::Unknown));
}

#[test]
fn a_shard_with_a_full_inbox_delays_nobody_and_gets_everything_in_order() {
    let mut rig = Rig::new(material(&[ProviderKind::Static], &line("ms_a", "* all:*")));
    rig.shards.is_full.lock().unwrap()[0] = true;
    let first = rig.ask("ms_a");
    for rest in ["* consume:*", "* produce:*"] {
        rig.state.apply(rig.now, material(&[ProviderKind::Static], &line("ms_a", rest)));
    }
    let last = rig.ask("ms_b");
    rig.ask_from(1, token_credential("ms_a"), "");
    assert_eq!(rig.heard(1).len(), 3, "two changes and an answer");
    assert!(rig.state.pause() < Duration::from_millis(10));
    rig.shards.is_full.lock().unwrap()[0] = false;
    rig.wait(1);
    let heard = rig.heard(0);
    let [Answer::Judged { tag: one, .. }, Answer::Changed(changes), Answer::Judged { tag: other, .. }] =
        &heard[..]
    else {
        panic!("{heard:?}")
    };
    assert_eq!((*one, *other), (first, last));
    assert!(
        matches!(&changes[..], [(_, Ok(grant))] if grant.allows(Right::Produce, "q")),
        "the newer one alone"
    );
}

#[test]
fn ten_failures_of_an_address_are_free_and_known_credentials_are_never_throttled() {
    let mut rig = Rig::new(material(&[ProviderKind::Static, ProviderKind::Mtls], &line("ms_a", "* all:*")));
    rig.ask("ms_a");
    let _held = rig.verdict().unwrap();
    for guess in 0..11 {
        rig.ask_from(0, token_credential(&format!("ms_{guess}")), GUESSER);
        assert_eq!(rig.verdict(), Err(if guess < 10 { Denial::Unknown } else { Denial::Throttled }));
    }
    rig.ask_from(0, token_credential("ms_a"), GUESSER);
    assert!(rig.verdict().is_ok(), "a grant in use");
    let certificate = ClientCertificate {
        common_name: None,
        dns_names: Vec::new(),
        uris: Vec::new(),
        not_after: 0,
        fingerprint: [0; 32],
        chain: Vec::new(),
    };
    for _ in 0..20 {
        rig.ask_from(0, Credential::Certificate(Arc::new(certificate.clone())), GUESSER);
        assert_eq!(rig.verdict(), Err(Denial::Unknown));
    }
    rig.ask_from(0, token_credential("ms_x"), "192.0.2.2");
    assert_eq!(rig.verdict(), Err(Denial::Unknown), "others may try");
    rig.wait(1_000);
    rig.ask_from(0, token_credential("ms_x"), GUESSER);
    assert_eq!(rig.verdict(), Err(Denial::Unknown), "one attempt a second");
}

#[test]
fn an_expired_jwt_never_counts_and_a_revoked_token_counts_once() {
    let issuer = Issuer::es256("k");
    let mut rig = Rig::new(Material {
        keys: Keys::File(issuer.keys()),
        ..material(&[ProviderKind::Static, ProviderKind::Jwt], &line("ms_a", "* all:*"))
    });
    let mut expired = claims();
    expired["exp"] = 1_000.into();
    let expired = issuer.token(&expired);
    rig.ask("ms_a");
    let held = rig.verdict().unwrap();
    rig.state.apply(rig.now, material(&[ProviderKind::Static, ProviderKind::Jwt], &line("ms_b", "* all:*")));
    assert_eq!(rig.changes(0).len(), 1);
    drop(held);
    rig.state.apply(
        rig.now,
        Material {
            keys: Keys::File(issuer.keys()),
            ..material(&[ProviderKind::Static, ProviderKind::Jwt], "")
        },
    );
    for _ in 0..50 {
        rig.ask_from(0, token_credential(&expired), GUESSER);
        assert_eq!(rig.verdict(), Err(Denial::Expired));
        rig.ask_from(0, token_credential("ms_a"), GUESSER);
        assert_eq!(rig.verdict(), Err(Denial::Unknown));
    }
    for guess in 0..10 {
        rig.ask_from(0, token_credential(&format!("ms_{guess}")), GUESSER);
        assert_eq!(rig.verdict(), Err(if guess < 9 { Denial::Unknown } else { Denial::Throttled }));
    }
}

#[test]
fn ten_thousand_random_keys_cause_two_fetches() {
    let mut rig = Rig::new(fetching(&[ProviderKind::Jwt]));
    let known = Issuer::es256("known");
    let first = rig.fetches();
    assert_eq!(first.len(), 1, "the schedule");
    rig.fetched(first[0], Ok(known.keys()));
    let stranger = Issuer::es256("0");
    let token = stranger.token(&claims());
    let payload = token.split_once('.').unwrap().1;
    let mut fetches = 0;
    for kid in 0..10_000 {
        let header = format!("{{\"alg\":\"ES256\",\"kid\":\"{kid}\"}}");
        let header = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, header);
        rig.ask(&format!("{header}.{payload}"));
        for number in rig.fetches() {
            fetches += 1;
            rig.fetched(number, Ok(known.keys()));
        }
        let expected = if kid == 0 { Denial::Invalid } else { Denial::Unavailable };
        assert_eq!(rig.verdict(), Err(expected));
        rig.wait(2);
    }
    assert_eq!(fetches, 1);
    rig.ask(&known.token(&claims()));
    assert!(rig.verdict().is_ok());
}

#[test]
fn a_new_key_is_fetched_for_the_first_token_of_it_and_an_old_one_ends_its_tokens() {
    let mut rig = Rig::new(fetching(&[ProviderKind::Jwt]));
    let (old, new) = (Issuer::es256("old"), Issuer::es256("new"));
    let tag = rig.ask(&old.token(&claims()));
    assert!(rig.heard(0).is_empty(), "it waits for the first keys");
    let number = rig.fetches()[0];
    rig.fetched(number, Ok(old.keys()));
    let heard = rig.heard(0);
    assert!(
        matches!(&heard[..], [Answer::Judged { tag: same, verdict: Ok(_), .. }] if *same == tag),
        "{heard:?}"
    );
    rig.ask(&new.token(&claims()));
    let number = rig.fetches()[0];
    rig.fetched(number, Ok(new.keys()));
    let heard_after = rig.heard(0);
    let [Answer::Changed(changes), Answer::Judged { verdict: Ok(_), .. }] = &heard_after[..] else {
        panic!("{heard_after:?}")
    };
    assert_eq!(changes[0].1, Err(Denial::Revoked));
}

#[test]
fn keys_of_another_address_or_issuer_are_forgotten_at_once_and_those_over_another_tls_are_not() {
    let issuer = Issuer::es256("k");
    for (url, name, is_kept) in [
        ("http://127.0.0.1:1", "https://issuer.example", true),
        ("http://127.0.0.1:2", "https://issuer.example", false),
        ("http://127.0.0.1:1", "https://other.example", false),
    ] {
        let mut rig = Rig::new(fetching(&[ProviderKind::Jwt]));
        let number = rig.fetches()[0];
        rig.fetched(number, Ok(issuer.keys()));
        let mut after = Material { keys: keys_at(url, 2), ..material(&[ProviderKind::Jwt], "") };
        after.settings.jwt_issuer = name.into();
        rig.state.apply(rig.now, after);
        let fetches = rig.fetches();
        assert_eq!(fetches.len(), 1, "{url} {name}");
        let mut claims = claims();
        claims["iss"] = name.into();
        rig.ask(&issuer.token(&claims));
        assert_eq!(!rig.heard(0).is_empty(), is_kept, "{url} {name}");
    }
}

#[test]
fn an_issuer_that_publishes_no_keys_has_none_and_keys_that_are_not_fetched_yet_revoke_nothing() {
    let issuer = Issuer::es256("k");
    let mut rig = Rig::new(fetching(&[ProviderKind::Jwt]));
    let number = rig.fetches()[0];
    rig.fetched(number, Ok(issuer.keys()));
    let token = issuer.token(&claims());
    rig.ask(&token);
    let _held = rig.verdict().unwrap();
    let moved = Material { keys: keys_at("http://127.0.0.1:2", 2), ..material(&[ProviderKind::Jwt], "") };
    rig.state.apply(rig.now, moved);
    assert!(rig.changes(0).is_empty(), "not known yet");
    let number = rig.fetches()[0];
    rig.fetched(number, Ok(KeySet::published(br#"{"keys":[]}"#).unwrap()));
    assert_eq!(rig.changes(0), [(key(&token), Err(Denial::Revoked))]);
}

#[test]
fn keys_that_cannot_be_fetched_make_unavailable_and_keys_in_memory_go_on() {
    let mut rig = Rig::new(fetching(&[ProviderKind::Jwt]));
    let known = Issuer::es256("known");
    rig.ask(&known.token(&claims()));
    rig.wait(3_000);
    assert_eq!(rig.verdict(), Err(Denial::Unavailable));
    rig.state.take_jobs();
    rig.wait(30_000);
    let number = rig.fetches()[0];
    rig.fetched(number, Ok(known.keys()));
    rig.wait(600_000);
    let number = rig.fetches()[0];
    rig.fetched(number, Err(Fault::new("down")));
    rig.ask(&known.token(&{
        let mut claims = claims();
        claims["exp"] = 2_000_000.into();
        claims
    }));
    assert!(rig.verdict().is_ok());
}

#[test]
fn what_waits_for_the_network_is_bounded() {
    let mut rig = Rig::keystone();
    for token in 0..WAITING_MAX {
        rig.ask(&token.to_string());
    }
    assert!(rig.heard(0).is_empty());
    rig.ask("more");
    assert_eq!(rig.verdict(), Err(Denial::Unavailable));
}

#[test]
fn a_token_that_becomes_another_clients_ends_for_the_one_before() {
    let mut rig = Rig::new(material(&[ProviderKind::Static], &line("ms_a", "* all:*")));
    rig.ask("ms_a");
    let _held = rig.verdict().unwrap();
    let renamed = line("ms_a", "* all:*").replace("app ", "other ");
    rig.state.apply(rig.now, material(&[ProviderKind::Static], &renamed));
    assert_eq!(rig.changes(0), [(key("ms_a"), Err(Denial::Revoked))]);
    rig.ask("ms_a");
    assert_eq!(&*rig.verdict().unwrap().principal, "static:other");
}

#[test]
fn an_expired_grant_in_use_is_told_once_and_hears_of_its_revocation() {
    let issuer = Issuer::es256("k");
    let with = |keys| Material { keys: Keys::File(keys), ..material(&[ProviderKind::Jwt], "") };
    let mut rig = Rig::new(with(issuer.keys()));
    let token = issuer.token(&claims());
    rig.ask(&token);
    let _held = rig.verdict().unwrap();
    rig.wait(3_600_000);
    for expected in [&[(key(&token), Err(Denial::Expired))][..], &[]] {
        rig.state.apply(rig.now, with(issuer.keys()));
        assert_eq!(rig.changes(0), expected);
    }
    rig.wait(5_000);
    let counts = rig.state.snapshot().lock().unwrap().clone();
    assert_eq!((counts.grants, counts.expiring), (1, 0), "in use, and about to end no more");
    rig.state.apply(rig.now, with(Issuer::es256("other").keys()));
    assert_eq!(rig.changes(0), [(key(&token), Err(Denial::Revoked))]);
}

#[test]
fn rules_that_change_back_and_forth_while_an_inbox_is_full_leave_the_grant_that_the_shard_holds() {
    let with = |rest: &str| material(&[ProviderKind::Static], &line("ms_a", rest));
    let mut rig = Rig::new(with("* all:*"));
    rig.ask("ms_a");
    let held = rig.verdict().unwrap();
    rig.shards.is_full.lock().unwrap()[0] = true;
    rig.state.apply(rig.now, with("* consume:*"));
    rig.state.apply(rig.now, with("* all:*"));
    rig.shards.is_full.lock().unwrap()[0] = false;
    rig.wait(5_000);
    drop(rig.heard(1));
    // The shard finds its grant unchanged, and drops the one of the change.
    assert!(matches!(&rig.changes(0)[..], [(_, Ok(grant))] if *grant == held));
    rig.wait(5_000);
    rig.state.apply(rig.now, with("* produce:*"));
    assert_eq!(rig.changes(0).len(), 1, "the grant is not lost");
}

#[test]
fn an_end_that_waits_for_a_full_inbox_is_not_replaced_by_a_later_grant() {
    let with = |name: &str, rest: &str| {
        material(&[ProviderKind::Static], &line("ms_a", rest).replace("app ", &format!("{name} ")))
    };
    let mut rig = Rig::new(with("app", "* all:*"));
    rig.ask("ms_a");
    let _held = rig.verdict().unwrap();
    rig.shards.is_full.lock().unwrap()[0] = true;
    rig.state.apply(rig.now, with("other", "* all:*"));
    rig.ask_from(1, token_credential("ms_a"), "");
    let _others = rig.heard(1);
    rig.state.apply(rig.now, with("other", "* consume:*"));
    rig.shards.is_full.lock().unwrap()[0] = false;
    rig.wait(1);
    assert_eq!(rig.changes(0), [(key("ms_a"), Err(Denial::Revoked))]);
}

#[test]
fn shards_hear_of_every_reload_and_of_other_keys_behind_the_changes() {
    let issuer = Issuer::es256("k");
    let mut rig = Rig::new(fetching(&[ProviderKind::Jwt]));
    assert!(rig.heard_all(0).is_empty());
    let number = rig.fetches()[0];
    rig.fetched(number, Ok(issuer.keys()));
    for shard in 0..2 {
        assert!(matches!(rig.heard_all(shard)[..], [Answer::Reloaded]), "keys");
    }
    rig.ask(&issuer.token(&claims()));
    let _held = rig.verdict().unwrap();
    rig.shards.is_full.lock().unwrap()[0] = true;
    for issuer in ["https://other.example", "https://issuer.example", "https://third.example"] {
        let mut after = fetching(&[ProviderKind::Jwt]);
        after.settings.jwt_issuer = issuer.into();
        rig.state.apply(rig.now, after);
    }
    rig.shards.is_full.lock().unwrap()[0] = false;
    rig.wait(1);
    let heard = rig.heard_all(0);
    assert!(matches!(heard[..], [Answer::Changed(_), Answer::Reloaded]), "{heard:?}");
}

#[test]
fn a_renewal_is_never_throttled_but_its_failures_count() {
    let mut rig = Rig::new(material(&[ProviderKind::Static], &line("ms_a", "* all:*")));
    rig.is_renewal = true;
    for guess in 0..20 {
        rig.ask_from(0, token_credential(&format!("ms_{guess}")), GUESSER);
        assert_eq!(rig.verdict(), Err(Denial::Unknown));
    }
    rig.is_renewal = false;
    rig.ask_from(0, token_credential("ms_a"), GUESSER);
    assert_eq!(rig.verdict(), Err(Denial::Throttled));
    rig.is_renewal = true;
    rig.ask_from(0, token_credential("ms_a"), GUESSER);
    assert!(rig.verdict().is_ok());
}
