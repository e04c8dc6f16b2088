//! The list of every setting of the server, with access to its value in the whole configuration.
//!
//! The flags of `serve`, the variables `MILLSTREAM_…`, the file's keys, `--help`, `--print-default-config`
//! and the table of `docs/configuration.md` are made from this list.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::LazyLock;

use super::ServerConfig;
use crate::base::setting::{About, Applies, Declared, Kind, Setting};

/// Settings with this prefix are hidden from clients of a running server, because their values may hold
/// passwords.
const NOT_SHOWN: &str = "kafka_";

/// One setting of the server.
pub struct Entry {
    /// The key, section, kind and help text.
    pub about: &'static About,
    access: Box<dyn Access>,
}

/// Reads and writes one setting of the whole configuration.
trait Access: Send + Sync {
    fn get(&self, config: &ServerConfig) -> String;
    fn set(&self, config: &mut ServerConfig, text: &str) -> Result<(), String>;
}

/// A setting of one room, and functions that find the room's settings in the whole configuration.
struct Lens<S: 'static> {
    setting: &'static Setting<S>,
    part: fn(&ServerConfig) -> &S,
    part_mut: fn(&mut ServerConfig) -> &mut S,
}

impl<S> Access for Lens<S> {
    fn get(&self, config: &ServerConfig) -> String {
        self.setting.get((self.part)(config))
    }

    fn set(&self, config: &mut ServerConfig, text: &str) -> Result<(), String> {
        self.setting.set((self.part_mut)(config), text)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.about.key)
    }
}

/// Every setting, in the order of `--help`.
pub static SETTINGS: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    /// Expands to the settings that one part of the configuration declares.
    macro_rules! of {
        ($($part:ident).+) => {
            entries(|config| &config.$($part).+, |config| &mut config.$($part).+)
        };
    }
    let mut all: Vec<Entry> = [
        of!(shard),
        of!(shard.tls),
        of!(shard.auth),
        of!(control),
        of!(shard.core.policy),
        of!(shard.store),
        of!(shard.store.memory),
        of!(shard.store.log),
        of!(shard.store.kafka),
        of!(shard.core),
        of!(shard.core.operation),
        of!(shard.projects),
        of!(shard.latency),
        of!(logging),
    ]
    .into_iter()
    .flatten()
    .collect();
    // The sort is stable, so within a section the order above remains.
    all.sort_by_key(|entry| entry.about.section);
    all
});

fn entries<S: Declared>(
    part: fn(&ServerConfig) -> &S,
    part_mut: fn(&mut ServerConfig) -> &mut S,
) -> Vec<Entry> {
    let entry = |setting: &'static Setting<S>| Entry {
        about: &setting.about,
        access: Box::new(Lens { setting, part, part_mut }),
    };
    S::SETTINGS.iter().map(entry).collect()
}

impl Entry {
    /// Returns the setting with this key.
    pub fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|entry| entry.about.key == key)
    }

    /// Returns the known key that is most similar to an unknown one, if one is similar enough.
    pub fn nearest(key: &str) -> Option<&'static str> {
        let near = |entry: &Self| strsim::jaro_winkler(key, entry.about.key);
        let best = SETTINGS.iter().max_by(|one, other| near(one).total_cmp(&near(other)))?;
        (near(best) > 0.75).then_some(best.about.key)
    }

    /// Sets the value from text. The error says what is wrong with the text, without naming the key.
    pub fn set(&self, config: &mut ServerConfig, text: &str) -> Result<(), String> {
        self.access.set(config, text)
    }

    /// Returns the value as text that [`Self::set`] accepts.
    pub fn get(&self, config: &ServerConfig) -> String {
        self.access.get(config)
    }

    /// Returns the value in TOML syntax.
    pub fn get_toml(&self, config: &ServerConfig) -> String {
        self.about.toml(self.get(config))
    }
}

impl ServerConfig {
    /// Returns every setting by key, except those of Kafka. The control port shows them.
    pub fn open_settings(&self) -> BTreeMap<String, String> {
        let open = SETTINGS.iter().filter(|entry| !entry.about.key.starts_with(NOT_SHOWN));
        open.map(|entry| (entry.about.key.to_owned(), entry.get(self))).collect()
    }
}

