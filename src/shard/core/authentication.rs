//! Authentication of a shard's clients: asks the judge, remembers verdicts, and applies them to connections.
//!
//! ```text
//! request ─▶ key ─▶ remembered? ──yes──▶ verdict
//!                      │ no                 ▲
//!                      └─▶ question ─▶ judge ┘      (at most 256 of a shard and 64 of an address at once)
//! ```
//! A grant is looked at when a connection or an operation begins, when it changes and when it ends, and never for
//! a message.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::applicant::{Admitted, Applicant, EXPIRED};
use super::audit::{Audit, Event};
use super::pass::{self, Pass};
use super::peer::Peer;
use super::remembered::Remembered;
use super::{Connection, ConnectionId, Connections, Core};
use crate::access::{Grant, ProjectFault, Right};
use crate::auth::{Answer, Credential, Denial, Key, Keyer, Question, Verdict, own_client};
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault};
use crate::base::millis::Millis;
use crate::base::names::{FullName, Project, QueueName};
use crate::base::secret::Secret;
use crate::operation::{Answer as Reply, Author, OperationId};
use crate::store::Store;
use crate::ws::handshake::Refusal;

/// The most grants that a shard remembers, and for how long. About 400 bytes each.
const GRANTS_MAX: usize = 4_096;
const GRANT_LIFE: Millis = Millis::new(300_000);
/// The most refused credentials that a shard remembers, and for how long. About 100 bytes each.
const DENIALS_MAX: usize = 1_024;
const DENIAL_LIFE: Millis = Millis::new(10_000);
/// The most questions of a shard that wait for an answer. Further clients wait in the line of their address. They
/// cost no more than while their handshake is incomplete, and get 503 after 3 seconds.
const ASKED_MAX: usize = 256;
/// The most of these about clients of one address, so that one address does not use up the questions of all.
const ASKED_OF_ADDRESS_MAX: usize = 64;
/// The most clients in line that a turn lets ask.
const RESUMED_PER_TURN: usize = 64;
/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

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
    keyer: Keyer,
    grants: Remembered<Arc<Grant>>,
    denials: Remembered<Denial>,
    /// The questions that are not answered, by tag, with the addresses that they count for.
    asked: HashMap<u64, IpAddr>,
    of_address: HashMap<IpAddr, Line>,
    /// The addresses with a line that may go on, in order.
    ready: VecDeque<IpAddr>,
    /// The addresses with a line that waits for the answer to any question.
    stalled: VecDeque<IpAddr>,
    questions: VecDeque<Question>,
    audit: Audit,
}

/// The clients of one address that wait for a verdict.
#[derive(Debug, Default)]
struct Line {
    /// The number of questions that wait for an answer.
    asked: usize,
    /// The connections that wait for their question, in order. Some may be gone.
    waiting: VecDeque<ConnectionId>,
    /// Whether the address is in one of the lists.
    is_listed: bool,
}

impl Authentication {
    fn new(keyer: Keyer) -> Self {
        Self {
            keyer,
            grants: Remembered::new(GRANTS_MAX),
            denials: Remembered::new(DENIALS_MAX),
            asked: HashMap::new(),
            of_address: HashMap::new(),
            ready: VecDeque::new(),
            stalled: VecDeque::new(),
            questions: VecDeque::new(),
            audit: Audit::default(),
        }
    }

    /// Returns the remembered verdict on a credential.
    fn remembered(&self, key: &Key, now: Millis) -> Option<Verdict> {
        let granted = self.grants.get(key, now).cloned().map(Ok);
        granted.or_else(|| self.denials.get(key, now).copied().map(Err))
    }

    /// Remembers a verdict. Trouble of a provider or of an address is not the credential's.
    fn remember(&mut self, now: Now, key: Key, verdict: &Verdict) {
        match verdict {
            Ok(grant) => {
                let until = now.mono + GRANT_LIFE;
                let until = pass::ends(grant, now).map_or(until, |ends| ends.min(until));
                self.denials.remove(&key);
                self.grants.insert(key, Arc::clone(grant), until);
            }
            Err(Denial::Unavailable | Denial::Throttled) => {}
            Err(denial) => {
                self.grants.remove(&key);
                self.denials.insert(key, *denial, now.mono + DENIAL_LIFE);
            }
        }
    }

