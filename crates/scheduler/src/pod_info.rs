//! A pod with what the scheduler needs of it worked out once.
use crate::resources::{Resources, non_zero_requests, requests};
use crate::selector::{Labels, NodeRequirement, Selector};
use k8s_openapi::api::core::v1::{Affinity, Pod, PodAffinityTerm, PodSpec, Volume};
use std::sync::Arc;

/// A port of the node that a pod wants: address (empty or `0.0.0.0`: all), protocol, port.
pub type HostPort = (String, String, i32);

/// Which pods a term of pod affinity means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodMatcher {
    /// Their namespaces by name.
    pub namespaces: Vec<String>,
    /// Their namespaces by label.
    pub namespace_selector: Option<Selector>,
    /// Their labels; `None` selects nothing.
    pub selector: Option<Selector>,
}

impl PodMatcher {
    /// The pods of `namespace` that `selector` selects.
    pub fn in_namespace(namespace: &str, selector: Selector) -> Self {
        PodMatcher { namespaces: vec![namespace.to_owned()], namespace_selector: None, selector: Some(selector) }
    }

    fn of_term(term: &PodAffinityTerm, owner: &str) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(owner.to_owned());
        }
        namespaces.sort();
        PodMatcher {
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(Selector::new),
            selector: term.label_selector.as_ref().map(Selector::new),
        }
    }

    /// Whether a pod of that namespace and labels is meant; `labels_of` knows the labels of namespaces.
    pub fn matches<'a>(
        &self,
        namespace: &str,
        labels: Option<&Labels>,
        labels_of: impl FnOnce(&str) -> Option<&'a Labels>,
    ) -> bool {
        let here = self.namespaces.iter().any(|name| name == namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| selector.matches(labels_of(namespace)));
        here && self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// The label of nodes whose values are the domains.
    pub topology_key: String,
    /// Which pods it is about.
    pub matcher: PodMatcher,
}

/// The affinity rules of a pod towards others.
#[derive(Clone, Debug, Default)]
pub struct PodTerms {
    /// Required affinity.
    pub required: Vec<Term>,
    /// Required anti-affinity.
    pub required_anti: Vec<Term>,
    /// Preferred affinity with weights; anti-affinity has negative ones.
    pub preferred: Vec<(Term, i64)>,
}

impl PodTerms {
    fn of_pod(affinity: &Affinity, namespace: &str) -> Option<Arc<Self>> {
        let term = |term: &PodAffinityTerm| Term {
            topology_key: term.topology_key.clone(),
            matcher: PodMatcher::of_term(term, namespace),
        };
        let mut terms = PodTerms::default();
        if let Some(affinity) = &affinity.pod_affinity {
            let required = affinity.required_during_scheduling_ignored_during_execution.iter().flatten();
            terms.required.extend(required.map(term));
            for preferred in affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
                terms.preferred.push((term(&preferred.pod_affinity_term), i64::from(preferred.weight)));
            }
        }
        if let Some(affinity) = &affinity.pod_anti_affinity {
            let required = affinity.required_during_scheduling_ignored_during_execution.iter().flatten();
            terms.required_anti.extend(required.map(term));
            for preferred in affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
                terms.preferred.push((term(&preferred.pod_affinity_term), -i64::from(preferred.weight)));
            }
        }
        let none = terms.required.is_empty() && terms.required_anti.is_empty() && terms.preferred.is_empty();
        (!none).then(|| Arc::new(terms))
    }
}

/// A pod and its precomputed needs.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub requests: Resources,
    /// What it counts for in scores.
    pub non_zero: Resources,
    /// Its host ports.
    pub ports: Arc<[HostPort]>,
    /// What it requires of its node.
    pub node_requirement: Option<Arc<NodeRequirement>>,
    /// Its rules towards other pods.
    pub terms: Option<Arc<PodTerms>>,
}

impl PodInfo {
    /// Works out what `pod` needs.
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref();
        let affinity = spec.and_then(|spec| spec.affinity.as_ref());
        PodInfo {
            requests: requests(&pod),
            non_zero: non_zero_requests(&pod),
            ports: host_ports(&pod).into(),
            node_requirement: spec.and_then(NodeRequirement::of_pod).map(Arc::new),
            terms: affinity
                .and_then(|affinity| PodTerms::of_pod(affinity, pod.metadata.namespace.as_deref().unwrap_or_default())),
            pod,
        }
    }

    /// The pod's uid.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// The pod's spec, which every pod of the API has.
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// The name of the scheduler that is to place the pod.
    pub fn scheduler_name(&self) -> &str {
        scheduler_name(&self.pod)
    }

    /// The pod's priority.
    pub fn priority(&self) -> i32 {
        self.spec().and_then(|spec| spec.priority).unwrap_or(0)
    }

    /// The pod's labels.
    pub fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    /// The pod's volumes.
    pub fn volumes(&self) -> &[Volume] {
        self.spec().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
    }

    /// The node that the pod waits for after a preemption, if any.
    pub fn nominated_node(&self) -> Option<&str> {
        nominated_node(&self.pod)
    }

    /// Whether the pod is being deleted.
    pub fn is_leaving(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Required terms of pod affinity.
    pub fn required_affinity(&self) -> &[Term] {
        self.terms.as_ref().map(|terms| terms.required.as_slice()).unwrap_or_default()
    }

    /// Required terms of pod anti-affinity.
    pub fn required_anti_affinity(&self) -> &[Term] {
        self.terms.as_ref().map(|terms| terms.required_anti.as_slice()).unwrap_or_default()
    }

    /// Preferred terms, those of anti-affinity with negative weights.
    pub fn preferred(&self) -> &[(Term, i64)] {
        self.terms.as_ref().map(|terms| terms.preferred.as_slice()).unwrap_or_default()
    }

    /// Whether `new`, a later state of this pod once placed, counts the same. What else a decision reads of a placed pod
    /// cannot change.
    pub fn counts_like(&self, new: &Pod) -> bool {
        self.pod.metadata.labels == new.metadata.labels
            && self.is_leaving() == new.metadata.deletion_timestamp.is_some()
            && self.requests == requests(new)
            && self.non_zero == non_zero_requests(new)
    }

    /// The same needs with a later state of the pod.
    pub fn with_pod(&self, pod: Arc<Pod>) -> Self {
        PodInfo { pod, ..self.clone() }
    }
}

/// The name of the scheduler that is to place `pod`.
pub fn scheduler_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler")
}

/// The node that `pod` waits for after a preemption, if any.
pub fn nominated_node(pod: &Pod) -> Option<&str> {
    let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    nominated.filter(|node| !node.is_empty())
}

/// The node that `pod` is bound to, if any.
pub fn bound_node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty())
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let address = port.host_ip.clone().unwrap_or_default();
            Some((address, port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
        })
        .collect()
}

/// Whether two host ports exclude each other on one node (upstream: `HostPortInfo.CheckConflict`).
pub fn ports_conflict(a: &HostPort, b: &HostPort) -> bool {
    let any = |address: &str| address.is_empty() || address == "0.0.0.0";
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || any(&a.0) || any(&b.0))
}