/// Returns a configuration file with every setting at its default, commented out.
pub fn default_file() -> String {
    let defaults = ServerConfig::default();
    let mut text = String::from(
        "# Millstream's configuration: every setting, with its default.\n\
         # Environment variables (MILLSTREAM_ and the key in capitals) override this file; flags override both.\n",
    );
    let mut section = None;
    for entry in SETTINGS.iter() {
        let About { key, help, kind, applies, .. } = entry.about;
        if section.replace(entry.about.section) != Some(entry.about.section) {
            // Writing to a String cannot fail, so the result is ignored.
            let _ = write!(text, "\n## {}\n", entry.about.section.title());
        }
        let wanted = kind.wanted();
        let wanted = if wanted == "text" { String::new() } else { format!(" ({wanted})") };
        let reload = if *applies == Applies::OnReload { " A reload applies it." } else { "" };
        let _ = write!(text, "\n# {help}{wanted}.{reload}\n#{key} = {}\n", entry.get_toml(&defaults));
    }
    text
}

/// Returns the table of `docs/configuration.md`.
pub fn markdown() -> String {
    let defaults = ServerConfig::default();
    let mut text = String::from(
        "| key | default | range | reload | what it is for |\n| --- | --- | --- | --- | --- |\n",
    );
    let mut section = None;
    for entry in SETTINGS.iter() {
        let About { key, help, kind, applies, .. } = entry.about;
        if section.replace(entry.about.section) != Some(entry.about.section) {
            let _ = writeln!(text, "| **{}** | | | | |", entry.about.section.title());
        }
        let default = entry.get(&defaults);
        let default = if default.is_empty() { "none".into() } else { format!("`{default}`") };
        let range = if *kind == Kind::Text { String::new() } else { format!("{} ", kind.wanted()) };
        // Markdown takes `<project>` for a tag.
        let help = help.replace('<', "&lt;");
        let reload = if *applies == Applies::OnReload { "yes " } else { "" };
        let _ = writeln!(text, "| `{key}` | {default} | {range}| {reload}| {help} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_setting_accepts_its_own_text() {
        let mut config = ServerConfig::default();
        for entry in SETTINGS.iter() {
            let (key, text) = (entry.about.key, entry.get(&config));
            entry.set(&mut config, &text).unwrap_or_else(|why| panic!("{key}: {why}"));
            assert_eq!(entry.get(&config), text, "{key}");
            assert_eq!(SETTINGS.iter().filter(|other| other.about.key == key).count(), 1);
        }
    }

    #[test]
    fn the_page_of_settings_shows_this_table() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let page = std::fs::read_to_string(page).unwrap();
        let table = markdown();
        // After changing a setting, paste the output of this test into the page.
        assert!(page.contains(&table), "docs/configuration.md does not hold:\n{table}");
    }

    #[test]
    fn texts_are_read_by_kind_and_range() {
        let mut config = ServerConfig::default();
        let mut set = |key: &str, text: &str| Entry::find(key).unwrap().set(&mut config, text);
        assert_eq!(set("max_pb_bytes", "3MiB"), Ok(()));
        assert_eq!(set("pb_timeout", "0.5"), Ok(()));
        assert_eq!(set("idle_timeout", "2min"), Ok(()));
        assert_eq!(set("produce_window", "1_000"), Ok(()));
        assert_eq!(set("cores", "0"), Ok(()));
        let why = |result: Result<(), String>| result.unwrap_err();
        assert_eq!(why(set("partitions", "65")), "65 is not within 1 to 64");
        assert_eq!(why(set("store", "disk")), "\"disk\" is not log or memory or kafka");
        assert_eq!(
            why(set("kafka_compression", "zip")),
            "\"zip\" is not none or lz4 or zstd or snappy or gzip"
        );
        assert!(why(set("kafka_topic_prefix", "a_b")).contains("other characters than letters"));
        assert!(why(set("data_dir", " ")).contains("name a directory"));
        assert!(why(set("pb_timeout", "soon")).contains("a duration like"));
        assert!(why(set("max_pb_bytes", "lots")).contains("a number of bytes like"));
        assert!(why(set("auto_create", "maybe")).contains("true or false"));
        assert!(set("log", "=,=").is_err());
        let core = &config.shard.core;
        assert_eq!(core.operation.max_pb_bytes, 3 << 20);
        assert_eq!(core.operation.pb_timeout, Duration::from_millis(500));
        assert_eq!(core.idle_timeout, Duration::from_secs(120));
    }

    #[test]
    fn a_misspelt_key_gets_a_suggestion() {
        assert_eq!(Entry::nearest("max_payload_byte"), Some("max_payload_bytes"));
        assert_eq!(Entry::nearest("idletimeout"), Some("idle_timeout"));
        assert_eq!(Entry::nearest("zzz"), None);
    }

    #[test]
    fn a_running_server_shows_no_setting_of_kafka() {
        let mut config = ServerConfig::default();
        config.shard.store.kafka.token_command = "echo sesame".into();
        let open = config.open_settings();
        assert!(open.contains_key("partitions") && !open.contains_key("kafka_token_command"));
    }
}
