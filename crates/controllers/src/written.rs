//! The newest version of each object that a controller wrote, so that it does not decide on an older local copy.
use crate::claim::uid;
use kube::Resource;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Resource versions by UID. A version is the store's revision, so newer ones are greater.
#[derive(Debug, Default)]
pub struct Written(Mutex<HashMap<String, u64>>);

fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Written {
    /// Remembers `object` as the API returned it.
    pub fn note<K: Resource>(&self, object: &K) {
        self.0.lock().insert(uid(object).to_owned(), version(object));
    }

    /// True if `copy` shows all that was written.
    pub fn is_current<K: Resource>(&self, copy: &K) -> bool {
        let mut known = self.0.lock();
        match known.get(uid(copy)) {
            Some(newest) if version(copy) < *newest => false,
            Some(_) => {
                known.remove(uid(copy));
                true
            }
            None => true,
        }
    }

    /// The object of that UID is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn a_copy_older_than_the_last_write_is_not_current() {
        let pod = |version: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"uid": "u", "resourceVersion": version}})).unwrap()
        };
        let written = Written::default();
        assert!(written.is_current(&pod("3")));
        written.note(&pod("10"));
        assert!(!written.is_current(&pod("9")));
        assert!(written.is_current(&pod("10")) && written.is_current(&pod("9")), "seen once is enough");
    }
}
