//! Which nodes have which image.
use k8s_openapi::api::core::v1::{ContainerImage, Node};
use std::collections::{BTreeSet, HashMap};

/// One image name.
#[derive(Debug, Default, PartialEq)]
pub struct Image {
    /// Its size in bytes, as the first node said.
    pub size: i64,
    /// The nodes that have it, by slot.
    pub nodes: BTreeSet<usize>,
}

/// All images on nodes, by name.
#[derive(Debug, Default, PartialEq)]
pub struct Images(HashMap<String, Image>);

impl Images {
    /// A node's images changed from those of `old` to those of `new`.
    pub fn node_changed(&mut self, slot: usize, old: Option<&Node>, new: Option<&Node>) {
        let (old, new) = (images(old), images(new));
        if old == new {
            return;
        }
        for name in old.iter().flat_map(|image| image.names.iter().flatten()) {
            if let Some(image) = self.0.get_mut(name) {
                image.nodes.remove(&slot);
                if image.nodes.is_empty() {
                    self.0.remove(name);
                }
            }
        }
        for image in new {
            for name in image.names.iter().flatten() {
                let known = self
                    .0
                    .entry(name.clone())
                    .or_insert_with(|| Image { size: image.size_bytes.unwrap_or(0), nodes: BTreeSet::new() });
                known.nodes.insert(slot);
            }
        }
    }

    /// The image `name`, if a node has it.
    pub fn get(&self, name: &str) -> Option<&Image> {
        self.0.get(name)
    }
}

fn images(node: Option<&Node>) -> &[ContainerImage] {
    node.and_then(|node| node.status.as_ref()?.images.as_deref()).unwrap_or_default()
}
