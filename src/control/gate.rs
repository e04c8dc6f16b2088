//! Who may read and who may change.
//!
//! | the request came over | reading | changing |
//! | --- | --- | --- |
//! | a Unix socket | yes: its permissions are the guard | yes |
//! | TCP, with `control_tokens` | with a token | with a token that may change |
//! | TCP on a loopback address, without tokens and without `auth` | yes | yes |
//! | other TCP, without tokens | yes | no |
//!
//! Where clients authenticate, a client's own token gives it the pages of a queue that its grant allows.
//!
//! `/healthz` and `/readyz` need no right. An address whose tokens were refused ten times gets 429, except for one
//! attempt a second. A token that gives the right is never refused for that.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::audit::{Asked, Audit};
use super::right::Right;
use super::tokens::{Token, Tokens};
use super::way::Way;
use crate::access::{self, Grant};
use crate::auth::{Denial, Desk, Throttle};
use crate::base::millis::Millis;
use crate::base::names::{Project, QueueName};
use crate::base::secret::Secret;

/// How long the judge may take to say whether a token is a client's. A provider has 3 s.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It has no token.
    Absent,
    /// Its token is malformed or unknown.
    Unknown,
    /// Too many tokens from its address were refused, and its own is not known either.
    TooOften,
    /// Its token may only read.
    ReadOnly,
    /// Nobody may change anything over TCP, because clients authenticate and the control port does not ask for
    /// tokens.
    AuthIsOn,
    /// Nobody may change anything at this address, because others than this machine's users reach it.
    NotLocal,
    /// The token is a client's, whose grant does not allow this.
    Forbidden,
    /// Whether the token is a client's cannot be found out now.
    Unverified,
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Self::Absent | Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::ReadOnly | Self::AuthIsOn | Self::NotLocal | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Unverified => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// What to use in place of an address that may not change anything.
macro_rules! instead {
    () => {
        "use a Unix socket of the control port (--control unix:/PATH, or --data-dir of the embedded log), or set \
         control_tokens"
    };
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => {
                "no token: send Authorization: Bearer and a token of control_tokens, or use a Unix socket of the \
                 control port"
            }
            Self::Unknown => "the token is not in control_tokens, and not a client's for a page of a queue",
            Self::TooOften => "too many unknown tokens from this address: try again in a second",
            Self::ReadOnly => "the token may only read: use one with the right change",
            Self::AuthIsOn => concat!("changes, and pages of queues, need a token over TCP while auth is on: ", instead!()),
            Self::Forbidden => "the client's grant does not allow this on the queue",
            Self::Unverified => "whether the token is a client's cannot be checked now; try again later",
            Self::NotLocal => {
                concat!("changes need a token at an address that is not a loopback address: ", instead!())
            }
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let challenge = match self {
            Self::Absent => Some("Bearer realm=\"millstream\""),
            Self::Unknown => Some("Bearer realm=\"millstream\", error=\"invalid_token\""),
            Self::ReadOnly => Some("Bearer realm=\"millstream\", error=\"insufficient_scope\""),
            Self::Forbidden => Some("Bearer realm=\"millstream\", error=\"insufficient_scope\""),
            Self::TooOften | Self::AuthIsOn | Self::NotLocal | Self::Unverified => None,
        };
        let challenge = challenge.map(|challenge| [(header::WWW_AUTHENTICATE, challenge)]);
        let later = (self == Self::TooOften).then_some([(header::RETRY_AFTER, "1")]);
        (self.status(), challenge, later, format!("{self}\n")).into_response()
    }
}

/// Decides on requests. Clones share the counts.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    tokens: Tokens,
    /// Whether clients of the server must authenticate.
    has_auth: bool,
    /// Where to ask whether a token is a client's.
    desk: Option<Desk>,
    refused: Arc<[AtomicU64; 3]>,
    throttle: Arc<Mutex<Throttle>>,
    began: Instant,
    audit: Audit,
}

/// The statuses of refusals.
pub(super) const REFUSALS: [StatusCode; 3] =
    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];

impl Gate {
    pub(super) fn new(tokens: Tokens, has_auth: bool, desk: Option<Desk>) -> Self {
        let began = Instant::now();
        Self {
            tokens,
            has_auth,
            desk,
            refused: Arc::default(),
            throttle: Arc::default(),
            began,
            audit: Audit::default(),
        }
    }

