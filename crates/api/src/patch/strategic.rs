//! Strategic merge patch on the schema facts. Start at [`merge`].
// upstream: apimachinery pkg/util/strategicpatch, patch.go
use serde_json::{Map, Value};

use super::{PatchError, go_kind};
use crate::{
    decode::drop_nulls,
    facts::{Field, Shape, Type},
    field::go_quote,
};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList";
const SET_ELEMENT_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;
type Result<T> = std::result::Result<T, PatchError>;

/// What the facts say of the values below a key.
#[derive(Clone, Copy)]
enum Schema {
    Type(&'static Type),
    /// The values of a map all have this shape.
    Map(&'static Shape),
    /// Nothing is known, so nothing merges by key.
    Unknown,
}

/// How one field is patched.
struct FieldSchema {
    below: Schema,
    merge: bool,
    replace: bool,
    merge_key: &'static str,
}

impl Schema {
    fn of(shape: &Shape) -> Schema {
        match shape {
            Shape::Object(id) => Schema::Type(id.get()),
            Shape::Map(value) => Schema::Map(value),
            Shape::List(item) | Shape::WrappedList(item) => Schema::of(item),
            _ => Schema::Unknown,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Schema::Type(ty) => ty.go_name(),
            Schema::Map(_) | Schema::Unknown => "",
        }
    }

    fn field(self, key: &str) -> Result<FieldSchema> {
        let of = |f: &Field| FieldSchema {
            below: Schema::of(&f.shape),
            merge: f.flags.merge(),
            replace: f.flags.replace(),
            merge_key: f.merge_key,
        };
        match self {
            Schema::Type(ty) => ty.field(key).map(of).ok_or_else(|| {
                let (key, path) = (go_quote(key), ty.go_type());
                PatchError::Type(format!("unable to find api field {key} in {path}"))
            }),
            Schema::Map(shape) => {
                Ok(FieldSchema { below: Schema::of(shape), merge: false, replace: false, merge_key: "" })
            }
            Schema::Unknown => Ok(FieldSchema { below: Schema::Unknown, merge: false, replace: false, merge_key: "" }),
        }
    }
}

/// Merges `patch` into `original`, an object of type `ty`.
pub fn merge(original: &mut Value, patch: Value, ty: &'static Type) -> Result<()> {
    let Value::Object(patch) = patch else {
        let kind = go_kind(&patch);
        let text = format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}");
        return Err(PatchError::Malformed(text));
    };
    merge_map(original, patch, Schema::Type(ty))
}

fn malformed<T>(what: &str) -> Result<T> {
    Err(PatchError::Malformed(what.into()))
}

fn unknown_directive<T>(directive: &Value, patch: &Object) -> Result<T> {
    let map = go_map(patch);
    let directive = match directive {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    Err(PatchError::Type(format!("unknown patch type: {directive} in map: {map}")))
}

/// A map as Go's `%v` prints it.
pub fn go_map(map: &Object) -> String {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_unstable();
    let items: Vec<String> = keys.into_iter().map(|k| format!("{k}:{}", go_value(&map[k]))).collect();
    format!("map[{}]", items.join(" "))
}

/// A value as Go's `%v` prints it.
pub(crate) fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => go_map(map),
        other => other.to_string(),
    }
}

fn merge_map(original: &mut Value, mut patch: Object, schema: Schema) -> Result<()> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                *original = Value::Object(patch);
            }
            Some("delete") => *original = Value::Object(Object::new()),
            _ => return unknown_directive(directive, &patch),
        }
        return Ok(());
    }
    if !original.is_object() {
        *original = Value::Object(Object::new());
    }
    let Value::Object(original) = original else { return Ok(()) };
    retain_keys(original, &mut patch)?;
    ordered_lists(original, &mut patch, schema)?;
    for (key, value) in patch {
        merge_key_value(original, key, value, schema)?;
    }
    Ok(())
}

fn merge_key_value(original: &mut Object, key: String, mut value: Value, schema: Schema) -> Result<()> {
    let is_delete_list = key.starts_with(DELETE_FROM_PRIMITIVE_LIST);
    let key = if is_delete_list {
        if !value.is_array() {
            return malformed("invalid patch format of primitive list");
        }
        directive_key(&key, DELETE_FROM_PRIMITIVE_LIST, "invalid patch format of primitive list")?.to_owned()
    } else {
        key
    };
    if value.is_null() {
        original.remove(&key);
        return Ok(());
    }
    let current = original.get_mut(&key).filter(|c| go_kind(c) == go_kind(&value));
    match (current, value) {
        (Some(current @ Value::Object(_)), Value::Object(patch)) => {
            let field = schema.field(&key)?;
            if field.replace {
                *current = Value::Object(patch);
                return Ok(());
            }
            merge_map(current, patch, field.below)
        }
        (Some(Value::Array(current)), Value::Array(patch)) => {
            let field = schema.field(&key)?;
            let own = std::mem::take(current);
            *current =
                if field.merge || is_delete_list { merge_list(own, patch, &field, is_delete_list)? } else { patch };
            Ok(())
        }
        (_, _) if is_delete_list => Ok(()),
        (_, patch) => {
            value = patch;
            // Nulls below a value that is new to the object remove nothing, so they go away.
            drop_nulls(&mut value);
            match without_directives(value) {
                Some(value) => original.insert(key, value),
                None => original.remove(&key),
            };
            Ok(())
        }
    }
}

