//! The columns of each kind, and which function fills them.
use super::{Cells, Column, core, groups, pod};

const fn column(name: &'static str, type_: &'static str, source: &'static str) -> Column {
    Column { name, type_, format: "", priority: 0, source }
}

const fn wide(name: &'static str, type_: &'static str, source: &'static str) -> Column {
    Column { priority: 1, ..column(name, type_, source) }
}

const fn named(column: Column) -> Column {
    Column { format: "name", ..column }
}

const NAME: Column = named(column("Name", "string", "apimachinery.pkg.apis.meta.v1.ObjectMeta.name"));
const AGE: Column = column("Age", "string", "apimachinery.pkg.apis.meta.v1.ObjectMeta.creationTimestamp");

const DEFAULT: &[Column] =
    &[NAME, column("Created At", "date", "apimachinery.pkg.apis.meta.v1.ObjectMeta.creationTimestamp")];
const COMPONENT_STATUS: &[Column] =
    &[NAME, column("Status", "string", ""), column("Message", "string", ""), column("Error", "string", "")];
const CONFIG_MAP: &[Column] = &[NAME, column("Data", "string", "api.core.v1.ConfigMap.data"), AGE];
const ENDPOINTS: &[Column] = &[NAME, column("Endpoints", "string", "api.core.v1.Endpoints.subsets"), AGE];
const EVENT: &[Column] = &[
    column("Last Seen", "string", "api.core.v1.Event.lastTimestamp"),
    column("Type", "string", "api.core.v1.Event.type"),
    column("Reason", "string", "api.core.v1.Event.reason"),
    column("Object", "string", "api.core.v1.Event.involvedObject"),
    wide("Subobject", "string", "api.core.v1.ObjectReference.fieldPath"),
    wide("Source", "string", "api.core.v1.Event.source"),
    column("Message", "string", "api.core.v1.Event.message"),
    wide("First Seen", "string", "api.core.v1.Event.firstTimestamp"),
    wide("Count", "string", "api.core.v1.Event.count"),
    named(wide("Name", "string", "apimachinery.pkg.apis.meta.v1.ObjectMeta.name")),
];
const NAMESPACE: &[Column] = &[NAME, column("Status", "string", ""), AGE];
const NODE: &[Column] = &[
    NAME,
    column("Status", "string", ""),
    column("Roles", "string", ""),
    AGE,
    column("Version", "string", "api.core.v1.NodeSystemInfo.kubeletVersion"),
    wide("Internal-IP", "string", "api.core.v1.NodeStatus.addresses"),
    wide("External-IP", "string", "api.core.v1.NodeStatus.addresses"),
    wide("OS-Image", "string", "api.core.v1.NodeSystemInfo.osImage"),
    wide("Kernel-Version", "string", "api.core.v1.NodeSystemInfo.kernelVersion"),
    wide("Container-Runtime", "string", "api.core.v1.NodeSystemInfo.containerRuntimeVersion"),
];
const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    column("Status", "string", "api.core.v1.PersistentVolumeClaimStatus.phase"),
    column("Volume", "string", "api.core.v1.PersistentVolumeClaimSpec.volumeName"),
    column("Capacity", "string", "api.core.v1.PersistentVolumeClaimStatus.capacity"),
    column("Access Modes", "string", "api.core.v1.PersistentVolumeClaimStatus.accessModes"),
    column("StorageClass", "string", ""),
    column("VolumeAttributesClass", "string", ""),
    AGE,
    wide("VolumeMode", "string", "api.core.v1.PersistentVolumeClaimSpec.volumeMode"),
];
const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    column("Capacity", "string", "api.core.v1.PersistentVolumeSpec.capacity"),
    column("Access Modes", "string", "api.core.v1.PersistentVolumeSpec.accessModes"),
    column("Reclaim Policy", "string", "api.core.v1.PersistentVolumeSpec.persistentVolumeReclaimPolicy"),
    column("Status", "string", "api.core.v1.PersistentVolumeStatus.phase"),
    column("Claim", "string", "api.core.v1.PersistentVolumeSpec.claimRef"),
    column("StorageClass", "string", ""),
    column("VolumeAttributesClass", "string", ""),
    column("Reason", "string", "api.core.v1.PersistentVolumeStatus.reason"),
    AGE,
    wide("VolumeMode", "string", "api.core.v1.PersistentVolumeSpec.volumeMode"),
];
const POD: &[Column] = &[
    NAME,
    column("Ready", "string", ""),
    column("Status", "string", ""),
    column("Restarts", "string", ""),
    AGE,
    wide("IP", "string", "api.core.v1.PodStatus.podIP"),
    wide("Node", "string", "api.core.v1.PodSpec.nodeName"),
    wide("Nominated Node", "string", "api.core.v1.PodStatus.nominatedNodeName"),
    wide("Readiness Gates", "string", "api.core.v1.PodSpec.readinessGates"),
];
const POD_TEMPLATE: &[Column] =
    &[NAME, column("Containers", "string", ""), column("Images", "string", ""), column("Pod Labels", "string", "")];
