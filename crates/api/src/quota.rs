//! What objects count against a ResourceQuota: shared by admission, which charges, and the controller, which recounts.
//! Start at [`Counted`].
// upstream: pkg/quota/v1/evaluator/core, apiserver pkg/quota/v1
mod pods;
mod scopes;

use crate::quantity::{Format, Quantity};
use crate::resource_list::{List, list};
use jiff::Timestamp;
use serde_json::Value;

/// What every StorageClass adds to a claim's resource names.
const STORAGE_CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";

/// Kinds that had a name of their own in quotas before all could be counted as `count/…`.
const ALIASES: [&str; 5] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets", "services"];

/// A kind of objects as quotas count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted<'a> {
    /// The API group.
    pub group: &'a str,
    /// The resource in plural.
    pub plural: &'a str,
}

/// The resource whose objects a name in `spec.hard` counts, as group and plural; `None` for names that nothing counts.
pub fn counted_by(name: &str) -> Option<Counted<'_>> {
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some(Counted { group, plural });
    }
    let core = |plural| Some(Counted { group: "", plural });
    match name {
        "services.nodeports" | "services.loadbalancers" => core("services"),
        "requests.storage" | "persistentvolumeclaims" => core("persistentvolumeclaims"),
        name if name.contains(STORAGE_CLASS_SUFFIX) => core("persistentvolumeclaims"),
        name if ALIASES.contains(&name) => core(ALIASES.iter().find(|alias| **alias == name)?),
        name if pods::counts(name) => core("pods"),
        _ => None,
    }
}

/// Whether quotas never count the resource.
pub fn is_ignored(group: &str, plural: &str) -> bool {
    match group {
        "" => matches!(plural, "bindings" | "componentstatuses" | "events"),
        "authentication.k8s.io" | "authorization.k8s.io" => true,
        "events.k8s.io" => plural == "events",
        _ => false,
    }
}

fn one() -> Quantity {
    Quantity::from_int(1, Format::DecimalSi)
}

fn number(count: usize) -> Quantity {
    Quantity::from_int(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

impl Counted<'_> {
    /// `count/pods`, `count/deployments.apps`.
    pub fn count_name(&self) -> String {
        match self.group {
            "" => format!("count/{}", self.plural),
            group => format!("count/{}.{group}", self.plural),
        }
    }

    fn is_core(&self, plural: &str) -> bool {
        self.group.is_empty() && self.plural == plural
    }

    /// Whether objects of this kind count towards `name`.
    pub fn counts(&self, name: &str) -> bool {
        match self.plural {
            _ if name == self.count_name() => true,
            "pods" if self.group.is_empty() => pods::counts(name),
            "services" if self.group.is_empty() => {
                matches!(name, "services" | "services.nodeports" | "services.loadbalancers")
            }
            "persistentvolumeclaims" if self.group.is_empty() => {
                let base = name.split_once(STORAGE_CLASS_SUFFIX).map_or(name, |(_, base)| base);
                matches!(base, "persistentvolumeclaims" | "requests.storage")
            }
            plural => self.group.is_empty() && ALIASES.contains(&plural) && name == plural,
        }
    }

    /// What `object` uses; `now` decides whether a pod that is being deleted still counts.
    pub fn usage(&self, object: &Value, now: Timestamp) -> List {
        let mut used = List::from([(self.count_name(), one())]);
        if self.is_core("pods") {
            pods::add_usage(&mut used, object, now);
        } else if self.is_core("services") {
            service_usage(&mut used, object);
        } else if self.is_core("persistentvolumeclaims") {
            claim_usage(&mut used, object);
        } else if self.group.is_empty() && ALIASES.contains(&self.plural) {
            used.insert(self.plural.to_owned(), one());
        }
        used
    }

    /// Whether the scopes of a quota's spec take in `object`.
    pub fn in_scope(&self, quota_spec: &Value, object: &Value) -> bool {
        scopes::of_spec(quota_spec).all(|scope| self.matches_scope(&scope, object))
    }

    fn matches_scope(&self, scope: &scopes::Scope<'_>, object: &Value) -> bool {
        match self.plural {
            "pods" if self.group.is_empty() => scope.matches_pod(object),
            "persistentvolumeclaims" if self.group.is_empty() => scope.matches_claim(object),
            _ => false,
        }
    }

    /// What is wrong with an object that a quota of these resources charges: pods whose containers do not say what they
    /// need.
    pub fn constraints<'n>(&self, names: impl Iterator<Item = &'n str>, object: &Value) -> Option<String> {
        if self.is_core("pods") { pods::missing_requests(names, object) } else { None }
    }

    /// What `objects` use of the resources in `spec.hard`; those that nothing uses are zero.
    pub fn total<'o>(&self, quota_spec: &Value, objects: impl Iterator<Item = &'o Value>, now: Timestamp) -> List {
        let hard = list(quota_spec, "hard");
        let zero = |name: &String| (name.clone(), Quantity::from_int(0, Format::DecimalSi));
        let mut total: List = hard.keys().filter(|name| self.counts(name)).map(zero).collect();
        if total.is_empty() {
            return total;
        }
        for object in objects.filter(|object| self.in_scope(quota_spec, object)) {
            for (name, used) in self.usage(object, now) {
                if let Some(held) = total.get_mut(&name) {
                    *held += used;
                }
            }
        }
        total
    }
}

