//! What the API server fills in when a client leaves it out, kind by kind. Start at [`of`].
//!
//! upstream: pkg/apis/<group>/v1/defaults.go and zz_generated.defaults.go
mod admissionregistration;
mod apps;
mod batch;
mod core;
mod pod_spec;
mod small_groups;
mod storage;

use crate::value::Object;

/// Fills in the defaults of one kind.
pub type Defaults = fn(&mut Object);

/// The defaults of a kind of an API group, in its stored version. Kinds without defaults have none.
pub fn of(group: &str, kind: &str) -> Option<Defaults> {
    Some(match (group, kind) {
        ("", "Pod") => core::pod,
        ("", "PodTemplate") => core::pod_template,
        ("", "ReplicationController") => core::replication_controller,
        ("", "Service") => core::service,
        ("", "Endpoints") => core::endpoints,
        ("", "Secret") => core::secret,
        ("", "Namespace") => core::namespace,
        ("", "Node") => core::node,
        ("", "LimitRange") => core::limit_range,
        ("", "PersistentVolume") => storage::persistent_volume,
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim,
        ("apps", "Deployment") => apps::deployment,
        ("apps", "ReplicaSet") => apps::replica_set,
        ("apps", "StatefulSet") => apps::stateful_set,
        ("apps", "DaemonSet") => apps::daemon_set,
        ("batch", "Job") => batch::job,
        ("batch", "CronJob") => batch::cron_job,
        ("storage.k8s.io", "StorageClass") => storage::storage_class,
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver,
        ("networking.k8s.io", "NetworkPolicy") => small_groups::network_policy,
        ("networking.k8s.io", "IngressClass") => small_groups::ingress_class,
        ("discovery.k8s.io", "EndpointSlice") => small_groups::endpoint_slice,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => small_groups::role_binding,
        ("scheduling.k8s.io", "PriorityClass") => small_groups::priority_class,
        ("autoscaling", "HorizontalPodAutoscaler") => small_groups::horizontal_pod_autoscaler,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => small_groups::flow_schema,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => small_groups::priority_level_configuration,
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => {
            admissionregistration::validating_webhooks
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => admissionregistration::mutating_webhooks,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy") => {
            admissionregistration::policy
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding") => {
            admissionregistration::policy_binding
        }
        _ => return None,
    })
}
