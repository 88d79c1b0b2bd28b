//! Asks one metric of an autoscaler after another what it wants: [`Evaluator::metric`].
use super::calculate::{Proposal, Target, Tolerance, by_pods, by_share, by_whole, requests};
use super::metrics::Metrics;
use crate::scale::Scales;
use crate::selector;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource;
use pintle_api::quantity::Quantity;
use std::sync::Arc;

/// What one evaluation starts from.
pub struct Evaluator<'a> {
    pub metrics: &'a Metrics,
    pub scales: &'a Scales,
    pub namespace: &'a str,
    /// The scale's selector, as text.
    pub selector: &'a str,
    /// The pods that it selects.
    pub pods: &'a [Arc<Pod>],
    /// What the scale asks for.
    pub wanted: i32,
    /// What the scale has.
    pub present: i32,
    pub tolerance: Tolerance,
    pub now: Timestamp,
}

/// A metric's answer.
pub struct Answer {
    /// How many replicas it asks for.
    pub replicas: i32,
    /// Its name, for people.
    pub name: String,
    /// Its status.
    pub status: MetricStatus,
}

/// Why a metric has no answer: the event's reason, what the event says, what the autoscaler's error says.
pub struct Refusal {
    pub reason: &'static str,
    pub why: String,
    pub told: String,
}

