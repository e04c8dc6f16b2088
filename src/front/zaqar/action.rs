//! The actions with their fields, as the schemas of the API describe them.

use std::borrow::Cow;
use std::fmt;

use super::document::{Elements, Kind, Node};
use super::texts;

/// A field that no schema describes: either its value, or why the action fails after authentication, with status
/// 400 and this text as `exception`.
pub type Unchecked<T> = Result<T, &'static str>;

/// An action. `queue` is the field `queue_name`, which need not be a valid name.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields have the names of the API.
pub enum Action<'a> {
    /// `authenticate`: the request's headers have a token.
    Authenticate,
    /// `queue_create`.
    QueueCreate { queue: Cow<'a, str>, metadata: Unchecked<Option<Node<'a>>> },
    /// `queue_list`.
    QueueList { marker: Option<Cow<'a, str>>, limit: Option<i64>, detailed: bool },
    /// `queue_get`.
    QueueGet { queue: Cow<'a, str> },
    /// `queue_delete`.
    QueueDelete { queue: Cow<'a, str> },
    /// `queue_get_stats`.
    QueueGetStats { queue: Cow<'a, str> },
    /// `queue_purge`.
    QueuePurge { queue: Cow<'a, str>, resources: Resources },
    /// `message_post`.
    MessagePost { queue: Cow<'a, str>, messages: Messages<'a> },
    /// `message_list`.
    MessageList {
        queue: Cow<'a, str>,
        marker: Option<Cow<'a, str>>,
        limit: Option<i64>,
        echo: bool,
        include_claimed: bool,
        include_delayed: bool,
    },
    /// `message_get`.
    MessageGet { queue: Cow<'a, str>, message: Cow<'a, str> },
    /// `message_get_many`.
    MessageGetMany { queue: Cow<'a, str>, messages: Texts<'a> },
    /// `message_delete`.
    MessageDelete { queue: Cow<'a, str>, message: Cow<'a, str>, claim: Option<Cow<'a, str>> },
    /// `message_delete_many`. Exactly one of `messages` and `pop` must be present.
    MessageDeleteMany {
        queue: Cow<'a, str>,
        messages: Option<Texts<'a>>,
        claims: Option<Texts<'a>>,
        pop: Option<i64>,
    },
    /// `claim_create`.
    ClaimCreate { queue: Cow<'a, str>, ttl: Option<i64>, grace: Option<i64>, limit: Option<i64> },
    /// `claim_get`.
    ClaimGet { queue: Cow<'a, str>, claim: Cow<'a, str> },
    /// `claim_update`.
    ClaimUpdate { queue: Cow<'a, str>, claim: Cow<'a, str>, ttl: Option<i64>, grace: Unchecked<Option<i64>> },
    /// `claim_delete`.
    ClaimDelete { queue: Cow<'a, str>, claim: Cow<'a, str> },
    /// `subscription_create`. Without subscriber, the subscriber is the connection.
    SubscriptionCreate {
        queue: Cow<'a, str>,
        subscriber: Option<Cow<'a, str>>,
        ttl: Option<i64>,
        options: Option<Node<'a>>,
    },
    /// `subscription_list`.
    SubscriptionList {
        queue: Cow<'a, str>,
        marker: Unchecked<Option<Cow<'a, str>>>,
        limit: Unchecked<Option<i64>>,
    },
    /// `subscription_get`.
    SubscriptionGet { queue: Cow<'a, str>, subscription: Cow<'a, str> },
    /// `subscription_delete`.
    SubscriptionDelete { queue: Cow<'a, str>, subscription: Cow<'a, str> },
}

/// What `queue_purge` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The messages.
    pub messages: bool,
    /// The subscriptions.
    pub subscriptions: bool,
}

/// An array of ids. Elements that are no text are no ids.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a>(Node<'a>);

impl<'a> Texts<'a> {
    /// Returns the number of elements, up to `max` + 1.
    pub fn count_to(self, max: usize) -> usize {
        self.0.elements().take(max.saturating_add(1)).count()
    }

    /// Returns the elements that are text.
    pub fn iter(self) -> impl Iterator<Item = Cow<'a, str>> {
        self.0.elements().filter_map(Node::as_text)
    }
}

/// The messages of a post.
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a>(Node<'a>);

impl<'a> Messages<'a> {
    /// Returns the array, whose size [`super::repr::is_longer_than`] counts.
    pub fn node(self) -> Node<'a> {
        self.0
    }

    /// Reads the messages in order. An error is the `exception` of an answer with status 400.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Unchecked<Posted<'a>>> {
        self.0.elements().map(Posted::read)
    }
}

/// A message of a post.
#[derive(Clone, Copy, Debug)]
pub struct Posted<'a> {
    /// Its body, of any kind.
    pub body: Node<'a>,
    /// How long it lives, in seconds.
    pub ttl: Option<i64>,
}

impl<'a> Posted<'a> {
    #[inline]
    fn read(message: Node<'a>) -> Unchecked<Self> {
        if message.kind() != Kind::Map {
            return Err(texts::BAD_MESSAGE);
        }
        let [body, ttl] = message.named(["body", "ttl"]);
        Ok(Self {
            body: body.ok_or(texts::MISSING_BODY)?,
            ttl: ttl.map(|ttl| ttl.as_integer().ok_or(texts::BAD_TTL)).transpose()?,
        })
    }
}

impl<'a> Action<'a> {
    /// Returns whether the API has this action, but neither the official server nor this one implements it.
    pub(super) fn is_unimplemented(name: &str) -> bool {
        matches!(
            name,
            "get_home_doc"
                | "check_node_health"
                | "ping_node"
                | "pool_list"
                | "pool_create"
                | "pool_update"
                | "pool_get"
                | "pool_delete"
                | "flavor_list"
                | "flavor_create"
                | "flavor_update"
                | "flavor_get"
                | "flavor_delete"
        )
    }

    /// Reads the fields of an action. Returns `None` if there is no such action.
    pub(super) fn read(name: &str, body: Body<'a>) -> Option<Result<Self, Invalid>> {
        Some(match name {
            "authenticate" => Ok(Self::Authenticate),
            "queue_create" => body.queue_create(),
            "queue_list" => body.queue_list(),
            "queue_get" => body.queue().map(|queue| Self::QueueGet { queue }),
            "queue_delete" => body.queue().map(|queue| Self::QueueDelete { queue }),
            "queue_get_stats" => body.queue().map(|queue| Self::QueueGetStats { queue }),
            "queue_purge" => body.queue_purge(),
            "message_post" => body.message_post(),
            "message_list" => body.message_list(),
            "message_get" => {
                body.queue_and("message_id").map(|(queue, message)| Self::MessageGet { queue, message })
            }
            "message_get_many" => body.message_get_many(),
            "message_delete" => body.message_delete(),
            "message_delete_many" => body.message_delete_many(),
            "claim_create" => body.claim_create(),
            "claim_get" => body.queue_and("claim_id").map(|(queue, claim)| Self::ClaimGet { queue, claim }),
            "claim_update" => body.claim_update(),
            "claim_delete" => {
                body.queue_and("claim_id").map(|(queue, claim)| Self::ClaimDelete { queue, claim })
            }
            "subscription_create" => body.subscription_create(),
            "subscription_list" => body.subscription_list(),
            "subscription_get" => body
                .queue_and("subscription_id")
                .map(|(queue, subscription)| Self::SubscriptionGet { queue, subscription }),
            "subscription_delete" => body
                .queue_and("subscription_id")
                .map(|(queue, subscription)| Self::SubscriptionDelete { queue, subscription }),
            _ => return None,
        })
    }
}

/// A field that violates the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    pub field: &'static str,
    pub why: &'static str,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.", self.field, self.why)
    }
}

