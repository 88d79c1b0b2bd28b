//! The HorizontalPodAutoscaler controller: scales a workload by its metrics, every 15 seconds. What a metric asks for is
//! decided in [`calculate`], how fast that may be done in [`behavior`]. (upstream: pkg/controller/podautoscaler)
mod behavior;
mod calculate;
mod evaluate;
mod metrics;

use crate::Context;
use crate::claim::{name, namespace};
use crate::error::{Error, is_conflict, message, unless_not_found};
use crate::scale::{NoScale, Scales, Target};
use behavior::History;
use calculate::Tolerance;
use evaluate::Evaluator;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, PostParams};
use metrics::Metrics;
use parking_lot::Mutex;
use pintle_api::selector::LabelSelector;
use pintle_client::informer::{Change, Informer, ObjectKey, key_of};
use pintle_client::recorder::EventType::{Normal, Warning};
use pintle_client::{Recorder, WorkQueue};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 5;
/// How often each autoscaler looks (upstream: `--horizontal-pod-autoscaler-sync-period`).
const PERIOD: Duration = Duration::from_secs(15);
/// How often a scale that someone else changed is written again.
const ATTEMPTS: usize = 5;

struct Controller {
    client: Client,
    recorder: Recorder,
    scales: Scales,
    metrics: Metrics,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    histories: Mutex<HashMap<ObjectKey, History>>,
    /// Which pods each autoscaler scales.
    selectors: Mutex<HashMap<ObjectKey, LabelSelector>>,
}

/// Runs the controller until the context stops.
pub(crate) async fn run(cx: Context) {
    let client = cx.clients.controller("horizontal-pod-autoscaler");
    let controller = Arc::new(Controller {
        recorder: Recorder::core(client.clone(), "horizontal-pod-autoscaler", ""),
        scales: Scales::new(client.clone()),
        metrics: Metrics::new(client.clone()),
        client,
        autoscalers: cx.informers.of(),
        pods: cx.informers.of(),
        histories: Mutex::default(),
        selectors: Mutex::default(),
    });
    let queue = WorkQueue::<ObjectKey>::new();
    let (added, watching) = (queue.clone(), controller.clone());
    controller.autoscalers.on_change(move |change| {
        let key = key_of(change.object().as_ref());
        match change {
            Change::Added(_) | Change::Updated(..) => added.add_after(key, PERIOD),
            Change::Deleted(_) => {
                watching.histories.lock().remove(&key);
                watching.selectors.lock().remove(&key);
            }
        }
    });
    tokio::join!(controller.autoscalers.synced(), controller.pods.synced());
    queue
        .run("horizontal-pod-autoscaler", WORKERS, cx.stop, move |key| {
            let controller = controller.clone();
            async move {
                let Some(autoscaler) = controller.autoscalers.get(&key.0, &key.1) else { return Ok::<_, Error>(None) };
                if let Err(error) = controller.sync(&autoscaler).await {
                    tracing::debug!(autoscaler = ?key, %error, "not scaled, will look again");
                }
                Ok(Some(PERIOD))
            }
        })
        .await;
}

/// Writes a condition; its time changes with its status.
fn set(status: &mut HorizontalPodAutoscalerStatus, kind: &str, is: bool, reason: &str, message: impl Into<String>) {
    let conditions = status.conditions.get_or_insert_default();
    let is = if is { "True" } else { "False" };
    let at = conditions.iter().position(|condition| condition.type_ == kind).unwrap_or_else(|| {
        conditions.push(HorizontalPodAutoscalerCondition { type_: kind.to_owned(), ..Default::default() });
        conditions.len() - 1
    });
    let condition = &mut conditions[at];
    if condition.status != is {
        condition.last_transition_time = Some(Time(Timestamp::now()));
        is.clone_into(&mut condition.status);
    }
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.into());
}

/// What the metrics together ask for.
struct Wanted {
    replicas: i32,
    metric: String,
    statuses: Vec<MetricStatus>,
    /// Some metrics could not be read.
    problem: Option<String>,
}

