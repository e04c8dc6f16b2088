//! The thread that reloads the settings: reads the file, the variables and the flags again, as at the start.
//!
//! A reload has two steps. Everything that can fail comes first and changes nothing: reading, checking, and
//! asking whether every shard runs. Then the changes are applied, which cannot fail. The
//! certificates of TLS are read again in the same two steps. If no setting of TLS has changed, certificates that
//! do not work are only a warning: the server keeps those that it has.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::signals::Handling;
use super::{Args, environment};
use crate::auth::{self, Judge};
use crate::base::setting::Unworkable;
use crate::config::load::{Loaded, load, named_file};
use crate::config::reload::{Change, Plan};
use crate::config::signing;
use crate::control::{
    AppliedChange, Info, NotReloaded, ReadTokens, ReloadPage, ReloadRequest, Reloaded, Reloads, Tokens,
};
use crate::process::manager::{self, Word};
use crate::process::{AbortOnPanic, logging};
use crate::shard::certificates::{Certificates, Read};
use crate::shard::{ANSWER_TIMEOUT, Reload, preflight};

/// The key of the setting that names the tokens of the control port.
const TOKENS: &str = "control_tokens";

/// The pause before giving a shard again the settings that its inbox had no room for.
const SETTLE_EVERY: Duration = Duration::from_millis(100);

/// The settings of a running server, and everything that a reload changes.
#[derive(Debug)]
pub(super) struct Reloader {
    /// Where the settings come from.
    pub(super) args: Args,
    /// The settings that the server runs with.
    pub(super) running: Loaded,
    /// Whether there is a control port.
    pub(super) has_control: bool,
    pub(super) shards: Reload,
    /// The certificates, if the server speaks TLS.
    pub(super) certificates: Option<Certificates>,
    /// Decides who clients are, if they must authenticate.
    pub(super) judge: Option<Judge>,
    /// The tokens of the control port.
    pub(super) tokens: Tokens,
    pub(super) handling: Handling,
    pub(super) info: Info,
    pub(super) reloads: Reloads,
}

/// A reload that cannot fail any more.
#[derive(Debug)]
struct Prepared {
    loaded: Loaded,
    plan: Plan,
    certificates: Option<Read>,
    auth: Option<auth::Read>,
    tokens: Option<ReadTokens>,
    /// Whether the key of pre-signed requests is another one.
    is_signed_anew: bool,
    /// Why certificates, files of providers or tokens stay as they are.
    kept: Vec<String>,
}

