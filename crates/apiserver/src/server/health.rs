//! `/healthz`, `/livez` and `/readyz`: whether the server does its work, check by check. Start at [`answer`].
// upstream: apiserver pkg/server/healthz
use super::paths::not_found;
use crate::body::Body;
use crate::query::Query;
use crate::respond;
use http::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use pintle_api::field::go_quote;

const TEXT: &str = "text/plain; charset=utf-8";

/// What upstream's server starts in the background. Here all of it has been set up before the first request is taken.
const STARTED: [&str; 32] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/peer-endpoint-reconciler-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-apiserver-identity-lease-controller",
    "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
    "poststarthook/storage-readiness",
    "poststarthook/start-legacy-token-tracking-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/aggregator-reload-proxy-client-cert",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
    "shutdown",
];

/// The checks of `endpoint` in upstream's order.
pub(super) fn checks(endpoint: &str) -> Vec<&'static str> {
    let first: &[&str] = match endpoint {
        "readyz" => &["ping", "log", "etcd", "etcd-readiness", "informer-sync"],
        _ => &["ping", "log", "loopback-serving-certificate", "etcd"],
    };
    let all = first.iter().chain(&STARTED).copied();
    all.filter(|name| *name != "shutdown" || endpoint == "readyz").collect()
}

/// How the server is.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// Whether it is about to end.
    pub(super) stopping: bool,
    /// Whether what is written reaches the disk.
    pub(super) writable: bool,
}

impl State {
    fn passes(self, check: &str) -> bool {
        match check {
            "shutdown" => !self.stopping,
            "etcd" | "etcd-readiness" => self.writable,
            _ => true,
        }
    }
}

/// The answer of `endpoint`, or of its check `only`.
pub(super) fn answer(endpoint: &str, only: &str, query: &Query, state: State) -> Response<Body> {
    let passes = |name: &str| state.passes(name);
    let checks = checks(endpoint);
    if !only.is_empty() {
        return match checks.contains(&only) {
            false => not_found(),
            true if passes(only) => text(StatusCode::OK, "ok"),
            true => text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {only} check failed\n")),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let (mut lines, mut well) = (String::new(), true);
    for name in &checks {
        let line = match (excluded.contains(name), passes(name)) {
            (true, _) => format!("[+]{name} excluded: ok\n"),
            (false, true) => format!("[+]{name} ok\n"),
            (false, false) => {
                well = false;
                format!("[-]{name} failed: reason withheld\n")
            }
        };
        lines.push_str(&line);
    }
    let mut unknown: Vec<&str> = excluded.into_iter().filter(|name| !checks.contains(name)).collect();
    if !unknown.is_empty() {
        unknown.sort_unstable();
        unknown.dedup();
        let names: Vec<String> = unknown.into_iter().map(go_quote).collect();
        let names = names.join(",");
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {names}\n"));
    }
    if !well {
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{endpoint} check failed\n"));
    }
    match query.get("verbose") {
        None => text(StatusCode::OK, "ok"),
        Some(_) => text(StatusCode::OK, format!("{lines}{endpoint} check passed\n")),
    }
}

fn text(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = respond::raw(status, TEXT, text);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn asked(endpoint: &str, only: &str, query: &str, stopping: bool) -> (u16, String) {
        answered(endpoint, only, query, State { stopping, writable: true }).await
    }

    async fn answered(endpoint: &str, only: &str, query: &str, state: State) -> (u16, String) {
        let response = answer(endpoint, only, &Query::parse(query), state);
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn checks_are_listed_excluded_and_asked_one_by_one() {
        assert_eq!(asked("readyz", "", "", false).await, (200, "ok".into()));
        let (_, text) = asked("readyz", "", "verbose&exclude=etcd&exclude=foo", false).await;
        assert!(text.starts_with("[+]ping ok\n[+]log ok\n[+]etcd excluded: ok\n[+]etcd-readiness ok\n"), "{text}");
        let end = "[+]shutdown ok\nwarn: some health checks cannot be excluded: no matches for \"foo\"\nreadyz check passed\n";
        assert!(text.ends_with(end), "{text}");
        assert_eq!(asked("livez", "poststarthook/rbac/bootstrap-roles", "", false).await, (200, "ok".into()));
        assert_eq!(asked("livez", "shutdown", "", false).await.0, 404);
        assert_eq!(asked("livez", "", "", true).await.0, 200);
        let (status, text) = asked("readyz", "", "", true).await;
        assert_eq!(status, 500);
        assert!(text.ends_with("[-]shutdown failed: reason withheld\nreadyz check failed\n"), "{text}");
        assert_eq!(asked("readyz", "", "exclude=shutdown", true).await.0, 200);
    }

    #[tokio::test]
    async fn a_store_that_cannot_write_fails_its_checks() {
        let full = State { stopping: false, writable: false };
        let (status, text) = answered("livez", "", "", full).await;
        assert_eq!(status, 500);
        assert!(text.contains("[-]etcd failed: reason withheld\n"), "{text}");
        let (status, text) = answered("readyz", "etcd-readiness", "", full).await;
        assert_eq!((status, text.as_str()), (500, "internal server error: etcd-readiness check failed\n"));
        assert_eq!(answered("livez", "ping", "", full).await.0, 200);
    }
}
