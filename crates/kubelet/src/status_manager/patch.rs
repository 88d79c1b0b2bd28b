//! The strategic merge patch from one pod status to another.
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

/// Lists of a pod status that merge by key; all others are replaced as a whole.
const KEYED: [(&str, &str); 4] =
    [("conditions", "type"), ("podIPs", "ip"), ("hostIPs", "ip"), ("resourceClaimStatuses", "name")];

/// The patch that makes `old` equal to `new`; `None` when they are equal.
pub fn between(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    if old == new {
        return None;
    }
    let (old, new) = (object(old), object(new));
    let mut patch = Map::new();
    for (field, value) in &new {
        let before = old.get(field);
        if before == Some(value) {
            continue;
        }
        let changed = match KEYED.iter().find(|(name, _)| name == field) {
            Some((_, key)) => keyed(before, value, key),
            None => Some(replaced(before, value)),
        };
        if let Some(changed) = changed {
            patch.insert(field.clone(), changed);
        }
    }
    for field in old.keys().filter(|field| !new.contains_key(*field)) {
        patch.insert(field.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Objects merge field by field, so fields that went away are named; other values replace.
fn replaced(before: Option<&Value>, value: &Value) -> Value {
    let (Some(Value::Object(before)), Value::Object(after)) = (before, value) else { return value.clone() };
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    Value::Object(after.clone().into_iter().chain(gone).collect())
}

fn keyed(before: Option<&Value>, after: &Value, key: &str) -> Option<Value> {
    let empty = Vec::new();
    let before = before.and_then(Value::as_array).unwrap_or(&empty);
    let after = after.as_array().unwrap_or(&empty);
    let find = |list: &[Value], item: &Value| list.iter().find(|other| other[key] == item[key]).cloned();
    let mut changes = Vec::new();
    for item in after {
        match find(before, item) {
            Some(old) if old == *item => {}
            Some(old) => changes.push(replaced(Some(&old), item)),
            None => changes.push(item.clone()),
        }
    }
    for item in before.iter().filter(|item| find(after, item).is_none()) {
        changes.push(json!({"$patch": "delete", key: item[key]}));
    }
    (!changes.is_empty()).then_some(Value::Array(changes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn equal_statuses_need_no_patch() {
        let one = status(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(between(&one, &one), None);
    }

    #[test]
    fn only_changed_conditions_are_sent() {
        let old = json!({"phase": "Pending", "conditions": [
            {"type": "Ready", "status": "False", "reason": "X"}, {"type": "PodScheduled", "status": "True"}]});
        let new = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]});
        assert_eq!(
            between(&status(old), &status(new)),
            Some(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "reason": null}]}))
        );
    }

    #[test]
    fn a_changed_address_replaces_the_old_one() {
        let old = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]});
        let new = json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}]});
        let patch =
            json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}]});
        assert_eq!(between(&status(old), &status(new)), Some(patch));
    }
}
