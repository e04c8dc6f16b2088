//! The pages that need answers of the shards. Each is made once for all requests that wait for it.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::ANSWER_TIMEOUT;
use super::paced::Paced;
use super::queue_line::QueueLine;
use super::refused::refusal;
use crate::base::error::StoreFault;

/// The shortest time between two health checks of the shards.
const HEALTH_PACE: Duration = Duration::from_millis(10);

/// The shortest time between two makings of the other pages. For `/metrics` a shard visits every connection,
/// and histograms take long to encode.
const PAGE_PACE: Duration = Duration::from_millis(100);

/// The shortest time between two makings of `/queues`, for which each shard visits every queue.
const QUEUES_PACE: Duration = Duration::from_millis(200);

/// The content type of JSON pages.
pub(super) const JSON: &str = "application/json";

/// A page, or the reason why it could not be made. All readers share its bytes.
pub(super) type Page = Result<Bytes, Unmade>;

/// All queues, or why they are unknown.
pub(super) type Lines = Result<Arc<[QueueLine]>, Unmade>;

/// The reason why a page could not be made.
#[derive(Clone, Debug)]
pub(super) enum Unmade {
    /// The shard with this index did not answer in time.
    Silent(usize),
    /// As `Silent`, within another time.
    Late(usize, Duration),
    /// The store does not know the answer.
    Unknown(StoreFault),
    /// The answers cannot be encoded as a page.
    Failed(String),
}

impl IntoResponse for Unmade {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Self::Silent(shard) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("shard {shard} did not answer within {ANSWER_TIMEOUT:?}\n"),
            ),
            Self::Late(shard, time) => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("shard {shard} did not answer within {time:?}\n"))
            }
            Self::Unknown(fault) => return refusal(&fault.into()),
            Self::Failed(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        };
        (status, why).into_response()
    }
}

/// The pages, each rendered at most once in its interval.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) health: Paced<Result<(), Unmade>>,
    pub(super) metrics: Paced<Page>,
    pub(super) queues: Paced<Lines>,
    /// The page `/queues` with all of them.
    pub(super) all_queues: Paced<Page>,
    pub(super) latency: Paced<Page>,
    /// The page `/latency` with whole histograms.
    pub(super) histograms: Paced<Page>,
}

impl Pages {
    pub(super) fn new() -> Self {
        Self {
            health: Paced::new(HEALTH_PACE),
            metrics: Paced::new(PAGE_PACE),
            queues: Paced::new(QUEUES_PACE),
            all_queues: Paced::new(QUEUES_PACE),
            latency: Paced::new(PAGE_PACE),
            histograms: Paced::new(PAGE_PACE),
        }
    }
}

/// Encodes a value as a JSON page.
pub(super) fn json(value: &impl serde::Serialize) -> Page {
    let text = serde_json::to_vec(value).map_err(|error| Unmade::Failed(error.to_string()))?;
    Ok(text.into())
}

/// Creates the response with a page of this content type.
pub(super) fn response(page: Page, content_type: &'static str) -> Response {
    match page {
        Ok(bytes) => ([(header::CONTENT_TYPE, content_type)], bytes).into_response(),
        Err(unmade) => unmade.into_response(),
    }
}
