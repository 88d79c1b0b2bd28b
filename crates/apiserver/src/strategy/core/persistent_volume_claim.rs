//! PersistentVolumeClaims: the two ways to name a data source.
use crate::defaults;
use crate::strategy::rules::{Rules, Status};
use crate::validation;
use crate::value::{Fill, Object, Read};
use serde_json::{Map, Value};

/// The rules of PersistentVolumeClaims.
pub(crate) static PERSISTENT_VOLUME_CLAIM: Rules = Rules {
    default: Some(defaults::storage::persistent_volume_claim),
    status: Status::Own(|status| status.set("phase", "Pending")),
    create: |claim| data_sources(claim.child_or_new("spec"), &Value::Null),
    update: |new, old| data_sources(new.child_or_new("spec"), old.field("spec")),
    validate: validation::claim::create,
    validate_update: validation::claim::update,
    validate_status_update: validation::claim::update_status,
    returns_deleted: true,
    ..Rules::PLAIN
};

/// `dataSource` and the newer `dataSourceRef` show the same; a `dataSource` that old servers did not know is dropped.
fn data_sources(spec: &mut Object, old: &Value) {
    let old_in_use = old.has("dataSource") || old.has("dataSourceRef");
    // Sources in other namespaces are off.
    if !spec.field("dataSourceRef").is_zero("namespace") && old.field("dataSourceRef").is_zero("namespace") {
        spec.remove("dataSourceRef");
    }
    let source = spec.field("dataSource");
    let group = source.text("apiGroup");
    let known = matches!(
        (group, source.text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !old_in_use && !spec.has("dataSourceRef") && !known {
        spec.remove("dataSource");
    }
    let namespaced = !spec.field("dataSourceRef").is_zero("namespace");
    let (from, to) = match (spec.has("dataSource"), spec.has("dataSourceRef")) {
        (true, false) => ("dataSource", "dataSourceRef"),
        (false, true) if !namespaced => ("dataSourceRef", "dataSource"),
        _ => return,
    };
    let mut copy = Map::new();
    for key in ["apiGroup", "kind", "name"] {
        copy.set(key, spec.field(from).field(key).clone());
    }
    spec.set(to, copy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_data_sources_show_the_same_and_unknown_ones_are_dropped() {
        let mut spec = json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}});
        data_sources(spec.as_object_mut().unwrap(), &Value::Null);
        assert_eq!(spec["dataSourceRef"], json!({"apiGroup": null, "kind": "PersistentVolumeClaim", "name": "a"}));
        let mut spec = json!({"dataSource": {"kind": "Pod", "name": "a"}});
        data_sources(spec.as_object_mut().unwrap(), &Value::Null);
        assert_eq!(spec, json!({}));
    }
}
