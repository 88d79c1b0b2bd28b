//! Strategies of the groups with few rules: networking, discovery, policy, RBAC, storage, coordination, scheduling, node,
//! autoscaling, flow control, admission registration, events.
use super::{
    Strategy, generic,
    rules::{Generation, Rules, Status},
};
use crate::defaults::{admissionregistration, dynamic_resources as dynamic, small_groups as defaults, storage};
use crate::validation::{
    api_services, autoscaling, dynamic_resources, dynamic_resources::slices, events, flow_control, groups as rules,
    networking, policies, rbac, storage as volumes, webhooks,
};
use crate::value::{Fill, Object, Read};
use pintle_api::names;
use serde_json::{Value, json};

/// Addresses are named as what they are, in canonical form.
static IP_ADDRESS: Rules = Rules {
    name: ip_name,
    validate: networking::ip_address,
    validate_update: networking::ip_address_update,
    ..Rules::PLAIN
};

// upstream: apimachinery pkg/util/validation, IsValidIP
fn ip_name(name: &str) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(address) => vec![format!("must be in canonical form (\"{address}\")")],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// The rules of a kind of one of these groups.
pub(super) fn of(group: &str, kind: &str) -> Option<&'static dyn Strategy> {
    Some(match (group, kind) {
        ("networking.k8s.io", "Ingress") => &INGRESS,
        ("networking.k8s.io", "IngressClass") => &INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => &NETWORK_POLICY,
        ("networking.k8s.io", "ServiceCIDR") => &SERVICE_CIDR,
        ("networking.k8s.io", "IPAddress") => &IP_ADDRESS,
        ("discovery.k8s.io", "EndpointSlice") => &ENDPOINT_SLICE,
        ("policy", "PodDisruptionBudget") => &POD_DISRUPTION_BUDGET,
        ("rbac.authorization.k8s.io", "Role") => &ROLE,
        ("rbac.authorization.k8s.io", "ClusterRole") => &CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => &ROLE_BINDING,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => &CLUSTER_ROLE_BINDING,
        ("storage.k8s.io", "StorageClass") => &STORAGE_CLASS,
        ("storage.k8s.io", "CSIDriver") => &CSI_DRIVER,
        ("storage.k8s.io", "CSINode") => &CSI_NODE,
        ("storage.k8s.io", "CSIStorageCapacity") => &CSI_STORAGE_CAPACITY,
        ("storage.k8s.io", "VolumeAttachment") => &VOLUME_ATTACHMENT,
        ("storage.k8s.io", "VolumeAttributesClass") => &VOLUME_ATTRIBUTES_CLASS,
        ("coordination.k8s.io", "Lease") => &LEASE,
        ("scheduling.k8s.io", "PriorityClass") => &PRIORITY_CLASS,
        ("node.k8s.io", "RuntimeClass") => &RUNTIME_CLASS,
        ("resource.k8s.io", "ResourceClaim") => &RESOURCE_CLAIM,
        ("resource.k8s.io", "ResourceClaimTemplate") => &RESOURCE_CLAIM_TEMPLATE,
        ("resource.k8s.io", "DeviceClass") => &DEVICE_CLASS,
        ("resource.k8s.io", "ResourceSlice") => &RESOURCE_SLICE,
        ("autoscaling", "HorizontalPodAutoscaler") => &HORIZONTAL_POD_AUTOSCALER,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => &PRIORITY_LEVEL,
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => &VALIDATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => &MUTATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => &VALIDATING_POLICY,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => &MUTATING_POLICY,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding") => {
            &POLICY_BINDING
        }
        ("events.k8s.io", "Event") => &EVENT,
        ("apiregistration.k8s.io", "APIService") => &API_SERVICE,
        _ => return super::preview::of(group, kind),
    })
}

static INGRESS: Rules = Rules {
    validate: networking::ingress,
    validate_update: networking::ingress_update,
    validate_status_update: networking::ingress_status,
    status: Status::Own(|status| status.set("loadBalancer", json!({}))),
    ..Rules::WITH_STATUS
};

static INGRESS_CLASS: Rules = Rules {
    validate: networking::ingress_class,
    validate_update: networking::ingress_class_update,
    default: Some(defaults::ingress_class),
    generation: Generation::Spec,
    ..Rules::PLAIN
};

static NETWORK_POLICY: Rules = Rules {
    validate: networking::network_policy,
    validate_update: |new, _| networking::network_policy(new),
    default: Some(defaults::network_policy),
    generation: Generation::Spec,
    ..Rules::PLAIN
};

static SERVICE_CIDR: Rules = Rules {
    validate: networking::service_cidr,
    validate_update: networking::service_cidr_update,
    status: Status::Own(|_| {}),
    status_update: |new, old| generic::keep_metadata(new, old, generic::STATUS_METADATA),
    ..Rules::PLAIN
};

