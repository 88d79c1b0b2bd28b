//! The columns of each kind, and which function fills them.
use super::{Cells, Column, core, groups, pod, preview};

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
const COMPONENT_STATUS: &[Column] = &[
    NAME,
    column("Status", "string", "= Status of the component conditions"),
    column("Message", "string", "= Message of the component conditions"),
    column("Error", "string", "= Error of the component conditions"),
];
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
const NAMESPACE: &[Column] = &[NAME, column("Status", "string", "= The status of the namespace"), AGE];
const NODE: &[Column] = &[
    NAME,
    column("Status", "string", "= The status of the node"),
    column("Roles", "string", "= The roles of the node"),
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
    column("StorageClass", "string", "= StorageClass of the pvc"),
    column("VolumeAttributesClass", "string", "= VolumeAttributesClass of the pvc"),
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
    column("StorageClass", "string", "= StorageClass of the pv"),
    column("VolumeAttributesClass", "string", "= VolumeAttributesClass of the pv"),
    column("Reason", "string", "api.core.v1.PersistentVolumeStatus.reason"),
    AGE,
    wide("VolumeMode", "string", "api.core.v1.PersistentVolumeSpec.volumeMode"),
];
const POD: &[Column] = &[
    NAME,
    column("Ready", "string", "= The aggregate readiness state of this pod for accepting traffic."),
    column("Status", "string", "= The aggregate status of the containers in this pod."),
    column(
        "Restarts",
        "string",
        "= The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE,
    wide("IP", "string", "api.core.v1.PodStatus.podIP"),
    wide("Node", "string", "api.core.v1.PodSpec.nodeName"),
    wide("Nominated Node", "string", "api.core.v1.PodStatus.nominatedNodeName"),
    wide("Readiness Gates", "string", "api.core.v1.PodSpec.readinessGates"),
];
const POD_TEMPLATE: &[Column] = &[
    NAME,
    column("Containers", "string", "= Names of each container in the template."),
    column("Images", "string", "= Images referenced by each container in the template."),
    column("Pod Labels", "string", "= The labels for the pod template."),
];
const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    column("Desired", "integer", "api.core.v1.ReplicationControllerSpec.replicas"),
    column("Current", "integer", "api.core.v1.ReplicationControllerStatus.replicas"),
    column("Ready", "integer", "api.core.v1.ReplicationControllerStatus.readyReplicas"),
    AGE,
    wide("Containers", "string", "= Names of each container in the template."),
    wide("Images", "string", "= Images referenced by each container in the template."),
    wide("Selector", "string", "api.core.v1.ReplicationControllerSpec.selector"),
];
const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    column("Request", "string", "= Request represents a minimum amount of cpu/memory that a container may consume."),
    column(
        "Limit",
        "string",
        "= Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    AGE,
];
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
    column("Service", "string", "= The reference to the service that hosts this API endpoint."),
    column("Available", "string", "= Whether this service is available."),
    AGE,
];
const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    column("Controller", "string", "= Controller of the object"),
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
    wide("Containers", "string", "= Names of each container in the template."),
    wide("Images", "string", "= Images referenced by each container in the template."),
    wide("Selector", "string", "api.apps.v1.DaemonSetSpec.selector"),
];
const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", "string", "= Number of the pod with ready state"),
    column("Up-to-date", "string", "api.apps.v1.DeploymentStatus.updatedReplicas"),
    column("Available", "string", "api.apps.v1.DeploymentStatus.availableReplicas"),
    AGE,
    wide("Containers", "string", "= Names of each container in the template."),
    wide("Images", "string", "= Images referenced by each container in the template."),
    wide("Selector", "string", "api.apps.v1.DeploymentSpec.selector"),
];
const REPLICA_SET: &[Column] = &[
    NAME,
    column("Desired", "integer", "api.apps.v1.ReplicaSetSpec.replicas"),
    column("Current", "integer", "api.apps.v1.ReplicaSetStatus.replicas"),
    column("Ready", "integer", "api.apps.v1.ReplicaSetStatus.readyReplicas"),
    AGE,
    wide("Containers", "string", "= Names of each container in the template."),
    wide("Images", "string", "= Images referenced by each container in the template."),
    wide("Selector", "string", "api.apps.v1.ReplicaSetSpec.selector"),
];
const STATEFUL_SET: &[Column] = &[
    NAME,
    column("Ready", "string", "= Number of the pod with ready state"),
    AGE,
    wide("Containers", "string", "= Names of each container in the template."),
    wide("Images", "string", "= Images referenced by each container in the template."),
];
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
    wide("Containers", "string", "= Names of each container in the template."),
    wide("Images", "string", "= Images referenced by each container in the template."),
    wide("Selector", "string", "api.batch.v1.JobSpec.selector"),
];
const JOB: &[Column] = &[
    NAME,
    column("Status", "string", "= Status of the job."),
    column("Completions", "string", "api.batch.v1.JobStatus.succeeded"),
    column("Duration", "string", "= Time required to complete the job."),
    AGE,
    wide("Containers", "string", "= Names of each container in the template."),
    wide("Images", "string", "= Images referenced by each container in the template."),
    wide("Selector", "string", "api.batch.v1.JobSpec.selector"),
];
const CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    column("SignerName", "string", "api.certificates.v1.CertificateSigningRequestSpec.signerName"),
    column("Requestor", "string", "= Base64-encoded PKCS#10 CSR data"),
    column("RequestedDuration", "string", "api.certificates.v1.CertificateSigningRequestSpec.expirationSeconds"),
    column("Condition", "string", "= Conditions applied to the request, such as approval or denial."),
];
const INGRESS_CLASS: &[Column] = &[
    NAME,
    column("Controller", "string", "= Controller that is responsible for handling this class"),
    column("Parameters", "string", "= A reference to a resource with additional parameters"),
    AGE,
];
const INGRESS: &[Column] = &[
    NAME,
    column(
        "Class",
        "string",
        "= The name of the IngressClass resource that should be used for additional configuration",
    ),
    column("Hosts", "string", "= Hosts that incoming requests are matched against before the ingress rule"),
    column("Address", "string", "= Address is a list containing ingress points for the load-balancer"),
    column("Ports", "string", "= Ports of TLS configurations that open"),
    AGE,
];
const IP_ADDRESS: &[Column] = &[NAME, column("ParentRef", "string", "api.networking.v1.IPAddressSpec.parentRef")];
const NETWORK_POLICY: &[Column] =
    &[NAME, column("Pod-Selector", "string", "api.networking.v1.NetworkPolicySpec.podSelector"), AGE];
