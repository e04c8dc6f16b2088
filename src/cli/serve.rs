//! `millstream serve`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use crate::config::load::{Loaded, load};
use crate::config::setting::{Kind, default_file};
use crate::config::table::SETTINGS;
use crate::config::{Durability, ServerConfig, StoreKind, memory};
use crate::control::{ControlPort, InfoPage};
use crate::latency::{Stage, Summary};
use crate::names::Project;
use crate::shard::acceptor::Listener;
use crate::shard::server::Server;
use crate::shard::{preflight, uring};
use crate::store::kafka;
use crate::{heap, logging};

/// How often lines that were kept back are told.
const TELL_FLOODS_EVERY: Duration = Duration::from_secs(1);

/// The flags: one for each setting, and those that say where settings come from.
#[derive(Clone)]
pub(super) struct Args {
    config: Option<PathBuf>,
    check_config: bool,
    print_default_config: bool,
    /// By key.
    settings: HashMap<String, String>,
}

/// Without the values, of which some are secrets.
impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Args")
            .field("config", &self.config)
            .field("settings", &self.settings.keys())
            .finish_non_exhaustive()
    }
}

const AFTER_HELP: &str = "\
Settings come from defaults, the file of --config, the environment (MILLSTREAM_ and the key in capitals: MILLSTREAM_PARTITIONS=4) \
and flags; each goes before those ahead of it. --print-default-config prints a file to begin with.

SIGTERM and SIGINT drain: producers get their answers, consumers what is stored as far as their credit goes; a second signal exits \
at once.
Exit codes: 0 drained; 1 told twice to end, or broken; 2 usage, or it cannot serve.";

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let mut command = command
            .after_help(AFTER_HELP)
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("Read settings from this file, in TOML [default: the one of MILLSTREAM_CONFIG, if set]"),
            )
            .arg(
                Arg::new("check_config")
                    .long("check-config")
                    .action(ArgAction::SetTrue)
                    .help("Print the effective settings, where each came from, and the memory that they can take; then end"),
            )
            .arg(
                Arg::new("print_default_config")
                    .long("print-default-config")
                    .action(ArgAction::SetTrue)
                    .help("Print a file of all settings with their defaults, commented; then end"),
            );
        let defaults = defaults();
        for setting in SETTINGS {
            let default = defaults.as_ref().map(|defaults| setting.get(defaults)).unwrap_or_default();
            let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
            let mut arg = Arg::new(setting.key)
                .long(setting.flag())
                .overrides_with(setting.key)
                .help_heading(setting.section)
                .help(format!("{}{default}", setting.help));
            arg = match setting.kind {
                Kind::Flag => arg.num_args(0..=1).default_missing_value("true").value_name("true|false"),
                Kind::Bytes => arg.value_name("BYTES"),
                Kind::Count => arg.value_name("N"),
                Kind::Duration => arg.value_name("TIME"),
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
            settings: SETTINGS.iter().filter_map(|setting| given(setting.key)).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn defaults() -> Option<ServerConfig> {
    Project::parse("default").ok().map(ServerConfig::new)
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    if args.print_default_config {
        print!("{}", defaults().as_ref().map(default_file).unwrap_or_default());
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = load(args.config.as_deref(), environment(), args.settings)?;
    if args.check_config {
        if loaded.config.store == StoreKind::Kafka {
            kafka::check(&loaded.config.kafka, &loaded.config.settings)?;
            for warning in kafka::warnings(&loaded.config.kafka) {
                eprintln!("millstream: {warning}");
            }
        }
        print!("{}\n{}", loaded.describe(), memory::describe(&loaded.config));
        return Ok(ExitCode::SUCCESS);
    }
    serve(&loaded)
}

/// The environment; what is no text is none of ours.
fn environment() -> HashMap<String, String> {
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).collect()
}

fn serve(Loaded { config, .. }: &Loaded) -> Result<ExitCode, Failure> {
    let floods = logging::start(config);
    preflight::check(config)?;
    if config.store == StoreKind::Kafka {
        kafka::check(&config.kafka, &config.settings)?;
    }
    if config.store == StoreKind::Log && config.embedded.durability == Durability::Os {
        tracing::warn!(
            "durability = os: what was acknowledged last is lost where the machine ends, not where the server does"
        );
    }
    if !heap::keep() {
        tracing::warn!("the C library's allocator takes no settings: large batches will cost more");
    }
    // Signals are taken by this thread alone, so it must ask for them before any other thread exists.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let cannot = |error: std::io::Error| Failure(format!("cannot serve on {}: {error}", config.listen));
    let listener = Listener::bind(config.listen, config.listen_backlog).map_err(cannot)?;
    let control = config.control_listen.address(config.listen).map(|address| {
        ControlPort::bind(address).map_err(|error| {
            let cannot = format!("cannot serve health and metrics on {address}: {error}");
            Failure(format!("{cannot}; control_listen says where, off does without"))
        })
    });
    let control = control.transpose()?;
    let server = Server::start(config, listener).map_err(cannot)?;
    tracing::info!(
        listen = %server.address(),
        control = control.as_ref().map(|control| tracing::field::display(control.address())),
        cores = ?config.shard_cores(),
        store = StoreKind::name(config.store),
        data_dir = (config.store == StoreKind::Log).then(|| config.embedded.data_dir.display().to_string()),
        brokers = (config.store == StoreKind::Kafka).then_some(&config.kafka.brokers),
        memory_bytes = (config.store == StoreKind::Memory).then_some(config.memory_bytes),
        partitions = config.settings.partitions,
        memory_at_worst_bytes = memory::worst_case(config),
        task_run = ?uring::task_run(),
        test_echo = config.settings.policy.test_echo,
        "millstream serves"
    );
    if config.settings.test_faults {
        tracing::warn!("test_faults is on: any client can end this process");
    }
    if let Some(control) = control {
        control.serve(server.probe(), server.board(), InfoPage::new(config))?;
    }
    let handle = server.drain_handle();
    std::thread::spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            if asked {
                tracing::warn!(signal, "a second signal: exiting at once");
                std::process::exit(1);
            }
            asked = true;
            tracing::info!(signal, "draining; a second signal exits at once");
            handle.drain();
        }
    });
    let teller = floods.clone();
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
            "shard ends"
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
