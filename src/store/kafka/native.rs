//! librdkafka as this room uses it: every unsafe call, behind types that keep its rules.
//!
//! The crate's own producer and consumer cost two to three times as much for each message (look-ups of the topic by name,
//! a copy, an allocation for each event), so topics, batches and events are taken from its bindings. Whatever is here may be
//! called from any thread and returns at once, but for what says that it blocks.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rdkafka::bindings as rd;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaType;

use super::news::News;
use crate::base::batch::Batch;
use crate::base::error::StoreFault;
use crate::base::queue::Signing;
use crate::store::Life;

/// Messages that are taken from a queue, and reports from an event, at once.
const AT_ONCE: usize = 256;

const EVENT_DESCRIBE_TOPICS: c_int = 0x10_0000;
const EVENT_LIST_OFFSETS: c_int = 0x40_0000;

/// What Kafka or librdkafka says is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub code: RDKafkaErrorCode,
    /// For the log alone: it may name brokers, addresses and topics.
    pub text: String,
    /// What a client is told, where the code does not say it.
    words: Option<&'static str>,
}

impl Trouble {
    fn new(code: RDKafkaErrorCode, text: String) -> Self {
        Self { code, text: if text.is_empty() { code.to_string() } else { text }, words: None }
    }

    fn of(code: rd::rd_kafka_resp_err_t) -> Self {
        Self::new(code.into(), String::new())
    }

    /// One that Kafka knows nothing of.
    pub(super) fn ours(words: &'static str) -> Self {
        let code = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL.into();
        Self { words: Some(words), ..Self::new(code, words.to_owned()) }
    }

    /// An answer that answers nothing.
    pub(super) fn nothing() -> Self {
        Self::of(rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__BAD_MSG)
    }

    /// What a client is told of it.
    pub(super) fn fault(&self) -> StoreFault {
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
            _ => "Kafka has refused it",
        }))
    }

    /// The same, and the log says what Kafka was asked and what it answered.
    pub(super) fn report(&self, asked: &str) -> StoreFault {
        let fault = self.fault();
        tracing::warn!(asked, trouble = %self, code = ?self.code, told = %fault, "Kafka does not do what it is asked");
        fault
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn check(code: rd::rd_kafka_resp_err_t) -> Result<(), Trouble> {
    if code == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(Trouble::of(code)) }
}

/// # Safety
/// `text` is null or a C string that lives while this runs.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A client of the cluster: its threads, connections and queues. To create and to drop one blocks, and its threads inherit the
/// cores of the thread that creates it.
#[derive(Clone)]
pub(super) struct Handle(Arc<Shared>);

/// A handle of somebody else's.
pub(super) struct WeakHandle(Weak<Shared>);

/// Shared by the clones of a handle. The client is dropped first, which blocks until its threads have ended.
struct Shared {
    client: Client<DefaultClientContext>,
    /// Batches that its messages point into.
    kept: Mutex<Vec<Batch>>,
}

impl WeakHandle {
    pub(super) fn upgrade(&self) -> Option<Handle> {
        self.0.upgrade().map(Handle)
    }
}

impl Handle {
    /// A producer.
    pub(super) fn producer(properties: &BTreeMap<String, String>) -> Result<Self, String> {
        Self::new(properties, RDKafkaType::RD_KAFKA_PRODUCER)
    }

    /// A consumer without a group.
    pub(super) fn consumer(properties: &BTreeMap<String, String>) -> Result<Self, String> {
        Self::new(properties, RDKafkaType::RD_KAFKA_CONSUMER)
    }

    fn new(properties: &BTreeMap<String, String>, kind: RDKafkaType) -> Result<Self, String> {
        let mut config = ClientConfig::new();
        for (key, value) in properties {
            config.set(key, value);
        }
        let native = config.create_native_config().map_err(|error| match error {
            // Without the value, which may be a secret.
            KafkaError::ClientConfig(_, why, key, _) => format!("{key}: {why}"),
            other => other.to_string(),
        })?;
        let events = rd::RD_KAFKA_EVENT_DR | rd::RD_KAFKA_EVENT_ERROR | rd::RD_KAFKA_EVENT_LOG;
        // SAFETY: the configuration is a live one that no client has taken yet.
        unsafe { rd::rd_kafka_conf_set_events(native.ptr(), events) };
        let client = Client::new(&config, native, kind, DefaultClientContext);
        let shared = |client| Shared { client, kept: Mutex::default() };
        client.map(|client| Self(Arc::new(shared(client)))).map_err(|error| error.to_string())
    }

