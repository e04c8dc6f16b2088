//! One setting of the table: what its text means, and how it is read and shown.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::ServerConfig;
use super::table::SETTINGS;

/// What the environment's variables begin with.
pub const PREFIX: &str = "MILLSTREAM_";

/// What a setting's text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes: `4096`, `256KiB`, `8 MiB`.
    Bytes,
    /// How many.
    Count,
    /// A duration: `500ms`, `30s`, `5min`; a bare number is seconds.
    Duration,
    /// `true` or `false`.
    Flag,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Text, as its words say.
    Text,
}

pub(super) type Number = (fn(&ServerConfig) -> u64, fn(&mut ServerConfig, u64));
pub(super) type Text = (fn(&ServerConfig) -> String, fn(&mut ServerConfig, &str) -> Result<(), String>);

/// Where it stands in the configuration.
pub(super) enum Access {
    /// Bytes, counts; durations in milliseconds.
    Number(Number, RangeInclusive<u64>),
    Flag(fn(&mut ServerConfig) -> &mut bool),
    Text(Text),
}

/// One setting.
pub struct Setting {
    /// The heading that it stands under.
    pub section: &'static str,
    /// As in the file; with hyphens the flag, in capitals behind `MILLSTREAM_` the variable.
    pub key: &'static str,
    /// What its text means.
    pub kind: Kind,
    /// What it is for.
    pub help: &'static str,
    pub(super) access: Access,
}

pub(super) const GIB: u64 = 1 << 30;

/// Sets what a text means.
pub(super) fn parse_into<T: std::str::FromStr>(to: &mut T, text: &str, wanted: &str) -> Result<(), String> {
    *to = text.parse().map_err(|_| format!("{text:?} is not {wanted}"))?;
    Ok(())
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key)
    }
}

impl Setting {
    /// The setting of that key.
    pub fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// The known key that is nearest to an unknown one, where one is near.
    pub fn nearest(key: &str) -> Option<&'static str> {
        let near = |setting: &Self| strsim::jaro_winkler(key, setting.key);
        let best = SETTINGS.iter().max_by(|one, other| near(one).total_cmp(&near(other)))?;
        (near(best) > 0.75).then_some(best.key)
    }

    /// The flag.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// The environment's variable.
    pub fn variable(&self) -> String {
        format!("{}{}", PREFIX, self.key.to_ascii_uppercase())
    }

    /// What its text may be, for messages and help.
    pub fn wanted(&self) -> String {
        match (self.kind, &self.access) {
            (Kind::Flag, _) => "true or false".into(),
            (Kind::Choice(choices), _) => choices.join(" or "),
            (_, Access::Number(_, range)) => {
                let (least, most) = (self.show_number(*range.start()), self.show_number(*range.end()));
                if *range.end() == i64::MAX as u64 {
                    format!("at least {least}")
                } else {
                    format!("{least} to {most}")
                }
            }
            _ => "text".into(),
        }
    }

    /// Sets it from text; the error says what is wrong, without the key.
    pub fn set(&self, config: &mut ServerConfig, text: &str) -> Result<(), String> {
        let text = text.trim();
        match &self.access {
            Access::Flag(field) => parse_into(field(config), text, "true or false"),
            Access::Number((_, set), range) => {
                let value = self.parse_number(text)?;
                if !range.contains(&value) {
                    return Err(format!("{text} is not within {}", self.wanted()));
                }
                set(config, value);
                Ok(())
            }
            Access::Text((_, set)) => {
                if let Kind::Choice(choices) = self.kind
                    && !choices.contains(&text)
                {
                    return Err(format!("{text:?} is not {}", self.wanted()));
                }
                set(config, text)
            }
        }
    }

    /// Its value as text that [`Self::set`] takes.
    pub fn get(&self, config: &ServerConfig) -> String {
        match &self.access {
            Access::Flag(field) => field(&mut config.clone()).to_string(),
            Access::Number((get, _), _) => self.show_number(get(config)),
            Access::Text((get, _)) => get(config),
        }
    }

    /// Its value as TOML.
    pub fn get_toml(&self, config: &ServerConfig) -> String {
        let text = self.get(config);
        if self.kind == Kind::Flag || text.parse::<u64>().is_ok() { text } else { format!("{text:?}") }
    }

    fn parse_number(&self, text: &str) -> Result<u64, String> {
        let bad = |what: &str| format!("{text:?} is not {what}");
        match self.kind {
            Kind::Bytes => text
                .parse::<bytesize::ByteSize>()
                .map(|size| size.as_u64())
                .map_err(|_| bad("a number of bytes like 4096 or 256KiB")),
            Kind::Duration => {
                let parsed = match text.parse::<f64>() {
                    Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
                    Err(_) => humantime::parse_duration(text).ok(),
                };
                let millis = parsed.and_then(|duration| u64::try_from(duration.as_millis()).ok());
                millis.ok_or_else(|| bad("a duration like 500ms, 30s or 2.5 (seconds)"))
            }
            _ => text.replace('_', "").parse().map_err(|_| bad("a whole number")),
        }
    }

    fn show_number(&self, value: u64) -> String {
        let unit = |scale: u64, name: &str| format!("{}{name}", value / scale);
        match self.kind {
            Kind::Bytes => match value {
                0 => "0".into(),
                _ if value.is_multiple_of(GIB) => unit(GIB, "GiB"),
                _ if value.is_multiple_of(1 << 20) => unit(1 << 20, "MiB"),
                _ if value.is_multiple_of(1 << 10) => unit(1 << 10, "KiB"),
                _ => value.to_string(),
            },
            Kind::Duration if value.is_multiple_of(1000) => unit(1000, "s"),
            Kind::Duration => unit(1, "ms"),
            _ => value.to_string(),
        }
    }
}

