//! Checks that the alerting rules and the documentation of the metrics use only metrics, labels and stages
//! that a server exports.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use millstream::latency::Stage;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};

use crate::common::Server;
use crate::place::Place;

const RULES: &str = include_str!("../deploy/prometheus/millstream.rules.yml");
const RULES_TESTS: &str = include_str!("../deploy/prometheus/millstream.rules.test.yml");
const OPERATIONS: &str = include_str!("../docs/operations.md");

/// The labels that Prometheus adds.
const TARGET_LABELS: [&str; 2] = ["instance", "job"];

/// The labels of each series, and the values of each label.
type Exported = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Parses `name="value"` pairs, separated by commas.
fn labels(text: &str) -> Vec<(&str, &str)> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').map(|(key, value)| (key, value.trim_matches('"'))).unwrap())
        .collect()
}

/// Returns a CA, and its list of revoked certificates.
fn revocation_list() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&key).unwrap();
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2124, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::new(params, key)).unwrap();
    (ca.pem(), list.pem().unwrap())
}

/// Returns what a server exports before anything has happened.
fn exported() -> Exported {
    // Some metrics exist only with a port for TLS, or with authentication. Tests run in parallel.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let place = Place::new(&format!("watching-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (place.0.join("server.pem"), place.0.join("server.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let pair = format!("{}:{}", certificate.display(), key.display());
    let (ca, list) = revocation_list();
    let (ca_file, list_file) = (place.0.join("ca.pem"), place.0.join("crl.pem"));
    std::fs::write(&ca_file, ca).unwrap();
    std::fs::write(&list_file, list).unwrap();
    let (ca, list) = (ca_file.display().to_string(), list_file.display().to_string());
    let secure = ["--tls-listen", "127.0.0.1:0", "--tls-certificates", &pair];
    let clients = ["--tls-client-auth", "optional", "--tls-client-ca", &ca, "--tls-client-crl", &list];
    let tokens = place.0.join("tokens");
    std::fs::write(&tokens, format!("one sha256:{} * all:*\n", "0".repeat(64))).unwrap();
    let tokens = tokens.display().to_string();
    let auth = ["--auth", "static", "--auth-static-file", &tokens];
    let server = Server::start(&[&["--cores", "0"][..], &secure, &clients, &auth].concat());
    let (_, page) = server.control("/metrics");
    assert_eq!(server.stop(), 0);
    let mut exported = Exported::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, rest) = series.split_once('{').unwrap_or((series, ""));
        let values = exported.entry(name.to_owned()).or_default();
        for (key, value) in labels(rest.trim_end_matches('}')) {
            values.entry(key.to_owned()).or_default().insert(value.to_owned());
        }
    }
    exported
}

/// Returns the expressions of the rules, each on one line.
fn expressions() -> Vec<String> {
    let mut expressions = Vec::new();
    let mut lines = RULES.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(first) = line.trim_start().strip_prefix("expr:") else { continue };
        let indent = line.len() - line.trim_start().len();
        let mut expression = first.trim().trim_start_matches(">-").to_owned();
        let is_part = |line: &&str| line.len() - line.trim_start().len() > indent;
        while let Some(part) = lines.next_if(is_part) {
            expression = format!("{expression} {}", part.trim());
        }
        expressions.push(expression);
    }
    expressions
}

/// Returns the metrics in an expression, each with its matchers.
fn selectors(expression: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let starts = expression.match_indices("millstream_");
    starts
        .map(|(at, _)| {
            let rest = &expression[at..];
            let (name, rest) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
            let matchers = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            (name, matchers.map_or(Vec::new(), |(matchers, _)| labels(matchers)))
        })
        .collect()
}

/// Returns the labels that an expression groups or joins by.
fn grouped_by(expression: &str) -> Vec<&str> {
    let lists = ["by (", "on (", "without ("].into_iter().flat_map(|word| expression.split(word).skip(1));
    lists.flat_map(|list| list.split(')').next().unwrap().split(',').map(str::trim)).collect()
}

#[test]
fn alerting_rules_use_metrics_and_labels_that_a_server_exports() {
    let exported = exported();
    let expressions = expressions();
    assert!(expressions.len() > 10, "{expressions:?}");
    for expression in &expressions {
        let selectors = selectors(expression);
        assert!(!selectors.is_empty() || expression.contains("up{job="), "{expression}");
        let mut known: BTreeSet<&str> = TARGET_LABELS.into();
        for (name, matchers) in selectors {
            let labels =
                exported.get(name).unwrap_or_else(|| panic!("no metric is called {name}: {expression}"));
            known.extend(labels.keys().map(String::as_str));
            for (label, value) in matchers {
                let values = labels.get(label).unwrap_or_else(|| panic!("{name} has no label {label}"));
                assert!(values.contains(value), "no series {name}{{{label}={value:?}}}, only {values:?}");
            }
        }
        for label in grouped_by(expression) {
            assert!(
                known.contains(label),
                "no metric of this expression has the label {label}: {expression}"
            );
        }
    }
}

#[test]
fn each_alert_fires_in_a_unit_test() {
    let alerts = RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        let fires = format!("alertname: {alert}\n");
        assert!(RULES_TESTS.contains(&fires), "no promtool test has {alert} fire");
    }
}

#[test]
fn the_operations_page_explains_each_metric_and_stage() {
    let family = |name: &str| {
        let histogram =
            ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
        histogram.unwrap_or(name).to_owned()
    };
    let exported: BTreeSet<String> = exported().keys().map(|name| family(name)).collect();
    let row = |name: &str| format!("| `{name}`");
    for name in &exported {
        assert!(OPERATIONS.contains(&row(name)), "docs/operations.md has no row for {name}");
    }
    for rest in OPERATIONS.split("`millstream_").skip(1) {
        let name: String = rest.chars().take_while(|c| is_name(*c)).collect();
        let name = family(&format!("millstream_{name}"));
        assert!(exported.contains(&name), "docs/operations.md explains {name}, which no server exports");
    }
    for stage in Stage::ALL {
        assert!(
            OPERATIONS.contains(&row(stage.name())),
            "docs/operations.md has no row for {}",
            stage.name()
        );
    }
}