const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    column("Desired", "integer", "api.core.v1.ReplicationControllerSpec.replicas"),
    column("Current", "integer", "api.core.v1.ReplicationControllerStatus.replicas"),
    column("Ready", "integer", "api.core.v1.ReplicationControllerStatus.readyReplicas"),
    AGE,
    wide("Containers", "string", ""),
    wide("Images", "string", ""),
    wide("Selector", "string", "api.core.v1.ReplicationControllerSpec.selector"),
];
const RESOURCE_QUOTA: &[Column] = &[NAME, column("Request", "string", ""), column("Limit", "string", ""), AGE];
const SECRET: &[Column] = &[
    NAME,
    column("Type", "string", "api.core.v1.Secret.type"),
    column("Data", "string", "api.core.v1.Secret.data"),
    AGE,
];
const SERVICE_ACCOUNT: &[Column] = &[NAME, AGE];
const SERVICE: &[Column] = &[
    NAME,
    column("Type", "string", "api.core.v1.ServiceSpec.type"),
    column("Cluster-IP", "string", "api.core.v1.ServiceSpec.clusterIP"),
    column("External-IP", "string", "api.core.v1.ServiceSpec.externalIPs"),
    column("Port(s)", "string", "api.core.v1.ServiceSpec.ports"),
    AGE,
    wide("Selector", "string", "api.core.v1.ServiceSpec.selector"),
];
const API_SERVICE: &[Column] = &[
    NAME,
    column("Service", "string", "kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec.service"),
    column("Available", "string", ""),
    AGE,
];
const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    column("Controller", "string", ""),
    column("Revision", "string", "api.apps.v1.ControllerRevision.revision"),
    AGE,
];
const DAEMON_SET: &[Column] = &[
    NAME,
    column("Desired", "integer", "api.apps.v1.DaemonSetStatus.desiredNumberScheduled"),
    column("Current", "integer", "api.apps.v1.DaemonSetStatus.currentNumberScheduled"),
    column("Ready", "integer", "api.apps.v1.DaemonSetStatus.numberReady"),
    column("Up-to-date", "integer", "api.apps.v1.DaemonSetStatus.updatedNumberScheduled"),
    column("Available", "integer", "api.apps.v1.DaemonSetStatus.numberAvailable"),
    column("Node Selector", "string", "api.core.v1.PodSpec.nodeSelector"),
    AGE,
    wide("Containers", "string", ""),
    wide("Images", "string", ""),
    wide("Selector", "string", "api.apps.v1.DaemonSetSpec.selector"),
];
const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", "string", ""),
    column("Up-to-date", "string", "api.apps.v1.DeploymentStatus.updatedReplicas"),
    column("Available", "string", "api.apps.v1.DeploymentStatus.availableReplicas"),
    AGE,
    wide("Containers", "string", ""),
    wide("Images", "string", ""),
    wide("Selector", "string", "api.apps.v1.DeploymentSpec.selector"),
];
const REPLICA_SET: &[Column] = &[
    NAME,
    column("Desired", "integer", "api.apps.v1.ReplicaSetSpec.replicas"),
    column("Current", "integer", "api.apps.v1.ReplicaSetStatus.replicas"),
    column("Ready", "integer", "api.apps.v1.ReplicaSetStatus.readyReplicas"),
    AGE,
    wide("Containers", "string", ""),
    wide("Images", "string", ""),
    wide("Selector", "string", "api.apps.v1.ReplicaSetSpec.selector"),
];
const STATEFUL_SET: &[Column] =
    &[NAME, column("Ready", "string", ""), AGE, wide("Containers", "string", ""), wide("Images", "string", "")];
