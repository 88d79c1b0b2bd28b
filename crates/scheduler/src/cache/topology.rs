//! The domains that topology keys make of the nodes, as numbers: counting pods by domain is then an addition per node.
use super::NodeInfo;
use crate::selector::Labels;
use std::collections::HashMap;

/// Keys beyond these are forgotten, all at once; they are read again where they are used.
const MAX_KEYS: usize = 256;
const NO_DOMAIN: u32 = u32::MAX;

/// A topology key in use, by number.
pub type KeyId = usize;

#[derive(Debug)]
struct Key {
    name: String,
    domains: HashMap<String, u32>,
    of_slot: Vec<u32>,
}

impl Key {
    fn read(name: &str, nodes: &[NodeInfo]) -> Self {
        let mut key = Key { name: name.to_owned(), domains: HashMap::new(), of_slot: Vec::with_capacity(nodes.len()) };
        for node in nodes {
            key.set(node.slot, node.labels());
        }
        key
    }

    fn set(&mut self, slot: usize, labels: Option<&Labels>) {
        if self.of_slot.len() <= slot {
            self.of_slot.resize(slot + 1, NO_DOMAIN);
        }
        let domain = labels.and_then(|labels| labels.get(&self.name)).map(|value| match self.domains.get(value) {
            Some(known) => *known,
            None => {
                let next = u32::try_from(self.domains.len()).unwrap_or(NO_DOMAIN);
                self.domains.insert(value.clone(), next);
                next
            }
        });
        self.of_slot[slot] = domain.unwrap_or(NO_DOMAIN);
    }
}

/// The topology keys that constraints and terms have named so far.
#[derive(Debug, Default)]
pub struct Topology {
    keys: Vec<Key>,
    by_name: HashMap<String, KeyId>,
}

impl Topology {
    /// Makes room before a pod's keys are looked up; numbers of keys hold until the next call.
    pub fn tidy(&mut self) {
        if self.keys.len() > MAX_KEYS {
            self.keys.clear();
            self.by_name.clear();
        }
    }

    /// The number of the key `name`.
    pub fn key(&mut self, name: &str, nodes: &[NodeInfo]) -> KeyId {
        if let Some(known) = self.by_name.get(name) {
            return *known;
        }
        self.keys.push(Key::read(name, nodes));
        self.by_name.insert(name.to_owned(), self.keys.len() - 1);
        self.keys.len() - 1
    }

    /// The number of the key `name` if it is in use.
    pub fn known(&self, name: &str) -> Option<KeyId> {
        self.by_name.get(name).copied()
    }

    /// A node is new, has other labels, or is gone (no labels).
    pub fn node_changed(&mut self, slot: usize, nodes: &[NodeInfo]) {
        for key in &mut self.keys {
            key.set(slot, nodes[slot].labels());
            // Names of nodes that are gone leave domains behind.
            if key.domains.len() > 2 * nodes.len() + 64 {
                *key = Key::read(&key.name, nodes);
            }
        }
    }

    /// How many domains `key` has at most.
    pub fn domains(&self, key: KeyId) -> usize {
        self.keys[key].domains.len()
    }

    /// The domain of a node, if it has the label.
    pub fn domain(&self, key: KeyId, slot: usize) -> Option<usize> {
        let domain = self.keys[key].of_slot[slot];
        (domain != NO_DOMAIN).then_some(domain as usize)
    }
}
