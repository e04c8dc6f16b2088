//! The client of a connection: what it has shown, the verdict that it waits for, and its grant until that ends.

use super::{Connection, Env, Phase};
use crate::access::{Permit, Right};
use crate::auth::{Credential, Key};
use crate::base::error::{Fault, PeerFault};
use crate::base::millis::Millis;
use crate::front::Front;
use crate::shard::core::applicant::Applicant;
use crate::shard::core::login::Login;
use crate::shard::core::pass::{Due, Ended, Pass};
use crate::ws::CloseCode;
use crate::ws::handshake::Refusal;

/// How long operations may take to end after the grant of their client has ended.
const ENDING_MAX: Millis = Millis::new(10_000);

impl Connection {
    /// Returns a client that waits for [`Self::handle_verdict`].
    pub(in crate::shard::core) fn applicant(&self) -> Option<Applicant> {
        let Phase::Admitting(handshake) = &self.phase else { return None };
        let identity = &handshake.identity;
        let certificate = || self.certificate.clone().map(Credential::Certificate);
        let credential = identity.token.clone().map(Credential::Token).or_else(certificate);
        let may_wait = handshake.endpoint.admits_strangers();
        Some(Applicant { project: identity.project.clone(), author: identity.author, credential, may_wait })
    }

    /// Waits for the verdict on a credential.
    pub(in crate::shard::core) fn await_verdict(&mut self, key: Key) {
        self.awaited = Some(key);
    }

    /// Returns whether the handshake waits for the verdict on this credential. It then waits no more.
    pub(in crate::shard::core) fn take_awaited(&mut self, key: &Key) -> bool {
        matches!(self.phase, Phase::Admitting(_)) && self.awaited.take_if(|awaited| awaited == key).is_some()
    }

    /// Returns the grant of the client.
    pub(in crate::shard::core) fn pass(&self) -> Option<&Pass> {
        self.pass.as_deref()
    }

    /// Returns the grant of the client, mutably. `None` also if it has ended.
    pub(in crate::shard::core) fn pass_mut(&mut self) -> Option<&mut Pass> {
        self.pass.as_deref_mut().filter(|_| self.ending.is_none())
    }

    /// Waits for the verdict on a token, on an open connection.
    pub(in crate::shard::core) fn begin_login(&mut self, login: Login) {
        self.login = Some(Box::new(login));
    }

    /// Returns the token that waits for its verdict on an open connection.
    pub(in crate::shard::core) fn login_mut(&mut self) -> Option<&mut Login> {
        self.login.as_deref_mut()
    }

    /// Ends the wait for the verdict on this token. `None` if it does not wait for it.
    pub(in crate::shard::core) fn take_login(&mut self, key: &Key) -> Option<Login> {
        self.login.take_if(|login| login.key == *key).map(|login| *login)
    }

    /// Sets the grant of a client that has authenticated, and its permit unless it keeps the one that it has. Returns whether it
    /// had authenticated before.
    pub(in crate::shard::core) fn set_pass(&mut self, pass: Pass, permit: Option<Permit>) -> bool {
        self.permit = permit.or(self.permit.take());
        self.refused_logins = 0;
        self.pass.replace(Box::new(pass)).is_some()
    }

    /// Returns the permit of the project.
    pub(in crate::shard::core) fn permit(&self) -> Option<&Permit> {
        self.permit.as_ref()
    }

    /// Returns the name of the client, if clients must authenticate.
    pub fn principal(&self) -> Option<&str> {
        self.pass().map(|pass| &*pass.grant.principal)
    }

    /// Returns the right that the present operation needs.
    pub(in crate::shard::core) fn right(&self) -> Option<Right> {
        self.front().and_then(Front::right)
    }

    /// Ends all operations, because the client's grant has ended. Then closes the connection. Closes the connection of a
    /// client without a grant, whose certificate was revoked, at once.
    pub(in crate::shard::core) fn end_grant(&mut self, ended: Ended, env: &mut Env<'_>) {
        if self.is_handshaking() {
            let status = if self.awaited.is_some() { 401 } else { 403 };
            return self.refuse(&Refusal::new(status, "the certificate of the client is revoked"), env);
        }
        if self.pass.is_none() {
            return self.close(CloseCode::POLICY, env);
        }
        if self.ending.is_some() || !matches!(self.phase, Phase::Open(_)) {
            return;
        }
        self.ending = Some((ended, env.now.mono + ENDING_MAX));
        let fault = Fault::from(PeerFault::Unauthenticated(ended.reason()));
        self.with_front(env, |front, cx| front.handle_expired(fault, cx));
    }

    /// Does what is due about the grant of the client.
    pub(super) fn look_at_pass(&mut self, env: &mut Env<'_>) {
        if let Some((ended, until)) = self.ending {
            if until <= env.now.mono {
                self.finish_ended(ended, env);
            }
            return;
        }
        // As with a renewal, a token that was read before the end of the grant is waited for.
        if self.login.is_some() {
            return;
        }
        match self.pass.as_deref_mut().map_or(Due::Nothing, |pass| pass.take_due(env.now.mono)) {
            Due::Nothing => {}
            Due::Notice => self.with_front(env, |front, _| front.announce_expiry()),
            Due::Over => {
                env.counters.auth.expired += 1;
                self.end_grant(Ended::Expired, env);
            }
        }
    }

    /// Ends the wait for a verdict that takes too long. Returns the key of the credential.
    pub(in crate::shard::core) fn take_late_verdict(&mut self, now: Millis) -> Option<Key> {
        let is_late = matches!(self.phase, Phase::Admitting(_)) && self.liveness.verdict_due() <= now;
        self.awaited.take_if(|_| is_late)
    }

    /// Returns when something is due about the grant of the client.
    pub(super) fn pass_due(&self) -> Option<Millis> {
        match (self.ending, &self.login) {
            (Some((_, until)), _) => Some(until),
            (None, Some(login)) => Some(login.until),
            (None, None) => self.pass.as_deref()?.next_due(),
        }
    }
}