/// A field of a request, if it is present.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    name: &'static str,
    node: Option<Node<'a>>,
}

/// Returns the fields of a map.
#[inline]
pub(super) fn fields<'a, const N: usize>(map: Node<'a>, names: [&'static str; N]) -> [Field<'a>; N] {
    let nodes = map.named(names);
    std::array::from_fn(|index| Field { name: names[index], node: nodes[index] })
}

impl<'a> Field<'a> {
    pub fn node(self) -> Option<Node<'a>> {
        self.node
    }

    #[inline]
    fn read<T>(
        self,
        why: &'static str,
        read: impl FnOnce(Node<'a>) -> Option<T>,
    ) -> Result<Option<T>, Invalid> {
        match self.node {
            None => Ok(None),
            Some(node) => read(node).map(Some).ok_or(Invalid { field: self.name, why }),
        }
    }

    fn present<T>(self, value: Option<T>) -> Result<T, Invalid> {
        value.ok_or(Invalid { field: self.name, why: "is missing" })
    }

    #[inline]
    pub fn optional_text(self) -> Result<Option<Cow<'a, str>>, Invalid> {
        self.read("must be text", Node::as_text)
    }

    #[inline]
    pub fn text(self) -> Result<Cow<'a, str>, Invalid> {
        self.present(self.optional_text()?)
    }

    fn optional_integer(self) -> Result<Option<i64>, Invalid> {
        self.read("must be an integer", Node::as_integer)
    }

    fn bool_or(self, default: bool) -> Result<bool, Invalid> {
        Ok(self.read("must be true or false", Node::as_bool)?.unwrap_or(default))
    }

    fn optional_array(self) -> Result<Option<Node<'a>>, Invalid> {
        self.read("must be an array", |node| (node.kind() == Kind::Array).then_some(node))
    }

    fn array(self) -> Result<Node<'a>, Invalid> {
        self.present(self.optional_array()?)
    }

    fn optional_map(self) -> Result<Option<Node<'a>>, Invalid> {
        self.read("must be a map", |node| (node.kind() == Kind::Map).then_some(node))
    }

    /// Returns whether the value is true, or text or a number that means true.
    fn means_true(self) -> bool {
        let Some(node) = self.node else { return false };
        match (node.as_bool(), node.as_text()) {
            (Some(value), _) => value,
            (None, Some(text)) => {
                let text = text.trim().to_ascii_lowercase();
                matches!(&*text, "1" | "t" | "true" | "on" | "y" | "yes")
            }
            (None, None) => node.as_integer() == Some(1),
        }
    }
}

