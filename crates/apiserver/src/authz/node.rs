//! The node authorizer: a kubelet reads only what the pods on its node refer to. Start at [`NodeAuthorizer::decide`].
// upstream: plugin/pkg/auth/authorizer/node
use super::graph::{Graph, Kind};
use super::rules::PolicyRule;
use super::{Attributes, Decision};
use crate::registry::Registry;
use parking_lot::RwLock;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a refusal waits for the graph to catch up with the store. A kubelet may ask for a pod's secret as soon as it
/// sees the pod, which can be before the graph has it.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The node that `user` is the kubelet of; an error if it says to be one's, but not whose.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    user.groups.iter().any(|group| group == "system:nodes").then_some(name)
}

/// Decides about requests of kubelets; clones share the graph.
#[derive(Clone, Debug, Default)]
pub struct NodeAuthorizer {
    graph: Arc<RwLock<Graph>>,
    changed: Arc<Notify>,
    /// What every kubelet may do, besides what follows from the graph: the rules of ClusterRole `system:node`.
    rules: Arc<[PolicyRule]>,
}

impl NodeAuthorizer {
    /// Follows pods, volumes and attachments of `registry` until `stop`.
    pub async fn start(registry: &Registry, stop: &CancellationToken) -> Result<Self, ApiError> {
        let authorizer = NodeAuthorizer {
            graph: Arc::default(),
            changed: Arc::default(),
            rules: crate::bootstrap::rules_of("system:node")?.into(),
        };
        super::graph::follow(&authorizer.graph, &authorizer.changed, registry, stop).await?;
        Ok(authorizer)
    }

    /// [`NodeAuthorizer::decide`], which waits a moment for the graph to catch up before it refuses.
    pub async fn decide_fresh(&self, attributes: &Attributes) -> Option<(Decision, String)> {
        let deadline = tokio::time::sleep(CATCH_UP);
        tokio::pin!(deadline);
        loop {
            let changed = self.changed.notified();
            let decision = self.decide(attributes)?;
            if decision.0 == Decision::Allow || !is_missing_relationship(&decision.1) {
                return Some(decision);
            }
            tokio::select! { () = changed => {} () = &mut deadline => return Some(decision) }
        }
    }

    /// The decision and its reason; `None` if a kubelet does not ask.
    pub fn decide(&self, attributes: &Attributes) -> Option<(Decision, String)> {
        let node = node_of(&attributes.user)?;
        let allowed =
            if attributes.is_resource_request { self.resource(node, attributes) } else { self.by_rules(attributes) };
        Some(match allowed {
            Ok(()) => (Decision::Allow, String::new()),
            Err(reason) => (Decision::NoOpinion(reason.clone()), reason),
        })
    }

    fn by_rules(&self, attributes: &Attributes) -> Result<(), String> {
        if self.rules.iter().any(|rule| rule.allows(attributes)) { Ok(()) } else { Err(String::new()) }
    }

    fn resource(&self, node: &str, a: &Attributes) -> Result<(), String> {
        match (a.group.as_str(), a.resource.as_str()) {
            ("", "secrets") => self.read(node, Kind::Secret, a),
            ("", "configmaps") => self.read(node, Kind::ConfigMap, a),
            ("", "persistentvolumeclaims") if a.subresource == "status" => match a.verb.as_str() {
                "update" | "patch" => self.related(node, Kind::Claim, a),
                _ => Err("can only get/update/patch this type".to_owned()),
            },
            ("", "persistentvolumeclaims") => self.get(node, Kind::Claim, a),
            ("", "persistentvolumes") => self.get(node, Kind::Volume, a),
            ("resource.k8s.io", "resourceclaims") => self.get(node, Kind::ResourceClaim, a),
            ("storage.k8s.io", "volumeattachments") => self.get(node, Kind::VolumeAttachment, a),
            ("", "serviceaccounts") => self.service_account(node, a),
            ("coordination.k8s.io", "leases") => lease(node, a),
            ("storage.k8s.io", "csinodes") => csi_node(node, a),
            ("", "nodes") => own_node(node, a),
            ("", "pods") => self.pod(node, a),
            _ => self.by_rules(a),
        }
    }

    fn read(&self, node: &str, kind: Kind, a: &Attributes) -> Result<(), String> {
        if !matches!(a.verb.as_str(), "get" | "list" | "watch") {
            return Err("can only read resources of this type".to_owned());
        }
        if !a.subresource.is_empty() {
            return Err("cannot read subresource".to_owned());
        }
        if a.namespace.is_empty() {
            return Err("can only read namespaced object of this type".to_owned());
        }
        self.related(node, kind, a)
    }

    fn get(&self, node: &str, kind: Kind, a: &Attributes) -> Result<(), String> {
        if a.verb != "get" {
            return Err("can only get individual resources of this type".to_owned());
        }
        if !a.subresource.is_empty() {
            return Err("cannot get subresource".to_owned());
        }
        self.related(node, kind, a)
    }

    fn related(&self, node: &str, kind: Kind, a: &Attributes) -> Result<(), String> {
        if a.name.is_empty() {
            return Err("No Object name found".to_owned());
        }
        match self.graph.read().relates(kind, &a.namespace, &a.name, node) {
            true => Ok(()),
            false => Err(missing_relationship(node)),
        }
    }

