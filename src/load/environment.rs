//! Where a load ran: what else a reader of its numbers must know.

use serde::{Deserialize, Serialize};

/// See the module's page.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Environment {
    /// The processor, as it calls itself.
    pub cpu: String,
    /// Logical processors of the machine.
    pub cpus: usize,
    /// Those that the clients ran on.
    pub client_cores: Vec<usize>,
    /// It is a virtual machine.
    pub is_virtual: bool,
    /// The governor of the first of them; absent where the system shows none.
    pub governor: Option<String>,
    /// Processors that the kernel keeps others away from (`isolcpus`).
    pub isolated: String,
    /// The kernel.
    pub kernel: String,
    /// Memory of the machine, bytes.
    pub memory_bytes: u64,
    /// The load generator's version.
    pub version: String,
    /// The git revision that it was built from.
    pub revision: String,
    /// It was built for speed.
    pub is_release: bool,
}

fn read(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The value behind the first line of a `/proc` file that begins with `key`.
fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

impl Environment {
    /// This machine, for clients on these cores.
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
