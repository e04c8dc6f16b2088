//! `millstream queue sign`: makes the headers of pre-signed requests to the Zaqar API.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::access::{Permission, SigningKey};
use crate::base::clock::read_iso8601;
use crate::base::millis::UnixMillis;
use crate::base::names::{Project, QueueName};
use crate::cli::Failure;
use crate::cli::output::{Output, write_json};
use crate::tls::files;

/// The methods that actions of the API map to.
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];

/// What can be signed below a queue.
const PATHS: [&str; 3] = ["messages", "claims", "subscriptions"];

pub(super) const HELP: &str = "\
Prints the four headers that a client puts into its requests to the Zaqar API,
at the path /v2, instead of authenticating: URL-Signature, URL-Expires,
URL-Methods and URL-Paths. Whoever has them may do this until they expire, as
often as they like. To take them back, change the key: that takes all back.

GET permits message_list, message_get and message_get_many, POST message_post,
DELETE message_delete and message_delete_many. Of the paths, the server looks
at messages. No server is asked: the signature needs only the key.

Examples:
  millstream queue sign jobs --key-file signing.key
  millstream queue sign jobs --project shop --methods GET,POST --expires 2h \\
    --key-file signing.key
  millstream queue sign jobs --expires 2030-01-01T00:00:00 --key-file signing.key

Exit codes:
  0    done
  2    bad usage, or the key cannot be read
  141  standard output was closed";

#[derive(Debug, clap::Args)]
pub(super) struct SignArgs {
    /// Name of the queue
    queue: String,
    /// Project that owns the queue
    #[arg(long, default_value = "default")]
    project: String,
    /// Comma-separated methods to permit: GET, POST, DELETE
    #[arg(long, value_delimiter = ',', default_value = "GET")]
    methods: Vec<String>,
    /// Comma-separated paths below the queue to permit: messages, claims, subscriptions
    #[arg(long, value_delimiter = ',', default_value = "messages")]
    paths: Vec<String>,
    /// How long the signature is good, such as 2h, or until when, such as 2030-01-01T00:00:00 (UTC)
    #[arg(long, default_value = "1d")]
    expires: String,
    /// The file of the server's setting zaqar_signing_key_file
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
}

/// Runs `millstream queue sign`.
pub(super) fn run(args: &SignArgs) -> Result<ExitCode, Failure> {
    let SignArgs { queue, project, methods, paths, expires, key_file } = args;
    let named = |fault: crate::base::error::PeerFault| Failure(fault.to_string());
    let queue = QueueName::parse(queue).map_err(named)?;
    let project = Project::parse(project).map_err(named)?;
    check("--methods", methods, &METHODS)?;
    check("--paths", paths, &PATHS)?;
    let paths: Vec<String> =
        paths.iter().map(|path| format!("/v2/queues/{}/{path}", queue.as_str())).collect();
    let permission = Permission {
        paths: paths.iter().map(String::as_str).collect(),
        methods: methods.iter().map(String::as_str).collect(),
        project: project.as_str(),
        expires: end(expires)?,
    };
    let content = files::read("--key-file", key_file).map_err(|why| Failure(why.0))?;
    let key = SigningKey::new(content.bytes.trim_ascii());
    let key = key.map_err(|why| Failure(format!("--key-file {}: {why}", key_file.display())))?;
    let (Some(signature), Some(ends)) = (key.sign(&permission), permission.ends()) else {
        return Err(Failure(format!("--expires {expires}: the date cannot be written")));
    };
    let headers = json!({
        "URL-Signature": signature,
        "URL-Expires": ends,
        "URL-Methods": permission.methods,
        "URL-Paths": permission.paths,
    });
    let mut out = Output::new();
    write_json(&mut out, &headers)?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses names that are not known.
fn check(flag: &str, names: &[String], known: &[&str]) -> Result<(), Failure> {
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Failure(format!("{flag}: {name:?} is not one of {}", known.join(", ")))),
        None => Ok(()),
    }
}

/// Returns when a signature ends: after a time from now, or at a date.
fn end(text: &str) -> Result<UnixMillis, Failure> {
    let millis = |length: Duration| UnixMillis::new(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ends = match humantime::parse_duration(text) {
        Ok(length) => Some(millis(now.saturating_add(length))),
        Err(_) => read_iso8601(text),
    };
    let ends = ends.ok_or_else(|| {
        Failure(format!("--expires {text:?}: write a time like 2h, or a date like 2030-01-01T00:00:00"))
    })?;
    if ends <= millis(now) {
        return Err(Failure(format!("--expires {text}: it is over already")));
    }
    Ok(ends)
}
