//! What the client has shown of itself, and what it may do.
//!
//! Where clients must authenticate, a connection begins as a stranger's unless its handshake shows a credential. A stranger
//! may authenticate, and make requests that carry a signature. Afterwards each request must name a project of the client's
//! grant, and needs a right on its queue.

use std::borrow::Cow;

use super::super::action::Action;
use super::super::request::Request;
use super::super::texts;
use super::outcome::{Body, Outcome};
use super::task::{Call, Progress, Task};
use super::{Session, begin, post};
use crate::access::{Permission, Right, own_client};
use crate::base::attributes::DEAD_QUEUE;
use crate::base::clock::{Now, read_iso8601};
use crate::base::error::{Fault, PeerFault, StoreFault};
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::{FullName, Project, QueueName};
use crate::base::secret::Secret;
use crate::front::Cx;
use crate::operation::{Answer, Caller, Command, Login, OperationId, Settings};
use crate::ws::CloseCode;

/// The largest request of a stranger if the server has no signing key: enough for the longest token.
const STRANGER_BYTES: usize = 32 << 10;

/// The reason of the Close of a stranger that does not authenticate in time.
const TOO_LATE: &str = "not authenticated within auth_timeout";

/// The most paths, and the most methods, of a signature.
const SIGNED_PARTS_MAX: usize = 16;

/// The principal that Client-IDs of signed requests belong to.
const SIGNED: &str = "signature";

/// Who the client is, as far as the connection knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Clients need not authenticate.
    Anyone,
    /// It has not authenticated. The connection ends at this time unless it does.
    Stranger(Millis),
    /// It has a grant.
    Known,
    /// Its grant has ended.
    Over,
}

/// The access of a connection's client.
#[derive(Debug)]
pub(super) struct Access {
    standing: Standing,
    /// Whether a token is being checked. Requests behind it wait for the verdict.
    is_asking: bool,
    /// Whether a signature was shown, so that the client need not authenticate.
    is_vouched: bool,
    /// Whether the client has not authenticated in time.
    was_late: bool,
}

impl Access {
    pub(super) fn new(standing: Standing) -> Self {
        Self { standing, is_asking: false, is_vouched: false, was_late: false }
    }

    /// Returns the largest request that is read.
    pub(super) fn request_max(&self, settings: &Settings) -> usize {
        match self.standing {
            Standing::Stranger(_) if settings.signing_key.is_none() => {
                settings.zaqar_max_request_bytes.min(STRANGER_BYTES)
            }
            _ => settings.zaqar_max_request_bytes,
        }
    }

    /// Returns whether the access has ended.
    pub(super) fn is_over(&self) -> bool {
        self.standing == Standing::Over
    }

    /// Returns whether no request is read now.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_asking || self.is_over()
    }

    /// Returns when the client must have authenticated.
    pub(super) fn due(&self) -> Option<Millis> {
        match self.standing {
            // The verdict has a time of its own.
            Standing::Stranger(until) if !self.is_asking => Some(until),
            _ => None,
        }
    }

    /// Returns whether the client has not authenticated in time.
    pub(super) fn is_late(&mut self, now: Now) -> bool {
        self.was_late |= self.due().is_some_and(|due| due <= now.mono);
        self.was_late
    }

    /// Ends the access.
    pub(super) fn end(&mut self) {
        self.standing = Standing::Over;
    }

    /// Handles that a signature is good until a time. Returns true for the first one.
    fn vouch(&mut self, until: Millis) -> bool {
        if let Standing::Stranger(before) = &mut self.standing {
            *before = until.max(*before);
        }
        !std::mem::replace(&mut self.is_vouched, true)
    }
}

