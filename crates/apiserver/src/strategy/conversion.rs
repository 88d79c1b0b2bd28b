//! Kinds that one group version shows in another form than the one that is stored. Start at [`from_storage`].
use pintle_api::scheme::Resource;
use serde_json::Value;

/// The fields of an Event by their names in the core group, which is stored, and in `events.k8s.io`.
/// upstream: pkg/apis/events/v1/conversion.go.
const EVENT: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn renames(resource: &Resource) -> &'static [(&'static str, &'static str)] {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("events.k8s.io", "Event") => EVENT,
        _ => &[],
    }
}

/// Turns a stored object into the form that `resource` shows.
pub fn from_storage(resource: &Resource, object: &mut Value) {
    for (stored, shown) in renames(resource) {
        rename(object, stored, shown);
    }
}

/// Turns an object in the form that `resource` shows into the one that is stored.
pub fn to_storage(resource: &Resource, object: &mut Value) {
    for (stored, shown) in renames(resource) {
        rename(object, shown, stored);
    }
}

fn rename(object: &mut Value, from: &str, to: &str) {
    let Some(object) = object.as_object_mut() else { return };
    if let Some(value) = object.remove(from) {
        object.insert(to.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_api::scheme::Scheme;
    use serde_json::json;

    #[test]
    fn an_event_of_the_new_group_is_stored_in_the_old_form() {
        let scheme = Scheme::builtin();
        let events = scheme.by_plural("events.k8s.io", "v1", "events").unwrap();
        let shown = json!({"regarding": {"name": "p"}, "note": "n", "reason": "R", "deprecatedCount": 3});
        let mut object = shown.clone();
        to_storage(events, &mut object);
        assert_eq!(object, json!({"involvedObject": {"name": "p"}, "message": "n", "reason": "R", "count": 3}));
        from_storage(events, &mut object);
        assert_eq!(object, shown);
    }
}
