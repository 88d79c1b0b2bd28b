//! What a Job's policies say: about a failed pod ([`judge`]) and about enough succeeded indexes ([`success`]).
//! (upstream: pkg/controller/job, pod_failure_policy.go and success_policy.go)
use super::indexes::Indexes;
use crate::claim::{name, namespace};
use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// What becomes of a failed pod.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the limit.
    Count,
    /// It is not counted.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The whole Job has failed, for this reason.
    FailJob(String),
}

/// Asks the first rule of `policy` that matches the failed `pod`.
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    for (number, rule) in policy.iter().flat_map(|policy| &policy.rules).enumerate() {
        let Some(why) = matching(rule, pod) else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "Count" => return Verdict::Count,
            "FailJob" => {
                return Verdict::FailJob(format!("{why} matching {} rule at index {number}", rule.action));
            }
            _ => {}
        }
    }
    Verdict::Count
}

/// Why `rule` matches, if it does.
fn matching(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let (of, named) = (namespace(pod), name(pod));
    if let Some(wanted) = &rule.on_exit_codes {
        let ended = |statuses: &Option<Vec<ContainerStatus>>| {
            statuses.iter().flatten().find_map(|status| Some((status.name.clone(), exit_code(status, wanted)?)))
        };
        let (container, code) = ended(&status.container_statuses).or_else(|| ended(&status.init_container_statuses))?;
        return Some(format!("Container {container} for pod {of}/{named} failed with exit code {code}"));
    }
    let patterns = rule.on_pod_conditions.as_ref()?;
    let found = status.conditions.iter().flatten().find(|condition| {
        patterns.iter().any(|pattern| {
            let wanted = pattern.status.as_deref().unwrap_or("True");
            condition.type_ == pattern.type_ && condition.status == wanted
        })
    })?;
    Some(format!("Pod {of}/{named} has condition {}", found.type_))
}

/// The exit code of a container that failed with one of the codes meant.
fn exit_code(status: &ContainerStatus, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<i32> {
    let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
    let named = wanted.container_name.as_ref().is_none_or(|name| *name == status.name);
    let listed = wanted.values.contains(&code);
    let meant = match wanted.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (named && code != 0 && meant).then_some(code)
}

/// Which rule of `policy` the `succeeded` indexes satisfy, in upstream's words.
pub fn success(policy: Option<&SuccessPolicy>, succeeded: &Indexes, completions: usize) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let enough =
        |count: usize, wanted: Option<i32>| wanted.is_some_and(|wanted| count >= usize::try_from(wanted).unwrap_or(0));
    policy?.rules.iter().enumerate().find_map(|(number, rule)| {
        let met = match &rule.succeeded_indexes {
            Some(text) => {
                let required = Indexes::parse(text, completions);
                let held = succeeded.count_of(&required);
                !required.is_empty() && (held == required.len() || enough(held, rule.succeeded_count))
            }
            None => enough(succeeded.len(), rule.succeeded_count),
        };
        met.then(|| format!("Matched rules at index {number}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn verdict(rules: Value, status: Value) -> Verdict {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "status": status});
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
        judge(Some(&policy), &serde_json::from_value(pod).unwrap())
    }

    fn ended(code: i32) -> Value {
        json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code}}}]})
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let rules = json!([
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2], "containerName": "c"}},
        ]);
        assert_eq!(
            verdict(rules.clone(), ended(42)),
            Verdict::FailJob(
                "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 1".to_owned()
            )
        );
        assert_eq!(verdict(rules.clone(), ended(7)), Verdict::FailIndex);
        assert_eq!(verdict(rules.clone(), ended(1)), Verdict::Count);
        assert_eq!(verdict(rules.clone(), ended(0)), Verdict::Count, "0 is no failure");
        let disrupted = json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]});
        assert_eq!(verdict(rules, disrupted.clone()), Verdict::Ignore);
        let rules = json!([{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
        let text = "Pod ns/p has condition DisruptionTarget matching FailJob rule at index 0";
        assert_eq!(verdict(rules, disrupted), Verdict::FailJob(text.to_owned()));
    }

    #[test]
    fn a_rule_wants_indexes_a_number_or_a_number_of_indexes() {
        let met = |rules: Value, done: &str| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            success(Some(&policy), &Indexes::parse(done, 10), 10)
        };
        let both = json!([{"succeededIndexes": "0,2-4"}, {"succeededIndexes": "5-9", "succeededCount": 2}]);
        assert_eq!(met(both.clone(), "0,2-3"), None);
        assert_eq!(met(both.clone(), "0-4").as_deref(), Some("Matched rules at index 0"));
        assert_eq!(met(both, "5,9").as_deref(), Some("Matched rules at index 1"));
        assert_eq!(met(json!([{"succeededCount": 2}]), "3,7").as_deref(), Some("Matched rules at index 0"));
        assert_eq!(met(json!([{"succeededCount": 0}]), ""), None);
    }
}