    fn raw(&self) -> *mut rd::rd_kafka_t {
        self.0.client.native_ptr()
    }

    /// Keeps a batch alive until the client is destroyed, whichever clone is dropped last: for messages without a report.
    pub(super) fn keep(&self, batch: Batch) {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
    }

    pub(super) fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.0))
    }

    /// Has it show this token (OAUTHBEARER) to brokers; `expires_ms` is Unix time.
    pub(super) fn set_token(&self, token: &str, principal: &str, expires_ms: i64) -> Result<(), String> {
        let c_string = |text: &str| CString::new(text).map_err(|error| error.to_string());
        let (token, principal) = (c_string(token)?, c_string(principal)?);
        let mut why = [0 as c_char; 256];
        // SAFETY: the handle and the texts live during the call, which copies what it keeps; the buffer's size is its own, and it
        // holds a C string then.
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

    /// Whether it has failed for good.
    pub(super) fn has_failed(&self) -> bool {
        // SAFETY: the handle lives; no text is asked for.
        let code = unsafe { rd::rd_kafka_fatal_error(self.raw(), ptr::null_mut(), 0) };
        code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    /// Has the handle fail for good, as an idempotent producer does that has lost its place.
    #[cfg(test)]
    pub(super) fn fail_for_good(&self) {
        // SAFETY: the handle lives, and the text during the call.
        unsafe {
            let code = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
            rd::rd_kafka_test_fatal_error(self.raw(), code, c"planted".as_ptr());
        }
    }

    /// Fails everything that is not answered yet; the reports say so.
    pub(super) fn purge(&self) {
        let flags =
            rd::RD_KAFKA_PURGE_F_QUEUE | rd::RD_KAFKA_PURGE_F_INFLIGHT | rd::RD_KAFKA_PURGE_F_NON_BLOCKING;
        // SAFETY: the handle lives; the call takes any flags. It fails for consumers alone, which have nothing to purge.
        unsafe { rd::rd_kafka_purge(self.raw(), flags) };
    }

    /// Asks for topics: their ids and partitions. The answer comes to `queue` as [`Event::Described`].
    pub(super) fn describe_topics(
        &self,
        queue: &Queue,
        asked: usize,
        topics: &[Arc<CString>],
        timeout_ms: c_int,
    ) {
        let options =
            Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, asked, timeout_ms);
        let mut names: Vec<*const c_char> = topics.iter().map(|topic| topic.as_ptr()).collect();
        // SAFETY: the names, the options, the queue and the handle live during the call, which copies what it keeps.
        unsafe {
            let topics = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            rd::rd_kafka_DescribeTopics(self.raw(), topics, options.raw, queue.raw.as_ptr());
            rd::rd_kafka_TopicCollection_destroy(topics);
        }
    }

    /// Makes a topic. The answer comes to `queue` as [`Event::Created`].
    pub(super) fn create_topic(
        &self,
        queue: &Queue,
        asked: usize,
        topic: &NewTopic<'_>,
        timeout_ms: c_int,
    ) -> Result<(), Trouble> {
        let options =
            Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS, asked, timeout_ms);
        let mut why = [0 as c_char; 256];
        // SAFETY: all that is passed lives during the calls, which copy what they keep; the buffer's size is its own.
        unsafe {
            let made = rd::rd_kafka_NewTopic_new(
                topic.name.as_ptr(),
                topic.partitions,
                topic.replication,
                why.as_mut_ptr(),
                why.len(),
            );
            if made.is_null() {
                let code = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG;
                return Err(Trouble::new(code.into(), text_of(why.as_ptr())));
            }
            for (key, value) in topic.configs {
                rd::rd_kafka_NewTopic_set_config(made, key.as_ptr(), value.as_ptr());
            }
            let mut all = [made];
            rd::rd_kafka_CreateTopics(self.raw(), all.as_mut_ptr(), 1, options.raw, queue.raw.as_ptr());
            rd::rd_kafka_NewTopic_destroy(made);
        }
        Ok(())
    }

    /// Asks for a topic's configuration. The answer comes to `queue` as [`Event::Configs`].
    pub(super) fn describe_config(&self, queue: &Queue, asked: usize, topic: &CStr, timeout_ms: c_int) {
        let options =
            Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, asked, timeout_ms);
        // SAFETY: as above.
        unsafe {
            let resource = rd::rd_kafka_ConfigResource_new(
                rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                topic.as_ptr(),
            );
            let mut all = [resource];
            rd::rd_kafka_DescribeConfigs(self.raw(), all.as_mut_ptr(), 1, options.raw, queue.raw.as_ptr());
            rd::rd_kafka_ConfigResource_destroy(resource);
        }
    }

    /// Asks for offsets: of each partition, which must be there once, the end, or the first record at or after a time (Unix
    /// milliseconds). The answer comes to `queue` as [`Event::Offsets`], in no particular order.
    pub(super) fn list_offsets(
        &self,
        queue: &Queue,
        asked: usize,
        of: &[(Arc<CString>, i32, OffsetOf)],
        timeout_ms: c_int,
    ) {
        let options =
            Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, asked, timeout_ms);
        // SAFETY: as above; an element of the list is written before the list grows again.
        unsafe {
            let list = rd::rd_kafka_topic_partition_list_new(of.len() as c_int);
            for (topic, partition, which) in of {
                let one = rd::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), *partition);
                (*one).offset = match which {
                    OffsetOf::End => rd::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64,
                    OffsetOf::Time(unix_ms) => i64::try_from(*unix_ms).unwrap_or(i64::MAX),
                };
            }
            rd::rd_kafka_ListOffsets(self.raw(), list, options.raw, queue.raw.as_ptr());
            rd::rd_kafka_topic_partition_list_destroy(list);
        }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

