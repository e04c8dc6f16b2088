//! The clients of open connections that have not authenticated yet. Their number is bounded, because anyone can become one.

use std::collections::HashMap;
use std::net::IpAddr;

use super::ConnectionId;
use crate::auth::counted;

/// The most strangers of one address, so that one address does not use up the places of all.
const OF_ADDRESS_MAX: usize = 64;

/// The strangers of a shard. The address of a client on a Unix socket is `None`.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    of_connection: HashMap<ConnectionId, Option<IpAddr>>,
    of_address: HashMap<IpAddr, usize>,
}

impl Strangers {
    /// Counts the client of a connection. Refuses it if there are `max` already, or too many of its address.
    pub(super) fn enter(
        &mut self,
        id: ConnectionId,
        address: Option<IpAddr>,
        max: usize,
    ) -> Result<(), String> {
        if self.of_connection.len() >= max {
            let why =
                format!("credentials: {max} connections (unauthenticated_max) have not authenticated yet");
            return Err(why);
        }
        let address = address.map(counted);
        if let Some(address) = address {
            let count = self.of_address.entry(address).or_default();
            if *count >= OF_ADDRESS_MAX {
                let why = format!(
                    "credentials: {OF_ADDRESS_MAX} connections of this address have not authenticated yet"
                );
                return Err(why);
            }
            *count += 1;
        }
        self.of_connection.insert(id, address);
        Ok(())
    }

    /// Counts the client of a connection no longer, if it is counted.
    pub(super) fn leave(&mut self, id: ConnectionId) {
        let Some(Some(address)) = self.of_connection.remove(&id) else { return };
        if let Some(count) = self.of_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_bounded_and_leave_their_place() {
        let mut strangers = Strangers::default();
        let id = |number: u64| ConnectionId::from_u64(number);
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        for number in 0..OF_ADDRESS_MAX as u64 {
            assert!(strangers.enter(id(number), Some(one), 100).is_ok());
        }
        let refused = strangers.enter(id(64), Some(one), 100).unwrap_err();
        assert!(refused.contains("of this address"), "{refused}");
        for number in 64..100 {
            assert!(strangers.enter(id(number), None, 100).is_ok());
        }
        let refused = strangers.enter(id(100), None, 100).unwrap_err();
        assert!(refused.contains("unauthenticated_max"), "{refused}");
        strangers.leave(id(0));
        strangers.leave(id(0));
        assert_eq!(strangers.of_connection.len(), 99);
        assert!(strangers.enter(id(100), Some(one), 100).is_ok());
        (0..101).for_each(|number| strangers.leave(id(number)));
        assert!(strangers.of_connection.is_empty() && strangers.of_address.is_empty());
    }
}
