//! A produce operation, client side (protocol section 5).

use super::{Half, Outcome, ServerFault};
use crate::base::batch::Record;
use crate::base::units::MsgNum;
use crate::front::PbWriter;
use crate::operation::SendWindow;
use crate::pb::{
    ProduceResponse, ProduceSetupRequest, ProduceSetupResponse, SetupRequest, encode_produce_request,
};
use crate::ws::{MessageKind, Sender};
use prost::Message;

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProduceEvent {
    /// The setup was accepted.
    Accepted,
    /// The fate of the next `count` messages that had none.
    Spoken {
        /// How many.
        count: u64,
        /// Stored or not.
        outcome: Outcome,
    },
    /// The operation failed: what is not spoken for is not known to be stored.
    Failed(Outcome),
    /// The server's half has ended.
    Ended,
}

/// See the module's page.
#[derive(Debug)]
pub struct Producer {
    half: Half,
    window: SendWindow,
    spoken_for: MsgNum,
    accepted: bool,
    failed: bool,
}

impl Producer {
    /// Begins the operation: appends its setup.
    pub fn start(queue: &str, sender: &mut Sender, out: &mut Vec<u8>) -> Self {
        let append = Some(ProduceSetupRequest { queue_name: Some(queue.to_owned()) });
        PbWriter { sender, out }.pb(&SetupRequest { get: None, append }, false);
        Self {
            half: Half::new(),
            window: SendWindow::default(),
            spoken_for: MsgNum::ZERO,
            accepted: false,
            failed: false,
        }
    }

    /// How many messages may be sent now.
    pub fn credit(&self) -> u64 {
        if self.failed { 0 } else { self.window.available() }
    }

    /// How many messages have no fate yet.
    pub fn outstanding(&self) -> u64 {
        self.window.sent().since(self.spoken_for)
    }

    /// Appends one ProduceRequest of `count` messages (within the credit) to `pbs`, not yet framed: several may
    /// share a frame.
    pub fn send<'a>(
        &mut self,
        ttl: u32,
        records: impl Iterator<Item = Record<'a>> + Clone,
        count: u64,
        pbs: &mut Vec<u8>,
    ) {
        self.window.send(count);
        encode_produce_request(ttl, records, pbs);
    }

    /// Appends a frame of pbs.
    pub fn frame(&self, pbs: &[u8], sender: &mut Sender, out: &mut Vec<u8>) {
        sender.data(out, MessageKind::Binary, false, pbs.len(), |out| out.extend_from_slice(pbs));
    }

    /// Ends our half: the server answers for all, then ends its own.
    pub fn finish(&mut self, sender: &mut Sender, out: &mut Vec<u8>) {
        PbWriter { sender, out }.fin();
    }

    /// A piece of the server's half.
    pub fn handle_data(
        &mut self,
        piece: &[u8],
        fin: bool,
        mut each: impl FnMut(ProduceEvent),
    ) -> Result<(), ServerFault> {
        let Self { half, window, spoken_for, accepted, failed } = self;
        half.each_pb(piece, |pb| {
            if !*accepted {
                *accepted = true;
                let setup = ProduceSetupResponse::decode(pb)?;
                let status = setup.status.unwrap_or_default();
                window.raise(MsgNum::from_wire(setup.max_msgnum_to_send));
                let outcome = Outcome::from(&status);
                *failed = !outcome.code.is_success();
                each(if *failed { ProduceEvent::Failed(outcome) } else { ProduceEvent::Accepted });
                return Ok(());
            }
            let response = ProduceResponse::decode(pb)?;
            window.raise(MsgNum::from_wire(response.max_msgnum_to_send));
            let Some(status) = &response.status else { return Ok(()) };
            let through = MsgNum::from_wire(response.msgnum_status_is_thru);
            let outcome = Outcome::from(status);
            if through > window.sent() || through < *spoken_for {
                return Err(ServerFault("msgnum_status_is_thru out of order".into()));
            }
            let count = through.since(*spoken_for);
            if count == 0 {
                *failed = true;
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
