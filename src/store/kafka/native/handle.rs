//! `rd_kafka_t`: a client of the cluster.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rdkafka::bindings as rd;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaType;

use super::trouble::{NO_ERROR, check, text_of};
use crate::base::batch::Batch;

/// A client of the cluster: its threads, connections and queues. Creating and dropping one blocks. Its
/// threads inherit the cores of the thread that creates it.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// A handle that does not keep its client alive.
pub struct WeakHandle(Weak<Shared>);

/// Shared by the clones of a handle. The client drops first, which blocks until its threads have ended.
struct Shared {
    client: Client<DefaultClientContext>,
    /// Batches into which the client's messages point.
    kept: Mutex<Vec<Batch>>,
}

impl WeakHandle {
    /// Returns whether its client still exists.
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Returns the handle, if its client still exists.
    pub fn upgrade(&self) -> Option<Handle> {
        self.0.upgrade().map(Handle)
    }
}

impl Handle {
    /// Creates a producer. Blocks.
    pub fn producer(properties: &BTreeMap<String, String>) -> Result<Self, String> {
        Self::new(properties, RDKafkaType::RD_KAFKA_PRODUCER)
    }

    /// Creates a consumer without a group. Blocks.
    pub fn consumer(properties: &BTreeMap<String, String>) -> Result<Self, String> {
        Self::new(properties, RDKafkaType::RD_KAFKA_CONSUMER)
    }

    fn new(properties: &BTreeMap<String, String>, kind: RDKafkaType) -> Result<Self, String> {
        let mut config = ClientConfig::new();
        for (key, value) in properties {
            config.set(key, value);
        }
        let native = config.create_native_config().map_err(|error| match error {
            // The message leaves out the value, which may be a secret.
            KafkaError::ClientConfig(_, why, key, _) => format!("{key}: {why}"),
            other => other.to_string(),
        })?;
        let events = rd::RD_KAFKA_EVENT_DR | rd::RD_KAFKA_EVENT_ERROR | rd::RD_KAFKA_EVENT_LOG;
        // SAFETY: the configuration lives, and no client has taken it yet.
        unsafe { rd::rd_kafka_conf_set_events(native.ptr(), events) };
        let client = Client::new(&config, native, kind, DefaultClientContext);
        let shared = |client| Shared { client, kept: Mutex::default() };
        client.map(|client| Self(Arc::new(shared(client)))).map_err(|error| error.to_string())
    }

    pub(super) fn raw(&self) -> *mut rd::rd_kafka_t {
        self.0.client.native_ptr()
    }

    /// Keeps a batch alive until the client is destroyed, whichever clone is dropped last: for messages
    /// without a report.
    pub fn keep(&self, batch: Batch) {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
    }

    /// Returns a reference that does not keep the client alive.
    pub fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.0))
    }

    /// Sets the token (OAUTHBEARER) for the brokers. `expires_ms` is Unix time, in milliseconds.
    pub fn set_token(&self, token: &str, principal: &str, expires_ms: i64) -> Result<(), String> {
        let c_string = |text: &str| CString::new(text).map_err(|error| error.to_string());
        let (token, principal) = (c_string(token)?, c_string(principal)?);
        let mut why = [0 as c_char; 256];
        // SAFETY: the handle and the texts live during the call, which copies what it keeps; the buffer has
        // the stated size, and holds a C string after an error.
        unsafe {
            let code = rd::rd_kafka_oauthbearer_set_token(
                self.raw(),
                token.as_ptr(),
                expires_ms,
                principal.as_ptr(),
                ptr::null_mut(),
                0,
                why.as_mut_ptr(),
                why.len(),
            );
            check(code).map_err(|_| text_of(why.as_ptr()))
        }
    }

    /// Returns whether a fatal error has stopped this client.
    pub fn has_failed(&self) -> bool {
        // SAFETY: the handle lives; the call writes no text.
        let code = unsafe { rd::rd_kafka_fatal_error(self.raw(), ptr::null_mut(), 0) };
        code != NO_ERROR
    }

    /// Raises a fatal error, as an idempotent producer does after it has lost its sequence.
    #[cfg(test)]
    pub fn fail_for_good(&self) {
        // SAFETY: the handle lives, and the text during the call.
        unsafe {
            let code = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
            rd::rd_kafka_test_fatal_error(self.raw(), code, c"planted".as_ptr());
        }
    }

    /// Fails all messages without an answer, which is reported for each.
    pub fn purge(&self) {
        let flags =
            rd::RD_KAFKA_PURGE_F_QUEUE | rd::RD_KAFKA_PURGE_F_INFLIGHT | rd::RD_KAFKA_PURGE_F_NON_BLOCKING;
        // SAFETY: the handle lives; the call takes any flags. It fails only for consumers, which have nothing
        // to purge.
        unsafe { rd::rd_kafka_purge(self.raw(), flags) };
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}
