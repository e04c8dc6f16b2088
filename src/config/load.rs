//! Builds a configuration from its sources. Flags override environment variables, which override the file,
//! which overrides the defaults.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use config::builder::DefaultState;
use config::{Config, ConfigBuilder, Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::ServerConfig;
use super::service_link::is_service_link;
use super::table::{Entry, SETTINGS};
use crate::base::setting::{PREFIX, Unworkable};

/// `MILLSTREAM_CONFIG` without its prefix. It names the file and is not a setting.
const FILE: &str = "config";

/// `MILLSTREAM_CONTROL_TOKEN` without its prefix. It is for clients of the control port, and not a setting.
const CONTROL_TOKEN: &str = "control_token";

/// A configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The merged and checked settings.
    pub config: ServerConfig,
    /// The source of each value that is not a default, by key: a file name, a variable or a flag.
    pub origins: BTreeMap<&'static str, String>,
}

/// Returns the file that `MILLSTREAM_CONFIG` names. Empty, it names none.
pub fn named_file(environment: &HashMap<String, String>) -> Option<PathBuf> {
    environment.get("MILLSTREAM_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Merges the sources, parses every value, and refuses settings that cannot work. Reads `file` (from
/// `--config`), or else the file that `MILLSTREAM_CONFIG` names, if any.
pub fn load(
    file: Option<&Path>,
    environment: HashMap<String, String>,
    flags: HashMap<String, String>,
) -> Result<Loaded, Unworkable> {
    let named = named_file(&environment);
    let mut builder: ConfigBuilder<DefaultState> = Config::builder();
    if let Some(path) = file.map(Path::to_owned).or(named) {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|error| Unworkable(format!("{name}: {error}")))?;
        let source = File::from_str(&text, FileFormat::Toml);
        // Parse the file on its own first, so that its errors and unknown keys carry its name.
        let alone = collect(Config::builder().add_source(source))
            .map_err(|error| Unworkable(format!("{name}: {}", without_quoted_line(&error.to_string()))))?;
        let mut values = Map::new();
        for (key, value) in alone {
            let (key, kind) =
                flattened(key, value.kind).map_err(|why| Unworkable(format!("{name}: {why}")))?;
            values.insert(key, Value::new(Some(&name), kind));
        }
        builder = builder.add_source(Values(values));
    }
    // The `config` crate describes a value's origin without naming the variable, so set the origin here.
    let of_environment =
        Environment::default().prefix(PREFIX.trim_end_matches('_')).source(Some(environment));
    let variables = of_environment.collect().map_err(|error| Unworkable(error.to_string()))?;
    let is_ours = |key: &str, value: &Value| {
        let is_link = || is_service_link(key, &value.clone().into_string().unwrap_or_default());
        key != FILE && key != CONTROL_TOKEN && (Entry::find(key).is_some() || !is_link())
    };
    let variables = variables.into_iter().filter(|(key, value)| is_ours(key, value));
    let named = |(key, value): (String, Value)| {
        let variable = format!("{PREFIX}{}", key.to_ascii_uppercase());
        (key, Value::new(Some(&variable), value.kind))
    };
    let flag = |(key, text): (String, String)| {
        let flag = format!("--{}", key.replace('_', "-"));
        (key, Value::new(Some(&flag), ValueKind::String(text)))
    };
    let builder = builder.add_source(Values(variables.map(named).collect()));
    let builder = builder.add_source(Values(flags.into_iter().map(flag).collect()));
    let merged = collect(builder).map_err(|error| Unworkable(error.to_string()))?;
    let mut loaded = Loaded { config: ServerConfig::default(), origins: BTreeMap::new() };
    for (key, value) in merged {
        let origin = value.origin().unwrap_or("").to_owned();
        let Some(entry) = Entry::find(&key) else {
            let nearest =
                Entry::nearest(&key).map_or(String::new(), |near| format!("; the nearest is {near}"));
            return Err(Unworkable(format!("{key} (from {origin}): no such setting{nearest}")));
        };
        let text = text_of(value).map_err(|why| Unworkable(format!("{key} (from {origin}): {why}")))?;
        entry
            .set(&mut loaded.config, &text)
            .map_err(|why| Unworkable(format!("{key} (from {origin}): {why}")))?;
        loaded.origins.insert(entry.about.key, origin);
    }
    // If only `drain_timeout` is set, and to less than the default of `drain_consume_timeout`, shorten that,
    // too.
    if !loaded.origins.contains_key("drain_consume_timeout") {
        let core = &mut loaded.config.shard.core;
        core.drain_consume_timeout = core.drain_consume_timeout.min(core.drain_timeout);
    }
    loaded.config.check()?;
    Ok(loaded)
}

/// Removes the lines that the TOML parser's error quotes, because they may hold a secret.
fn without_quoted_line(error: &str) -> String {
    // The quoted line looks like `3 | key = value`, between two lines that begin with `|`.
    let is_quoted = |line: &&str| {
        let rest = line.trim_start_matches(|one: char| one == ' ' || one.is_ascii_digit());
        rest.starts_with('|')
    };
    let told: Vec<&str> = error.lines().filter(|line| !is_quoted(line) && !line.trim().is_empty()).collect();
    told.join(": ")
}

/// A source of values, each with its origin.
#[derive(Clone)]
struct Values(Map<String, Value>);

/// Shows only the keys: a value may be a secret.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Source for Values {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn collect(builder: ConfigBuilder<DefaultState>) -> Result<Map<String, Value>, config::ConfigError> {
    builder.build()?.collect()
}