const SERVICE_CIDR: &[Column] = &[NAME, column("CIDRs", "string", "api.networking.v1.ServiceCIDRSpec.cidrs"), AGE];
const POD_DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    column("Min Available", "string", "= The minimum number of pods that must be available."),
    column("Max Unavailable", "string", "= The maximum number of pods that may be unavailable."),
    column("Allowed Disruptions", "integer", "= Calculated number of pods that may be disrupted at this time."),
    AGE,
];
const CLUSTER_ROLE_BINDING: &[Column] = &[
    NAME,
    column(
        "Role",
        "string",
        "= RoleRef can only reference a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.",
    ),
    AGE,
    wide("Users", "string", "= Users in the clusterRoleBinding"),
    wide("Groups", "string", "= Groups in the clusterRoleBinding"),
    wide("ServiceAccounts", "string", "= ServiceAccounts in the clusterRoleBinding"),
];
const ROLE_BINDING: &[Column] = &[
    NAME,
    column(
        "Role",
        "string",
        "= RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.",
    ),
    AGE,
    wide("Users", "string", "= Users in the roleBinding"),
    wide("Groups", "string", "= Groups in the roleBinding"),
    wide("ServiceAccounts", "string", "= ServiceAccounts in the roleBinding"),
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
const CSI_NODE: &[Column] =
    &[NAME, column("Drivers", "integer", "= Drivers indicates the number of CSI drivers registered on the node"), AGE];
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
const MUTATING_ADMISSION_POLICY: &[Column] = &[
    NAME,
    column("Mutations", "integer", "= Mutation indicates the number of mutations rules defined in this configuration"),
    column("ParamKind", "string", "= ParamKind specifies the kind of resources used to parameterize this policy"),
    AGE,
];
const MUTATING_ADMISSION_POLICY_BINDING: &[Column] = &[
    NAME,
    column("PolicyName", "string", "= PolicyName indicates the policy definition which the policy binding binded to"),
    column("ParamRef", "string", "= ParamRef indicates the param resource which sets the configuration param"),
    AGE,
];
const MUTATING_WEBHOOK_CONFIGURATION: &[Column] = &[
    NAME,
    column("Webhooks", "integer", "= Webhooks indicates the number of webhooks registered in this configuration"),
    AGE,
];
const VALIDATING_ADMISSION_POLICY: &[Column] = &[
    NAME,
    column(
        "Validations",
        "integer",
        "= Validations indicates the number of validation rules defined in this configuration",
    ),
    column("ParamKind", "string", "= ParamKind specifies the kind of resources used to parameterize this policy"),
    AGE,
];
const PRIORITY_CLASS: &[Column] = &[
    NAME,
    column("Value", "integer", "api.scheduling.v1.PriorityClass.value"),
    column("Global-Default", "boolean", "api.scheduling.v1.PriorityClass.globalDefault"),
    AGE,
    column("PreemptionPolicy", "string", "api.scheduling.v1.PriorityClass.preemptionPolicy"),
];
const LEASE: &[Column] = &[NAME, column("Holder", "string", "api.coordination.v1.LeaseSpec.holderIdentity"), AGE];
const RUNTIME_CLASS: &[Column] = &[NAME, column("Handler", "string", ""), AGE];
const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", "string", "api.discovery.v1.EndpointSlice.addressType"),
    column("Ports", "string", "api.discovery.v1.EndpointSlice.ports"),
    column("Endpoints", "string", "api.discovery.v1.EndpointSlice.endpoints"),
    AGE,
];
const RESOURCE_CLAIM: &[Column] =
    &[NAME, column("State", "string", "= A summary of the current state (allocated, pending, reserved, etc.)."), AGE];
