//! What upstream's storage forgets: protobuf cannot tell an empty list from none. Start at [`forget_empty`].
use std::sync::LazyLock;

use serde_json::Value;

use crate::facts::{self, Field, Shape, Type};

/// Sets the empty lists and maps that Go writes in any case to null, as they come back from upstream's storage. Definitions
/// and APIServices are stored as JSON and keep them.
pub fn forget_empty(value: &mut Value, ty: &'static Type) {
    if !is_json(ty) {
        forget(value, ty);
    }
}

fn is_json(ty: &Type) -> bool {
    ["apiextensions-apiserver.", "kube-aggregator."].iter().any(|package| ty.name.starts_with(package))
}

fn forget(value: &mut Value, ty: &'static Type) {
    let (Some(object), Some(fields)) = (value.as_object_mut(), ON_THE_WAY.get(ty.id().index())) else { return };
    for field in fields.iter().filter_map(|index| ty.fields.get(*index)) {
        let Some(value) = object.get_mut(field.name) else { continue };
        if is_forgotten(field) && is_empty(value) {
            *value = Value::Null;
        } else {
            forget_in(value, &field.shape);
        }
    }
}

fn forget_in(value: &mut Value, shape: &Shape) {
    match (shape, value) {
        (Shape::Object(id), value) => forget(value, id.get()),
        (Shape::List(item), Value::Array(list)) => list.iter_mut().for_each(|value| forget_in(value, item)),
        (Shape::Map(item), Value::Object(map)) => map.values_mut().for_each(|value| forget_in(value, item)),
        _ => {}
    }
}

fn is_forgotten(field: &Field) -> bool {
    matches!(field.shape, Shape::List(_) | Shape::Map(_)) && !field.omits_zero()
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}

/// For each type the fields that may be forgotten or lead to such.
static ON_THE_WAY: LazyLock<Vec<Vec<usize>>> = LazyLock::new(|| {
    let types: Vec<&'static Type> = facts::all().iter().collect();
    let mut leads: Vec<bool> = types.iter().map(|ty| ty.fields.iter().any(is_forgotten)).collect();
    loop {
        let more: Vec<bool> = types
            .iter()
            .enumerate()
            .map(|(i, ty)| leads[i] || ty.fields.iter().any(|field| leads_on(&field.shape, &leads)))
            .collect();
        if more == leads {
            break;
        }
        leads = more;
    }
    let counts = |field: &Field| is_forgotten(field) || leads_on(&field.shape, &leads);
    let of_type = |ty: &&'static Type| {
        ty.fields.iter().enumerate().filter(|(_, field)| counts(field)).map(|(index, _)| index).collect()
    };
    types.iter().map(of_type).collect()
});

fn leads_on(shape: &Shape, leads: &[bool]) -> bool {
    match shape {
        Shape::Object(id) => leads.get(id.index()).copied().unwrap_or_default(),
        shape => shape.item().is_some_and(|item| leads_on(item, leads)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::lookup;
    use serde_json::json;

    fn stored(group: &str, kind: &str, mut object: Value) -> Value {
        forget_empty(&mut object, lookup(group, "v1", kind).unwrap());
        object
    }

    #[test]
    fn an_empty_list_that_is_always_written_is_none() {
        let node = stored("storage.k8s.io", "CSINode", json!({"spec": {"drivers": []}}));
        assert_eq!(node["spec"], json!({"drivers": null}));
        let slice = json!({"endpoints": [{"addresses": []}], "ports": []});
        let slice = stored("discovery.k8s.io", "EndpointSlice", slice);
        assert_eq!(slice, json!({"endpoints": [{"addresses": null}], "ports": null}));
        let pod = json!({"spec": {"containers": [{"name": "a", "args": ["x"]}]}});
        assert_eq!(stored("", "Pod", pod.clone()), pod);
    }

    #[test]
    fn what_is_stored_as_json_is_kept() {
        let definition = json!({"spec": {"versions": []}});
        assert_eq!(stored("apiextensions.k8s.io", "CustomResourceDefinition", definition.clone()), definition);
    }
}
