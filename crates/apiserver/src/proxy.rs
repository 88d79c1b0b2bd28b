//! What the API server passes through: logs, exec, attach and port-forward to kubelets, HTTP to pods, services and nodes.
//! Start at [`register`].
//!
//! | module | what it is for |
//! |---|---|
//! | [`transport`] | one HTTP/1.1 request to a backend, upgrades passed through as bytes |
//! | [`kubelet`] | where a node's kubelet is, and how it is trusted |
//! | [`streams`] | `pods/log`, `pods/exec`, `pods/attach`, `pods/portforward` |
//! | [`metrics`] | `metrics.k8s.io`: what nodes and pods use |
//! | [`websocket`] | a body over a WebSocket, for `pods/log` |
//! | [`http_proxy`] | `pods/proxy`, `services/proxy`, `nodes/proxy` |
//! | `links` | links of what is proxied lead through the proxy |
pub mod http_proxy;
pub mod kubelet;
mod links;
pub mod metrics;
pub mod streams;
pub mod transport;
mod websocket;

use crate::authz::default::ClusterAuthorizer;
use crate::special::Specials;
use http_proxy::{HttpProxy, To};
use kubelet::Kubelets;
use metrics::Metrics;
use pintle_pki::{ClusterPki, Error};
use std::sync::Arc;
use streams::{Logs, Stream, Streams};

/// Adds the endpoints to `specials`; `authorizer` is asked where a `GET` needs the right to `create`.
pub fn register(specials: &mut Specials, pki: &ClusterPki, authorizer: &ClusterAuthorizer) -> Result<(), Error> {
    let kubelets = Kubelets::new(pki)?;
    specials.register("", "pods", "log", Arc::new(Logs::new(kubelets.clone())));
    for (subresource, stream) in
        [("exec", Stream::Exec), ("attach", Stream::Attach), ("portforward", Stream::PortForward)]
    {
        specials.register(
            "",
            "pods",
            subresource,
            Arc::new(Streams::new(stream, kubelets.clone(), authorizer.clone())),
        );
    }
    for (resource, to) in [("pods", To::Pod), ("services", To::Service), ("nodes", To::Node)] {
        specials.register("", resource, "proxy", Arc::new(HttpProxy::new(to, kubelets.clone())?));
    }
    for (resource, rest) in Metrics::both(&kubelets) {
        specials.register(metrics::GROUP, resource, "", Arc::new(rest));
    }
    Ok(())
}