/// A claim always has a status, if an empty one: patches of it need something to add to.
static RESOURCE_CLAIM: Rules = Rules {
    validate: dynamic_resources::claim,
    validate_update: dynamic_resources::claim_update,
    validate_status_update: dynamic_resources::status::claim_status,
    status_update: |new, old| {
        generic::keep_metadata(new, old, generic::STATUS_METADATA);
        dynamic_resources::status::drop_deallocated(new, old);
    },
    default: Some(dynamic::claim),
    status: Status::Own(|_| {}),
    returns_deleted: true,
    ..Rules::PLAIN
};

static RESOURCE_CLAIM_TEMPLATE: Rules = Rules {
    validate: dynamic_resources::template,
    validate_update: dynamic_resources::template_update,
    default: Some(dynamic::template),
    returns_deleted: true,
    ..Rules::PLAIN
};

static DEVICE_CLASS: Rules = Rules {
    validate: dynamic_resources::device_class,
    validate_update: |new, _| dynamic_resources::device_class(new),
    generation: Generation::Spec,
    returns_deleted: true,
    ..Rules::PLAIN
};

static RESOURCE_SLICE: Rules = Rules {
    validate: slices::slice,
    validate_update: slices::slice_update,
    warnings: slices::warnings,
    create: no_lists,
    update: |new, _| no_lists(new),
    default: Some(dynamic::slice),
    generation: Generation::Spec,
    returns_deleted: true,
    ..Rules::PLAIN
};

/// Attributes with several values are off.
fn no_lists(slice: &mut Object) {
    let Some(spec) = slice.child("spec") else { return };
    for device in spec.each("devices") {
        let attributes = device.child("attributes").into_iter().flat_map(|attributes| attributes.values_mut());
        for attribute in attributes.filter_map(Value::as_object_mut) {
            for list in ["bools", "ints", "strings", "versions"] {
                attribute.remove(list);
            }
        }
    }
}

static ENDPOINT_SLICE: Rules = Rules {
    validate: networking::endpoint_slice,
    validate_update: networking::endpoint_slice_update,
    default: Some(defaults::endpoint_slice),
    generation: Generation::FieldsAndLabels(&["endpoints", "ports", "addressType"]),
    create: no_deprecated_topology,
    update: |new, _| no_deprecated_topology(new),
    ..Rules::PLAIN
};

fn no_deprecated_topology(slice: &mut Object) {
    for endpoint in slice.each("endpoints") {
        endpoint.remove("deprecatedTopology");
    }
}

static POD_DISRUPTION_BUDGET: Rules = Rules {
    validate: rules::pod_disruption_budget,
    validate_update: rules::pod_disruption_budget_update,
    validate_status_update: rules::pod_disruption_budget_status,
    status: Status::Own(|status| {
        for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            status.set(count, 0);
        }
    }),
    unconditional_update: false,
    ..Rules::WITH_STATUS
};

static ROLE: Rules = Rules {
    validate: rbac::role,
    validate_update: |new, _| rbac::role(new),
    name: names::path_segment,
    create_on_update: true,
    ..Rules::PLAIN
};

static ROLE_BINDING: Rules = Rules {
    validate: rbac::role_binding,
    validate_update: rbac::role_binding_update,
    default: Some(defaults::role_binding),
    ..ROLE
};

static CLUSTER_ROLE: Rules =
    Rules { validate: rbac::cluster_role, validate_update: |new, _| rbac::cluster_role(new), ..ROLE };

static CLUSTER_ROLE_BINDING: Rules =
    Rules { validate: rbac::cluster_role_binding, validate_update: rbac::cluster_role_binding_update, ..ROLE_BINDING };

static STORAGE_CLASS: Rules = Rules {
    validate: volumes::storage_class,
    validate_update: volumes::storage_class_update,
    default: Some(storage::storage_class),
    returns_deleted: true,
    ..Rules::PLAIN
};

static CSI_DRIVER: Rules = Rules {
    validate: volumes::csi_driver,
    validate_update: volumes::csi_driver_update,
    default: Some(storage::csi_driver),
    generation: Generation::Spec,
    create: |driver| _ = driver.child("metadata").and_then(|m| m.remove("generation")),
    unconditional_update: false,
    returns_deleted: true,
    ..Rules::PLAIN
};

static CSI_NODE: Rules = Rules {
    validate: volumes::csi_node,
    validate_update: |new, _| volumes::csi_node(new),
    unconditional_update: false,
    returns_deleted: true,
    ..Rules::PLAIN
};

static CSI_STORAGE_CAPACITY: Rules = Rules {
    validate: volumes::csi_storage_capacity,
    validate_update: volumes::csi_storage_capacity_update,
    unconditional_update: false,
    ..Rules::PLAIN
};

static VOLUME_ATTACHMENT: Rules = Rules {
    validate: volumes::volume_attachment,
    validate_update: volumes::volume_attachment_update,
    status: Status::Own(|status| status.set("attached", false)),
    status_update: |new, old| generic::keep_metadata(new, old, generic::STATUS_METADATA),
    unconditional_update: false,
    returns_deleted: true,
    ..Rules::PLAIN
};

