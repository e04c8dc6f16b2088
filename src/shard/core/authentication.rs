//! Authentication of a shard's clients: asks the judge who they are, and admits them.
//!
//! ```text
//! request ─▶ key ─▶ remembered? ──yes──▶ verdict ─▶ project, limits ─▶ admitted
//!                      │ no                 ▲
//!                      └─▶ question ─▶ judge ┘
//! ```
//! A grant is looked at when a connection or an operation begins, when it changes and when it ends, and never for
//! a message.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::applicant::{Admitted, Applicant};
use super::audit::Audit;
use super::pass::Pass;
use super::questions::Questions;
use super::strangers::Strangers;
use super::verdicts::Verdicts;
use super::{Connection, ConnectionId, Connections, Core};
use crate::access::{Grant, ProjectFault, own_client};
use crate::auth::{Answer, Credential, Denial, Key, Keyer, Question, TOKEN_BYTES_MAX, Verdict};
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::names::Project;
use crate::operation::Author;
use crate::store::Store;
use crate::ws::handshake::Refusal;

/// The most clients in line that a turn lets ask.
const RESUMED_PER_TURN: usize = 64;

/// The counters of authentication.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct AuthCounters {
    /// Clients that were admitted.
    pub admitted: u64,
    /// Refused clients and renewals, by reason. Few reasons are possible.
    pub refused: BTreeMap<&'static str, u64>,
    /// Credentials whose verdict was remembered, and those that the judge was asked about.
    pub remembered: u64,
    /// See `remembered`.
    pub asked: u64,
    /// Operations that no rule allowed.
    pub forbidden: u64,
    /// Grants that ended on a live connection: they expired, or were revoked.
    pub expired: u64,
    /// See `expired`.
    pub revoked: u64,
    /// Renewals that were accepted.
    pub renewed: u64,
    /// Audit lines that were dropped.
    pub audit_dropped: u64,
}

/// The state of authentication in one shard.
#[derive(Debug)]
pub(super) struct Authentication {
    pub(super) verdicts: Verdicts,
    pub(super) questions: Questions,
    pub(super) audit: Audit,
    pub(super) strangers: Strangers,
}

impl<S: Store<Connections>> Core<S> {
    /// Requires clients to authenticate.
    pub fn authenticate(&mut self, keyer: Keyer) {
        self.authentication = Some(Box::new(Authentication {
            verdicts: Verdicts::new(keyer),
            questions: Questions::default(),
            audit: Audit::default(),
            strangers: Strangers::default(),
        }));
    }

    /// Removes and returns the next question for the judge.
    pub fn poll_question(&mut self) -> Option<Question> {
        self.authentication.as_mut()?.questions.poll()
    }

    /// Handles that the judge has no room for a question.
    pub fn handle_unasked(&mut self, now: Now, question: &Question) {
        self.handle_judged(now, question.tag, question.key, Err(Denial::Unavailable));
    }

    /// Handles an answer of the judge.
    pub fn handle_answer(&mut self, now: Now, answer: Answer) {
        match answer {
            Answer::Judged { tag, key, verdict } => {
                if let Some(authentication) = &mut self.authentication {
                    authentication.verdicts.remember(now, key, &verdict);
                }
                self.handle_judged(now, tag, key, verdict);
            }
            Answer::Changed(changes) => self.handle_changes(now, &changes),
            Answer::Reloaded => {
                if let Some(authentication) = &mut self.authentication {
                    authentication.verdicts.forget_denials();
                }
            }
        }
    }