    /// Asks the judge. Returns false if too many questions wait.
    fn ask(&mut self, shard: u16, tag: u64, key: Key, credential: Credential, peer: Peer) -> bool {
        let network = network(peer);
        let of_address = self.of_address.get(&network).map_or(0, |line| line.asked);
        let is_waiting = self.asked.contains_key(&tag);
        if is_waiting || of_address >= most(network) || self.asked.len() >= ASKED_MAX {
            return false;
        }
        self.asked.insert(tag, network);
        self.of_address.entry(network).or_default().asked += 1;
        let address = match peer {
            Peer::Ip(address) => Some(address.ip()),
            Peer::Unix => None,
        };
        self.questions.push_back(Question { shard, tag, key, credential, address, is_renewal: false });
        true
    }

    /// Adds a connection to the line of its address.
    fn wait(&mut self, id: ConnectionId, peer: Peer, is_open: impl Fn(&ConnectionId) -> bool, open: usize) {
        let network = network(peer);
        let line = self.of_address.entry(network).or_default();
        line.waiting.push_back(id);
        // A connection that is gone stays in line until its turn comes.
        if line.waiting.len() > open {
            line.waiting.retain(is_open);
        }
        if line.asked < most(network) && !std::mem::replace(&mut line.is_listed, true) {
            self.stalled.push_back(network);
        }
    }

    /// Counts an answer, so that another client may ask.
    fn handle_answered(&mut self, tag: u64) {
        let Some(network) = self.asked.remove(&tag) else { return };
        self.ready.extend(self.stalled.pop_front());
        let Some(line) = self.of_address.get_mut(&network) else { return };
        line.asked = line.asked.saturating_sub(1);
        if line.waiting.is_empty() {
            if line.asked == 0 && !line.is_listed {
                self.of_address.remove(&network);
            }
        } else if !std::mem::replace(&mut line.is_listed, true) {
            self.ready.push_back(network);
        }
    }

    /// Removes and returns the next connection in line that may ask.
    fn next_in_line(&mut self) -> Option<ConnectionId> {
        while let Some(network) = self.ready.pop_front() {
            let Some(line) = self.of_address.get_mut(&network) else { continue };
            if line.asked < most(network)
                && let Some(id) = line.waiting.pop_front()
            {
                if self.asked.len() < ASKED_MAX {
                    // The addresses take turns.
                    self.ready.push_back(network);
                    return Some(id);
                }
                line.waiting.push_front(id);
                self.stalled.push_back(network);
                continue;
            }
            line.is_listed = false;
            if line.asked == 0 && line.waiting.is_empty() {
                self.of_address.remove(&network);
            }
        }
        None
    }
}

/// Returns the most questions about clients of one address that wait for an answer.
fn most(network: IpAddr) -> usize {
    if network == UNIX { ASKED_MAX } else { ASKED_OF_ADDRESS_MAX }
}

/// Stands for all Unix sockets.
const UNIX: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Returns the address that counts: all of an IPv6 network of 64 bits count as one.
fn network(peer: Peer) -> IpAddr {
    match peer {
        Peer::Unix => UNIX,
        Peer::Ip(address) => match address.ip() {
            address @ IpAddr::V4(_) => address,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        },
    }
}

impl<S: Store<Connections>> Core<S> {
    /// Requires clients to authenticate.
    pub fn authenticate(&mut self, keyer: Keyer) {
        self.authentication = Some(Box::new(Authentication::new(keyer)));
    }

