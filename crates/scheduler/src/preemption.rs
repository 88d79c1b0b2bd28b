//! Makes room for a pod by removing pods of lower priority, as few and as unimportant as possible.
use crate::algorithm::{Failure, fits, histogram};
use crate::cache::NodeInfo;
use crate::framework::Rejection;
use crate::plugins::{Cycle, State, pod_added, pod_removed};
use crate::pod_info::PodInfo;
use crate::selector::Selector;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A node that would do if some of its pods left.
#[derive(Debug)]
pub struct Candidate {
    /// The node.
    pub node: String,
    /// The pods that have to leave, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget would rather keep.
    violations: usize,
}

/// Why nothing was preempted.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    /// Upstream's words.
    pub message: String,
    /// The pod may stop waiting for the node it was promised.
    pub ends_nomination: bool,
}

/// The best candidate, or what upstream says when there is none (upstream: `Evaluator.Preempt`).
pub fn find(cycle: &Cycle<'_>, failure: &Failure) -> Result<Candidate, Refusal> {
    let refuse = |message: &str| Refusal { message: message.into(), ends_nomination: false };
    let policy = cycle.pod.spec().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Err(refuse("not eligible due to preemptionPolicy=Never."));
    }
    if let Some(node) = cycle.pod.nominated_node().and_then(|name| cycle.cache.node(name)) {
        let rejection = failure.error.rejections.iter().find(|(slot, _)| *slot == node.slot);
        let hopeless = failure.error.pod_level.is_some() || rejection.is_none_or(|(_, no)| !no.resolvable);
        if !hopeless && node.pods.iter().any(|pod| pod.priority() < cycle.pod.priority() && is_preempted(pod)) {
            return Err(refuse("not eligible due to a terminating pod on the nominated node."));
        }
    }
    let potential: Vec<usize> =
        failure.error.rejections.iter().filter(|(_, no)| no.resolvable).map(|(slot, _)| *slot).collect();
    let (candidates, rejections) = match &failure.state {
        Some(state) if failure.error.pod_level.is_none() => try_nodes(cycle, state, &potential),
        _ => (Vec::new(), Vec::new()),
    };
    let nodes = failure.error.nodes;
    candidates.into_iter().min_by_key(cost).ok_or_else(|| {
        let others = ("Preemption is not helpful for scheduling", nodes - rejections.len());
        let reasons = rejections.iter().flat_map(|rejection| rejection.reasons.iter()).map(|reason| (reason, 1));
        let summary = histogram(reasons.chain([others])).map(|summary| format!(" {summary}.")).unwrap_or_default();
        Refusal { message: format!("0/{nodes} nodes are available:{summary}"), ends_nomination: true }
    })
}

/// Tries nodes from a random one on until there are enough candidates, one without violations among them (upstream:
/// `DryRunPreemption`).
fn try_nodes(cycle: &Cycle<'_>, state: &State, potential: &[usize]) -> (Vec<Candidate>, Vec<Rejection>) {
    let (mut candidates, mut rejections) = (Vec::new(), Vec::new());
    let (share, number) = cycle.profile.preemption_candidates;
    let all = i64::try_from(potential.len()).unwrap_or(i64::MAX);
    let wanted = usize::try_from((all.saturating_mul(share) / 100).max(number)).unwrap_or(usize::MAX);
    let mut budgets = Budgets { cycle, known: HashMap::new() };
    let from = fastrand::usize(..potential.len().max(1));
    for slot in potential.iter().cycle().skip(from).take(potential.len()) {
        match victims(cycle, state, cycle.cache.slot(*slot), &mut budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(rejection) => rejections.push(rejection),
        }
        let spotless = candidates.iter().any(|candidate| candidate.violations == 0);
        if spotless && candidates.len() >= wanted {
            break;
        }
    }
    (candidates, rejections)
}

/// Whether the scheduler has told the pod to leave.
fn is_preempted(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let disrupted = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget");
    pod.is_leaving()
        && disrupted.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"))
}

fn started(pod: &PodInfo) -> Option<&Time> {
    pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref())
}

/// The most important first: high priority, then an early start; one that has not started comes last.
fn importance(pod: &Arc<PodInfo>) -> (Reverse<i32>, bool, Option<Time>) {
    (Reverse(pod.priority()), started(pod).is_none(), started(pod).cloned())
}

