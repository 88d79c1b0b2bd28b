//! Prefers nodes that have the pod's images already, by their size and how widely they are spread.
use crate::cache::NodeInfo;
use crate::framework::{Cycle, MAX_SCORE, Score};

/// Less than this is not worth a preference, in bytes; more than [`MAX_PER_CONTAINER`] a container counts no further.
const MIN: i64 = 23 << 20;
const MAX_PER_CONTAINER: i64 = 1000 << 20;

pub struct ImageLocality;

impl Score for ImageLocality {
    fn score(&self, cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
        let Some(spec) = cycle.pod.spec() else { return vec![0; nodes.len()] };
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let images: Vec<String> = containers.filter_map(|c| c.image.as_deref()).map(normalized).collect();
        let max = MAX_PER_CONTAINER * images.len().max(1) as i64;
        let mut sums = vec![0; nodes.len()];
        for image in &images {
            let sizes: Vec<Option<i64>> = nodes.iter().map(|node| size_on(node, image)).collect();
            let spread = sizes.iter().flatten().count() as f64 / nodes.len() as f64;
            for (sum, size) in sums.iter_mut().zip(&sizes) {
                *sum += (size.unwrap_or(0) as f64 * spread) as i64;
            }
        }
        sums.into_iter().map(|sum: i64| MAX_SCORE * (sum.clamp(MIN, max.max(MIN)) - MIN) / (max - MIN).max(1)).collect()
    }

    fn weight(&self) -> i64 {
        1
    }
}

fn size_on(node: &NodeInfo, image: &str) -> Option<i64> {
    let images = node.node.as_ref()?.status.as_ref()?.images.as_deref()?;
    images
        .iter()
        .find(|known| known.names.iter().flatten().any(|name| name == image))
        .and_then(|known| known.size_bytes)
}

/// An image name with its tag, `latest` if none is given.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}