/// Which offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum OffsetOf {
    End,
    /// Of the first record at or after it, Unix milliseconds.
    Time(u64),
}

/// A topic to be made.
#[derive(Debug)]
pub(super) struct NewTopic<'a> {
    pub name: &'a CStr,
    pub partitions: i32,
    pub replication: i32,
    pub configs: &'a [(CString, CString)],
}

/// Options of one question, which carry who asked.
struct Options {
    raw: *mut rd::rd_kafka_AdminOptions_t,
}

impl Options {
    fn new(handle: &Handle, of: rd::rd_kafka_admin_op_t, asked: usize, timeout_ms: c_int) -> Self {
        // SAFETY: the handle lives; the opaque is a number that nobody follows. A timeout that is out of range is not taken.
        unsafe {
            let raw = rd::rd_kafka_AdminOptions_new(handle.raw(), of);
            rd::rd_kafka_AdminOptions_set_opaque(raw, asked as *mut c_void);
            rd::rd_kafka_AdminOptions_set_request_timeout(raw, timeout_ms, ptr::null_mut(), 0);
            Self { raw }
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        unsafe { rd::rd_kafka_AdminOptions_destroy(self.raw) };
    }
}

/// A queue of a handle: what it has for us. Rings `News` when something comes to an empty one.
#[derive(Debug)]
pub(super) struct Queue {
    raw: NonNull<rd::rd_kafka_queue_t>,
    /// Its queue is the handle's: that goes after it.
    _handle: Handle,
    /// Behind the pointer that librdkafka was given.
    news: Arc<News>,
}

// SAFETY: librdkafka's queues are locked inside and may be used from any thread.
unsafe impl Send for Queue {}

impl Queue {
    /// The queue of reports, errors and log lines.
    pub(super) fn main(handle: &Handle, news: &Arc<News>) -> Option<Self> {
        // SAFETY: the handle lives; the reference that is returned is ours.
        let raw = unsafe { rd::rd_kafka_queue_get_main(handle.raw()) };
        Self::of(raw, handle, news)
    }

    /// A new one, for messages.
    pub(super) fn new(handle: &Handle, news: &Arc<News>) -> Option<Self> {
        // SAFETY: likewise.
        let raw = unsafe { rd::rd_kafka_queue_new(handle.raw()) };
        Self::of(raw, handle, news)
    }