    /// Looks for the verdict on the client of a connection.
    pub(super) fn identify(&mut self, now: Now, id: ConnectionId, applicant: Applicant) {
        let Some(authentication) = &mut self.authentication else { return };
        let Some(credential) = applicant.credential else {
            if applicant.may_wait {
                return self.admit_stranger(now, id, applicant);
            }
            return self.decide(now, id, Err(Denial::Missing), None);
        };
        if let Credential::Token(token) = &credential
            && token.expose().len() > TOKEN_BYTES_MAX
        {
            return self.decide(now, id, Err(Denial::Invalid), None);
        }
        let key = authentication.verdicts.key(&credential);
        if let Some(verdict) = authentication.verdicts.get(&key, now.mono) {
            self.counters.auth.remembered += 1;
            return self.decide(now, id, verdict, Some(key));
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let (shard, tag, address) = (self.shard, id.as_u64(), connection.peer().address());
        connection.await_verdict(key);
        let Authentication { questions, .. } = &mut **authentication;
        if questions.ask(Question { shard, tag, key, credential, address, is_renewal: false }) {
            self.counters.auth.asked += 1;
        } else {
            let is_open = |id: &ConnectionId| self.connections.get(*id).is_some();
            questions.wait(id, address, is_open, self.connections.len());
        }
        self.after(now, id);
    }

    /// Lets clients ask that waited for the answers to others of their address, some in each turn.
    pub fn resume_waiting(&mut self, now: Now) {
        for _ in 0..RESUMED_PER_TURN {
            let Some(id) = self.authentication.as_mut().and_then(|one| one.questions.next_in_line()) else {
                return;
            };
            if let Some(applicant) = self.connections.get(id).and_then(Connection::applicant) {
                self.identify(now, id, applicant);
            } else {
                self.ask_for_login(now, id);
            }
        }
    }

    /// Returns whether clients in line may ask.
    pub(super) fn has_waiting(&self) -> bool {
        self.authentication.as_ref().is_some_and(|one| one.questions.has_ready())
    }

    fn handle_judged(&mut self, now: Now, tag: u64, key: Key, verdict: Verdict) {
        if let Some(authentication) = &mut self.authentication {
            authentication.questions.handle_answered(tag);
        }
        let id = ConnectionId::from_u64(tag);
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.take_awaited(&key) {
            self.decide(now, id, verdict, Some(key));
        } else if let Some(operation) = connection.pass_mut().and_then(|pass| pass.take_renewal(&key)) {
            self.decide_renewal(now, id, operation, key, verdict);
        } else {
            self.decide_login(now, id, key, verdict);
        }
    }

    /// Refuses a client whose verdict takes too long, or answers a renewal that does.
    pub(super) fn end_late_verdict(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let unavailable = Err(Denial::Unavailable);
        if let Some(key) = connection.take_late_verdict(now.mono) {
            self.decide(now, id, unavailable, Some(key));
        } else if let Some((operation, key)) = connection.pass_mut().and_then(|pass| pass.take_late(now.mono))
        {
            self.decide_renewal(now, id, operation, key, unavailable);
        } else {
            self.end_late_login(now, id);
        }
    }

    /// Lets go of verdicts that have ended.
    pub(super) fn purge_verdicts(&mut self, now: Now) {
        if let Some(authentication) = &mut self.authentication {
            authentication.verdicts.purge(now.mono);
        }
    }

    /// Returns when to call [`Self::purge_verdicts`].
    pub(super) fn purge_due(&self) -> Option<Millis> {
        self.authentication.as_ref()?.verdicts.purge_due()
    }

    /// Admits or refuses the client of a connection.
    fn decide(&mut self, now: Now, id: ConnectionId, verdict: Verdict, key: Option<Key>) {
        let Some(Applicant { project, author, .. }) =
            self.connections.get(id).and_then(Connection::applicant)
        else {
            return;
        };
        let principal = verdict.as_ref().map(|grant| Arc::clone(&grant.principal)).ok();
        let admitted = match verdict {
            Ok(grant) => self.admit_with(now, grant, key, project.as_ref(), author),
            Err(denial) => Err((denial.name(), Refusal::new(denial.status(), denial.to_string()))),
        };
        let named = project.as_ref().map_or("", Project::as_str);
        let (reason, project) = match &admitted {
            Ok(admitted) => ("", admitted.project.as_str()),
            Err((reason, _)) => (*reason, named),
        };
        let principal = principal.as_deref().unwrap_or("");
        self.log_verdict(now, id, "connect", reason, (principal, project, ""));
        match admitted {
            Ok(_) => self.counters.auth.admitted += 1,
            Err((reason, _)) => *self.counters.auth.refused.entry(reason).or_default() += 1,
        }
        self.handle_verdict(now, id, admitted.map_err(|(_, refusal)| refusal));
    }

    fn admit_with(
        &self,
        now: Now,
        grant: Arc<Grant>,
        key: Option<Key>,
        named: Option<&Project>,
        author: Author,
    ) -> Result<Admitted, (&'static str, Refusal)> {
        let project = grant.project(named, &self.settings.policy.default_project).map_err(|fault| {
            let status = match fault {
                ProjectFault::Ambiguous => 400,
                ProjectFault::Forbidden => 403,
            };
            ("project", Refusal::new(status, fault.to_string()))
        })?;
        let permit = self.tenants.admit(&project, now.mono);
        let permit = permit.map_err(|fault| ("limit", Refusal::new(429, fault.to_string())))?;
        let author = Author { client: own_client(&grant.principal, author.client), ..author };
        let pass = key.map(|key| Box::new(Pass::new(grant, key, now)));
        Ok(Admitted { permit: Some(permit), project, author, pass, stranger_until: None })
    }
}