/// Thousandths as text.
fn text(milli: i64, binary: bool) -> resource::Quantity {
    let whole = milli / 1000;
    if !binary || milli % 1000 != 0 || whole < 1024 {
        let plain = format!("{milli}m");
        return resource::Quantity(Quantity::parse(&plain).map_or(plain, |quantity| quantity.to_string()));
    }
    let (mut number, mut unit) = (whole, 0);
    while number % 1024 == 0 && unit < 6 {
        number /= 1024;
        unit += 1;
    }
    resource::Quantity(format!("{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][unit]))
}

fn milli(given: Option<&resource::Quantity>) -> Option<i64> {
    given.and_then(|given| Quantity::parse(&given.0).ok()).map(Quantity::milli_value)
}

fn whole(usage: i64) -> MetricValueStatus {
    MetricValueStatus { value: Some(text(usage, false)), ..MetricValueStatus::default() }
}

fn average(usage: i64) -> MetricValueStatus {
    MetricValueStatus { average_value: Some(text(usage, false)), ..MetricValueStatus::default() }
}

/// A metric with its selector as upstream prints it.
fn external_name(metric: &MetricIdentifier) -> String {
    let selector = metric.selector.as_ref().map_or_else(|| "nil".to_owned(), selector::go_text);
    format!("external metric {}({selector})", metric.name)
}

impl Evaluator<'_> {
    /// Asks `spec`.
    pub async fn metric(&self, spec: &MetricSpec) -> Result<Answer, Refusal> {
        let kind = spec.type_.clone();
        let status = MetricStatus { type_: kind.clone(), ..MetricStatus::default() };
        match kind.as_str() {
            "Resource" => {
                let Some(source) = &spec.resource else { return Err(unknown(&kind)) };
                let refusal = |why: String| Refusal {
                    reason: "FailedGetResourceMetric",
                    told: format!("failed to get {} resource metric value: {why}", source.name),
                    why,
                };
                let (replicas, name, current) =
                    self.resource(&source.name, "", &source.target).await.map_err(refusal)?;
                let resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
                Ok(Answer { replicas, name, status: MetricStatus { resource, ..status } })
            }
            "ContainerResource" => {
                let Some(source) = &spec.container_resource else { return Err(unknown(&kind)) };
                let refusal = |why: String| Refusal {
                    reason: "FailedGetContainerResourceMetric",
                    told: format!("failed to get {} container metric value: {why}", source.container),
                    why,
                };
                let (replicas, name, current) =
                    self.resource(&source.name, &source.container, &source.target).await.map_err(refusal)?;
                let container_resource = Some(ContainerResourceMetricStatus {
                    name: source.name.clone(),
                    container: source.container.clone(),
                    current,
                });
                Ok(Answer { replicas, name, status: MetricStatus { container_resource, ..status } })
            }
            "Pods" => {
                let Some(source) = &spec.pods else { return Err(unknown(&kind)) };
                let refusal = |why: String| Refusal {
                    reason: "FailedGetPodsMetric",
                    told: format!("failed to get pods metric value: {why}"),
                    why,
                };
                let found = self.pods(&source.metric, &source.target).await.map_err(refusal)?;
                let pods = Some(PodsMetricStatus { metric: source.metric.clone(), current: average(found.usage) });
                let name = format!("pods metric {}", source.metric.name);
                Ok(Answer { replicas: found.replicas, name, status: MetricStatus { pods, ..status } })
            }
            "Object" => {
                let Some(source) = &spec.object else { return Err(unknown(&kind)) };
                let object = &source.described_object;
                let asked = self.metrics.object(self.namespace, object, &source.metric, self.scales).await;
                let asked = asked.map_err(|why| {
                    let (of, named) = (&object.kind, &object.name);
                    format!("unable to get metric {}: {why} on {of} {}/{named}", source.metric.name, self.namespace)
                });
                let whole_name = format!("{} metric {}", object.kind, source.metric.name);
                let answer =
                    self.total(asked, &source.target, "object", || (whole_name, external_name(&source.metric)));
                let (replicas, name, current) = answer.map_err(|(why, told)| Refusal {
                    reason: "FailedGetObjectMetric",
                    told: format!("failed to get object metric value: {}", told.replace("{}", &source.metric.name)),
                    why,
                })?;
                let object = Some(ObjectMetricStatus {
                    described_object: object.clone(),
                    metric: source.metric.clone(),
                    current,
                });
                Ok(Answer { replicas, name, status: MetricStatus { object, ..status } })
            }
            "External" => {
                let Some(source) = &spec.external else { return Err(unknown(&kind)) };
                let asked = self.metrics.external(self.namespace, &source.metric).await.map_err(|why| {
                    let selector = source.metric.selector.as_ref().map_or_else(|| "nil".to_owned(), selector::go_text);
                    format!("unable to get external metric {}/{}/{selector}: {why}", self.namespace, source.metric.name)
                });
                let names = || (external_name(&source.metric), external_name(&source.metric));
                let (replicas, name, current) =
                    self.total(asked, &source.target, "external", names).map_err(|(why, told)| Refusal {
                        reason: "FailedGetExternalMetric",
                        told: format!(
                            "failed to get {} external metric value: {}",
                            source.metric.name,
                            told.replace("{}", &source.metric.name)
                        ),
                        why,
                    })?;
                let external = Some(ExternalMetricStatus { metric: source.metric.clone(), current });
                Ok(Answer { replicas, name, status: MetricStatus { external, ..status } })
            }
            _ => Err(unknown(&kind)),
        }
    }

    fn ask(&self, samples: super::calculate::Samples, is_cpu: bool, target: Target<'_>) -> Result<Proposal, String> {
        by_pods(samples, self.pods, is_cpu, target, (self.wanted, self.tolerance), self.now)
    }

    fn some_pods(&self) -> Result<(), String> {
        if self.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".to_owned());
        }
        Ok(())
    }

    async fn resource(
        &self,
        resource: &str,
        container: &str,
        target: &MetricTarget,
    ) -> Result<(i32, String, MetricValueStatus), String> {
        let fetch = async || {
            let samples = self.metrics.resource(self.namespace, self.selector, resource, container).await;
            let samples = samples.map_err(|why| format!("unable to get metrics for resource {resource}: {why}"))?;
            self.some_pods()?;
            Ok::<_, String>(samples)
        };
        let (is_cpu, binary) = (resource == "cpu", resource == "memory");
        if let Some(wanted) = milli(target.average_value.as_ref()) {
            let usage = |why: String| format!("failed to get {resource} usage: {why}");
            let samples = fetch().await.map_err(usage)?;
            let found = self.ask(samples, is_cpu, Target::Average(wanted)).map_err(usage)?;
            let current =
                MetricValueStatus { average_value: Some(text(found.usage, binary)), ..MetricValueStatus::default() };
            return Ok((found.replicas, format!("{resource} resource"), current));
        }
        let Some(percent) = target.average_utilization else {
            return Err("invalid resource metric source: neither an average utilization target nor an average value \
                        (usage) target was set"
                .to_owned());
        };
        let utilization = |why: String| format!("failed to get {resource} utilization: {why}");
        let samples = fetch().await.map_err(utilization)?;
        let requested = requests(self.pods, container, resource).map_err(utilization)?;
        let target = Target::Utilization { percent, requests: &requested };
        let found = self.ask(samples, is_cpu, target).map_err(utilization)?;
        let of = if container.is_empty() { "" } else { "container " };
        let current = MetricValueStatus {
            average_utilization: found.utilization,
            average_value: Some(text(found.usage, binary)),
            value: None,
        };
        Ok((found.replicas, format!("{resource} {of}resource utilization (percentage of request)"), current))
    }

    async fn pods(&self, metric: &MetricIdentifier, target: &MetricTarget) -> Result<Proposal, String> {
        let samples = self.metrics.pods(self.namespace, self.selector, metric).await;
        let samples = samples.map_err(|why| format!("unable to get metric {}: {why}", metric.name))?;
        self.some_pods()?;
        let wanted = milli(target.average_value.as_ref()).unwrap_or(0);
        self.ask(samples, false, Target::Average(wanted))
    }

    /// A metric of the whole workload. `names` are its names as a whole and by replica. The error is told twice: as it is,
    /// and with what was tried (where `{}` stands for the metric).
    fn total(
        &self,
        asked: Result<i64, String>,
        target: &MetricTarget,
        source: &str,
        names: impl FnOnce() -> (String, String),
    ) -> Result<(i32, String, MetricValueStatus), (String, String)> {
        let (value, share) = (milli(target.value.as_ref()), milli(target.average_value.as_ref()));
        let (whole_name, share_name) = names();
        if let Some(wanted) = share {
            let usage = asked.map_err(|why| (why.clone(), format!("failed to get {{}} {source} metric: {why}")))?;
            let found = by_share(usage, wanted, self.present, self.tolerance);
            return Ok((found.replicas, share_name, average(found.usage)));
        }
        let Some(wanted) = value else {
            let why =
                format!("invalid {source} metric source: neither a value target nor an average value target was set");
            return Err((why.clone(), why));
        };
        let tried = |why: String| {
            let told =
                if source == "external" { format!("failed to get external metric {{}}: {why}") } else { why.clone() };
            (why, told)
        };
        let usage = asked.map_err(tried)?;
        let found = by_whole(usage, wanted, self.pods, self.wanted, self.tolerance).map_err(tried)?;
        Ok((found.replicas, whole_name, whole(found.usage)))
    }
}

fn unknown(kind: &str) -> Refusal {
    let why = format!("unknown metric source type {kind:?}");
    Refusal { reason: "InvalidMetricSourceType", told: why.clone(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_in_the_units_of_their_kind() {
        for (milli, binary, written) in [
            (500, false, "500m"),
            (2000, false, "2"),
            (10 * 1024 * 1024 * 1000, true, "10Mi"),
            (1536 * 1000, true, "1536"),
            (1500, true, "1500m"),
        ] {
            assert_eq!(text(milli, binary).0, written);
        }
    }
}
