//! Prefers nodes that have the pod's images already, by their size and how widely they are spread.
use super::Cycle;
use crate::cache::{Image, NodeInfo};
use crate::framework::MAX_SCORE;
use std::borrow::Cow;

/// Less than this is not worth a preference, in bytes; more than [`MAX_PER_CONTAINER`] a container counts no further.
const MIN: i64 = 23 << 20;
const MAX_PER_CONTAINER: i64 = 1000 << 20;

pub fn score(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let spec = cycle.pod.spec()?;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let count = containers.clone().count() as i64;
    let volumes = cycle.pod.volumes().iter().filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
    let names = containers.filter_map(|container| container.image.as_deref()).chain(volumes);
    let all = cycle.cache.order().len().max(1) as f64;
    let images: Vec<(&Image, i64)> = names
        .filter_map(|name| cycle.cache.images.get(&normalized(name)))
        .map(|image| (image, (image.size as f64 * (image.nodes.len() as f64 / all)) as i64))
        .collect();
    if images.is_empty() {
        return None;
    }
    let max = MAX_PER_CONTAINER * count.max(1);
    let score = |node: &&NodeInfo| {
        let here = images.iter().filter(|(image, _)| image.nodes.contains(&node.slot));
        let sum: i64 = here.map(|(_, worth)| worth).sum();
        MAX_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN)
    };
    Some(nodes.iter().map(score).collect())
}

/// An image name with its tag, `latest` if none is given.
fn normalized(image: &str) -> Cow<'_, str> {
    if image.rfind(':') <= image.rfind('/') { format!("{image}:latest").into() } else { image.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_a_registry_is_no_tag() {
        assert_eq!(normalized("busybox"), "busybox:latest");
        assert_eq!(normalized("localhost:5000/busybox"), "localhost:5000/busybox:latest");
        assert_eq!(normalized("localhost:5000/busybox:1"), "localhost:5000/busybox:1");
    }
}
