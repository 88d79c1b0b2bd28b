//! What a namespace that is being deleted says about it: the five conditions of upstream's namespace controller.
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;

/// Type, and reason and message while all is well.
const KINDS: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// How the deletion of a namespace's content stands.
#[derive(Debug, Default)]
pub struct Progress {
    /// Why some resources could not be discovered.
    pub discovery_failure: Option<String>,
    /// Why some content could not be deleted.
    pub failures: Vec<String>,
    /// `resource.group` to how many are left.
    pub remaining: BTreeMap<String, usize>,
    /// Finalizer to how many objects wait for it.
    pub finalizers: BTreeMap<String, usize>,
}

impl Progress {
    fn problem(&self, kind: &str) -> Option<(&'static str, String)> {
        let list = |counts: &BTreeMap<String, usize>, verb: &str| {
            let parts: Vec<String> =
                counts.iter().map(|(what, count)| format!("{what} {verb} {count} resource instances")).collect();
            parts.join(", ")
        };
        match kind {
            "NamespaceDeletionDiscoveryFailure" => self.discovery_failure.clone().map(|text| ("DiscoveryFailed", text)),
            "NamespaceDeletionContentFailure" if !self.failures.is_empty() => {
                let mut failures = self.failures.clone();
                failures.sort();
                let text = format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    failures.len(),
                    failures.join(", ")
                );
                Some(("ContentDeletionFailed", text))
            }
            "NamespaceContentRemaining" if !self.remaining.is_empty() => {
                Some(("SomeResourcesRemain", format!("Some resources are remaining: {}", list(&self.remaining, "has"))))
            }
            "NamespaceFinalizersRemaining" if !self.finalizers.is_empty() => {
                let text =
                    format!("Some content in the namespace has finalizers remaining: {}", list(&self.finalizers, "in"));
                Some(("SomeFinalizersRemain", text))
            }
            _ => None,
        }
    }

    /// Writes the conditions into `status`; true if any changed.
    pub fn apply(&self, status: &mut NamespaceStatus, now: Timestamp) -> bool {
        let conditions = status.conditions.get_or_insert_default();
        let mut changed = false;
        for (kind, good_reason, good_message) in KINDS {
            let (is, reason, message) = match self.problem(kind) {
                Some((reason, message)) => ("True", reason, message),
                None => ("False", good_reason, good_message.to_owned()),
            };
            match conditions.iter_mut().find(|condition| condition.type_ == kind) {
                Some(old) => {
                    if old.status != is {
                        old.last_transition_time = Some(Time(now));
                        is.clone_into(&mut old.status);
                        changed = true;
                    }
                    if old.reason.as_deref() != Some(reason) || old.message.as_deref() != Some(&message) {
                        old.reason = Some(reason.to_owned());
                        old.message = Some(message);
                        changed = true;
                    }
                }
                None => {
                    conditions.push(NamespaceCondition {
                        type_: kind.to_owned(),
                        status: is.to_owned(),
                        reason: Some(reason.to_owned()),
                        message: Some(message),
                        last_transition_time: Some(Time(now)),
                    });
                    changed = true;
                }
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_remains_and_recover() {
        let (mut status, now) = (NamespaceStatus::default(), Timestamp::UNIX_EPOCH);
        let mut progress = Progress::default();
        progress.remaining.insert("pods.".into(), 2);
        progress.finalizers.insert("example.com/f".into(), 1);
        assert!(progress.apply(&mut status, now));
        assert!(!progress.apply(&mut status, now));
        let message =
            |status: &NamespaceStatus, at: usize| status.conditions.as_ref().unwrap()[at].message.clone().unwrap();
        assert_eq!(message(&status, 3), "Some resources are remaining: pods. has 2 resource instances");
        assert_eq!(
            message(&status, 4),
            "Some content in the namespace has finalizers remaining: example.com/f in 1 resource instances"
        );
        assert!(Progress::default().apply(&mut status, now));
        assert!(status.conditions.unwrap().iter().all(|condition| condition.status == "False"));
    }
}