    fn of(raw: *mut rd::rd_kafka_queue_t, handle: &Handle, news: &Arc<News>) -> Option<Self> {
        extern "C" fn ring(_: *mut rd::rd_kafka_t, news: *mut c_void) {
            // SAFETY: the pointer of an `Arc<News>` that the queue holds as long as this can be called.
            unsafe { &*news.cast::<News>() }.ring();
        }
        let queue = Self { raw: NonNull::new(raw)?, _handle: handle.clone(), news: news.clone() };
        // SAFETY: `drop` takes the callback back before the news can go.
        unsafe {
            let opaque = Arc::as_ptr(&queue.news).cast_mut().cast();
            rd::rd_kafka_queue_cb_event_enable(queue.raw.as_ptr(), Some(ring), opaque);
        }
        Some(queue)
    }

    /// The next event.
    pub(super) fn poll(&self) -> Option<Event> {
        // SAFETY: the queue lives; the event that is returned is ours.
        let raw = NonNull::new(unsafe { rd::rd_kafka_queue_poll(self.raw.as_ptr(), 0) })?;
        Some(RawEvent(raw).read())
    }

    /// Up to 256 messages; how many there were.
    pub(super) fn consume(&self, mut handle: impl FnMut(Message<'_>)) -> usize {
        let mut messages = [ptr::null_mut(); AT_ONCE];
        // SAFETY: the array has the size that is said; the messages that are returned are ours to destroy.
        let count =
            unsafe { rd::rd_kafka_consume_batch_queue(self.raw.as_ptr(), 0, messages.as_mut_ptr(), AT_ONCE) };
        let count = usize::try_from(count).unwrap_or(0);
        for raw in &messages[..count] {
            handle(Message { raw: *raw, lives: PhantomData });
            // SAFETY: destroyed once; what was borrowed of it has ended with the call above.
            unsafe { rd::rd_kafka_message_destroy(*raw) };
        }
        count
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: after the first call no callback is made; ours is the only reference that is destroyed.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.raw.as_ptr(), None, ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.raw.as_ptr());
        }
    }
}

/// What a handle has to say.
#[derive(Debug)]
pub(super) enum Event {
    /// Fates of messages.
    Reports(Reports),
    /// What there is of topics.
    Described { asked: usize, result: Result<Vec<Described>, Trouble> },
    /// A topic was made.
    Created { asked: usize, result: Result<(), Trouble> },
    /// A topic's configuration.
    Configs { asked: usize, result: Result<Vec<(String, String)>, Trouble> },
    /// Offsets of partitions; negative where there is none.
    Offsets { asked: usize, result: Result<Vec<PartitionOffset>, Trouble> },
    /// Something went wrong; fatal: this handle will not do anything any more.
    Error { trouble: Trouble, is_fatal: bool },
    /// A line of librdkafka's; the level is syslog's.
    Log { level: i32, text: String },
    /// Of no interest.
    Other,
}

/// A topic, and the life of the queue that it is.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub topic: CString,
    pub result: Result<Life, Trouble>,
}

/// Where a partition stands.
#[derive(Clone, Debug)]
pub(super) struct PartitionOffset {
    pub topic: CString,
    pub partition: i32,
    pub offset: Result<i64, Trouble>,
}

#[derive(Debug)]
struct RawEvent(NonNull<rd::rd_kafka_event_t>);

// SAFETY: an event belongs to whoever took it, and to no thread.
unsafe impl Send for RawEvent {}

