//! `millstream serve`: reads the settings, runs the server and logs its totals at the end.

mod reload;
mod service;
mod signals;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use self::reload::Reloader;
use self::service::Starting;
use self::signals::Handling;
use super::Failure;
use super::output::Output;
use crate::auth::Judge;
use crate::base::setting::{Applies, Kind};
use crate::config::load::{Loaded, load, named_file};
use crate::config::table::{SETTINGS, default_file};
use crate::config::{ServerConfig, memory, signing};
use crate::control;
use crate::control::{ControlPort, Info, InfoPage, Reloads, Subject, Tokens};
use crate::latency::{Stage, Summary};
use crate::process::inherited::Inherited;
use crate::process::logging::LogFormat;
use crate::process::manager::{self, Word};
use crate::process::terminal::say;
use crate::process::{children, heap, logging};
use crate::shard::acceptor::Acceptor;
use crate::shard::address::{Address, Addresses};
use crate::shard::listener::Listener;
use crate::shard::server::Server;
use crate::shard::{self, preflight, uring};
use crate::store::log::Durability;
use crate::store::{StoreKind, kafka};
use crate::tls::files;

/// The file of the control port's Unix socket in a data directory.
pub(super) const CONTROL_SOCKET: &str = "control.sock";

/// How often the log reports lines that its flood limit held back.
const TELL_FLOODS_EVERY: Duration = Duration::from_secs(1);

/// The flags: one for each setting, plus those that control where settings come from.
#[derive(Clone)]
pub(super) struct Args {
    config: Option<PathBuf>,
    check_config: bool,
    print_default_config: bool,
    /// Values from the command line, by setting key.
    settings: HashMap<String, String>,
}

/// Omits the values, because some of them are secrets.
impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Args")
            .field("config", &self.config)
            .field("settings", &self.settings.keys())
            .finish_non_exhaustive()
    }
}

const AFTER_HELP: &str = "\
Each setting can be given in three places. Flags override environment
variables, which override the file of --config. The variable of a setting is
MILLSTREAM_ and its key in capitals, for example MILLSTREAM_PARTITIONS=4;
MILLSTREAM_CONFIG names the file. Bytes take units (64MiB), times too (30s).

Examples:
  millstream serve                                       use ./millstream-data
  millstream serve --store memory                        keep messages in memory
  millstream serve --listen unix:/run/millstream.sock    listen on a Unix socket
  millstream serve --print-default-config > server.toml  write a file to edit
  millstream serve --config server.toml --check-config   check it, do not serve

Signals:
  SIGTERM, SIGINT  drain, then exit: producers get their answers, consumers get
                   what is stored as far as their credit allows; a second signal
                   exits at once, and so does the first if the server is not ready.
                   With drain_announce, the first signal only makes the server not
                   ready for that long, and the second one drains
  SIGHUP           reload the settings marked with [reload], as millstream reload
                   does; reopen latency_log, for log rotation

Under systemd, the server takes over sockets named listen, tls_listen and control,
and says when it is ready, reloads, stops and is alive. deploy/systemd has units.

