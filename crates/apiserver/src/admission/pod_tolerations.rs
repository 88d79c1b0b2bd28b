//! DefaultTolerationSeconds: pods stay five minutes on nodes that are not ready or unreachable.
// upstream: plugin/pkg/admission/defaulttolerationseconds
use crate::value::{Fill, Read, object_of};
use serde_json::{Value, json};

pub(super) fn admit(pod: &mut Value) {
    let spec = object_of(pod).child_or_new("spec");
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = spec.items("tolerations").iter().any(|toleration| {
            matches!(toleration.text("effect"), "" | "NoExecute") && ["", taint].contains(&toleration.text("key"))
        });
        if tolerated {
            continue;
        }
        let toleration = json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        match spec.entry("tolerations").or_insert(Value::Null) {
            Value::Array(list) => list.push(toleration),
            other => *other = vec![toleration].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_that_a_pod_has_are_kept_as_they_are() {
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        let before = pod.clone();
        admit(&mut pod);
        assert_eq!(pod, before);
        let mut plain = json!({"spec": {}});
        admit(&mut plain);
        assert_eq!(plain["spec"]["tolerations"].as_array().unwrap().len(), 2);
        assert_eq!(plain["spec"]["tolerations"][0]["tolerationSeconds"], 300);
    }
}
