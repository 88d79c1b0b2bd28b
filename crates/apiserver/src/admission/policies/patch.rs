//! What the expression of a mutation makes of an object. Start at [`applied`] and [`patched`].
// upstream: mutating/patch
use crate::registry::ownership::structure;
use pintle_api::apply;
use pintle_api::patch::json_patch;
use pintle_api::scheme::Resource;
use pintle_cel::Value as Cel;
use pintle_cel::value::{Key, List, Map};
use serde_json::Value;

/// Makes the new object from the current one and an expression's value.
pub(super) type Make = fn(&Value, &Cel<'_>, &Resource) -> Result<Value, String>;

/// Merges an applied configuration.
pub(super) fn applied(current: &Value, made: &Cel<'_>, resource: &Resource) -> Result<Value, String> {
    check_names(made, "Object").map_err(|why| format!("type mismatch: {why}"))?;
    let config = made.to_json().filter(Value::is_object);
    let config = config
        .ok_or_else(|| format!("unsupported return type from ApplyConfiguration expression: {}", made.type_name()))?;
    let merged = match structure(resource) {
        Some(structure) => apply::merge_unowned(current.clone(), &config, structure).map_err(|atomics| {
            let why = "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs";
            format!("error applying patch: {why}: {}", atomics.join(", "))
        })?,
        None => deep_merge(current.clone(), &config),
    };
    Ok(merged)
}

/// Where no type is known: objects are merged, everything else is replaced.
fn deep_merge(current: Value, config: &Value) -> Value {
    match (current, config) {
        (Value::Object(mut current), Value::Object(config)) => {
            for (key, value) in config {
                let held = current.remove(key).unwrap_or_default();
                current.insert(key.clone(), deep_merge(held, value));
            }
            Value::Object(current)
        }
        (_, config) => config.clone(),
    }
}

/// Applies JSON patch operations; a test that fails leaves the object as it is.
pub(super) fn patched(current: &Value, made: &Cel<'_>, _: &Resource) -> Result<Value, String> {
    let Cel::List(operations) = made else {
        return Err(format!(
            "type mismatch: JSONPatchType.expression should evaluate to array, got {}",
            made.type_name()
        ));
    };
    let mut patch = Vec::new();
    for operation in operations.iter() {
        if let Cel::Map(fields) = &operation
            && let Some(value) = fields.field("value")
        {
            check_names(&value, "").map_err(|why| format!("type mismatch: {why}"))?;
        }
        let json = operation.to_json();
        patch.push(json.ok_or("JSONPath valueExpression evaluated to a type that could not marshal to JSON")?);
    }
    let tests = patch.iter().any(|operation| operation["op"] == "test");
    let mut new = current.clone();
    match json_patch(&mut new, Value::Array(patch)) {
        Ok(()) => Ok(new),
        Err(_) if tests => Ok(current.clone()),
        Err(error) => Err(format!("JSON Patch: {error}")),
    }
}

/// Objects are constructed under the name of the place where they stand: `Object.spec` at `spec`. An empty `path` takes the
/// first name as given.
// upstream: dynamic.ObjectVal, CheckTypeNamesMatchFieldPathNames
fn check_names(value: &Cel<'_>, path: &str) -> Result<(), String> {
    match value {
        Cel::Map(Map::Made(fields, name)) => {
            let name = name.as_deref();
            if let Some(name) = name.filter(|name| !path.is_empty() && *name != path) {
                return Err(format!(
                    "unexpected type name {name:?}, expected {path:?}, which matches field name path from root Object type"
                ));
            }
            let Some(path) = name else {
                // A plain map: what it holds has no place of its own.
                return Ok(());
            };
            fields.iter().try_for_each(|(key, value)| match key {
                Key::String(key) => check_names(value, &format!("{path}.{key}")),
                _ => Ok(()),
            })
        }
        Cel::List(List::Made(items)) => items.iter().try_for_each(|item| check_names(item, path)),
        Cel::Optional(Some(inner)) => check_names(inner, path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::policies::definition::with_patch_types;
    use pintle_api::scheme::Scheme;
    use pintle_cel::{Activation, Budget, Env};
    use serde_json::json;

    fn run(make: Make, current: &Value, source: &str) -> Result<Value, String> {
        let scheme = Scheme::builtin();
        let deployments = scheme.by_plural("apps", "v1", "deployments").unwrap();
        let program = with_patch_types(Env::new()).compile(source).unwrap();
        let value = program.eval(&Activation::new(), &mut Budget::default()).unwrap();
        make(current, &value, deployments)
    }

    #[test]
    fn a_configuration_merges_lists_by_their_keys() {
        let current = json!({"metadata": {"labels": {"x": "y"}}, "spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "i"}]}}}});
        let source = r#"Object{metadata: Object.metadata{labels: {"a": "b"}}, spec: Object.spec{template:
            Object.spec.template{spec: Object.spec.template.spec{containers: [
                Object.spec.template.spec.containers{name: "a", imagePullPolicy: "Always"},
                Object.spec.template.spec.containers{name: "b", image: "j"}]}}}}"#;
        let made = run(applied, &current, source).unwrap();
        assert_eq!(made["metadata"]["labels"], json!({"a": "b", "x": "y"}));
        let containers = &made["spec"]["template"]["spec"]["containers"];
        assert_eq!(containers[0], json!({"name": "a", "image": "i", "imagePullPolicy": "Always"}));
        assert_eq!(containers[1]["name"], "b");
    }

    #[test]
    fn atomic_fields_and_misplaced_objects_are_refused() {
        let atomic = "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}";
        let error = run(applied, &json!({}), atomic).unwrap_err();
        assert_eq!(
            error,
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector"
        );
        let error = run(applied, &json!({}), "Object{spec: Object.wrong{replicas: 1}}").unwrap_err();
        assert!(error.contains("unexpected type name \"Object.wrong\", expected \"Object.spec\""), "{error}");
    }

    #[test]
    fn patches_add_and_test() {
        let current = json!({"metadata": {"labels": {"a": "b"}}});
        let add = r#"[JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("x/y"), value: "z"}]"#;
        assert_eq!(run(patched, &current, add).unwrap()["metadata"]["labels"]["x/y"], "z");
        let test = r#"[JSONPatch{op: "test", path: "/metadata/labels/a", value: "no"}, JSONPatch{op: "remove", path: "/metadata"}]"#;
        assert_eq!(run(patched, &current, test).unwrap(), current);
        let object = r#"[JSONPatch{op: "add", path: "/spec", value: Object.spec{replicas: 2}}]"#;
        assert_eq!(run(patched, &current, object).unwrap()["spec"], json!({"replicas": 2}));
    }
}
