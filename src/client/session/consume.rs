//! The client side of a consume operation (protocol section 6).

use super::{Half, Outcome, Renewable, Renewal, ServerFault};
use crate::auth::Secret;
use crate::base::units::MsgNum;
use crate::front::PbWriter;
use crate::pb::{
    ConsumeRequest, ConsumeResponseReader, ConsumeSetupRequest, ReceivedMessage, SetupRequest, Status,
};
use crate::ws::Sender;
use prost::Message;

/// The parameters of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumeOptions {
    /// The queue, or `queue/<n>` for one partition.
    pub queue: String,
    /// The `starting_marker`. Empty means the oldest message.
    pub from: String,
    /// Whether to also receive messages that the same client sent.
    pub echo: bool,
    /// How many messages the server may send ahead of what was received.
    pub window: u64,
    /// The most messages to receive in total, if limited. The server may always send 100.
    pub count: Option<u64>,
}

/// One consume operation.
#[derive(Debug)]
pub struct Consumer {
    half: Half,
    window: u64,
    count: Option<u64>,
    received: MsgNum,
    /// The highest message number that the server may send, as granted so far.
    granted: MsgNum,
    accepted: bool,
    /// How the server ended the operation, if it failed.
    failure: Option<Outcome>,
    ended: bool,
    marker_wanted: bool,
    /// Whether the server has reported a rewind, and no message has arrived since.
    is_rewound: bool,
    renewal: Renewal,
}

impl Consumer {
    /// Starts the operation: appends its setup, the first credit and a request for a marker.
    pub fn start(options: &ConsumeOptions, sender: &mut Sender, out: &mut Vec<u8>) -> Self {
        let get = Some(ConsumeSetupRequest {
            queue_name: Some(options.queue.clone()),
            echo_requested: Some(options.echo),
            include_claimed: None,
            starting_marker: Some(options.from.clone()),
            group: None,
            // This field has a number from 100 up. That tells the server that it may report a rewind at once.
            without_headers: Some(false),
        });
        PbWriter { sender, out }.pb(&SetupRequest { get, append: None, claim: None }, false);
        let mut consumer = Self {
            half: Half::new(),
            window: options.window,
            count: options.count,
            received: MsgNum::ZERO,
            granted: MsgNum::ZERO,
            accepted: false,
            failure: None,
            ended: false,
            marker_wanted: true,
            is_rewound: false,
            renewal: Renewal::new(),
        };
        consumer.poll_transmit(sender, out);
        consumer
    }

    /// Requests a marker with the next credit.
    pub fn want_marker(&mut self) {
        self.marker_wanted = true;
    }

    /// Raises the total by `count`, because that many received messages were already known.
    pub fn want_more(&mut self, count: u64) {
        self.count = self.count.map(|wanted| wanted.saturating_add(count));
    }

    /// Appends new credit once half of the window is used, and a request for a marker if one is wanted.
    pub fn poll_transmit(&mut self, sender: &mut Sender, out: &mut Vec<u8>) {
        let mut goal = self.received.plus(self.window);
        if let Some(count) = self.count {
            goal = goal.min(MsgNum::ZERO.plus(count));
        }
        // The rest of the total may be less than half a window.
        let last = self.count.is_some_and(|count| goal == MsgNum::ZERO.plus(count));
        let low = goal.since(self.granted) > self.window / 2 || self.granted == MsgNum::ZERO || last;
        if (low && goal > self.granted) || self.marker_wanted {
            self.granted = self.granted.max(goal);
            let request = ConsumeRequest {
                token: None,
                send_marker: Some(std::mem::take(&mut self.marker_wanted)),
                max_msgnum_to_send: Some(self.granted.to_wire()),
                commit_marker: None,
            };
            PbWriter { sender, out }.pb(&request, false);
        }
    }

    /// Ends the client's half. The server sends a marker that it owes, then ends its half.
    pub fn finish(&mut self, sender: &mut Sender, out: &mut Vec<u8>) {
        self.renewal.close();
        PbWriter { sender, out }.fin();
    }

    /// Returns how the server ended the operation, if it failed.
    pub fn failure(&self) -> Option<&Outcome> {
        self.failure.as_ref()
    }

    /// Returns whether the server accepted the operation (status 100) and it has not failed.
    pub fn is_accepted(&self) -> bool {
        self.accepted && self.failure.is_none()
    }

    /// Returns whether the server's half has ended.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Handles a piece of the server's half. Calls `each` with every message. A message without a payload
    /// only carries a marker.
    pub fn handle_data(
        &mut self,
        piece: &[u8],
        fin: bool,
        mut each: impl FnMut(&ReceivedMessage<'_>),
    ) -> Result<(), ServerFault> {
        let Self { half, received, accepted, failure, is_rewound, renewal, .. } = self;
        half.each_pb(piece, |pb| {
            if !*accepted {
                *accepted = true;
                let status = Status::decode(pb)?;
                let outcome = Outcome::from(&status);
                if outcome.code.is_success() {
                    renewal.handle_setup(&status);
                } else {
                    *failure = Some(outcome);
                }
                return Ok(());
            }
            let mut reader = ConsumeResponseReader::new(pb);
            let mut count = 0;
            while let Some(mut message) = reader.next_message()? {
                count += u64::from(message.payload.is_some());
                message.is_rewound = reader.is_rewound() && count <= 1 || std::mem::take(is_rewound);
                each(&message);
            }
            *is_rewound |= reader.is_rewound() && count == 0;
            *received = received.plus(count);
            if let Some(status) = reader.renewal() {
                renewal.handle_renewal(status);
            }
            if let Some(status) = reader.status() {
                renewal.close();
                *failure = Some(Outcome::from(status));
            }
            Ok(())
        })?;
        self.ended |= fin;
        Ok(())
    }
}

impl Renewable for Consumer {
    fn renewal(&mut self) -> &mut Renewal {
        &mut self.renewal
    }

    fn send_token(&mut self, token: &Secret, sender: &mut Sender, out: &mut Vec<u8>) {
        let request = ConsumeRequest { token: Some(token.expose().to_owned()), ..ConsumeRequest::default() };
        PbWriter { sender, out }.pb(&request, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Role;

    #[test]
    fn every_count_is_granted_in_the_end() {
        for count in [1, 99, 10_001, 20_000, 29_999, 30_000, 30_001, 65_000] {
            let (mut sender, mut out) = (Sender::new(Role::Client), Vec::new());
            let options = ConsumeOptions {
                queue: "q".into(),
                from: String::new(),
                echo: true,
                window: 20_000,
                count: Some(count),
            };
            let mut consumer = Consumer::start(&options, &mut sender, &mut out);
            while consumer.granted < MsgNum::ZERO.plus(count) {
                assert!(consumer.granted > consumer.received, "{count}: stuck, all credit is used");
                consumer.received = consumer.granted;
                consumer.poll_transmit(&mut sender, &mut out);
            }
            assert_eq!(consumer.granted, MsgNum::ZERO.plus(count));
        }
    }
}
