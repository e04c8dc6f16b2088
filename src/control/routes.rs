//! All pages of the control port, and the right that each needs. A page cannot be added without one.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn;
use axum::routing::{MethodRouter, delete, get, patch, post, put};

use super::right::Right;
use super::{
    BODY_BYTES_MAX, Control, clients, healthz, info, latency, live, messages, metrics, queue, queues, readyz,
    reload,
};

/// A page, or something to change.
struct Route {
    method: &'static str,
    path: &'static str,
    right: Right,
    handler: fn() -> MethodRouter<Control>,
}

const ROUTES: [Route; 20] = {
    use Right::{Change, Open, Read};
    /// Keeps the table narrow.
    const fn route(
        method: &'static str,
        path: &'static str,
        right: Right,
        handler: fn() -> MethodRouter<Control>,
    ) -> Route {
        Route { method, path, right, handler }
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
        route("GET", "/queues/{project}/{queue}", Read, || get(queue::show)),
        route("PUT", "/queues/{project}/{queue}", Change, || put(queue::create)),
        route("PATCH", "/queues/{project}/{queue}", Change, || patch(queue::set)),
        route("DELETE", "/queues/{project}/{queue}", Change, || delete(queues::delete)),
        route("POST", "/queues/{project}/{queue}/purge", Change, || post(queue::purge)),
        route("POST", "/queues/{project}/{queue}/redrive", Change, || post(queue::redrive)),
        // It shows payloads.
        route("GET", "/queues/{project}/{queue}/messages", Change, || get(messages::find)),
        route("DELETE", "/queues/{project}/{queue}/messages", Change, || delete(messages::remove)),
        route("POST", "/queues/{project}/{queue}/pop", Change, || post(messages::pop)),
        route("DELETE", "/connections/{id}", Change, || delete(clients::close)),
        route("POST", "/reload", Change, || post(reload::reload)),
    ]
};

/// Returns method, path and right of every page.
pub fn routes() -> impl Iterator<Item = (&'static str, &'static str, Right)> {
    ROUTES.iter().map(|route| (route.method, route.path, route.right))
}

/// Creates the router, in which every page checks its right first.
pub(super) fn router(control: Control) -> Router {
    let add = |router: Router<Control>, route: &Route| {
        let (gate, right) = (control.gate.clone(), route.right);
        let check = from_fn(move |request, next| gate.clone().pass(right, request, next));
        router.route(route.path, (route.handler)().layer(check))
    };
    let routes = ROUTES.iter().fold(Router::new(), add);
    routes.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(control.clone())
}
