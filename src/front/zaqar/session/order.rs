//! The order of the requests: which may be under way together, and how one begins.

use std::sync::Arc;

use super::super::action::Action;
use super::super::document::Node;
use super::super::request::Request;
use super::super::texts;
use super::begin::Needs;
use super::known::KnownQueue;
use super::outcome::Outcome;
use super::pending::{Class, Pending, State};
use super::task::{Call, Progress};
use super::{Session, UNWRITTEN_BYTES, begin, subscribed};
use crate::access::Tenant;
use crate::base::error::{Fault, PeerFault};
use crate::base::names::{Project, QueueName};
use crate::front::Cx;
use crate::operation::Command;

impl Session {
    /// Returns whether a request of a class may begin behind the first `before` requests.
    pub(super) fn may_begin(&self, before: usize, class: Class) -> bool {
        if self.unwritten_bytes >= UNWRITTEN_BYTES {
            return false;
        }
        let mut running = 0;
        let allow = self.pending.iter().take(before).all(|pending| match pending.state {
            State::Done(_) => true,
            State::Running(_) => {
                running += 1;
                pending.class == class
            }
            State::Waiting | State::Opening(_) | State::Creating(_) | State::Subscribing => false,
        });
        allow && running < class.running_max()
    }

    /// Begins the requests that wait and may.
    pub(super) fn advance(&mut self, cx: &mut Cx<'_>) {
        let mut index = 0;
        while index < self.pending.len() {
            if matches!(self.pending[index].state, State::Waiting) {
                if !self.may_begin(index, self.pending[index].class) {
                    return;
                }
                self.begin_at(index, cx);
            }
            index += 1;
        }
    }

    /// Begins a request, or begins it again.
    pub(super) fn begin_at(&mut self, index: usize, cx: &mut Cx<'_>) {
        let Some(mut pending) = self.pending.remove(index) else { return };
        let text = std::mem::take(&mut pending.text);
        if let Ok(request) = Request::parse(pending.format, &text) {
            self.begin(&mut pending, &request, cx);
        }
        pending.text = text;
        self.pending.insert(index, pending);
    }

    pub(super) fn begin(&mut self, pending: &mut Pending, request: &Request<'_>, cx: &mut Cx<'_>) {
        pending.state = match self.progress(pending, request, cx) {
            Ok(Progress::Waits(task)) => State::Running(task),
            Ok(Progress::Done(outcome)) => self.done(pending, outcome, cx),
            Err(state) => state,
        };
    }

    /// Begins a request. An error is the state of one that does not begin yet.
    fn progress(
        &mut self,
        pending: &mut Pending,
        request: &Request<'_>,
        cx: &mut Cx<'_>,
    ) -> Result<Progress, State> {
        let done = |outcome| Ok(Progress::Done(outcome));
        if self.is_draining {
            return done(Outcome::fault(&Fault::Draining));
        }
        let operation = pending.operation;
        if let Action::Authenticate = request.action {
            return Ok(self.authenticate(operation, request, cx));
        }
        let project = match self.enter(request, cx) {
            Ok(project) => project,
            Err(outcome) => return done(outcome),
        };
        let own = self.of_own_client(request);
        let request = own.as_ref().unwrap_or(request);
        if let Some(outcome) = self.forbidden(&project, request, cx) {
            return done(outcome);
        }
        let (name, is_made) = match begin::needs(&request.action) {
            Needs::Nothing => {
                let mut reserved = 0;
                let mut call = Call { operation, resources: &mut cx.resources, reserved: &mut reserved };
                return Ok(begin::without(request, &project, self.caller.grant(), &mut call));
            }
            Needs::Queue(name) => (QueueName::parse(name), false),
            Needs::MadeQueue(name) => (QueueName::parse(name), true),
        };
        let name = match name {
            Ok(name) => name,
            Err(fault) if is_made => return done(begin::bad_name(&fault)),
            Err(_) => return done(begin::without_queue(request)),
        };
        let Some(queue) = self.known.get(&project, &name) else {
            let name = (project, name);
            let open =
                Command::Open { operation, name: name.clone(), may_create: false, needs_claims: false };
            cx.resources.commands.push(open);
            return Err(State::Opening(name));
        };
        pending.queue = Some(queue.info.id);
        if let Action::SubscriptionCreate { subscriber, ttl, options, .. } = &request.action {
            return self.subscribe(pending, queue, (subscriber.as_deref(), *ttl, *options), cx);
        }
        let tenant = self.tenant(&project, cx);
        if pending.class == Class::Claim {
            self.turn = self.turn.wrapping_add(1);
        }
        // The request itself is kept until it is answered.
        let mut reserved = pending.reserved / 2;
        let kept = pending.reserved - reserved;
        let mut call = Call { operation, resources: &mut cx.resources, reserved: &mut reserved };
        let progress = begin::with(request, queue, &tenant, self.turn, &mut call);
        pending.reserved = kept + reserved;
        Ok(progress)
    }

    /// Begins a subscription of this connection to a queue.
    fn subscribe(
        &mut self,
        pending: &Pending,
        queue: KnownQueue,
        (subscriber, ttl, options): (Option<&str>, Option<i64>, Option<Node<'_>>),
        cx: &mut Cx<'_>,
    ) -> Result<Progress, State> {
        let checked = subscribed::check(subscriber, ttl).and_then(|ttl| {
            let name = queue.name.1.as_str();
            if self.subscriptions.has(&queue.name) {
                return Err(Outcome::text(409, texts::subscription_not_created(name)));
            }
            if self.subscriptions.is_full_for(&queue) {
                return Err(subscribed::too_many());
            }
            Ok((ttl, subscribed::options(options)?))
        });
        let (ttl, options) = match checked {
            Ok(checked) => checked,
            Err(outcome) => return Ok(Progress::Done(outcome)),
        };
        let operation = self.next_operation();
        self.subscriptions.begin(queue, (operation, pending.operation), ttl, options, &mut cx.resources);
        Err(State::Subscribing)
    }

    /// Returns the project of a request.
    pub(super) fn project(&self, name: &str) -> Result<Project, PeerFault> {
        match name {
            "" => Ok(self.caller.project.clone()),
            name if name == self.caller.project.as_str() => Ok(self.caller.project.clone()),
            name => match &self.tenant {
                Some((project, _)) if project.as_str() == name => Ok(project.clone()),
                _ => Project::parse(name),
            },
        }
    }

    /// Returns what the project uses.
    fn tenant(&mut self, project: &Project, cx: &Cx<'_>) -> Arc<Tenant> {
        match &self.tenant {
            Some((last, tenant)) if last == project => tenant.clone(),
            _ => {
                let tenant = self.tenants.get(project, cx.resources.now.mono);
                self.tenant = Some((project.clone(), tenant.clone()));
                tenant
            }
        }
    }
}