/// `$setElementOrder/containers` → `containers`.
fn directive_key<'a>(key: &'a str, prefix: &str, error: &str) -> Result<&'a str> {
    match key.split_once('/') {
        Some((p, rest)) if p == prefix => Ok(rest),
        _ => malformed(error),
    }
}

/// `$retainKeys`: fields of the object that the list does not name go away.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<()> {
    const ERROR: &str = "invalid patch format of retainKeys";
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(list) = list else { return malformed(ERROR) };
    let keeps = |key: &str| list.iter().any(|v| v.as_str() == Some(key));
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_FROM_PRIMITIVE_LIST) || key.starts_with(SET_ELEMENT_ORDER);
        if !value.is_null() && !directive && !keeps(key) {
            return malformed(ERROR);
        }
    }
    original.retain(|key, _| keeps(key));
    Ok(())
}

/// `$setElementOrder/<list>`: merges the lists it names and brings them into its order.
fn ordered_lists(original: &mut Object, patch: &mut Object, schema: Schema) -> Result<()> {
    const ERROR: &str = "invalid patch format of setElementOrder list";
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let Some(order) = patch.remove(&directive) else { continue };
        let Value::Array(order) = order else { return Err(bad_argument(&order)) };
        let key = directive_key(&directive, SET_ELEMENT_ORDER, ERROR)?;
        if let Some(other) = original.get(key).filter(|v| !v.is_array()) {
            return Err(bad_argument(other));
        }
        if let Some(other) = patch.get(key).filter(|v| !v.is_array()) {
            return Err(bad_argument(other));
        }
        let field = schema.field(key)?;
        let patched = match patch.remove(key) {
            Some(Value::Array(list)) => Some(list),
            _ => None,
        };
        if let Some(list) = &patched {
            check_order(list, &order, field.merge_key)?;
        }
        let own = match original.get_mut(key) {
            Some(Value::Array(list)) => Some(std::mem::take(list)),
            _ => None,
        };
        let server_order = own.clone().unwrap_or_default();
        let merged = match (own, patched) {
            (None, None) => continue,
            (Some(own), None) => own,
            (None, Some(list)) => list.into_iter().filter_map(without_directives).collect(),
            (Some(own), Some(list)) if field.merge => merge_list(own, list, &field, false)?,
            (Some(_), Some(list)) => list,
        };
        let both = in_order(merged, &order, &server_order, field.merge_key)?;
        original.insert(key.to_owned(), Value::Array(both));
    }
    Ok(())
}

fn bad_argument(got: &Value) -> PatchError {
    let got = match got {
        Value::Object(_) => "map[string]interface {}",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::Array(_) => "[]interface {}",
        Value::Null => "%!s(<nil>)",
    };
    PatchError::Type(format!("expected a []interface {{}}, but received a {got}"))
}

/// The items of the patch must come in the order that it declares.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<()> {
    if order.is_empty() {
        return Ok(());
    }
    let mut at = order.iter();
    for item in patch.iter().filter(|i| i.get(DIRECTIVE).is_none()) {
        if identity(item, merge_key)?.is_some_and(|own| at.any(|o| identity(o, merge_key) == Ok(Some(own)))) {
            continue;
        }
        let (patch, order) = (go_value(&patch.into()), go_value(&order.into()));
        let text = format!("The order in patch list:\n{patch}\n doesn't match {SET_ELEMENT_ORDER} list:\n{order}\n");
        return Err(PatchError::Type(text));
    }
    Ok(())
}

/// What makes an item of a list itself: the value of its merge key, or for scalars the item.
fn identity<'a>(item: &'a Value, merge_key: &str) -> Result<Option<&'a Value>> {
    match item {
        Value::Object(map) if !merge_key.is_empty() => match map.get(merge_key) {
            Some(value) => Ok(Some(value)),
            None => {
                Err(PatchError::Type(format!("map: {} does not contain declared merge key: {merge_key}", go_map(map))))
            }
        },
        _ if !merge_key.is_empty() => Err(PatchError::Type("value for key 0 is not a map".into())),
        other => Ok(Some(other)),
    }
}

