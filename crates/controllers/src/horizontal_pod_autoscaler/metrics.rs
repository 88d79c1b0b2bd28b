//! The metrics APIs that an autoscaler asks: `metrics.k8s.io`, `custom.metrics.k8s.io`, `external.metrics.k8s.io`.
use super::calculate::{Sample, Samples};
use crate::error::{Error, is_not_found, message};
use crate::scale::{Scales, Target, group_resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use pintle_api::duration;
use pintle_api::quantity::Quantity;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Custom metrics that do not say otherwise are about so long a time.
const DEFAULT_WINDOW: i64 = 60;

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Timestamp,
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    described_object: Named,
    timestamp: Timestamp,
    window_seconds: Option<i64>,
    value: String,
}

#[derive(Deserialize)]
struct ExternalValue {
    value: String,
}

fn milli(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, Quantity::milli_value)
}

/// Percent-encoded, as a part of a path or query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~*".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A label selector as text.
pub fn selector_text(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return String::new() };
    let pairs = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let requirements = selector.match_expressions.iter().flatten().map(|requirement| {
        let (key, values) = (&requirement.key, requirement.values.clone().unwrap_or_default().join(","));
        match requirement.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    pairs.chain(requirements).collect::<Vec<_>>().join(",")
}

/// Asks the metrics APIs.
pub struct Metrics {
    client: Client,
}

impl Metrics {
    /// Through `client`.
    pub fn new(client: Client) -> Self {
        Metrics { client }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, kube::Error> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// What pods use of `resource`, by one container or all.
    pub async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: &str,
    ) -> Result<Samples, String> {
        let path =
            format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}", encoded(selector));
        let list: List<PodMetrics> = self
            .get(&path)
            .await
            .map_err(|error| format!("unable to fetch metrics from resource metrics API: {}", message(&error)))?;
        if list.items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        Ok(list
            .items
            .iter()
            .filter_map(|pod| Some((pod.metadata.name.clone(), sample(pod, resource, container)?)))
            .collect())
    }

    async fn custom(&self, path: &str) -> Result<Vec<MetricValue>, String> {
        let told = |error: &kube::Error| format!("unable to fetch metrics from custom metrics API: {}", message(error));
        let version = |version: &str| format!("/apis/custom.metrics.k8s.io/{version}/{path}");
        let list: Result<List<MetricValue>, _> = self.get(&version("v1beta2")).await;
        match list {
            Ok(list) => Ok(list.items),
            // Older adapters serve the older version only.
            Err(error) if is_not_found(&error) => {
                let older: Result<List<MetricValue>, _> = self.get(&version("v1beta1")).await;
                older.map(|list| list.items).map_err(|_| told(&error))
            }
            Err(error) => Err(told(&error)),
        }
    }

    /// A custom metric of each pod that `selector` selects.
    pub async fn pods(&self, namespace: &str, selector: &str, metric: &MetricIdentifier) -> Result<Samples, String> {
        let path = format!(
            "namespaces/{namespace}/pods/*/{}?labelSelector={}&metricLabelSelector={}",
            encoded(&metric.name),
            encoded(selector),
            encoded(&selector_text(metric.selector.as_ref()))
        );
        let values = self.custom(&path).await?;
        if values.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        let sample = |value: &MetricValue| Sample {
            at: value.timestamp,
            window: SignedDuration::from_secs(value.window_seconds.unwrap_or(DEFAULT_WINDOW)),
            value: milli(&value.value),
        };
        Ok(values.iter().map(|value| (value.described_object.name.clone(), sample(value))).collect())
    }

    /// A custom metric of one object, in thousandths.
    pub async fn object(
        &self,
        namespace: &str,
        object: &CrossVersionObjectReference,
        metric: &MetricIdentifier,
        scales: &Scales,
    ) -> Result<i64, String> {
        let target = Target {
            api_version: object.api_version.clone().unwrap_or_default(),
            kind: object.kind.clone(),
            name: object.name.clone(),
        };
        let of = if object.kind == "Namespace" && !target.api_version.contains('/') {
            format!("namespaces/{namespace}/metrics")
        } else {
            let resource = scales.resource(&target).await.map_err(|error| error.to_string())?;
            let place = if resource.namespaced { format!("namespaces/{namespace}/") } else { String::new() };
            format!("{place}{}/{}", group_resource(&resource), encoded(&object.name))
        };
        let path = format!(
            "{of}/{}?metricLabelSelector={}",
            encoded(&metric.name),
            encoded(&selector_text(metric.selector.as_ref()))
        );
        let values = self.custom(&path).await?;
        let value = values.first().ok_or_else(|| "no metrics returned from custom metrics API".to_owned())?;
        Ok(milli(&value.value))
    }

    /// The sum of an external metric's values, in thousandths.
    pub async fn external(&self, namespace: &str, metric: &MetricIdentifier) -> Result<i64, String> {
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}?labelSelector={}",
            encoded(&metric.name),
            encoded(&selector_text(metric.selector.as_ref()))
        );
        let list: List<ExternalValue> = self
            .get(&path)
            .await
            .map_err(|error| format!("unable to fetch metrics from external metrics API: {}", Error::from(error)))?;
        if list.items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        Ok(list.items.iter().fold(0i64, |sum, item| sum.saturating_add(milli(&item.value))))
    }
}

/// What the pod used; `None` if any container does not say.
fn sample(pod: &PodMetrics, resource: &str, container: &str) -> Option<Sample> {
    let mut counted = pod.containers.iter().filter(|each| container.is_empty() || each.name == container).peekable();
    counted.peek()?;
    let values: Option<Vec<i64>> = counted.map(|each| each.usage.get(resource).map(|text| milli(text))).collect();
    Some(Sample {
        at: pod.timestamp,
        window: duration::parse(&pod.window).unwrap_or(SignedDuration::from_secs(DEFAULT_WINDOW)),
        value: values?.into_iter().sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pods_sample_is_the_sum_of_its_containers_or_one_of_them() {
        let pod: PodMetrics = serde_json::from_value(json!({"metadata": {"name": "p"},
            "timestamp": "2026-01-01T00:00:00Z", "window": "15s", "containers": [
                {"name": "a", "usage": {"cpu": "250m", "memory": "1Mi"}}, {"name": "b", "usage": {"cpu": "1"}}]}))
        .unwrap();
        assert_eq!(sample(&pod, "cpu", "").map(|sample| sample.value), Some(1250));
        assert_eq!(sample(&pod, "cpu", "a").map(|sample| sample.value), Some(250));
        assert_eq!(sample(&pod, "memory", ""), None, "one container does not say");
        assert_eq!(sample(&pod, "cpu", "c"), None);
    }

    #[test]
    fn selectors_and_names_are_safe_in_a_path() {
        let selector = serde_json::from_value(json!({"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]}))
        .unwrap();
        assert_eq!(selector_text(Some(&selector)), "a=b,c in (d,e)");
        assert_eq!(encoded("c in (d)"), "c%20in%20%28d%29");
    }
}
