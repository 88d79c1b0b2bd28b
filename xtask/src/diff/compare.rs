//! Where two values differ, as a list of places. Start at [`changes`].
use serde_json::{Map, Value};

/// One place where upstream's value and ours differ; `None` where there is nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The place: field names with dots between, indices in brackets.
    pub path: String,
    /// What upstream has there.
    pub theirs: Option<Value>,
    /// What Pintle has there.
    pub ours: Option<Value>,
}

/// Where `theirs` and `ours` differ.
///
/// The causes of a failure are compared as a set, and its message only if the causes say nothing: otherwise one missing
/// cause would be told three times.
///
/// Answers with different codes differ in everything else too: only code and message are told then.
pub fn changes(theirs: &Value, ours: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    if theirs["code"] != ours["code"] {
        let outcome = |answer: &Value| match &answer["body"]["message"] {
            Value::Null => Some(answer["code"].clone()),
            message => Some(Value::Array(vec![answer["code"].clone(), message.clone()])),
        };
        return vec![Change { path: "code".into(), theirs: outcome(theirs), ours: outcome(ours) }];
    }
    walk(String::new(), theirs, ours, &mut found);
    if found.iter().any(|change| change.path.contains("details.causes")) {
        found.retain(|change| change.path != "body.message");
    }
    found
}

fn walk(path: String, theirs: &Value, ours: &Value, found: &mut Vec<Change>) {
    match (theirs, ours) {
        (a, b) if a == b => {}
        (Value::Object(a), Value::Object(b)) => objects(&path, a, b, found),
        (Value::Array(a), Value::Array(b)) if path.ends_with("details.causes") => sets(&path, a, b, found),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                walk(format!("{path}[{i}]"), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) => sets(&path, a, b, found),
        (a, b) => found.push(Change { path, theirs: Some(a.clone()), ours: Some(b.clone()) }),
    }
}

fn objects(path: &str, a: &Map<String, Value>, b: &Map<String, Value>, found: &mut Vec<Change>) {
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, theirs) in a {
        match b.get(key) {
            Some(ours) => walk(inner(key), theirs, ours, found),
            None => found.push(Change { path: inner(key), theirs: Some(theirs.clone()), ours: None }),
        }
    }
    for (key, ours) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
        found.push(Change { path: inner(key), theirs: None, ours: Some(ours.clone()) });
    }
}

/// Items that only one of two lists has; their order if both have the same.
fn sets(path: &str, a: &[Value], b: &[Value], found: &mut Vec<Change>) {
    let before = found.len();
    let mut left: Vec<&Value> = b.iter().collect();
    let place = format!("{path}[]");
    let mut missing: Vec<&Value> = Vec::new();
    for theirs in a {
        match left.iter().position(|ours| *ours == theirs) {
            Some(at) => drop(left.remove(at)),
            None => missing.push(theirs),
        }
    }
    for theirs in missing {
        let same_field = |ours: &&Value| theirs["field"].is_string() && theirs["field"] == ours["field"];
        let ours = left.iter().position(same_field).map(|at| left.remove(at).clone());
        found.push(Change { path: place.clone(), theirs: Some(theirs.clone()), ours });
    }
    found.extend(left.into_iter().map(|ours| Change { path: place.clone(), theirs: None, ours: Some(ours.clone()) }));
    if found.len() == before && a != b {
        let order = |list: &[Value]| Some(Value::Array(list.to_vec()));
        found.push(Change { path: format!("{path} (order)"), theirs: order(a), ours: order(b) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn paths(theirs: &Value, ours: &Value) -> Vec<String> {
        changes(theirs, ours).into_iter().map(|change| change.path).collect()
    }

    #[test]
    fn equal_values_do_not_differ() {
        assert_eq!(changes(&json!({"a": [1, {"b": 2}]}), &json!({"a": [1, {"b": 2}]})), []);
    }

    #[test]
    fn each_place_is_named() {
        let (theirs, ours) = (json!({"a": {"b": [1, 2]}, "c": 1}), json!({"a": {"b": [1, 3]}, "d": 1}));
        assert_eq!(paths(&theirs, &ours), ["a.b[1]", "c", "d"]);
    }

    #[test]
    fn lists_of_different_lengths_are_compared_as_sets() {
        assert_eq!(
            changes(&json!([1, 2, 3]), &json!([3, 1])),
            [Change { path: "[]".into(), theirs: Some(json!(2)), ours: None }]
        );
    }

    #[test]
    fn answers_with_different_codes_differ_in_code_and_message() {
        let theirs = json!({"code": 422, "body": {"message": "no", "details": {"kind": "Pod"}}});
        assert_eq!(
            changes(&theirs, &json!({"code": 201, "body": {"kind": "Pod"}})),
            [Change { path: "code".into(), theirs: Some(json!([422, "no"])), ours: Some(json!(201)) }]
        );
    }

    #[test]
    fn a_cause_with_another_message_is_one_difference() {
        let causes = |message: &str| json!([{"field": "x"}, {"field": "a", "message": message}, {"field": "y"}]);
        let answer = |causes: Value| json!({"details": {"causes": causes}});
        let (theirs, ours) = (answer(causes("one")), answer(causes("two")));
        assert_eq!(changes(&theirs, &ours).len(), 1);
    }

    #[test]
    fn causes_stand_for_the_message() {
        let status =
            |causes: Value, message: &str| json!({"body": {"message": message, "details": {"causes": causes}}});
        let theirs = status(json!([{"field": "a"}, {"field": "b"}]), "a, b");
        assert_eq!(paths(&theirs, &status(json!([{"field": "b"}]), "b")), ["body.details.causes[]"]);
        let ours = status(json!([{"field": "b"}, {"field": "a"}]), "b, a");
        assert_eq!(paths(&theirs, &ours), ["body.details.causes (order)"]);
    }
}
