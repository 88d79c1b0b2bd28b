//! `metrics.k8s.io`: what nodes and pods use now, read from the kubelets when somebody asks (`kubectl top`, autoscalers). What
//! upstream leaves to metrics-server. Start at [`Metrics`].
use super::kubelet::Kubelets;
use super::transport::Backend;
use crate::body::request_body;
use crate::registry::Registry;
use crate::special::{SpecialRequest, SpecialResponse, SpecialRest};
use crate::value::Read;
use async_trait::async_trait;
use futures::future::join_all;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use pintle_api::meta::{self, ObjectExt};
use pintle_api::scheme::{GroupResource, Resource, Verb, Verbs};
use pintle_api::selector::{FieldSelector, LabelSelector};
use pintle_api::status::ApiError;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The group.
pub const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// A kubelet's answer may be so long.
const MAX_ANSWER: usize = 16 << 20;
/// A sample is at least so old when a rate is taken from it, and at most that old.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(120);
/// Samples are kept so long before newer ones replace them, so that who asks often gets no nervous rates.
const KEEP: Duration = Duration::from_secs(15);

/// The resources of the group.
pub fn resources() -> Vec<Resource> {
    let resource = |kind: &str, plural: &str, namespaced: bool| Resource {
        group: GROUP.into(),
        version: VERSION.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        plural: plural.into(),
        singular: String::new(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        verbs: Verbs::default().with(Verb::Get).with(Verb::List),
        subresources: Vec::new(),
        storage_group: GROUP.into(),
        storage_version: VERSION.into(),
        storage_version_hash: String::new(),
        custom: None,
    };
    vec![resource("NodeMetrics", "nodes", false), resource("PodMetrics", "pods", true)]
}

/// Seconds of CPU time since some start, and bytes of memory in use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Usage {
    cpu: f64,
    memory: f64,
}

/// Namespace, pod, container; all empty for the node itself.
type Whose = (String, String, String);

/// What a kubelet said at one time.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    usages: Arc<HashMap<Whose, Usage>>,
}

/// Reads the lines of `/metrics/resource` that matter here.
fn read(text: &str) -> HashMap<Whose, Usage> {
    let mut usages: HashMap<Whose, Usage> = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, rest)) = line.rsplit_once('}').or_else(|| line.split_once(' ')) else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let Some(value) = rest.split_whitespace().next().and_then(|value| value.parse::<f64>().ok()) else { continue };
        let label = |wanted: &str| {
            let mut pairs = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
            pairs.find(|(key, _)| *key == wanted).map(|(_, text)| text.trim_end_matches('"').to_owned())
        };
        let whose = || Some((label("namespace")?, label("pod")?, label("container")?));
        let mut note = |whose: Option<Whose>, set: fn(&mut Usage, f64)| {
            if let Some(whose) = whose {
                set(usages.entry(whose).or_default(), value);
            }
        };
        match name {
            "container_cpu_usage_seconds_total" => note(whose(), |usage, value| usage.cpu = value),
            "container_memory_working_set_bytes" => note(whose(), |usage, value| usage.memory = value),
            "node_cpu_usage_seconds_total" => note(Some(Whose::default()), |usage, value| usage.cpu = value),
            "node_memory_working_set_bytes" => note(Some(Whose::default()), |usage, value| usage.memory = value),
            _ => {}
        }
    }
    usages
}

/// What is used now: cores, bytes.
#[derive(Clone, Debug)]
struct Rates {
    window: Duration,
    usages: BTreeMap<Whose, Usage>,
}

/// The rates between two samples; who began or began anew in between has none.
fn rates(before: &Sample, after: &Sample) -> Rates {
    let window = after.at.duration_since(before.at);
    let seconds = window.as_secs_f64();
    let rate = |(whose, now): (&Whose, &Usage)| {
        let spent = now.cpu - before.usages.get(whose)?.cpu;
        (spent >= 0.0 && seconds > 0.0).then(|| (whose.clone(), Usage { cpu: spent / seconds, memory: now.memory }))
    };
    Rates { window, usages: after.usages.iter().filter_map(rate).collect() }
}

