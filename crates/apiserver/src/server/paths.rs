//! Paths that are no resources: health, version, metrics, discovery.
use super::{ApiServer, method_not_allowed};
use crate::body::Body;
use crate::context::RequestContext;
use crate::negotiate::{JSON, Negotiation, header};
use crate::respond;
use http::header::ACCEPT;
use http::{Method, Response, StatusCode};
use pintle_api::discovery;
use pintle_api::openapi::{OpenApi, gnostic};
use pintle_api::status::ApiError;
use serde_json::{Value, json};

const TEXT: &str = "text/plain; charset=utf-8";

/// How clients ask for `/openapi/v2` in protobuf, and what it is called in the answer.
const SWAGGER_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2";
const SWAGGER_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

impl ApiServer {
    pub(super) async fn path(
        &self,
        cx: &RequestContext,
        negotiation: &Negotiation,
        parts: &http::request::Parts,
    ) -> Result<Response<Body>, ApiError> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(method_not_allowed());
        }
        let segments: Vec<&str> = cx.info.path.trim_matches('/').split('/').collect();
        match segments.as_slice() {
            ["healthz" | "livez" | "readyz", rest @ ..] if rest.len() <= 1 => {
                Ok(self.health(cx, segments[0], rest.first()))
            }
            [""] => respond::value(StatusCode::OK, negotiation, &self.index()),
            ["version"] => respond::value(StatusCode::OK, &Negotiation { pretty: true, ..*negotiation }, &version()),
            ["metrics"] => {
                Ok(respond::raw(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics().text()))
            }
            ["openapi", "v2"] if header(&parts.headers, ACCEPT.as_str()).contains(SWAGGER_PROTOBUF) => {
                let document = self.openapi_v2().await?;
                let document = tokio::task::spawn_blocking(move || gnostic::document(&document)).await;
                let document = document.map_err(ApiError::internal)?.ok_or_else(ApiError::unknown_path)?;
                Ok(respond::raw(StatusCode::OK, SWAGGER_PROTOBUF_TYPE, document))
            }
            ["openapi", "v2"] => Ok(openapi(negotiation, self.openapi_v2().await?)),
            ["openapi", "v3"] => {
                let index = self.openapi(|documents| Some(documents.v3_index())).await?;
                let aggregator = self.parts().aggregator.as_ref();
                let index = match aggregator {
                    Some(aggregator) => aggregator.merge_openapi_index(index),
                    None => index,
                };
                Ok(openapi(negotiation, index))
            }
            ["openapi", "v3", path @ ..] => {
                let path = path.join("/");
                if let Some(aggregator) = &self.parts().aggregator
                    && let Some(document) = aggregator.openapi_v3(&path, self.registry()).await
                {
                    return Ok(openapi(negotiation, document));
                }
                let document = self.openapi(move |documents| documents.v3(&path)).await?;
                Ok(openapi(negotiation, document))
            }
            _ => self.discovery(negotiation, header(&parts.headers, ACCEPT.as_str()), &segments),
        }
    }

    async fn openapi_v2(&self) -> Result<Vec<u8>, ApiError> {
        let document = self.openapi(|documents| Some(documents.v2())).await?;
        Ok(match &self.parts().aggregator {
            Some(aggregator) => aggregator.merge_openapi_v2(document, self.registry()).await,
            None => document,
        })
    }

    /// An OpenAPI document, built on demand: megabytes that few clients ask for, and those keep them.
    async fn openapi(
        &self,
        make: impl FnOnce(&OpenApi<'_>) -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<Vec<u8>, ApiError> {
        let scheme = self.registry().scheme();
        let work = tokio::task::spawn_blocking(move || make(&OpenApi::new(&scheme, &|_| None)));
        work.await.map_err(ApiError::internal)?.ok_or_else(ApiError::unknown_path)
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
            "/healthz",
            "/healthz/etcd",
            "/healthz/ping",
            "/livez",
            "/livez/etcd",
            "/livez/ping",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/readyz/etcd",
            "/readyz/ping",
            "/readyz/shutdown",
            "/version",
        ];
        let mut paths: Vec<String> = fixed.into_iter().map(str::to_owned).collect();
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

    fn health(&self, cx: &RequestContext, endpoint: &str, only: Option<&&str>) -> Response<Body> {
        let checks = [("ping", true), ("etcd", true), ("shutdown", !self.parts().stop.is_cancelled())];
        let applies = |name: &str| endpoint == "readyz" || name != "shutdown";
        let excluded: Vec<&str> = cx.info.query.all("exclude").collect();
        let asked: Vec<(&str, bool)> = checks.into_iter().filter(|(name, _)| applies(name)).collect();
        if let Some(only) = only {
            return match asked.iter().find(|(name, _)| name == only) {
                None => not_found(),
                Some((_, true)) => respond::raw(StatusCode::OK, TEXT, "ok"),
                Some((name, false)) => {
                    let text = format!("internal server error: {name} check failed\n");
                    respond::raw(StatusCode::INTERNAL_SERVER_ERROR, TEXT, text)
                }
            };
        }
        let mut lines = String::new();
        let mut well = true;
        for (name, passes) in asked {
            let line = match (excluded.contains(&name), passes) {
                (true, _) => format!("[+]{name} excluded: ok\n"),
                (false, true) => format!("[+]{name} ok\n"),
                (false, false) => {
                    well = false;
                    format!("[-]{name} failed: reason withheld\n")
                }
            };
            lines.push_str(&line);
        }
        if !well {
            return respond::raw(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{lines}{endpoint} check failed\n"));
        }
        if cx.info.query.get("verbose").is_some() {
            return respond::raw(StatusCode::OK, TEXT, format!("{lines}{endpoint} check passed\n"));
        }
        respond::raw(StatusCode::OK, TEXT, "ok")
    }
}

/// The document of one group says what it is.
fn with_type(mut group: Value) -> Value {
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    group
}

fn openapi(negotiation: &Negotiation, document: Vec<u8>) -> Response<Body> {
    respond::negotiated_as(JSON, negotiation, document.into())
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
