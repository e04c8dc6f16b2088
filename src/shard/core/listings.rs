//! Lists of the queues of a project, for operations. A store that [lists](Store::LISTS) knows queues that this shard has
//! not opened: it is asked first.

use std::collections::{BTreeMap, HashMap};

use super::{Asking, ChangeId, Connections, Core};
use crate::base::attributes::Attributes;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::Millis;
use crate::base::names::{FullName, QueueName};
use crate::operation::{Answer, ListedQueue, QueuesWanted};
use crate::store::{Request, Store};

/// How old the store's answer may be, about. A queue that another server has created is in a list this late. As tenants ask,
/// this also bounds how often a store reads the names of all queues.
const AGE: Millis = Millis::from_secs(1);

/// The lists that wait for the store, at most one for each request under way on a connection.
pub(super) type Listings = HashMap<ChangeId, QueuesWanted>;

impl<S: Store<Connections>> Core<S> {
    /// Finds this shard's part of a list.
    pub(super) fn list_for(&mut self, now: Now, by: Asking, wanted: QueuesWanted) {
        if S::LISTS {
            let token = self.changes.next_id(Some(by));
            self.listings.insert(token, wanted);
            self.submit(now, Request::List { token, age: AGE });
        } else {
            let queues = self.catalogue.list(&wanted).into_iter();
            let known = |(name, attributes)| ListedQueue { name, attributes: Some(attributes) };
            let queues = Ok(queues.map(known).collect());
            self.answer_order(now, by, Answer::Listed { of: self.shards, queues });
        }
    }

    /// Handles the answer of the store. `result` is sorted by the names of the queues.
    pub(super) fn handle_listed_for(
        &mut self,
        now: Now,
        by: Asking,
        token: ChangeId,
        result: Result<&[(FullName, u16)], StoreFault>,
    ) {
        let Some(wanted) = self.listings.remove(&token) else { return };
        let queues = result.map(|stored| {
            let is_ours = |name: &FullName| self.home_of(name) == self.shard;
            merge(&wanted, stored, is_ours, self.catalogue.list(&wanted))
        });
        self.answer_order(now, by, Answer::Listed { of: self.shards, queues });
    }
}

/// Returns the wanted ones of the queues in the store that are ours, which are sorted, and of those that this shard knows.
/// Queues that were created a moment ago are only among the latter.
fn merge(
    wanted: &QueuesWanted,
    stored: &[(FullName, u16)],
    is_ours: impl Fn(&FullName) -> bool,
    known: Vec<(QueueName, Attributes)>,
) -> Vec<ListedQueue> {
    let first = (wanted.project.as_str(), &*wanted.after);
    let begin = stored.partition_point(|((project, name), _)| (project.as_str(), name.as_str()) <= first);
    let stored = stored[begin..].iter().map(|(name, _)| name).take_while(|name| name.0 == wanted.project);
    let stored = stored.filter(|name| wanted.shows(&name.1) && is_ours(name)).take(wanted.limit);
    let mut queues: BTreeMap<_, _> = stored.map(|(_, name)| (name.clone(), None)).collect();
    queues.extend(known.into_iter().map(|(name, attributes)| (name, Some(attributes))));
    let listed = |(name, attributes)| ListedQueue { name, attributes };
    queues.into_iter().take(wanted.limit).map(listed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::names::Project;

    #[test]
    fn a_list_has_what_is_stored_and_what_was_just_created() {
        let full = |name: &str| {
            let (project, queue) = name.split_once('/').unwrap();
            (Project::parse(project).unwrap(), QueueName::parse(queue).unwrap())
        };
        let stored = ["o/z", "p/a", "p/b", "p/c", "p/d", "p/not-ours", "q/a"].map(|name| (full(name), 1));
        let list = |after: &str, limit, known: &[&str]| {
            let wanted = QueuesWanted { project: full("p/a").0, after: after.into(), limit, of: None };
            let known = known.iter().map(|name| (full(&format!("p/{name}")).1, Attributes::default()));
            let merged = merge(&wanted, &stored, |name| name.1.as_str() != "not-ours", known.collect());
            let shown = |queue: ListedQueue| (queue.name.to_string(), queue.attributes.is_some());
            merged.into_iter().map(shown).collect::<Vec<_>>()
        };
        let of = |names: &[(&str, bool)]| {
            names.iter().map(|(name, known)| ((*name).to_owned(), *known)).collect::<Vec<_>>()
        };
        assert_eq!(list("", 10, &[]), of(&[("a", false), ("b", false), ("c", false), ("d", false)]));
        assert_eq!(list("", 3, &["aa", "b"]), of(&[("a", false), ("aa", true), ("b", true)]));
        assert_eq!(list("b", 10, &["e"]), of(&[("c", false), ("d", false), ("e", true)]));
        assert_eq!(list("bb", 1, &[]), of(&[("c", false)]));
        assert_eq!(list("d", 10, &[]), of(&[]));
    }
}
