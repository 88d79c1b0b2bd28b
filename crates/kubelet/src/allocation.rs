//! What the node has granted each of its pods: resources and host ports, checked when a pod comes and when it is resized.
//!
//! The API's spec says what a pod wants; the node works by what it granted. A grant that differs from the spec is kept on disk
//! beside the pod's volumes, so that a restart neither forgets a resize that waits nor takes one for granted.
// upstream: pkg/kubelet/allocation
use crate::admission::{self, Demand, Rejection};
use crate::pods::{PodExt, is_sidecar};
use k8s_openapi::api::core::v1::{Container, Node, Pod, ResourceRequirements};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

const FILE: &str = "allocation.json";

type Wake = Box<dyn Fn(&str) + Send + Sync>;

/// The grants of one node.
pub struct Allocations {
    pods_dir: PathBuf,
    wake: Wake,
    entries: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    granted: Grant,
    demand: Demand,
    /// A resize waits for others to leave.
    deferred: bool,
}

/// Resources of a pod and of those of its containers that can be resized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Grant {
    #[serde(default)]
    pod: Option<ResourceRequirements>,
    containers: BTreeMap<String, ResourceRequirements>,
}

/// What became of a pod's wish for other resources.
#[derive(Debug, PartialEq, Eq)]
pub enum Resize {
    /// It wants what it has.
    None,
    /// It was granted.
    Granted,
    /// There is no room now.
    Deferred(Rejection),
}

impl Grant {
    fn of(pod: &Pod) -> Self {
        let sidecars = pod.init_containers().iter().filter(|container| is_sidecar(container));
        let all = sidecars.chain(pod.containers());
        Grant {
            pod: pod.pod_spec().and_then(|spec| spec.resources.clone()),
            containers: all.map(|one| (one.name.clone(), one.resources.clone().unwrap_or_default())).collect(),
        }
    }

    /// `pod` with these resources instead of its own.
    fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if Grant::of(pod) == *self {
            return pod.clone();
        }
        let mut pod = pod.as_ref().clone();
        if let Some(spec) = &mut pod.spec {
            spec.resources.clone_from(&self.pod);
            let set = |container: &mut Container| {
                if let Some(granted) = self.containers.get(&container.name) {
                    container.resources = Some(granted.clone());
                }
            };
            spec.containers.iter_mut().for_each(set);
            spec.init_containers.iter_mut().flatten().for_each(set);
        }
        Arc::new(pod)
    }
}

impl Allocations {
    /// Grants that are kept below `pods_dir`; `wake` is called with the UID of a pod whose resize may fit now.
    pub fn new(pods_dir: PathBuf, wake: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Allocations { pods_dir, wake: Box::new(wake), entries: Mutex::default() }
    }

    /// Takes `pod` in. A `fresh` pod, which nobody has started yet, must suit `node`.
    pub fn admit(&self, pod: &Arc<Pod>, node: Option<&Node>, fresh: bool) -> Result<(), Rejection> {
        let kept = self.read(pod.uid());
        let granted = kept.unwrap_or_else(|| Grant::of(pod));
        let allocated = granted.apply(pod);
        let demand = Demand::of(&allocated);
        let mut entries = self.entries.lock();
        if let Some(node) = node.filter(|_| fresh) {
            admission::check(&allocated, &demand, node, &others(&entries, pod.uid()))?;
        }
        entries.insert(pod.uid().to_owned(), Entry { granted, demand, deferred: false });
        Ok(())
    }

    /// `pod` with the resources that it was granted.
    pub fn allocated(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.entries.lock().get(pod.uid()) {
            Some(entry) => entry.granted.apply(pod),
            None => pod.clone(),
        }
    }

