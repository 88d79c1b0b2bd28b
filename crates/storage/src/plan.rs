//! What to do about a claim or a volume: pure functions of their state and the node's name.
use crate::PROVISIONER;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;
use std::path::Path;

/// The node that the scheduler chose, on claims.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who made a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const ASKED: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What to do about a claim.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// It is not ours, or done.
    Nothing,
    /// Make this volume, or say why it cannot be made.
    Provision(Result<Box<PersistentVolume>, String>),
}

fn annotation<'a, K: kube::Resource>(object: &'a K, key: &str) -> Option<&'a str> {
    object.meta().annotations.as_ref()?.get(key).map(String::as_str)
}

/// The claim's storage class.
pub fn class_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(claim, CLASS_ANNOTATION).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

/// True if this provisioner is asked for a volume on `node`.
pub fn is_asked(claim: &PersistentVolumeClaim, node: &str) -> bool {
    let unbound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default().is_empty();
    unbound
        && claim.metadata.deletion_timestamp.is_none()
        && ASKED.iter().any(|key| annotation(claim, key) == Some(PROVISIONER))
        && annotation(claim, SELECTED_NODE) == Some(node)
}

/// Decides about `claim` of `class` for `node`, whose volumes are under `base`.
pub fn claim_plan(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, node: &str, base: &Path) -> Plan {
    let Some(class) = class.filter(|class| class.provisioner == PROVISIONER) else { return Plan::Nothing };
    if !is_asked(claim, node) {
        return Plan::Nothing;
    }
    Plan::Provision(volume(claim, class, node, base).map(Box::new))
}

fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &str,
    base: &Path,
) -> Result<PersistentVolume, String> {
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("only volumeMode Filesystem is supported".to_owned());
    }
    if spec.selector.is_some() {
        return Err("claim.Spec.Selector is not supported".to_owned());
    }
    let shared = |mode: &String| mode != "ReadWriteOnce" && mode != "ReadWriteOncePod";
    if spec.access_modes.as_ref().is_some_and(|modes| modes.iter().any(shared)) {
        return Err("only ReadWriteOnce and ReadWriteOncePod are supported: the volume is on one node".to_owned());
    }
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let meta = &claim.metadata;
    let (Some(uid), Some(namespace), Some(name)) = (&meta.uid, &meta.namespace, &meta.name) else {
        return Err("the claim has no identity".to_owned());
    };
    let directory = base.join(format!("pvc-{uid}_{namespace}_{name}"));
    let path = directory.to_str().ok_or("the storage directory's name is not UTF-8")?;
    let volume = json!({
        "metadata": {"name": format!("pvc-{uid}"), "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "accessModes": spec.access_modes,
            "capacity": {"storage": requests.get("storage")},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name, "uid": uid,
                "resourceVersion": meta.resource_version,
            },
            "local": {"path": path},
            "mountOptions": class.mount_options,
            "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]},
            ]}},
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.metadata.name,
            "volumeMode": "Filesystem",
        },
    });
    serde_json::from_value(volume).map_err(|error| error.to_string())
}

/// True if the volume's claim is gone and its data should go too.
pub fn to_delete(volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref();
    annotation(volume, PROVISIONED_BY) == Some(PROVISIONER)
        && volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released")
        && spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete")
}

/// True if the volume's directory is on `node`.
pub fn owns_data(volume: &PersistentVolume, node: &str) -> bool {
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    let terms = required.map(|required| required.node_selector_terms.as_slice()).unwrap_or_default();
    let expressions = terms.iter().flat_map(|term| term.match_expressions.iter().flatten());
    let mut hosts = expressions.filter(|expression| expression.key == HOSTNAME);
    hosts.any(|expression| expression.values.iter().flatten().any(|value| value == node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn claim(extra: Value) -> PersistentVolumeClaim {
        let mut spec = json!({
            "storageClassName": "local-path", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        });
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "metadata": {"name": "data", "namespace": "ns", "uid": "u",
                "annotations": {ASKED[0]: PROVISIONER, SELECTED_NODE: "n1"}},
            "spec": spec,
        }))
        .unwrap()
    }

    fn class() -> StorageClass {
        serde_json::from_value(crate::manifests()[0].clone()).unwrap()
    }

    fn planned(claim: &PersistentVolumeClaim, node: &str) -> Plan {
        claim_plan(claim, Some(&class()), node, Path::new("/data/storage"))
    }

    #[test]
    fn the_selected_node_makes_a_volume_that_only_it_can_use() {
        let Plan::Provision(Ok(volume)) = planned(&claim(json!({})), "n1") else { panic!("must provision") };
        let spec = volume.spec.as_ref().unwrap();
        assert_eq!(spec.local.as_ref().unwrap().path, "/data/storage/pvc-u_ns_data");
        assert_eq!(spec.claim_ref.as_ref().unwrap().uid.as_deref(), Some("u"));
        assert_eq!(spec.capacity.as_ref().unwrap()["storage"].0, "1Gi");
        assert!(owns_data(&volume, "n1") && !owns_data(&volume, "n2"));
        assert_eq!(planned(&claim(json!({})), "n2"), Plan::Nothing);
    }

    #[test]
    fn what_cannot_be_provisioned_says_why() {
        for extra in
            [json!({"volumeMode": "Block"}), json!({"accessModes": ["ReadWriteMany"]}), json!({"selector": {}})]
        {
            assert!(matches!(planned(&claim(extra), "n1"), Plan::Provision(Err(_))));
        }
        assert_eq!(planned(&claim(json!({"volumeName": "v"})), "n1"), Plan::Nothing);
    }

    #[test]
    fn only_a_released_volume_of_this_provisioner_is_deleted() {
        let Plan::Provision(Ok(mut volume)) = planned(&claim(json!({})), "n1") else { panic!("must provision") };
        assert!(!to_delete(&volume));
        volume.status = serde_json::from_value(json!({"phase": "Released"})).unwrap();
        assert!(to_delete(&volume));
        volume.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Retain".into());
        assert!(!to_delete(&volume));
    }
}