impl Controller {
    async fn sync(&self, autoscaler: &HorizontalPodAutoscaler) -> Result<(), Error> {
        let (spec, key) = (&autoscaler.spec, key_of(autoscaler));
        let mut status = autoscaler.status.clone().unwrap_or_default();
        status.observed_generation = None;
        let of = &spec.scale_target_ref;
        let target = Target {
            api_version: of.api_version.clone().unwrap_or_default(),
            kind: of.kind.clone(),
            name: of.name.clone(),
        };
        let (resource, mut scale) = match self.scales.get(namespace(autoscaler), &target).await {
            Ok(found) => found,
            Err(error) => {
                self.recorder.event(autoscaler, Warning, "FailedGetScale", error.to_string());
                let text = format!("the HPA controller was unable to get the target's current scale: {error}");
                set(&mut status, "AbleToScale", false, "FailedGetScale", text);
                self.write(autoscaler, status).await?;
                return Err(match error {
                    NoScale::Failed(error) => error,
                    other => Error::Unfinished(other.to_string()),
                });
            }
        };
        let text = "the HPA controller was able to get the target's current scale";
        set(&mut status, "AbleToScale", true, "SucceededGetScale", text);
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        self.histories.lock().entry(key.clone()).or_default().begin(current, Timestamp::now());
        let min = spec.min_replicas.unwrap_or(1);
        let (mut desired, mut reason, mut statuses, mut problem) = (current, String::new(), Vec::new(), None);
        if current == 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            set(&mut status, "ScalingActive", false, "ScalingDisabled", text);
        } else if current > spec.max_replicas {
            desired = spec.max_replicas;
            "Current number of replicas above Spec.MaxReplicas".clone_into(&mut reason);
        } else if current < min {
            desired = min;
            "Current number of replicas below Spec.MinReplicas".clone_into(&mut reason);
        } else {
            let wanted = match self.ask(autoscaler, &scale, &mut status).await {
                Ok(wanted) => wanted,
                Err((found, why)) => {
                    status.current_replicas = Some(current);
                    status.current_metrics = found;
                    self.write(autoscaler, status).await?;
                    self.recorder.event(autoscaler, Warning, "FailedComputeMetricsReplicas", why.clone());
                    return Err(Error::Unfinished(why));
                }
            };
            reason = match wanted.replicas.cmp(&current) {
                std::cmp::Ordering::Greater => format!("{} above target", wanted.metric),
                std::cmp::Ordering::Less => "All metrics below target".to_owned(),
                std::cmp::Ordering::Equal => reason,
            };
            let mut histories = self.histories.lock();
            let history = histories.entry(key.clone()).or_default();
            let done = history.normalize(spec, current, wanted.replicas, min, Timestamp::now());
            set(&mut status, "AbleToScale", true, done.able.0, done.able.1);
            set(&mut status, "ScalingLimited", done.limited.0, done.limited.1, done.limited.2);
            desired = done.replicas;
            (statuses, problem) = (wanted.statuses, wanted.problem);
        }
        status.current_replicas = Some(current);
        status.current_metrics = Some(statuses).filter(|statuses| !statuses.is_empty());
        if desired != current {
            if let Err(error) = self.rescale(autoscaler, &resource, &mut scale, desired).await {
                let why = message(&error);
                let text = format!("New size: {desired}; reason: {reason}; error: {why}");
                self.recorder.event(autoscaler, Warning, "FailedRescale", text);
                let text = format!("the HPA controller was unable to update the target scale: {why}");
                set(&mut status, "AbleToScale", false, "FailedUpdateScale", text);
                self.write(autoscaler, status).await?;
                return Err(error.into());
            }
            let text = format!("the HPA controller was able to update the target scale to {desired}");
            set(&mut status, "AbleToScale", true, "SucceededRescale", text);
            let text = format!("New size: {desired}; reason: {reason}");
            self.recorder.event(autoscaler, Normal, "SuccessfulRescale", text);
            if let Some(history) = self.histories.lock().get_mut(&key) {
                history.scaled(current, desired, Timestamp::now());
            }
            status.last_scale_time = Some(Time(Timestamp::now()));
        }
        status.desired_replicas = desired;
        self.write(autoscaler, status).await?;
        problem.map_or(Ok(()), |problem| Err(Error::Unfinished(problem)))
    }

    /// What the metrics ask for; on failure their statuses and why.
    async fn ask(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        scale: &Scale,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Result<Wanted, (Option<Vec<MetricStatus>>, String)> {
        let wanted = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let text = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
        let pods = self.select(autoscaler, &text, status).map_err(|why| (None, why))?;
        let evaluator = Evaluator {
            metrics: &self.metrics,
            scales: &self.scales,
            namespace: namespace(autoscaler),
            selector: &text,
            pods: &pods,
            wanted,
            present: scale.status.as_ref().map_or(0, |status| status.replicas),
            tolerance: Tolerance::of(autoscaler.spec.behavior.as_ref()),
            now: Timestamp::now(),
        };
        let specs = autoscaler.spec.metrics.clone().unwrap_or_default();
        let mut statuses = vec![MetricStatus::default(); specs.len()];
        let (mut most, mut metric, mut refusals) = (0, String::new(), Vec::new());
        for (spec, status) in specs.iter().zip(&mut statuses) {
            match evaluator.metric(spec).await {
                Ok(answer) => {
                    *status = answer.status;
                    if most == 0 || answer.replicas > most {
                        (most, metric) = (answer.replicas, answer.name);
                    }
                }
                Err(refusal) => {
                    self.recorder.event(autoscaler, Warning, refusal.reason, refusal.why.clone());
                    refusals.push(refusal);
                }
            }
        }
        let problem = refusals.first().map(|first| {
            let (bad, all) = (refusals.len(), specs.len());
            format!("invalid metrics ({bad} invalid out of {all}), first error is: {}", first.told)
        });
        // A metric that cannot be read might have asked for more: no scaling down without it.
        if let (Some(first), Some(problem)) = (refusals.first(), &problem)
            && (refusals.len() >= specs.len() || most < wanted)
        {
            let text = format!("the HPA was unable to compute the replica count: {}", first.why);
            set(status, "ScalingActive", false, first.reason, text);
            return Err((Some(statuses), problem.clone()));
        }
        let text = format!("the HPA was able to successfully calculate a replica count from {metric}");
        set(status, "ScalingActive", true, "ValidMetricFound", text);
        Ok(Wanted { replicas: most, metric, statuses, problem })
    }

    /// The pods that `text` selects, if no other autoscaler has any of them.
    // upstream: validateAndParseSelector
    fn select(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        text: &str,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Result<Vec<Arc<Pod>>, String> {
        if text.is_empty() {
            let why = "selector is required";
            self.recorder.event(autoscaler, Warning, "SelectorRequired", why);
            let text = "the HPA target's scale is missing a selector";
            set(status, "ScalingActive", false, "InvalidSelector", text);
            return Err(why.to_owned());
        }
        let selector = LabelSelector::parse(text).map_err(|error| {
            let why = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            self.recorder.event(autoscaler, Warning, "InvalidSelector", why.clone());
            set(status, "ScalingActive", false, "InvalidSelector", why.clone());
            why
        })?;
        let selects = |selector: &LabelSelector, pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            selector.matches_with(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
        };
        let mut pods = self.pods.list_namespace(namespace(autoscaler));
        pods.retain(|pod| selects(&selector, pod));
        let mut selectors = self.selectors.lock();
        selectors.insert(key_of(autoscaler), selector);
        let mut rivals: Vec<String> = selectors
            .iter()
            .filter(|(key, other)| key.0 == namespace(autoscaler) && pods.iter().any(|pod| selects(other, pod)))
            .map(|(key, _)| format!("{{{} {}}}", key.1, key.0))
            .collect();
        drop(selectors);
        if rivals.len() > 1 {
            rivals.sort();
            let why = format!("pods by selector {text} are controlled by multiple HPAs: [{}]", rivals.join(" "));
            self.recorder.event(autoscaler, Warning, "AmbiguousSelector", why.clone());
            set(status, "ScalingActive", false, "AmbiguousSelector", why.clone());
            return Err(why);
        }
        Ok(pods)
    }

    async fn rescale(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        resource: &crate::discovery::Resource,
        scale: &mut Scale,
        desired: i32,
    ) -> kube::Result<()> {
        let of = &autoscaler.spec.scale_target_ref;
        let mut attempt = 1;
        loop {
            scale.spec.get_or_insert_default().replicas = Some(desired);
            match self.scales.set(namespace(autoscaler), resource, &of.name, scale).await {
                Err(error) if is_conflict(&error) && attempt < ATTEMPTS => {
                    let target = Target {
                        api_version: of.api_version.clone().unwrap_or_default(),
                        kind: of.kind.clone(),
                        name: of.name.clone(),
                    };
                    if let Ok((_, newer)) = self.scales.get(namespace(autoscaler), &target).await {
                        *scale = newer;
                    }
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn write(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        status: HorizontalPodAutoscalerStatus,
    ) -> Result<(), Error> {
        if autoscaler.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), namespace(autoscaler));
        let updated = HorizontalPodAutoscaler { status: Some(status), ..autoscaler.clone() };
        let result = api.replace_status(name(autoscaler), &PostParams::default(), &updated).await;
        if let Err(error) = &result {
            self.recorder.event(autoscaler, Warning, "FailedUpdateStatus", message(error));
        }
        unless_not_found(result).map(drop)
    }
}
