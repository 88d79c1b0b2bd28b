//! Objects with one mistake each, made from a valid one. Start at [`mutations`].
use serde_json::{Value, json};

/// An object with one change, and what was changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutation {
    /// The change in words: a JSON pointer and what became of the value there.
    pub name: String,
    /// The object with the change.
    pub object: Value,
}

/// Every mistake at every place of `object` but its type.
pub fn mutations(object: &Value) -> Vec<Mutation> {
    let mut found = Vec::new();
    for pointer in pointers(object) {
        if pointer == "/apiVersion" || pointer == "/kind" {
            continue;
        }
        let Some(value) = object.pointer(&pointer) else { continue };
        if !pointer.is_empty() {
            found.extend(
                removed(object, &pointer).map(|object| Mutation { name: format!("{pointer} removed"), object }),
            );
        }
        for (name, wrong) in mistakes(value) {
            let mut object = object.clone();
            if let Some(place) = object.pointer_mut(&pointer) {
                *place = wrong;
                found.push(Mutation { name: format!("{pointer} {name}"), object });
            }
        }
    }
    found
}

/// The place of every value, parents before children.
fn pointers(value: &Value) -> Vec<String> {
    fn walk(value: &Value, at: String, found: &mut Vec<String>) {
        found.push(at.clone());
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    walk(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
                }
            }
            Value::Array(list) => {
                for (i, value) in list.iter().enumerate() {
                    walk(value, format!("{at}/{i}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, String::new(), &mut found);
    found
}

/// `object` without the value at `pointer`.
fn removed(object: &Value, pointer: &str) -> Option<Value> {
    let (parent, key) = pointer.rsplit_once('/')?;
    let mut object = object.clone();
    match object.pointer_mut(parent)? {
        Value::Object(map) => drop(map.remove(&key.replace("~1", "/").replace("~0", "~"))?),
        Value::Array(list) => drop(list.remove(key.parse().ok()?)),
        _ => return None,
    }
    Some(object)
}

/// What may be wrong instead of `value`.
fn mistakes(value: &Value) -> Vec<(&'static str, Value)> {
    match value {
        Value::String(_) => vec![
            ("empty", json!("")),
            ("no name", json!("A b/c_")),
            ("long", json!("x".repeat(300))),
            ("a number", json!(7)),
            ("an object", json!({"a": 1})),
        ],
        Value::Number(_) => vec![
            ("zero", json!(0)),
            ("negative", json!(-1)),
            ("large", json!(2_147_483_647)),
            ("too large", json!(4_294_967_296_i64)),
            ("a fraction", json!(1.5)),
            ("a string", json!("x")),
        ],
        Value::Bool(flag) => vec![("other", json!(!flag)), ("a string", json!("yes")), ("null", Value::Null)],
        Value::Array(list) => {
            let mut wrong = vec![("emptied", json!([])), ("null", Value::Null), ("an object", json!({}))];
            wrong.push(("with null", Value::Array([list.clone(), vec![Value::Null]].concat())));
            if let Some(first) = list.first() {
                wrong.push(("twice", Value::Array([list.clone(), vec![first.clone()]].concat())));
            }
            wrong
        }
        Value::Object(map) => {
            let mut more = map.clone();
            more.insert("unknownField".into(), json!(1));
            vec![
                ("with an unknown field", Value::Object(more)),
                ("emptied", json!({})),
                ("null", Value::Null),
                ("a string", json!("x")),
                ("a list", json!([])),
            ]
        }
        Value::Null => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mutation_changes_one_place() {
        let object = json!({"kind": "K", "spec": {"a/b": 1, "list": ["x"]}});
        let found = mutations(&object);
        let of = |name: &str| found.iter().find(|m| m.name == name).map(|m| m.object.clone());
        assert_eq!(of("/spec/a~1b removed"), Some(json!({"kind": "K", "spec": {"list": ["x"]}})));
        assert_eq!(of("/spec/a~1b negative"), Some(json!({"kind": "K", "spec": {"a/b": -1, "list": ["x"]}})));
        assert_eq!(of("/spec/list twice"), Some(json!({"kind": "K", "spec": {"a/b": 1, "list": ["x", "x"]}})));
        assert_eq!(of("/spec/list/0 removed"), Some(json!({"kind": "K", "spec": {"a/b": 1, "list": []}})));
        assert!(of("/kind removed").is_none(), "the type says where the object is sent");
        assert!(found.iter().all(|m| m.object != object), "every mutation changes something");
    }
}