Exit codes:
  0    drained, or stopped before it was ready
  1    stopped by a second signal, or the drain did not finish in time
  2    bad usage or settings, or the server cannot run; with log_format = json,
       the reason is one line of JSON on standard error
  141  standard output was closed";

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let mut command = command
            .after_help(AFTER_HELP)
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("Read settings from this TOML file [default: the file that MILLSTREAM_CONFIG names, if set]"),
            )
            .arg(
                Arg::new("check_config")
                    .long("check-config")
                    .action(ArgAction::SetTrue)
                    .help("Check the settings and exit. Prints each value, where it came from, and the most memory that the server can use"),
            )
            .arg(
                Arg::new("print_default_config")
                    .long("print-default-config")
                    .action(ArgAction::SetTrue)
                    .help("Print a TOML file with every setting, its default and its description, then exit"),
            );
        let defaults = ServerConfig::default();
        for entry in SETTINGS.iter() {
            let (setting, default) = (entry.about, entry.get(&defaults));
            let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
            let reload = if setting.applies == Applies::OnReload { " [reload]" } else { "" };
            let mut arg = Arg::new(setting.key)
                .long(setting.flag())
                .overrides_with(setting.key)
                .help_heading(setting.section.title())
                .help(format!("{}{default}{reload}", setting.help));
            arg = match &setting.kind {
                Kind::Flag => arg.num_args(0..=1).default_missing_value("true").value_name("true|false"),
                Kind::Bytes(_) => arg.value_name("BYTES"),
                Kind::Count(_) | Kind::Micros(_) => arg.value_name("N"),
                Kind::Duration(_) => arg.value_name("TIME"),
                Kind::Choice(choices) => arg.value_name(choices.join("|")),
                Kind::Text => arg.value_name(setting.key.to_ascii_uppercase()),
            };
            command = command.arg(arg);
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &str| matches.get_one::<String>(key).map(|text| (key.to_owned(), text.clone()));
        Ok(Self {
            config: matches.get_one("config").cloned(),
            check_config: matches.get_flag("check_config"),
            print_default_config: matches.get_flag("print_default_config"),
            settings: SETTINGS.iter().filter_map(|entry| given(entry.about.key)).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) fn run(args: Args) -> ExitCode {
    let mut is_json = args.asks_for_json();
    match run_as(args, &mut is_json) {
        Ok(code) => code,
        Err(error) => {
            if is_json {
                say_json(&error.to_string());
            } else {
                say(format_args!("millstream: {error}"));
            }
            ExitCode::from(2)
        }
    }
}

/// Runs the command. Sets `is_json` to the configured log format once the settings are read, so that a
/// failure is reported in that format.
fn run_as(args: Args, is_json: &mut bool) -> Result<ExitCode, Failure> {
    if args.print_default_config {
        let mut out = Output::new();
        write!(out, "{}", default_file())?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before anything opens a file.
    let inherited = if args.check_config { Inherited::default() } else { Inherited::take()? };
    let mut loaded = load(args.config.as_deref(), environment(), args.settings.clone())?;
    let signing = signing::read(&mut loaded.config.shard)?;
    *is_json = loaded.config.logging.format == LogFormat::Json;
    if args.check_config {
        let shard = &loaded.config.shard;
        if shard.store.kind == StoreKind::Kafka {
            kafka::check(&shard.store.kafka, &shard.kafka_bounds())?;
            for warning in kafka::warnings(&shard.store.kafka) {
                say(format_args!("millstream: {warning}"));
            }
        }
        Tokens::load(loaded.config.control.tokens.as_deref())?;
        if loaded.config.speaks_tls() {
            for warning in files::load(&shard.tls)?.warnings {
                say(format_args!("millstream: {warning}"));
            }
        }
        for warning in Judge::check(&shard.auth)?.into_iter().chain(signing) {
            say(format_args!("millstream: {warning}"));
        }
        let mut out = Output::new();
        write!(out, "{}\n{}", loaded.describe(), memory::describe(&loaded.config))?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let handling = Handling::start()?;
    let ended = serve(args, loaded, signing, inherited, &handling);
    if ended.is_err() {
        // Another thread may still hold the sockets.
        handling.close();
    }
    // Threads that own child processes may still run.
    children::end_all();
    match ended {
        // Standard error is blocked because nobody reads it. Reporting the error would wait forever.
        Err(_) if !logging::finish() => Ok(ExitCode::from(2)),
        Ok(code) => {
            logging::finish();
            Ok(code)
        }
        Err(why) => Err(why),
    }
}

/// Reports on standard error why the server ends, as one JSON line in the format of the log.
pub(super) fn say_json(why: &str) {
    let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let fields = serde_json::json!({ "message": why.trim_end() });
    let line = serde_json::json!({
        "timestamp": timestamp,
        "level": "ERROR",
        "fields": fields,
        "target": module_path!(),
    });
    say(format_args!("{line}"));
}

/// The environment variable for the log format, and its value for JSON.
const JSON_VARIABLE: (&str, &str) = ("MILLSTREAM_LOG_FORMAT", "json");

/// Returns whether an invalid command line is for `serve` and asks for a JSON log.
pub(super) fn asks_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let arguments: Vec<String> = arguments.map(|one| one.to_string_lossy().into_owned()).collect();
    let is_flag = |pair: &[String]| pair[0] == "--log-format" && pair[1] == "json";
    let is_serve = arguments.get(1).is_some_and(|command| command == "serve");
    let by_flag = arguments.windows(2).any(is_flag) || arguments.iter().any(|one| one == "--log-format=json");
    is_serve && (by_flag || std::env::var(JSON_VARIABLE.0).is_ok_and(|value| value == JSON_VARIABLE.1))
}

/// Returns whether a configuration file, possibly malformed, asks for a JSON log.
fn file_asks_for_json(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_once('=').is_some_and(|(key, value)| {
            let bare = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
            bare(key) == "log_format" && bare(value) == "json"
        })
    })
}

impl Args {
    /// Guesses the log format before the configuration is read, or when it cannot be read.
    fn asks_for_json(&self) -> bool {
        let variable = |name| std::env::var(name).ok();
        let said = self.settings.get("log_format").cloned().or_else(|| variable(JSON_VARIABLE.0));
        if let Some(format) = said {
            return format == JSON_VARIABLE.1;
        }
        let path = self.config.clone().or_else(|| named_file(&environment()));
        let text = path.and_then(|path| std::fs::read_to_string(path).ok());
        text.is_some_and(|text| file_asks_for_json(&text))
    }
}

/// Binds the control port, if the server has one. `passed` is a socket of the service manager.
fn bind_control(
    settings: &control::Settings,
    addresses: Option<&Addresses>,
    passed: Option<TcpListener>,
) -> Result<Option<ControlPort>, Failure> {
    let Some(addresses) = addresses else {
        return match passed {
            None => Ok(None),
            Some(_) => Err(Failure(
                "a socket named control was passed, but control_listen = off: stop and disable its socket unit \
                 (millstream-control.socket), or set control_listen = next"
                    .into(),
            )),
        };
    };
    let bound = ControlPort::bind(addresses, settings.unix_mode, passed).map_err(|error| {
        let cannot = format!("cannot serve the control port on {error}");
        Failure(format!("{cannot}; set control_listen to a free address, or to off"))
    })?;
    Ok(Some(bound))
}

/// Lets the control port listen in the data directory, too, if it has no Unix socket. The server has locked the
/// directory. Goes on without it if that is impossible: the file system may have no sockets, or the path is too long.
fn add_control_socket(port: &mut ControlPort, data_dir: &Path, settings: &control::Settings) {
    let path = data_dir.join(CONTROL_SOCKET);
    if port.has_unix() {
        return;
    }
    if let Err(error) = port.add_unix(&path, settings.unix_mode) {
        tracing::warn!(
            path = %path.display(),
            %error,
            "the control port has no socket in the data directory: set control_listen to name another one (unix:/PATH)"
        );
    }
}

/// Returns the environment variables that are valid UTF-8. All of the server's own variables are.
fn environment() -> HashMap<String, String> {
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).collect()
}

