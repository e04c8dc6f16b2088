//! The fixed texts of the API. Clients compare them, so their spelling is that of the official server.

/// Before the reason why a text message is no JSON.
pub const UNDECODABLE_JSON: &str = "Can't decode text (JSON) request.";
/// Before the reason why a binary message is no MessagePack.
pub const UNDECODABLE_MESSAGE_PACK: &str = "Can't decode binary (MessagePack) request.";
/// The document is no map.
pub const NO_MAP: &str = "Unexpected body type. Expected dict or dict like.";
/// After the name of an unknown action.
pub const UNKNOWN_ACTION: &str = "is not a valid action";
/// Before the field that violates the schema of its action.
pub const INVALID: &str = "Schema validation failed.";
/// The connection has not authenticated.
pub const NOT_AUTHENTICATED: &str = "Not authentified.";
/// The project of the request is not the token's.
pub const OTHER_PROJECT: &str = "Not authenticated.";
/// The answer to a token that was accepted.
pub const AUTHENTICATED: &str = "Authentified.";
/// The answer to a token that was refused.
pub const AUTHENTICATION_FAILED: &str = "Authentication failed.";
/// The reason of the close frame when the token ends.
pub const AUTHENTICATION_EXPIRED: &str = "Authentication expired.";
/// An error inside the server.
pub const UNEXPECTED: &str = "Unexpected error.";
/// The Client-ID is no UUID.
pub const BAD_CLIENT_ID: &str = "badly formed hexadecimal UUID string";
/// A message without body.
pub const MISSING_BODY: &str = "Bad request. Missing \"body\" field.";
/// A message whose `ttl` is no integer.
pub const BAD_TTL: &str = "Bad request. The value of the \"ttl\" field must be a int.";
/// A message that is no map.
pub const BAD_MESSAGE: &str = "Bad request. Each message must be a map.";
/// Metadata of a queue that is neither a map nor empty.
pub const BAD_METADATA: &str = "Bad request. The value of the \"metadata\" field must be a map.";
/// The `grace` of a claim that is no integer.
pub const BAD_GRACE: &str = "Bad request. The value of the \"grace\" field must be a int.";
/// The `limit` of a list of subscriptions that is no number.
pub const BAD_LIMIT: &str = "Bad request. The value of the \"limit\" field must be a int.";
/// The `marker` of a list of subscriptions that is no text.
pub const BAD_MARKER: &str = "Bad request. The value of the \"marker\" field must be a str.";
/// An action that is neither text nor another plain value.
pub const BAD_ACTION: &str = "The action must be text.";
/// After the name of an action that is not offered.
pub const NOT_IMPLEMENTED: &str = "is not implemented by this server";

/// The answer to `queue_create`.
pub fn queue_created(queue: &str) -> String {
    format!("Queue {queue} created.")
}

/// The answer to `queue_delete`.
pub fn queue_removed(queue: &str) -> String {
    format!("Queue {queue} removed.")
}

/// The answer to `claim_update`.
pub fn claim_updated(claim: &str) -> String {
    format!("Claim {claim} updated.")
}

/// The answer to `claim_delete`.
pub fn claim_deleted(claim: &str) -> String {
    format!("Claim {claim} deleted.")
}

/// The answer to `subscription_create`.
pub fn subscription_created(queue: &str) -> String {
    format!("Subscription {queue} created.")
}

/// The answer to `subscription_create` if there is such a subscription.
pub fn subscription_not_created(queue: &str) -> String {
    format!("Subscription {queue} not created.")
}

/// The answer to `subscription_delete`.
pub fn subscription_removed(subscription: &str) -> String {
    format!("Subscription {subscription} removed.")
}
