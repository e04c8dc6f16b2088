use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crossbeam::channel::RecvTimeoutError;

use super::*;
use crate::access::Right;
use crate::auth::fake::{Does, Fake};
use crate::auth::provider::jwt::tests::{Issuer, claims, settings};
use crate::auth::settings::{ProviderKind, Providers};
use crate::auth::token::Digest;
use crate::auth::{Answer, Credential, Denial, Keyer, Secret, Verdict};

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// One shard.
#[derive(Debug)]
struct Shard(Sender<Answer>);

impl Audience for Shard {
    fn listeners(&self) -> u16 {
        1
    }

    fn tell(&self, _: u16, answer: Answer) -> Result<(), Answer> {
        self.0.try_send(answer).map_err(TrySendError::into_inner)
    }
}

struct Rig {
    place: PathBuf,
    judge: Option<Judge>,
    inbox: (Sender<Answer>, Receiver<Answer>),
}

impl Rig {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("millstream-auth-{name}-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        Self { place, judge: None, inbox: bounded(64) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.file(name);
        // Replaced at once, as careful programs do.
        let new = self.file("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, &file).unwrap();
        file
    }

    fn start(&mut self, settings: &Settings) {
        self.judge = Some(Judge::start(settings, Arc::new(Shard(self.inbox.0.clone()))).unwrap());
    }

    fn judge(&self) -> &Judge {
        self.judge.as_ref().unwrap()
    }

    fn ask(&self, tag: u64, token: &str) {
        let credential = Credential::Token(Secret::new(token));
        let key = Keyer::fixed().key(&credential);
        self.judge()
            .ask(Question { shard: 0, tag, key, credential, address: None, is_renewal: false })
            .unwrap();
    }

    /// Returns the next answer that is not about a reload.
    fn answer(&self) -> Answer {
        loop {
            match self.inbox.1.recv_timeout(PATIENCE).unwrap() {
                Answer::Reloaded => {}
                answer => return answer,
            }
        }
    }

    fn verdict(&self, expected: u64) -> Verdict {
        match self.answer() {
            Answer::Judged { tag, verdict, .. } if tag == expected => verdict,
            other => panic!("{other:?}"),
        }
    }

    fn change(&self) -> Verdict {
        match self.answer() {
            Answer::Changed(changes) => changes[0].1.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the judge has counted.
    fn until(&self, is_so: impl Fn(&Snapshot) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so(&self.judge().snapshot()) {
            assert!(Instant::now() < until, "{:?}", self.judge().snapshot());
            std::thread::yield_now();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(judge) = &self.judge {
            judge.stop();
        }
        let _ = fs::remove_dir_all(&self.place);
    }
}

fn using(kinds: &[ProviderKind]) -> Settings {
    Settings { providers: Providers(kinds.to_vec()), ..settings() }
}

/// The settings of provider static alone.
fn listed(file: &Path) -> Settings {
    let providers = Providers(vec![ProviderKind::Static]);
    Settings { providers, static_file: Some(file.into()), ..Settings::default() }
}

fn line(token: &str, rules: &str) -> String {
    format!("app {} * {rules}\n", Digest::of(token))
}

/// Claims of an hour from the real time.
fn fresh() -> serde_json::Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = claims();
    claims["exp"] = (now + 3_600).into();
    claims
}

#[test]
fn a_removed_rule_reaches_the_shards_within_a_second_and_a_bad_file_changes_nothing() {
    let mut rig = Rig::new("reload");
    let file = rig.write("tokens", &line("ms_a", "all:*"));
    rig.start(&listed(&file));
    rig.ask(1, "ms_a");
    let _held = rig.verdict(1).unwrap();
    // On request, as by SIGHUP.
    rig.write("tokens", &line("ms_a", "consume:*"));
    let read = rig.judge().read(&listed(&file)).unwrap();
    let began = Instant::now();
    rig.judge().apply(read);
    let smaller = rig.change().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(!smaller.allows(Right::Produce, "q"));
    // By watching: a bad file first.
    let failures = rig.judge().snapshot().reload_failures;
    rig.write("tokens", &line("ms_a", "all:*").replace('\n', ""));
    rig.until(|snapshot| snapshot.reload_failures > failures);
    rig.ask(2, "ms_a");
    assert!(!rig.verdict(2).unwrap().allows(Right::Produce, "q"));
    rig.write("tokens", &line("ms_b", "all:*"));
    assert_eq!(rig.change(), Err(Denial::Revoked));
    rig.ask(3, "ms_a");
    assert_eq!(rig.verdict(3), Err(Denial::Unknown));
}

#[test]
fn an_older_read_does_not_replace_a_newer_one() {
    let mut rig = Rig::new("order");
    let file = rig.write("tokens", &line("ms_a", "all:*"));
    rig.start(&listed(&file));
    let older = rig.judge().read(&listed(&file)).unwrap();
    rig.write("tokens", &line("ms_b", "all:*"));
    let newer = rig.judge().read(&listed(&file)).unwrap();
    rig.judge().apply(newer);
    rig.judge().apply(older);
    rig.ask(1, "ms_b");
    assert!(rig.verdict(1).is_ok());
    rig.ask(2, "ms_a");
    assert_eq!(rig.verdict(2), Err(Denial::Unknown));
}

#[test]
fn files_that_do_not_work_are_refused_at_the_start() {
    let rig = Rig::new("start");
    let file = rig.write("tokens", "app ms_canary * all:*\n");
    let said = Judge::check(&listed(&file)).unwrap_err().0;
    assert!(said.contains("tokens, line 1: ") && !said.contains("canary"), "{said}");
    assert!(Judge::start(&listed(&file), Arc::new(Shard(rig.inbox.0.clone()))).is_err());
    let gone = Judge::check(&listed(&rig.file("gone"))).unwrap_err().0;
    assert!(gone.contains("auth_static_file") && gone.contains("gone"), "{gone}");
    let keys = rig.write("keys", "{\"keys\": []}");
    let jwt = Settings { jwt_keys: keys.display().to_string(), ..using(&[ProviderKind::Jwt]) };
    assert!(Judge::check(&jwt).unwrap_err().0.contains("no key"));
    let plain = Settings { jwt_keys: "http://issuer.example/keys".into(), ..using(&[ProviderKind::Jwt]) };
    assert!(Judge::check(&plain).unwrap_err().0.contains("use https://"));
    let ca = rig.write("ca.pem", "nothing");
    let jwt = Settings {
        jwt_keys: "https://issuer.example/keys".into(),
        ca: Some(ca),
        ..using(&[ProviderKind::Jwt])
    };
    assert!(Judge::check(&jwt).unwrap_err().0.contains("ca.pem: contains no certificate"));
    let file = rig.write("tokens", &line("ms_a", "all:*"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Judge::check(&listed(&file)).unwrap()[0].contains("every user of this machine"));
}

#[test]
fn keys_are_fetched_once_for_ten_thousand_strangers() {
    let mut rig = Rig::new("strangers");
    let issuer = Arc::new(Issuer::es256("known"));
    let body = serde_json::json!({ "keys": [issuer.jwk()] }).to_string();
    let fake = Fake::start(move |_| Does::Answer(200, String::new(), body.clone()));
    rig.start(&Settings { jwt_keys: format!("{}/keys", fake.url()), ..using(&[ProviderKind::Jwt]) });
    let valid = issuer.token(&fresh());
    rig.ask(0, &valid);
    assert!(rig.verdict(0).is_ok());
    let payload = valid.split_once('.').unwrap().1.to_owned();
    for kid in 1..10_000 {
        let header = format!("{{\"alg\":\"ES256\",\"kid\":\"{kid}\"}}");
        let header = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, header);
        rig.ask(kid, &format!("{header}.{payload}"));
        assert!(rig.verdict(kid).is_err());
    }
    assert_eq!(fake.requests().len(), 2);
}

#[test]
fn a_provider_that_hangs_delays_nobody_else_and_its_own_for_three_seconds_at_most() {
    let mut rig = Rig::new("hangs");
    let fake = Fake::start(|_| Does::Hang);
    let issuer = Issuer::es256("k");
    let keys = rig.write("keys", &serde_json::json!({ "keys": [issuer.jwk()] }).to_string());
    let account = rig.write("account", "user_id = u\npassword = canary\nproject_id = p\n");
    rig.start(&Settings {
        jwt_keys: keys.display().to_string(),
        keystone_url: fake.url(),
        keystone_credentials: Some(account),
        ..using(&[ProviderKind::Jwt, ProviderKind::Keystone])
    });
    let began = Instant::now();
    for tag in 0..20 {
        rig.ask(tag, &format!("token-{tag}"));
    }
    rig.ask(20, &issuer.token(&fresh()));
    assert!(rig.verdict(20).is_ok());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for _ in 0..20 {
        assert!(matches!(rig.answer(), Answer::Judged { verdict: Err(Denial::Unavailable), .. }));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    rig.ask(21, "token-21");
    let began = Instant::now();
    assert_eq!(rig.verdict(21), Err(Denial::Unavailable));
    assert!(began.elapsed() < Duration::from_secs(1), "at once, because the breaker is open");
}

#[test]
fn a_judge_that_was_stopped_answers_nothing() {
    let mut rig = Rig::new("stopped");
    let file = rig.write("tokens", &line("ms_a", "all:*"));
    rig.start(&listed(&file));
    rig.judge().stop();
    let until = Instant::now() + PATIENCE;
    loop {
        let credential = Credential::Token(Secret::new("ms_a"));
        let key = Keyer::fixed().key(&credential);
        let question = Question { shard: 0, tag: 1, key, credential, address: None, is_renewal: false };
        if rig.judge().ask(question).is_err() {
            break;
        }
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    while rig.inbox.1.try_recv().is_ok() {}
    assert_eq!(rig.inbox.1.recv_timeout(Duration::from_millis(1)).unwrap_err(), RecvTimeoutError::Timeout);
}
