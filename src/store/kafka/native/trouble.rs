//! `rd_kafka_resp_err_t`: errors of Kafka or librdkafka.

use std::ffi::{CStr, c_char};
use std::fmt;

use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode;

use crate::base::error::StoreFault;

/// The code of success.
pub(super) const NO_ERROR: rd::rd_kafka_resp_err_t = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

/// An error of Kafka or librdkafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub code: RDKafkaErrorCode,
    /// For the log only: it may name brokers, addresses and topics.
    pub text: String,
    /// The reason that clients get, if the code does not imply it.
    words: Option<&'static str>,
}

impl Trouble {
    pub(super) fn new(code: RDKafkaErrorCode, text: String) -> Self {
        Self { code, text: if text.is_empty() { code.to_string() } else { text }, words: None }
    }

    pub fn of(code: rd::rd_kafka_resp_err_t) -> Self {
        Self::new(code.into(), String::new())
    }

    /// Creates an error of this server's own.
    pub fn ours(words: &'static str) -> Self {
        let code = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL.into();
        Self { words: Some(words), ..Self::new(code, words.to_owned()) }
    }

    /// Returns the error for an answer without content.
    pub fn nothing() -> Self {
        Self::of(rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__BAD_MSG)
    }

    /// Returns whether Kafka, or one broker of it, does not know the topic or partition.
    pub fn is_unknown(&self) -> bool {
        use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
        matches!(self.code, UnknownTopicOrPartition | UnknownTopic | UnknownPartition)
    }

    /// Returns the reason that clients get.
    pub fn fault(&self) -> StoreFault {
        use RDKafkaErrorCode::{
            AllBrokersDown, BrokerTransportFailure, MessageSizeTooLarge, MessageTimedOut, OperationTimedOut,
            RequestTimedOut, Resolve, UnknownPartition, UnknownTopic, UnknownTopicOrPartition,
        };
        StoreFault::Unavailable(self.words.unwrap_or(match self.code {
            AllBrokersDown
            | BrokerTransportFailure
            | MessageTimedOut
            | OperationTimedOut
            | RequestTimedOut
            | Resolve => "Kafka does not answer in time",
            UnknownPartition | UnknownTopic | UnknownTopicOrPartition => {
                "Kafka does not have the queue's topic"
            }
            MessageSizeTooLarge => "Kafka does not take messages of this size",
            _ => "Kafka refused the request",
        }))
    }

    /// Logs the request and Kafka's answer. Returns the reason that clients get.
    pub fn report(&self, asked: &str) -> StoreFault {
        let fault = self.fault();
        tracing::warn!(asked, trouble = %self, code = ?self.code, told = %fault, "Kafka request failed");
        fault
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns an error unless the code means success.
pub(super) fn check(code: rd::rd_kafka_resp_err_t) -> Result<(), Trouble> {
    if code == NO_ERROR { Ok(()) } else { Err(Trouble::of(code)) }
}

/// # Safety
/// `text` is null or a C string that lives during the call.
pub(super) unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Returns the error of this thread's last call.
pub(super) fn last_trouble() -> Trouble {
    // SAFETY: the call only reads a thread-local number.
    Trouble::of(unsafe { rd::rd_kafka_last_error() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_for_clients_name_no_brokers_addresses_or_topics() {
        use rd::rd_kafka_resp_err_t as Code;
        let told = |code: Code| Trouble::new(code.into(), "b1.internal:9092/1: topic p.q".into()).fault();
        for (code, words) in [
            (Code::RD_KAFKA_RESP_ERR__TRANSPORT, "Kafka does not answer in time"),
            (Code::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, "Kafka does not answer in time"),
            (Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "Kafka does not have the queue's topic"),
            (Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "Kafka does not take messages of this size"),
            (Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "Kafka refused the request"),
        ] {
            assert_eq!(told(code), StoreFault::Unavailable(words));
        }
        assert_eq!(Trouble::ours("as it is said").fault(), StoreFault::Unavailable("as it is said"));
    }
}
