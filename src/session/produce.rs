//! One produce operation, server side (protocol section 5).
//!
//! Payloads are copied into the open batch; a batch that is closed goes to the shard and waits in `pending`
//! until its fate is known; numbers are spoken for in order.

use std::collections::VecDeque;

use super::command::{Command, OperationId};
use super::context::{Cx, status_of};
use super::credit::{MsgNum, ReceiveWindow};
use super::pb_writer::PbWriter;
use crate::batch::BatchBuilder;
use crate::error::{Fault, PeerFault, StatusCode, StoreFault};
use crate::limits::{APPEND_BATCH_BYTES, FATES_MAX};
use crate::names::ClientId;
use crate::pb::{ProduceResponse, ProduceSetupResponse, Status, decode_produce_request, first_ttl};

type Fate = Result<(), Fault>;

/// Messages whose fate is one. Invariant of the queue of them: `through` grows.
#[derive(Debug)]
struct Pending {
    through: MsgNum,
    /// Bytes of the budget that are held until the store has answered.
    reserved: usize,
    fate: Option<Fate>,
}

/// The batch that payloads are copied into.
#[derive(Debug)]
struct Open {
    builder: BatchBuilder,
    through: MsgNum,
    reserved: usize,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Produce {
    operation: OperationId,
    client: ClientId,
    partition: u16,
    window: ReceiveWindow,
    /// The highest grant that the client was told.
    told: MsgNum,
    open: Option<Open>,
    /// The oldest first; those before `first_sequence` are spoken for.
    pending: VecDeque<Pending>,
    first_sequence: u64,
    /// Bytes reserved by `open` and `pending`.
    outstanding_bytes: usize,
}

impl Produce {
    /// An operation whose setup was accepted; says so to the client.
    pub(super) fn start(operation: OperationId, client: ClientId, partition: u16, cx: &mut Cx<'_>) -> Self {
        let mut window = ReceiveWindow::new(cx.settings.produce_window);
        if !cx.budget.is_tight() {
            window.grant();
        }
        cx.reply.pb(
            &ProduceSetupResponse {
                status: Some(status(StatusCode::CONTINUE)),
                max_msgnum_to_send: Some(window.granted().to_wire()),
            },
            false,
        );
        Self {
            operation,
            client,
            partition,
            window,
            told: window.granted(),
            open: None,
            pending: VecDeque::new(),
            first_sequence: 0,
            outstanding_bytes: 0,
        }
    }

    /// Whether so much is outstanding that no more may be read.
    #[inline]
    pub(super) fn is_full(&self, cx: &Cx<'_>) -> bool {
        self.outstanding_bytes >= cx.settings.produce_window_bytes || self.pending.len() >= FATES_MAX
    }

    /// Whether the fate of the next messages is known and not yet said.
    pub(super) fn has_more_to_say(&self) -> bool {
        self.pending.front().is_some_and(|pending| pending.fate.is_some())
    }

    /// One ProduceRequest, whose length is reserved; `expected` more bytes have come already.
    pub(super) fn handle_pb(&mut self, pb: &[u8], expected: usize, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let before = self.window.received();
        let guess = first_ttl(pb).unwrap_or(cx.settings.ttl_secs.0);
        let max = cx.settings.max_payload_bytes;
        let open = self.open_batch(guess, pb.len(), expected, cx);
        let savepoint = open.builder.savepoint();
        let mut too_large = false;
        let decoded = decode_produce_request(pb, |payload| {
            if payload.len() > max {
                too_large = true;
            } else {
                open.builder.push(payload);
            }
        });
        let judged = match decoded {
            Ok(head) if head.payloads == 0 => Err(PeerFault::PbInvalid("payloads: at least one".into())),
            Ok(head) => self.window.receive(head.payloads).map(|last| (head, last)),
            Err(malformed) => Err(PeerFault::PbInvalid(malformed.0.into())),
        };
        let (head, last) = match judged {
            Ok(judged) => judged,
            Err(fault) => {
                self.roll_back(savepoint);
                cx.budget.release(pb.len());
                return Err(fault.into());
            }
        };
        let ttl = match head.ttl {
            Some(ttl) if (cx.settings.ttl_secs.0..=cx.settings.ttl_secs.1).contains(&ttl) => ttl,
            ttl => {
                self.roll_back(savepoint);
                self.refuse(last, PeerFault::Ttl { ttl, range: cx.settings.ttl_secs }, cx);
                cx.budget.release(pb.len());
                return Ok(());
            }
        };
        if head.keys > 0 {
            self.roll_back(savepoint);
            self.refuse(last, PeerFault::PbInvalid("keys: not served yet".into()), cx);
            cx.budget.release(pb.len());
            return Ok(());
        }
        if ttl != guess || too_large {
            self.roll_back(savepoint);
            self.store_one_by_one(pb, before, ttl, cx);
        } else if let Some(open) = &mut self.open {
            open.through = last;
            open.reserved += pb.len();
            self.outstanding_bytes += pb.len();
        }
        if self.open.as_ref().is_some_and(|open| open.builder.stored_bytes() >= APPEND_BATCH_BYTES) {
            self.close_batch(cx);
        }
        Ok(())
    }

    /// The rare case: a TTL that comes late in the pb, or payloads that are too large among others.
    fn store_one_by_one(&mut self, pb: &[u8], before: MsgNum, ttl: u32, cx: &mut Cx<'_>) {
        let max = cx.settings.max_payload_bytes;
        let mut payloads = Vec::new();
        // It was decoded before, so it decodes.
        let _ = decode_produce_request(pb, |payload| payloads.push(payload));
        let mut kept = 0;
        for (index, payload) in payloads.into_iter().enumerate() {
            let number = before.plus(index as u64 + 1);
            if payload.len() > max {
                self.refuse(number, PeerFault::PayloadTooLarge { bytes: payload.len(), max }, cx);
            } else {
                let open = self.open_batch(ttl, pb.len(), 0, cx);
                open.builder.push(payload);
                open.through = number;
                open.reserved += payload.len();
                kept += payload.len();
                self.outstanding_bytes += payload.len();
            }
        }
        cx.budget.release(pb.len() - kept);
    }