fn position(list: &[Value], wanted: &Value, merge_key: &str) -> Option<usize> {
    let same = |item: &Value| match item {
        Value::Object(map) if !merge_key.is_empty() => map.get(merge_key) == Some(wanted),
        other => other == wanted,
    };
    list.iter().position(same)
}

fn merge_list(mut own: Vec<Value>, patch: Vec<Value>, field: &FieldSchema, is_delete_list: bool) -> Result<Vec<Value>> {
    if own.is_empty() && patch.is_empty() {
        return Ok(own);
    }
    let kinds = |list: &[Value], map: bool| list.iter().any(|v| v.is_object() == map);
    let (maps, scalars) = (kinds(&own, true) || kinds(&patch, true), kinds(&own, false) || kinds(&patch, false));
    if own.iter().chain(&patch).any(Value::is_array) {
        return Err(PatchError::DoesNotApply);
    }
    if maps && scalars {
        return Err(PatchError::Type("list element types are not identical".into()));
    }
    if !maps {
        if is_delete_list {
            own.retain(|v| !patch.contains(v));
            return Ok(own);
        }
        let server_order = own.clone();
        let mut merged: Vec<Value> = Vec::with_capacity(own.len() + patch.len());
        for v in own.into_iter().chain(patch.iter().cloned()) {
            if !merged.contains(&v) {
                merged.push(v);
            }
        }
        return in_order(merged, &patch, &server_order, "");
    }
    let key = field.merge_key;
    if key.is_empty() {
        let name = field.below.name();
        return Err(PatchError::Type(format!("cannot merge lists without merge key for {name}")));
    }
    let mut items = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Value::Object(map) = &item else { continue };
        let Some(directive) = map.get(DIRECTIVE) else {
            items.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let gone = identity(&item, key)?;
                own.retain(|o| o.get(key) != gone);
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(PatchError::Type("merging lists cannot yet be specified in the patch".into()));
            }
            _ => return unknown_directive(directive, map),
        }
    }
    if replace {
        return Ok(items);
    }
    let server_order = own.clone();
    // Only the identities of the patch's items matter for the order.
    let patch_order: Vec<Value> = items
        .iter()
        .map(|i| Ok(identity(i, key)?.map(|v| Value::Object([(key.to_owned(), v.clone())].into_iter().collect()))))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    for item in items {
        let at = identity(&item, key)?.and_then(|wanted| position(&own, wanted, key));
        match (at, item) {
            (Some(at), Value::Object(patch)) => merge_map(&mut own[at], patch, field.below)?,
            (_, item) => own.push(item),
        }
    }
    in_order(own, &patch_order, &server_order, key)
}

/// Items that `order` names come in its order, the others stay in the order of the server's list before and between them.
// upstream: normalizeElementOrder
fn in_order(merged: Vec<Value>, order: &[Value], server_order: &[Value], merge_key: &str) -> Result<Vec<Value>> {
    let index = |list: &[Value], item: &Value| -> Result<Option<usize>> {
        Ok(identity(item, merge_key)?.and_then(|wanted| position(list, wanted, merge_key)))
    };
    let mut patch_items = Vec::new();
    let mut server_items = Vec::new();
    for item in merged {
        let in_server = index(server_order, &item)?;
        match index(order, &item)? {
            Some(at) => patch_items.push((at, in_server, item)),
            None => server_items.push((in_server, item)),
        }
    }
    patch_items.sort_by_key(|(at, _, _)| *at);
    server_items.sort_by_key(|(at, _)| at.unwrap_or(usize::MAX));
    let mut all = Vec::with_capacity(patch_items.len() + server_items.len());
    let mut left = server_items.into_iter().peekable();
    let mut right = patch_items.into_iter().peekable();
    loop {
        let left_first = match (left.peek(), right.peek()) {
            (None, None) => return Ok(all),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((Some(l), _)), Some((_, Some(r), _))) => l < r,
            (Some(_), Some(_)) => false,
        };
        if left_first {
            all.extend(left.next().map(|(_, item)| item));
        } else {
            all.extend(right.next().map(|(_, _, item)| item));
        }
    }
}

