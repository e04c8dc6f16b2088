//! The grants of open connections: renewals, and new verdicts of the judge.

use std::collections::HashMap;
use std::sync::Arc;

use super::pass::{Ended, Pass};
use super::{Connection, ConnectionId, Connections, Core};
use crate::auth::{Credential, Denial, Key, Question, TOKEN_BYTES_MAX, Verdict};
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault};
use crate::base::secret::Secret;
use crate::operation::{Answer as Reply, OperationId};
use crate::store::Store;

impl<S: Store<Connections>> Core<S> {
    /// Renews the grant of a connection, for one of its operations.
    pub(super) fn renew(&mut self, now: Now, id: ConnectionId, operation: OperationId, token: Secret) {
        // Without authentication tokens are ignored.
        let Some(authentication) = &mut self.authentication else {
            return self.answer_renewal(now, id, operation, Ok(()));
        };
        let Some(connection) = self.connections.get_mut(id) else { return };
        let (shard, tag, address) = (self.shard, id.as_u64(), connection.peer().address());
        let Some(pass) = connection.pass_mut() else { return };
        if token.expose().len() > TOKEN_BYTES_MAX {
            let fault = PeerFault::Unauthenticated("credentials: the token is longer than 16,384 bytes");
            return self.answer_renewal(now, id, operation, Err(fault.into()));
        }
        let credential = Credential::Token(token);
        let key = authentication.verdicts.key(&credential);
        if let Err(fault) = pass.begin_renewal(operation, key, now.mono) {
            return self.answer_renewal(now, id, operation, Err(fault.into()));
        }
        let verdict = authentication.verdicts.get(&key, now.mono).or_else(|| {
            let question = Question { shard, tag, key, credential, address, is_renewal: true };
            let is_asked = authentication.questions.ask(question);
            (!is_asked).then_some(Err(Denial::Unavailable))
        });
        if let Some(verdict) = verdict {
            pass.take_renewal(&key);
            self.decide_renewal(now, id, operation, key, verdict);
        }
    }

    /// Applies the verdict on a new token of a connection.
    pub(super) fn decide_renewal(
        &mut self,
        now: Now,
        id: ConnectionId,
        operation: OperationId,
        key: Key,
        verdict: Verdict,
    ) {
        let Some(pass) = self.connections.get_mut(id).and_then(Connection::pass_mut) else { return };
        let principal = Arc::clone(&pass.grant.principal);
        let result = match verdict {
            Ok(grant) if grant.principal != principal => Err(("principal", OTHER_PRINCIPAL.into())),
            Ok(grant) if grant.expires.is_some_and(|expires| expires <= now.unix) => {
                Err((Denial::Expired.name(), fault_of(Denial::Expired)))
            }
            Ok(grant) => {
                *pass = Pass::new(Arc::clone(&grant), key, now);
                Ok(pass.granted())
            }
            Err(denial) => Err((denial.name(), fault_of(denial))),
        };
        let reason = result.as_ref().map_or_else(|(reason, _)| *reason, |_| "");
        self.log_verdict(now, id, "renew", reason, (&principal, "", ""));
        let result = match result {
            Ok(granted) => {
                self.counters.auth.renewed += 1;
                self.with(now, id, |connection, env| {
                    connection.with_front(env, |front, cx| front.handle_grant(granted, cx));
                });
                Ok(())
            }
            Err((reason, fault)) => {
                *self.counters.auth.refused.entry(reason).or_default() += 1;
                Err(fault)
            }
        };
        self.answer_renewal(now, id, operation, result);
    }

    fn answer_renewal(
        &mut self,
        now: Now,
        id: ConnectionId,
        operation: OperationId,
        result: Result<(), Fault>,
    ) {
        self.with_dirty(now, id, |connection, env| {
            connection.with_front(env, |front, cx| front.answer(operation, Reply::Renewed(result), cx));
        });
    }

    /// Applies new verdicts on credentials to what is remembered and to the connections that hold them.
    pub(super) fn handle_changes(&mut self, now: Now, changes: &[(Key, Verdict)]) {
        let Some(authentication) = &mut self.authentication else { return };
        let mut by_key = HashMap::with_capacity(changes.len());
        for (key, verdict) in changes {
            authentication.verdicts.change(now, *key, verdict);
            by_key.insert(*key, verdict);
        }
        let concerned = |id: &ConnectionId| {
            let pass = self.connections.get(*id).and_then(Connection::pass);
            pass.is_some_and(|pass| by_key.contains_key(&pass.key))
        };
        for id in self.connections.ids().filter(concerned).collect::<Vec<_>>() {
            self.change(now, id, &by_key);
        }
    }

    fn change(&mut self, now: Now, id: ConnectionId, by_key: &HashMap<Key, &Verdict>) {
        let Some(pass) = self.connections.get_mut(id).and_then(Connection::pass_mut) else { return };
        let principal = Arc::clone(&pass.grant.principal);
        match by_key.get(&pass.key) {
            Some(Ok(grant)) if grant.principal != principal => self.end(now, id, Ended::Revoked),
            Some(Ok(grant)) => {
                let is_other = **grant != *pass.grant;
                // The judge counts a grant as in use as long as somebody holds this one.
                pass.change(Arc::clone(grant), now);
                if is_other {
                    let granted = pass.granted();
                    self.log_verdict(now, id, "change", "", (&principal, "", ""));
                    self.with_dirty(now, id, |connection, env| {
                        connection.with_front(env, |front, cx| front.handle_grant(granted, cx));
                    });
                }
            }
            // The pass knows when its grant expires, and waits for a renewal in progress.
            Some(Err(Denial::Expired)) if pass.has_end() => {}
            Some(Err(Denial::Expired)) => self.end(now, id, Ended::Expired),
            Some(Err(Denial::Unavailable)) => self.end(now, id, Ended::Unverified),
            Some(Err(_)) => self.end(now, id, Ended::Revoked),
            None => {}
        }
    }

    /// Ends the grant of a connection before its time. Without a grant, closes the connection.
    pub(super) fn end(&mut self, now: Now, id: ConnectionId, ended: Ended) {
        if self.connections.get(id).and_then(Connection::pass).is_some() {
            self.counters.auth.revoked += 1;
            self.log_end(now, id, ended);
        }
        self.with_dirty(now, id, |connection, env| connection.end_grant(ended, env));
    }
}

const OTHER_PRINCIPAL: PeerFault = PeerFault::Forbidden("the token belongs to another principal");

/// Returns the fault that reports a refused token.
pub(super) fn fault_of(denial: Denial) -> Fault {
    match denial {
        Denial::Throttled => {
            PeerFault::TooOften("credentials: too many attempts from this address; try again later").into()
        }
        Denial::Unavailable => Fault::Unverified,
        Denial::Expired => PeerFault::Unauthenticated("credentials: expired").into(),
        Denial::Revoked => PeerFault::Unauthenticated("credentials: revoked").into(),
        Denial::Missing | Denial::Unknown | Denial::Invalid => {
            PeerFault::Unauthenticated("credentials: not accepted").into()
        }
    }
}
