//! Shares of a project's storage: bytes of messages that are stored or about to be stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Tenant;

/// The bytes that one holder counts against its project's `project_storage_bytes`. A partition counts what it
/// stores, an operation what it has sent to the store. Dropping a share releases its bytes.
#[derive(Debug)]
pub struct StorageShare {
    tenant: Arc<Tenant>,
    bytes: u64,
}

impl Tenant {
    /// Creates an empty share of the project's storage. Returns `None` if storage is not counted.
    pub fn share(self: &Arc<Self>) -> Option<StorageShare> {
        self.counts_storage.then(|| StorageShare { tenant: self.clone(), bytes: 0 })
    }

    /// Returns the bytes of all shares.
    pub fn storage(&self) -> u64 {
        self.storage.load(Ordering::Relaxed)
    }
}

impl StorageShare {
    /// Adds bytes if the project's limit allows them. Returns the limit otherwise.
    pub fn try_add(&mut self, bytes: u64) -> Result<(), u64> {
        let limit = self.tenant.limits.storage_bytes();
        let added = self.tenant.storage.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= limit)
        });
        match added {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(limit),
        }
    }

    /// Adds bytes, even beyond the limit.
    pub fn add(&mut self, bytes: u64) {
        self.set(self.bytes.saturating_add(bytes));
    }

    /// Subtracts released bytes. Stops at 0.
    pub fn subtract(&mut self, bytes: u64) {
        self.set(self.bytes.saturating_sub(bytes));
    }

    /// Sets the number of bytes, even beyond the limit.
    pub fn set(&mut self, bytes: u64) {
        // All shards share the counter, so do not touch it if nothing changes.
        let storage = &self.tenant.storage;
        if bytes > self.bytes {
            storage.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            storage.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for StorageShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tenants;
    use crate::access::ProjectLimits;
    use crate::base::millis::Millis;
    use crate::base::names::Project;

    #[test]
    fn shares_of_a_project_are_limited_together_and_released() {
        let limits = ProjectLimits { storage_bytes: 100, ..ProjectLimits::default() };
        let tenants = Tenants::new(limits);
        let get = |name| tenants.get(&Project::parse(name).unwrap(), Millis::ZERO);
        let (tenant, other) = (get("a"), get("b"));
        let mut stored = tenant.share().unwrap();
        let mut sent = get("a").share().unwrap();
        stored.add(60);
        assert_eq!(sent.try_add(41), Err(100));
        assert_eq!(sent.try_add(40), Ok(()));
        assert_eq!(sent.try_add(1), Err(100));
        assert_eq!(other.share().unwrap().try_add(100), Ok(()), "another project has its own limit");
        assert_eq!(other.storage(), 0);
        stored.add(40);
        assert_eq!(tenant.storage(), 140, "stored bytes count even beyond the limit");
        sent.set(0);
        stored.subtract(30);
        assert_eq!(sent.try_add(30), Ok(()));
        drop(stored);
        assert_eq!(tenant.storage(), 30);
        drop(sent);
        assert_eq!(tenant.storage(), 0);
    }

    #[test]
    fn a_limit_that_a_reload_changes_applies_to_existing_shares() {
        let limits = |storage_bytes| ProjectLimits { storage_bytes, ..ProjectLimits::default() };
        let tenants = Tenants::new(limits(100));
        let tenant = tenants.get(&Project::parse("a").unwrap(), Millis::ZERO);
        let mut share = tenant.share().unwrap();
        assert_eq!(share.try_add(100), Ok(()));
        tenants.set_limits(&limits(50));
        assert_eq!(share.try_add(1), Err(50), "what is stored stays, and nothing is added");
        tenants.set_limits(&limits(0));
        assert_eq!(share.try_add(1 << 40), Ok(()));
        share.set(20);
        tenants.set_limits(&limits(30));
        assert_eq!((share.try_add(11), share.try_add(10)), (Err(30), Ok(())), "it was counted meanwhile");
    }

    #[test]
    fn no_share_exists_if_storage_is_not_counted() {
        let limits = ProjectLimits { connections: 1, ..ProjectLimits::default() };
        let tenant = Tenants::new(limits).get(&Project::parse("a").unwrap(), Millis::ZERO);
        assert!(tenant.share().is_none());
    }
}
