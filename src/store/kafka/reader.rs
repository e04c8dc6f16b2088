//! Reads whole partitions of a topic in batches, without a consumer group: for load tests of Kafka itself.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::layout::Layout;
use super::native::{Handle, Queue, Topic, Trouble};
use super::news::News;
use crate::base::units::{Offset, Partition};

/// How long it sleeps if the queue is empty.
const NAP: Duration = Duration::from_micros(200);

/// Reads whole partitions of a topic. Fields drop in order: the topic before the queue that it fills.
#[derive(Debug)]
pub struct TopicReader {
    topic: Topic,
    started: Vec<Partition>,
    queue: Queue,
}

impl TopicReader {
    /// Reads `topic`, with one of `offsets` as the start of each partition.
    pub fn start(
        properties: &BTreeMap<String, String>,
        topic: &str,
        offsets: &[Offset],
    ) -> Result<Self, String> {
        let handle = Handle::consumer(properties)?;
        let name = CString::new(topic).map_err(|error| error.to_string())?;
        let topic = Topic::new(&handle, &name).map_err(|trouble| trouble.to_string())?;
        let queue = Queue::new(&handle, &Arc::new(News::new(|| {}))).ok_or("no queue")?;
        let mut reader = Self { topic, started: Vec::new(), queue };
        for (partition, offset) in (0..).map(Partition).zip(offsets) {
            let started = reader.topic.start(partition, Layout::Plain.of_kafka(*offset), &reader.queue);
            started.map_err(|trouble| trouble.to_string())?;
            reader.started.push(partition);
        }
        Ok(reader)
    }

    /// Calls `each` with the payloads that have arrived. Sleeps for a moment if there are none.
    pub fn read(&self, mut each: impl FnMut(&[u8])) -> Result<(), String> {
        let mut failure = None;
        let count = self.queue.consume(|message| match message.trouble() {
            None => each(message.payload()),
            // Unreachable brokers come back, and a partition may grow beyond its end.
            Some(Trouble {
                code:
                    RDKafkaErrorCode::PartitionEOF
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown,
                ..
            }) => {}
            Some(trouble) => failure = Some(trouble.to_string()),
        });
        if count == 0 {
            std::thread::sleep(NAP);
        }
        failure.map_or(Ok(()), Err)
    }
}

impl Drop for TopicReader {
    fn drop(&mut self) {
        self.started.iter().for_each(|partition| self.topic.stop(*partition));
    }
}
