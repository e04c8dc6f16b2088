//! Checks that producing allocates memory per batch, never per message.
#![allow(unsafe_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "common/rig.rs"]
mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use millstream::pb::{ProduceRequest, ProduceSetupRequest, SetupRequest};
use prost::Message;
use rig::Rig;

/// The system's allocator, with a count of each thread's requests.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged. The counter is a thread-local and allocates
// nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller upholds this function's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds this function's contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller upholds this function's contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn allocations_do_not_grow_with_messages() {
    let turn = |messages: usize| {
        let setup = SetupRequest {
            append: Some(ProduceSetupRequest { queue_name: Some("q".into()) }),
            get: None,
            claim: None,
        };
        let mut rig = Rig::new(Rig::defaults());
        rig.begin(&setup);
        let payloads = vec![Bytes::from(vec![b'x'; 100]); messages];
        let request = ProduceRequest { ttl: Some(60), payloads, keys: vec![], ..Default::default() };
        let bytes = request.encode_length_delimited_to_vec().repeat(25);
        let mut asked = 0;
        // The session's own buffers grow in the first turns.
        for _ in 0..10 {
            let before = ASKED.get();
            assert_eq!(rig.call(|session, cx| session.handle_data(&bytes, false, cx)), bytes.len());
            rig.call(|session, cx| session.flush(cx));
            assert_eq!(rig.store(), 25 * messages);
            asked = ASKED.get() - before;
        }
        asked
    };
    let (few, many) = (turn(1), turn(100));
    assert!(few > 0, "the counter must count");
    // A hundred times the messages may close one more batch.
    assert!(many <= few + 4, "{many} allocations for 2,500 messages, {few} for 25");
}
