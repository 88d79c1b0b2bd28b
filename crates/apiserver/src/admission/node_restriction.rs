//! NodeRestriction: a kubelet changes only its own node and the pods on it.
// upstream: plugin/pkg/admission/noderestriction
use super::{Attributes, Operation};
use crate::authz::node::node_of;
use crate::registry::Registry;
use crate::value::{Fill, Read, object_of, same};
use pintle_api::meta::ObjectExt;
use pintle_api::status::ApiError;
use pintle_api::user::UserInfo;
use serde_json::Value;
use std::collections::BTreeSet;

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels of Kubernetes' own that a kubelet may set on its node.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

pub(super) async fn admit(
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    registry: &Registry,
) -> Result<(), ApiError> {
    let Some(node) = node_of(&attributes.cx.user) else { return Ok(()) };
    let null = Value::Null;
    let new = object.unwrap_or(&null);
    let refuse = |why: String| attributes.refuse(new, why);
    match (attributes.resource.group.as_str(), attributes.resource.plural.as_str()) {
        ("", "pods") => match attributes.subresource {
            "" => pod(node, attributes, new, registry).await,
            "status" => pod_status(node, attributes, new),
            "eviction" => Ok(()),
            other => {
                Err(refuse(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed")))
            }
        },
        ("", "nodes") => own_node(node, attributes, new),
        ("", "persistentvolumes") => local_volume(node, attributes, new),
        ("", "persistentvolumeclaims") => match attributes.subresource {
            "status" => claim_status(node, attributes, new),
            _ => Err(refuse("may only update PVC status".to_owned())),
        },
        ("coordination.k8s.io", "leases") if attributes.namespace != "kube-node-lease" => {
            Err(refuse(r#"can only access leases in the "kube-node-lease" system namespace"#.to_owned()))
        }
        ("coordination.k8s.io", "leases") if name_of(attributes, new) != node => {
            Err(refuse("can only access node lease with the same name as the requesting node".to_owned()))
        }
        ("storage.k8s.io", "csinodes") if name_of(attributes, new) != node => {
            Err(refuse("can only access CSINode with the same name as the requesting node".to_owned()))
        }
        _ => Ok(()),
    }
}

fn name_of<'a>(attributes: &'a Attributes<'_>, object: &'a Value) -> &'a str {
    if attributes.operation == Operation::Create { object.name() } else { attributes.name }
}

async fn pod(node: &str, attributes: &Attributes<'_>, pod: &Value, registry: &Registry) -> Result<(), ApiError> {
    let refuse = |why: String| Err(attributes.refuse(pod, why));
    match attributes.operation {
        Operation::Create => {}
        Operation::Delete => {
            let bound = attributes.old.map(|old| old.field("spec").text("nodeName"));
            return match bound {
                Some(bound) if bound != node => {
                    refuse(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
                }
                _ => Ok(()),
            };
        }
        Operation::Update | Operation::Connect => {
            let operation = if attributes.operation == Operation::Update { "UPDATE" } else { "CONNECT" };
            return refuse(format!(
                "unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"
            ));
        }
    }
    if pod.annotation(MIRROR).is_none() {
        return refuse(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if pod.field("spec").text("nodeName") != node {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod.field("metadata").items("ownerReferences");
    let [owner] = owners else {
        let which = if owners.is_empty() { "an owner reference" } else { "a single owner reference" };
        return refuse(format!("node {node:?} can only create pods with {which} set to itself"));
    };
    if owner.text("apiVersion") != "v1" || owner.text("kind") != "Node" || owner.text("name") != node {
        return refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if !owner.flag("controller") {
        return refuse(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner.flag("blockOwnerDeletion") {
        return refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let nodes = registry.resource("", "nodes")?;
    let own = registry.get(&nodes, "", node).await?;
    if owner.text("uid") != own.uid() {
        let (expected, got) = (owner.text("uid"), own.uid());
        return refuse(format!("node {node} UID mismatch: expected {expected} got {got}"));
    }
    match referenced(pod.field("spec")) {
        Some(what) => refuse(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// What other object a pod refers to, if any.
fn referenced(spec: &Value) -> Option<&'static str> {
    if !spec.text("serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    if !spec.items("imagePullSecrets").is_empty() {
        return Some("secrets");
    }
    if !spec.items("resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    for container in ["initContainers", "containers"].iter().flat_map(|list| spec.items(list)) {
        for variable in container.items("env") {
            let source = variable.field("valueFrom");
            if source.has("secretKeyRef") {
                return Some("secrets");
            }
            if source.has("configMapKeyRef") {
                return Some("configmaps");
            }
        }
        for source in container.items("envFrom") {
            if source.has("secretRef") {
                return Some("secrets");
            }
            if source.has("configMapRef") {
                return Some("configmaps");
            }
        }
    }
    let of_volume = |volume: &Value| {
        let harmless = ["hostPath", "emptyDir", "downwardAPI", "image", "nfs", "gcePersistentDisk", "gitRepo"];
        let mut kinds = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).filter(|k| *k != "name");
        match kinds.next() {
            None => None,
            Some(kind) if harmless.contains(&kind) => None,
            Some("configMap") => Some("configmaps"),
            Some("persistentVolumeClaim" | "ephemeral") => Some("persistentvolumeclaims"),
            Some("projected") => projected(volume.field("projected")),
            Some(_) => Some("secrets"),
        }
    };
    spec.items("volumes").iter().find_map(of_volume)
}

fn projected(volume: &Value) -> Option<&'static str> {
    volume.items("sources").iter().find_map(|source| match () {
        () if source.has("secret") => Some("secrets"),
        () if source.has("configMap") => Some("configmaps"),
        () if source.has("serviceAccountToken") => Some("serviceaccounts"),
        () if source.has("clusterTrustBundle") => Some("clustertrustbundles"),
        () => None,
    })
}

fn pod_status(node: &str, attributes: &Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
    let Some(old) = attributes.old else { return Ok(()) };
    let refuse = |why: String| Err(attributes.refuse(pod, why));
    if old.field("spec").text("nodeName") != node {
        return refuse(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if !same(old.field("metadata").field("labels"), pod.field("metadata").field("labels")) {
        return refuse(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = |pod: &Value| pod.field("status").field("resourceClaimStatuses").clone();
    if !same(&claims(old), &claims(pod)) {
        return refuse(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

fn own_node(node: &str, attributes: &Attributes<'_>, new: &Value) -> Result<(), ApiError> {
    let refuse = |why: String| Err(attributes.refuse(new, why));
    let name = name_of(attributes, new);
    if name != node {
        return refuse(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let empty = Value::Null;
    let old = attributes.old.unwrap_or(&empty);
    if attributes.operation == Operation::Update {
        if !same(new.field("spec").field("taints"), old.field("spec").field("taints")) {
            return refuse(format!("node {node:?} is not allowed to modify taints"));
        }
        let owners = |node: &Value| node.field("metadata").field("ownerReferences").clone();
        if !same(&owners(new), &owners(old)) {
            return refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
    }
    if matches!(attributes.operation, Operation::Create | Operation::Update) {
        let labels = forbidden_labels(new, old);
        if !labels.is_empty() {
            let labels = labels.into_iter().collect::<Vec<_>>().join(", ");
            return match attributes.operation {
                Operation::Create => {
                    refuse(format!("node {node:?} is not allowed to set the following labels: {labels}"))
                }
                _ => refuse(format!("is not allowed to modify labels: {labels}")),
            };
        }
    }
    Ok(())
}

/// The labels that differ and that a kubelet must not change.
fn forbidden_labels<'a>(new: &'a Value, old: &'a Value) -> BTreeSet<&'a str> {
    let all = [new, old].into_iter().flat_map(|object| object.field("metadata").entries("labels"));
    let changed = all.map(|(key, _)| key).filter(|key| new.label(key) != old.label(key));
    changed.filter(|key| is_forbidden(key)).collect()
}

fn is_forbidden(label: &str) -> bool {
    let Some((namespace, _)) = label.split_once('/') else { return false };
    let within = |domain: &str| {
        namespace == domain || namespace.strip_suffix(domain).is_some_and(|prefix| prefix.ends_with('.'))
    };
    let kubelets_own =
        KUBELET_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    within("node-restriction.kubernetes.io") || (within("kubernetes.io") || within("k8s.io")) && !kubelets_own
}

/// A node's provisioner makes and removes volumes on that node's own disk only.
fn local_volume(node: &str, attributes: &Attributes<'_>, new: &Value) -> Result<(), ApiError> {
    let volume = match attributes.operation {
        Operation::Create => new,
        Operation::Delete => attributes.old.unwrap_or(&Value::Null),
        _ => return Err(attributes.refuse(new, "may only create and delete volumes".to_owned())),
    };
    let spec = volume.field("spec");
    let terms = spec.field("nodeAffinity").field("required").items("nodeSelectorTerms");
    let here = |term: &Value| {
        let own = |expression: &Value| {
            expression.text("key") == "kubernetes.io/hostname"
                && expression.text("operator") == "In"
                && expression.texts("values").eq([node])
        };
        term.items("matchExpressions").iter().any(own)
    };
    if spec.has("local") && !terms.is_empty() && terms.iter().all(here) {
        return Ok(());
    }
    Err(attributes.refuse(volume, format!("node {node:?} can only create and delete local volumes of its own")))
}

fn claim_status(node: &str, attributes: &Attributes<'_>, new: &Value) -> Result<(), ApiError> {
    let Some(old) = attributes.old else { return Ok(()) };
    let bare = |claim: &Value| {
        let mut claim = claim.clone();
        for field in ["resourceVersion", "managedFields"] {
            claim.metadata_mut().remove(field);
        }
        let status = object_of(&mut claim).child_or_new("status");
        for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            status.remove(field);
        }
        claim
    };
    if same(&bare(old), &bare(new)) {
        return Ok(());
    }
    let why = format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions");
    Err(attributes.refuse(new, why))
}

/// Whether a kubelet may have a token as `spec` of a TokenRequest asks: bound to the `pod` on its node.
pub(crate) fn check_token(user: &UserInfo, spec: &Value, pod: Option<&Value>) -> Result<(), String> {
    let Some(node) = node_of(user) else { return Ok(()) };
    let reference = spec.field("boundObjectRef");
    let to_pod = reference.text("apiVersion") == "v1" && reference.text("kind") == "Pod";
    let Some(pod) = pod.filter(|_| to_pod) else {
        return Err("node requested token not bound to a pod".to_owned());
    };
    if reference.text("uid").is_empty() {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    if pod.field("spec").text("nodeName") != node {
        return Err("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    let audience = match spec.items("audiences") {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    let sources = pod.field("spec").items("volumes").iter().flat_map(|v| v.field("projected").items("sources"));
    let mut asked =
        sources.filter(|s| s.has("serviceAccountToken")).map(|s| s.field("serviceAccountToken").text("audience"));
    if asked.any(|wanted| wanted == audience) {
        return Ok(());
    }
    Err(format!(
        "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        user.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kubelet_sets_its_own_labels_and_free_ones_only() {
        for (label, forbidden) in [
            ("example.com/a", false),
            ("plain", false),
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("x.kubelet.kubernetes.io/y", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("x.node-restriction.kubernetes.io/y", true),
            ("foo.k8s.io/x", true),
        ] {
            assert_eq!(is_forbidden(label), forbidden, "{label}");
        }
    }

    #[test]
    fn a_kubelet_gets_tokens_for_the_audiences_of_pods_on_its_node() {
        let user = UserInfo::new("system:node:n1", &["system:nodes"]);
        let pod = json!({"spec": {"nodeName": "n1", "volumes": [
            {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}},
                                       {"serviceAccountToken": {"audience": "vault"}}]}}]}});
        let spec = |audiences: Value| {
            json!({"audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}})
        };
        assert_eq!(check_token(&user, &spec(json!([])), Some(&pod)), Ok(()));
        assert_eq!(check_token(&user, &spec(json!(["vault"])), Some(&pod)), Ok(()));
        assert!(check_token(&user, &spec(json!(["other"])), Some(&pod)).is_err());
        assert!(check_token(&user, &json!({}), None).is_err());
        let other = UserInfo::new("system:node:n2", &["system:nodes"]);
        assert!(check_token(&other, &spec(json!([])), Some(&pod)).unwrap_err().contains("different node"));
        assert_eq!(check_token(&UserInfo::new("ann", &[]), &json!({}), None), Ok(()));
    }
}