const RESOURCE_SLICE: &[Column] = &[
    NAME,
    column("Node", "string", "api.resource.v1.ResourceSliceSpec.nodeName"),
    column("Driver", "string", "api.resource.v1.ResourceSliceSpec.driver"),
    column("Pool", "string", "api.resource.v1.ResourcePool.name"),
    AGE,
];
const CLUSTER_TRUST_BUNDLE: &[Column] =
    &[NAME, column("SignerName", "string", "api.certificates.v1beta1.ClusterTrustBundleSpec.signerName")];
const POD_CERTIFICATE_REQUEST: &[Column] = &[
    NAME,
    column("PodName", "string", "api.certificates.v1beta1.PodCertificateRequestSpec.podName"),
    column("ServiceAccountName", "string", "api.certificates.v1beta1.PodCertificateRequestSpec.serviceAccountName"),
    column("NodeName", "string", "api.certificates.v1beta1.PodCertificateRequestSpec.nodeName"),
    column("SignerName", "string", "api.certificates.v1beta1.PodCertificateRequestSpec.signerName"),
    column("State", "string", ""),
    column(
        "UnverifiedUserAnnotations",
        "string",
        "api.certificates.v1beta1.PodCertificateRequestSpec.unverifiedUserAnnotations",
    ),
];
const LEASE_CANDIDATE: &[Column] = &[
    NAME,
    column("LeaseName", "string", "api.coordination.v1alpha2.LeaseCandidateSpec.leaseName"),
    column("BinaryVersion", "string", ""),
    column("EmulationVersion", "string", ""),
    AGE,
];
const STORAGE_VERSION: &[Column] = &[
    NAME,
    column(
        "CommonEncodingVersion",
        "string",
        "api.apiserverinternal.v1alpha1.StorageVersionStatus.commonEncodingVersion",
    ),
    column("StorageVersions", "string", "api.apiserverinternal.v1alpha1.StorageVersionStatus.storageVersions"),
    AGE,
];
const DEVICE_TAINT_RULE: &[Column] = &[
    NAME,
    column("Key", "string", "api.resource.v1.DeviceTaint.key"),
    column("Value", "string", "api.resource.v1.DeviceTaint.value"),
    column("Effect", "string", "api.resource.v1.DeviceTaint.effect"),
    column("TimeAdded", "string", "api.resource.v1.DeviceTaint.timeAdded"),
    AGE,
];
const RESOURCE_POOL_STATUS_REQUEST: &[Column] = &[
    NAME,
    column("Driver", "string", ""),
    column("Total", "string", ""),
    column("Available", "string", ""),
    column("Allocated", "string", ""),
    column("Unavailable", "string", ""),
    column("Errors", "string", ""),
    column("Pools", "integer", ""),
    column("Status", "string", ""),
    column("Completed", "string", ""),
];
const POD_GROUP: &[Column] = &[
    NAME,
    column("Policy", "string", "api.scheduling.v1alpha2.PodGroupSpec.schedulingPolicy"),
    column("Workload", "string", ""),
    column("Status", "string", ""),
    AGE,
];
const STORAGE_VERSION_MIGRATION: &[Column] = &[
    column("Name", "string", "apimachinery.pkg.apis.meta.v1.ObjectMeta.name"),
    column("Resource", "string", ""),
    column("Status", "string", ""),
];
const FLOW_SCHEMA: &[Column] = &[
    NAME,
    column("PriorityLevel", "string", "api.flowcontrol.v1.PriorityLevelConfigurationReference.name"),
    column("MatchingPrecedence", "string", "api.flowcontrol.v1.FlowSchemaSpec.matchingPrecedence"),
    column("DistinguisherMethod", "string", "api.flowcontrol.v1.FlowSchemaSpec.distinguisherMethod"),
    AGE,
    column("MissingPL", "string", "= references a broken or non-existent PriorityLevelConfiguration"),
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
    ("certificates.k8s.io", "ClusterTrustBundle", CLUSTER_TRUST_BUNDLE, preview::cluster_trust_bundle),
    ("certificates.k8s.io", "PodCertificateRequest", POD_CERTIFICATE_REQUEST, preview::pod_certificate_request),
    ("coordination.k8s.io", "LeaseCandidate", LEASE_CANDIDATE, preview::lease_candidate),
    ("internal.apiserver.k8s.io", "StorageVersion", STORAGE_VERSION, preview::storage_version),
    ("resource.k8s.io", "DeviceTaintRule", DEVICE_TAINT_RULE, preview::device_taint_rule),
    ("resource.k8s.io", "ResourcePoolStatusRequest", RESOURCE_POOL_STATUS_REQUEST, preview::resource_pool_status_request),
    ("scheduling.k8s.io", "PodGroup", POD_GROUP, preview::pod_group),
    ("scheduling.k8s.io", "Workload", SERVICE_ACCOUNT, core::name_and_age),
    ("storagemigration.k8s.io", "StorageVersionMigration", STORAGE_VERSION_MIGRATION, preview::storage_version_migration),
];

/// The columns of a kind and what fills them.
pub(super) fn of(group: &str, kind: &str) -> (&'static [Column], Cells) {
    let entry = ALL.iter().find(|(g, k, _, _)| (*g, *k) == (group, kind));
    entry.map_or((DEFAULT, core::name_and_creation as Cells), |(_, _, columns, cells)| (columns, *cells))
}

/// Whether these are the columns of kinds without columns of their own.
pub(super) fn is_default(columns: &[Column]) -> bool {
    std::ptr::eq(columns, DEFAULT)
}

/// All columns of all kinds.
pub(super) fn all() -> impl Iterator<Item = &'static Column> {
    ALL.iter().flat_map(|(_, _, columns, _)| columns.iter()).chain(DEFAULT)
}
