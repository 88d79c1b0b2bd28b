//! `pods/proxy`, `services/proxy` and `nodes/proxy`: plain HTTP through the API server.
// upstream: pkg/registry/core/{pod,service,node}/rest, apimachinery pkg/util/proxy
use super::kubelet::Kubelets;
use super::links::Links;
use super::transport::{self, Backend};
use crate::body::Body;
use crate::registry::Registry;
use crate::request_info::RequestInfo;
use crate::special::{SpecialRequest, SpecialResponse, SpecialRest};
use crate::value::Read;
use async_trait::async_trait;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use hyper::upgrade::OnUpgrade;
use pintle_api::status::ApiError;
use pintle_pki::Error;
use rustls::ClientConfig;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

/// What is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// A pod's port.
    Pod,
    /// One of a service's endpoints.
    Service,
    /// A node's kubelet, or another port of the node.
    Node,
}

/// Proxies HTTP.
#[derive(Debug)]
pub struct HttpProxy {
    to: To,
    kubelets: Kubelets,
    /// For backends that ask for `https:`: their certificates are nobody's that the cluster knows.
    unverified: Arc<ClientConfig>,
}

impl HttpProxy {
    /// A proxy to `to`; `kubelets` are reached with the API server's client certificate.
    pub fn new(to: To, kubelets: Kubelets) -> Result<Self, Error> {
        Ok(HttpProxy { to, kubelets, unverified: Arc::new(pintle_pki::tls::unverified_client_config()?) })
    }

    async fn backend(&self, info: &RequestInfo, registry: &Registry) -> Result<Backend, ApiError> {
        let sort = match self.to {
            To::Pod => "pod",
            To::Service => "service",
            To::Node => "node",
        };
        let target = Target::parse(&info.name)
            .ok_or_else(|| ApiError::bad_request(format!("invalid {sort} request {:?}", info.name)))?;
        let tls = (target.scheme == "https").then(|| self.unverified.clone());
        let default_port = if tls.is_some() { 443 } else { 80 };
        match self.to {
            To::Node => {
                let kubelet = self.kubelets.of_node(target.name, registry).await?;
                let own = target.port.is_empty() || target.port == kubelet.port.to_string();
                match own {
                    true => Ok(kubelet),
                    false => Ok(Backend { port: port(target.port)?, tls, ..kubelet }),
                }
            }
            To::Pod => {
                let pods = registry.resource("", "pods")?;
                let pod = registry.get(&pods, &info.namespace, target.name).await?;
                let number = if target.port.is_empty() { first_port(&pod) } else { Some(port(target.port)?) };
                let host = allowed(pod.field("status").text("podIP"))?;
                Ok(Backend { host, port: number.unwrap_or(default_port), tls, name: None })
            }
            To::Service => {
                let (host, port) = endpoint(&target, &info.namespace, registry).await?;
                Ok(Backend { host: allowed(&host)?, port, tls, name: None })
            }
        }
    }
}

#[async_trait]
impl SpecialRest for HttpProxy {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let SpecialRequest { cx, mut parts, body, .. } = request;
        let rest = rest_of(&parts.uri, &cx.info);
        if rest.is_empty() && matches!(parts.method, Method::GET | Method::HEAD) {
            return redirect_to_directory(&parts.uri).map(SpecialResponse::Raw);
        }
        let backend = self.backend(&cx.info, registry).await?;
        let path = match parts.uri.query() {
            Some(query) => format!("/{}?{query}", rest.trim_start_matches('/')),
            None => format!("/{}", rest.trim_start_matches('/')),
        };
        let path = path.parse().map_err(|error| ApiError::bad_request(format!("invalid request path: {error}")))?;
        let whole = parts.uri.path();
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let links = Links {
            prefix: whole.strip_suffix(rest).unwrap_or(whole).to_owned(),
            backend: backend.address(),
            requested: host
                .or_else(|| parts.uri.authority().map(http::uri::Authority::as_str))
                .unwrap_or_default()
                .to_owned(),
        };
        let mut own = HeaderMap::new();
        if let Ok(uri) = HeaderValue::try_from(whole) {
            own.insert("x-forwarded-uri", uri);
        }
        let client = parts.extensions.remove::<OnUpgrade>();
        let sent = backend.send_with(parts.method, path, &parts.headers, own, body).await;
        let response = sent.map_err(|error| {
            let text = format!("error trying to reach service: {error}");
            ApiError::service_unavailable(text)
        })?;
        Ok(SpecialResponse::Raw(links.rewrite(transport::answer(response, client))))
    }

    /// Any method is passed on, also those that are no verb of the API.
    fn handles(&self, _verb: &str) -> bool {
        true
    }
}

/// What follows `…/proxy` in the path, still escaped.
fn rest_of<'a>(uri: &'a Uri, info: &RequestInfo) -> &'a str {
    // "", api, v1, [namespaces, <namespace>,] <resource>, <name>, proxy, rest…
    let segments = if info.namespace.is_empty() { 6 } else { 8 };
    let path = uri.path();
    let end = path.match_indices('/').nth(segments - 1).map(|(at, _)| at);
    end.map_or("", |at| &path[at..])
}