static VOLUME_ATTRIBUTES_CLASS: Rules = Rules {
    validate: volumes::volume_attributes_class,
    validate_update: volumes::volume_attributes_class_update,
    returns_deleted: true,
    ..Rules::PLAIN
};

static LEASE: Rules = Rules {
    create: no_coordination,
    update: |new, _| no_coordination(new),
    standard_finalizers: false,
    validate: rules::lease,
    validate_update: |new, _| rules::lease(new),
    create_on_update: true,
    unconditional_update: false,
    ..Rules::PLAIN
};

/// Coordinated leader election is off.
fn no_coordination(lease: &mut Object) {
    if let Some(spec) = lease.child("spec") {
        spec.remove("strategy");
        spec.remove("preferredHolder");
    }
}

static PRIORITY_CLASS: Rules = Rules {
    validate: rules::priority_class,
    validate_update: rules::priority_class_update,
    default: Some(defaults::priority_class),
    generation: Generation::Constant,
    ..Rules::PLAIN
};

static RUNTIME_CLASS: Rules = Rules {
    validate: rules::runtime_class,
    validate_update: rules::runtime_class_update,
    create_on_update: true,
    unconditional_update: false,
    standard_finalizers: false,
    ..Rules::PLAIN
};

static HORIZONTAL_POD_AUTOSCALER: Rules = Rules {
    validate: autoscaling::horizontal_pod_autoscaler,
    validate_update: autoscaling::horizontal_pod_autoscaler_update,
    validate_status_update: autoscaling::horizontal_pod_autoscaler_status,
    default: Some(defaults::horizontal_pod_autoscaler_v2),
    status: Status::Own(|status| {
        status.set("desiredReplicas", 0);
        status.set("currentMetrics", Value::Null);
    }),
    ..Rules::PLAIN
};

/// The same in `autoscaling/v1`.
pub(super) static HORIZONTAL_POD_AUTOSCALER_V1: Rules = Rules {
    default: Some(defaults::horizontal_pod_autoscaler_v1),
    status: Status::Own(|status| {
        status.set("currentReplicas", 0);
        status.set("desiredReplicas", 0);
    }),
    ..HORIZONTAL_POD_AUTOSCALER
};

static FLOW_SCHEMA: Rules = Rules {
    validate: flow_control::flow_schema,
    validate_update: |new, _| flow_control::flow_schema(new),
    validate_status_update: |new, _| flow_control::status(new),
    default: Some(defaults::flow_schema),
    status_update: |new, old| generic::keep_metadata(new, old, generic::STATUS_METADATA),
    ..Rules::WITH_STATUS
};

static PRIORITY_LEVEL: Rules = Rules {
    validate: flow_control::priority_level,
    validate_update: |new, _| flow_control::priority_level(new),
    default: Some(defaults::priority_level_configuration),
    ..FLOW_SCHEMA
};

static VALIDATING_WEBHOOKS: Rules = Rules {
    validate: webhooks::configuration,
    validate_update: |new, _| webhooks::configuration(new),
    standard_finalizers: false,
    default: Some(admissionregistration::validating_webhooks),
    generation: Generation::Fields(&["webhooks"]),
    unconditional_update: false,
    ..Rules::PLAIN
};

static MUTATING_WEBHOOKS: Rules =
    Rules { default: Some(admissionregistration::mutating_webhooks), ..VALIDATING_WEBHOOKS };

static VALIDATING_POLICY: Rules = Rules {
    validate: policies::validating,
    validate_update: |new, old| policies::changed(new, old, policies::validating),
    standard_finalizers: false,
    default: Some(admissionregistration::policy),
    status_update: |new, old| generic::keep_metadata(new, old, generic::STATUS_METADATA),
    unconditional_update: false,
    ..Rules::WITH_STATUS
};

static MUTATING_POLICY: Rules = Rules {
    validate: policies::mutating,
    validate_update: |new, old| policies::changed(new, old, policies::mutating),
    status: Status::AsSent,
    ..VALIDATING_POLICY
};

static POLICY_BINDING: Rules = Rules {
    validate: policies::binding,
    validate_update: |new, old| policies::changed(new, old, policies::binding),
    standard_finalizers: false,
    default: Some(admissionregistration::policy_binding),
    generation: Generation::Spec,
    unconditional_update: false,
    ..Rules::PLAIN
};

/// What this server serves itself is available at once.
fn available_if_local(service: &mut Object) {
    if service.child("spec").is_none_or(|spec| !spec.has("service")) {
        service.child_or_new("status").set("conditions", json!([crate::api_services::available_here()]));
    }
}

static API_SERVICE: Rules = Rules {
    validate: api_services::api_service,
    validate_update: |new, _| api_services::api_service(new),
    validate_status_update: api_services::api_service_status,
    default: Some(defaults::api_service),
    name: names::path_segment,
    status: Status::Own(|_| {}),
    create: available_if_local,
    unconditional_update: false,
    standard_finalizers: false,
    ..Rules::PLAIN
};

static EVENT: Rules = Rules {
    validate: events::event,
    validate_update: events::event_update,
    create_on_update: true,
    garbage_collection: false,
    ..Rules::PLAIN
};