impl Drop for RawEvent {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { rd::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}

impl RawEvent {
    fn read(self) -> Event {
        let raw = self.0.as_ptr();
        // SAFETY: the event lives until `self` is dropped; every call asks for the type that the event has, and what is
        // borrowed from it is copied before.
        unsafe {
            let asked = || rd::rd_kafka_event_opaque(raw) as usize;
            let failed = || {
                let code = rd::rd_kafka_event_error(raw);
                check(code)
                    .map_err(|_| Trouble::new(code.into(), text_of(rd::rd_kafka_event_error_string(raw))))
            };
            match rd::rd_kafka_event_type(raw) {
                rd::RD_KAFKA_EVENT_DR => Event::Reports(Reports(self)),
                EVENT_DESCRIBE_TOPICS => {
                    Event::Described { asked: asked(), result: failed().map(|()| described(raw)) }
                }
                rd::RD_KAFKA_EVENT_CREATETOPICS_RESULT => {
                    Event::Created { asked: asked(), result: failed().and_then(|()| created(raw)) }
                }
                rd::RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT => {
                    Event::Configs { asked: asked(), result: failed().and_then(|()| configs(raw)) }
                }
                EVENT_LIST_OFFSETS => {
                    Event::Offsets { asked: asked(), result: failed().map(|()| offsets(raw)) }
                }
                rd::RD_KAFKA_EVENT_ERROR => {
                    let code = rd::rd_kafka_event_error(raw);
                    let trouble = Trouble::new(code.into(), text_of(rd::rd_kafka_event_error_string(raw)));
                    Event::Error { trouble, is_fatal: rd::rd_kafka_event_error_is_fatal(raw) != 0 }
                }
                rd::RD_KAFKA_EVENT_LOG => {
                    let (mut facility, mut text, mut level) = (ptr::null(), ptr::null(), 0);
                    rd::rd_kafka_event_log(raw, &mut facility, &mut text, &mut level);
                    Event::Log { level, text: text_of(text) }
                }
                _ => Event::Other,
            }
        }
    }
}

/// # Safety
/// `raw` is a live event of DescribeTopics.
unsafe fn described(raw: *mut rd::rd_kafka_event_t) -> Vec<Described> {
    let mut all = Vec::new();
    // SAFETY: the caller's promise; the results live as long as the event, and the count is that of the array.
    unsafe {
        let result = rd::rd_kafka_event_DescribeTopics_result(raw);
        let mut count = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        for index in 0..count {
            let topic = *topics.add(index);
            let name = CStr::from_ptr(rd::rd_kafka_TopicDescription_name(topic)).to_owned();
            all.push(Described { topic: name, result: description(topic) });
        }
    }
    all
}

/// # Safety
/// `topic` is of a live event.
unsafe fn description(topic: *const rd::rd_kafka_TopicDescription_t) -> Result<Life, Trouble> {
    // SAFETY: the caller's promise.
    unsafe {
        let error = rd::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            let code = rd::rd_kafka_error_code(error);
            check(code).map_err(|_| Trouble::new(code.into(), text_of(rd::rd_kafka_error_string(error))))?;
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(topic);
        // Random in most of its 128 bits, and known to Kafka's own clients alone.
        let (high, low) = if id.is_null() {
            (0, 0)
        } else {
            let bits =
                (rd::rd_kafka_Uuid_most_significant_bits(id), rd::rd_kafka_Uuid_least_significant_bits(id));
            (bits.0.cast_unsigned(), bits.1.cast_unsigned())
        };
        let signing = Signing { key: u128::from(high) << 64 | u128::from(low), ..Signing::default() };
        let mut partitions = 0;
        rd::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        let partitions = u16::try_from(partitions).unwrap_or(u16::MAX);
        Ok(Life { incarnation: high ^ low, partitions, signing })
    }
}

/// # Safety
/// `raw` is a live event of CreateTopics.
unsafe fn created(raw: *mut rd::rd_kafka_event_t) -> Result<(), Trouble> {
    // SAFETY: the caller's promise; the results live as long as the event.
    unsafe {
        let result = rd::rd_kafka_event_CreateTopics_result(raw);
        let mut count = 0;
        let topics = rd::rd_kafka_CreateTopics_result_topics(result, &mut count);
        if topics.is_null() || count == 0 {
            return Ok(());
        }
        let code = rd::rd_kafka_topic_result_error(*topics);
        check(code)
            .map_err(|_| Trouble::new(code.into(), text_of(rd::rd_kafka_topic_result_error_string(*topics))))
    }
}

/// # Safety
/// `raw` is a live event of DescribeConfigs.
unsafe fn configs(raw: *mut rd::rd_kafka_event_t) -> Result<Vec<(String, String)>, Trouble> {
    let mut all = Vec::new();
    // SAFETY: the caller's promise; the results live as long as the event, and the counts are those of the arrays.
    unsafe {
        let result = rd::rd_kafka_event_DescribeConfigs_result(raw);
        let mut count = 0;
        let resources = rd::rd_kafka_DescribeConfigs_result_resources(result, &mut count);
        for index in 0..count {
            let resource = *resources.add(index);
            let code = rd::rd_kafka_ConfigResource_error(resource);
            check(code).map_err(|_| {
                Trouble::new(code.into(), text_of(rd::rd_kafka_ConfigResource_error_string(resource)))
            })?;
            let mut entries = 0;
            let configs = rd::rd_kafka_ConfigResource_configs(resource, &mut entries);
            for entry in 0..entries {
                let entry = *configs.add(entry);
                all.push((
                    text_of(rd::rd_kafka_ConfigEntry_name(entry)),
                    text_of(rd::rd_kafka_ConfigEntry_value(entry)),
                ));
            }
        }
    }
    Ok(all)
}

/// # Safety
/// `raw` is a live event of ListOffsets.
unsafe fn offsets(raw: *mut rd::rd_kafka_event_t) -> Vec<PartitionOffset> {
    let mut all = Vec::new();
    // SAFETY: the caller's promise; the results live as long as the event, and the count is that of the array.
    unsafe {
        let result = rd::rd_kafka_event_ListOffsets_result(raw);
        let mut count = 0;
        let infos = rd::rd_kafka_ListOffsets_result_infos(result, &mut count);
        for index in 0..count {
            let one = &*rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            let topic = CStr::from_ptr(one.topic).to_owned();
            all.push(PartitionOffset {
                topic,
                partition: one.partition,
                offset: check(one.err).map(|()| one.offset),
            });
        }
    }
    all
}

/// Fates of messages.
#[derive(Debug)]
pub(super) struct Reports(RawEvent);

/// The fate of one.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// As it was produced with.
    pub opaque: usize,
    /// The offset where it is stored; negative where it is stored and nobody knows where.
    pub result: Result<i64, Trouble>,
}

