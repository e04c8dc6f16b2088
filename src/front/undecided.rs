//! A connection whose protocol its first data frame decides. Neither its path nor a subprotocol names one, and clients need
//! not authenticate.
//!
//! Text is a request of the Zaqar API. A binary message begins with the map of a MessagePack request or with the length of a
//! SetupRequest, a varint:
//!
//! | first byte | second byte | what it is |
//! | --- | --- | --- |
//! | 0x81 to 0x8f | from 0xa0 on | a map, whose first key is text or bytes |
//! | 0x81 to 0x8f | below 0xa0 | a length from 128 on, below 4,096 or with a third byte |
//! | 0xde, 0xdf | 0x00 | a map of more than 15 members; a length that is not minimal |
//! | 0xde, 0xdf | other | a length |
//! | 0x80, the whole message | | an empty map |
//! | other | any | a length |
//!
//! So the first length of a streaming client must be minimal. A SetupRequest of 16 KiB or more may begin like a map: such a
//! client offers the subprotocol.

use std::sync::Arc;

use super::handshake::Endpoint;
use super::zaqar::Standing;
use super::{Cx, DrainStep, Front};
use crate::access::Tenants;
use crate::base::names::Project;
use crate::operation::Caller;
use crate::ws::MessageKind;

/// A connection whose protocol is not decided.
#[derive(Debug)]
pub struct Undecided {
    caller: Caller,
    tenants: Arc<Tenants>,
    first: First,
    /// The steps of draining that were taken.
    drained: Vec<DrainStep>,
}

/// The first byte, if it has arrived and does not decide.
#[derive(Debug, Default)]
struct First(Option<u8>);

impl First {
    /// Returns the protocol that a piece behind this decides. `None` if more must come.
    fn look(&mut self, kind: MessageKind, piece: &[u8], fin: bool) -> Option<Endpoint> {
        let (first, second) = match (self.0, piece) {
            (Some(first), rest) => (Some(first), rest.first()),
            (None, [first, rest @ ..]) => (Some(*first), rest.first()),
            (None, []) => (None, None),
        };
        self.0 = first;
        endpoint(kind, first, second.copied(), fin)
    }
}

impl Undecided {
    /// Creates the state of a connection that has sent nothing.
    pub fn new(caller: Caller, tenants: Arc<Tenants>) -> Self {
        Self { caller, tenants, first: First::default(), drained: Vec::new() }
    }

    /// Looks at a piece of the first message. Returns the front that the piece is for, which has the byte before it; `None` if
    /// more must come, and the piece is taken.
    pub fn decide(&mut self, kind: MessageKind, piece: &[u8], fin: bool, cx: &mut Cx<'_>) -> Option<Front> {
        let before = self.first.0;
        let endpoint = self.first.look(kind, piece, fin)?;
        let mut front = Front::new(endpoint, self.caller.clone(), Standing::Anyone, &self.tenants);
        self.drained.iter().for_each(|step| front.drain(*step, cx));
        match (&mut front, before) {
            (Front::Zaqar(session), Some(first)) => session.begin_with(first),
            // A session that has read nothing takes a byte.
            (Front::Streaming(session), Some(first)) => {
                session.handle_data(&[first], false, cx);
            }
            _ => {}
        }
        Some(front)
    }

    /// Takes a step of draining.
    pub fn drain(&mut self, step: DrainStep) {
        self.drained.push(step);
    }

    /// Returns the project of the client.
    pub fn project(&self) -> &Project {
        &self.caller.project
    }
}

