//! Who is tried when.
use super::*;
use crate::cache::NodeInfo;
use serde_json::json;

fn queue() -> SchedulingQueue {
    SchedulingQueue::new(Arc::new([Profile::default()]), Backoff::default())
}

fn pod_with(name: &str, priority: i32, mut spec: serde_json::Value) -> Arc<PodInfo> {
    spec["priority"] = priority.into();
    spec["containers"] = json!([{ "name": "c", "resources": { "requests": { "cpu": "1" } } }]);
    let pod = json!({ "metadata": { "name": name, "namespace": "default", "uid": name }, "spec": spec });
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
}

fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
    pod_with(name, priority, json!({}))
}

fn node(cpu: &str) -> Arc<NodeInfo> {
    let mut info = NodeInfo::default();
    let status = json!({ "allocatable": { "cpu": cpu, "pods": "10" } });
    info.set_node(Arc::new(serde_json::from_value(json!({ "metadata": { "name": "n" }, "status": status })).unwrap()));
    Arc::new(info)
}

fn by(plugins: &[Plugin]) -> PluginSet {
    plugins.iter().copied().collect()
}

async fn is_empty(queue: &SchedulingQueue, wait: Duration) -> bool {
    tokio::time::timeout(wait, queue.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn the_highest_priority_comes_first_then_the_oldest() {
    let queue = queue();
    for (name, priority) in [("old", 0), ("young", 0), ("vip", 5)] {
        queue.add(pod(name, priority));
    }
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(queue.next().await.pod.name().to_owned());
    }
    assert_eq!(order, ["vip", "old", "young"]);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_pod_waits_for_an_event_that_can_help() {
    let queue = queue();
    queue.add(pod("a", 0));
    let attempt = queue.next().await;
    queue.failed(attempt, by(&[Plugin::NodeResourcesFit]));
    queue.happened(Event::Volume, None);
    assert!(is_empty(&queue, Duration::from_secs(60)).await, "a volume does not help");
    queue.happened(Event::NodeAdded(node("500m")), None);
    assert!(is_empty(&queue, Duration::from_secs(60)).await, "nor does a node that is too small");
    queue.happened(Event::PodGone(pod("b", 0)), None);
    assert_eq!(queue.next().await.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_during_the_attempt_is_not_missed() {
    let queue = queue();
    queue.add(pod("a", 0));
    let attempt = queue.next().await;
    queue.happened(Event::NodeAdded(node("4")), None);
    queue.failed(attempt, by(&[Plugin::NodeResourcesFit]));
    assert_eq!(queue.next().await.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_back_off_is_cut_short_only_when_there_is_nothing_else_to_try() {
    let queue = queue();
    queue.add(pod("a", 9));
    let attempt = queue.next().await;
    queue.happened(Event::PodGone(pod("x", 0)), None);
    queue.failed(attempt, by(&[Plugin::NodeResourcesFit]));
    queue.add(pod("b", 0));
    let first = queue.next().await;
    assert_eq!(first.pod.name(), "b", "the more important pod backs off");
    let second = queue.next().await;
    assert_eq!(second.pod.name(), "a");
}

#[tokio::test(start_paused = true)]
async fn an_error_is_tried_again_after_its_back_off_and_not_before() {
    let queue = queue();
    queue.add(pod("a", 0));
    let before = Instant::now();
    let mut attempt = queue.next().await;
    for seconds in [1, 3, 7, 15, 25] {
        queue.failed(attempt, PluginSet::default());
        attempt = queue.next().await;
        assert_eq!(before.elapsed().as_secs(), seconds);
    }
    queue.done("a");
    let pod = attempt.pod.clone();
    queue.retry(attempt, pod);
    assert!(is_empty(&queue, Duration::from_secs(5)).await, "what fails after the decision backs off, too");
    queue.next().await;
}

#[tokio::test(start_paused = true)]
async fn without_any_event_a_pod_is_tried_again_after_the_limit() {
    let queue = queue();
    queue.add(pod("a", 0));
    let attempt = queue.next().await;
    queue.failed(attempt, by(&[Plugin::NodeAffinity]));
    let before = Instant::now();
    queue.next().await;
    assert_eq!(before.elapsed().as_secs(), UNSCHEDULABLE_LIMIT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_removed_pod_never_comes() {
    let queue = queue();
    queue.add(pod("a", 0));
    queue.remove("a");
    queue.add(pod("b", 0));
    let attempt = queue.next().await;
    queue.remove("b");
    assert!(queue.failed(attempt, by(&[Plugin::NodeAffinity])).is_none());
    assert!(is_empty(&queue, Duration::from_secs(600)).await);
}

#[tokio::test(start_paused = true)]
async fn gates_hold_a_pod_until_the_last_one_is_gone() {
    let queue = queue();
    let gated = pod_with("a", 0, json!({ "schedulingGates": [{ "name": "g" }] }));
    queue.add(gated.clone());
    assert_eq!(queue.lengths().gated, 1);
    queue.happened(Event::NodeAdded(node("4")), None);
    assert!(is_empty(&queue, Duration::from_secs(900)).await);
    queue.update(&gated, pod("a", 0));
    assert_eq!(queue.next().await.attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_changes_so_that_it_may_fit_is_tried_again() {
    let queue = queue();
    let old = pod("a", 0);
    queue.add(old.clone());
    let attempt = queue.next().await;
    queue.failed(attempt, by(&[Plugin::TaintToleration]));
    queue.update(&old, old.clone());
    assert!(is_empty(&queue, Duration::from_secs(60)).await);
    queue.update(&old, pod_with("a", 0, json!({ "tolerations": [{ "operator": "Exists" }] })));
    assert_eq!(queue.next().await.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_never_in_two_places_whatever_happens_to_it() {
    let queue = queue();
    fastrand::seed(7);
    for _ in 0..2000 {
        let name = format!("p{}", fastrand::usize(..6));
        match fastrand::usize(..6) {
            0 => queue.add(pod(&name, fastrand::i32(..3))),
            1 => queue.remove(&name),
            2 => queue.update(&pod(&name, 0), pod(&name, 1)),
            3 => queue.happened(Event::PodGone(pod("gone", 0)), None),
            4 => tokio::time::advance(Duration::from_millis(300)).await,
            _ => {
                if let Ok(attempt) = tokio::time::timeout(Duration::ZERO, queue.next()).await {
                    match fastrand::usize(..3) {
                        0 => queue.done(attempt.pod.uid()),
                        1 => drop(queue.failed(attempt, PluginSet::default())),
                        _ => drop(queue.failed(attempt, by(&[Plugin::NodeResourcesFit]))),
                    }
                }
            }
        }
        let state = queue.state.lock();
        let waiting = state.active.len() + state.backoff.len() + state.error_backoff.len() + state.unschedulable.len();
        assert_eq!(waiting, state.places.len());
        assert!(state.events.is_empty(), "nobody is being tried: no event needs to be kept");
    }
}