impl Reports {
    /// Each of them, once.
    pub(super) fn each(&self, mut handle: impl FnMut(Report)) {
        let mut messages = [ptr::null(); AT_ONCE];
        loop {
            // SAFETY: the event lives and the array has the size that is said; a call goes on where the one before ended.
            let count = unsafe {
                rd::rd_kafka_event_message_array(self.0.0.as_ptr(), messages.as_mut_ptr(), AT_ONCE)
            };
            if count == 0 {
                return;
            }
            for message in &messages[..count] {
                // SAFETY: the messages live as long as the event.
                let message = unsafe { &**message };
                let result = match message.err {
                    rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(message.offset),
                    code => Err(Trouble::of(code)),
                };
                handle(Report { opaque: message._private as usize, result });
            }
        }
    }
}

/// A message of a partition, or what is to be known of one.
#[derive(Debug)]
pub(super) struct Message<'a> {
    raw: *mut rd::rd_kafka_message_t,
    lives: PhantomData<&'a ()>,
}

impl Message<'_> {
    fn get(&self) -> &rd::rd_kafka_message_t {
        // SAFETY: it lives as long as this does.
        unsafe { &*self.raw }
    }

    /// The topic's number ([`Topic::number`]) and the partition.
    pub(super) fn from(&self) -> (usize, i32) {
        (self.get().rkt as usize, self.get().partition)
    }

    /// Why it is none; the end of a partition, too, is told so.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let code = check(self.get().err).err()?.code;
        // SAFETY: of a message with an error, the text is what it is about.
        let text = unsafe { text_of(rd::rd_kafka_message_errstr(self.raw)) };
        Some(Trouble::new(code, text))
    }

    pub(super) fn offset(&self) -> i64 {
        self.get().offset
    }

    /// When it was stored, Unix milliseconds.
    pub(super) fn timestamp_ms(&self) -> u64 {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives, and the type is written before it returns.
        let time = unsafe { rd::rd_kafka_message_timestamp(self.raw, &mut kind) };
        u64::try_from(time).unwrap_or(0)
    }

    /// Empty where it has none.
    pub(super) fn key(&self) -> &[u8] {
        // SAFETY: librdkafka's own pointer and length, of a message that lives.
        unsafe { bytes_of(self.get().key, self.get().key_len) }
    }

    /// Empty where it has none.
    pub(super) fn payload(&self) -> &[u8] {
        // SAFETY: likewise.
        unsafe { bytes_of(self.get().payload, self.get().len) }
    }

    /// The last header of that name.
    pub(super) fn header(&self, name: &CStr) -> Option<&[u8]> {
        let (mut headers, mut value, mut length) = (ptr::null_mut(), ptr::null(), 0);
        let none = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        // SAFETY: the message lives, and its headers and their values with it.
        unsafe {
            if rd::rd_kafka_message_headers(self.raw, &mut headers) != none
                || rd::rd_kafka_header_get_last(headers, name.as_ptr(), &mut value, &mut length) != none
            {
                return None;
            }
            Some(bytes_of(value, length))
        }
    }
}