/// Answers for `nodes` and `pods` of the group.
pub struct Metrics {
    kubelets: Kubelets,
    pods: bool,
    samples: Arc<Mutex<HashMap<String, Sample>>>,
}

impl Metrics {
    /// The endpoints (plural, endpoint), which ask `kubelets`.
    pub fn both(kubelets: &Kubelets) -> [(&'static str, Metrics); 2] {
        let samples: Arc<Mutex<HashMap<String, Sample>>> = Arc::default();
        [("nodes", false), ("pods", true)]
            .map(|(plural, pods)| (plural, Metrics { kubelets: kubelets.clone(), pods, samples: samples.clone() }))
    }

    async fn ask(backend: &Backend) -> Option<Sample> {
        let path = PathAndQuery::from_static("/metrics/resource");
        let answer = backend.send(Method::GET, path, &HeaderMap::new(), request_body("")).await;
        let answer = answer.inspect_err(|error| tracing::debug!(%error, "a kubelet tells no metrics")).ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.ok()?.to_bytes();
        Some(Sample { at: Instant::now(), usages: Arc::new(read(&String::from_utf8_lossy(&body))) })
    }

    /// What the node and its pods use; `None` if its kubelet does not say.
    async fn of_node(&self, node: &str, registry: &Registry) -> Option<Rates> {
        let backend = self.kubelets.of_node(node, registry).await.ok()?;
        let mut now = Self::ask(&backend).await?;
        let usable = |before: &Sample, now: &Sample| {
            let age = now.at.duration_since(before.at);
            (SHORTEST..LONGEST).contains(&age)
        };
        let before = self.samples.lock().get(node).filter(|before| usable(before, &now)).cloned();
        let before = match before {
            Some(before) => before,
            None => {
                // A rate needs two looks.
                tokio::time::sleep(SHORTEST).await;
                let first = std::mem::replace(&mut now, Self::ask(&backend).await?);
                self.samples.lock().insert(node.to_owned(), first.clone());
                first
            }
        };
        if now.at.duration_since(before.at) >= KEEP {
            self.samples.lock().insert(node.to_owned(), now.clone());
        }
        Some(rates(&before, &now))
    }

    /// The rates of all nodes, or of one.
    async fn of_nodes(&self, nodes: &[String], registry: &Registry) -> Vec<(String, Rates)> {
        let all = join_all(nodes.iter().map(|node| self.of_node(node, registry))).await;
        nodes.iter().cloned().zip(all).filter_map(|(node, rates)| Some((node, rates?))).collect()
    }
}

fn usage(usage: Usage) -> Value {
    json!({"cpu": format!("{:.0}n", usage.cpu * 1e9), "memory": format!("{:.0}Ki", usage.memory / 1024.0)})
}

/// An item for `object`, less what it uses.
fn item(object: &Value, kind: &str, rates: &Rates) -> Value {
    let mut meta = json!({"name": object.name(), "creationTimestamp": meta::now()});
    if !object.namespace().is_empty() {
        meta["namespace"] = object.namespace().into();
    }
    if let Some(labels) = object.labels() {
        meta["labels"] = Value::Object(labels.clone());
    }
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": meta, "timestamp": meta::now(),
           "window": format!("{:.3}s", rates.window.as_secs_f64())})
}

fn of_pod(pod: &Value, rates: &Rates) -> Option<Value> {
    let mine = |whose: &Whose| whose.0 == pod.namespace() && whose.1 == pod.name();
    let containers: Vec<Value> = rates
        .usages
        .iter()
        .filter(|(whose, _)| mine(whose))
        .map(|(whose, used)| json!({"name": whose.2, "usage": usage(*used)}))
        .collect();
    let mut item = item(pod, "PodMetrics", rates);
    item["containers"] = containers.into();
    (!item["containers"].as_array()?.is_empty()).then_some(item)
}

