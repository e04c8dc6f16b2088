//! The client side of a produce operation (protocol section 5).

use super::{Half, Outcome, Renewable, Renewal, ServerFault};
use crate::auth::Secret;
use crate::base::batch::Record;
use crate::base::units::MsgNum;
use crate::front::PbWriter;
use crate::operation::SendWindow;
use crate::pb::{
    ProduceRequest, ProduceResponse, ProduceSetupRequest, ProduceSetupResponse, SetupRequest,
    encode_produce_request,
};
use crate::ws::{MessageKind, Sender};
use prost::Message;

/// An event from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProduceEvent {
    /// The setup was accepted.
    Accepted,
    /// The outcome of the next `count` messages that had none.
    Spoken {
        /// The number of messages.
        count: u64,
        /// The server's status for these messages: stored, or refused.
        outcome: Outcome,
    },
    /// The operation failed. Messages without an outcome may or may not be stored.
    Failed(Outcome),
    /// The server's half has ended.
    Ended,
}

/// One produce operation.
#[derive(Debug)]
pub struct Producer {
    half: Half,
    window: SendWindow,
    spoken_for: MsgNum,
    accepted: bool,
    failed: bool,
    renewal: Renewal,
}

impl Producer {
    /// Starts the operation: appends its setup.
    pub fn start(queue: &str, sender: &mut Sender, out: &mut Vec<u8>) -> Self {
        let append = Some(ProduceSetupRequest { queue_name: Some(queue.to_owned()) });
        PbWriter { sender, out }.pb(&SetupRequest { get: None, append, claim: None }, false);
        Self {
            half: Half::new(),
            window: SendWindow::default(),
            spoken_for: MsgNum::ZERO,
            accepted: false,
            failed: false,
            renewal: Renewal::new(),
        }
    }

    /// Returns whether the server has answered the setup.
    pub fn is_answered(&self) -> bool {
        self.accepted
    }

    /// Returns how many messages may be sent now.
    pub fn credit(&self) -> u64 {
        if self.failed { 0 } else { self.window.available() }
    }

    /// Returns how many messages have no outcome yet.
    pub fn outstanding(&self) -> u64 {
        self.window.sent().since(self.spoken_for)
    }

    /// Appends one ProduceRequest with `count` messages to `pbs`. `count` must not exceed the credit. TTL and
    /// delay are in seconds. [`Self::frame`] then sends `pbs`, so several requests can share a frame.
    pub fn send<'a>(
        &mut self,
        ttl: Option<u32>,
        delay: Option<u32>,
        records: impl Iterator<Item = Record<'a>> + Clone,
        count: u64,
        pbs: &mut Vec<u8>,
    ) {
        self.window.send(count);
        encode_produce_request(ttl, delay, records, pbs);
    }

    /// Appends one frame that contains `pbs`.
    pub fn frame(&self, pbs: &[u8], sender: &mut Sender, out: &mut Vec<u8>) {
        sender.data(out, MessageKind::Binary, false, pbs.len(), |out| out.extend_from_slice(pbs));
    }

    /// Ends the client's half. The server answers for all messages, then ends its half.
    pub fn finish(&mut self, sender: &mut Sender, out: &mut Vec<u8>) {
        self.renewal.close();
        PbWriter { sender, out }.fin();
    }

    /// Handles a piece of the server's half.
    pub fn handle_data(
        &mut self,
        piece: &[u8],
        fin: bool,
        mut each: impl FnMut(ProduceEvent),
    ) -> Result<(), ServerFault> {
        let Self { half, window, spoken_for, accepted, failed, renewal } = self;
        half.each_pb(piece, |pb| {
            if !*accepted {
                *accepted = true;
                let setup = ProduceSetupResponse::decode(pb)?;
                let status = setup.status.unwrap_or_default();
                window.raise(MsgNum::from_wire(setup.max_msgnum_to_send));
                let outcome = Outcome::from(&status);
                *failed = !outcome.code.is_success();
                if !*failed {
                    renewal.handle_setup(&status);
                }
                each(if *failed { ProduceEvent::Failed(outcome) } else { ProduceEvent::Accepted });
                return Ok(());
            }
            let response = ProduceResponse::decode(pb)?;
            window.raise(MsgNum::from_wire(response.max_msgnum_to_send));
            if let Some(status) = &response.renewal {
                renewal.handle_renewal(status);
            }
            let Some(status) = &response.status else { return Ok(()) };
            let through = MsgNum::from_wire(response.msgnum_status_is_thru);
            let outcome = Outcome::from(status);
            if through > window.sent() || through < *spoken_for {
                return Err(ServerFault("msgnum_status_is_thru is out of order".into()));
            }
            let count = through.since(*spoken_for);
            if count == 0 {
                *failed = true;
                renewal.close();
                each(ProduceEvent::Failed(outcome));
            } else {
                *spoken_for = through;
                each(ProduceEvent::Spoken { count, outcome });
            }
            Ok(())
        })?;
        if fin {
            each(ProduceEvent::Ended);
        }
        Ok(())
    }
}

impl Renewable for Producer {
    fn renewal(&mut self) -> &mut Renewal {
        &mut self.renewal
    }

    fn send_token(&mut self, token: &Secret, sender: &mut Sender, out: &mut Vec<u8>) {
        let request = ProduceRequest { token: Some(token.expose().to_owned()), ..ProduceRequest::default() };
        PbWriter { sender, out }.pb(&request, false);
    }
}