/// Every setting with its default, commented, as a file that `--config` takes.
pub fn default_file(defaults: &ServerConfig) -> String {
    let mut text = String::from(
        "# Millstream's configuration: every setting, with its default.\n\
         # The environment (MILLSTREAM_ and the key in capitals) goes before this file, flags go before both.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            // Writing to a String cannot fail.
            let _ = write!(text, "\n## {section}\n");
        }
        let (help, wanted) = (setting.help, setting.wanted());
        let wanted = if wanted == "text" { String::new() } else { format!(" ({wanted})") };
        let _ = write!(text, "\n# {help}{wanted}.\n#{} = {}\n", setting.key, setting.get_toml(defaults));
    }
    text
}

/// The README's table.
pub fn markdown(defaults: &ServerConfig) -> String {
    let mut text = String::from("| key | default | what it is for |\n| --- | --- | --- |\n");
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            let _ = writeln!(text, "| **{section}** | | |");
        }
        let default = setting.get(defaults);
        let default = if default.is_empty() { "none".into() } else { format!("`{default}`") };
        let _ = writeln!(text, "| `{}` | {default} | {} |", setting.key, setting.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::names::Project;

    fn defaults() -> ServerConfig {
        ServerConfig::new(Project::parse("default").unwrap())
    }

    #[test]
    fn every_setting_takes_what_it_shows() {
        let mut config = defaults();
        for setting in SETTINGS {
            let text = setting.get(&config);
            setting.set(&mut config, &text).unwrap_or_else(|why| panic!("{}: {why}", setting.key));
            assert_eq!(setting.get(&config), text, "{}", setting.key);
            assert_eq!(SETTINGS.iter().filter(|other| other.key == setting.key).count(), 1);
        }
    }

    #[test]
    fn the_readme_shows_this_table() {
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
        let table = markdown(&defaults());
        // Whoever changes a setting pastes what this prints.
        assert!(readme.contains(&table), "README.md does not hold:\n{table}");
    }

    #[test]
    fn texts_are_read_by_kind_and_range() {
        let mut config = defaults();
        let mut set = |key: &str, text: &str| Setting::find(key).unwrap().set(&mut config, text);
        assert_eq!(set("max_pb_bytes", "3MiB"), Ok(()));
        assert_eq!(set("pb_timeout", "0.5"), Ok(()));
        assert_eq!(set("idle_timeout", "2min"), Ok(()));
        assert_eq!(set("produce_window", "1_000"), Ok(()));
        assert_eq!(set("cores", "0"), Ok(()));
        assert_eq!(set("control_hosts", "Metrics.Example., millstream"), Ok(()));
        let why = |result: Result<(), String>| result.unwrap_err();
        assert!(why(set("control_hosts", "metrics.example:9001")).contains("no port"));
        assert!(why(set("control_hosts", "http://metrics.example")).contains("no scheme"));
        assert_eq!(why(set("partitions", "65")), "65 is not within 1 to 64");
        assert_eq!(why(set("store", "disk")), "\"disk\" is not log or memory or kafka");
        assert!(why(set("pb_timeout", "soon")).contains("a duration like"));
        assert!(why(set("max_pb_bytes", "lots")).contains("a number of bytes like"));
        assert!(why(set("auto_create", "maybe")).contains("true or false"));
        assert_eq!(config.control_hosts, ["metrics.example", "millstream"]);
        assert_eq!(config.settings.max_pb_bytes, 3 << 20);
        assert_eq!(config.settings.pb_timeout, Duration::from_millis(500));
        assert_eq!(config.settings.idle_timeout, Duration::from_secs(120));
    }

    #[test]
    fn a_misspelt_key_is_told_its_neighbour() {
        assert_eq!(Setting::nearest("max_payload_byte"), Some("max_payload_bytes"));
        assert_eq!(Setting::nearest("idletimeout"), Some("idle_timeout"));
        assert_eq!(Setting::nearest("zzz"), None);
    }
}