/// Returns the protocol whose first message begins with these bytes. `None` if they do not decide, and more may come.
fn endpoint(kind: MessageKind, first: Option<u8>, second: Option<u8>, fin: bool) -> Option<Endpoint> {
    let is_zaqar = match (kind, first, second) {
        (MessageKind::Text, _, _) => true,
        (_, None, _) if fin => false,
        (_, Some(0x80), None) if fin => true,
        (_, None, _) => return None,
        (_, Some(0x80..=0x8f | 0xde | 0xdf), None) if !fin => return None,
        (_, Some(0x81..=0x8f), Some(second)) => second >= 0xa0,
        (_, Some(0xde | 0xdf), Some(second)) => second == 0,
        _ => false,
    };
    Some(if is_zaqar { Endpoint::Zaqar } else { Endpoint::Streaming })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::zaqar::{Format, Writer};
    use crate::pb::wire::write_varint;
    use crate::pb::{ClaimSetupRequest, ConsumeSetupRequest, ProduceSetupRequest, SetupRequest};
    use proptest::prelude::*;
    use prost::Message;

    /// Returns the protocol of a binary message that arrives in pieces of this length.
    fn of(message: &[u8], length: usize) -> Option<Endpoint> {
        let mut first = First::default();
        let pieces = message.len().div_ceil(length);
        let mut pieces =
            message.chunks(length).enumerate().map(|(index, piece)| (piece, index + 1 == pieces));
        pieces.find_map(|(piece, fin)| first.look(MessageKind::Binary, piece, fin))
    }

    #[test]
    fn text_and_unusual_binary_messages_are_decided() {
        assert_eq!(endpoint(MessageKind::Text, None, None, false), Some(Endpoint::Zaqar));
        assert_eq!(endpoint(MessageKind::Binary, None, None, false), None, "an empty fragment");
        assert_eq!(endpoint(MessageKind::Binary, None, None, true), Some(Endpoint::Streaming));
        for (message, expected) in [
            (&[0x80][..], Endpoint::Zaqar),
            (&[0x80, 0x01], Endpoint::Streaming),
            (&[0x81], Endpoint::Streaming),
            (&[0xde, 0x00, 0x10], Endpoint::Zaqar),
            (&[0xde, 0x01], Endpoint::Streaming),
            (&[0xdf, 0x00, 0x00], Endpoint::Zaqar),
            (&[0x90, 0xa0], Endpoint::Streaming),
            (b"{}", Endpoint::Streaming),
            (&[0], Endpoint::Streaming),
        ] {
            for length in 1..=message.len() {
                assert_eq!(of(message, length), Some(expected), "{message:x?} in pieces of {length}");
            }
        }
    }

    #[test]
    fn every_minimal_length_below_16_kib_is_that_of_a_streaming_client() {
        for bytes in 0..16_384_u64 {
            let mut message = Vec::new();
            write_varint(bytes, &mut message);
            message.push(0x0a);
            for length in [1, 2, 3] {
                assert_eq!(of(&message, length), Some(Endpoint::Streaming), "{bytes}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_setup_is_taken_for_a_request(
            queue in "[a-zA-Z0-9_.-]{1,64}(/[0-9]{1,3})?",
            marker in proptest::option::of("[ -~]{0,2000}"),
            kind in 0..3_u8,
            length in 1..4_usize,
        ) {
            let queue_name = Some(queue);
            let setup = match kind {
                0 => SetupRequest { append: Some(ProduceSetupRequest { queue_name }), ..Default::default() },
                1 => {
                    let get = ConsumeSetupRequest { queue_name, starting_marker: marker, ..Default::default() };
                    SetupRequest { get: Some(get), ..Default::default() }
                }
                _ => {
                    let claim = ClaimSetupRequest { queue_name, ttl: Some(300), ..Default::default() };
                    SetupRequest { claim: Some(claim), ..Default::default() }
                }
            };
            prop_assert_eq!(of(&setup.encode_length_delimited_to_vec(), length), Some(Endpoint::Streaming));
        }

        #[test]
        fn no_request_is_taken_for_a_setup(
            keys in proptest::collection::vec("\\PC{0,40}", 1..100),
            long in "[a-z]{0,300}",
            length in 1..4_usize,
        ) {
            let mut message = Vec::new();
            Writer::new(Format::MessagePack, &mut message).map(keys.len() + 1, |writer| {
                for key in std::iter::once(&long).chain(&keys) {
                    writer.key(key);
                    writer.null();
                }
            });
            prop_assert_eq!(of(&message, length), Some(Endpoint::Zaqar));
        }
    }
}
