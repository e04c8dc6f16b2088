//! All pages of the control port, and the right that each needs. A page cannot be added without one.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn;
use axum::routing::{MethodRouter, delete, get, patch, post, put};

use super::right::Right;
use super::{
    BODY_BYTES_MAX, Control, backups, clients, healthz, info, latency, live, messages, metrics, queue,
    queues, readyz, reload,
};
use crate::access;

/// A page, or something to change.
struct Route {
    method: &'static str,
    path: &'static str,
    right: Right,
    /// The right on the queue that a client of the server needs, if clients may use the page with their own tokens.
    of_clients: Option<access::Right>,
    handler: fn() -> MethodRouter<Control>,
}

const ROUTES: [Route; 23] = {
    use Right::{Change, Open, Read};
    use access::Right::{Claim, Consume, Manage};
    /// Keeps the table narrow.
    const fn route(
        method: &'static str,
        path: &'static str,
        right: Right,
        handler: fn() -> MethodRouter<Control>,
    ) -> Route {
        Route { method, path, right, of_clients: None, handler }
    }
    const fn of_queue(
        method: &'static str,
        path: &'static str,
        right: Right,
        of_clients: access::Right,
        handler: fn() -> MethodRouter<Control>,
    ) -> Route {
        Route { method, path, right, of_clients: Some(of_clients), handler }
    }
    [
        route("GET", "/healthz", Open, || get(healthz)),
        route("GET", "/readyz", Open, || get(readyz)),
        route("GET", "/", Read, || get(live::page)),
        route("GET", "/live", Read, || get(live::events)),
        route("GET", "/metrics", Read, || get(metrics)),
        route("GET", "/latency", Read, || get(latency::page)),
        route("GET", "/info", Read, || get(info::page)),
        route("GET", "/queues", Read, || get(queues::list)),
        route("GET", "/connections", Read, || get(clients::list)),
        of_queue("GET", "/queues/{project}/{queue}", Read, Consume, || get(queue::show)),
        of_queue("PUT", "/queues/{project}/{queue}", Change, Manage, || put(queue::create)),
        of_queue("PATCH", "/queues/{project}/{queue}", Change, Manage, || patch(queue::set)),
        of_queue("DELETE", "/queues/{project}/{queue}", Change, Manage, || delete(queues::delete)),
        of_queue("POST", "/queues/{project}/{queue}/purge", Change, Manage, || post(queue::purge)),
        of_queue("POST", "/queues/{project}/{queue}/redrive", Change, Manage, || post(queue::redrive)),
        // It shows payloads.
        of_queue("GET", "/queues/{project}/{queue}/messages", Change, Consume, || get(messages::find)),
        of_queue("DELETE", "/queues/{project}/{queue}/messages", Change, Claim, || delete(messages::remove)),
        of_queue("POST", "/queues/{project}/{queue}/pop", Change, Claim, || post(messages::pop)),
        route("DELETE", "/connections/{id}", Change, || delete(clients::close)),
        route("POST", "/reload", Change, || post(reload::reload)),
        route("POST", "/backups", Change, || post(backups::begin)),
        route("POST", "/backups/{id}", Change, || post(backups::renew)),
        route("DELETE", "/backups/{id}", Change, || delete(backups::end)),
    ]
};

/// Returns method, path and right of every page.
pub fn routes() -> impl Iterator<Item = (&'static str, &'static str, Right)> {
    ROUTES.iter().map(|route| (route.method, route.path, route.right))
}

/// Creates the router, in which every page checks its right first.
pub(super) fn router(control: Control) -> Router {
    let add = |router: Router<Control>, route: &Route| {
        let (gate, right, of_clients) = (control.gate.clone(), route.right, route.of_clients);
        let check = from_fn(move |request, next| gate.clone().pass(right, of_clients, request, next));
        router.route(route.path, (route.handler)().layer(check))
    };
    let routes = ROUTES.iter().fold(Router::new(), add);
    routes.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(control.clone())
}
