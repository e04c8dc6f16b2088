//! A response that ends a request early, as an error.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::base::error::Fault;

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

/// Returns the response to a request that failed with a fault.
pub(super) fn refusal(fault: &Fault) -> Response {
    let status = u16::try_from(fault.status().0).unwrap_or_default();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, format!("{fault}\n")).into_response()
}