/// A value of the patch as it enters the object where nothing was: without directives. `None`: it is one itself.
// upstream: removeDirectives
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            let kept = map
                .into_iter()
                .filter(|(k, _)| {
                    k != RETAIN_KEYS && !k.starts_with(DELETE_FROM_PRIMITIVE_LIST) && !k.starts_with(SET_ELEMENT_ORDER)
                })
                .filter_map(|(k, v)| Some((k, without_directives(v)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::lookup;
    use serde_json::json;

    fn patched(kind: (&str, &str), mut original: Value, patch: Value) -> Value {
        merge(&mut original, patch, lookup(kind.0, "v1", kind.1).unwrap()).unwrap();
        original
    }

    #[allow(clippy::needless_pass_by_value, reason = "reads better in the tests")]
    fn containers(list: Value) -> Value {
        json!({"spec": {"containers": list}})
    }

    const POD: (&str, &str) = ("", "Pod");

    #[test]
    fn lists_of_objects_merge_by_key_and_new_items_come_first() {
        let original = containers(json!([{"name": "a", "image": "1"}, {"name": "b"}]));
        let patch = containers(json!([{"name": "c"}, {"name": "a", "image": "2"}]));
        let wanted = containers(json!([{"name": "c"}, {"name": "a", "image": "2"}, {"name": "b"}]));
        assert_eq!(patched(POD, original, patch), wanted);
    }

    #[test]
    fn items_are_deleted_and_lists_replaced_by_directives() {
        let original = || containers(json!([{"name": "a"}, {"name": "b"}]));
        let patch = containers(json!([{"name": "a", "$patch": "delete"}]));
        assert_eq!(patched(POD, original(), patch), containers(json!([{"name": "b"}])));
        let patch = containers(json!([{"name": "z"}, {"$patch": "replace"}]));
        assert_eq!(patched(POD, original(), patch), containers(json!([{"name": "z"}])));
        let patch = json!({"spec": {"$patch": "replace", "nodeName": "n"}});
        assert_eq!(patched(POD, original(), patch), json!({"spec": {"nodeName": "n"}}));
        let patch = json!({"spec": {"$patch": "delete"}});
        assert_eq!(patched(POD, original(), patch), json!({"spec": {}}));
    }

    #[test]
    fn atomic_lists_are_replaced() {
        let original = containers(json!([{"name": "a", "args": ["1", "2"]}]));
        let patch = containers(json!([{"name": "a", "args": ["3"]}]));
        assert_eq!(patched(POD, original, patch), containers(json!([{"name": "a", "args": ["3"]}])));
    }

    #[test]
    fn scalar_lists_are_merged_as_sets_and_reduced_by_a_delete_list() {
        let original = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"finalizers": ["b", "c"]}});
        let wanted = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
        assert_eq!(patched(POD, original.clone(), patch), wanted);
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
        assert_eq!(patched(POD, original, patch), json!({"metadata": {"finalizers": ["b"]}}));
    }

    #[test]
    fn set_element_order_orders_the_list() {
        let original = containers(json!([{"name": "a"}, {"name": "s"}, {"name": "b"}]));
        let order = json!([{"name": "b"}, {"name": "c"}, {"name": "a"}]);
        let patch =
            json!({"spec": {"$setElementOrder/containers": order, "containers": [{"name": "c", "image": "x"}]}});
        let result = patched(POD, original, patch);
        let names: Vec<&str> =
            result["spec"]["containers"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
        assert_eq!(names, ["s", "b", "c", "a"]);
        let wrong = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "c"}]}});
        let mut original = containers(json!([{"name": "a"}]));
        let error = merge(&mut original, wrong, lookup("", "v1", "Pod").unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("The order in patch list:\n[map[name:c]]\n doesn't match"), "{error}");
    }

    #[test]
    fn retain_keys_drops_what_the_patch_does_not_name() {
        let strategy = |s: Value| json!({"spec": {"strategy": s}});
        let original = strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}));
        let patch = strategy(json!({"$retainKeys": ["type"], "type": "Recreate"}));
        assert_eq!(patched(("apps", "Deployment"), original, patch), strategy(json!({"type": "Recreate"})));
    }

    #[test]
    fn nulls_remove_and_new_values_come_without_nulls() {
        let original = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        let patch = json!({"metadata": {"labels": {"a": null}, "annotations": {"x": null, "y": "1"}}});
        let wanted = json!({"metadata": {"labels": {"b": "2"}, "annotations": {"y": "1"}}});
        assert_eq!(patched(POD, original, patch), wanted);
    }

    #[test]
    fn ports_merge_by_their_first_key() {
        let ports = |list: Value| json!({"spec": {"ports": list}});
        let original = ports(json!([{"port": 80, "name": "http"}]));
        let result = patched(("", "Service"), original, ports(json!([{"port": 80, "nodePort": 30080}])));
        assert_eq!(result, ports(json!([{"port": 80, "name": "http", "nodePort": 30080}])));
    }

    #[test]
    fn missing_merge_keys_and_unknown_directives_are_refused() {
        let pod = lookup("", "v1", "Pod").unwrap();
        let error = |patch: Value| merge(&mut containers(json!([{"name": "a"}])), patch, pod).unwrap_err().to_string();
        let text = "map: map[image:x] does not contain declared merge key: name";
        assert_eq!(error(containers(json!([{"image": "x"}]))), text);
        assert_eq!(error(json!({"$patch": "x"})), "unknown patch type: x in map: map[$patch:x]");
        assert_eq!(error(json!({"spec": {"$retainKeys": 1}})), "invalid patch format of retainKeys");
    }
}
