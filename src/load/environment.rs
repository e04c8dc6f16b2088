//! The machine and the build that a load ran on, which a reader of its numbers must know.

use serde::{Deserialize, Serialize};

/// The machine and the build of the load generator.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Environment {
    /// The processor's model name.
    pub cpu: String,
    /// The number of logical processors.
    pub cpus: usize,
    /// The processors that the clients ran on.
    pub client_cores: Vec<usize>,
    /// Whether the machine is virtual.
    pub is_virtual: bool,
    /// The frequency governor of the first processor, if the system reports one.
    pub governor: Option<String>,
    /// The processors that the kernel isolates from other work (`isolcpus`).
    pub isolated: String,
    /// The kernel's release.
    pub kernel: String,
    /// The machine's memory, in bytes.
    pub memory_bytes: u64,
    /// The version of the load generator.
    pub version: String,
    /// The git revision of the load generator.
    pub revision: String,
    /// Whether the load generator is a release build.
    pub is_release: bool,
}

fn read(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Returns the value after the colon in the first line that begins with `key`, from the text of a `/proc`
/// file.
fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

impl Environment {
    /// Describes this machine, for clients on these cores.
    pub fn here(client_cores: &[usize]) -> Self {
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let memory = read("/proc/meminfo").and_then(|text| field(&text, "MemTotal"));
        let memory = memory.and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok());
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            client_cores: client_cores.to_vec(),
            is_virtual: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            isolated: read("/sys/devices/system/cpu/isolated").unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            memory_bytes: memory.unwrap_or_default() << 10,
            version: env!("CARGO_PKG_VERSION").into(),
            revision: env!("GIT_REVISION").into(),
            is_release: !cfg!(debug_assertions),
        }
    }
}
