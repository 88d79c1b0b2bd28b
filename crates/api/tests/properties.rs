//! Properties that hold for any input: quantities, patches, encodings, selectors.
#![allow(clippy::unwrap_used, reason = "a test")]
use pintle_api::{
    decode, facts, patch, protobuf,
    quantity::Quantity,
    selector::{FieldSelector, LabelSelector},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn quantity_text() -> impl Strategy<Value = String> {
    let suffix = prop::sample::select(vec!["", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e3", "E-2"]);
    ("[+-]?[0-9]{1,9}(\\.[0-9]{0,9})?", suffix).prop_map(|(number, suffix)| format!("{number}{suffix}"))
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Objects shaped like Deployments, with values of all kinds.
fn deployment() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[a-z]{1,5}", "[a-z0-9]{0,5}", 0..3);
    let container = ("[a-z]{1,5}", prop::option::of("[a-z]{1,9}"), any::<bool>(), quantity_text(), any::<i32>());
    let containers = prop::collection::vec(container, 1..3);
    (labels, prop::option::of(any::<i32>()), any::<bool>(), containers).prop_map(
        |(labels, replicas, paused, containers)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, image, tty, cpu, port)| {
                    json!({"name": name, "image": image, "tty": tty, "resources": {"limits": {"cpu": cpu}},
                    "ports": [{"containerPort": port}], "livenessProbe": {"httpGet": {"port": port}}})
                })
                .collect();
            json!({"metadata": {"labels": labels}, "spec": {"replicas": replicas, "paused": paused,
            "template": {"spec": {"containers": containers}}}})
        },
    )
}

proptest! {
    #[test]
    fn canonical_quantities_mean_the_same_and_stay(text in quantity_text()) {
        let quantity = Quantity::parse(&text).unwrap();
        let canonical = quantity.to_string();
        let again = Quantity::parse(&canonical).unwrap();
        prop_assert_eq!(again, quantity);
        prop_assert_eq!(again.to_string(), canonical);
    }

    #[test]
    fn quantities_are_ordered_as_their_sums_are(a in quantity_text(), b in quantity_text()) {
        let (a, b) = (Quantity::parse(&a).unwrap(), Quantity::parse(&b).unwrap());
        prop_assert_eq!((a + b) - b, a);
        prop_assert_eq!(a < b, (a - b).sign() < 0);
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in ".{0,40}") {
        let _: Result<_, _> = Quantity::parse(&text);
        let _: Result<_, _> = LabelSelector::parse(&text);
        let _: Result<_, _> = FieldSelector::parse(&text);
        let _: Result<_, _> = decode::decode(text.as_bytes(), facts::lookup("", "v1", "Pod").unwrap());
    }

    #[test]
    fn printed_selectors_mean_the_same(text in "!?[a-c](=|==|!=| in \\(| notin \\()[a-c]{0,2}\\)?(,[a-c])?") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
    }

    /// RFC 7386: after a merge patch, what the patch says is there, and patching again changes nothing.
    #[test]
    fn merge_patches_are_idempotent(target in any_json(), change in any_json()) {
        let mut once = target;
        patch::merge_patch(&mut once, change.clone());
        let mut twice = once.clone();
        patch::merge_patch(&mut twice, change);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn decoded_objects_survive_protobuf(object in deployment()) {
        let ty = facts::lookup("apps", "v1", "Deployment").unwrap();
        let decoded = decode::decode_value(object, ty).unwrap().value;
        let bytes = protobuf::encode_message(&decoded, ty);
        prop_assert_eq!(protobuf::decode_message(&bytes, ty).unwrap(), decoded.clone());
        prop_assert_eq!(decode::decode(decoded.to_string().as_bytes(), ty).unwrap().value, decoded);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let ty = facts::lookup("", "v1", "Pod").unwrap();
        let _: Result<_, _> = protobuf::decode_message(&bytes, ty);
        let mut with_magic = protobuf::MAGIC.to_vec();
        with_magic.extend(bytes);
        let _: Result<_, _> = protobuf::decode(&with_magic, ("v1", "Pod"));
    }

    /// A strategic merge patch that an object is itself changes nothing.
    #[test]
    fn an_object_is_a_strategic_patch_of_itself(object in deployment()) {
        let ty = facts::lookup("apps", "v1", "Deployment").unwrap();
        let mut decoded = decode::decode_value(object, ty).unwrap().value;
        // Lists with two items of one key merge into the first.
        let names: Vec<&Value> = decoded["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten()
            .map(|c| &c["name"]).collect();
        prop_assume!(names.iter().enumerate().all(|(i, n)| !names[..i].contains(n)));
        let before = without_nulls(decoded.clone());
        patch::strategic::merge(&mut decoded, before.clone(), ty).unwrap();
        prop_assert_eq!(without_nulls(decoded), before);
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v)));
            Value::Object(kept.collect::<Map<_, _>>())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