fn service_usage(used: &mut List, service: &Value) {
    let spec = &service["spec"];
    let ports = || spec["ports"].as_array().into_iter().flatten();
    let node_ports = match spec["type"].as_str() {
        Some("NodePort") => ports().count(),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            ports().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count()
        }
        Some("LoadBalancer") => ports().count(),
        _ => 0,
    };
    used.insert("services".to_owned(), one());
    used.insert("services.nodeports".to_owned(), number(node_ports));
    used.insert("services.loadbalancers".to_owned(), number(usize::from(spec["type"] == "LoadBalancer")));
}

fn claim_usage(used: &mut List, claim: &Value) {
    let annotated = &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    let class = annotated.as_str().or_else(|| claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    let mut charge = |name: &str, amount: Quantity| {
        used.insert(name.to_owned(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}{STORAGE_CLASS_SUFFIX}{name}"), amount);
        }
    };
    charge("persistentvolumeclaims", one());
    let requested = list(&claim["spec"]["resources"], "requests").get("storage").copied();
    if let Some(requested) = requested {
        let allocated = list(&claim["status"], "allocatedResources").get("storage").copied();
        charge("requests.storage", allocated.map_or(requested, |allocated| allocated.max(requested)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PODS: Counted<'_> = Counted { group: "", plural: "pods" };

    fn shown(used: &List) -> Vec<String> {
        used.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn a_pod_uses_what_its_containers_ask_for() {
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": {
            "requests": {"cpu": "500m", "memory": "1Gi", "example.com/gpu": "1"}, "limits": {"cpu": "1"}}}]}});
        assert_eq!(
            shown(&PODS.usage(&pod, Timestamp::now())),
            [
                "count/pods=1",
                "cpu=500m",
                "limits.cpu=1",
                "memory=1Gi",
                "pods=1",
                "requests.cpu=500m",
                "requests.example.com/gpu=1",
                "requests.memory=1Gi"
            ]
        );
        let done = json!({"spec": pod["spec"], "status": {"phase": "Succeeded"}});
        assert_eq!(shown(&PODS.usage(&done, Timestamp::now())), ["count/pods=1"]);
    }

    #[test]
    fn a_pod_overdue_for_deletion_does_not_count() {
        let pod = |time: &str| json!({"metadata": {"deletionTimestamp": time, "deletionGracePeriodSeconds": 30}});
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(shown(&PODS.usage(&pod("2026-01-01T00:00:00Z"), now)), ["count/pods=1"]);
        assert!(PODS.usage(&pod("2026-01-01T00:00:45Z"), now).contains_key("pods"));
    }

    #[test]
    fn services_and_claims_have_names_of_their_own() {
        let services = Counted { group: "", plural: "services" };
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        let want = ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=2"];
        assert_eq!(shown(&services.usage(&service, Timestamp::now())), want);
        let claims = Counted { group: "", plural: "persistentvolumeclaims" };
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        let used = claims.usage(&claim, Timestamp::now());
        assert!(used.contains_key("gold.storageclass.storage.k8s.io/requests.storage"));
        assert!(claims.counts("gold.storageclass.storage.k8s.io/persistentvolumeclaims"));
    }

    #[test]
    fn names_say_which_kind_they_count() {
        for (name, group, plural) in [
            ("count/deployments.apps", "apps", "deployments"),
            ("pods", "", "pods"),
            ("requests.cpu", "", "pods"),
            ("requests.example.com/gpu", "", "pods"),
            ("hugepages-2Mi", "", "pods"),
            ("configmaps", "", "configmaps"),
            ("services.nodeports", "", "services"),
            ("requests.storage", "", "persistentvolumeclaims"),
        ] {
            assert_eq!(counted_by(name), Some(Counted { group, plural }), "{name}");
            assert!(Counted { group, plural }.counts(name), "{name}");
        }
        assert_eq!(counted_by("nonsense"), None);
    }

    #[test]
    fn scopes_choose_pods() {
        let best_effort = json!({"spec": {"containers": [{"name": "a"}]}});
        let busy = json!({"spec": {"priorityClassName": "high", "activeDeadlineSeconds": 5,
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        let scope = |scope: &str, pod: &Value| PODS.in_scope(&json!({"scopes": [scope]}), pod);
        assert!(scope("BestEffort", &best_effort) && !scope("NotBestEffort", &best_effort));
        assert!(scope("Terminating", &busy) && scope("NotTerminating", &best_effort));
        assert!(scope("PriorityClass", &busy) && !scope("PriorityClass", &best_effort));
        let selector = |operator: &str| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}})
        };
        assert!(PODS.in_scope(&selector("In"), &busy) && !PODS.in_scope(&selector("In"), &best_effort));
        assert!(PODS.in_scope(&selector("NotIn"), &best_effort));
    }

    #[test]
    fn totals_mask_what_the_quota_limits() {
        let spec = json!({"hard": {"pods": "5", "requests.cpu": "1", "configmaps": "3"}});
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "200m"}}}]}});
        let total = PODS.total(&spec, [&pod, &pod].into_iter(), Timestamp::now());
        assert_eq!(shown(&total), ["pods=2", "requests.cpu=400m"]);
        assert_eq!(shown(&PODS.total(&spec, std::iter::empty(), Timestamp::now())), ["pods=0", "requests.cpu=0"]);
    }

    #[test]
    fn containers_must_say_what_a_quota_charges() {
        let pod = json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}], "initContainers": [{"name": "i",
            "resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(
            PODS.constraints(["cpu", "limits.cpu", "pods"].into_iter(), &pod).unwrap(),
            "must specify cpu for: a,b; limits.cpu for: a,b,i"
        );
    }
}
