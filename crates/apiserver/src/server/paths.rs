//! Paths that are no resources: health, version, metrics, discovery.
use super::{ApiServer, health, method_not_allowed, stored};
use crate::body::Body;
use crate::context::RequestContext;
use crate::negotiate::{Negotiation, header};
use crate::respond;
use http::header::ACCEPT;
use http::{Method, Response, StatusCode};
use pintle_api::discovery;
use pintle_api::status::ApiError;
use serde_json::{Value, json};

const TEXT: &str = "text/plain; charset=utf-8";

impl ApiServer {
    pub(super) async fn path(
        &self,
        cx: &RequestContext,
        negotiation: &Negotiation,
        parts: &http::request::Parts,
    ) -> Result<Response<Body>, ApiError> {
        // upstream asks for no method where aggregated and own groups are joined
        if !matches!(parts.method, Method::GET | Method::HEAD) && cx.info.path.trim_end_matches('/') != "/apis" {
            return Err(method_not_allowed());
        }
        let segments: Vec<&str> = cx.info.path.trim_matches('/').split('/').collect();
        match segments.as_slice() {
            [endpoint @ ("healthz" | "livez" | "readyz"), only @ ..] => {
                let writable = self.registry().store().is_writable();
                let state = health::State { stopping: self.is_stopping(), writable };
                Ok(health::answer(endpoint, &only.join("/"), &cx.info.query, state))
            }
            [""] => respond::value(StatusCode::OK, negotiation, &self.index()),
            ["version"] => respond::value(StatusCode::OK, &Negotiation { pretty: true, ..*negotiation }, &version()),
            ["metrics"] => {
                let mut text = self.metrics().text();
                text.push_str(&stored::metrics(self.registry()).await);
                Ok(respond::raw(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
            }
            ["debug", "api_priority_and_fairness", what] => {
                let details = !cx.info.query.text("includeRequestDetails").is_empty();
                let control = self.parts().features.flow_control.as_ref();
                let table = control.and_then(|control| control.dump(what, details));
                Ok(table.map_or_else(not_found, |table| respond::raw(StatusCode::OK, TEXT, table)))
            }
            ["openapi", path @ ..] => self.openapi(cx, negotiation, parts, path).await,
            _ => self.discovery(negotiation, header(&parts.headers, ACCEPT.as_str()), &segments),
        }
    }

    fn discovery(
        &self,
        negotiation: &Negotiation,
        accept: &str,
        segments: &[&str],
    ) -> Result<Response<Body>, ApiError> {
        let scheme = self.registry().scheme();
        let aggregator = self.parts().aggregator.as_ref();
        let aggregated = accept.contains("as=APIGroupDiscoveryList") && accept.contains("v=v2");
        let found = match segments {
            ["api" | "apis"] if aggregated => {
                let mut document = discovery::aggregated(&scheme, segments[0] == "api");
                if let (Some(aggregator), "apis") = (aggregator, segments[0]) {
                    aggregator.merge_aggregated(&mut document);
                }
                return Ok(respond::negotiated_as(discovery::AGGREGATED, negotiation, document.to_string().into()));
            }
            ["api"] => Some(discovery::api_versions("")),
            ["apis"] => {
                let mut list = discovery::api_group_list(&scheme);
                if let Some(aggregator) = aggregator {
                    aggregator.merge_groups(&mut list);
                }
                Some(list)
            }
            ["apis", group] => {
                let local = discovery::api_group(&scheme, group);
                let merged = aggregator.and_then(|aggregator| aggregator.group(group, local.as_ref()));
                merged.map(with_type).or(local)
            }
            ["api", version] => discovery::api_resource_list(&scheme, "", version),
            ["apis", group, version] => discovery::api_resource_list(&scheme, group, version),
            _ => return Ok(not_found()),
        };
        respond::value(StatusCode::OK, negotiation, &found.ok_or_else(ApiError::unknown_path)?)
    }

    /// `/`: the paths that there are.
    fn index(&self) -> Value {
        let scheme = self.registry().scheme();
        let fixed = [
            "/.well-known/openid-configuration",
            "/api",
            "/apis",
            "/apis/",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openapi/v3/",
            "/openid/v1/jwks",
            "/version",
        ];
        let mut paths: Vec<String> = fixed.into_iter().map(str::to_owned).collect();
        for endpoint in ["healthz", "livez", "readyz"] {
            paths.push(format!("/{endpoint}"));
            paths.extend(health::checks(endpoint).into_iter().map(|check| format!("/{endpoint}/{check}")));
        }
        for gv in scheme.group_versions() {
            match gv.group.as_str() {
                "" => paths.push(format!("/api/{}", gv.version)),
                group => paths.extend([format!("/apis/{group}"), format!("/apis/{group}/{}", gv.version)]),
            }
        }
        paths.sort_unstable();
        paths.dedup();
        json!({ "paths": paths })
    }
}

/// The document of one group says what it is.
fn with_type(mut group: Value) -> Value {
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    group
}

/// The answer to a path that nobody serves.
pub(super) fn not_found() -> Response<Body> {
    respond::raw(StatusCode::NOT_FOUND, TEXT, "404 page not found\n")
}

/// `version.Info`: the Kubernetes version that this server is compatible with.
fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": concat!("v1.36.3+pintle", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": "linux/amd64",
    })
}
