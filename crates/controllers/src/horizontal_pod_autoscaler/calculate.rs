//! How many replicas a metric asks for: pure functions of samples, pods and a target.
//! (upstream: pkg/controller/podautoscaler, replica_calculator.go)
use crate::claim::name;
use crate::pods;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use pintle_api::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Usage may be this far off its target without consequence (upstream: `--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;
/// So long after its start a pod's CPU samples count only while it is ready.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_secs(300);
/// A pod that stopped being ready within this time of its start has never been ready.
const INITIAL_READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// What one pod used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The end of the time that it is about.
    pub at: Timestamp,
    /// The length of that time.
    pub window: SignedDuration,
    /// Thousandths of the metric's unit.
    pub value: i64,
}

/// Samples by the pod's name.
pub type Samples = BTreeMap<String, Sample>;

/// How far the usage may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    down: f64,
    up: f64,
}

impl Tolerance {
    /// What `behavior` says, else the usual.
    pub fn of(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> Self {
        let given = |text: Option<&str>| text.and_then(|text| Quantity::parse(text).ok()).map(Quantity::as_f64);
        let down = behavior.and_then(|behavior| behavior.scale_down.as_ref()?.tolerance.as_ref());
        let up = behavior.and_then(|behavior| behavior.scale_up.as_ref()?.tolerance.as_ref());
        Tolerance {
            down: given(down.map(|quantity| quantity.0.as_str())).unwrap_or(TOLERANCE),
            up: given(up.map(|quantity| quantity.0.as_str())).unwrap_or(TOLERANCE),
        }
    }

    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// How many replicas.
    pub replicas: i32,
    /// The usage that was found: an average per pod or a whole, in thousandths.
    pub usage: i64,
    /// The usage in per cent of the requests, if that is the target.
    pub utilization: Option<i32>,
}

/// What the pods' usage is measured against.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// Per cent of the requests, which are given by the pod's name.
    Utilization { percent: i32, requests: &'a BTreeMap<String, i64> },
    /// Thousandths per pod.
    Average(i64),
}

#[allow(
    clippy::cast_precision_loss,
    reason = "usages far below 2^52 are exact, and above a ratio is all that is asked"
)]
fn float(number: i64) -> f64 {
    number as f64
}

#[allow(clippy::cast_possible_truncation, reason = "the conversion saturates, which is what is wanted")]
fn up(number: f64) -> i32 {
    number.ceil() as i32
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Target<'_> {
    /// (ratio of usage to target, per cent of the requests, average usage)
    fn ratio(self, samples: &Samples) -> Result<(f64, Option<i32>, i64), String> {
        match self {
            Target::Average(wanted) => {
                let total: i64 = samples.values().map(|sample| sample.value).sum();
                let average = total / count(samples.len()).max(1);
                Ok((float(average) / float(wanted), None, average))
            }
            Target::Utilization { percent, requests } => {
                let known = samples.iter().filter_map(|(pod, sample)| Some((sample.value, *requests.get(pod)?)));
                let (mut used, mut requested, mut entries) = (0, 0, 0);
                for (usage, request) in known {
                    used += usage;
                    requested += request;
                    entries += 1;
                }
                if requested == 0 {
                    return Err("no metrics returned matched known pods".to_owned());
                }
                let now = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
                Ok((f64::from(now) / f64::from(percent), Some(now), used / entries))
            }
        }
    }

    /// What a pod without samples is taken to use when the others use less than they should.
    fn assumed(self, pod: &str) -> i64 {
        match self {
            Target::Average(wanted) => wanted,
            Target::Utilization { percent, requests } => {
                requests.get(pod).copied().unwrap_or(0) * i64::from(percent.max(100)) / 100
            }
        }
    }
}

/// The pods of a workload by what their samples are worth.
#[derive(Debug, Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(all: &[Arc<Pod>], samples: &Samples, is_cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in all {
        let named = name(pod.as_ref()).to_owned();
        if pods::is_deleting(pod) || pods::phase(pod) == "Failed" {
            groups.ignored.insert(named);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.insert(named);
        } else {
            match samples.get(&named) {
                None => {
                    groups.missing.insert(named);
                }
                Some(sample) if is_cpu && !counts_for_cpu(pod, sample, now) => {
                    groups.unready.insert(named);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// False for samples of a pod that is not ready or only just: starting costs more than serving.
fn counts_for_cpu(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let start = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let (Some(ready), Some(start)) = (pods::condition(pod, "Ready"), start) else { return false };
    let since = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    if start + CPU_INITIALIZATION > now {
        ready.status != "False" && sample.at >= since + sample.window
    } else {
        ready.status != "False" || start + INITIAL_READINESS_DELAY <= since
    }
}

/// What the usage of the pods asks for.
pub fn by_pods(
    mut samples: Samples,
    all: &[Arc<Pod>],
    is_cpu: bool,
    target: Target<'_>,
    (current, tolerance): (i32, Tolerance),
    now: Timestamp,
) -> Result<Proposal, String> {
    let groups = group(all, &samples, is_cpu, now);
    samples.retain(|pod, _| !groups.ignored.contains(pod) && !groups.unready.contains(pod));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let (ratio, utilization, usage) = target.ratio(&samples)?;
    let proposal = |replicas| Ok(Proposal { replicas, usage, utilization });
    let with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        let ready = float(count(groups.ready));
        return proposal(if tolerance.covers(ratio) { current } else { up(ratio * ready) });
    }
    let sample = |value| Sample { at: now, window: SignedDuration::ZERO, value };
    for pod in &groups.missing {
        if ratio < 1.0 {
            samples.insert(pod.clone(), sample(target.assumed(pod)));
        } else if ratio > 1.0 {
            samples.insert(pod.clone(), sample(0));
        }
    }
    if with_unready {
        samples.extend(groups.unready.into_iter().map(|pod| (pod, sample(0))));
    }
    let (careful, _, _) = target.ratio(&samples)?;
    if tolerance.covers(careful) || (ratio < 1.0 && careful > 1.0) || (ratio > 1.0 && careful < 1.0) {
        return proposal(current);
    }
    let replicas = up(careful * float(count(samples.len())));
    let turns = (careful < 1.0 && replicas > current) || (careful > 1.0 && replicas < current);
    proposal(if turns { current } else { replicas })
}

/// What a usage of the whole workload asks for, whose target is `wanted`.
pub fn by_whole(
    usage: i64,
    wanted: i64,
    all: &[Arc<Pod>],
    current: i32,
    tolerance: Tolerance,
) -> Result<Proposal, String> {
    let ratio = float(usage) / float(wanted);
    let replicas = if current == 0 {
        up(ratio)
    } else if tolerance.covers(ratio) {
        current
    } else if all.is_empty() {
        return Err(
            "unable to calculate ready pods: no pods returned by selector while calculating replica count".to_owned()
        );
    } else {
        let ready = all.iter().filter(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod)).count();
        up(ratio * float(count(ready)))
    };
    Ok(Proposal { replicas, usage, utilization: None })
}

/// What a usage of the whole workload asks for, of which each of its `current` replicas is to bear `wanted`.
pub fn by_share(usage: i64, wanted: i64, current: i32, tolerance: Tolerance) -> Proposal {
    let ratio = float(usage) / (float(wanted) * f64::from(current));
    let replicas = if tolerance.covers(ratio) { current } else { up(float(usage) / float(wanted)) };
    let share = if current > 0 {
        usage.saturating_add(i64::from(current) - 1).div_euclid(i64::from(current))
    } else {
        i64::MAX
    };
    Proposal { replicas, usage: share, utilization: None }
}

/// What each pod requests of `resource` in thousandths, of one container or all.
pub fn requests(all: &[Arc<Pod>], container: &str, resource: &str) -> Result<BTreeMap<String, i64>, String> {
    let read = |resources: Option<&ResourceRequirements>| -> Option<i64> {
        let amount = resources?.requests.as_ref()?.get(resource)?;
        Quantity::parse(&amount.0).ok().map(Quantity::milli_value)
    };
    let of_pod = |pod: &Pod| -> Result<i64, String> {
        let Some(spec) = &pod.spec else { return Ok(0) };
        let named = name(pod);
        let whole = spec.resources.as_ref();
        if container.is_empty() && whole.is_some_and(|all| all.requests.as_ref().is_some_and(|all| !all.is_empty())) {
            let missing = || format!("missing pod-level request for {resource} in Pod {named}");
            let sum = || {
                let each: Option<Vec<i64>> =
                    spec.containers.iter().map(|container| read(container.resources.as_ref())).collect();
                each.map(|each| each.iter().sum())
            };
            return read(whole).or_else(sum).ok_or_else(missing);
        }
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always"));
        let mut total = 0;
        for each in spec.containers.iter().chain(sidecars) {
            if !container.is_empty() && each.name != container {
                continue;
            }
            total += read(each.resources.as_ref())
                .ok_or_else(|| format!("missing request for {resource} in container {} of Pod {named}", each.name))?;
            if each.name == container {
                return Ok(total);
            }
        }
        if container.is_empty() { Ok(total) } else { Err(format!("container {container} not found in Pod {named}")) }
    };
    all.iter().map(|pod| Ok((name(pod.as_ref()).to_owned(), of_pod(pod)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(named: &str, phase: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": named},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"phase": phase, "startTime": "1970-01-01T00:00:00Z", "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:00:10Z"}]}}))
            .unwrap(),
        )
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1000).unwrap()
    }

    fn samples(values: &[i64]) -> Samples {
        let sample = |value| Sample { at: now(), window: SignedDuration::from_secs(15), value };
        values.iter().enumerate().map(|(number, value)| (format!("p{number}"), sample(*value))).collect()
    }

    fn running(count: usize) -> Vec<Arc<Pod>> {
        (0..count).map(|number| pod(&format!("p{number}"), "Running", true)).collect()
    }

    fn utilization(values: &[i64], all: &[Arc<Pod>], percent: i32) -> Result<(i32, Option<i32>), String> {
        let requests = requests(all, "", "cpu").unwrap();
        let target = Target::Utilization { percent, requests: &requests };
        let current = i32::try_from(all.len()).unwrap();
        let proposal = by_pods(samples(values), all, true, target, (current, Tolerance::of(None)), now())?;
        Ok((proposal.replicas, proposal.utilization))
    }

    #[test]
    fn replicas_follow_the_ratio_of_usage_to_target() {
        assert_eq!(utilization(&[300, 500, 700], &running(3), 30), Ok((5, Some(50))));
        assert_eq!(utilization(&[100, 300, 500], &running(3), 50), Ok((2, Some(30))));
        assert_eq!(utilization(&[520, 480, 510], &running(3), 50), Ok((3, Some(50))), "within the tolerance");
    }

    #[test]
    fn pods_without_samples_count_against_the_direction() {
        assert_eq!(utilization(&[100, 100], &running(3), 50).unwrap().0, 3, "the third might use all it may");
        assert_eq!(utilization(&[900, 900], &running(3), 50).unwrap().0, 4, "the third might be idle");
    }

    #[test]
    fn pods_that_start_are_idle_in_growth_and_ignored_otherwise() {
        let mut pods = running(2);
        pods.push(pod("p2", "Pending", false));
        assert_eq!(utilization(&[900, 900], &pods, 50).unwrap().0, 4);
        assert_eq!(
            utilization(&[], &[pod("p0", "Pending", false)], 50).unwrap_err(),
            "did not receive metrics for targeted pods (pods might be unready)"
        );
    }

    #[test]
    fn averages_wholes_and_shares_have_targets_of_their_own() {
        let tolerance = Tolerance::of(None);
        let plain =
            by_pods(samples(&[20_000, 10_000]), &running(2), false, Target::Average(5_000), (2, tolerance), now());
        assert_eq!(plain.unwrap(), Proposal { replicas: 6, usage: 15_000, utilization: None });
        assert_eq!(by_whole(20_000, 10_000, &running(3), 3, tolerance).unwrap().replicas, 6);
        assert_eq!(by_whole(20_000, 10_000, &[], 0, tolerance).unwrap().replicas, 2);
        assert_eq!(by_share(10_000, 2_000, 3, tolerance), Proposal { replicas: 5, usage: 3334, utilization: None });
    }

    #[test]
    fn requests_are_needed_from_every_container() {
        let mut bare = pod("p0", "Running", true).as_ref().clone();
        bare.spec.as_mut().unwrap().containers[0].resources = None;
        let missing = requests(&[Arc::new(bare)], "", "cpu").unwrap_err();
        assert_eq!(missing, "missing request for cpu in container c of Pod p0");
        assert_eq!(requests(&running(1), "x", "cpu").unwrap_err(), "container x not found in Pod p0");
        assert_eq!(requests(&running(1), "c", "cpu").unwrap()["p0"], 1000);
    }
}