const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    NAME,
    column("Reference", "string", "api.autoscaling.v2.HorizontalPodAutoscalerSpec.scaleTargetRef"),
    column("Targets", "string", "api.autoscaling.v2.HorizontalPodAutoscalerSpec.metrics"),
    column("MinPods", "string", "api.autoscaling.v2.HorizontalPodAutoscalerSpec.minReplicas"),
    column("MaxPods", "string", "api.autoscaling.v2.HorizontalPodAutoscalerSpec.maxReplicas"),
    column("Replicas", "string", "api.autoscaling.v2.HorizontalPodAutoscalerStatus.currentReplicas"),
    AGE,
];
const CRON_JOB: &[Column] = &[
    NAME,
    column("Schedule", "string", "api.batch.v1.CronJobSpec.schedule"),
    column("Timezone", "string", "api.batch.v1.CronJobSpec.timeZone"),
    column("Suspend", "boolean", "api.batch.v1.CronJobSpec.suspend"),
    column("Active", "integer", "api.batch.v1.CronJobStatus.active"),
    column("Last Schedule", "string", "api.batch.v1.CronJobStatus.lastScheduleTime"),
    AGE,
    wide("Containers", "string", ""),
    wide("Images", "string", ""),
    wide("Selector", "string", "api.batch.v1.JobSpec.selector"),
];
const JOB: &[Column] = &[
    NAME,
    column("Status", "string", ""),
    column("Completions", "string", "api.batch.v1.JobStatus.succeeded"),
    column("Duration", "string", ""),
    AGE,
    wide("Containers", "string", ""),
    wide("Images", "string", ""),
    wide("Selector", "string", "api.batch.v1.JobSpec.selector"),
];
const CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    column("SignerName", "string", "api.certificates.v1.CertificateSigningRequestSpec.signerName"),
    column("Requestor", "string", "api.certificates.v1.CertificateSigningRequestSpec.request"),
    column("RequestedDuration", "string", "api.certificates.v1.CertificateSigningRequestSpec.expirationSeconds"),
    column("Condition", "string", "api.certificates.v1.CertificateSigningRequestStatus.conditions"),
];
const INGRESS_CLASS: &[Column] = &[NAME, column("Controller", "string", ""), column("Parameters", "string", ""), AGE];
const INGRESS: &[Column] = &[
    NAME,
    column("Class", "string", ""),
    column("Hosts", "string", ""),
    column("Address", "string", ""),
    column("Ports", "string", ""),
    AGE,
];
const IP_ADDRESS: &[Column] = &[NAME, column("ParentRef", "string", "api.networking.v1.IPAddressSpec.parentRef")];
const NETWORK_POLICY: &[Column] =
    &[NAME, column("Pod-Selector", "string", "api.networking.v1.NetworkPolicySpec.podSelector"), AGE];
