//! Defaults of `apps`.
use super::{pod_spec::template, storage::claim};
use crate::value::{Fill, Object, Read};
use serde_json::json;

/// Where a DaemonSet counts the changes of its template, once the field `templateGeneration` of `extensions/v1beta1`.
pub(crate) const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Fills in a Deployment.
pub(crate) fn deployment(object: &mut Object) {
    let spec = object.child_or_new("spec");
    template(spec);
    spec.fill("replicas", 1);
    let strategy = spec.child_or_new("strategy");
    strategy.fill_zero("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.child_or_new("rollingUpdate");
        rolling.fill("maxUnavailable", "25%");
        rolling.fill("maxSurge", "25%");
    }
    spec.fill("revisionHistoryLimit", 10);
    spec.fill("progressDeadlineSeconds", 600);
}

/// Fills in a ReplicaSet.
pub(crate) fn replica_set(object: &mut Object) {
    let spec = object.child_or_new("spec");
    spec.fill("replicas", 1);
    template(spec);
}

/// Fills in a DaemonSet.
pub(crate) fn daemon_set(object: &mut Object) {
    object.child_or_new("metadata").child_or_new("annotations").fill(TEMPLATE_GENERATION, "0");
    let spec = object.child_or_new("spec");
    template(spec);
    let strategy = spec.child_or_new("updateStrategy");
    strategy.fill_zero("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.child_or_new("rollingUpdate");
        rolling.fill("maxUnavailable", 1);
        rolling.fill("maxSurge", 0);
    }
    spec.fill("revisionHistoryLimit", 10);
}

/// Fills in a StatefulSet.
pub(crate) fn stateful_set(object: &mut Object) {
    let spec = object.child_or_new("spec");
    template(spec);
    spec.fill_zero("podManagementPolicy", "OrderedReady");
    let strategy = spec.child_or_new("updateStrategy");
    if strategy.is_zero("type") {
        strategy.set("type", "RollingUpdate");
        strategy.fill("rollingUpdate", json!({}));
    }
    if strategy.text("type") == "RollingUpdate"
        && let Some(rolling) = strategy.child("rollingUpdate")
    {
        rolling.fill("partition", 0);
    }
    let retention = spec.child_or_new("persistentVolumeClaimRetentionPolicy");
    retention.fill_zero("whenDeleted", "Retain");
    retention.fill_zero("whenScaled", "Retain");
    spec.fill("replicas", 1);
    spec.fill("revisionHistoryLimit", 10);
    for template in spec.each("volumeClaimTemplates") {
        template.set("apiVersion", "v1");
        template.set("kind", "PersistentVolumeClaim");
        claim(template);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn filled(defaults: super::super::Defaults, mut object: Value) -> Value {
        defaults(object.as_object_mut().unwrap());
        object
    }

    #[test]
    fn a_deployment_rolls_by_quarters() {
        let deployment = filled(deployment, json!({"spec": {"template": {"spec": {}}}}));
        assert_eq!(
            deployment["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(deployment["spec"]["template"]["spec"]["restartPolicy"], "Always");
        let recreate = filled(super::deployment, json!({"spec": {"strategy": {"type": "Recreate"}}}));
        assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    #[test]
    fn claim_templates_of_a_stateful_set_are_whole_claims() {
        let set =
            filled(stateful_set, json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "a"}, "spec": {}}]}}));
        let claim = &set["spec"]["volumeClaimTemplates"][0];
        assert_eq!((&claim["kind"], &claim["status"]["phase"]), (&json!("PersistentVolumeClaim"), &json!("Pending")));
        assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
    }
}
