//! API servers beside this one: requests for the groups of APIServices that name a service go on to it. Start at
//! [`Aggregator`].
//!
//! | module | what it is for |
//! |---|---|
//! | [`availability`] | whether an extension server answers: the condition `Available` |
//! | [`documents`] | its part of discovery and OpenAPI |
// upstream: k8s.io/kube-aggregator
mod availability;
mod documents;

use crate::api_services::GROUP;
use crate::body::{Body, RequestBody};
use crate::follow::follow;
use crate::proxy::http_proxy::service_address;
use crate::proxy::transport::{self, Backend};
use crate::query;
use crate::registry::{Registry, decode_stored};
use crate::respond;
use crate::value::Read;
use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use pintle_api::meta::ObjectExt;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use pintle_pki::ClusterPki;
use rustls::ClientConfig;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use documents::Documents;

const TEXT: &str = "text/plain; charset=utf-8";

/// Knows the extension API servers; clones share them.
#[derive(Clone)]
pub struct Aggregator(Arc<Inner>);

struct Inner {
    remotes: ArcSwap<Vec<Arc<Remote>>>,
    by_name: Mutex<BTreeMap<String, Arc<Remote>>>,
    changed: Notify,
}

impl std::fmt::Debug for Aggregator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Aggregator").field(&self.0.remotes.load().len()).finish()
    }
}

/// An APIService that another server answers for.
pub(crate) struct Remote {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) priority: (i64, i64),
    namespace: String,
    service: String,
    port: u16,
    /// Its `spec`, to see whether it changed.
    spec: Value,
    available: bool,
    tls: Result<Arc<ClientConfig>, String>,
    pub(crate) documents: Arc<ArcSwap<Documents>>,
}

impl Remote {
    fn parse(object: &Value, pki: &ClusterPki, before: Option<&Arc<Remote>>) -> Option<Remote> {
        let spec = object.field("spec");
        let service = spec.field("service");
        if service.is_null() {
            return None;
        }
        let conditions = object.field("status").items("conditions");
        let available = conditions.iter().any(|c| c.text("type") == "Available" && c.text("status") == "True");
        let kept = before.filter(|before| before.spec == *spec);
        let tls = match kept {
            Some(before) => before.tls.clone(),
            None => {
                let bundle = STANDARD.decode(spec.text("caBundle")).unwrap_or_default();
                let trust = if spec.flag("insecureSkipTLSVerify") { None } else { Some(bundle.as_slice()) };
                pki.front_proxy_tls(trust).map(Arc::new).map_err(|error| error.to_string())
            }
        };
        Some(Remote {
            name: object.name().to_owned(),
            group: spec.text("group").to_owned(),
            version: spec.text("version").to_owned(),
            priority: (spec.int("groupPriorityMinimum"), spec.int("versionPriority")),
            namespace: service.text("namespace").to_owned(),
            service: service.text("name").to_owned(),
            port: u16::try_from(service.int("port")).unwrap_or(443),
            spec: spec.clone(),
            available,
            tls,
            documents: kept.map(|before| before.documents.clone()).unwrap_or_default(),
        })
    }

    /// Where the server answers now.
    async fn backend(&self, registry: &Registry) -> Result<Backend, ApiError> {
        let (host, port) = service_address(&self.namespace, &self.service, self.port, registry).await?;
        let tls = self.tls.clone().map_err(ApiError::internal)?;
        let name = format!("{}.{}.svc", self.service, self.namespace);
        Ok(Backend { host, port, tls: Some(tls), name: Some(name) })
    }
}

impl Aggregator {
    /// Follows the APIServices of `registry` and watches over the servers that they name, until `stop`.
    pub async fn start(registry: &Registry, pki: &ClusterPki, stop: &CancellationToken) -> Result<Self, ApiError> {
        let services = registry.resource(GROUP, "apiservices")?;
        let inner = Inner { remotes: ArcSwap::default(), by_name: Mutex::default(), changed: Notify::new() };
        let aggregator = Aggregator(Arc::new(inner));
        let (own, pki) = (aggregator.clone(), pki.clone());
        let apply = move |_: &str, name: &str, stored: Option<&bytes::Bytes>| {
            let mut by_name = own.0.by_name.lock();
            let object = stored.and_then(|stored| decode_stored(stored).ok());
            let remote = object.and_then(|object| Remote::parse(&object, &pki, by_name.get(name)));
            let known = match remote {
                Some(remote) => by_name.insert(name.to_owned(), Arc::new(remote)).is_some(),
                None if by_name.remove(name).is_none() => return,
                None => true,
            };
            own.0.remotes.store(Arc::new(by_name.values().cloned().collect()));
            drop(by_name);
            tracing::debug!(name, known, "an APIService of an extension server changed");
            own.0.changed.notify_one();
        };
        follow(registry, &services, stop.clone(), Box::new(apply)).await?;
        tokio::spawn(availability::run(aggregator.clone(), registry.clone(), stop.clone()));
        Ok(aggregator)
    }

    pub(crate) fn remotes(&self) -> Arc<Vec<Arc<Remote>>> {
        self.0.remotes.load_full()
    }

    /// The extension server that answers for `path`, if one does.
    pub(crate) fn remote_for(&self, path: &str) -> Option<Arc<Remote>> {
        let remotes = self.0.remotes.load();
        if remotes.is_empty() {
            return None;
        }
        let mut segments = path.strip_prefix("/apis/")?.split('/');
        let (group, version) = (segments.next()?, segments.next()?);
        remotes.iter().find(|remote| remote.group == group && remote.version == version).cloned()
    }
}

/// Sends a request on to `remote` as made by `user`.
// upstream: pkg/apiserver/handler_proxy.go
pub(crate) async fn pass_on(
    remote: &Remote,
    user: &UserInfo,
    mut parts: http::request::Parts,
    body: RequestBody,
    registry: &Registry,
) -> Response<Body> {
    let plain = |status, text: &str| respond::raw(status, TEXT, format!("{text}\n"));
    if !remote.available {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
    }
    let backend = match remote.backend(registry).await {
        Ok(backend) => backend,
        Err(error) if error.code == 500 => return plain(StatusCode::INTERNAL_SERVER_ERROR, &error.message),
        Err(error) => {
            tracing::debug!(service = %remote.name, %error, "an extension server has no address");
            return plain(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
        }
    };
    let path = parts.uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let client = parts.extensions.remove::<OnUpgrade>();
    match backend.send_with(parts.method, path, &parts.headers, identity(user), body).await {
        Ok(response) => transport::answer(response, client),
        Err(error) => plain(StatusCode::SERVICE_UNAVAILABLE, &format!("error trying to reach service: {error}")),
    }
}

/// The headers that tell an extension server who asks.
// upstream: client-go transport, SetAuthProxyHeaders
fn identity(user: &UserInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|group| add("x-remote-group", group));
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", query::encode_header_key(key));
        values.iter().for_each(|value| add(&name, value));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_in_headers() {
        let mut user = UserInfo::new("jane", &["a", "b"]);
        user.extra.insert("example.com/scope".into(), vec!["x".into()]);
        let headers = identity(&user);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-group"), user.groups);
        assert_eq!(all("x-remote-extra-example.com%2fscope"), ["x"]);
    }
}