/// The body of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'a>(Option<Node<'a>>);

impl<'a> Body<'a> {
    pub fn new(body: Option<Node<'a>>) -> Self {
        Self(body)
    }

    #[inline]
    fn fields<const N: usize>(self, names: [&'static str; N]) -> Result<[Field<'a>; N], Invalid> {
        match self.0 {
            None => Err(Invalid { field: "body", why: "is missing" }),
            Some(body) if body.kind() != Kind::Map => Err(Invalid { field: "body", why: "must be a map" }),
            Some(body) => Ok(fields(body, names)),
        }
    }

    fn queue(self) -> Result<Cow<'a, str>, Invalid> {
        let [queue] = self.fields(["queue_name"])?;
        queue.text()
    }

    fn queue_and(self, name: &'static str) -> Result<(Cow<'a, str>, Cow<'a, str>), Invalid> {
        let [queue, other] = self.fields(["queue_name", name])?;
        Ok((queue.text()?, other.text()?))
    }

    fn queue_create(self) -> Result<Action<'a>, Invalid> {
        let [queue, metadata] = self.fields(["queue_name", "metadata"])?;
        Ok(Action::QueueCreate { queue: queue.text()?, metadata: metadata_of(metadata.node) })
    }

    fn queue_list(self) -> Result<Action<'a>, Invalid> {
        let Some(_) = self.0 else {
            return Ok(Action::QueueList { marker: None, limit: None, detailed: false });
        };
        let [marker, limit, detailed] = self.fields(["marker", "limit", "detailed"])?;
        Ok(Action::QueueList {
            marker: marker.optional_text()?,
            limit: limit.optional_integer()?,
            detailed: detailed.bool_or(false)?,
        })
    }

    fn queue_purge(self) -> Result<Action<'a>, Invalid> {
        let [queue, types] = self.fields(["queue_name", "resource_types"])?;
        let queue = queue.text()?;
        let mut resources = Resources { messages: true, subscriptions: true };
        if let Some(types) = types.optional_array()? {
            let names = |name| types.elements().any(|element| element.is_text(name));
            resources = Resources { messages: names("messages"), subscriptions: names("subscriptions") };
        }
        Ok(Action::QueuePurge { queue, resources })
    }

    #[inline]
    fn message_post(self) -> Result<Action<'a>, Invalid> {
        let [queue, messages] = self.fields(["queue_name", "messages"])?;
        Ok(Action::MessagePost { queue: queue.text()?, messages: Messages(messages.array()?) })
    }

    fn message_list(self) -> Result<Action<'a>, Invalid> {
        let names = ["queue_name", "marker", "limit", "echo", "include_claimed", "include_delayed"];
        let [queue, marker, limit, echo, claimed, delayed] = self.fields(names)?;
        Ok(Action::MessageList {
            queue: queue.text()?,
            marker: marker.optional_text()?,
            limit: limit.optional_integer()?,
            echo: echo.bool_or(false)?,
            include_claimed: claimed.bool_or(false)?,
            include_delayed: delayed.means_true(),
        })
    }

    fn message_get_many(self) -> Result<Action<'a>, Invalid> {
        let [queue, messages] = self.fields(["queue_name", "message_ids"])?;
        Ok(Action::MessageGetMany { queue: queue.text()?, messages: Texts(messages.array()?) })
    }

    fn message_delete(self) -> Result<Action<'a>, Invalid> {
        let [queue, message, claim] = self.fields(["queue_name", "message_id", "claim_id"])?;
        Ok(Action::MessageDelete {
            queue: queue.text()?,
            message: message.text()?,
            claim: claim.optional_text()?,
        })
    }

    fn message_delete_many(self) -> Result<Action<'a>, Invalid> {
        let [queue, messages, claims, pop] =
            self.fields(["queue_name", "message_ids", "claim_ids", "pop"])?;
        Ok(Action::MessageDeleteMany {
            queue: queue.text()?,
            messages: messages.optional_array()?.map(Texts),
            claims: claims.optional_array()?.map(Texts),
            pop: pop.optional_integer()?,
        })
    }

    fn claim_create(self) -> Result<Action<'a>, Invalid> {
        let [queue, ttl, grace, limit] = self.fields(["queue_name", "ttl", "grace", "limit"])?;
        Ok(Action::ClaimCreate {
            queue: queue.text()?,
            ttl: ttl.optional_integer()?,
            grace: grace.optional_integer()?,
            limit: limit.optional_integer()?,
        })
    }

    fn claim_update(self) -> Result<Action<'a>, Invalid> {
        let [queue, claim, ttl, grace] = self.fields(["queue_name", "claim_id", "ttl", "grace"])?;
        Ok(Action::ClaimUpdate {
            queue: queue.text()?,
            claim: claim.text()?,
            ttl: ttl.optional_integer()?,
            grace: grace.optional_integer().map_err(|_| texts::BAD_GRACE),
        })
    }

    fn subscription_create(self) -> Result<Action<'a>, Invalid> {
        let [queue, subscriber, ttl, options] =
            self.fields(["queue_name", "subscriber", "ttl", "options"])?;
        Ok(Action::SubscriptionCreate {
            queue: queue.text()?,
            subscriber: subscriber.optional_text()?,
            ttl: ttl.optional_integer()?,
            options: options.optional_map()?,
        })
    }

    fn subscription_list(self) -> Result<Action<'a>, Invalid> {
        let [queue, marker, limit] = self.fields(["queue_name", "marker", "limit"])?;
        let limit = match limit.node {
            None => Ok(None),
            Some(node) => match node.as_text() {
                Some(digits) => digits.trim().parse().ok(),
                None => node.as_integer(),
            }
            .map(Some)
            .ok_or(texts::BAD_LIMIT),
        };
        let marker = marker.optional_text().map_err(|_| texts::BAD_MARKER);
        Ok(Action::SubscriptionList { queue: queue.text()?, marker, limit })
    }
}

/// Returns metadata that is a map. Null, `[]` and `""` mean none.
fn metadata_of(metadata: Option<Node<'_>>) -> Unchecked<Option<Node<'_>>> {
    let Some(node) = metadata else { return Ok(None) };
    let is_empty = match node.kind() {
        Kind::Map => return Ok(Some(node)),
        Kind::Null => true,
        Kind::Array => Elements::next(&mut node.elements()).is_none(),
        Kind::Text => node.is_text(""),
        _ => false,
    };
    if is_empty { Ok(None) } else { Err(texts::BAD_METADATA) }
}
