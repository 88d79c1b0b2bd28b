//! Events of the group `events.k8s.io`, which are judged more strictly than those of the core group.
// upstream: pkg/apis/core/validation/events.go
use super::common::internal;
use super::field::{Errors, Field};
use crate::value::{Read, same};
use pintle_api::field::{FieldError, Path};
use pintle_api::meta::ObjectExt;
use pintle_api::names;
use serde_json::Value;

/// Fields that stay, by the name of the core group's Event (which messages show) and by that of this group.
/// Upstream looks at the reason twice.
const KEPT: [(&str, &str); 14] = [
    ("involvedObject", "regarding"),
    ("reason", "reason"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reason", "reason"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

/// A new Event.
pub(crate) fn event(object: &Value) -> Errors {
    let mut errors = common(object);
    series(object, &mut errors);
    let time = Field::root(object, "eventTime");
    time.required("", &mut errors);
    let kind = object.text("type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid(&Path::root("type"), "", format!("has invalid value: {kind}")));
    }
    let deprecated = ["firstTimestamp", "lastTimestamp", "count", "source"];
    for name in deprecated {
        let field = KEPT.iter().find(|(core, _)| *core == name).map_or(name, |(_, own)| own);
        if !object.is_zero(field) && !is_empty_source(object.field(field)) {
            errors.push(FieldError::invalid(&Path::root(name), "", "needs to be unset"));
        }
    }
    errors
}

fn is_empty_source(value: &Value) -> bool {
    value.is_object() && value.text("component").is_empty() && value.text("host").is_empty()
}

/// A changed Event: all but its series and metadata stays.
pub(crate) fn event_update(new: &Value, old: &Value) -> Errors {
    let mut errors = common(new);
    if !same(new.field("series"), old.field("series")) {
        series(new, &mut errors);
    }
    for (shown, field) in KEPT {
        let (now, path) = (new.field(field), Path::root(shown));
        if !same(now, old.field(field)) {
            let value = match field {
                "regarding" | "related" if !now.is_null() => internal("api.core.v1.ObjectReference", now),
                "deprecatedSource" => internal("api.core.v1.EventSource", now),
                "related"
                | "deprecatedCount"
                | "eventTime"
                | "deprecatedFirstTimestamp"
                | "deprecatedLastTimestamp" => now.into(),
                _ if now.is_null() => "".into(),
                _ => now.into(),
            };
            errors.push(FieldError::invalid(&path, value, "field is immutable"));
        }
    }
    errors
}

fn series(object: &Value, errors: &mut Errors) {
    let series = Field::root(object, "series");
    if !series.is_set() {
        return;
    }
    let count = Path::root("series.count");
    if series.value.int("count") < 2 {
        errors.push(FieldError::invalid(&count, "", "should be at least 2"));
    }
    series.child("lastObservedTime").required("", errors);
}

/// What is asked of every Event.
fn common(object: &Value) -> Errors {
    let mut errors = Errors::new();
    let regarding = object.field("regarding").text("namespace");
    let namespace = object.namespace();
    let mismatch = if object.is_zero("eventTime") {
        if regarding.is_empty() { !matches!(namespace, "" | "default") } else { namespace != regarding }
    } else {
        regarding.is_empty() && !matches!(namespace, "default" | "kube-system")
    };
    if mismatch {
        let path = Path::root("involvedObject.namespace");
        errors.push(FieldError::invalid(&path, regarding, "does not match event.namespace"));
    }
    if !object.is_zero("eventTime") {
        let controller = Field::root(object, "reportingController");
        controller.required("", &mut errors);
        controller.text_checked(names::qualified_name, &mut errors);
        for (shown, field, limit) in [
            ("reportingInstance", "reportingInstance", 128),
            ("action", "action", 128),
            ("reason", "reason", 128),
            ("message", "note", 1024),
        ] {
            let text = Field { value: object.field(field), path: Path::root(shown) };
            if shown != "message" {
                text.required("", &mut errors);
            }
            if text.text().len() > limit {
                errors.push(FieldError::invalid(&text.path, "", format!("can have at most {limit} characters")));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn valid() -> Value {
        json!({
            "metadata": {"name": "e", "namespace": "default"}, "eventTime": "2024-01-01T00:00:00.000000Z",
            "reportingController": "a.b/c", "reportingInstance": "c-1", "action": "Doing", "reason": "Started",
            "type": "Normal",
        })
    }

    #[test]
    fn an_event_of_the_new_group_names_who_reports_what() {
        assert!(event(&valid()).is_empty(), "{:?}", event(&valid()));
        for field in ["reportingInstance", "action", "reason"] {
            let mut object = valid();
            object.as_object_mut().expect("an object").remove(field);
            let errors: Vec<String> = event(&object).iter().map(ToString::to_string).collect();
            assert_eq!(errors, [format!("{field}: Required value")]);
        }
    }

    #[test]
    fn only_the_series_of_an_event_changes() {
        let mut changed = valid();
        changed["note"] = json!("x");
        changed["series"] = json!({"count": 1, "lastObservedTime": "2024-01-01T00:00:00.000000Z"});
        let errors: Vec<String> = event_update(&changed, &valid()).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "series.count: Invalid value: \"\": should be at least 2",
                "message: Invalid value: \"x\": field is immutable"
            ]
        );
    }
}