/// # Safety
/// `length` bytes live at `at` for `'a`, or it is null.
unsafe fn bytes_of<'a>(at: *const c_void, length: usize) -> &'a [u8] {
    if at.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(at.cast(), length) }
}

/// A topic of a handle.
#[derive(Debug)]
pub(super) struct Topic {
    raw: NonNull<rd::rd_kafka_topic_t>,
    handle: Handle,
}

// SAFETY: librdkafka's topics are locked inside and may be used from any thread.
unsafe impl Send for Topic {}
// SAFETY: likewise.
unsafe impl Sync for Topic {}

impl Topic {
    /// The topic of that name.
    pub(super) fn new(handle: &Handle, name: &CStr) -> Result<Self, Trouble> {
        // SAFETY: the handle and the name live; the reference that is returned is ours.
        let raw = unsafe { rd::rd_kafka_topic_new(handle.raw(), name.as_ptr(), ptr::null_mut()) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw, handle: handle.clone() }),
            None => Err(last_trouble()),
        }
    }

    /// What [`Message::from`] tells it by.
    pub(super) fn number(&self) -> usize {
        self.raw.as_ptr() as usize
    }

    /// Reads a partition from an offset on, into `queue`.
    pub(super) fn start(&self, partition: i32, offset: u64, queue: &Queue) -> Result<(), Trouble> {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        // SAFETY: topic and queue live, and are of one handle.
        let failed = unsafe {
            rd::rd_kafka_consume_start_queue(self.raw.as_ptr(), partition, offset, queue.raw.as_ptr())
        };
        if failed == 0 { Ok(()) } else { Err(last_trouble()) }
    }

    /// Stops reading a partition; what is in the queue of it is dropped. Blocks.
    pub(super) fn stop(&self, partition: i32) {
        // SAFETY: the topic lives. It fails where it was not started, which is stopped, too.
        unsafe { rd::rd_kafka_consume_stop(self.raw.as_ptr(), partition) };
    }

    /// Produces messages into a partition, whose bytes are not copied.
    ///
    /// Returns how many were taken, and why no more: where that is no trouble, they did not fit now.
    ///
    /// # Safety
    /// The payloads stay where they are until their reports have come or the client is gone, which clones of the handle can keep
    /// alive: see [`Handle::keep`]. (Keys are copied.)
    pub(super) unsafe fn produce(
        &self,
        partition: i32,
        opaque: usize,
        header: Option<(&CStr, &[u8])>,
        records: &[(&[u8], &[u8])],
        scratch: &mut Scratch,
    ) -> (usize, Result<(), Trouble>) {
        match header {
            // SAFETY: the caller's promise.
            None => unsafe { self.produce_plain(partition, opaque, records, scratch) },
            // SAFETY: the caller's promise.
            Some(header) => unsafe { self.produce_with_header(partition, opaque, header, records) },
        }
    }

    /// # Safety
    /// That of [`Self::produce`].
    unsafe fn produce_plain(
        &self,
        partition: i32,
        opaque: usize,
        records: &[(&[u8], &[u8])],
        scratch: &mut Scratch,
    ) -> (usize, Result<(), Trouble>) {
        scratch.0.clear();
        scratch.0.extend(records.iter().map(|(key, payload)| rd::rd_kafka_message_t {
            err: rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
            rkt: ptr::null_mut(),
            partition,
            payload: payload.as_ptr().cast_mut().cast(),
            len: payload.len(),
            key: if key.is_empty() { ptr::null_mut() } else { key.as_ptr().cast_mut().cast() },
            key_len: key.len(),
            offset: 0,
            _private: opaque as *mut c_void,
        }));
        // SAFETY: the array has the size that is said, and the payloads live as the caller promises.
        let taken = unsafe {
            rd::rd_kafka_produce_batch(
                self.raw.as_ptr(),
                partition,
                0,
                scratch.0.as_mut_ptr(),
                scratch.0.len() as c_int,
            )
        };
        let taken = usize::try_from(taken).unwrap_or(0);
        // What is taken is a front part: the first that does not fit ends it. Any other error is its message's alone.
        let none = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        let first = scratch.0.iter().position(|message| message.err != none);
        match first.map(|index| (index, scratch.0[index].err)) {
            None => (taken, Ok(())),
            Some((index, rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL)) => (index, Ok(())),
            Some((_, code)) => (taken, Err(Trouble::of(code))),
        }
    }

    /// # Safety
    /// That of [`Self::produce`].
    unsafe fn produce_with_header(
        &self,
        partition: i32,
        opaque: usize,
        (name, value): (&CStr, &[u8]),
        records: &[(&[u8], &[u8])],
    ) -> (usize, Result<(), Trouble>) {
        use rd::rd_kafka_vtype_t as vtype;
        let vu = |vtype, u| rd::rd_kafka_vu_t { vtype, u };
        let bytes = |bytes: &[u8]| {
            let ptr = bytes.as_ptr().cast_mut().cast();
            let mem = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr, size: bytes.len() };
            rd::rd_kafka_vu_s__bindgen_ty_1 { mem }
        };
        let header = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
            name: name.as_ptr(),
            val: value.as_ptr().cast(),
            size: value.len() as isize,
        };
        let mut fields = [
            vu(vtype::RD_KAFKA_VTYPE_RKT, rd::rd_kafka_vu_s__bindgen_ty_1 { rkt: self.raw.as_ptr() }),
            vu(vtype::RD_KAFKA_VTYPE_PARTITION, rd::rd_kafka_vu_s__bindgen_ty_1 { i32_: partition }),
            vu(vtype::RD_KAFKA_VTYPE_OPAQUE, rd::rd_kafka_vu_s__bindgen_ty_1 { ptr: opaque as *mut c_void }),
            vu(vtype::RD_KAFKA_VTYPE_HEADER, rd::rd_kafka_vu_s__bindgen_ty_1 { header }),
            vu(vtype::RD_KAFKA_VTYPE_VALUE, bytes(&[])),
            vu(vtype::RD_KAFKA_VTYPE_KEY, bytes(&[])),
        ];
        for (index, (key, payload)) in records.iter().enumerate() {
            fields[4].u = bytes(payload);
            fields[5].u = bytes(key);
            let count = if key.is_empty() { 5 } else { 6 };
            // SAFETY: as many fields as are said, whose values live during the call, payloads longer as the caller promises;
            // an error that is returned is ours to destroy.
            let code = unsafe {
                let error = rd::rd_kafka_produceva(self.handle.raw(), fields.as_ptr(), count);
                if error.is_null() {
                    continue;
                }
                let code = rd::rd_kafka_error_code(error);
                rd::rd_kafka_error_destroy(error);
                code
            };
            return match code {
                rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL => (index, Ok(())),
                code => (index, Err(Trouble::of(code))),
            };
        }
        (records.len(), Ok(()))
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: our reference, destroyed once; the handle goes after it.
        unsafe { rd::rd_kafka_topic_destroy(self.raw.as_ptr()) };
    }
}

/// Room for the messages of one call, kept.
#[derive(Debug, Default)]
pub(super) struct Scratch(Vec<rd::rd_kafka_message_t>);

fn last_trouble() -> Trouble {
    // SAFETY: reads a number of this thread's.
    Trouble::of(unsafe { rd::rd_kafka_last_error() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_nothing_of_brokers_addresses_and_topics() {
        use rd::rd_kafka_resp_err_t as Code;
        let told = |code: Code| Trouble::new(code.into(), "b1.internal:9092/1: topic p.q".into()).fault();
        for (code, words) in [
            (Code::RD_KAFKA_RESP_ERR__TRANSPORT, "Kafka does not answer in time"),
            (Code::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, "Kafka does not answer in time"),
            (Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "Kafka does not have the queue's topic"),
            (Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "Kafka does not take messages of this size"),
            (Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "Kafka has refused it"),
        ] {
            assert_eq!(told(code), StoreFault::Unavailable(words));
        }
        assert_eq!(Trouble::ours("as it is said").fault(), StoreFault::Unavailable("as it is said"));
    }
}
