//! Recognizes variables that Kubernetes and Docker set for services named `millstream`. They share the prefix
//! of the server's own variables.

/// The protocols of a Kubernetes service port.
const LINK_PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Returns whether Kubernetes or Docker set this variable for a service or container whose name begins with
/// `millstream`, such as `MILLSTREAM_METRICS_PORT_9001_TCP`. `key` comes without the prefix. No setting's key
/// contains the words that follow the service's name in such a variable.
pub(super) fn is_service_link(key: &str, value: &str) -> bool {
    let words: Vec<&str> = key.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    (0..words.len()).any(|at| match &words[at..] {
        ["service", "host"] | ["service", "port", ..] => true,
        ["port"] => value.contains("://"),
        ["port", number, protocol, rest @ ..] => {
            is_number(number)
                && LINK_PROTOCOLS.contains(protocol)
                && matches!(rest, [] | ["proto" | "port" | "addr"])
        }
        // Docker links set the container's path and its environment.
        ["name"] => value.starts_with('/'),
        ["env", _, ..] => true,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use crate::config::load::load;

    #[test]
    fn service_links_of_any_service_are_no_settings() {
        let links = |service: &str| {
            let name = format!("MILLSTREAM{}", service.replace('-', "_").to_ascii_uppercase());
            let link = |suffix: &str, value: &str| (format!("{name}_{suffix}"), value.to_owned());
            HashMap::from([
                link("SERVICE_HOST", "10.0.0.7"),
                link("SERVICE_PORT", "9000"),
                link("SERVICE_PORT_WS", "9000"),
                link("SERVICE_PORT_HTTP_ALT", "9000"),
                link("PORT", "tcp://10.0.0.7:9000"),
                link("PORT_9000_TCP", "tcp://10.0.0.7:9000"),
                link("PORT_9000_TCP_PROTO", "tcp"),
                link("PORT_9000_TCP_PORT", "9000"),
                link("PORT_9000_TCP_ADDR", "10.0.0.7"),
                link("PORT_53_UDP", "udp://10.0.0.7:53"),
                link("PORT_5000_SCTP_ADDR", "10.0.0.7"),
                link("NAME", "/web/millstream"),
                link("ENV_PATH", "/usr/bin"),
            ])
        };
        for service in ["", "-control", "-metrics", "-headless", "-cores", "-max-queues"] {
            let loaded = load(None, links(service), HashMap::new());
            assert_eq!(loaded.map(|loaded| loaded.origins), Ok(BTreeMap::new()), "millstream{service}");
        }
        // A variable that only resembles a link is reported as an unknown setting.
        let misspelt = [
            ("MILLSTREAM_PORT", "9000"),
            ("MILLSTREAM_CONTROL_PORT", "9001"),
            ("MILLSTREAM_PORT_9000", "x"),
            ("MILLSTREAM_PORT_X_TCP", "x"),
            ("MILLSTREAM_PORT_9000_TCP_OTHER", "x"),
            ("MILLSTREAM_SERVICES", "x"),
            ("MILLSTREAM_NAME", "x"),
            ("MILLSTREAM_PARTITION", "4"),
        ];
        for (variable, value) in misspelt {
            let why = load(None, HashMap::from([(variable.to_owned(), value.to_owned())]), HashMap::new())
                .unwrap_err()
                .0;
            assert!(why.contains(variable), "{variable}: {why}");
        }
    }
}
