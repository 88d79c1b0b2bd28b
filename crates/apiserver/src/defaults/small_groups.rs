//! Defaults of groups with a few fields to fill in each: networking, discovery, RBAC, scheduling, autoscaling, flow control.
use crate::value::{Fill, Object, Read};
use serde_json::json;

/// Fills in a NetworkPolicy.
pub(crate) fn network_policy(object: &mut Object) {
    let spec = object.child_or_new("spec");
    if spec.is_zero("policyTypes") {
        let egress = !spec.is_zero("egress");
        spec.set("policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
    for rules in ["ingress", "egress"] {
        for port in spec.each(rules).flat_map(|r| r.each("ports")) {
            port.fill("protocol", "TCP");
        }
    }
}

/// Fills in an IngressClass.
pub(crate) fn ingress_class(object: &mut Object) {
    if let Some(parameters) = object.child("spec").and_then(|s| s.child("parameters")) {
        parameters.fill("scope", "Cluster");
    }
}

/// Fills in an EndpointSlice.
pub(crate) fn endpoint_slice(object: &mut Object) {
    for port in object.each("ports") {
        port.fill("name", "");
        port.fill("protocol", "TCP");
    }
}

/// Fills in the API groups that a RoleBinding or ClusterRoleBinding refers to.
pub(crate) fn role_binding(object: &mut Object) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    object.child_or_new("roleRef").fill_zero("apiGroup", GROUP);
    for subject in object.each("subjects").filter(|s| matches!(s.text("kind"), "User" | "Group")) {
        subject.fill_zero("apiGroup", GROUP);
    }
}

/// Fills in a PriorityClass.
pub(crate) fn priority_class(object: &mut Object) {
    object.fill("preemptionPolicy", "PreemptLowerPriority");
}

/// Fills in a HorizontalPodAutoscaler of `autoscaling/v1`.
pub(crate) fn horizontal_pod_autoscaler_v1(object: &mut Object) {
    object.child_or_new("spec").fill("minReplicas", 1);
}

/// Fills in a HorizontalPodAutoscaler of `autoscaling/v2`: 80% of the CPU is aimed at unless something else is said.
pub(crate) fn horizontal_pod_autoscaler_v2(object: &mut Object) {
    let spec = object.child_or_new("spec");
    spec.fill("minReplicas", 1);
    let target = json!({"type": "Utilization", "averageUtilization": 80});
    spec.fill_zero("metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    let Some(behavior) = spec.child("behavior") else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let up = behavior.child_or_new("scaleUp");
    up.fill("stabilizationWindowSeconds", 0);
    up.fill("selectPolicy", "Max");
    up.fill("policies", json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, percent.clone()]));
    let down = behavior.child_or_new("scaleDown");
    down.fill("selectPolicy", "Max");
    down.fill("policies", json!([percent]));
}

/// Fills in a FlowSchema.
pub(crate) fn flow_schema(object: &mut Object) {
    object.child_or_new("spec").fill_zero("matchingPrecedence", 1000);
}

/// Fills in a PriorityLevelConfiguration.
pub(crate) fn priority_level_configuration(object: &mut Object) {
    let spec = object.child_or_new("spec");
    for (kind, shares) in [("exempt", 0), ("limited", 30)] {
        if let Some(level) = spec.child(kind) {
            level.fill("nominalConcurrencyShares", shares);
            level.fill("lendablePercent", 0);
        }
    }
    let response = spec.child("limited").and_then(|l| l.child("limitResponse"));
    if let Some(queuing) = response.and_then(|r| r.child("queuing")) {
        queuing.fill_zero("handSize", 8);
        queuing.fill_zero("queues", 64);
        queuing.fill_zero("queueLengthLimit", 50);
    }
}

/// An APIService.
pub(crate) fn api_service(object: &mut Object) {
    if let Some(service) = object.child("spec").and_then(|spec| spec.child("service")) {
        service.fill("port", 443);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_policy_with_egress_rules_governs_both_directions() {
        let mut policy = json!({"spec": {"egress": [{"ports": [{"port": 53}]}]}});
        network_policy(policy.as_object_mut().unwrap());
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    }

    #[test]
    fn users_and_groups_are_of_the_rbac_group_and_service_accounts_of_none() {
        let mut binding = json!({"subjects": [{"kind": "User", "name": "a"}, {"kind": "ServiceAccount", "name": "b"}]});
        role_binding(binding.as_object_mut().unwrap());
        assert_eq!(binding["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
        assert_eq!(binding["subjects"][1].get("apiGroup"), None);
    }
}
