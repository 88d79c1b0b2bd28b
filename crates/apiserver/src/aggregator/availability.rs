//! Whether extension servers answer: sets the condition `Available` of their APIServices. Start at [`run`].
// upstream: kube-aggregator pkg/controllers/status/remote
use super::{Aggregator, Documents, Remote, identity};
use crate::api_services::GROUP;
use crate::context::RequestContext;
use crate::registry::{Registry, Write, collection_prefix};
use crate::value::Read;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Empty, Limited};
use pintle_api::meta::{self, ObjectExt};
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use pintle_store::Watch;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a server that answers is asked again. upstream: the informers' resync.
const RESYNC: Duration = Duration::from_secs(30);
/// The first wait after a failure; it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// How long a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document that is read.
const DOCUMENT_LIMIT: usize = 16 << 20;

/// Checks all extension servers, when something about them changes and from time to time, until `stop`. Nothing runs while
/// there are none.
pub(super) async fn run(aggregator: Aggregator, registry: Registry, stop: CancellationToken) {
    let check = async {
        let mut retry = FIRST_RETRY;
        loop {
            let remotes = aggregator.remotes();
            if remotes.is_empty() {
                aggregator.0.changed.notified().await;
                continue;
            }
            let watches = watch_endpoints(&registry);
            let mut well = true;
            for remote in remotes.iter() {
                let condition = judge(remote, &registry).await;
                well &= condition.status == "True";
                if let Err(error) = tell(&registry, remote, &condition).await {
                    tracing::debug!(service = %remote.name, %error, "its condition cannot be written");
                }
            }
            let wait = if well { RESYNC } else { retry.min(RESYNC) };
            tokio::select! {
                () = tokio::time::sleep(wait) => retry = if well { FIRST_RETRY } else { (retry * 2).min(RESYNC) },
                () = aggregator.0.changed.notified() => {}
                () = changed(watches), if !well => retry = FIRST_RETRY,
            }
        }
    };
    tokio::select! { () = stop.cancelled() => {} () = check => {} }
}

/// Watches on services and their endpoints from now on.
fn watch_endpoints(registry: &Registry) -> Vec<Box<dyn Watch>> {
    let now = registry.store().revision();
    let resources = [("", "services"), ("discovery.k8s.io", "endpointslices")];
    let resources = resources.into_iter().filter_map(|(group, plural)| registry.resource(group, plural).ok());
    resources.filter_map(|r| registry.store().watch(&collection_prefix(&r, ""), now).ok()).collect()
}

async fn changed(watches: Vec<Box<dyn Watch>>) {
    let waits = watches.into_iter().map(|mut watch| Box::pin(async move { watch.next().await.map(drop) }));
    let waits: Vec<_> = waits.collect();
    if waits.is_empty() {
        std::future::pending::<()>().await;
    }
    if let (Err(error), ..) = futures::future::select_all(waits).await {
        tracing::debug!(%error, "endpoints are looked at anew");
    }
}

struct Condition {
    status: &'static str,
    reason: &'static str,
    message: String,
}

fn unavailable(reason: &'static str, message: String) -> Condition {
    Condition { status: "False", reason, message }
}

async fn judge(remote: &Remote, registry: &Registry) -> Condition {
    let (namespace, name) = (&remote.namespace, &remote.service);
    let quoted = pintle_api::field::go_quote(namespace);
    let service = match registry.resource("", "services") {
        Ok(services) => registry.get(&services, namespace, name).await,
        Err(error) => Err(error),
    };
    let service = match service {
        Ok(service) => service,
        Err(error) if error.is_not_found() => {
            return unavailable("ServiceNotFound", format!("service/{name} in {quoted} is not present"));
        }
        Err(error) => {
            let message = format!("service/{name} in {quoted} cannot be checked due to: {error}");
            return Condition { status: "Unknown", reason: "ServiceAccessError", message };
        }
    };
    if service.field("spec").text("type") == "ClusterIP"
        && let Some(wrong) = check_endpoints(remote, &service, registry).await
    {
        return wrong;
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, ask(remote, registry)).await {
        Ok(Ok(documents)) => {
            remote.documents.store(Arc::new(documents));
            Condition { status: "True", reason: "Passed", message: "all checks passed".to_owned() }
        }
        Ok(Err(why)) => {
            let url = format!("https://{}:{}{}", name, remote.port, path(remote));
            unavailable("FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"))
        }
        Err(_) => {
            let url = format!("https://{}:{}{}", name, remote.port, path(remote));
            unavailable("FailedDiscoveryCheck", format!("timed out waiting for {url}"))
        }
    }
}

