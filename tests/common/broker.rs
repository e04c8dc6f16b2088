//! Real Kafka brokers, started by `perf/kafka`. They end with the process that started them.
#![allow(dead_code)]

#[path = "ports.rs"]
#[allow(clippy::duplicate_mod)]
mod ports;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

pub struct Brokers {
    script: Child,
    directory: PathBuf,
    /// Comma-separated `host:port` addresses.
    pub addresses: String,
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("perf/kafka"))
}

/// Returns whether Kafka can run here. If it cannot, prints a prominent notice, or fails if
/// `TESTS_REQUIRE_KAFKA` is set.
pub fn is_possible() -> bool {
    let there =
        |tool: &str| Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let missing: Vec<&str> = ["java", "mvn", "python3"]
        .into_iter()
        .filter(|tool| !there(tool).is_ok_and(|status| status.success()))
        .collect();
    if missing.is_empty() {
        return true;
    }
    let must = std::env::var_os("TESTS_REQUIRE_KAFKA").is_some();
    assert!(!must, "the Kafka tests need {missing:?}");
    eprintln!("\n*** SKIPPED: the Kafka tests need {missing:?}. Nothing was tested here. ***\n");
    false
}

impl Brokers {
    /// Starts `count` brokers. Their data is deleted with them.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    /// Starts a broker that cannot write files larger than `file_bytes`, as if its disk were full.
    pub fn start_small(file_bytes: usize) -> Self {
        Self::start_with(1, &["--file-bytes", &file_bytes.to_string()])
    }

    /// Starts a broker that requires TLS and SASL (see perf/kafka).
    pub fn start_secure() -> Self {
        Self::start_with(1, &["--secure"])
    }

    /// Returns the broker's certificate, for clients to trust.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("1/certificate.pem")
    }

    fn start_with(count: usize, more: &[&str]) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("target/kafka/test-{}-{number}", std::process::id());
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let mut script = script()
            .args([
                "up",
                &count.to_string(),
                "--attached",
                "--port",
                &ports::free(2 * count as u16 + 1).to_string(),
                "--dir",
            ])
            .arg(&directory)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs perf/kafka");
        let mut addresses = String::new();
        BufReader::new(script.stdout.take().expect("standard output is piped"))
            .read_line(&mut addresses)
            .expect("the output is text");
        let addresses = addresses.trim().to_owned();
        assert!(!addresses.is_empty(), "perf/kafka failed, see its output");
        Self { script, directory, addresses }
    }

    /// Sends a signal to a broker. Brokers are numbered from 1.
    pub fn signal(&self, broker: usize, name: &str) {
        let pid = std::fs::read_to_string(self.directory.join(broker.to_string()).join("pid"))
            .expect("the broker's pid file is readable");
        let status = Command::new("kill").args([&format!("-{name}"), pid.trim()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Shuts a broker down normally and waits for its end.
    pub fn end(&self, broker: usize) {
        self.run("end", broker, &[]);
    }

    /// Waits for a broker that ends by itself.
    pub fn await_end(&self, broker: usize) {
        self.run("end", broker, &["--by-itself"]);
    }

    fn run(&self, command: &str, broker: usize, more: &[&str]) {
        let status =
            script().args([command, &broker.to_string(), "--dir"]).arg(&self.directory).args(more).status();
        assert!(status.expect("python3 runs perf/kafka").success());
    }

    /// Restarts a broker that has ended.
    pub fn restart(&self, broker: usize) {
        self.run("restart", broker, &[]);
    }

    /// Deletes a partition's data of a broker that has ended, as if an empty backup were restored. The topic
    /// keeps its id.
    pub fn lose(&self, broker: usize, topic: &str, partition: u16) {
        let log = self.directory.join(broker.to_string()).join("data").join(format!("{topic}-{partition}"));
        std::fs::remove_dir_all(&log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
    }

    /// Runs one of Kafka's own tools, such as `org.apache.kafka.tools.TopicCommand`. Returns its output.
    pub fn tool(&self, arguments: &[&str], input: &str) -> String {
        self.try_tool(arguments, input).unwrap_or_else(|said| panic!("{arguments:?}: {said}"))
    }

    /// As [`Self::tool`]. Returns the output of a tool that failed as an error.
    pub fn try_tool(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        use std::io::Write;
        let mut tool = script()
            .arg("tool")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs perf/kafka");
        tool.stdin
            .take()
            .expect("standard input is piped")
            .write_all(input.as_bytes())
            .expect("the tool reads its input");
        let output = tool.wait_with_output().expect("the tool ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(text) }
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        // The script ends the brokers before it ends.
        let _ = self.script.wait();
    }
}
