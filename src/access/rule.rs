//! Rules: which rights a client has on which queues.
//!
//! ```text
//! rule    := right ("," right)* ":" pattern ["@" group]
//! right   := "produce" | "consume" | "claim" | "manage" | "all"
//! pattern := the name of a queue | its first characters "*" | "*"
//! ```
//! A pattern is literal or a prefix, as in Kafka (KIP-290).

use std::fmt;
use std::sync::Arc;

use crate::base::limits::QUEUE_NAME_CHARS_MAX;

/// A kind of use of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Right {
    /// Append messages, and create the queue by doing so.
    Produce,
    /// Read messages.
    Consume,
    /// Lease, acknowledge and delete messages.
    Claim,
    /// Create, change, purge and delete the queue.
    Manage,
}

impl Right {
    /// All rights.
    pub const ALL: [Self; 4] = [Self::Produce, Self::Consume, Self::Claim, Self::Manage];

    /// Returns the name of the right in rules.
    pub fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Claim => "claim",
            Self::Manage => "manage",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some rights on the queues that a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    rights: u8,
    pattern: Pattern,
    /// The consumer group that the right to consume is limited to.
    group: Option<Arc<str>>,
}

/// The names of queues.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Pattern {
    /// This name.
    Name(Arc<str>),
    /// All names that begin like this.
    Prefix(Arc<str>),
}

impl Rule {
    /// Parses a rule. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{text:?} is not a rule: {why}; write RIGHTS:QUEUE or RIGHTS:PREFIX*, like produce,consume:orders*"
            )
        };
        let (names, rest) = text.split_once(':').ok_or_else(|| wrong("it has no colon"))?;
        let mut rights = 0;
        for name in names.split(',') {
            rights |= match name {
                "all" => Right::ALL.iter().fold(0, |all, right| all | right.bit()),
                _ => Right::ALL
                    .into_iter()
                    .find(|right| right.name() == name)
                    .ok_or_else(|| wrong("rights are produce, consume, claim, manage and all"))?
                    .bit(),
            };
        }
        let (pattern, group) = match rest.split_once('@') {
            Some((pattern, group)) if is_name(group) => (pattern, Some(group.into())),
            Some(_) => return Err(wrong("the name of the group after @ is invalid")),
            None => (rest, None),
        };
        if group.is_some() && rights != Right::Consume.bit() {
            return Err(wrong("only the right to consume can be limited to a group"));
        }
        let pattern = match pattern.strip_suffix('*') {
            Some(prefix) if prefix.is_empty() || is_name(prefix) => Pattern::Prefix(prefix.into()),
            None if is_name(pattern) => Pattern::Name(pattern.into()),
            _ => return Err(wrong("the name of the queue is invalid")),
        };
        Ok(Self { rights, pattern, group })
    }

    /// Returns whether the rule gives a right on a queue, without any group.
    pub fn allows(&self, right: Right, queue: &str) -> bool {
        self.group.is_none() && self.rights & right.bit() != 0 && self.pattern.matches(queue)
    }
}

impl Pattern {
    fn matches(&self, queue: &str) -> bool {
        match self {
            Self::Name(name) => &**name == queue,
            Self::Prefix(prefix) => queue.starts_with(&**prefix),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |right: &Right| self.rights & right.bit() != 0;
        let names: Vec<&str> = Right::ALL.into_iter().filter(has).map(Right::name).collect();
        let names = if names.len() == Right::ALL.len() { "all".into() } else { names.join(",") };
        match &self.pattern {
            Pattern::Name(name) => write!(f, "{names}:{name}")?,
            Pattern::Prefix(prefix) => write!(f, "{names}:{prefix}*")?,
        }
        self.group.as_ref().map_or(Ok(()), |group| write!(f, "@{group}"))
    }
}

/// Returns whether the text can be the name of a queue or a group, or the start of one.
fn is_name(text: &str) -> bool {
    (1..=QUEUE_NAME_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rules_are_shown_as_they_are_read() {
        for text in
            ["produce:orders", "produce,consume:orders*", "all:*", "consume:a.b-c_d@workers", "manage:*"]
        {
            assert_eq!(Rule::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Rule::parse("manage,claim,consume,produce:x").unwrap().to_string(), "all:x");
    }

    #[test]
    fn what_is_not_a_rule_is_refused_with_the_reason() {
        let long = format!("consume:{}", "x".repeat(QUEUE_NAME_CHARS_MAX + 1));
        for (text, why) in [
            ("produce", "no colon"),
            ("write:orders", "rights are"),
            (":orders", "rights are"),
            ("produce,:orders", "rights are"),
            ("produce:", "name of the queue"),
            ("produce:a/b", "name of the queue"),
            ("produce:a*b", "name of the queue"),
            ("produce:**", "name of the queue"),
            ("consume:a@", "name of the group"),
            ("produce:a@g", "only the right to consume"),
            (&long, "name of the queue"),
        ] {
            let said = Rule::parse(text).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_rule_for_a_group_gives_nothing_without_it() {
        assert!(!Rule::parse("consume:orders@workers").unwrap().allows(Right::Consume, "orders"));
    }

    proptest! {
        #[test]
        fn a_prefix_matches_exactly_what_begins_with_it(prefix in "[a-z.]{0,4}", name in "[a-z.]{1,6}") {
            let rule = Rule::parse(&format!("claim:{prefix}*")).unwrap();
            prop_assert_eq!(rule.allows(Right::Claim, &name), name.starts_with(&prefix));
            prop_assert!(!rule.allows(Right::Manage, &name));
        }

        #[test]
        fn parsing_never_panics_and_a_rule_is_read_again(text in "\\PC{0,40}") {
            if let Ok(rule) = Rule::parse(&text) {
                prop_assert_eq!(Rule::parse(&rule.to_string()), Ok(rule));
            }
        }
    }
}
