//! Tests what a consumer sees of claims and delays.

use millstream::base::batch::{BatchBuilder, Fetched, StoredBatch};
use millstream::base::claim::{Claimed, LeaseId, View};
use millstream::base::millis::Millis;
use millstream::base::names::ClientId;
use millstream::base::units::{Offset, Partition};
use millstream::operation::{Answer, ClaimId, Command};
use millstream::pb::{
    ConsumeRequest, ConsumeResponse, ConsumeSetupRequest, MessageAndMetadata, SetupRequest,
};
use prost::Message;

use super::rig::{CLIENT, Rig};

/// Reads six messages, of which 1 and 2 are claimed by the reader, and 4 by another client. Returns them, and the view
/// that the session has asked for.
fn read(include_claimed: Option<bool>, send_marker: bool, delay: u32) -> (Vec<MessageAndMetadata>, View) {
    let mut rig = Rig::new(Rig::defaults());
    let get = ConsumeSetupRequest { queue_name: Some("q".into()), include_claimed, ..Default::default() };
    rig.begin(&SetupRequest { get: Some(get), ..SetupRequest::default() });
    let request = ConsumeRequest { send_marker: Some(send_marker), ..ConsumeRequest::default() };
    let bytes = request.encode_length_delimited_to_vec();
    rig.call(|session, cx| session.handle_data(&bytes, false, cx));
    let Some(Command::Fetch { operation, view, .. }) = rig.commands.pop() else {
        panic!("the session must fetch")
    };
    let mut builder = BatchBuilder::new(ClientId::from(9), 60, 0).delayed(delay);
    (0..6u8).for_each(|index| builder.push(&[index]));
    let timestamp = rig.now.unix.saturating_sub(Millis::new(5_500));
    let stored = StoredBatch { base_offset: Offset(10), timestamp, stored_ns: 0, batch: builder.close() };
    let claimed = |offsets: std::ops::Range<u64>, lease, client| Claimed {
        offsets: Offset(offsets.start)..Offset(offsets.end),
        lease: LeaseId(lease),
        client: ClientId::from(client),
        ends: rig.now.mono + Millis::new(2_001),
        lives_until: rig.now.mono + Millis::new(9_000),
    };
    let claims = vec![claimed(11..13, 3, CLIENT), claimed(14..15, 4, CLIENT + 1)];
    let claims = if view == View::Live { claims } else { vec![] };
    let fetched =
        Fetched { batches: vec![stored], next: Offset(16), at_end: true, claims, ..Fetched::default() };
    let answer = Answer::Fetched { partition: Partition(0), result: Ok(fetched) };
    rig.call(|session, cx| session.answer(operation, answer, cx));
    rig.out.clear();
    rig.call(|session, cx| session.poll_transmit(cx));
    // One frame, whose payload is one pb. Its length takes a byte more from 126 on.
    let start = if rig.out[1] < 126 { 2 } else { 4 };
    let response = ConsumeResponse::decode_length_delimited(&rig.out[start..]).unwrap();
    (response.messages, view)
}

#[test]
fn claimed_messages_come_with_their_claims_if_the_client_wants_them() {
    for send_marker in [false, true] {
        let (messages, view) = read(Some(true), send_marker, 0);
        assert_eq!((messages.len(), view), (6, View::Live));
        assert_eq!(messages[0].marker.is_some(), send_marker);
        let id = |lease| Some(ClaimId::of(&Rig::queue(1), Partition(0), LeaseId(lease)).to_string());
        let me = Some(ClientId::from(CLIENT).to_string());
        for (message, index) in messages.iter().zip(0u8..) {
            assert_eq!(message.id(), format!("0.{:x}", 10 + index));
            assert_eq!(message.payload.as_deref(), Some(&[index][..]));
            let claim =
                message.claim.as_ref().map(|claim| (claim.id.clone(), claim.client_id.clone(), claim.ttl()));
            let expected = match index {
                1 | 2 => Some((id(3), me.clone(), 3)),
                4 => Some((id(4), None, 3)),
                _ => None,
            };
            assert_eq!(claim, expected, "{index}");
        }
    }
}

#[test]
fn without_that_wish_no_claims_are_asked_for() {
    for wish in [None, Some(false)] {
        let (messages, view) = read(wish, false, 0);
        assert_eq!(view, View::Unclaimed);
        assert!(messages.iter().all(|message| message.claim.is_none() && message.delay.is_none()));
    }
}

#[test]
fn a_delay_tells_the_seconds_that_are_left() {
    for (delay, left) in [(0, None), (5, None), (6, Some(1)), (59, Some(54))] {
        for (include_claimed, send_marker) in [(false, false), (true, true), (false, true)] {
            let (messages, _) = read(Some(include_claimed), send_marker, delay);
            assert!(messages.iter().all(|message| message.delay == left), "{delay}: {messages:?}");
        }
    }
}
