//! Clients that authenticate on an open connection: strangers, and clients that do so anew. Until the verdict, the connection
//! keeps what it has.

use std::sync::Arc;

use super::applicant::{Admitted, Applicant};
use super::grants::fault_of;
use super::login::Login;
use super::pass::Pass;
use super::{Connection, ConnectionId, Connections, Core};
use crate::access::{Grant, Permit};
use crate::auth::{Credential, Denial, Key, Question, TOKEN_BYTES_MAX, Verdict};
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault};
use crate::base::millis::Millis;
use crate::base::names::Project;
use crate::base::secret::Secret;
use crate::operation::{Answer as Reply, Login as LoggedIn, OperationId};
use crate::store::Store;
use crate::ws::handshake::Refusal;

/// How long the verdict on a token may take, also beyond the end of the grant in force.
const LOGIN_MAX: Millis = Millis::new(10_000);

/// The refused logins of a client with a grant after which its further ones are throttled like those of a stranger.
const UNTHROTTLED_MAX: u8 = 3;

impl<S: Store<Connections>> Core<S> {
    /// Admits a client without a credential, which may authenticate later.
    pub(super) fn admit_stranger(&mut self, now: Now, id: ConnectionId, applicant: Applicant) {
        let max = self.settings.unauthenticated_max;
        let (Some(authentication), Some(connection)) = (&mut self.authentication, self.connections.get(id))
        else {
            return;
        };
        let entered = authentication.strangers.enter(id, connection.peer().address(), max);
        let verdict = match entered {
            Ok(()) => Ok(Admitted {
                permit: None,
                project: applicant.project.unwrap_or_else(|| self.settings.policy.default_project.clone()),
                author: applicant.author,
                pass: None,
                stranger_until: Some(now.mono + Millis::from(self.settings.auth_timeout)),
            }),
            Err(why) => {
                *self.counters.auth.refused.entry("limit").or_default() += 1;
                self.log_verdict(now, id, "connect", "limit", ("", "", ""));
                Err(Refusal::new(429, why))
            }
        };
        self.handle_verdict(now, id, verdict);
    }

    /// Authenticates the client of an open connection with a token.
    pub(super) fn log_in(
        &mut self,
        now: Now,
        id: ConnectionId,
        operation: OperationId,
        token: Secret,
        project: Option<Project>,
    ) {
        let Some(authentication) = &mut self.authentication else {
            return self.answer_login(now, id, operation, Err(Fault::Unverified));
        };
        if token.expose().is_empty() || token.expose().len() > TOKEN_BYTES_MAX {
            return self.refuse_login(now, id, operation, Denial::Invalid.name(), fault_of(Denial::Invalid));
        }
        let credential = Credential::Token(token);
        let key = authentication.verdicts.key(&credential);
        let Some(connection) = self.connections.get_mut(id) else { return };
        // Otherwise one token after another would put the end off.
        if connection.pass().is_some_and(|pass| pass.has_ended(now.mono)) {
            return self.refuse_login(now, id, operation, Denial::Expired.name(), fault_of(Denial::Expired));
        }
        let until = now.mono + LOGIN_MAX;
        connection.begin_login(Login { operation, key, credential: Some(credential), project, until });
        if let Some(verdict) = authentication.verdicts.get(&key, now.mono) {
            self.counters.auth.remembered += 1;
            return self.decide_login(now, id, key, verdict);
        }
        self.ask_for_login(now, id);
    }

    /// Asks the judge about the token of an open connection, or lets it wait in the line of its address.
    pub(super) fn ask_for_login(&mut self, now: Now, id: ConnectionId) {
        let (Some(authentication), Some(connection)) =
            (&mut self.authentication, self.connections.get_mut(id))
        else {
            return;
        };
        let (shard, tag, address) = (self.shard, id.as_u64(), connection.peer().address());
        // As a renewal, it is not throttled. Guessing is.
        let is_renewal = connection.pass().is_some() && connection.refused_logins < UNTHROTTLED_MAX;
        let Some(login) = connection.login_mut() else { return };
        let key = login.key;
        let Some(credential) = login.credential.take() else { return };
        let question = Question { shard, tag, key, credential: credential.clone(), address, is_renewal };
        if authentication.questions.ask(question) {
            self.counters.auth.asked += 1;
        } else {
            login.credential = Some(credential);
            let is_open = |id: &ConnectionId| self.connections.get(*id).is_some();
            authentication.questions.wait(id, address, is_open, self.connections.len());
        }
        self.after(now, id);
    }

