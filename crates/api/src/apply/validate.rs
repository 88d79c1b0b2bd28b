//! Whether an applied configuration has the form of its type.
// upstream: structured-merge-diff typed/validate.go
use serde_json::Value;

use super::node::{Form, Node};
use super::schema::Scalar;

/// What is wrong with `value`, each with its path; nothing if it is well-formed.
pub(super) fn validate(value: &Value, node: Node<'_>) -> Vec<String> {
    let mut errors = Vec::new();
    walk(value, node, "", &mut errors);
    errors
}

/// The errors as one text.
pub(super) fn text(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        several => format!("errors:\n{}", several.iter().map(|e| format!("  {e}")).collect::<Vec<_>>().join("\n")),
    }
}

fn report(at: &str, what: &str, errors: &mut Vec<String>) {
    errors.push(if at.is_empty() { what.to_owned() } else { format!("{at}: {what}") });
}

fn walk(value: &Value, node: Node<'_>, at: &str, errors: &mut Vec<String>) {
    match value {
        Value::Null => {}
        Value::Object(map) if node.is_map() => {
            for (key, value) in map {
                let below = node.inner_field(key);
                let path = format!("{at}.{key}");
                if matches!(below, Node::Undeclared) {
                    report(&path, "field not declared in schema", errors);
                    return;
                }
                walk(value, below, &path, errors);
            }
        }
        Value::Array(items) if node.is_list() => {
            let keyed = node.form(value) == Form::List;
            let mut seen: Vec<String> = Vec::new();
            for (i, item) in items.iter().enumerate() {
                let mut path = format!("{at}[{i}]");
                if keyed {
                    let edge = match node.edge(item) {
                        Ok(edge) => edge,
                        Err(why) => return report(at, &format!("element {i}: {why}"), errors),
                    };
                    let key = super::field_set::shown(&edge);
                    if seen.contains(&edge) {
                        report(at, &format!("duplicate entries for key {key}"), errors);
                    }
                    path = format!("{at}{key}");
                    seen.push(edge);
                }
                walk(item, node.inner_item(), &path, errors);
            }
        }
        other if node.is_map() && !scalar_fits(other, node) => {
            report(at, &format!("expected map, got {}", go_value(other)), errors);
        }
        other if node.is_list() && !scalar_fits(other, node) => {
            report(at, &format!("expected list, got {}", go_value(other)), errors);
        }
        other if !scalar_fits(other, node) => {
            let expected = match node.scalar() {
                Scalar::Number => format!("expected numeric (int or float), got {}", go_type(other)),
                Scalar::String => format!("expected string, got {}", go_value(other)),
                Scalar::Bool => format!("expected boolean, got {}", go_value(other)),
                Scalar::Any | Scalar::None => format!("expected any scalar, got {}", go_value(other)),
            };
            report(at, &expected, errors);
        }
        _ => {}
    }
}

fn scalar_fits(value: &Value, node: Node<'_>) -> bool {
    match (node.scalar(), value) {
        (_, Value::Object(_) | Value::Array(_)) | (Scalar::None, _) => false,
        (Scalar::Any, _) => true,
        (Scalar::String, v) => v.is_string(),
        (Scalar::Number, v) => v.is_number(),
        (Scalar::Bool, v) => v.is_boolean(),
    }
}

/// The type of a value as Go prints it.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go prints it with `%v` for the reader of unstructured values.
fn go_value(value: &Value) -> String {
    format!("&{{{}}}", crate::patch::strategic::go_value(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::lookup;
    use serde_json::json;

    #[test]
    fn unknown_fields_wrong_types_and_duplicates_are_found() {
        let node = Node::Struct(lookup("apps", "v1", "Deployment").unwrap());
        let wrong = |spec: Value| text(&validate(&json!({"spec": spec}), node));
        assert_eq!(wrong(json!({"replicas": 1, "paused": null})), "errors:\n");
        assert_eq!(wrong(json!({"foo": 1})), ".spec.foo: field not declared in schema");
        assert_eq!(wrong(json!({"replicas": "a"})), ".spec.replicas: expected numeric (int or float), got string");
        let containers = json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}});
        assert_eq!(wrong(containers), ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]");
        assert_eq!(
            wrong(json!({"selector": {"matchLabels": {"a": "b"}, "x": 1}})),
            ".spec.selector.x: field not declared in schema"
        );
    }
}
