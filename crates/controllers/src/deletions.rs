//! Who wants to know that an object of any kind is gone. The garbage collector watches every kind, so nobody else need do so
//! for that.
use parking_lot::RwLock;
use std::sync::Arc;

type Listener = Box<dyn Fn(&str, &str, &str) + Send + Sync>;

/// Listeners to deletions; clones share them.
#[derive(Clone, Default)]
pub struct Deletions(Arc<RwLock<Vec<Listener>>>);

impl Deletions {
    /// Calls `listener` with group, resource and namespace of each object that goes. It must be quick.
    pub fn listen(&self, listener: impl Fn(&str, &str, &str) + Send + Sync + 'static) {
        self.0.write().push(Box::new(listener));
    }

    /// An object of that group, resource and namespace is gone.
    pub fn tell(&self, group: &str, plural: &str, namespace: &str) {
        self.0.read().iter().for_each(|listener| listener(group, plural, namespace));
    }
}