    /// Returns how many requests were refused, by the statuses of [`REFUSALS`].
    pub(super) fn refused(&self) -> [u64; 3] {
        [0, 1, 2].map(|index: usize| self.refused[index].load(Ordering::Relaxed))
    }

    /// Returns how many audit lines were dropped.
    pub(super) fn dropped_lines(&self) -> u64 {
        self.audit.dropped()
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Returns whether a request that was passed on would be again.
    pub(super) fn still_passes(&self, right: Right, way: Way, headers: &HeaderMap) -> bool {
        self.check(right, way, headers).is_ok()
    }

    /// Passes a request on if it has the right, or if a client's own token gives the right `of_clients` on the queue in its
    /// path. Logs changes, with who asked for them.
    pub(super) async fn pass(
        self,
        right: Right,
        of_clients: Option<access::Right>,
        mut request: Request,
        next: Next,
    ) -> Response {
        let Some(way) = request.extensions().get::<Way>().copied() else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let asked = Asked::new(way, request.method(), request.uri().path());
        let mut checked = self.check(right, way, request.headers());
        if self.has_auth && of_clients.is_some() && matches!((&checked, way), (Ok(None), Way::Tcp { .. })) {
            // What a client must not see, a stranger must not see either.
            checked = Err(Refusal::AuthIsOn);
        }
        let checked = match (checked, of_clients) {
            (Ok(token), _) => Ok(token.map(|token| token.name)),
            (Err(refusal), Some(wanted)) => {
                match self.client(refusal, wanted, way, Shown::by(&request)).await {
                    Ok(grant) => {
                        let principal = grant.principal.as_ref().into();
                        request.extensions_mut().insert(Client(grant));
                        Ok(Some(principal))
                    }
                    Err(refusal) => Err(refusal),
                }
            }
            (Err(refusal), None) => Err(refusal),
        };
        let token = match checked.map_err(|refusal| self.throttled(way, refusal)) {
            Ok(token) => token,
            Err(refusal) => {
                for (status, count) in REFUSALS.iter().zip(&*self.refused) {
                    count.fetch_add(u64::from(*status == refusal.status()), Ordering::Relaxed);
                }
                self.audit.refused(&asked, refusal.status(), &refusal.to_string());
                return refusal.into_response();
            }
        };
        let response = next.run(request).await;
        if right == Right::Change {
            self.audit.changed(&asked, token.as_deref(), response.status());
        }
        response
    }

    /// Returns the token that gives the right, `None` if none is needed.
    fn check(&self, right: Right, way: Way, headers: &HeaderMap) -> Result<Option<Token>, Refusal> {
        let Way::Tcp { is_local, .. } = way else { return Ok(None) };
        if right == Right::Open {
            return Ok(None);
        }
        if self.tokens.are_required() {
            let token = self.tokens.find(bearer(headers)?).ok_or(Refusal::Unknown)?;
            return if token.right >= right { Ok(Some(token)) } else { Err(Refusal::ReadOnly) };
        }
        match right {
            Right::Change if !is_local => Err(Refusal::NotLocal),
            Right::Change if self.has_auth => Err(Refusal::AuthIsOn),
            _ => Ok(None),
        }
    }

    /// Returns the grant of the client whose token the request has, if it gives `wanted` on the queue in its path.
    /// Otherwise returns why the request is refused: for the reason of before, if it has no client's token.
    async fn client(
        &self,
        refusal: Refusal,
        wanted: access::Right,
        way: Way,
        shown: Option<Shown>,
    ) -> Result<Arc<Grant>, Refusal> {
        let Way::Tcp { peer, .. } = way else { return Err(refusal) };
        let is_about_token = matches!(refusal, Refusal::Unknown | Refusal::AuthIsOn | Refusal::NotLocal);
        let (Some(desk), Some(shown)) = (&self.desk, shown.filter(|_| is_about_token)) else {
            return Err(refusal);
        };
        let Shown { token, project, queue } = shown;
        let (reply, verdict) = oneshot::channel();
        desk.ask(token.expose(), peer.ip().to_canonical(), move |verdict| drop(reply.send(verdict)));
        let grant = match timeout(VERDICT_TIMEOUT, verdict).await {
            Ok(Ok(Ok(grant))) => grant,
            Ok(Ok(Err(Denial::Throttled))) => return Err(Refusal::TooOften),
            Ok(Ok(Err(Denial::Unavailable))) | Ok(Err(_)) | Err(_) => return Err(Refusal::Unverified),
            Ok(Ok(Err(_))) => return Err(Refusal::Unknown),
        };
        if grant.reaches(&project) && grant.allows(wanted, queue.as_str()) {
            Ok(grant)
        } else {
            Err(Refusal::Forbidden)
        }
    }

    /// Counts an unknown token for its address, or refuses it because there were too many.
    fn throttled(&self, way: Way, refusal: Refusal) -> Refusal {
        let (Way::Tcp { peer, .. }, Refusal::Unknown) = (way, refusal) else { return refusal };
        let now = Millis::from(self.began.elapsed());
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        if throttle.refuses(now, peer.ip()) {
            return Refusal::TooOften;
        }
        throttle.count(now, peer.ip());
        refusal
    }
}

/// A client that uses its own token. Requests have it as an extension.
#[derive(Clone, Debug)]
pub(super) struct Client(Arc<Grant>);

impl Client {
    /// Returns whether the client has a right on a queue.
    pub(super) fn may(&self, right: access::Right, queue: &QueueName) -> bool {
        self.0.allows(right, queue.as_str())
    }
}

/// What a request of a client shows: its token, and the queue that it is about.
#[derive(Debug)]
struct Shown {
    token: Secret,
    project: Project,
    queue: QueueName,
}

impl Shown {
    fn by(request: &Request) -> Option<Self> {
        let token = Secret::new(bearer(request.headers()).ok()?);
        let (project, queue) = queue_of(request.uri().path())?;
        Some(Self { token, project, queue })
    }
}

/// Returns the queue that a path names.
fn queue_of(path: &str) -> Option<(Project, QueueName)> {
    let mut parts = path.strip_prefix("/queues/")?.split('/');
    let (project, queue) = (parts.next()?, parts.next()?);
    Some((Project::parse_stored(project).ok()?, QueueName::parse(queue).ok()?))
}

/// Returns the token of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let value = all.next().ok_or(Refusal::Absent)?;
    if all.next().is_some() {
        return Err(Refusal::Unknown);
    }
    let (scheme, token) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Refusal::Unknown)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Refusal::Unknown) }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const LOCAL: Way = Way::Tcp {
        peer: SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1)),
        is_local: true,
    };
    const REMOTE: Way = Way::Tcp {
        peer: SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1)),
        is_local: false,
    };
    const UNIX: Way = Way::Unix { uid: 1, gid: 1, pid: None };

    fn check(has_auth: bool, right: Right, way: Way) -> Option<Refusal> {
        Gate::new(Tokens::default(), has_auth, None).check(right, way, &HeaderMap::new()).err()
    }

    #[test]
    fn without_tokens_only_this_machine_may_change_and_only_without_auth() {
        for right in [Right::Open, Right::Read] {
            for way in [LOCAL, REMOTE, UNIX] {
                assert_eq!(
                    (check(false, right, way), check(true, right, way)),
                    (None, None),
                    "{right:?} {way}"
                );
            }
        }
        let change = |has_auth, way| check(has_auth, Right::Change, way);
        assert_eq!((change(false, LOCAL), change(true, LOCAL)), (None, Some(Refusal::AuthIsOn)));
        assert_eq!(
            (change(false, REMOTE), change(true, REMOTE)),
            (Some(Refusal::NotLocal), Some(Refusal::NotLocal))
        );
        assert_eq!((change(false, UNIX), change(true, UNIX)), (None, None));
    }

    #[test]
    fn a_path_names_a_queue() {
        let of = |path| queue_of(path).map(|(project, queue)| format!("{project}/{queue}"));
        assert_eq!(of("/queues/p/q").as_deref(), Some("p/q"));
        assert_eq!(of("/queues/p/q/messages").as_deref(), Some("p/q"));
        for bad in ["/queues", "/queues/p", "/queues/p/", "/queues/p%2f/q", "/queues//q", "/metrics"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_is_read_from_one_header_of_the_scheme_bearer() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, axum::http::HeaderValue::from_static(value));
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["Bearer abc"]), Ok("abc".into()));
        assert_eq!(of(&["bearer  abc "]), Ok("abc".into()));
        assert_eq!(of(&[]), Err(Refusal::Absent));
        for bad in [&["Basic abc"][..], &["Bearer"], &["abc"], &["Bearer abc", "Bearer abc"]] {
            assert_eq!(of(bad), Err(Refusal::Unknown), "{bad:?}");
        }
    }
}
