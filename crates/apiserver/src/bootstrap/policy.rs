//! Completing stored RBAC objects by the default policy.
use crate::authz::rules::{PolicyRule, missing_rights};
use pintle_api::meta;
use serde_json::Value;

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What `stored` must become to have all that `wanted` has; `None` if it does, or if its owner turned updates off.
// upstream: pkg/registry/rbac/reconciliation
pub(super) fn completed(stored: &Value, wanted: &Value) -> Option<Value> {
    if meta::get(stored, &["metadata", "annotations", AUTOUPDATE]).and_then(Value::as_str) == Some("false") {
        return None;
    }
    let mut object = stored.clone();
    match wanted["kind"].as_str()? {
        "ClusterRole" | "Role" if wanted.get("aggregationRule").is_none() => add_rules(&mut object, wanted),
        "ClusterRole" => {
            if object.get("aggregationRule").is_none() {
                object["aggregationRule"] = wanted["aggregationRule"].clone();
            }
        }
        "ClusterRoleBinding" | "RoleBinding" => add_subjects(&mut object, wanted),
        _ => return None,
    }
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            let map = meta::ensure_map(&mut object, &["metadata", field]);
            map.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    (object != *stored).then_some(object)
}

fn rules(object: &Value) -> Vec<PolicyRule> {
    serde_json::from_value(object["rules"].clone()).unwrap_or_default()
}

fn add_rules(object: &mut Value, wanted: &Value) {
    let held = rules(object);
    for rule in wanted["rules"].as_array().into_iter().flatten() {
        let Ok(parsed) = serde_json::from_value::<PolicyRule>(rule.clone()) else { continue };
        if !missing_rights(&held, std::slice::from_ref(&parsed)).is_empty() {
            push(object, "rules", rule.clone());
        }
    }
}

fn add_subjects(object: &mut Value, wanted: &Value) {
    for subject in wanted["subjects"].as_array().into_iter().flatten() {
        if !object["subjects"].as_array().is_some_and(|subjects| subjects.contains(subject)) {
            push(object, "subjects", subject.clone());
        }
    }
}

fn push(object: &mut Value, field: &str, item: Value) {
    match object[field].as_array_mut() {
        Some(list) => list.push(item),
        None => object[field] = vec![item].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lost_rules_and_subjects_come_back_and_additions_stay() {
        let wanted = json!({"kind": "ClusterRole", "metadata": {"name": "x"}, "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]}]});
        let stored = json!({"kind": "ClusterRole", "metadata": {"name": "x"}, "rules": [
            {"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}]});
        let object = completed(&stored, &wanted).unwrap();
        assert_eq!(object["rules"].as_array().unwrap().len(), 2);
        assert_eq!(completed(&object, &wanted), None);
        let mut kept = stored;
        kept["metadata"]["annotations"] = json!({AUTOUPDATE: "false"});
        assert_eq!(completed(&kept, &wanted), None);
    }
}