    /// Grants `pod` the resources of its spec if they fit.
    pub fn resize(&self, pod: &Arc<Pod>, node: Option<&Node>) -> Resize {
        let wanted = Grant::of(pod);
        let (outcome, grant, smaller) = {
            let mut entries = self.entries.lock();
            let demand = Demand::of(pod);
            let fit = node.map_or(Ok(()), |node| admission::fits(&demand, node, &others(&entries, pod.uid())));
            let Some(entry) = entries.get_mut(pod.uid()) else { return Resize::None };
            if entry.granted == wanted {
                entry.deferred = false;
                return Resize::None;
            }
            match fit {
                Ok(()) => {
                    let smaller = demand.fits_in(&entry.demand);
                    *entry = Entry { granted: wanted.clone(), demand, deferred: false };
                    (Resize::Granted, wanted, smaller)
                }
                Err(rejection) => {
                    entry.deferred = true;
                    (Resize::Deferred(rejection), entry.granted.clone(), false)
                }
            }
        };
        self.write(pod.uid(), &grant);
        if smaller {
            self.wake_deferred();
        }
        outcome
    }

    /// Takes back what the pod was granted.
    pub fn release(&self, uid: &str) {
        if self.entries.lock().remove(uid).is_some() {
            self.wake_deferred();
        }
    }

    fn wake_deferred(&self) {
        let waiting: Vec<String> =
            (self.entries.lock().iter()).filter(|(_, entry)| entry.deferred).map(|(uid, _)| uid.clone()).collect();
        waiting.iter().for_each(|uid| (self.wake)(uid));
    }

    fn read(&self, uid: &str) -> Option<Grant> {
        let text = std::fs::read(self.pods_dir.join(uid).join(FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The pod's directory goes with the pod, and this file with it.
    fn write(&self, uid: &str, granted: &Grant) {
        let dir = self.pods_dir.join(uid);
        let fresh = dir.join("allocation.json.new");
        let written = serde_json::to_vec(granted).map_err(std::io::Error::other).and_then(|text| {
            std::fs::create_dir_all(&dir)?;
            std::fs::write(&fresh, text)?;
            std::fs::rename(&fresh, dir.join(FILE))
        });
        if let Err(error) = written {
            tracing::warn!(uid, %error, "cannot keep a pod's resources: a restart will take its spec for granted");
        }
    }
}

fn others<'a>(entries: &'a HashMap<String, Entry>, uid: &str) -> Vec<&'a Demand> {
    entries.iter().filter(|(other, _)| *other != uid).map(|(_, entry)| &entry.demand).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, cpu: &str) -> Arc<Pod> {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"containers": [container]}})).unwrap(),
        )
    }

    #[test]
    fn a_resize_that_does_not_fit_waits_until_another_pod_leaves() {
        let dir = std::env::temp_dir().join(format!("pintle-allocation-{}", std::process::id()));
        let woken = Arc::new(Mutex::new(Vec::new()));
        let bell = woken.clone();
        let allocations = Allocations::new(dir.clone(), move |uid| bell.lock().push(uid.to_owned()));
        let node: Node =
            serde_json::from_value(json!({"status": {"allocatable": {"cpu": "1", "pods": "10"}}})).unwrap();
        allocations.admit(&pod("a", "600m"), Some(&node), true).unwrap();
        allocations.admit(&pod("b", "300m"), Some(&node), true).unwrap();
        assert_eq!(allocations.admit(&pod("c", "200m"), Some(&node), true).unwrap_err().reason, "OutOfcpu");
        let wish = pod("b", "500m");
        assert!(matches!(allocations.resize(&wish, Some(&node)), Resize::Deferred(_)));
        assert_eq!(allocations.allocated(&wish).containers(), pod("b", "300m").containers());
        // What was granted outlives the process.
        let next = Allocations::new(dir.clone(), |_| {});
        next.admit(&wish, Some(&node), false).unwrap();
        assert_eq!(next.allocated(&wish).containers(), pod("b", "300m").containers());
        allocations.release("a");
        assert_eq!(*woken.lock(), ["b"]);
        assert_eq!(allocations.resize(&wish, Some(&node)), Resize::Granted);
        assert_eq!(allocations.resize(&wish, Some(&node)), Resize::None);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