fn serve(
    args: Args,
    loaded: Loaded,
    signing: Option<String>,
    mut inherited: Inherited,
    handling: &Handling,
) -> Result<ExitCode, Failure> {
    let config = &loaded.config;
    let ServerConfig { shard, control, logging } = config;
    let store = &shard.store;
    let mut teller = logging::start(logging);
    let starting = Starting::report()?;
    let (listening, controlling) = (inherited.tcp("listen")?, inherited.tcp("control")?);
    let listening_secure = inherited.tcp("tls_listen")?;
    inherited.check_all_used("listen, tls_listen and control")?;
    let listening = listening.map(Listener::inherited).transpose()?;
    let listening_secure = listening_secure.map(Listener::inherited).transpose()?;
    let listen = match &listening {
        Some(passed) => beside(&shard.listen, passed.address()?),
        None => shard.listen.clone(),
    };
    let control_addresses = control.listen.addresses(listen.first_tcp());
    let has_control = control_addresses.is_some();
    let connections_max = preflight::check(shard, has_control)?;
    if store.kind == StoreKind::Kafka {
        kafka::check(&store.kafka, &shard.kafka_bounds())?;
    }
    if store.kind == StoreKind::Log && store.log.durability == Durability::Os {
        tracing::warn!(
            "durability = os: a crash of the machine can lose the last acknowledged messages; a crash of the server cannot"
        );
    }
    config.warnings().iter().chain(&signing).for_each(|warning| tracing::warn!("{warning}"));
    if !heap::keep() {
        tracing::warn!("the C library's allocator cannot be tuned: large batches will use more CPU time");
    }
    let tls = load_tls(config, listening_secure.is_some())?;
    let tokens = Tokens::load(control.tokens.as_deref())?;
    let is_set = loaded.origins.contains_key("listen");
    let mut listeners = listeners("listen", &shard.listen, is_set, listening, shard)
        .map_err(|error| Failure(format!("cannot serve on {error}")))?;
    if let Some(addresses) = &shard.tls_listen {
        let secure = self::listeners("tls_listen", addresses, true, listening_secure, shard)
            .map_err(|error| Failure(format!("cannot serve TLS on {error}")))?;
        listeners.extend(secure.into_iter().map(Listener::secure));
    }
    let acceptor = Acceptor::new(listeners)?.with_connections_max(connections_max);
    handling.listen(acceptor.clone());
    let mut port = bind_control(control, control_addresses.as_ref(), controlling)?;
    let cannot = |error: std::io::Error| Failure(format!("cannot serve on {listen}: {error}"));
    let server = Server::start(shard, acceptor, tls).map_err(cannot)?;
    if let Some(port) = &mut port
        && store.kind == StoreKind::Log
    {
        add_control_socket(port, &store.log.data_dir, control);
    }
    drop(starting);
    let (reloads, requests) = Reloads::new();
    // Before the server reports that it serves, so that a signal from then on drains it.
    handling.serve(server.drain_handle(), server.board(), reloads.clone(), (&shard.core).into());
    tracing::info!(
        listen = %server.addresses(),
        control = port.as_ref().map(|port| tracing::field::display(port.addresses())),
        tls_listen = shard.tls_listen.is_some().then(|| tracing::field::display(server.secure_addresses())),
        cores = ?shard.shard_cores(),
        store = StoreKind::name(store.kind),
        data_dir = (store.kind == StoreKind::Log).then(|| store.log.data_dir.display().to_string()),
        brokers = (store.kind == StoreKind::Kafka).then_some(&store.kafka.brokers),
        memory_bytes = (store.kind == StoreKind::Memory).then_some(store.memory.bytes),
        partitions = shard.core.partitions,
        memory_at_worst_bytes = memory::worst_case(config),
        task_run = ?uring::task_run(),
        test_echo = shard.core.policy.test_echo,
        "millstream serves"
    );
    if shard.core.operation.test_faults {
        tracing::warn!("test_faults is on: any client can crash this server");
    }
    let info = Info::new(InfoPage::new(shard, config.open_settings()));
    let subject = || Subject {
        probe: server.probe(),
        board: server.board(),
        info: info.clone(),
        reloads: reloads.clone(),
        tokens: tokens.clone(),
        judge: server.judge(),
        desk: server.desk(),
        backups: server.backups(),
    };
    // The port answers until the process ends. Then nothing uses the files of its sockets.
    let _files = port.map(|port| port.serve(subject(), control)).transpose()?;
    let (shards, handling) = (server.reload(), handling.clone());
    let (certificates, judge) = (server.probe().certificates().cloned(), server.judge());
    let running = loaded;
    Reloader { args, running, has_control, shards, certificates, judge, tokens, handling, info, reloads }
        .start(requests)?;
    manager::tell(&[Word::Ready, Word::Status("serving")]);
    service::watch(server.progress())?;
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(TELL_FLOODS_EVERY);
            teller.tell();
        }
    });
    let (reports, latency) = server.join()?;
    for report in reports {
        let sessions = report.counters.sessions;
        let (failed_by_peer, failed_by_us) = sessions.failed.by_fault();
        tracing::info!(
            shard = report.shard,
            connections = report.counters.connections,
            messages_stored = report.store.stored,
            messages_dropped = report.store.dropped,
            messages_expired = report.store.expired,
            messages_refused = report.store.refused,
            messages_hopped = report.counters.messages_hopped,
            messages_delivered = sessions.delivered,
            failed_by_peer,
            failed_by_us,
            evicted = report.counters.evicted,
            panics = report.counters.panics,
            "shard ended"
        );
    }
    for stage in [Stage::Produce, Stage::DeliverLive, Stage::DeliverBacklog] {
        let histogram = latency.of(stage);
        if !histogram.is_empty() {
            tracing::info!(stage = stage.name(), messages = histogram.len(), "{}", Summary::of(histogram));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the addresses of a setting when a socket was passed for it: the socket replaces those of TCP.
fn beside(addresses: &Addresses, passed: Address) -> Addresses {
    let unix = addresses.iter().filter(|one| one.tcp().is_none()).cloned();
    std::iter::once(passed).chain(unix).collect()
}

/// Returns the sockets of a setting: the passed one, and those that it does not replace.
fn listeners(
    key: &str,
    addresses: &Addresses,
    is_set: bool,
    passed: Option<Listener>,
    shard: &shard::Settings,
) -> io::Result<Vec<Listener>> {
    let bind =
        |addresses: &Addresses| Listener::bind_all(addresses, shard.listen_backlog, shard.listen_unix_mode);
    let Some(passed) = passed else { return bind(addresses) };
    let address = passed.address()?;
    for other in addresses.iter().filter(|one| is_set && one.tcp().is_some() && **one != address) {
        tracing::warn!(
            "{key} = {other}, but the service manager passed a socket at {address}: the server does not listen on {other}"
        );
    }
    let unix: Addresses = addresses.iter().filter(|one| one.tcp().is_none()).cloned().collect();
    Ok(std::iter::once(passed).chain(bind(&unix)?).collect())
}

/// Reads the certificates, if clients may speak TLS.
fn load_tls(config: &ServerConfig, is_passed: bool) -> Result<Option<files::Loaded>, Failure> {
    if is_passed && config.shard.tls_listen.is_none() {
        return Err(Failure("a socket named tls_listen was passed: set tls_listen, too".into()));
    }
    if !config.speaks_tls() {
        return Ok(None);
    }
    let loaded = files::load(&config.shard.tls)?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(Some(loaded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_configuration_still_selects_the_error_format() {
        assert!(file_asks_for_json("partitions = \nlog_format = \"json\" # for the collector\n"));
        assert!(file_asks_for_json("\"log_format\"='json'"));
        assert!(!file_asks_for_json("# log_format = \"json\"\nlog_format = \"text\""));
        let given = |words: &[&str]| asks_for_json(words.iter().map(|word| OsString::from(*word)));
        assert!(given(&["millstream", "serve", "--bogus", "--log-format", "json"]));
        assert!(given(&["millstream", "serve", "--log-format=json", "--bogus"]));
        assert!(!given(&["millstream", "produce", "--log-format=json"]));
    }
}