/// Converts the table `[kafka.properties]` to the setting `kafka_properties`. Returns any other value
/// unchanged.
fn flattened(key: String, kind: ValueKind) -> Result<(String, ValueKind), String> {
    let ValueKind::Table(mut table) = kind else { return Ok((key, kind)) };
    let Some(properties) = table.remove("properties").filter(|_| key == "kafka" && table.is_empty()) else {
        return Err(format!(
            "{key} is a table; put settings at the top level of the file (only [kafka.properties] is a table)"
        ));
    };
    let mut pairs = Vec::new();
    flatten(String::new(), properties, &mut pairs)?;
    Ok(("kafka_properties".into(), ValueKind::String(pairs.join(";"))))
}

/// Joins the keys of nested tables with dots. TOML splits an unquoted key such as `a.b` into tables.
fn flatten(prefix: String, value: Value, pairs: &mut Vec<String>) -> Result<(), String> {
    if let ValueKind::Table(table) = value.kind {
        let dot = if prefix.is_empty() { "" } else { "." };
        return table
            .into_iter()
            .try_for_each(|(key, value)| flatten(format!("{prefix}{dot}{key}"), value, pairs));
    }
    let text = text_of(value).map_err(|why| format!("kafka.properties: {prefix}: {why}"))?;
    if text.contains(';') {
        return Err(format!("kafka.properties: {prefix}: a value must not contain ;"));
    }
    pairs.push(format!("{prefix}={text}"));
    Ok(())
}

/// Converts a value to the text that its setting parses. A list becomes its items separated by commas.
fn text_of(value: Value) -> Result<String, String> {
    match value.kind {
        ValueKind::Array(values) => {
            let texts: Result<Vec<String>, String> = values.into_iter().map(text_of).collect();
            Ok(texts?.join(","))
        }
        ValueKind::Table(_) => Err("is a table; put settings at the top level of the file".into()),
        _ => value.into_string().map_err(|error| error.to_string()),
    }
}

