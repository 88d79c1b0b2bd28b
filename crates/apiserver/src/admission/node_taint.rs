//! TaintNodesByCondition: a new node takes no pods before the node controller has seen it ready.
// upstream: plugin/pkg/admission/nodetaint
use crate::value::{Fill, Read, object_of};
use serde_json::{Value, json};

pub(super) fn admit(node: &mut Value) {
    let spec = object_of(node).child_or_new("spec");
    let (key, effect) = ("node.kubernetes.io/not-ready", "NoSchedule");
    if spec.items("taints").iter().any(|taint| taint.text("key") == key && taint.text("effect") == effect) {
        return;
    }
    let taint = json!({"key": key, "effect": effect});
    match spec.entry("taints").or_insert(Value::Null) {
        Value::Array(list) => list.push(taint),
        other => *other = vec![taint].into(),
    }
}