impl Session {
    /// Begins to authenticate the client.
    pub(super) fn authenticate(
        &mut self,
        operation: OperationId,
        request: &Request<'_>,
        cx: &mut Cx<'_>,
    ) -> Progress {
        match self.access.standing {
            Standing::Anyone => return Progress::Done(authenticated()),
            Standing::Over => return Progress::Done(Outcome::refused(401, texts::AUTHENTICATION_FAILED)),
            // Otherwise one token after another would put the end off.
            Standing::Stranger(until) if until <= cx.resources.now.mono => {
                self.access.was_late = true;
                return Progress::Done(Outcome::refused(401, texts::AUTHENTICATION_FAILED));
            }
            Standing::Stranger(_) | Standing::Known => {}
        }
        let token = Secret::new(request.headers.token.as_deref().unwrap_or_default());
        let project = match &*request.headers.project {
            "" => Some(self.caller.project.clone()),
            named => Project::parse(named).ok(),
        };
        cx.resources.commands.push(Command::Authenticate { operation, token, project });
        self.access.is_asking = true;
        Progress::Waits(Box::new(Authenticating))
    }

    /// Handles the verdict on a token. A refused one changes nothing.
    pub(super) fn handle_authenticated(&mut self, result: &Result<Login, Fault>, cx: &mut Cx<'_>) {
        self.access.is_asking = false;
        if let Ok(Login { project, granted }) = result
            && self.access.standing != Standing::Over
        {
            self.caller.project = project.clone();
            self.caller.granted = Some(granted.clone());
            self.access.standing = Standing::Known;
            self.end_forbidden(cx);
        }
    }

    /// Ends the subscriptions that the client's grant does not allow.
    pub(super) fn end_forbidden(&mut self, cx: &mut Cx<'_>) {
        let Some(grant) = self.caller.grant().cloned() else { return };
        let may = |(project, queue): &FullName| {
            grant.reaches(project) && grant.allows(Right::Consume, queue.as_str())
        };
        self.subscriptions.end_forbidden(may, &mut cx.resources);
    }

    /// Returns the project of a request. An error is the outcome of one that the client may not make there.
    pub(super) fn enter(&mut self, request: &Request<'_>, cx: &mut Cx<'_>) -> Result<Project, Outcome> {
        let named = self.project(&request.headers.project);
        let ends = self.caller.granted.as_ref().and_then(|granted| granted.ends);
        // The connection learns of the end a little later.
        if ends.is_some_and(|ends| ends <= cx.resources.now.mono) {
            return Err(Outcome::refused(403, texts::NOT_AUTHENTICATED));
        }
        match (self.access.standing, self.caller.grant()) {
            (Standing::Anyone, _) => named.map_err(|fault| Outcome::bad(fault.to_string())),
            (Standing::Known, Some(grant)) => {
                let own = named.ok().filter(|project| grant.reaches(project));
                own.ok_or_else(|| Outcome::refused(403, texts::OTHER_PROJECT))
            }
            (Standing::Stranger(_), _) => {
                self.enter_signed(request, cx).ok_or_else(|| Outcome::refused(403, texts::NOT_AUTHENTICATED))
            }
            (Standing::Known | Standing::Over, _) => Err(Outcome::refused(403, texts::NOT_AUTHENTICATED)),
        }
    }

    /// Returns the project of a request that a valid signature permits.
    fn enter_signed(&mut self, request: &Request<'_>, cx: &mut Cx<'_>) -> Option<Project> {
        let key = cx.resources.settings.signing_key.as_ref()?;
        let (method, queue) = signable(&request.action)?;
        let signed = request.headers.presigned()?;
        if signed.paths.len().max(signed.methods.len()) > SIGNED_PARTS_MAX {
            return None;
        }
        // The signature names the project, so a request that leaves it open cannot be meant.
        let project = Project::parse(&request.headers.project).ok()?;
        let permission = Permission {
            paths: signed.paths.iter().map(|path| &**path).collect(),
            methods: signed.methods.iter().map(|method| &**method).collect(),
            project: &request.headers.project,
            expires: whole_seconds(read_iso8601(&signed.expires)?),
        };
        let now = cx.resources.now;
        let path = format!("/v2/queues/{queue}/messages");
        let permits = permission.paths.contains(&&*path)
            && permission.methods.contains(&method)
            && permission.expires > now.unix
            && key.verifies(&permission, &signed.signature);
        if !permits {
            return None;
        }
        if self.access.vouch(now.mono + permission.expires.since(now.unix)) {
            cx.resources.commands.push(Command::Vouch);
        }
        Some(project)
    }

