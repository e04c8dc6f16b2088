//! What operations ask of whole queues: to find, create and delete one, and to list those of a project. Each order goes
//! to the queue's home, a list to every shard.

use super::{Asking, Connection, ConnectionId, Connections, Core, Letter};
use crate::base::clock::Now;
use crate::base::names::{FullName, queue_hash};
use crate::base::queue::home;
use crate::base::wish::Wish;
use crate::front::Front;
use crate::operation::{Answer, Order, SubscriptionInfo, SubscriptionOrder};
use crate::store::Store;

impl<S: Store<Connections>> Core<S> {
    /// Passes an order to the shards that it concerns.
    pub(super) fn order(&mut self, now: Now, by: Asking, order: Order) {
        match &order {
            Order::Wish(name, _) | Order::Make(name, _) | Order::Delete(name) => match self.home_of(name) {
                home if home == self.shard => self.take_order(now, by, order),
                home => self.outboxes[usize::from(home)].push(Letter::Order { by, order }),
            },
            Order::List(_) | Order::Subscriptions { .. } => {
                for shard in self.others() {
                    let order = order.clone();
                    self.outboxes[usize::from(shard)].push(Letter::Order { by, order });
                }
                self.take_order(now, by, order);
            }
        }
    }

    /// Fulfils this shard's part of an order.
    pub(super) fn take_order(&mut self, now: Now, by: Asking, order: Order) {
        match order {
            Order::Wish(name, wish) => drop(self.wish_of(now, Some(by), name, wish)),
            Order::Make(name, attributes) => {
                // A queue that is unknown here may exist in the store.
                let wish = if self.settings.auto_create { Wish::Create(attributes) } else { Wish::Find };
                self.wish_of(now, Some(by), name, wish);
            }
            Order::Delete(name) => drop(self.delete_for(now, Some(by), name)),
            Order::List(wanted) => self.list_for(now, by, wanted),
            Order::Subscriptions { name, what } => {
                let found = self.handle_subscriptions(now, &name, &what);
                self.answer_order(now, by, Answer::Subscriptions { of: self.shards, found });
            }
        }
    }

    /// Finds the subscriptions of this shard's connections to a queue, or ends them.
    fn handle_subscriptions(
        &mut self,
        now: Now,
        name: &FullName,
        what: &SubscriptionOrder,
    ) -> Vec<SubscriptionInfo> {
        let fronts = |id| {
            let front = self.connections.get(id).and_then(Connection::front)?;
            Some((id, front.subscriptions(name))).filter(|(_, found)| !found.is_empty())
        };
        let found: Vec<(ConnectionId, Vec<SubscriptionInfo>)> =
            self.connections.ids().filter_map(fronts).collect();
        if let SubscriptionOrder::End(only) = what {
            for (id, _) in &found {
                self.with_dirty(now, *id, |connection, env| {
                    connection.with_front(env, |front: &mut Front, cx| {
                        front.end_subscriptions(name, only.as_deref(), cx);
                    });
                });
            }
        }
        found.into_iter().flat_map(|(_, found)| found).collect()
    }

    pub(super) fn answer_order(&mut self, now: Now, by: Asking, answer: Answer) {
        if by.shard == self.shard {
            self.deliver(now, by, answer);
        } else {
            self.outboxes[usize::from(by.shard)].push(Letter::Ordered { by, answer });
        }
    }

    pub(super) fn home_of(&self, name: &FullName) -> u16 {
        home(queue_hash(&name.0, &name.1), self.shards)
    }
}