    /// The open batch, if it has this TTL, or a new one.
    #[inline]
    fn open_batch(&mut self, ttl: u32, pb_bytes: usize, expected: usize, cx: &mut Cx<'_>) -> &mut Open {
        match &mut self.open {
            Some(open) if open.builder.ttl_secs() == ttl => {}
            Some(open) if open.builder.count() == 0 => open.builder.set_ttl_secs(ttl),
            _ => self.close_batch(cx),
        }
        let (client, through) = (self.client, self.window.received());
        self.open.get_or_insert_with(|| {
            let bytes = pb_bytes + expected.min(APPEND_BATCH_BYTES);
            // Four bytes before a payload take the place of two or three on the wire.
            Open { builder: BatchBuilder::new(client, ttl, bytes + bytes / 16 + 16), through, reserved: 0 }
        })
    }

    fn roll_back(&mut self, savepoint: crate::batch::Savepoint) {
        if let Some(open) = &mut self.open {
            open.builder.roll_back(savepoint);
            if open.builder.count() == 0 && open.reserved == 0 {
                self.open = None;
            }
        }
    }

    /// Every message up to `through` that is not in a batch has this fate.
    fn refuse(&mut self, through: MsgNum, fault: PeerFault, cx: &mut Cx<'_>) {
        self.close_batch(cx);
        self.pending.push_back(Pending { through, reserved: 0, fate: Some(Err(fault.into())) });
    }

    /// Sends the open batch to the shard.
    pub(super) fn close_batch(&mut self, cx: &mut Cx<'_>) {
        let Some(Open { builder, through, reserved }) = self.open.take() else { return };
        if builder.count() == 0 {
            cx.budget.release(reserved);
            self.outstanding_bytes -= reserved;
            return;
        }
        let sequence = self.first_sequence + self.pending.len() as u64;
        self.pending.push_back(Pending { through, reserved, fate: None });
        cx.commands.push(Command::Append {
            operation: self.operation,
            sequence,
            partition: self.partition,
            batch: builder.close(),
            reserved,
        });
    }

    /// The store's answer; a fault, where nothing later may be accepted.
    pub(super) fn handle_appended(&mut self, sequence: u64, result: Result<(), StoreFault>) -> Option<Fault> {
        let index = usize::try_from(sequence.checked_sub(self.first_sequence)?).ok()?;
        let pending = self.pending.get_mut(index)?;
        debug_assert!(pending.fate.is_none(), "a batch is answered once");
        self.outstanding_bytes -= pending.reserved;
        let fate = result.map_err(Fault::from);
        pending.fate = Some(fate.clone());
        fate.err()
    }

    /// Speaks for every message whose fate is known, and gives credit.
    pub(super) fn speak(&mut self, cx: &mut Cx<'_>) {
        while cx.has_space()
            && let Some(Pending { fate: Some(fate), through, .. }) =
                self.pending.pop_front_if(|pending| pending.fate.is_some())
        {
            self.first_sequence += 1;
            let mut through = through;
            while let Some(next) = self.pending.pop_front_if(|pending| pending.fate.as_ref() == Some(&fate)) {
                self.first_sequence += 1;
                through = next.through;
            }
            self.window.speak_for(through);
            self.grant(cx);
            let status = match &fate {
                Ok(()) => status(StatusCode::CREATED),
                Err(fault) => status_of(fault),
            };
            self.respond(Some(status), through.to_wire(), false, &mut cx.reply);
        }
        // Credit alone, where no response is to come that could carry it.
        self.grant(cx);
        if self.is_settled() && self.window.granted() > self.told {
            self.respond(None, self.window.spoken_for().to_wire(), false, &mut cx.reply);
        }
    }

    /// Raises the credit, unless memory is short.
    fn grant(&mut self, cx: &Cx<'_>) {
        if !cx.budget.is_tight() && !self.is_full(cx) {
            self.window.grant();
        }
    }

    /// Whether more credit is wanted than could be given.
    pub(super) fn is_starved(&self) -> bool {
        self.is_settled() && self.window.is_low()
    }

    /// Whether every message that was received is spoken for.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.open.is_none()
    }

    /// The pb that ends a failed operation.
    pub(super) fn finish_failed(&mut self, fault: &Fault, cx: &mut Cx<'_>) {
        let through = match fault {
            Fault::Peer(PeerFault::CreditExceeded { sent, .. }) => *sent,
            _ => self.window.spoken_for().to_wire(),
        };
        self.respond(Some(status_of(fault)), through, true, &mut cx.reply);
    }

    /// The connection is gone: gives back what no answer will give back.
    pub(super) fn abandon(&mut self, cx: &mut Cx<'_>) {
        if let Some(open) = self.open.take() {
            cx.budget.release(open.reserved);
        }
    }

    fn respond(&mut self, status: Option<Status>, through: i64, fin: bool, reply: &mut PbWriter<'_>) {
        self.told = self.window.granted();
        reply.pb(
            &ProduceResponse {
                status,
                msgnum_status_is_thru: Some(through),
                max_msgnum_to_send: Some(self.told.to_wire()),
                first_id: None,
                last_id: None,
            },
            fin,
        );
    }
}

fn status(code: StatusCode) -> Status {
    Status { status_code: Some(code.0), reason_phrase: None }
}
