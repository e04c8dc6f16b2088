//! Lists of cores, in the format of `taskset --cpu-list`.

use crate::base::setting::{Kind, Unworkable, Value};

/// The highest core that a list may name.
const CORE_MAX: usize = 4095;

/// The cores that a server runs on. Empty: all that the process may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

impl Cores {
    /// Returns the listed cores, or the allowed ones if the list is empty.
    pub fn or_allowed(&self) -> Vec<usize> {
        if self.0.is_empty() { allowed_cores() } else { self.0.clone() }
    }
}

impl Value for Cores {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        if text == "all" { Ok(Self::default()) } else { parse_cores(text).map(Self).map_err(|why| why.0) }
    }

    fn show(&self, _: &Kind) -> String {
        if self.0.is_empty() {
            return "all".into();
        }
        self.0.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Parses a list of cores, such as `0-3` or `0,2,4-5`.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, Unworkable> {
    let unworkable = || Unworkable(format!("{text:?} is not a list of cores like 0-3 or 0,2"));
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| unworkable())?;
        let last: usize = last.trim().parse().map_err(|_| unworkable())?;
        if first > last || last > CORE_MAX {
            return Err(unworkable());
        }
        cores.extend(first..=last);
    }
    let mut sorted = cores.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() == cores.len() {
        Ok(cores)
    } else {
        Err(Unworkable(format!("{text:?} names a core twice")))
    }
}

/// Returns the cores that this process may run on.
pub fn allowed_cores() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(|list| parse_cores(list.trim()).ok()).unwrap_or_else(|| vec![0])
}

/// Refuses cores that this process may not run on.
pub fn check_cores(cores: &[usize]) -> Result<(), Unworkable> {
    let allowed = allowed_cores();
    match cores.iter().find(|core| !allowed.contains(core)) {
        Some(core) => {
            Err(Unworkable(format!("cores: this process may not run on core {core}; allowed: {allowed:?}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_are_parsed_like_taskset_lists() {
        assert_eq!(parse_cores("0-2,5"), Ok(vec![0, 1, 2, 5]));
        for bad in ["", "a", "2-1", "0,0", "0-99999", "-1", "1,"] {
            assert!(parse_cores(bad).is_err(), "{bad}");
        }
    }
}