    /// Returns the request with the Client-ID among all principals: the same id of another principal is another client. `None`
    /// if it stays as it is: clients need not authenticate, or it is no id and refused where one is needed.
    pub(super) fn of_own_client<'a>(&self, request: &Request<'a>) -> Option<Request<'a>> {
        let principal = match self.access.standing {
            Standing::Anyone => return None,
            _ => self.caller.grant().map_or(SIGNED, |grant| &*grant.principal),
        };
        let mut own = request.clone();
        let client = post::client_id(&request.headers.client).ok()?;
        own.headers.client = Cow::Owned(own_client(principal, client).to_string());
        Some(own)
    }

    /// Returns the outcome of a request that the client's grant does not allow. A signature has allowed its request.
    pub(super) fn forbidden(
        &mut self,
        project: &Project,
        request: &Request<'_>,
        cx: &mut Cx<'_>,
    ) -> Option<Outcome> {
        let (queue, rights) = begin::rights(&request.action)?;
        // What has no valid name exists for nobody.
        let name = QueueName::parse(queue).ok()?;
        let caller = Caller { project: project.clone(), ..self.caller.clone() };
        let right = *rights.first()?;
        self.named = Some((name.clone(), right));
        let (right, name) = if !rights.iter().any(|right| caller.may(*right, &name)) {
            (right, name)
        } else {
            // Dead letters are stored there on behalf of the client.
            let other =
                dead_letter_queue(&request.action).filter(|name| !caller.may(Right::Produce, name))?;
            (Right::Produce, other)
        };
        let fault = Fault::from(PeerFault::Forbidden(right.name()));
        let report = Command::Report { project: project.clone(), queue: Some(name), fault: fault.clone() };
        cx.resources.commands.push(report);
        Some(Outcome::refused(403, fault.to_string()))
    }

    /// Returns whether the client may create a queue by using it.
    pub(super) fn may_create(&self, (project, name): &FullName) -> bool {
        let caller = Caller { project: project.clone(), ..self.caller.clone() };
        [Right::Produce, Right::Manage].iter().any(|right| caller.may(*right, name))
    }

    /// Returns the code and the reason of a Close that is due.
    pub fn farewell(&self) -> Option<(CloseCode, &'static str)> {
        let code = self.close?;
        Some((code, if self.access.was_late { TOO_LATE } else { "" }))
    }
}

/// Returns a time without its fraction of a second, which a signature does not cover.
fn whole_seconds(at: UnixMillis) -> UnixMillis {
    UnixMillis::new(at.get() / 1_000 * 1_000)
}

/// A client that is being authenticated.
#[derive(Debug)]
struct Authenticating;

impl Task for Authenticating {
    fn answer(&mut self, answer: Answer, _call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        let Answer::Authenticated(result) = answer else { return None };
        Some(Ok(match result {
            Ok(_) => authenticated(),
            Err(Fault::Peer(PeerFault::Unauthenticated(_))) => {
                Outcome::refused(401, texts::AUTHENTICATION_FAILED)
            }
            Err(fault) => {
                let status = u16::try_from(fault.status().0).unwrap_or(500);
                Outcome::refused(status, fault.to_string())
            }
        }))
    }
}

/// The answer to a token that is accepted.
fn authenticated() -> Outcome {
    Outcome::new(200, Body::Said(texts::AUTHENTICATED))
}

/// Returns the method that a signature must permit for an action, and the queue. `None` if none permits it.
fn signable<'a>(action: &'a Action<'_>) -> Option<(&'static str, &'a str)> {
    match action {
        Action::MessageList { queue, .. }
        | Action::MessageGet { queue, .. }
        | Action::MessageGetMany { queue, .. } => Some(("GET", queue)),
        Action::MessagePost { queue, .. } => Some(("POST", queue)),
        Action::MessageDelete { queue, .. } | Action::MessageDeleteMany { queue, .. } => {
            Some(("DELETE", queue))
        }
        _ => None,
    }
}

/// Returns the dead-letter queue that a new queue would have.
fn dead_letter_queue(action: &Action<'_>) -> Option<QueueName> {
    let Action::QueueCreate { metadata: Ok(Some(metadata)), .. } = action else { return None };
    let [named] = metadata.named([DEAD_QUEUE]);
    QueueName::parse(&named?.as_text()?).ok()
}