async fn check_endpoints(remote: &Remote, service: &Value, registry: &Registry) -> Option<Condition> {
    let (namespace, name) = (&remote.namespace, &remote.service);
    let quoted = pintle_api::field::go_quote(namespace);
    let ports = service.field("spec").items("ports");
    let Some(port) = ports.iter().find(|port| port.int("port") == i64::from(remote.port)) else {
        let message = format!("service/{name} in {quoted} is not listening on port {}", remote.port);
        return Some(unavailable("ServicePortError", message));
    };
    let port_name = port.text("name");
    let slices = match registry.resource("discovery.k8s.io", "endpointslices") {
        Ok(slices) => registry.list(&slices, namespace).await,
        Err(error) => Err(error),
    };
    let slices = match slices {
        Ok(slices) => slices.items,
        Err(error) => {
            let message = format!("service/{name} in {quoted} cannot be checked due to: {error}");
            return Some(Condition { status: "Unknown", reason: "EndpointsAccessError", message });
        }
    };
    let own: Vec<&Value> =
        slices.iter().filter(|slice| slice.label("kubernetes.io/service-name") == Some(name.as_str())).collect();
    if own.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {quoted}");
        return Some(unavailable("EndpointsNotFound", message));
    }
    let ready = |slice: &Value| {
        slice.items("endpoints").iter().any(|e| e.field("conditions").field("ready").as_bool().unwrap_or(true))
    };
    let named = |slice: &Value| slice.items("ports").iter().any(|port| port.text("name") == port_name);
    if !own.iter().any(|slice| named(slice) && ready(slice)) {
        let port_name = pintle_api::field::go_quote(port_name);
        let message =
            format!("endpointslices for service/{name} in {quoted} have no addresses with port name {port_name}");
        return Some(unavailable("MissingEndpoints", message));
    }
    None
}

fn path(remote: &Remote) -> String {
    format!("/apis/{}/{}", remote.group, remote.version)
}

/// Asks the server for its documents; that of its group version must be there.
async fn ask(remote: &Remote, registry: &Registry) -> Result<Documents, String> {
    let resources = get(remote, registry, &path(remote)).await?;
    let openapi = get(remote, registry, "/openapi/v3").await.unwrap_or_default();
    Ok(Documents::new(remote, &resources, &openapi))
}

/// A JSON document of the server, asked for as the aggregator itself.
pub(super) async fn get(remote: &Remote, registry: &Registry, path: &str) -> Result<Value, String> {
    let backend = remote.backend(registry).await.map_err(|error| error.message)?;
    let user = UserInfo::new("system:kube-aggregator", &["system:masters"]);
    let mut headers = HeaderMap::new();
    headers.insert(http::header::ACCEPT, http::HeaderValue::from_static("application/json"));
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let path = path.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let sent = backend.send_with(Method::GET, path, &headers, identity(&user), body).await;
    let response = sent.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("bad status from {}: {}", backend.address(), response.status().as_u16()));
    }
    let body = Limited::new(response.into_body(), DOCUMENT_LIMIT).collect().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}

async fn tell(registry: &Registry, remote: &Remote, condition: &Condition) -> Result<(), ApiError> {
    let services = registry.resource(GROUP, "apiservices")?;
    let cx = RequestContext::default();
    let write = Write::internal(&cx, &services, "").subresource("status").managed_by("kube-apiserver");
    let set = |object: &mut Value| {
        let mut new = json!({
            "type": "Available", "status": condition.status, "lastTransitionTime": meta::now(),
            "reason": condition.reason, "message": condition.message,
        });
        let mut all = object.field("status").items("conditions").to_vec();
        match all.iter_mut().find(|known| known.text("type") == "Available") {
            Some(known) => {
                if known.text("status") == condition.status {
                    new["lastTransitionTime"] = known.field("lastTransitionTime").clone();
                }
                *known = new;
            }
            None => all.push(new),
        }
        object["status"]["conditions"] = all.into();
        Ok(())
    };
    match registry.update_with(&write, &remote.name, set).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
