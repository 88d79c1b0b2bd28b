//! A bound volume that is labelled with a zone or region is used there.
use crate::cache::NodeInfo;
use crate::framework::{Objects, Plugin, Rejection};
use crate::pod_info::PodInfo;
use crate::volumes::class_of;
use k8s_openapi::api::core::v1::PersistentVolume;

const NAME: Plugin = Plugin::VolumeZone;

/// Labels that say where a volume or node is, with today's name of each.
const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// Where the pod's bound volumes are: label, its name of today, values that will do.
#[derive(Clone, Debug, Default)]
pub struct State(Vec<(&'static str, &'static str, Vec<String>)>);

pub fn prepare(pod: &PodInfo, objects: &dyn Objects) -> Result<State, Box<Rejection>> {
    let mut state = State::default();
    for claim in pod.volumes().iter().filter_map(|volume| volume.persistent_volume_claim.as_ref()) {
        let no = |reason: String| Box::new(Rejection::final_(NAME, reason));
        let Some(claim) = objects.claim(pod.namespace(), &claim.claim_name) else {
            return Err(no(format!("persistentvolumeclaim \"{}\" not found", claim.claim_name)));
        };
        let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        if bound.is_empty() {
            let class = class_of(&claim);
            if class.is_empty() {
                return Err(no("PersistentVolumeClaim had no pv name and storageClass name".into()));
            }
            let Some(class) = objects.class(class) else {
                return Err(no(format!("storageclass.storage.k8s.io \"{class}\" not found")));
            };
            match class.volume_binding_mode.as_deref() {
                Some("WaitForFirstConsumer") => continue,
                _ => return Err(no("PersistentVolume had no name".into())),
            }
        }
        let Some(volume) = objects.volume(bound) else {
            return Err(no(format!("persistentvolume \"{bound}\" not found")));
        };
        state.0.extend(places(&volume));
    }
    Ok(state)
}

fn places(volume: &PersistentVolume) -> Vec<(&'static str, &'static str, Vec<String>)> {
    let label = |name: &str| volume.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let place = |(name, today): (&'static str, &'static str)| {
        // Several zones are written with two underscores between them.
        let values = label(name)?.split("__").map(|value| value.trim().to_owned()).collect();
        Some((name, today, values))
    };
    LABELS.into_iter().filter_map(place).collect()
}

impl State {
    /// Whether the filter has something to say about the pod.
    pub fn speaks(&self) -> bool {
        !self.0.is_empty()
    }

    pub fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        if LABELS.iter().all(|(name, _)| node.label(name).is_none()) {
            return Ok(());
        }
        for (name, today, values) in &self.0 {
            let is = node.label(name).or_else(|| node.label(today));
            if !is.is_some_and(|is| values.iter().any(|value| value == is)) {
                return Err(Rejection::final_(NAME, "node(s) had no available volume zone"));
            }
        }
        Ok(())
    }
}
