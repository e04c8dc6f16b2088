//! The pages for which the shards are asked, each made once for all who wait for it.

use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::ANSWER_TIMEOUT;
use super::paced::Paced;
use crate::base::error::StoreFault;

/// How often the shards are asked whether they are there.
const HEALTH_PACE: Duration = Duration::from_millis(10);

/// How often each of the other pages is made: a shard looks at every connection for `/metrics`, and histograms take long to encode.
const PAGE_PACE: Duration = Duration::from_millis(100);

/// How often `/queues` is made: each shard looks at every queue.
const QUEUES_PACE: Duration = Duration::from_millis(200);

/// The type of pages of JSON.
pub(super) const JSON: &str = "application/json";

/// A page, or why there is none. All who read it share its bytes.
pub(super) type Page = Result<Bytes, Unmade>;

/// Why there is no page.
#[derive(Clone, Debug)]
pub(super) enum Unmade {
    /// This shard has not answered in time.
    Silent(usize),
    /// The store does not know the answer.
    Unknown(StoreFault),
    /// What the shards said cannot be written as a page.
    Failed(String),
}

impl IntoResponse for Unmade {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Self::Silent(shard) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("shard {shard} has not answered within {ANSWER_TIMEOUT:?}\n"),
            ),
            Self::Unknown(fault) => (StatusCode::NOT_FOUND, format!("{fault}\n")),
            Self::Failed(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        };
        (status, why).into_response()
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) health: Paced<Result<(), Unmade>>,
    pub(super) metrics: Paced<Page>,
    pub(super) queues: Paced<Page>,
    pub(super) latency: Paced<Page>,
    /// The same with whole histograms.
    pub(super) histograms: Paced<Page>,
}

impl Pages {
    pub(super) fn new() -> Self {
        Self {
            health: Paced::new(HEALTH_PACE),
            metrics: Paced::new(PAGE_PACE),
            queues: Paced::new(QUEUES_PACE),
            latency: Paced::new(PAGE_PACE),
            histograms: Paced::new(PAGE_PACE),
        }
    }
}

/// A value as a page of JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Page {
    let text = serde_json::to_vec(value).map_err(|error| Unmade::Failed(error.to_string()))?;
    Ok(text.into())
}

/// The response with a page of this type.
pub(super) fn response(page: Page, content_type: &'static str) -> Response {
    match page {
        Ok(bytes) => ([(header::CONTENT_TYPE, content_type)], bytes).into_response(),
        Err(unmade) => unmade.into_response(),
    }
}