fn redirect_to_directory(uri: &Uri) -> Result<Response<Body>, ApiError> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::try_from(format!("{}/{query}", uri.path())).map_err(ApiError::internal)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Target<'a> {
    // upstream: apimachinery pkg/util/net, SplitSchemeNamePort
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme @ ("http" | "https" | ""), name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        (!name.is_empty()).then_some(Target { scheme, name, port })
    }
}

fn port(text: &str) -> Result<u16, ApiError> {
    text.parse().map_err(|_| ApiError::bad_request(format!("invalid port {text:?}")))
}

fn first_port(pod: &Value) -> Option<u16> {
    let containers = pod.field("spec").items("containers").iter();
    let ports = containers.filter_map(|container| container.items("ports").first());
    ports.map(|port| port.int("containerPort")).find_map(|number| u16::try_from(number).ok())
}

/// An address that may be reached through the API server: not the server's own, nor the link's.
fn allowed(address: &str) -> Result<String, ApiError> {
    let refused = || ApiError::bad_request("address not allowed");
    let ip: IpAddr = address.parse().map_err(|_| refused())?;
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local {
        return Err(refused());
    }
    Ok(address.to_owned())
}

/// A ready endpoint of the service at random, and the port there.
// upstream: pkg/registry/core/service/storage, ResourceLocation
async fn endpoint(target: &Target<'_>, namespace: &str, registry: &Registry) -> Result<(String, u16), ApiError> {
    let services = registry.resource("", "services")?;
    let service = registry.get(&services, namespace, target.name).await?;
    let wanted = port_name(&service, target.port).ok_or_else(|| {
        ApiError::service_unavailable(format!("no service port {:?} found for service {:?}", target.port, target.name))
    })?;
    let slices = registry.resource("discovery.k8s.io", "endpointslices")?;
    let slices = registry.list(&slices, namespace).await?.items;
    let label = "kubernetes.io/service-name";
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.field("metadata").field("labels").text(label) == target.name) {
        let Some(port) = slice.items("ports").iter().find(|port| port.text("name") == wanted) else { continue };
        let Ok(port) = u16::try_from(port.int("port")) else { continue };
        for endpoint in slice.items("endpoints") {
            if endpoint.field("conditions").field("ready").as_bool().unwrap_or(true) {
                found.extend(endpoint.texts("addresses").map(|address| (address.to_owned(), port)));
            }
        }
    }
    match found.len() {
        0 => Err(ApiError::service_unavailable(format!("no endpoints available for service {:?}", target.name))),
        count => Ok(found.swap_remove(fastrand::usize(..count))),
    }
}

/// Where the port of a service answers: at one of its endpoints, or at the name that it stands for.
pub(crate) async fn service_address(
    namespace: &str,
    name: &str,
    port: u16,
    registry: &Registry,
) -> Result<(String, u16), ApiError> {
    let services = registry.resource("", "services")?;
    let service = registry.get(&services, namespace, name).await?;
    let spec = service.field("spec");
    if spec.text("type") == "ExternalName" {
        return Ok((spec.text("externalName").to_owned(), port));
    }
    endpoint(&Target { scheme: "https", name, port: &port.to_string() }, namespace, registry).await
}

/// The name of the service's port that is meant: by name, by number, or the only one.
fn port_name<'a>(service: &'a Value, wanted: &str) -> Option<&'a str> {
    let ports = service.field("spec").items("ports");
    let meant = match (wanted, ports) {
        ("", [only]) => Some(only),
        ("", several) => several.iter().find(|port| port.text("name").is_empty()),
        (wanted, ports) => ports
            .iter()
            .find(|port| port.text("name") == wanted || wanted.parse().is_ok_and(|n: i64| port.int("port") == n)),
    };
    meant.map(|port| port.text("name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_rest_of_the_path_is_passed_on_as_it_was_written() {
        for (uri, rest) in [
            ("/api/v1/namespaces/a/services/s:80/proxy/x%2Fy/z?q=1", "/x%2Fy/z"),
            ("/api/v1/namespaces/a/pods/p/proxy/", "/"),
            ("/api/v1/namespaces/a/pods/p/proxy", ""),
            ("/api/v1/nodes/n/proxy/metrics", "/metrics"),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(rest_of(&uri, &RequestInfo::parse(&Method::GET, &uri)), rest, "{uri}");
        }
    }

    #[test]
    fn targets_name_scheme_and_port() {
        let target = |scheme, name, port| Some(Target { scheme, name, port });
        assert_eq!(Target::parse("p"), target("", "p", ""));
        assert_eq!(Target::parse("p:80"), target("", "p", "80"));
        assert_eq!(Target::parse("https:p:"), target("https", "p", ""));
        assert_eq!(Target::parse("ftp:p:1"), None);
        assert_eq!(Target::parse(":80"), None);
    }

    #[test]
    fn the_servers_own_addresses_are_not_reached() {
        for address in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "", "x"] {
            assert_eq!(allowed(address).unwrap_err().message, "address not allowed", "{address}");
        }
        assert!(allowed("10.42.0.3").is_ok());
    }

    #[test]
    fn a_service_port_is_found_by_name_number_or_alone() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "tls", "port": 443}]}});
        assert_eq!(port_name(&service, "443"), Some("tls"));
        assert_eq!(port_name(&service, "web"), Some("web"));
        assert_eq!(port_name(&service, ""), None);
        assert_eq!(port_name(&json!({"spec": {"ports": [{"port": 80}]}}), ""), Some(""));
    }
}
