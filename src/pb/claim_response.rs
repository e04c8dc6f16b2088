//! Hand-written decoder of `ClaimResponse`, for clients. Its messages are those of a ConsumeResponse.

use prost::Message;

use super::consume_response::{ReceivedMessage, message, status, text};
use super::wire::{BYTES, Malformed, Reader, VARINT, expect};
use super::{Settlement, Status};

/// The claim of the messages of a ClaimResponse. Borrows from the pb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceivedClaim<'a> {
    /// The claim's id.
    pub id: &'a str,
    /// How long the claim lasts from when the response was written, in seconds, rounded up.
    pub ttl: u32,
}

/// Decodes a ClaimResponse message by message.
#[derive(Clone, Debug)]
pub struct ClaimResponseReader<'a> {
    reader: Reader<'a>,
    claim: Option<ReceivedClaim<'a>>,
    status: Option<Status>,
    renewal: Option<Status>,
    settled_requests: Option<u64>,
    lost: Vec<u64>,
    lost_claims: Vec<Settlement>,
}

impl<'a> ClaimResponseReader<'a> {
    /// Creates a reader for one whole pb.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            reader: Reader(bytes),
            claim: None,
            status: None,
            renewal: None,
            settled_requests: None,
            lost: Vec::new(),
            lost_claims: Vec::new(),
        }
    }

    /// Returns the next message, or `None` at the end. Only then are the other fields reliable.
    #[inline]
    pub fn next_message(&mut self) -> Result<Option<ReceivedMessage<'a>>, Malformed> {
        while let Some((field, wire_type)) = self.reader.tag()? {
            if field == 2 {
                expect(wire_type, BYTES)?;
                return message(Reader(self.reader.bytes()?)).map(Some);
            }
            self.other_field(field, wire_type)?;
        }
        Ok(None)
    }

    /// Returns the claim of the messages.
    pub fn claim(&self) -> Option<ReceivedClaim<'a>> {
        self.claim
    }

    /// Returns the status, if one was read.
    pub fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    /// Returns the answer to a token, or the news about the grant in force, if either was read.
    pub fn renewal(&self) -> Option<&Status> {
        self.renewal.as_ref()
    }

    /// Returns the number of requests whose settlements are durable, if it was read.
    pub fn settled_requests(&self) -> Option<u64> {
        self.settled_requests
    }

    /// Returns the numbers that were settled too late, in pairs (skip, count).
    pub fn lost(&self) -> &[u64] {
        &self.lost
    }

    /// Returns the messages of other operations' claims that were settled too late.
    pub fn lost_claims(&self) -> &[Settlement] {
        &self.lost_claims
    }

    fn other_field(&mut self, field: u32, wire_type: u8) -> Result<(), Malformed> {
        match field {
            1 => {
                expect(wire_type, BYTES)?;
                self.status = Some(status(self.reader.bytes()?)?);
            }
            3 => {
                expect(wire_type, BYTES)?;
                self.claim = Some(claim(Reader(self.reader.bytes()?))?);
            }
            4 => {
                expect(wire_type, VARINT)?;
                self.settled_requests = Some(self.reader.varint()?);
            }
            // Packed, as it should be, or one number alone.
            5 if wire_type == VARINT => self.lost.push(self.reader.varint()?),
            5 => {
                expect(wire_type, BYTES)?;
                let mut packed = Reader(self.reader.bytes()?);
                while !packed.0.is_empty() {
                    self.lost.push(packed.varint()?);
                }
            }
            6 => {
                expect(wire_type, BYTES)?;
                let settlement = Settlement::decode(self.reader.bytes()?);
                self.lost_claims.push(settlement.map_err(|_| Malformed("a bad Settlement"))?);
            }
            106 => {
                expect(wire_type, BYTES)?;
                self.renewal = Some(status(self.reader.bytes()?)?);
            }
            _ => self.reader.skip(wire_type)?,
        }
        Ok(())
    }
}

fn claim(mut reader: Reader<'_>) -> Result<ReceivedClaim<'_>, Malformed> {
    let mut claim = ReceivedClaim::default();
    while let Some((field, wire_type)) = reader.tag()? {
        match field {
            1 => {
                expect(wire_type, BYTES)?;
                claim.id = text(reader.bytes()?)?;
            }
            100 => {
                expect(wire_type, VARINT)?;
                claim.ttl = reader.varint()? as u32;
            }
            _ => reader.skip(wire_type)?,
        }
    }
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{Claim, ClaimResponse, MessageAndMetadata};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn settlement() -> impl Strategy<Value = Settlement> {
        ("[a-z]{0,8}", proptest::option::of("[0-9a-f]{1,4}.[0-9a-f]{1,9}"), any::<u32>()).prop_map(
            |(claim, first_id, seconds)| Settlement {
                claim_id: Some(claim),
                first_id,
                last_id: None,
                kind: Some(1),
                seconds: Some(seconds),
            },
        )
    }

    fn response() -> impl Strategy<Value = ClaimResponse> {
        let message = (any::<u64>(), proptest::collection::vec(any::<u8>(), 0..99), 1u32..9).prop_map(
            |(offset, payload, count)| MessageAndMetadata {
                id: Some(format!("7.{offset:x}")),
                payload: Some(Bytes::from(payload)),
                claim_count: Some(count),
                ..Default::default()
            },
        );
        let claim = ("[a-zA-Z0-9_.~-]{1,64}", any::<u32>()).prop_map(|(id, ttl)| Claim {
            id: Some(id),
            ttl: Some(ttl),
            ..Claim::default()
        });
        let status = any::<u32>().prop_map(|code| Status { status_code: Some(code), ..Status::default() });
        (
            proptest::collection::vec(message, 0..6),
            proptest::option::of(claim),
            proptest::option::of(status),
            proptest::option::of(0i64..i64::MAX),
            proptest::collection::vec(any::<u64>(), 0..5),
            proptest::collection::vec(settlement(), 0..3),
        )
            .prop_map(|(messages, claim, status, settled_requests, lost, lost_claims)| {
                ClaimResponse { status, messages, claim, settled_requests, lost, lost_claims, renewal: None }
            })
    }

    proptest! {
        #[test]
        fn decoding_matches_prost(pb in response()) {
            let bytes = pb.encode_to_vec();
            let mut reader = ClaimResponseReader::new(&bytes);
            for expected in &pb.messages {
                let message = reader.next_message().unwrap().unwrap();
                prop_assert_eq!(message.id, expected.id());
                prop_assert_eq!(message.payload, expected.payload.as_deref());
                prop_assert_eq!(message.claim_count, expected.claim_count());
            }
            prop_assert_eq!(reader.next_message(), Ok(None));
            let claim = pb.claim.as_ref().map(|claim| ReceivedClaim { id: claim.id(), ttl: claim.ttl() });
            prop_assert_eq!(reader.claim(), claim);
            prop_assert_eq!(reader.status(), pb.status.as_ref());
            prop_assert_eq!(reader.settled_requests(), pb.settled_requests.map(|requests| requests as u64));
            prop_assert_eq!(reader.lost(), &pb.lost[..]);
            prop_assert_eq!(reader.lost_claims(), &pb.lost_claims[..]);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut reader = ClaimResponseReader::new(&bytes);
            while let Ok(Some(_)) = reader.next_message() {}
        }
    }
}