#[async_trait]
impl SpecialRest for Metrics {
    async fn handle(&self, request: SpecialRequest, registry: &Registry) -> Result<SpecialResponse, ApiError> {
        let info = &request.cx.info;
        let about = GroupResource { group: GROUP, resource: if self.pods { "pods" } else { "nodes" } };
        let objects = registry.resource("", about.resource)?;
        let mut listed = if info.name.is_empty() {
            registry.list(&objects, &info.namespace).await?.items
        } else {
            vec![registry.get(&objects, &info.namespace, &info.name).await?]
        };
        let bad = |error: &dyn std::fmt::Display| ApiError::bad_request(error.to_string());
        let labels = LabelSelector::parse(info.query.text("labelSelector")).map_err(|error| bad(&error))?;
        let fields = FieldSelector::parse(info.query.text("fieldSelector")).map_err(|error| bad(&error))?;
        let kind = if self.pods { "Pod" } else { "Node" };
        listed.retain(|object| labels.matches(object.labels()) && fields.matches(kind, object));
        let node_of = |object: &Value| match self.pods {
            true => object.field("spec").text("nodeName").to_owned(),
            false => object.name().to_owned(),
        };
        let mut nodes: Vec<String> = listed.iter().map(node_of).filter(|node| !node.is_empty()).collect();
        nodes.sort();
        nodes.dedup();
        let known: HashMap<String, Rates> = self.of_nodes(&nodes, registry).await.into_iter().collect();
        let mut items: Vec<Value> = listed
            .iter()
            .filter_map(|object| {
                let rates = known.get(&node_of(object))?;
                if self.pods {
                    return of_pod(object, rates);
                }
                let mut item = item(object, "NodeMetrics", rates);
                item["usage"] = usage(*rates.usages.get(&Whose::default())?);
                Some(item)
            })
            .collect();
        if !info.name.is_empty() {
            let item = items.pop().ok_or_else(|| ApiError::not_found(about, &info.name))?;
            return Ok(SpecialResponse::Object(StatusCode::OK, item));
        }
        let kind = if self.pods { "PodMetricsList" } else { "NodeMetricsList" };
        let list = json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items});
        Ok(SpecialResponse::Object(StatusCode::OK, list))
    }

    fn handles(&self, verb: &str) -> bool {
        matches!(verb, "get" | "list")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE container_cpu_usage_seconds_total counter\n\
        container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 10.5\n\
        container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 2048\n\
        pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 11\n\
        node_cpu_usage_seconds_total 100\n\
        node_memory_working_set_bytes 4096 1700000000000\n";

    fn whose() -> Whose {
        ("ns".into(), "p".into(), "c".into())
    }

    #[test]
    fn the_kubelets_text_is_read_by_container_and_node() {
        let usages = read(TEXT);
        assert_eq!(usages[&whose()], Usage { cpu: 10.5, memory: 2048.0 });
        assert_eq!(usages[&Whose::default()], Usage { cpu: 100.0, memory: 4096.0 });
        assert_eq!(usages.len(), 2);
    }

    #[test]
    fn a_rate_is_what_was_spent_between_two_samples() {
        let start = Instant::now();
        let sample = |cpu: f64, after: u64| Sample {
            at: start + Duration::from_secs(after),
            usages: Arc::new([(whose(), Usage { cpu, memory: 1024.0 })].into()),
        };
        let used = rates(&sample(10.0, 0), &sample(15.0, 10));
        assert_eq!(usage(used.usages[&whose()]), json!({"cpu": "500000000n", "memory": "1Ki"}));
        assert!(rates(&sample(10.0, 0), &sample(1.0, 10)).usages.is_empty(), "it began anew");
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}}});
        assert_eq!(of_pod(&pod, &used).unwrap()["containers"][0]["name"], "c");
        assert!(of_pod(&json!({"metadata": {"name": "q", "namespace": "ns"}}), &used).is_none());
    }
}
