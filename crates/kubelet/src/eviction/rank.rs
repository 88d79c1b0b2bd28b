//! Which pod leaves first when something is short.
// upstream: pkg/kubelet/eviction, rankMemoryPressure and rankDiskPressureFunc
use crate::pods::PodExt;
use crate::resources::aggregate;
use k8s_openapi::api::core::v1::Pod;
use std::cmp::Reverse;
use std::sync::Arc;

/// What a pod uses of what is short, in bytes.
pub struct Usage<'a> {
    /// The pod.
    pub pod: &'a Arc<Pod>,
    used: i64,
    requested: i64,
}

impl<'a> Usage<'a> {
    /// `pod` uses `used` bytes of `resource`.
    pub fn new(pod: &'a Arc<Pod>, resource: &str, used: i64) -> Self {
        let requested = aggregate::requests(pod).get(resource).map_or(0, |amount| amount.value());
        Usage { pod, used, requested }
    }

    fn priority(&self) -> i32 {
        self.pod.pod_spec().and_then(|spec| spec.priority).unwrap_or(0)
    }
}

/// Puts those first that use more than they requested, then those of low priority, then those furthest over their request.
pub fn sort(usages: &mut [Usage<'_>]) {
    usages.sort_by_key(|usage| {
        (usage.used <= usage.requested, usage.priority(), Reverse(usage.used.saturating_sub(usage.requested)))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_greedy_leave_before_the_modest_and_the_unimportant_before_the_important() {
        let pod = |name: &str, priority: i32, request: &str| -> Arc<Pod> {
            let container = json!({"name": "c", "resources": {"requests": {"memory": request}}});
            let spec = json!({"priority": priority, "containers": [container]});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
        };
        let pods = [pod("modest", 0, "100"), pod("greedy", 0, "10"), pod("greedier", 0, "0"), pod("important", 9, "0")];
        let mut usages: Vec<Usage<'_>> = pods.iter().map(|pod| Usage::new(pod, "memory", 50)).collect();
        sort(&mut usages);
        let order: Vec<&str> = usages.iter().map(|usage| usage.pod.name()).collect();
        assert_eq!(order, ["greedier", "greedy", "important", "modest"]);
    }
}
