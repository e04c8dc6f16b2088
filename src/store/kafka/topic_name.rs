//! The Kafka topic of a queue: `<prefix><project>.<queue>`, escaped; with `.packed` behind it where that is its layout.
//!
//! Kafka takes `.` and `_` in topic names for the same in its metrics, and refuses a topic whose name differs from another's in
//! these alone. So no name has a `_`, a `.` stands only between project and queue and before `packed`, and `-` escapes: `-` is `--`, `.` is `-d`,
//! `_` is `-u`.

use std::ffi::CString;

use super::layout::Layout;
use crate::base::limits::TOPIC_NAME_CHARS_MAX;
use crate::base::names::{Project, QueueName};

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

/// The topic; `None` where its name would be longer than Kafka takes.
pub(super) fn topic_name(
    prefix: &str,
    project: &Project,
    queue: &QueueName,
    layout: Layout,
) -> Option<CString> {
    let mut name = prefix.to_owned();
    escape(project.as_str(), &mut name);
    name.push('.');
    escape(queue.as_str(), &mut name);
    if layout == Layout::Packed {
        name.push_str(".packed");
    }
    if name.len() > TOPIC_NAME_CHARS_MAX {
        return None;
    }
    CString::new(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unescape(name: &str) -> String {
        let mut out = String::new();
        let mut characters = name.chars();
        while let Some(character) = characters.next() {
            out.push(match character {
                '-' => match characters.next().unwrap() {
                    '-' => '-',
                    'd' => '.',
                    'u' => '_',
                    other => panic!("{other}"),
                },
                other => other,
            });
        }
        out
    }

    #[test]
    fn names_read_well_and_long_ones_are_none() {
        let name = |project: &str, queue: &str| {
            let (project, queue) = (Project::parse(project).unwrap(), QueueName::parse(queue).unwrap());
            topic_name("", &project, &queue, Layout::Plain).map(|name| name.into_string().unwrap())
        };
        assert_eq!(name("default", "orders").as_deref(), Some("default.orders"));
        assert_eq!(name("a.b", "c_d-e").as_deref(), Some("a-db.c-ud--e"));
        assert_eq!(name(&"-".repeat(120), &"q".repeat(8)).map(|name| name.len()), Some(249));
        assert_eq!(name(&"-".repeat(120), &"q".repeat(9)), None);
    }

    proptest! {
        #[test]
        fn distinct_queues_have_topics_that_kafka_tells_apart(
            project in "[A-Za-z0-9_.-]{1,40}", queue in "[A-Za-z0-9_.-]{1,40}",
        ) {
            prop_assume!(![&project, &queue].iter().any(|name| matches!(name.as_str(), "." | "..")));
            let (Ok(of), Ok(named)) = (Project::parse(&project), QueueName::parse(&queue)) else { return Ok(()) };
            let topic = topic_name("", &of, &named, Layout::Plain).unwrap().into_string().unwrap();
            prop_assert!(topic.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-'));
            // What it came from can be read from it, so no other queue has it; and without a `_`, none collides.
            let (left, right) = topic.split_once('.').unwrap();
            prop_assert_eq!((unescape(left), unescape(right)), (project, queue));
            let packed = topic_name("", &of, &named, Layout::Packed).unwrap().into_string().unwrap();
            prop_assert_eq!(packed, topic + ".packed");
        }
    }
}
