//! Conditions in `metav1.Condition` form: [`set`] replaces one and keeps the time of its last transition.
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Puts a condition of type `kind` among `conditions`; its transition time changes only with its status. True if anything
/// changed.
// upstream: k8s.io/apimachinery/pkg/api/meta, SetStatusCondition
pub fn set(
    conditions: &mut Vec<Condition>,
    kind: &str,
    (status, reason, message): (&str, &str, &str),
    observed_generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let mut fresh = Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation,
        last_transition_time: Time(now),
    };
    let Some(held) = conditions.iter_mut().find(|condition| condition.type_ == kind) else {
        conditions.push(fresh);
        return true;
    };
    if held.status == fresh.status {
        fresh.last_transition_time = held.last_transition_time.clone();
    }
    let changed = *held != fresh;
    *held = fresh;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_changes_with_the_status_only() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, "Ready", ("True", "A", ""), None, at(1)));
        assert!(set(&mut conditions, "Ready", ("True", "B", ""), None, at(2)));
        assert_eq!((conditions[0].reason.as_str(), conditions[0].last_transition_time.0), ("B", at(1)));
        assert!(!set(&mut conditions, "Ready", ("True", "B", ""), None, at(3)));
        assert!(set(&mut conditions, "Ready", ("False", "B", ""), None, at(4)));
        assert_eq!(conditions[0].last_transition_time.0, at(4));
    }
}
