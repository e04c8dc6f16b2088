//! Asks Keystone about tokens, with a token of the server's own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::SendBody;
use ureq::http::Request;
use url::Url;

use super::{Account, Facts, time};
use crate::auth::http::{Fault, Http, Reply};
use crate::base::secret::Secret;
use crate::process::unix_now;

/// After which part of its life the server's own token is replaced, in percent.
const RENEWED_AT: u64 = 80;

/// Why a lookup tells nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::auth) enum LookupFault {
    /// Keystone does not know the token, or no longer.
    Unknown,
    /// Keystone does not answer, or refuses to.
    Unavailable(Fault),
}

/// A Keystone, and the server's account there. Workers share it.
#[derive(Debug)]
pub(in crate::auth) struct Client {
    http: Http,
    /// `…/v3/auth/tokens`
    tokens: Url,
    account: Account,
    own: Mutex<Option<Own>>,
}

/// A token of the server's own.
#[derive(Clone, Debug)]
struct Own {
    token: Secret,
    renew: Instant,
}

impl Client {
    /// Creates a client for the Keystone at `url`, with or without `/v3`.
    pub(in crate::auth) fn new(http: Http, mut url: Url, account: Account) -> Self {
        let path = url.path().trim_end_matches('/').trim_end_matches("/v3").to_owned();
        url.set_path(&format!("{path}/v3/auth/tokens"));
        url.set_query(None);
        url.set_fragment(None);
        Self { http, tokens: url, account, own: Mutex::new(None) }
    }

    /// Asks what Keystone knows of a token. May block until `until`.
    pub(in crate::auth) fn look_up(&self, token: &Secret, until: Instant) -> Result<Facts, LookupFault> {
        let own = self.own(None, until).map_err(LookupFault::Unavailable)?;
        let mut reply = self.ask(&own, token, until)?;
        if reply.status() == 401 {
            // The server's own token is no longer valid, for example because Keystone has new keys.
            let renewed = self.own(Some(&own), until).map_err(LookupFault::Unavailable)?;
            reply = self.ask(&renewed, token, until)?;
        }
        let unavailable = |why: &str| Err(LookupFault::Unavailable(Fault::new(why)));
        match reply.status() {
            200 => match Facts::read(&reply.body) {
                Some(facts) => Ok(facts),
                None => unavailable("the answer of GET /v3/auth/tokens is not the expected JSON"),
            },
            404 => Err(LookupFault::Unknown),
            // Keystone, or what stands before it, finds fault with the request, and only the token in it is the
            // client's. It must not count as a failure of Keystone, which would keep other clients out.
            400 | 413 | 414 | 431 => Err(LookupFault::Unknown),
            401 => unavailable("status 401: Keystone does not accept the server's own token"),
            403 => unavailable("status 403: the server's own account may not look up tokens of others"),
            status => unavailable(&format!("GET /v3/auth/tokens: status {status}")),
        }
    }

    fn ask(&self, own: &Secret, token: &Secret, until: Instant) -> Result<Reply, LookupFault> {
        let uri = format!("{}?nocatalog", self.tokens);
        let request = Request::get(uri)
            .header("X-Auth-Token", own.expose())
            .header("X-Subject-Token", token.expose())
            .header("Accept", "application/json")
            .body(SendBody::none())
            .map_err(|_| LookupFault::Unknown)?;
        self.http.call(request, left(until)).map_err(LookupFault::Unavailable)
    }

    /// Returns the server's own token, another one than `refused`. One worker gets it, the others wait.
    fn own(&self, refused: Option<&Secret>, until: Instant) -> Result<Secret, Fault> {
        let mut own = self.lock();
        if let Some(own) = &*own
            && Instant::now() < own.renew
            && refused != Some(&own.token)
        {
            return Ok(own.token.clone());
        }
        *own = None;
        let renewed = self.authenticate(until)?;
        let token = renewed.token.clone();
        *own = Some(renewed);
        Ok(token)
    }

    fn authenticate(&self, until: Instant) -> Result<Own, Fault> {
        let failed = || Fault::new("the request for the server's own token cannot be made");
        let request = Request::post(self.tokens.as_str())
            .header("Content-Type", "application/json")
            .header("Accept", "application/json")
            .body(self.account.body().expose())
            .map_err(|_| failed())?;
        let Reply { response, body } = self.http.call(request, left(until))?;
        match response.status().as_u16() {
            201 => {}
            401 => {
                return Err(Fault::new(
                    "status 401: Keystone refuses the account of auth_keystone_credentials",
                ));
            }
            status => return Err(Fault::new(format_args!("POST /v3/auth/tokens: status {status}"))),
        }
        let malformed =
            || Fault::new("the answer of POST /v3/auth/tokens has no token, or no time of its end");
        let token = response.headers().get("X-Subject-Token").and_then(|token| token.to_str().ok());
        let token = Secret::new(token.ok_or_else(malformed)?);
        let body: Value = serde_json::from_slice(&body).map_err(|_| malformed())?;
        let ends =
            body.get("token").and_then(|token| time(token.get("expires_at")?)).ok_or_else(malformed)?;
        let now = unix_now();
        let renew = Duration::from_millis(ends.since(now).get() / 100 * RENEWED_AT);
        let renew = Instant::now().checked_add(renew).ok_or_else(malformed)?;
        Ok(Own { token, renew })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Own>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time that is left. Not zero, which would mean no limit.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