impl Reloader {
    /// Starts the thread, which serves requests until the process ends.
    pub(super) fn start(mut self, requests: Receiver<ReloadRequest>) -> io::Result<()> {
        let run = move || {
            let _guard = AbortOnPanic;
            let mut is_owing = false;
            loop {
                let request = if is_owing {
                    requests.recv_timeout(SETTLE_EVERY)
                } else {
                    requests.recv().map_err(RecvTimeoutError::from)
                };
                match request {
                    Ok(request) => request.answer(self.reload()),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                is_owing = self.shards.settle();
            }
        };
        std::thread::Builder::new().name("reload".into()).spawn(run).map(drop)
    }

    fn reload(&mut self) -> Reloaded {
        let reloaded = if self.shards.is_leaving() {
            Err(NotReloaded::Unavailable("the server is draining".into()))
        } else {
            manager::tell(&[Word::Reloading, Word::Status("reloading the settings")]);
            self.prepare().map(|prepared| self.apply(prepared))
        };
        let status = match &reloaded {
            Ok(_) => "serving".into(),
            Err(NotReloaded::Refused(why) | NotReloaded::Unavailable(why)) => {
                tracing::error!(why = why.trim_end(), "reload failed: nothing is changed");
                // `systemctl reload` only sends a signal. `systemctl status` shows this.
                format!("serving; the last reload failed: {}", why.trim_end())
            }
        };
        if !self.shards.is_leaving() {
            manager::tell(&[Word::Ready, Word::Status(&status)]);
        }
        self.reloads.count(&reloaded);
        reloaded
    }

    /// Does everything that can fail.
    fn prepare(&self) -> Result<Prepared, NotReloaded> {
        let refused = |Unworkable(why): Unworkable| NotReloaded::Refused(why);
        let environment = environment();
        let file = self.args.config.clone().or_else(|| named_file(&environment));
        if let Some(file) = &file {
            check_file(file)?;
        }
        let loaded =
            load(self.args.config.as_deref(), environment, self.args.settings.clone()).map_err(refused)?;
        if let Some(file) = &file {
            check_not_emptied(file, &self.running, &loaded)?;
        }
        let mut plan = Plan::new(&self.running.config, &loaded.config).map_err(refused)?;
        let silent = |shard| {
            NotReloaded::Unavailable(format!("shard {shard} did not answer within {ANSWER_TIMEOUT:?}"))
        };
        if !plan.applied.is_empty() {
            self.shards.check().map_err(silent)?;
        }
        let read = self.certificates.as_ref().map(|of| of.read(&plan.config.shard.tls));
        let mut kept = Vec::new();
        let changes = |prefix: &str| plan.applied.iter().any(|change| change.key.starts_with(prefix));
        let certificates = match read.transpose() {
            Ok(read) => read,
            Err(why) if changes("tls_") => return Err(refused(why)),
            Err(Unworkable(why)) => {
                kept.push(format!("{why}; the server keeps the certificates that it has"));
                None
            }
        };
        let read = self.judge.as_ref().map(|judge| judge.read(&plan.config.shard.auth));
        let auth = match read.transpose() {
            Ok(read) => read,
            Err(why) if changes("auth_") => return Err(refused(why)),
            Err(Unworkable(why)) => {
                kept.push(format!("{why}; the server keeps the tokens, keys and rules that it has"));
                None
            }
        };
        let tokens = match self.tokens.read(plan.config.control.tokens.as_deref()) {
            Ok(read) => Some(read),
            Err(why) if changes(TOKENS) => return Err(refused(why)),
            Err(Unworkable(why)) => {
                tracing::error!(
                    why,
                    "the tokens of the control port cannot be read again: the old ones stay"
                );
                kept.push(format!("{why}; the control port keeps the tokens that it has"));
                None
            }
        };
        let running = &self.running.config.shard.core.operation.signing_key;
        match signing::read(&mut plan.config.shard) {
            Ok(warning) => kept.extend(warning),
            Err(why) if plan.applied.iter().any(|change| change.key == signing::KEY_FILE) => {
                return Err(refused(why));
            }
            Err(Unworkable(why)) => {
                tracing::error!(why, "the key of signed requests cannot be read again: the old one stays");
                plan.config.shard.core.operation.signing_key = running.clone();
                kept.push(format!("{why}; the server keeps the key that it has"));
            }
        }
        let is_signed_anew = plan.config.shard.core.operation.signing_key != *running;
        if is_signed_anew {
            self.shards.check().map_err(silent)?;
        }
        Ok(Prepared { loaded, plan, certificates, auth, tokens, is_signed_anew, kept })
    }

    /// Puts a reload into effect.
    fn apply(&mut self, prepared: Prepared) -> ReloadPage {
        let Prepared { loaded, plan, certificates, auth, tokens, is_signed_anew, kept } = prepared;
        let Plan { config, applied, needs_restart } = plan;
        let certificates_reloaded = certificates.is_some();
        let mut unconfirmed: BTreeSet<usize> = match (&self.certificates, certificates) {
            (Some(of), Some(read)) => of.apply(read).into_iter().collect(),
            _ => BTreeSet::new(),
        };
        if !applied.is_empty() || is_signed_anew {
            unconfirmed.extend(self.shards.apply(&config.shard));
        }
        if let (Some(judge), Some(read)) = (&self.judge, auth) {
            judge.apply(read);
        }
        if let Some(read) = tokens {
            self.tokens.apply(read);
        }
        logging::set_filter(&config.logging.filter);
        self.handling.set_times((&config.shard.core).into());
        self.info.set_settings(config.open_settings());
        for change in &applied {
            tracing::info!(key = change.key, from = change.from, to = change.to, "setting changed");
        }
        if !needs_restart.is_empty() {
            tracing::warn!(keys = needs_restart.join(", "), "these changed settings need a restart");
        }
        for shard in &unconfirmed {
            tracing::warn!(
                shard,
                "the shard has not confirmed the changed settings or certificates: it gets them when it runs again"
            );
        }
        let before = self.running.config.warnings();
        let mut warnings = config.warnings();
        warnings.retain(|warning| !before.contains(warning));
        if applied.iter().any(|change| change.key == "max_connections")
            && let Ok((_, warning)) = preflight::connections(&config.shard, self.has_control)
        {
            warnings.extend(warning);
        }
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        // Logged when they were read.
        warnings.extend(kept);
        tracing::info!(applied = applied.len(), need_restart = needs_restart.len(), "settings reloaded");
        self.running = Loaded { config, origins: loaded.origins };
        let change = |Change { key, from, to }: Change| AppliedChange { key: key.into(), from, to };
        ReloadPage {
            applied: applied.into_iter().map(change).collect(),
            needs_restart: needs_restart.into_iter().map(str::to_owned).collect(),
            certificates_reloaded,
            unconfirmed_shards: unconfirmed.into_iter().collect(),
            warnings,
        }
    }
}

/// Refuses a file that could keep the thread waiting for ever, such as a pipe.
fn check_file(file: &Path) -> Result<(), NotReloaded> {
    let refused = |why: String| NotReloaded::Refused(format!("{}: {why}", file.display()));
    let metadata = std::fs::metadata(file).map_err(|error| refused(error.to_string()))?;
    if metadata.is_file() {
        Ok(())
    } else {
        Err(refused("not a regular file, so it cannot be read again".into()))
    }
}

/// Refuses a file that sets nothing any more: an editor may be about to write it.
fn check_not_emptied(file: &Path, running: &Loaded, loaded: &Loaded) -> Result<(), NotReloaded> {
    let name = file.display().to_string();
    let sets = |loaded: &Loaded| loaded.origins.values().any(|origin| *origin == name);
    if sets(running) && !sets(loaded) {
        let why = format!("{name}: sets nothing, but did so before: it may be half written");
        return Err(NotReloaded::Refused(why));
    }
    Ok(())
}