impl Loaded {
    /// Returns a table of every setting, its value and its origin. Secrets are masked.
    pub fn describe(&self) -> String {
        let shown = self.config.without_secrets();
        let rows: Vec<[String; 3]> = SETTINGS
            .iter()
            .map(|entry| {
                let key = entry.about.key;
                let origin = self.origins.get(key).map_or("default", String::as_str);
                [key.to_owned(), entry.get_toml(&shown), origin.to_owned()]
            })
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (keys, values) = (width(0), width(1));
        let line =
            |[key, value, origin]: &[String; 3]| format!("{key:keys$} = {value:values$}  # {origin}\n");
        rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn written(text: &str) -> PathBuf {
        let name = format!("millstream-config-{}-{:?}.toml", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn load_text(text: &str) -> Result<Loaded, Unworkable> {
        let path = written(text);
        let loaded = load(Some(&path), HashMap::new(), HashMap::new());
        std::fs::remove_file(path).unwrap();
        loaded
    }

    #[test]
    fn flags_override_the_environment_which_overrides_the_file() {
        let path = written(
            "partitions = 2\nproduce_window = 200\nidle_timeout = \"40s\"\nauto_create = false\n\
             allowed_origins = [\"https://a.example\", \"https://b.example\"]\n",
        );
        let environment = strings(&[
            ("MILLSTREAM_PARTITIONS", "3"),
            ("MILLSTREAM_PRODUCE_WINDOW", "300"),
            ("MILLSTREAM_PORT_9000_TCP", "tcp://10.0.0.1:9000"),
            ("MILLSTREAM_CONTROL_TOKEN", "of the operator's shell"),
            ("OTHER", "x"),
        ]);
        let flags = strings(&[("partitions", "4")]);
        let loaded = load(Some(&path), environment.clone(), flags).unwrap();
        let core = &loaded.config.shard.core;
        assert_eq!((core.partitions, core.operation.produce_window, core.auto_create), (4, 300, false));
        assert_eq!(core.idle_timeout.as_secs(), 40);
        assert_eq!(core.policy.allowed_origins.to_string(), "https://a.example,https://b.example");
        assert_eq!(loaded.origins["partitions"], "--partitions");
        assert_eq!(loaded.origins["produce_window"], "MILLSTREAM_PRODUCE_WINDOW");
        assert_eq!(loaded.origins["idle_timeout"], path.display().to_string());
        assert!(loaded.describe().contains("max_pb_bytes"));
        let mut named = environment;
        named.insert("MILLSTREAM_CONFIG".into(), path.display().to_string());
        assert_eq!(load(None, named, HashMap::new()).unwrap().config.shard.core.partitions, 3);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_default_file_is_a_file_of_defaults() {
        let defaults = ServerConfig::default();
        let text = super::super::table::default_file();
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let loaded = load_text(&uncommented).unwrap();
        assert_eq!(loaded.origins.len(), SETTINGS.len());
        for entry in SETTINGS.iter() {
            assert_eq!(entry.get(&loaded.config), entry.get(&defaults), "{}", entry.about.key);
        }
    }

    #[test]
    fn librdkafka_properties_come_from_a_table_or_a_flag_and_secrets_are_masked() {
        let text =
            "[kafka.properties]\n\"sasl.password\" = \"open sesame\"\nsocket.keepalive.enable = true\n";
        let loaded = load_text(text).unwrap();
        let properties = &loaded.config.shard.store.kafka.properties;
        assert_eq!(properties["sasl.password"], "open sesame");
        assert_eq!(properties["socket.keepalive.enable"], "true");
        let described = loaded.describe();
        assert!(described.contains("sasl.password=***") && !described.contains("sesame"), "{described}");
        assert!(!format!("{loaded:?}").contains("sesame"));
        let flags = strings(&[("kafka_properties", "a.b=1; c=2=3")]);
        let loaded = load(None, HashMap::new(), flags).unwrap();
        assert_eq!(
            loaded.config.shard.store.kafka.properties,
            [("a.b".into(), "1".into()), ("c".into(), "2=3".into())].into()
        );
        let why = load_text("[kafka]\nbrokers = \"x\"\n").unwrap_err().0;
        assert!(why.contains("kafka is a table"), "{why}");
    }

    #[test]
    fn the_token_command_is_masked_and_an_invalid_file_is_not_quoted() {
        let loaded = load_text("kafka_token_command = \"curl -d client_secret=sesame\"\n").unwrap();
        assert_eq!(loaded.config.shard.store.kafka.token_command, "curl -d client_secret=sesame");
        let described = loaded.describe();
        let line = described.lines().find(|line| line.starts_with("kafka_token_command ")).unwrap();
        assert!(line.contains("\"***\"") && line.contains(".toml"), "{line}");
        assert!(!described.contains("sesame") && !described.contains("curl"), "{described}");
        assert!(!format!("{loaded:?}").contains("sesame"));
        // An unset command is shown as empty, not masked.
        let described = load(None, HashMap::new(), HashMap::new()).unwrap().describe();
        let line = described.lines().find(|line| line.starts_with("kafka_token_command ")).unwrap();
        assert!(line.contains("\"\"") && !line.contains("***"), "{line}");
        for text in [
            "kafka_token_command = \"echo sesame\n",
            "[kafka.properties]\n\"sasl.password\" = open sesame\n",
            "kafka_token_command = \"sesame\" = 1\n",
            "kafka_properties = \"sasl.password sesame\"\n",
            "[kafka.properties]\n\"sasl.password\" = \"sesame;sesame\"\n",
            "[kafka.properties]\n\"sasl.password\" = [[\"sesame\"], {}]\n",
        ] {
            let why = load_text(text).unwrap_err().0;
            assert!(!why.contains("sesame"), "{why}");
        }
        let why = load_text("kafka_token_command = \"echo sesame\"\npartitions = = 1\n").unwrap_err().0;
        assert!(why.contains("line 2") && !why.contains("= 1"), "{why}");
    }

    #[test]
    fn errors_name_the_key_the_origin_and_the_limit() {
        let why = |text: &str| load_text(text).unwrap_err().0;
        let unknown = why("max_payload_byte = 5\n");
        assert!(
            unknown.contains("max_payload_byte (from ")
                && unknown.contains("the nearest is max_payload_bytes")
        );
        assert!(why("partitions = 99\n").contains("99 is not within 1 to 64"));
        assert!(why("partitions = {}\n").contains("is a table"));
        assert!(
            why("partitions = = 3\n").contains("TOML parse error at line 1"),
            "{}",
            why("partitions = = 3\n")
        );
        assert!(why("max_pb_bytes = \"64MiB\"\n").contains("an eighth of shard_budget_bytes"));
        for entry in ["console.example", "https://a.example/", "https://*.example", "null"] {
            let why = why(&format!("allowed_origins = [\"https://a.example\", {entry:?}]\n"));
            assert!(
                why.contains("allowed_origins (from ") && why.contains(&format!("{entry:?} is no")),
                "{why}"
            );
        }
        for project in [".", "..", "a/b", ""] {
            assert!(why(&format!("default_project = {project:?}\n")).contains("default_project (from "));
        }
        let missing = load(Some(Path::new("/nowhere/x.toml")), HashMap::new(), HashMap::new());
        assert!(missing.unwrap_err().0.contains("/nowhere/x.toml"));
        let variable = strings(&[("MILLSTREAM_PARTITION", "1")]);
        let why = load(None, variable, HashMap::new()).unwrap_err().0;
        assert!(
            why.contains("(from MILLSTREAM_PARTITION)") && why.contains("the nearest is partitions"),
            "{why}"
        );
        let flags = strings(&[("drain_timeout", "1")]);
        assert_eq!(
            load(None, HashMap::new(), flags).unwrap().config.shard.core.drain_consume_timeout.as_secs(),
            1
        );
    }
}
