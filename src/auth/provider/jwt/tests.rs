use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
};
use base64::prelude::*;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::auth::settings::Roles;
use crate::base::setting::{Kind, Value as _};

/// The time of the tests.
pub(in crate::auth) const NOW: Now =
    Now { mono: Millis::new(5_000_000), mono_ns: 5_000_000_000_000, unix: UnixMillis::new(1_000_000_000) };

/// An issuer with one key.
pub(in crate::auth) struct Issuer {
    kid: String,
    key: SigningKey,
}

enum SigningKey {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

fn base64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    pub(in crate::auth) fn es256(kid: &str) -> Self {
        Self {
            kid: kid.into(),
            key: SigningKey::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
        }
    }

    fn ed25519(kid: &str) -> Self {
        Self { kid: kid.into(), key: SigningKey::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    fn rsa(kid: &str) -> Self {
        Self { kid: kid.into(), key: SigningKey::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()) }
    }

    pub(in crate::auth) fn jwk(&self) -> Value {
        let kid = &self.kid;
        match &self.key {
            SigningKey::Ec(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (base64(&point[1..33]), base64(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y })
            }
            SigningKey::Ed(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64(key.public_key().as_ref()) })
            }
            SigningKey::Rsa(key) => {
                let public = key.public_key();
                let n = base64(public.modulus().big_endian_without_leading_zero());
                let e = base64(public.exponent().big_endian_without_leading_zero());
                json!({ "kty": "RSA", "alg": "RS256", "kid": kid, "n": n, "e": e })
            }
        }
    }

    pub(in crate::auth) fn keys(&self) -> KeySet {
        KeySet::read(json!({ "keys": [self.jwk()] }).to_string().as_bytes()).unwrap()
    }

    fn algorithm(&self) -> &'static str {
        match &self.key {
            SigningKey::Ec(_) => "ES256",
            SigningKey::Ed(_) => "EdDSA",
            SigningKey::Rsa(_) => "RS256",
        }
    }

    pub(in crate::auth) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm(), "kid": self.kid, "typ": "JWT" }), claims)
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message =
            format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match &self.key {
            SigningKey::Ec(key) => key.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            SigningKey::Ed(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
            SigningKey::Rsa(key) => {
                let encoding: &'static dyn RsaEncoding = match header["alg"].as_str() {
                    Some("PS256") => &aws_lc_rs::signature::RSA_PSS_SHA256,
                    _ => &aws_lc_rs::signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", base64(&signature))
    }
}

pub(in crate::auth) fn settings() -> Settings {
    Settings {
        jwt_issuer: "https://issuer.example".into(),
        jwt_audience: "millstream".into(),
        roles: Roles::read("reader = consume:*; writer = produce:log produce:orders*", &Kind::Text).unwrap(),
        ..Settings::default()
    }
}

/// Claims that are accepted for an hour.
pub(in crate::auth) fn claims() -> Value {
    json!({
        "iss": "https://issuer.example", "aud": "millstream", "sub": "app|1", "exp": 1_003_600,
        "projects": ["a", "b", "a", "no/project"], "roles": "reader unknown reader",
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

fn denial(opinion: Opinion) -> Option<Denial> {
    match opinion {
        Opinion::Granted(..) => None,
        Opinion::NotMine(denial) | Opinion::Denied(denial) => Some(denial),
        Opinion::Ask(need) => panic!("{need:?}"),
    }
}

#[test]
fn a_token_of_each_kind_of_key_is_granted() {
    for issuer in [Issuer::es256("k"), Issuer::ed25519("k"), Issuer::rsa("k")] {
        let opinion = judge(&settings(), &issuer.keys(), NOW, &issuer.token(&claims()));
        let Opinion::Granted(grant, _) = opinion else { panic!("{opinion:?}") };
        assert_eq!(&*grant.principal, "jwt:https://issuer.example|app%7C1");
        let projects = ["a", "b"].map(|name| crate::base::names::Project::parse(name).unwrap());
        assert_eq!(grant.projects, Projects::Listed(projects.into()));
        assert_eq!(grant.rules.iter().map(Rule::to_string).collect::<Vec<_>>(), ["consume:*"]);
        assert_eq!(grant.expires, Some(UnixMillis::new(1_003_600_000)));
    }
}

#[test]
fn every_claim_that_must_be_there_is_checked() {
    let issuer = Issuer::es256("k");
    for (claims, expected) in [
        (with("iss", Value::Null), Some(Denial::Invalid)),
        (with("iss", json!("https://other.example")), Some(Denial::Invalid)),
        (with("iss", json!(["https://issuer.example"])), Some(Denial::Invalid)),
        (with("aud", Value::Null), Some(Denial::Invalid)),
        (with("aud", json!("other")), Some(Denial::Invalid)),
        (with("aud", json!(["other", "millstream"])), None),
        (with("exp", Value::Null), Some(Denial::Invalid)),
        (with("exp", json!("1003600")), Some(Denial::Invalid)),
        (with("exp", json!(-5)), Some(Denial::Invalid)),
        (with("exp", json!(1_000_001)), None),
        (with("exp", json!(1_000_000)), Some(Denial::Expired)),
        (with("nbf", json!(1_000_030)), None),
        (with("nbf", json!(1_000_031)), Some(Denial::Invalid)),
        (with("nbf", json!("soon")), Some(Denial::Invalid)),
        (with("sub", Value::Null), Some(Denial::Invalid)),
        (with("sub", json!("")), Some(Denial::Invalid)),
        (with("sub", json!(7)), Some(Denial::Invalid)),
        (with("sub", json!("x".repeat(257))), Some(Denial::Invalid)),
        (with("roles", Value::Null), None),
    ] {
        assert_eq!(
            denial(judge(&settings(), &issuer.keys(), NOW, &issuer.token(&claims))),
            expected,
            "{claims}"
        );
    }
}

#[test]
fn nothing_in_a_header_chooses_the_key_or_the_algorithm() {
    let issuer = Issuer::es256("k");
    let keys = issuer.keys();
    let headers = [
        json!({ "alg": "none" }),
        json!({ "alg": "None", "kid": "k" }),
        json!({ "kid": "k" }),
        json!({ "alg": "ES384", "kid": "k" }),
        json!({ "alg": "ES256", "kid": "k", "jku": "https://evil.example/keys" }),
        json!({ "alg": "ES256", "kid": "k", "jwk": issuer.jwk() }),
        json!({ "alg": "ES256", "kid": "k", "x5u": "https://evil.example/keys" }),
        json!({ "alg": "ES256", "kid": "k", "x5c": ["MA=="] }),
        json!({ "alg": "ES256", "kid": "k", "crit": ["exp"] }),
        json!({ "alg": "ES256", "kid": "k", "b64": false }),
        json!({ "alg": "ES256", "kid": "k", "typ": "logout+jwt" }),
        json!({ "alg": "ES256", "kid": 7 }),
    ];
    for header in headers {
        let opinion = judge(&settings(), &keys, NOW, &issuer.token_with(&header, &claims()));
        assert_eq!(denial(opinion), Some(Denial::Invalid), "{header}");
    }
    let unsigned = issuer.token(&claims());
    let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
    assert_eq!(denial(judge(&settings(), &keys, NOW, &unsigned)), Some(Denial::Invalid));
    let headers = [json!({ "alg": "ES256", "typ": "at+jwt" }), json!({ "alg": "ES256", "kid": "k" })];
    for header in headers {
        let opinion = judge(&settings(), &keys, NOW, &issuer.token_with(&header, &claims()));
        assert_eq!(denial(opinion), None, "{header}");
    }
}

#[test]
fn a_key_is_used_with_its_own_algorithm_only() {
    let issuer = Issuer::rsa("k");
    let pss = issuer.token_with(&json!({ "alg": "PS256", "kid": "k" }), &claims());
    assert_eq!(denial(judge(&settings(), &issuer.keys(), NOW, &pss)), Some(Denial::Invalid));
    // The public key as the secret of HS256.
    let SigningKey::Rsa(key) = &issuer.key else { panic!() };
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    let message = issuer.token_with(&json!({ "alg": "HS256", "kid": "k" }), &claims());
    let message = message.rsplit_once('.').unwrap().0;
    let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_ref());
    let forged = format!("{message}.{}", base64(aws_lc_rs::hmac::sign(&secret, message.as_bytes()).as_ref()));
    assert_eq!(denial(judge(&settings(), &issuer.keys(), NOW, &forged)), Some(Denial::Invalid));
}

#[test]
fn keys_that_verify_nothing_are_left_out() {
    let mut encrypts = Issuer::es256("e").jwk();
    encrypts["use"] = json!("enc");
    let secret = json!({ "kty": "oct", "alg": "HS256", "kid": "s", "k": "c2VjcmV0" });
    let strange = json!({ "kty": "new", "kid": "n" });
    let mut mixed = Issuer::es256("m").jwk();
    mixed["alg"] = json!("RS256");
    let set = json!({ "keys": [encrypts, secret, strange, mixed, 7] });
    assert!(KeySet::read(set.to_string().as_bytes()).unwrap_err().contains("no key"));
    assert!(KeySet::read(b"<html>").unwrap_err().contains("not a JSON Web Key Set"));
}

#[test]
fn other_formats_are_left_to_other_providers() {
    let issuer = Issuer::es256("k");
    let long = format!("{}.{}.x", base64(b"{}"), "A".repeat(16 << 10));
    for token in ["", "ms_abc", "a.b", "gAAAAABh.x.y", "....", &long] {
        let opinion = judge(&settings(), &issuer.keys(), NOW, token);
        assert!(matches!(opinion, Opinion::NotMine(Denial::Unknown)), "{token}");
    }
    let deep = format!("{}1{}", "[".repeat(17), "]".repeat(17));
    let deep = with("deep", serde_json::from_str(&deep).unwrap());
    assert_eq!(denial(judge(&settings(), &issuer.keys(), NOW, &issuer.token(&deep))), Some(Denial::Invalid));
}

#[test]
fn a_verified_token_is_judged_again_with_other_settings_keys_and_times() {
    let issuer = Issuer::es256("k");
    let opinion = judge(&settings(), &issuer.keys(), NOW, &issuer.token(&claims()));
    let Opinion::Granted(before, Evidence::Signed(signed)) = opinion else { panic!() };
    assert_eq!(signed.grant(&settings(), Some(&issuer.keys()), NOW), Ok(before));
    assert_eq!(signed.grant(&settings(), Some(&Issuer::es256("k").keys()), NOW), Err(Denial::Revoked));
    let other = Settings { jwt_audience: "other".into(), ..settings() };
    assert_eq!(signed.grant(&other, Some(&issuer.keys()), NOW), Err(Denial::Revoked));
    let end = Now { unix: UnixMillis::new(1_003_600_000), ..NOW };
    assert_eq!(signed.grant(&settings(), Some(&issuer.keys()), end), Err(Denial::Expired));
    let roles = Roles::read("reader = consume:log", &Kind::Text).unwrap();
    let smaller = signed.grant(&Settings { roles, ..settings() }, Some(&issuer.keys()), NOW).unwrap();
    assert_eq!(smaller.rules[0].to_string(), "consume:log");
}

#[test]
fn claims_are_found_by_name_and_by_path() {
    let claims = Claims::parse(br#"{"a.b":["x"],"a":{"b":["y"]},"c":{"d":{"e":"p q"}}}"#).unwrap();
    assert_eq!(claims.words("a.b"), ["x"]);
    assert_eq!(claims.words("c.d.e"), ["p", "q"]);
    assert!(
        claims.words("c.d").is_empty() && claims.words("c.x.e").is_empty() && claims.words("").is_empty()
    );
}

proptest! {
    #[test]
    fn a_changed_token_is_never_granted(at in 0usize..1_000, byte in prop::sample::select(b"AZaz09-_.".to_vec())) {
        let issuer = Issuer::ed25519("k");
        let token = issuer.token(&claims());
        let mut changed = token.clone().into_bytes();
        let at = at % changed.len();
        changed[at] = byte;
        let changed = String::from_utf8(changed).unwrap();
        prop_assume!(changed != token);
        prop_assert!(!matches!(judge(&settings(), &issuer.keys(), NOW, &changed), Opinion::Granted(..)));
    }
}