const SERVICE_CIDR: &[Column] = &[NAME, column("CIDRs", "string", "api.networking.v1.ServiceCIDRSpec.cidrs"), AGE];
const POD_DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    column("Min Available", "string", ""),
    column("Max Unavailable", "string", ""),
    column("Allowed Disruptions", "integer", ""),
    AGE,
];
const CLUSTER_ROLE_BINDING: &[Column] = &[
    NAME,
    column("Role", "string", "api.rbac.v1.ClusterRoleBinding.roleRef"),
    AGE,
    wide("Users", "string", ""),
    wide("Groups", "string", ""),
    wide("ServiceAccounts", "string", ""),
];
const ROLE_BINDING: &[Column] = &[
    NAME,
    column("Role", "string", "api.rbac.v1.RoleBinding.roleRef"),
    AGE,
    wide("Users", "string", ""),
    wide("Groups", "string", ""),
    wide("ServiceAccounts", "string", ""),
];
const CSI_DRIVER: &[Column] = &[
    NAME,
    column("AttachRequired", "boolean", "api.storage.v1.CSIDriverSpec.attachRequired"),
    column("PodInfoOnMount", "boolean", "api.storage.v1.CSIDriverSpec.podInfoOnMount"),
    column("StorageCapacity", "boolean", "api.storage.v1.CSIDriverSpec.storageCapacity"),
    column("TokenRequests", "string", "api.storage.v1.CSIDriverSpec.tokenRequests"),
    column("RequiresRepublish", "boolean", "api.storage.v1.CSIDriverSpec.requiresRepublish"),
    column("Modes", "string", "api.storage.v1.CSIDriverSpec.volumeLifecycleModes"),
    AGE,
];
const CSI_NODE: &[Column] = &[NAME, column("Drivers", "integer", ""), AGE];
const CSI_STORAGE_CAPACITY: &[Column] = &[
    NAME,
    column("StorageClassName", "string", "api.storage.v1.CSIStorageCapacity.storageClassName"),
    column("Capacity", "string", "api.storage.v1.CSIStorageCapacity.capacity"),
];
const STORAGE_CLASS: &[Column] = &[
    NAME,
    column("Provisioner", "string", "api.storage.v1.StorageClass.provisioner"),
    column("ReclaimPolicy", "string", "api.storage.v1.StorageClass.reclaimPolicy"),
    column("VolumeBindingMode", "string", "api.storage.v1.StorageClass.volumeBindingMode"),
    column("AllowVolumeExpansion", "string", "api.storage.v1.StorageClass.allowVolumeExpansion"),
    AGE,
];
const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    named(column("Attacher", "string", "api.storage.v1.VolumeAttachmentSpec.attacher")),
    column("PV", "string", "api.storage.v1.VolumeAttachmentSource.persistentVolumeName"),
    column("Node", "string", "api.storage.v1.VolumeAttachmentSpec.nodeName"),
    column("Attached", "boolean", "api.storage.v1.VolumeAttachmentStatus.attached"),
    AGE,
];
const VOLUME_ATTRIBUTES_CLASS: &[Column] =
    &[NAME, column("DriverName", "string", "api.storage.v1.VolumeAttributesClass.driverName"), AGE];
const MUTATING_ADMISSION_POLICY: &[Column] =
    &[NAME, column("Mutations", "integer", ""), column("ParamKind", "string", ""), AGE];
const MUTATING_ADMISSION_POLICY_BINDING: &[Column] =
    &[NAME, column("PolicyName", "string", ""), column("ParamRef", "string", ""), AGE];
const MUTATING_WEBHOOK_CONFIGURATION: &[Column] = &[NAME, column("Webhooks", "integer", ""), AGE];
const VALIDATING_ADMISSION_POLICY: &[Column] =
    &[NAME, column("Validations", "integer", ""), column("ParamKind", "string", ""), AGE];
