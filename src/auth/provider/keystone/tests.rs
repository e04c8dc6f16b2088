use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::access::Right;
use crate::auth::fake::{Does, Fake};
use crate::auth::http::{Http, Trusted, address};
use crate::auth::settings::Roles;
use crate::base::setting::{Kind, Value as _};

const CANARY: &str = "canary-token";

/// An account for tests.
pub(in crate::auth) fn account() -> Account {
    let text = "user_id = u1\npassword = canary-password\nproject_id = p1\n";
    Account::read("auth_keystone_credentials", Path::new("c"), text.as_bytes()).unwrap()
}

/// A client for tests.
pub(in crate::auth) fn client(url: &str) -> Arc<Client> {
    let url = address("auth_keystone_url", url).unwrap();
    Arc::new(Client::new(Http::new(Trusted::system()), url, account()))
}

/// What Keystone says of a token.
pub(in crate::auth) fn facts(role: &str, expires_ms: u64) -> Facts {
    Facts {
        user: "user1".into(),
        project: Project::parse("p1").ok(),
        roles: [role.into()].into(),
        expires: UnixMillis::new(expires_ms),
    }
}

/// The answer to a valid token.
pub(in crate::auth) fn body() -> String {
    json!({ "token": {
        "user": { "id": "user1", "name": "app" }, "project": { "id": "p1", "name": "x" },
        "roles": [{ "id": "1", "name": "member" }, { "id": "2", "name": "reader" }],
        "expires_at": "2100-01-01T00:00:00.000000Z",
    } })
    .to_string()
}

fn answer(status: u16, body: &str) -> Does {
    Does::Answer(status, String::new(), body.into())
}

fn issued(token: &str) -> Does {
    let body = json!({ "token": { "expires_at": "2100-01-01T00:00:00.000000Z" } }).to_string();
    Does::Answer(201, format!("X-Subject-Token: {token}\r\n"), body)
}

fn look_up(client: &Client) -> Result<Facts, LookupFault> {
    client.look_up(&Secret::new(CANARY), Instant::now() + Duration::from_secs(20))
}

#[test]
fn a_token_is_looked_up_with_a_token_of_the_servers_own_which_is_kept() {
    let fake = Fake::start(|request| match request.starts_with("POST") {
        true => issued("own"),
        false => answer(200, &body()),
    });
    let client = client(&format!("{}/identity/v3/", fake.url()));
    for _ in 0..2 {
        let facts = look_up(&client).unwrap();
        assert_eq!((&*facts.user, facts.project.as_ref().unwrap().as_str()), ("user1", "p1"));
        assert_eq!(facts.roles.iter().map(|role| &**role).collect::<Vec<_>>(), ["member", "reader"]);
        assert_eq!(facts.expires, UnixMillis::new(4_102_444_800_000));
    }
    let requests = fake.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(
        requests[0].starts_with("POST /identity/v3/auth/tokens HTTP/1.1")
            && requests[0].contains("canary-password")
    );
    for asked in &requests[1..] {
        let asked = asked.to_ascii_lowercase();
        assert!(asked.starts_with("get /identity/v3/auth/tokens?nocatalog http/1.1"), "{asked}");
        assert!(
            asked.contains("x-auth-token: own\r\n") && asked.contains("x-subject-token: canary-token\r\n")
        );
    }
}

#[test]
fn each_status_has_its_meaning_and_no_error_shows_a_token() {
    for (status, body, expected) in [
        (404, "no such canary-token".to_owned(), None),
        (400, "canary-token".into(), None),
        (413, "canary-token".into(), None),
        (414, "canary-token".into(), None),
        (431, "canary-token".into(), None),
        (403, "canary-token".into(), Some("status 403")),
        (500, "canary-token".into(), Some("status 500")),
        (302, String::new(), Some("status 302")),
        (200, "canary-token".into(), Some("not the expected JSON")),
        (200, "x".repeat((1 << 20) + 1), Some("longer than 1 MiB")),
    ] {
        let fake = Fake::start(move |request| match request.starts_with("POST") {
            true => issued("own"),
            false => Does::Answer(status, "Location: http://127.0.0.1:1/canary\r\n".into(), body.clone()),
        });
        match (look_up(&client(&fake.url())).unwrap_err(), expected) {
            (LookupFault::Unknown, None) => {}
            (LookupFault::Unavailable(why), Some(expected)) => {
                let why = format!("{why} {why:?}");
                assert!(why.contains(expected) && !why.contains("canary"), "{why}");
            }
            other => panic!("{status}: {other:?}"),
        }
    }
}

#[test]
fn the_servers_own_token_is_renewed_once_when_it_is_refused() {
    let mut issuings = 0;
    let fake = Fake::start(move |request| {
        if request.starts_with("POST") {
            issuings += 1;
            return issued(&format!("own{issuings}"));
        }
        if request.to_ascii_lowercase().contains("x-auth-token: own2\r\n") {
            return answer(200, &body());
        }
        answer(401, "")
    });
    let client = client(&fake.url());
    assert!(look_up(&client).is_ok());
    assert_eq!(fake.requests().len(), 4);
    assert!(look_up(&client).is_ok());
    assert_eq!(fake.requests().len(), 5);
    let refusing = Fake::start(|request| match request.starts_with("POST") {
        true => issued("own"),
        false => answer(401, ""),
    });
    let LookupFault::Unavailable(why) = look_up(&self::client(&refusing.url())).unwrap_err() else {
        panic!()
    };
    assert!(why.to_string().contains("own token"), "{why}");
    assert_eq!(refusing.requests().len(), 4, "renewed once");
}

