//! Properties of server-side apply that hold whatever is applied, by whom and in which order.
#![allow(clippy::unwrap_used, reason = "a test")]
use pintle_api::apply::{FieldManager, Structure, apply};
use pintle_api::facts;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn by(name: &str) -> FieldManager<'_> {
    FieldManager::new(name, "apps/v1", Structure::BuiltIn(facts::lookup("apps", "v1", "Deployment").unwrap()))
}

/// Configurations of one Deployment with a scalar, a map, an atomic list, a set and lists of maps with one and two keys.
fn configuration() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[a-c]", "[xy]", 0..3);
    let finalizers = prop::collection::btree_set("[a-c]", 0..3);
    let port = (1..3, prop::sample::select(vec!["TCP", "UDP"]), prop::option::of("[xy]"));
    let ports = prop::collection::vec(port, 0..3);
    let args = prop::option::of(prop::collection::vec("[xy]", 0..3));
    let container = (prop::option::of("[xy]"), args, ports);
    let containers = prop::collection::btree_map("[a-c]", container, 0..3);
    (prop::option::of(1..4), labels, finalizers, containers).prop_map(|(replicas, labels, finalizers, containers)| {
        let mut spec = Map::new();
        if let Some(replicas) = replicas {
            spec.insert("replicas".into(), json!(replicas));
        }
        if !containers.is_empty() {
            let containers: Vec<Value> =
                containers.into_iter().map(|(name, parts)| container_of(&name, parts)).collect();
            spec.insert("template".into(), json!({"spec": {"containers": containers}}));
        }
        let mut metadata = json!({"name": "a"});
        if !labels.is_empty() {
            metadata["labels"] = json!(labels);
        }
        if !finalizers.is_empty() {
            metadata["finalizers"] = json!(finalizers);
        }
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    })
}

type Parts = (Option<String>, Option<Vec<String>>, Vec<(i32, &'static str, Option<String>)>);

fn container_of(name: &str, (image, args, ports): Parts) -> Value {
    let mut container = json!({"name": name});
    if let Some(image) = image {
        container["image"] = image.into();
    }
    if let Some(args) = args {
        container["args"] = args.into();
    }
    let mut taken = Vec::new();
    let mut list = Vec::new();
    for (number, protocol, host_ip) in ports {
        if !taken.contains(&(number, protocol)) {
            taken.push((number, protocol));
            let mut port = json!({"containerPort": number, "protocol": protocol});
            if let Some(ip) = host_ip {
                port["hostIP"] = ip.into();
            }
            list.push(port);
        }
    }
    if !list.is_empty() {
        container["ports"] = list.into();
    }
    container
}

/// Whether all that `part` says is said by `whole`: members of objects, items of lists by their key, atomic lists whole.
fn says(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().all(|(key, part)| {
            whole.get(key).is_some_and(|whole| if key == "args" { whole == part } else { says(whole, part) })
        }),
        (Value::Array(whole), Value::Array(part)) if part.iter().all(Value::is_object) => {
            let same =
                |a: &Value, b: &Value| ["name", "containerPort", "protocol"].iter().all(|key| a.get(key) == b.get(key));
            part.iter().all(|part| whole.iter().any(|whole| same(whole, part) && says(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => part.iter().all(|item| whole.contains(item)),
        (whole, part) => whole == part,
    }
}

fn without_managers(mut object: Value) -> Value {
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

fn without_times(mut object: Value) -> Value {
    for entry in object["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
        entry.as_object_mut().unwrap().remove("time");
    }
    object
}

fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array();
    let mut names: Vec<String> =
        entries.into_iter().flatten().map(|e| e["manager"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

proptest! {
    #[test]
    fn what_is_applied_is_there(first in configuration(), second in configuration()) {
        let live = apply(None, &first, &by("one"), false).unwrap();
        prop_assert!(says(&live, &first), "{live}");
        let forced = apply(Some(&live), &second, &by("two"), true).unwrap();
        prop_assert!(says(&forced, &second), "{forced}");
    }

    #[test]
    fn applying_again_changes_nothing(first in configuration(), second in configuration()) {
        let live = apply(None, &first, &by("one"), false).unwrap();
        let live = apply(Some(&live), &second, &by("two"), true).unwrap();
        prop_assert_eq!(&apply(Some(&live), &second, &by("two"), false).unwrap(), &live);
    }

    /// A configuration that is forced is then its manager's: nothing in it is a conflict any more.
    #[test]
    fn without_conflict_force_makes_no_difference(first in configuration(), second in configuration()) {
        let live = apply(None, &first, &by("one"), false).unwrap();
        let forced = apply(Some(&live), &second, &by("two"), true).unwrap();
        if let Ok(merged) = apply(Some(&live), &second, &by("two"), false) {
            prop_assert_eq!(without_times(merged), without_times(forced));
        }
    }

    /// Whoever applies the same values as another manager shares them, and neither removes what the other still applies.
    #[test]
    fn shared_fields_stay_until_the_last_owner_leaves(config in configuration(), rest in configuration()) {
        let live = apply(None, &config, &by("one"), false).unwrap();
        let shared = apply(Some(&live), &config, &by("two"), false).unwrap();
        prop_assert_eq!(without_managers(shared.clone()), without_managers(live));
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}});
        let left = apply(Some(&shared), &nothing, &by("one"), false).unwrap();
        prop_assert!(says(&left, &config), "{left}");
        prop_assert!(!managers(&left).contains(&"one".to_owned()));
        // A single applier who changes their mind leaves nothing behind of the configuration before.
        let alone = apply(None, &config, &by("one"), false).unwrap();
        let changed = apply(Some(&alone), &rest, &by("one"), false).unwrap();
        let fresh = apply(None, &rest, &by("one"), false).unwrap();
        prop_assert!(says(&without_managers(fresh), &without_managers(changed)));
    }

    /// A conflict names a manager whose value would change; taking their values over first leaves none.
    #[test]
    fn conflicts_are_about_other_values(first in configuration(), second in configuration()) {
        let live = apply(None, &first, &by("one"), false).unwrap();
        match apply(Some(&live), &second, &by("two"), false) {
            Ok(merged) => prop_assert!(says(&merged, &first), "without a conflict all of the first stays: {merged}"),
            Err(error) => {
                prop_assert_eq!(error.code, 409);
                prop_assert!(error.message.contains("with \"one\""), "{}", error.message);
                prop_assert!(!says(&live, &second));
            }
        }
    }
}