/// The fewest pods of lower priority whose leaving makes room on `node`; the most important ones stay if they can (upstream:
/// `SelectVictimsOnNode`).
fn victims(
    cycle: &Cycle<'_>,
    state: &State,
    node: &NodeInfo,
    budgets: &mut Budgets<'_, '_>,
) -> Result<Candidate, Rejection> {
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|pod| pod.priority() < cycle.pod.priority()).cloned().collect();
    if lower.is_empty() {
        let plugin = crate::framework::Plugin::DefaultPreemption;
        return Err(Rejection::final_(plugin, "No preemption victims found for incoming pod"));
    }
    let (mut without, mut state) = (node.clone(), state.clone());
    for pod in &lower {
        without.remove(pod.uid());
        pod_removed(cycle, &mut state, node, pod);
    }
    fits(cycle, &state, &without)?;
    lower.sort_by_cached_key(importance);
    let (protected, others) = budgets.protected(lower);
    let mut candidate = Candidate { node: node.name().to_owned(), victims: Vec::new(), violations: 0 };
    for (pod, is_protected) in
        protected.into_iter().map(|pod| (pod, true)).chain(others.into_iter().map(|p| (p, false)))
    {
        without.add(pod.clone());
        pod_added(cycle, &mut state, node, &pod);
        if fits(cycle, &state, &without).is_err() {
            without.remove(pod.uid());
            pod_removed(cycle, &mut state, node, &pod);
            candidate.violations += usize::from(is_protected);
            candidate.victims.push(pod);
        }
    }
    candidate.victims.sort_by_cached_key(importance);
    Ok(candidate)
}

/// Budget, its selector, how many more of its pods may go.
type Budget = (Arc<PodDisruptionBudget>, Selector, i32);

struct Budgets<'a, 'b> {
    cycle: &'a Cycle<'b>,
    known: HashMap<String, Vec<Budget>>,
}

impl Budgets<'_, '_> {
    /// Those of `pods` whose leaving would break a budget, and the others; both in their order (upstream:
    /// `filterPodsWithPDBViolation`).
    fn protected(&mut self, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
        let mut taken: HashMap<String, i32> = HashMap::new();
        pods.into_iter().partition(|pod| {
            let budgets = self.known.entry(pod.namespace().to_owned()).or_insert_with(|| {
                let all = self.cycle.objects.budgets(pod.namespace());
                all.into_iter().filter_map(budget).collect()
            });
            let mut broken = false;
            for (budget, selector, allowed) in budgets {
                let status = budget.status.as_ref();
                let gone = status.and_then(|status| status.disrupted_pods.as_ref());
                if pod.labels().is_none_or(BTreeMap::is_empty)
                    || !selector.matches(pod.labels())
                    || gone.is_some_and(|gone| gone.contains_key(pod.name()))
                {
                    continue;
                }
                let key = format!("{}/{}", pod.namespace(), budget.metadata.name.as_deref().unwrap_or_default());
                let taken = taken.entry(key).or_insert(0);
                *taken += 1;
                broken |= *taken > *allowed;
            }
            broken
        })
    }
}

/// A budget without a selector, or with an empty one, is about no pod.
fn budget(budget: Arc<PodDisruptionBudget>) -> Option<Budget> {
    let selector = Selector::new(budget.spec.as_ref()?.selector.as_ref()?);
    let allowed = budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0);
    (!selector.is_empty()).then_some((budget, selector, allowed))
}

/// The smaller, the better.
type Cost = (usize, i32, i64, usize, Reverse<(bool, Option<Time>)>);

/// Upstream's order (`pickOneNodeForPreemption`): the fewest violations, the lowest highest priority, the lowest sum of
/// priorities, the fewest victims, the latest start of the most important victims.
fn cost(candidate: &Candidate) -> Cost {
    let victims = &candidate.victims;
    let highest = victims.iter().map(|pod| pod.priority()).max().unwrap_or(i32::MIN);
    let sum = victims.iter().map(|pod| i64::from(pod.priority()) - i64::from(i32::MIN)).sum();
    let most_important = victims.iter().filter(|pod| pod.priority() == highest);
    let earliest = most_important.filter_map(|pod| started(pod)).min().cloned();
    // One that has not started counts as starting now.
    (candidate.violations, highest, sum, victims.len(), Reverse((earliest.is_none(), earliest)))
}
