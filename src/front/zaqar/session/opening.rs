//! The queue of a request: opens it, and creates it if the request may.

use super::super::action::Action;
use super::super::request::Request;
use super::super::texts;
use super::begin::Needs;
use super::known::KnownQueue;
use super::outcome::Outcome;
use super::pending::State;
use super::task::{Call, Progress};
use super::{Session, begin, queues};
use crate::base::error::{Fault, StoreFault};
use crate::base::names::FullName;
use crate::front::Cx;
use crate::operation::{Answer, Command, Order};

impl Session {
    /// Handles that the queue of a request was opened, or not.
    pub(super) fn handle_opened(&mut self, index: usize, name: FullName, answer: Answer, cx: &mut Cx<'_>) {
        let Answer::Opened { result, .. } = answer else { return };
        match result {
            Ok(info) => {
                self.known.add(KnownQueue { name, info });
                self.begin_at(index, cx);
            }
            Err(Fault::Store(StoreFault::NoQueue)) => self.handle_missing(index, name, cx),
            Err(fault) => self.fail(index, fault, cx),
        }
    }

    /// Handles that the queue of a request does not exist.
    fn handle_missing(&mut self, index: usize, name: FullName, cx: &mut Cx<'_>) {
        let may_create = self.may_create(&name);
        let Some(pending) = self.pending.get_mut(index) else { return };
        let Ok(request) = Request::parse(pending.format, &pending.text) else { return };
        let is_made = matches!(begin::needs(&request.action), Needs::MadeQueue(_));
        if self.access.is_over() {
            let outcome = Outcome::refused(403, texts::NOT_AUTHENTICATED);
            self.finish(index, outcome, cx);
        } else if is_made && !may_create {
            // As if queues were not created on their first use.
            let outcome = Outcome::store_fault(StoreFault::NoQueue);
            self.finish(index, outcome, cx);
        } else if is_made {
            let operation = pending.operation;
            let order = Order::Make(name.clone(), queues::new_queue());
            cx.resources.commands.push(Command::Order { operation, order });
            pending.state = State::Creating(name);
        } else {
            self.handle_absent(index, &name, cx);
        }
    }

    /// Ends a request whose queue does not exist and is not made.
    fn handle_absent(&mut self, index: usize, name: &FullName, cx: &mut Cx<'_>) {
        let Some(pending) = self.pending.get_mut(index) else { return };
        let Ok(request) = Request::parse(pending.format, &pending.text) else { return };
        let outcome = match &request.action {
            Action::QueuePurge { .. } => {
                // Subscriptions outlive their queue.
                let (operation, mut reserved) = (pending.operation, 0);
                let mut call = Call { operation, resources: &mut cx.resources, reserved: &mut reserved };
                match begin::without(&request, &name.0, self.caller.grant(), &mut call) {
                    Progress::Waits(task) => return pending.state = State::Running(task),
                    Progress::Done(outcome) => outcome,
                }
            }
            _ => begin::without_queue(&request),
        };
        self.finish(index, outcome, cx);
    }

    /// Handles that the queue of a request was created, or not.
    pub(super) fn handle_created(&mut self, index: usize, name: FullName, answer: Answer, cx: &mut Cx<'_>) {
        let Answer::Wished(result) = answer else { return };
        match result {
            Ok(created) => {
                self.known.add(KnownQueue { name, info: created.queue.info });
                self.begin_at(index, cx);
            }
            Err(fault) => self.finish(index, queues::not_granted(&fault), cx),
        }
    }
}