    /// Applies the verdict on the token of an open connection.
    pub(super) fn decide_login(&mut self, now: Now, id: ConnectionId, key: Key, verdict: Verdict) {
        let Some(login) = self.connections.get_mut(id).and_then(|connection| connection.take_login(&key))
        else {
            return;
        };
        let Login { operation, project, .. } = login;
        let grant = match verdict {
            Ok(grant) if grant.expires.is_some_and(|expires| expires <= now.unix) => Err(Denial::Expired),
            verdict => verdict,
        };
        let is_over = self
            .connections
            .get_mut(id)
            .is_some_and(|connection| connection.pass().is_some() && connection.pass_mut().is_none());
        let admitted = match grant {
            Ok(_) if is_over => Err((Denial::Expired.name(), fault_of(Denial::Expired))),
            Ok(grant) => {
                self.admit_login(now, id, &grant, project.as_ref()).map(|admitted| (grant, admitted))
            }
            Err(denial) => Err((denial.name(), fault_of(denial))),
        };
        let (grant, (project, permit)) = match admitted {
            Ok(admitted) => admitted,
            Err((reason, fault)) => return self.refuse_login(now, id, operation, reason, fault),
        };
        let names = (&*grant.principal, project.as_str(), "");
        self.log_verdict(now, id, "authenticate", "", names);
        if let Some(authentication) = &mut self.authentication {
            authentication.strangers.leave(id);
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let pass = Pass::new(Arc::clone(&grant), key, now);
        let granted = pass.granted();
        if connection.set_pass(pass, permit) {
            self.counters.auth.renewed += 1;
        } else {
            self.counters.auth.admitted += 1;
        }
        self.answer_login(now, id, operation, Ok(LoggedIn { project, granted }));
    }

    /// Finds the project of a client that authenticates, and takes a permit of it unless the connection has one.
    #[allow(clippy::type_complexity, reason = "a project and a permit, or a reason and a fault")]
    fn admit_login(
        &self,
        now: Now,
        id: ConnectionId,
        grant: &Grant,
        named: Option<&Project>,
    ) -> Result<(Project, Option<Permit>), (&'static str, Fault)> {
        let project = grant.home(named, &self.settings.policy.default_project);
        let project = project.map_err(|_| ("project", PeerFault::Unauthenticated(NO_PROJECT).into()))?;
        let tenant = self.tenants.get(&project, now.mono);
        let held = self.connections.get(id).and_then(Connection::permit);
        if held.is_some_and(|permit| Arc::ptr_eq(permit.tenant(), &tenant)) {
            return Ok((project, None));
        }
        match self.tenants.admit(&project, now.mono) {
            Ok(permit) => Ok((project, Some(permit))),
            Err(fault) => Err(("limit", fault.into())),
        }
    }

    /// Ends the wait for a verdict on a token that takes too long.
    pub(super) fn end_late_login(&mut self, now: Now, id: ConnectionId) {
        let late = self.connections.get_mut(id).and_then(Connection::login_mut);
        if let Some(key) = late.filter(|login| login.until <= now.mono).map(|login| login.key) {
            self.decide_login(now, id, key, Err(Denial::Unavailable));
        }
    }

    fn refuse_login(
        &mut self,
        now: Now,
        id: ConnectionId,
        operation: OperationId,
        reason: &'static str,
        fault: Fault,
    ) {
        *self.counters.auth.refused.entry(reason).or_default() += 1;
        if let Some(connection) = self.connections.get_mut(id) {
            connection.refused_logins = connection.refused_logins.saturating_add(1);
        }
        self.log_verdict(now, id, "authenticate", reason, ("", "", ""));
        self.answer_login(now, id, operation, Err(fault));
    }

    fn answer_login(
        &mut self,
        now: Now,
        id: ConnectionId,
        operation: OperationId,
        result: Result<LoggedIn, Fault>,
    ) {
        self.with_dirty(now, id, |connection, env| {
            connection.with_front(env, |front, cx| front.answer(operation, Reply::Authenticated(result), cx));
        });
    }

    /// Counts the client of a connection no longer among those that must authenticate.
    pub(super) fn forget_stranger(&mut self, id: ConnectionId) {
        if let Some(authentication) = &mut self.authentication {
            authentication.strangers.leave(id);
        }
    }
}

const NO_PROJECT: &str = "credentials: the client has no project";