const PRIORITY_CLASS: &[Column] = &[
    NAME,
    column("Value", "integer", "api.scheduling.v1.PriorityClass.value"),
    column("Global-Default", "boolean", "api.scheduling.v1.PriorityClass.globalDefault"),
    AGE,
    column("PreemptionPolicy", "string", "api.scheduling.v1.PriorityClass.preemptionPolicy"),
];
const LEASE: &[Column] = &[NAME, column("Holder", "string", "api.coordination.v1.LeaseSpec.holderIdentity"), AGE];
const RUNTIME_CLASS: &[Column] = &[NAME, column("Handler", "string", "api.node.v1.RuntimeClass.handler"), AGE];
const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", "string", "api.discovery.v1.EndpointSlice.addressType"),
    column("Ports", "string", "api.discovery.v1.EndpointSlice.ports"),
    column("Endpoints", "string", "api.discovery.v1.EndpointSlice.endpoints"),
    AGE,
];
const RESOURCE_CLAIM: &[Column] = &[NAME, column("State", "string", ""), AGE];
const RESOURCE_SLICE: &[Column] = &[
    NAME,
    column("Node", "string", "api.resource.v1.ResourceSliceSpec.nodeName"),
    column("Driver", "string", "api.resource.v1.ResourceSliceSpec.driver"),
    column("Pool", "string", "api.resource.v1.ResourcePool.name"),
    AGE,
];
const FLOW_SCHEMA: &[Column] = &[
    NAME,
    column("PriorityLevel", "string", "api.flowcontrol.v1.PriorityLevelConfigurationReference.name"),
    column("MatchingPrecedence", "string", "api.flowcontrol.v1.FlowSchemaSpec.matchingPrecedence"),
    column("DistinguisherMethod", "string", "api.flowcontrol.v1.FlowSchemaSpec.distinguisherMethod"),
    AGE,
    column("MissingPL", "string", ""),
];
const PRIORITY_LEVEL_CONFIGURATION: &[Column] = &[
    NAME,
    column("Type", "string", "api.flowcontrol.v1.PriorityLevelConfigurationSpec.type"),
    column(
        "NominalConcurrencyShares",
        "string",
        "api.flowcontrol.v1.LimitedPriorityLevelConfiguration.nominalConcurrencyShares",
    ),
    column("Queues", "string", "api.flowcontrol.v1.QueuingConfiguration.queues"),
    column("HandSize", "string", "api.flowcontrol.v1.QueuingConfiguration.handSize"),
    column("QueueLengthLimit", "string", "api.flowcontrol.v1.QueuingConfiguration.queueLengthLimit"),
    AGE,
];
const SCALE: &[Column] = &[
    column("Name", "string", "apimachinery.pkg.apis.meta.v1.ObjectMeta.name"),
    column("Desired", "integer", "api.autoscaling.v1.ScaleSpec.replicas"),
    column("Available", "integer", "api.autoscaling.v1.ScaleStatus.replicas"),
    AGE,
];