    /// Removes and returns the next question for the judge.
    pub fn poll_question(&mut self) -> Option<Question> {
        self.authentication.as_mut()?.questions.pop_front()
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
                    authentication.remember(now, key, &verdict);
                }
                self.handle_judged(now, tag, key, verdict);
            }
            Answer::Changed(changes) => self.handle_changes(now, &changes),
            Answer::Reloaded => {}
        }
    }

    /// Looks for the verdict on the client of a connection.
    pub(super) fn identify(&mut self, now: Now, id: ConnectionId, applicant: Applicant) {
        let Some(authentication) = &mut self.authentication else { return };
        let Some(credential) = applicant.credential else {
            return self.decide(now, id, Err(Denial::Missing), None);
        };
        let key = authentication.keyer.key(&credential);
        if let Some(verdict) = authentication.remembered(&key, now.mono) {
            self.counters.auth.remembered += 1;
            return self.decide(now, id, verdict, Some(key));
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let peer = connection.peer();
        connection.await_verdict(key);
        if authentication.ask(self.shard, id.as_u64(), key, credential, peer) {
            self.counters.auth.asked += 1;
        } else {
            let is_open = |id: &ConnectionId| self.connections.get(*id).is_some();
            authentication.wait(id, peer, is_open, self.connections.len());
        }
        self.after(now, id);
    }

    /// Lets clients ask that waited for the answers to others of their address, some in each turn.
    pub fn resume_waiting(&mut self, now: Now) {
        for _ in 0..RESUMED_PER_TURN {
            let Some(id) = self.authentication.as_mut().and_then(|one| one.next_in_line()) else { return };
            if let Some(applicant) = self.connections.get(id).and_then(Connection::applicant) {
                self.identify(now, id, applicant);
            }
        }
    }

    /// Returns whether clients in line may ask.
    pub(super) fn has_waiting(&self) -> bool {
        self.authentication.as_ref().is_some_and(|one| !one.ready.is_empty())
    }

    fn handle_judged(&mut self, now: Now, tag: u64, key: Key, verdict: Verdict) {
        if let Some(authentication) = &mut self.authentication {
            authentication.handle_answered(tag);
        }
        let id = ConnectionId::from_u64(tag);
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.take_awaited(&key) {
            self.decide(now, id, verdict, Some(key));
        } else if let Some(operation) = connection.pass_mut().and_then(|pass| pass.take_renewal(&key)) {
            self.decide_renewal(now, id, operation, key, verdict);
        }
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
        Ok(Admitted { permit, project, author, pass })
    }

    /// Renews the grant of a connection, for one of its operations.
    pub(super) fn renew(&mut self, now: Now, id: ConnectionId, operation: OperationId, token: Secret) {
        // Without authentication tokens are ignored.
        let Some(authentication) = &mut self.authentication else {
            return self.answer_renewal(now, id, operation, Ok(()));
        };
        let is_too_long = token.expose().len() > TOKEN_BYTES_MAX;
        let key = authentication.keyer.key(&Credential::Token(token.clone()));
        let Some(connection) = self.connections.get_mut(id) else { return };
        let peer = connection.peer();
        let Some(pass) = connection.pass_mut() else { return };
        let begins = pass.begin_renewal(operation, key, now.mono);
        let refused = if is_too_long {
            pass.take_renewal(&key);
            PeerFault::Unauthenticated("credentials: the token is longer than 16,384 bytes")
        } else if begins {
            let verdict = authentication.remembered(&key, now.mono).or_else(|| {
                let credential = Credential::Token(token);
                let is_asked = authentication.ask(self.shard, id.as_u64(), key, credential, peer);
                (!is_asked).then_some(Err(Denial::Unavailable))
            });
            if let Some(verdict) = verdict {
                pass.take_renewal(&key);
                self.decide_renewal(now, id, operation, key, verdict);
            }
            return;
        } else {
            PeerFault::TooOften("token: a renewal is in progress")
        };
        self.answer_renewal(now, id, operation, Err(refused.into()));
    }

    /// Applies the verdict on a new token of a connection.
    fn decide_renewal(
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
            Ok(grant) => {
                *pass = Pass::new(Arc::clone(&grant), key, now);
                Ok(grant)
            }
            Err(denial) => Err((denial.name(), fault_of(denial))),
        };
        let reason = result.as_ref().map_or_else(|(reason, _)| *reason, |_| "");
        self.log_verdict(now, id, "renew", reason, (&principal, "", ""));
        let result = match result {
            Ok(grant) => {
                self.counters.auth.renewed += 1;
                self.with(now, id, |connection, env| {
                    connection.with_front(env, |front, cx| front.handle_grant(grant, cx));
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
    fn handle_changes(&mut self, now: Now, changes: &[(Key, Verdict)]) {
        let Some(authentication) = &mut self.authentication else { return };
        let mut by_key = HashMap::with_capacity(changes.len());
        for (key, verdict) in changes {
            match verdict {
                Ok(grant) => authentication.grants.replace(key, Arc::clone(grant), pass::ends(grant, now)),
                Err(_) => {
                    authentication.grants.remove(key);
                    authentication.remember(now, *key, verdict);
                }
            }
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
            Some(Ok(grant)) if **grant != *pass.grant => {
                let (grant, key) = (Arc::clone(grant), pass.key);
                *pass = Pass::new(Arc::clone(&grant), key, now);
                self.log_verdict(now, id, "change", "", (&principal, "", ""));
                self.with_dirty(now, id, |connection, env| {
                    connection.with_front(env, |front, cx| front.handle_grant(grant, cx));
                });
            }
            // The pass knows when its grant expires, and waits for a renewal in progress.
            Some(Err(Denial::Expired)) if pass.has_end() => {}
            Some(Err(denial)) => {
                self.counters.auth.revoked += 1;
                self.log_verdict(now, id, "end", denial.name(), (&principal, "", ""));
                let why = match denial {
                    Denial::Expired => EXPIRED,
                    Denial::Unavailable => UNVERIFIED,
                    _ => REVOKED,
                };
                self.with_dirty(now, id, |connection, env| connection.end_grant(why, env));
            }
            _ => {}
        }
    }

    /// Logs that an operation begins, for the audit.
    pub(super) fn log_operation(&mut self, now: Now, id: ConnectionId, name: &FullName) {
        if self.authentication.is_none() {
            return;
        }
        let Some(connection) = self.connections.get(id) else { return };
        let what = match connection.right() {
            Some(right) => right.name(),
            None => return,
        };
        let principal = connection.pass().map(|pass| Arc::clone(&pass.grant.principal));
        let principal = principal.as_deref().unwrap_or("");
        self.log_verdict(now, id, what, "", (principal, name.0.as_str(), name.1.as_str()));
    }

    /// Logs and counts an operation that no rule allows.
    pub(super) fn log_forbidden(
        &mut self,
        now: Now,
        id: ConnectionId,
        project: &Project,
        queue: Option<&QueueName>,
        fault: &Fault,
    ) {
        let Fault::Peer(PeerFault::Forbidden(right)) = fault else { return };
        self.counters.auth.forbidden += 1;
        let Some(pass) = self.connections.get(id).and_then(Connection::pass) else { return };
        let principal = Arc::clone(&pass.grant.principal);
        let queue = queue.map_or("", QueueName::as_str);
        let what = Right::ALL.into_iter().map(Right::name).find(|name| name == right).unwrap_or("operation");
        self.log_verdict(now, id, what, "no rule", (&principal, project.as_str(), queue));
    }

    /// Writes a line of the audit log. An empty reason means that the client is granted what it asks for. `names`
    /// are the principal, the project and the queue.
    fn log_verdict(
        &mut self,
        now: Now,
        id: ConnectionId,
        what: &'static str,
        reason: &str,
        (principal, project, queue): (&str, &str, &str),
    ) {
        let Some(authentication) = &mut self.authentication else { return };
        let Some(connection) = self.connections.get(id) else { return };
        let verdict = if reason.is_empty() { "granted" } else { "refused" };
        let peer = connection.peer();
        authentication.audit.log(now.mono, &Event { what, verdict, reason, principal, project, queue, peer });
        self.counters.auth.audit_dropped = authentication.audit.dropped();
    }
}

/// The reason with which operations and connections end whose credential was revoked.
const REVOKED: &str = "token revoked";
/// The reason with which they end if the provider could not be asked again for too long.
const UNVERIFIED: &str = "token not verified";

const OTHER_PRINCIPAL: PeerFault = PeerFault::Forbidden("the token belongs to another principal");

/// Returns the fault that a refused renewal reports.
fn fault_of(denial: Denial) -> Fault {
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
