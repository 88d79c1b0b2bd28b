//! `resource.k8s.io/v1beta1`, whose devices and requests nest differently than in `v1`.
// upstream: pkg/apis/resource/v1beta1/conversion.go
use serde_json::{Map, Value, json};

use crate::scheme::Resource;

/// What `v1` keeps in `exactly`.
const REQUEST: [&str; 7] =
    ["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity"];

/// Whether the version has fields that the stored one has not.
pub(super) fn has_other_shape(resource: &Resource) -> bool {
    resource.version == "v1beta1" && resource.group == "resource.k8s.io"
}

/// Turns an object of `v1beta1` into one of `v1`, or, unless `store`, the other way.
pub(super) fn convert(kind: &str, object: &mut Value, store: bool) {
    match kind {
        "ResourceClaim" => requests(object.get_mut("spec"), store),
        "ResourceClaimTemplate" => requests(object.pointer_mut("/spec/spec"), store),
        "ResourceSlice" => slice(object.get_mut("spec"), store),
        _ => {}
    }
}

fn objects<'a>(parent: Option<&'a mut Value>, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = parent.and_then(|parent| parent.get_mut(list)).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn requests(spec: Option<&mut Value>, store: bool) {
    for request in objects(spec.and_then(|spec| spec.get_mut("devices")), "requests") {
        if store {
            let is_set = |value: &Value| !matches!(value, Value::Null) && *value != "" && *value != 0;
            let moved: Map<String, Value> = REQUEST.iter().filter_map(|key| request.remove_entry(*key)).collect();
            if moved.values().any(is_set) {
                request.insert("exactly".into(), moved.into());
            }
        } else if let Some(Value::Object(exactly)) = request.remove("exactly") {
            request.extend(exactly.into_iter().filter(|(key, _)| REQUEST.contains(&key.as_str())));
        }
    }
}

fn slice(spec: Option<&mut Value>, store: bool) {
    let Some(spec) = spec else { return };
    if store && let Some(spec) = spec.as_object_mut() {
        spec.retain(|key, value| match key.as_str() {
            "nodeName" => *value != "",
            "allNodes" => *value != false,
            _ => true,
        });
    }
    for device in objects(Some(spec), "devices") {
        if store {
            if let Some(Value::Object(basic)) = device.remove("basic") {
                device.extend(basic);
            }
        } else {
            let name = device.remove_entry("name");
            let basic = std::mem::take(device);
            device.extend(name);
            device.insert("basic".into(), json!(basic));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{from_storage, judged, to_storage};
    use super::*;
    use crate::scheme::Scheme;

    fn both_ways(kind: &str, served: Value, stored: Value) {
        let resource = Scheme::all().by_kind("resource.k8s.io", "v1beta1", kind).unwrap();
        let whole = |version: &str, spec: Value| json!({"apiVersion": format!("resource.k8s.io/{version}"), "kind": kind, "metadata": {"name": "x"}, "spec": spec});
        let object = to_storage(resource, whole("v1beta1", served.clone())).unwrap();
        assert_eq!((&object["spec"], &object["apiVersion"]), (&stored, &json!("resource.k8s.io/v1")));
        assert_eq!(judged(resource, &whole("v1beta1", served.clone())).into_owned(), object);
        let object = from_storage(resource, object).unwrap();
        assert_eq!((&object["spec"], &object["apiVersion"]), (&served, &json!("resource.k8s.io/v1beta1")));
    }

    #[test]
    fn requests_are_nested_in_the_stored_version() {
        let served = json!({"devices": {"requests": [{"name": "a", "deviceClassName": "c", "allocationMode": "All"},
            {"name": "b", "deviceClassName": "", "firstAvailable": [{"name": "s", "deviceClassName": "c"}]}]}});
        let stored = json!({"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "All"}},
            {"name": "b", "firstAvailable": [{"name": "s", "deviceClassName": "c"}]}]}});
        both_ways("ResourceClaim", served.clone(), stored.clone());
        both_ways(
            "ResourceClaimTemplate",
            json!({"metadata": {}, "spec": served}),
            json!({"metadata": {}, "spec": stored}),
        );
    }

    #[test]
    fn devices_are_flat_in_the_stored_version() {
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
        let served = json!({"driver": "d", "nodeName": "n", "pool": pool, "devices": [
            {"name": "a", "basic": {"attributes": {"x": {"int": 1}}}}, {"name": "b", "basic": {}}]});
        let stored = json!({"driver": "d", "nodeName": "n", "pool": pool, "devices": [
            {"name": "a", "attributes": {"x": {"int": 1}}}, {"name": "b"}]});
        both_ways("ResourceSlice", served, stored);
    }
}
