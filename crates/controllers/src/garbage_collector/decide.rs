//! What to do about an object whose owners may be gone: [`decide`] is a pure function of its metadata and its owners' state.
use super::graph::{FOREGROUND, ORPHAN};
use kube::api::{ObjectMeta, PropagationPolicy};

/// How an owner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It exists and stays.
    Solid,
    /// It does not exist (any more).
    Absent,
    /// It is being deleted in the foreground and waits for its dependents.
    Waiting,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Keep,
    /// Drop the references to these owners (UIDs); another one holds the object.
    Release(Vec<String>),
    /// Delete it; first let go of owners that it would block, if so.
    Delete {
        policy: PropagationPolicy,
        unblock_owners: bool,
    },
}

/// Decides about an object with `owners` (UID and state) that has dependents of its own (`has_dependents`), of which some
/// delete their dependents (`dependents_deleting`). (upstream: attemptToDeleteItem)
pub fn decide(
    meta: &ObjectMeta,
    owners: &[(String, Owner)],
    has_dependents: bool,
    dependents_deleting: bool,
) -> Decision {
    if owners.is_empty() {
        return Decision::Keep;
    }
    let of = |state: Owner| owners.iter().filter(move |(_, is)| *is == state).map(|(uid, _)| uid.clone());
    if of(Owner::Solid).next().is_some() {
        let others: Vec<String> = of(Owner::Absent).chain(of(Owner::Waiting)).collect();
        return if others.is_empty() { Decision::Keep } else { Decision::Release(others) };
    }
    if of(Owner::Waiting).next().is_some() && has_dependents {
        return Decision::Delete { policy: PropagationPolicy::Foreground, unblock_owners: dependents_deleting };
    }
    let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|candidate| candidate == finalizer);
    let policy = if has(ORPHAN) {
        PropagationPolicy::Orphan
    } else if has(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    };
    Decision::Delete { policy, unblock_owners: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(states: &[Owner]) -> Vec<(String, Owner)> {
        states.iter().enumerate().map(|(number, state)| (number.to_string(), *state)).collect()
    }

    #[test]
    fn an_object_goes_with_its_last_owner() {
        let meta = ObjectMeta::default();
        let background = Decision::Delete { policy: PropagationPolicy::Background, unblock_owners: false };
        assert_eq!(decide(&meta, &[], false, false), Decision::Keep);
        assert_eq!(decide(&meta, &owners(&[Owner::Absent]), false, false), background);
        assert_eq!(decide(&meta, &owners(&[Owner::Waiting]), false, false), background);
        assert_eq!(decide(&meta, &owners(&[Owner::Solid]), false, false), Decision::Keep);
    }

    #[test]
    fn a_solid_owner_holds_the_object_and_the_others_are_dropped() {
        let states = owners(&[Owner::Solid, Owner::Absent, Owner::Waiting]);
        assert_eq!(
            decide(&ObjectMeta::default(), &states, false, false),
            Decision::Release(vec!["1".into(), "2".into()])
        );
    }

    #[test]
    fn foreground_deletion_is_handed_down_and_orphaning_kept() {
        let waiting = owners(&[Owner::Waiting]);
        let foreground = Decision::Delete { policy: PropagationPolicy::Foreground, unblock_owners: false };
        assert_eq!(decide(&ObjectMeta::default(), &waiting, true, false), foreground);
        let orphan = ObjectMeta { finalizers: Some(vec![ORPHAN.into()]), ..ObjectMeta::default() };
        let expected = Decision::Delete { policy: PropagationPolicy::Orphan, unblock_owners: false };
        assert_eq!(decide(&orphan, &owners(&[Owner::Absent]), true, false), expected);
    }
}
