//! Admission of connections: exec, attach, port-forward, proxies.
use super::ApiServer;
use crate::admission::{Attributes, Operation};
use crate::context::RequestContext;
use pintle_api::status::ApiError;
use serde_json::{Value, json};

/// The kinds of the options of connections, by resource and subresource.
const KINDS: [(&str, &str, &str); 6] = [
    ("pods", "exec", "PodExecOptions"),
    ("pods", "attach", "PodAttachOptions"),
    ("pods", "portforward", "PodPortForwardOptions"),
    ("pods", "proxy", "PodProxyOptions"),
    ("services", "proxy", "ServiceProxyOptions"),
    ("nodes", "proxy", "NodeProxyOptions"),
];

impl ApiServer {
    /// Asks admission about a connection; other requests pass.
    // upstream: apiserver pkg/endpoints/handlers, ConnectResource
    pub(super) async fn admit_connection(&self, cx: &RequestContext) -> Result<(), ApiError> {
        let info = &cx.info;
        if !info.api_group.is_empty() {
            return Ok(());
        }
        let found = KINDS.iter().find(|(resource, sub, _)| *resource == info.resource && *sub == info.subresource);
        let Some((_, _, kind)) = found else { return Ok(()) };
        let resource = self.registry().resource("", &info.resource)?;
        let mut options = options(cx, kind);
        let attributes = Attributes {
            cx,
            resource: &resource,
            subresource: &info.subresource,
            operation: Operation::Connect,
            namespace: &info.namespace,
            name: &info.name,
            dry_run: false,
            options: &Value::Null,
            old: None,
        };
        let admission = &self.parts().admission;
        admission.admit(&attributes, Some(&mut options), self.registry()).await?;
        admission.validate(&attributes, Some(&options), self.registry()).await
    }
}

/// The options of the connection as an object.
fn options(cx: &RequestContext, kind: &str) -> Value {
    let query = &cx.info.query;
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(flag) {
            options[flag] = true.into();
        }
    }
    if let Some(container) = query.get("container") {
        options["container"] = container.into();
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    let ports: Vec<i64> = query.all("ports").filter_map(|port| port.parse().ok()).collect();
    if !ports.is_empty() {
        options["ports"] = json!(ports);
    }
    if kind.ends_with("ProxyOptions") && cx.info.parts.len() > 3 {
        options["path"] = cx.info.parts[3..].join("/").into();
    }
    options
}