    fn service_account(&self, node: &str, a: &Attributes) -> Result<(), String> {
        if a.verb == "get" && a.subresource.is_empty() {
            return self.read(node, Kind::ServiceAccount, a);
        }
        if a.verb != "create" || a.name.is_empty() {
            return Err("can only create tokens for individual service accounts".to_owned());
        }
        if a.subresource != "token" {
            return Err("can only create token subresource of serviceaccount".to_owned());
        }
        self.related(node, Kind::ServiceAccount, a)
    }

    fn pod(&self, node: &str, a: &Attributes) -> Result<(), String> {
        match (a.subresource.as_str(), a.verb.as_str()) {
            ("", "get") => self.get(node, Kind::Pod, a),
            ("", "list" | "watch") => {
                if a.selects("spec.nodeName", node) {
                    Ok(())
                } else if !a.name.is_empty() {
                    self.related(node, Kind::Pod, a)
                } else {
                    Err("can only list/watch pods with spec.nodeName field selector".to_owned())
                }
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }
}

fn missing_relationship(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn is_missing_relationship(reason: &str) -> bool {
    reason.starts_with("no relationship found")
}

fn lease(node: &str, a: &Attributes) -> Result<(), String> {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if a.namespace != "kube-node-lease" {
        return Err(r#"can only access leases in the "kube-node-lease" system namespace"#.to_owned());
    }
    if a.verb != "create" && a.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn csi_node(node: &str, a: &Attributes) -> Result<(), String> {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".to_owned());
    }
    if !a.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".to_owned());
    }
    if a.verb != "create" && a.name != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn own_node(node: &str, a: &Attributes) -> Result<(), String> {
    match (a.subresource.as_str(), a.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match a.name.as_str() {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::graph::Event;
    use serde_json::json;

    fn authorizer() -> NodeAuthorizer {
        let mut graph = Graph::default();
        let pod = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {
            "nodeName": "n1", "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "env"}}}],
                            "envFrom": [{"configMapRef": {"name": "all"}}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}},
                        {"name": "w", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}],
        }});
        graph.apply(Event::Pod("a", "p", Some(&pod)));
        let volume = json!({"spec": {"claimRef": {"namespace": "a", "name": "data"},
            "csi": {"nodePublishSecretRef": {"namespace": "csi", "name": "mount"}}}});
        graph.apply(Event::Volume("pv-1", Some(&volume)));
        NodeAuthorizer {
            graph: Arc::new(RwLock::new(graph)),
            changed: Arc::default(),
            rules: crate::bootstrap::rules_of("system:node").unwrap().into(),
        }
    }

    fn ask(node: &str, verb: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        Attributes {
            user: UserInfo::new(format!("system:node:{node}"), &["system:nodes"]),
            verb: verb.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            is_resource_request: true,
            ..Attributes::default()
        }
    }

    #[test]
    fn a_kubelet_reads_what_its_pods_refer_to_and_nothing_else() {
        let authorizer = authorizer();
        let allows = |a: &Attributes| authorizer.decide(a).unwrap().0 == Decision::Allow;
        for (resource, namespace, name) in [
            ("secrets", "a", "pull"),
            ("secrets", "a", "env"),
            ("secrets", "csi", "mount"),
            ("configmaps", "a", "all"),
            ("configmaps", "a", "kube-root-ca.crt"),
            ("persistentvolumeclaims", "a", "data"),
            ("persistentvolumes", "", "pv-1"),
            ("pods", "a", "p"),
        ] {
            assert!(allows(&ask("n1", "get", resource, namespace, name)), "{resource} {name}");
            assert!(!allows(&ask("n2", "get", resource, namespace, name)), "{resource} {name}");
        }
        assert!(!allows(&ask("n1", "get", "secrets", "a", "other")));
        assert!(!allows(&ask("n1", "list", "secrets", "a", "")));
        let token = |account: &str| Attributes {
            subresource: "token".into(),
            ..ask("n1", "create", "serviceaccounts", "a", account)
        };
        assert!(allows(&token("robot")) && !allows(&token("default")));
        let (_, reason) = authorizer.decide(&ask("n2", "get", "secrets", "a", "env")).unwrap();
        assert_eq!(reason, "no relationship found between node 'n2' and this object");
    }

    #[test]
    fn a_kubelet_watches_its_own_pods_and_node_only() {
        let authorizer = authorizer();
        let allows = |a: &Attributes| authorizer.decide(a).unwrap().0 == Decision::Allow;
        let mut pods = ask("n1", "watch", "pods", "", "");
        assert!(!allows(&pods));
        pods.field_selector = "spec.nodeName=n1".into();
        assert!(allows(&pods));
        pods.field_selector = "spec.nodeName=n2".into();
        assert!(!allows(&pods));
        assert!(allows(&ask("n1", "get", "nodes", "", "n1")));
        assert!(!allows(&ask("n1", "get", "nodes", "", "n2")));
        assert!(allows(&ask("n1", "list", "services", "", "")));
        let user = UserInfo::new("ann", &["system:nodes"]);
        assert!(authorizer.decide(&Attributes { user, ..Attributes::default() }).is_none());
    }

    #[test]
    fn what_a_deleted_pod_referred_to_is_no_longer_readable() {
        let authorizer = authorizer();
        authorizer.graph.write().apply(Event::Pod("a", "p", None));
        for (resource, name) in [("secrets", "env"), ("persistentvolumeclaims", "data")] {
            let decision = authorizer.decide(&ask("n1", "get", resource, "a", name)).unwrap().0;
            assert_ne!(decision, Decision::Allow);
        }
        assert!(authorizer.graph.read().is_empty_but_for_volumes());
    }
}
