//! The Kafka topic of a queue: `<prefix><project>.<queue>`, escaped, with `.packed` appended for that layout.
//!
//! Kafka's metrics do not distinguish `.` and `_` in topic names, so Kafka refuses a topic whose name differs
//! from another one only in these. So no name has a `_`, and a `.` occurs only between project and queue and
//! before `packed`. `-` escapes: `-` becomes `--`, `.` becomes `-d`, and `_` becomes `-u`.

use std::ffi::CString;

use super::layout::Layout;
use super::settings::Settings;
use crate::base::limits::TOPIC_NAME_CHARS_MAX;
use crate::base::names::{FullName, Project, QueueName};

fn escape(name: &str, into: &mut String) {
    for character in name.chars() {
        match character {
            '-' => into.push_str("--"),
            '.' => into.push_str("-d"),
            '_' => into.push_str("-u"),
            other => into.push(other),
        }
    }
}

/// The names of the topics of a server's queues.
#[derive(Clone, Debug)]
pub(super) struct TopicNames {
    prefix: String,
    pub layout: Layout,
}

impl TopicNames {
    pub(super) fn new(config: &Settings) -> Self {
        let layout = if config.packed { Layout::Packed } else { Layout::Plain };
        Self { prefix: config.topic_prefix.clone(), layout }
    }

    /// Returns the name of a queue's topic, or `None` if it would be too long for Kafka.
    pub(super) fn topic(&self, project: &Project, queue: &QueueName) -> Option<CString> {
        let mut name = self.prefix.clone();
        escape(project.as_str(), &mut name);
        name.push('.');
        escape(queue.as_str(), &mut name);
        if self.layout == Layout::Packed {
            name.push_str(".packed");
        }
        if name.len() > TOPIC_NAME_CHARS_MAX {
            return None;
        }
        CString::new(name).ok()
    }

    /// Returns the queue that has a topic, or `None` if the topic is no queue's.
    pub(super) fn queue(&self, topic: &str) -> Option<FullName> {
        let name = topic.strip_prefix(&self.prefix)?;
        let name = if self.layout == Layout::Packed { name.strip_suffix(".packed")? } else { name };
        let (project, queue) = name.split_once('.')?;
        let (project, queue) = (unescape(project)?, unescape(queue)?);
        let (project, queue) = (Project::parse_stored(&project).ok()?, QueueName::parse(&queue).ok()?);
        let is_it = self.topic(&project, &queue).is_some_and(|name| name.to_bytes() == topic.as_bytes());
        is_it.then_some((project, queue))
    }
}

fn unescape(name: &str) -> Option<String> {
    let mut out = String::new();
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        out.push(match character {
            '-' => match characters.next()? {
                '-' => '-',
                'd' => '.',
                'u' => '_',
                _ => return None,
            },
            other => other,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(prefix: &str, layout: Layout) -> TopicNames {
        TopicNames { prefix: prefix.into(), layout }
    }

    #[test]
    fn other_topics_are_no_queues() {
        let of = |topic: &str, layout| {
            names("mine.", layout).queue(topic).map(|(project, queue)| format!("{project}/{queue}"))
        };
        assert_eq!(of("mine.default.a-db", Layout::Plain).as_deref(), Some("default/a.b"));
        assert_eq!(of("mine.default.q.packed", Layout::Packed).as_deref(), Some("default/q"));
        for other in [
            "default.q",
            "mine.q",
            "mine.default.q.packed",
            "mine.default.a_b",
            "mine.default.a-",
            "mine.default.a-x",
            "mine..q",
            "mine.default.",
            "mine.default.a b",
            "__consumer_offsets",
            "millstream-attributes",
        ] {
            assert_eq!(of(other, Layout::Plain), None, "{other}");
        }
        assert_eq!(of("mine.default.q", Layout::Packed), None);
    }

    #[test]
    fn names_are_readable_and_too_long_ones_are_none() {
        let name = |project: &str, queue: &str| {
            let (project, queue) = (Project::parse(project).unwrap(), QueueName::parse(queue).unwrap());
            names("", Layout::Plain).topic(&project, &queue).map(|name| name.into_string().unwrap())
        };
        assert_eq!(name("default", "orders").as_deref(), Some("default.orders"));
        assert_eq!(name("a.b", "c_d-e").as_deref(), Some("a-db.c-ud--e"));
        assert_eq!(name(&"-".repeat(120), &"q".repeat(8)).map(|name| name.len()), Some(249));
        assert_eq!(name(&"-".repeat(120), &"q".repeat(9)), None);
    }

    proptest! {
        #[test]
        fn kafka_distinguishes_the_topics_of_distinct_queues(
            project in "[A-Za-z0-9_.-]{1,40}", queue in "[A-Za-z0-9_.-]{1,40}",
        ) {
            prop_assume!(![&project, &queue].iter().any(|name| matches!(name.as_str(), "." | "..")));
            let (Ok(of), Ok(named)) = (Project::parse(&project), QueueName::parse(&queue)) else { return Ok(()) };
            let [plain, packed] = [Layout::Plain, Layout::Packed].map(|layout| names("", layout));
            let topic = plain.topic(&of, &named).unwrap().into_string().unwrap();
            prop_assert!(topic.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-'));
            // The queue can be read from the name, so no other queue has it; and without a `_`, no two names
            // collide.
            let (left, right) = topic.split_once('.').unwrap();
            prop_assert_eq!((unescape(left), unescape(right)), (Some(project), Some(queue)));
            prop_assert_eq!(plain.queue(&topic), Some((of.clone(), named.clone())));
            let packed = packed.topic(&of, &named).unwrap().into_string().unwrap();
            prop_assert_eq!(packed, topic + ".packed");
        }
    }
}