/// A group, a kind in it, its columns and what fills them.
type Entry = (&'static str, &'static str, &'static [Column], Cells);

#[rustfmt::skip]
const ALL: &[Entry] = &[
    ("", "ComponentStatus", COMPONENT_STATUS, core::component_status),
    ("", "ConfigMap", CONFIG_MAP, core::config_map),
    ("", "Endpoints", ENDPOINTS, core::endpoints),
    ("", "Event", EVENT, core::event),
    ("", "Namespace", NAMESPACE, core::namespace),
    ("", "Node", NODE, core::node),
    ("", "PersistentVolumeClaim", PERSISTENT_VOLUME_CLAIM, core::persistent_volume_claim),
    ("", "PersistentVolume", PERSISTENT_VOLUME, core::persistent_volume),
    ("", "Pod", POD, pod::cells),
    ("", "PodTemplate", POD_TEMPLATE, core::pod_template),
    ("", "ReplicationController", REPLICATION_CONTROLLER, core::replication_controller),
    ("", "ResourceQuota", RESOURCE_QUOTA, core::resource_quota),
    ("", "Secret", SECRET, core::secret),
    ("", "ServiceAccount", SERVICE_ACCOUNT, core::name_and_age),
    ("", "Service", SERVICE, core::service),
    ("apiregistration.k8s.io", "APIService", API_SERVICE, groups::api_service),
    ("apps", "ControllerRevision", CONTROLLER_REVISION, core::controller_revision),
    ("apps", "DaemonSet", DAEMON_SET, core::daemon_set),
    ("apps", "Deployment", DEPLOYMENT, core::deployment),
    ("apps", "ReplicaSet", REPLICA_SET, core::replica_set),
    ("apps", "StatefulSet", STATEFUL_SET, core::stateful_set),
    ("events.k8s.io", "Event", EVENT, core::event_of_events_group),
    ("autoscaling", "HorizontalPodAutoscaler", HORIZONTAL_POD_AUTOSCALER, groups::horizontal_pod_autoscaler),
    ("batch", "CronJob", CRON_JOB, core::cron_job),
    ("batch", "Job", JOB, core::job),
    ("certificates.k8s.io", "CertificateSigningRequest", CERTIFICATE_SIGNING_REQUEST, groups::certificate_signing_request),
    ("networking.k8s.io", "IngressClass", INGRESS_CLASS, groups::ingress_class),
    ("networking.k8s.io", "Ingress", INGRESS, groups::ingress),
    ("networking.k8s.io", "IPAddress", IP_ADDRESS, groups::ip_address),
    ("networking.k8s.io", "NetworkPolicy", NETWORK_POLICY, groups::network_policy),
    ("networking.k8s.io", "ServiceCIDR", SERVICE_CIDR, groups::service_cidr),
    ("policy", "PodDisruptionBudget", POD_DISRUPTION_BUDGET, groups::pod_disruption_budget),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", CLUSTER_ROLE_BINDING, groups::role_binding),
    ("rbac.authorization.k8s.io", "RoleBinding", ROLE_BINDING, groups::role_binding),
    ("storage.k8s.io", "CSIDriver", CSI_DRIVER, groups::csi_driver),
    ("storage.k8s.io", "CSINode", CSI_NODE, groups::csi_node),
    ("storage.k8s.io", "CSIStorageCapacity", CSI_STORAGE_CAPACITY, groups::csi_storage_capacity),
    ("storage.k8s.io", "StorageClass", STORAGE_CLASS, groups::storage_class),
    ("storage.k8s.io", "VolumeAttachment", VOLUME_ATTACHMENT, groups::volume_attachment),
    ("storage.k8s.io", "VolumeAttributesClass", VOLUME_ATTRIBUTES_CLASS, groups::volume_attributes_class),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", MUTATING_ADMISSION_POLICY, groups::mutating_admission_policy),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", MUTATING_ADMISSION_POLICY_BINDING, groups::admission_policy_binding),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration", MUTATING_WEBHOOK_CONFIGURATION, groups::webhook_configuration),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", VALIDATING_ADMISSION_POLICY, groups::validating_admission_policy),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", MUTATING_ADMISSION_POLICY_BINDING, groups::admission_policy_binding),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", MUTATING_WEBHOOK_CONFIGURATION, groups::webhook_configuration),
    ("scheduling.k8s.io", "PriorityClass", PRIORITY_CLASS, groups::priority_class),
    ("coordination.k8s.io", "Lease", LEASE, groups::lease),
    ("node.k8s.io", "RuntimeClass", RUNTIME_CLASS, groups::runtime_class),
    ("discovery.k8s.io", "EndpointSlice", ENDPOINT_SLICE, groups::endpoint_slice),
    ("resource.k8s.io", "DeviceClass", SERVICE_ACCOUNT, core::name_and_age),
    ("resource.k8s.io", "ResourceClaim", RESOURCE_CLAIM, groups::resource_claim),
    ("resource.k8s.io", "ResourceClaimTemplate", SERVICE_ACCOUNT, core::name_and_age),
    ("resource.k8s.io", "ResourceSlice", RESOURCE_SLICE, groups::resource_slice),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", FLOW_SCHEMA, groups::flow_schema),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", PRIORITY_LEVEL_CONFIGURATION, groups::priority_level_configuration),
    ("autoscaling", "Scale", SCALE, core::scale),
];

/// The columns of a kind and what fills them.
pub(super) fn of(group: &str, kind: &str) -> (&'static [Column], Cells) {
    let entry = ALL.iter().find(|(g, k, _, _)| (*g, *k) == (group, kind));
    entry.map_or((DEFAULT, core::name_and_creation as Cells), |(_, _, columns, cells)| (columns, *cells))
}

/// All columns of all kinds.
pub(super) fn all() -> impl Iterator<Item = &'static Column> {
    ALL.iter().flat_map(|(_, _, columns, _)| columns.iter()).chain(DEFAULT)
}