#[test]
fn an_own_token_at_the_end_of_its_life_is_replaced() {
    let fake = Fake::start(|request| match request.starts_with("POST") {
        true => {
            let body = json!({ "token": { "expires_at": "2001-01-01T00:00:00Z" } }).to_string();
            Does::Answer(201, "X-Subject-Token: own\r\n".into(), body)
        }
        false => answer(200, &body()),
    });
    let client = client(&fake.url());
    assert!(look_up(&client).is_ok() && look_up(&client).is_ok());
    let posts = fake.requests().iter().filter(|request| request.starts_with("POST")).count();
    assert_eq!(posts, 2);
}

#[test]
fn a_keystone_that_hangs_or_is_gone_is_unavailable() {
    let fake = Fake::start(|_| Does::Hang);
    let until = Instant::now() + Duration::from_millis(50);
    let fault = client(&fake.url()).look_up(&Secret::new(CANARY), until).unwrap_err();
    assert_eq!(fault, LookupFault::Unavailable(crate::auth::http::Fault::new("no answer in time")));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let LookupFault::Unavailable(why) = look_up(&client(&format!("http://{gone}"))).unwrap_err() else {
        panic!()
    };
    assert!(why.to_string().contains("refused"), "{why}");
}

#[test]
fn roles_give_rules_and_only_the_configuration_gives_every_project() {
    let roles = Roles::read("member = produce:a* consume:a*; admin = all:*", &Kind::Text).unwrap();
    let settings = Settings { roles, ..Settings::default() };
    let now = Now::at_ms(0, 1_000);
    let grant = facts("member", 2_000).grant(&settings, now).unwrap();
    assert_eq!((&*grant.principal, grant.expires), ("keystone:user1", Some(UnixMillis::new(2_000))));
    assert!(grant.allows(Right::Produce, "a1") && !grant.allows(Right::Claim, "a1"));
    assert_eq!(grant.projects, Projects::Listed([Project::parse("p1").unwrap()].into()));
    assert!(facts("other", 2_000).grant(&settings, now).unwrap().rules.is_empty());
    assert!(matches!(facts("admin", 2_000).grant(&settings, now).unwrap().projects, Projects::Listed(_)));
    let any = Settings { keystone_any_project_roles: "service, admin".into(), ..settings };
    assert_eq!(facts("admin", 2_000).grant(&any, now).unwrap().projects, Projects::Any);
    assert_eq!(facts("admin", 1_000).grant(&any, now), Err(Denial::Expired));
}

#[test]
fn what_cannot_be_a_header_is_not_sent() {
    for token in ["", "a b", "a\r\nX-Evil: 1", "ü", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
        assert!(matches!(judge(&Secret::new(token)), Opinion::NotMine(Denial::Unknown)), "{token:?}");
    }
    let longest = "x".repeat(TOKEN_BYTES_MAX);
    for token in ["gAAAAA-_=", &longest] {
        assert!(matches!(judge(&Secret::new(token)), Opinion::Ask(Need::Keystone(_))));
    }
}

#[test]
fn an_account_is_a_password_or_an_application_credential() {
    let read = |text: &str| Account::read("auth_keystone_credentials", Path::new("c"), text.as_bytes());
    let body = |text| serde_json::from_str::<Value>(read(text).unwrap().body().expose()).unwrap();
    let password =
        "username = m\nuser_domain_name = D\npassword = a = b\nproject_name = s\nproject_domain_id = d\n";
    assert_eq!(
        body(password),
        json!({ "auth": {
            "identity": { "methods": ["password"], "password": {
                "user": { "name": "m", "domain": { "name": "D" }, "password": "a = b" } } },
            "scope": { "project": { "name": "s", "domain": { "id": "d" } } },
        } })
    );
    assert_eq!(
        body("application_credential_id = i\napplication_credential_secret = s\n"),
        json!({ "auth": { "identity": { "methods": ["application_credential"],
            "application_credential": { "id": "i", "secret": "s" } } } })
    );
    for (text, why) in [
        ("canary\n", "line 1: not KEY = VALUE"),
        ("region = canary\n", "line 1: an unknown key"),
        ("password =\n", "line 1: password has no value"),
        ("password = canary\npassword = canary\n", "line 2: password is given twice"),
        ("username = m\npassword = canary\n", "user_domain_name is missing"),
        ("user_id = m\npassword = canary\n", "project_name is missing"),
        ("user_id = m\nproject_id = p\n", "password is missing"),
        ("application_credential_secret = canary\n", "application_credential_name is missing"),
        ("application_credential_secret = canary\npassword = canary\n", "neither password nor project"),
    ] {
        let said = read(text).unwrap_err().0;
        assert!(said.starts_with("auth_keystone_credentials: c") && said.contains(why), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
}
