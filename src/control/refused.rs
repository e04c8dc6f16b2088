//! A response that ends a request early, as an error.

use axum::response::{IntoResponse, Response};

/// The response to a request that is refused or has failed.
#[derive(Debug)]
pub(super) struct Refused(Box<Response>);

impl Refused {
    /// Refuses a request with this response.
    pub(super) fn with(response: impl IntoResponse) -> Self {
        Self(Box::new(response.into_response()))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        *self.0
    }
}
