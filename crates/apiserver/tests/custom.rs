//! What clients observe of CustomResourceDefinitions and of the resources that they bring.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers")]
mod common;
use common::{Events, Server};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How long a test waits before it fails rather than hangs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition(schema: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

fn sized() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "maximum": 10}, "color": {"type": "string", "default": "red"}}}}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

fn condition<'a>(definition: &'a Value, type_: &str) -> &'a Value {
    let conditions = definition["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().find(|condition| condition["type"] == type_).unwrap_or(&Value::Null)
}

/// Creates a definition and waits until its condition `Established` is there.
async fn establish(server: &Server, definition: &Value) -> Value {
    let created = server.post(DEFINITIONS, definition).await.ok();
    let name = created["metadata"]["name"].as_str().unwrap().to_owned();
    settled(server, &name, &created["metadata"]["resourceVersion"], |definition| {
        condition(definition, "Established")["status"] == "True"
    })
    .await
}

/// Waits until the definition is as `wanted`.
async fn settled(server: &Server, name: &str, since: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
    let since = since.as_str().unwrap();
    let uri = format!("{DEFINITIONS}?watch=true&fieldSelector=metadata.name={name}&resourceVersion={since}");
    let mut events = Events::open(server, &uri).await;
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("the definition settles").unwrap();
        if wanted(&event["object"]) {
            return event["object"].clone();
        }
    }
}

#[tokio::test]
async fn a_definition_is_established_and_its_resource_served_at_once() {
    let server = Server::start();
    let established = establish(&server, &definition(sized())).await;
    assert_eq!(condition(&established, "NamesAccepted")["reason"], "NoConflicts");
    assert_eq!(established["status"]["acceptedNames"]["listKind"], "WidgetList");
    assert_eq!(established["status"]["storedVersions"], json!(["v1"]));
    let resources = server.get("/apis/example.com/v1").await.ok();
    assert_eq!(resources["resources"][0]["shortNames"], json!(["wd"]));
    assert_eq!(resources["resources"][0]["verbs"][0], "delete");
    let groups = server.get("/apis").await.ok();
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "example.com"));

    let created = server.post(WIDGETS, &widget("a", json!({"size": 3}))).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let created = created.json();
    assert_eq!(created["spec"], json!({"size": 3, "color": "red"}));
    assert_eq!(created["metadata"]["generation"], 1);
    let list = server.get(WIDGETS).await.ok();
    assert_eq!((&list["kind"], &list["items"][0]), (&json!("WidgetList"), &created));
    assert_eq!(server.get(&format!("{WIDGETS}/a")).await.ok(), created);
    assert_eq!(server.delete(&format!("{WIDGETS}/a")).await.ok()["status"], "Success");
}

#[tokio::test]
async fn objects_are_pruned_validated_and_counted() {
    let server = Server::start();
    establish(&server, &definition(sized())).await;
    let uri = format!("{WIDGETS}/a");
    let created = server.post(WIDGETS, &widget("a", json!({"size": 3, "odd": true}))).await;
    assert_eq!(created.headers["warning"], "299 - \"unknown field \\\"spec.odd\\\"\"");
    let mut object = created.ok();
    assert_eq!(object["spec"], json!({"size": 3, "color": "red"}));
    let strict = server.post(&format!("{WIDGETS}?fieldValidation=Strict"), &widget("b", json!({"odd": true}))).await;
    assert_eq!(
        strict.failure().2,
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.odd\""
    );
    let invalid = server.post(WIDGETS, &widget("b", json!({"size": 11}))).await;
    assert_eq!(
        invalid.failure().2,
        "Widget.example.com \"b\" is invalid: spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10"
    );
    object["spec"]["size"] = json!(4);
    let updated = server.put(&uri, &object).await.ok();
    assert_eq!(updated["metadata"]["generation"], 2);
    let labelled = server.merge(&uri, &json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 2);
    let unconditional = server.put(&uri, &widget("a", json!({}))).await;
    assert_eq!(
        unconditional.failure().2,
        "widgets.example.com \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    assert_eq!(server.call("PATCH", &uri, &strategic, "{}").await.status, 415);
}

#[tokio::test]
async fn a_new_default_shows_in_objects_that_were_stored_before() {
    let server = Server::start();
    let mut definition = establish(&server, &definition(sized())).await;
    server.post(WIDGETS, &widget("a", json!({}))).await.ok();
    let properties = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    definition.pointer_mut(properties).unwrap()["shape"] = json!({"type": "string", "default": "round"});
    let mut events = Events::open(&server, &format!("{WIDGETS}?watch=true")).await;
    assert_eq!(events.brief().await.0, "ADDED");
    server.put(&format!("{DEFINITIONS}/widgets.example.com"), &definition).await.ok();
    // The watch of the old form ends when the new one is served.
    assert_eq!(events.next().await, None);
    let object = server.get(&format!("{WIDGETS}/a")).await.ok();
    assert_eq!(object["spec"], json!({"color": "red", "shape": "round"}));
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along_and_waits_for_finalizers() {
    let server = Server::start();
    establish(&server, &definition(sized())).await;
    server.post(WIDGETS, &widget("plain", json!({}))).await.ok();
    let mut held = widget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(WIDGETS, &held).await.ok();
    let mut widgets = Events::open(&server, &format!("{WIDGETS}?watch=true&resourceVersion=0")).await;
    for _ in 0..2 {
        assert_eq!(widgets.brief().await.0, "ADDED");
    }
    let uri = format!("{DEFINITIONS}/widgets.example.com");
    let deleting = server.delete(&uri).await.ok();
    assert_eq!(condition(&deleting, "Terminating")["reason"], "InstanceDeletionPending");
    assert!(deleting["metadata"]["finalizers"][0].as_str().unwrap().starts_with("customresourcecleanup"));
    let mut seen = [widgets.brief().await, widgets.brief().await];
    seen.sort();
    assert_eq!(seen, [("DELETED".into(), "plain".into()), ("MODIFIED".into(), "held".into())]);
    let refused = server.post(WIDGETS, &widget("late", json!({}))).await.failure();
    assert_eq!(
        (refused.0, refused.2.as_str()),
        (
            403,
            "widgets.example.com \"late\" is forbidden: create not allowed while custom resource definition is terminating"
        )
    );
    let since = &deleting["metadata"]["resourceVersion"];
    let mut definitions =
        Events::open(&server, &format!("{DEFINITIONS}?watch=true&resourceVersion={}", since.as_str().unwrap())).await;
    server.merge(&format!("{WIDGETS}/held"), &json!({"metadata": {"finalizers": null}})).await.ok();
    while definitions.brief().await.0 != "DELETED" {}
    assert_eq!(widgets.brief().await, ("DELETED".into(), "held".into()));
    // The end of the watch tells that the resource is gone from the scheme.
    assert_eq!(widgets.next().await, None);
    assert_eq!(server.get(WIDGETS).await.status, 404);
    assert_eq!(server.get("/apis/example.com/v1").await.status, 404);
}

#[tokio::test]
async fn names_that_another_definition_has_are_not_accepted() {
    let server = Server::start();
    establish(&server, &definition(sized())).await;
    let mut other = definition(sized());
    other["metadata"]["name"] = json!("gadgets.example.com");
    other["spec"]["names"] =
        json!({"plural": "gadgets", "singular": "gadget", "kind": "Widget", "listKind": "GadgetList"});
    let created = server.post(DEFINITIONS, &other).await.ok();
    let judged = settled(&server, "gadgets.example.com", &created["metadata"]["resourceVersion"], |definition| {
        condition(definition, "NamesAccepted").is_object()
    })
    .await;
    assert_eq!(condition(&judged, "NamesAccepted")["reason"], "KindConflict");
    assert_eq!(condition(&judged, "NamesAccepted")["message"], "\"Widget\" is already in use");
    assert_eq!(condition(&judged, "Established")["status"], "False");
    // When the other goes, the name is free.
    server.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.ok();
    settled(&server, "gadgets.example.com", &judged["metadata"]["resourceVersion"], |definition| {
        condition(definition, "Established")["status"] == "True"
    })
    .await;
}

#[tokio::test]
async fn a_status_subresource_writes_the_status_alone() {
    let server = Server::start();
    let mut definition = definition(json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer"}}},
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}));
    definition["spec"]["versions"][0]["subresources"] = json!({"status": {}});
    establish(&server, &definition).await;
    let mut object = widget("a", json!({"size": 1}));
    object["status"] = json!({"ready": true});
    let mut object = server.post(WIDGETS, &object).await.ok();
    assert_eq!(object.get("status"), None);
    object["status"] = json!({"ready": true});
    object["spec"]["size"] = json!(9);
    let uri = format!("{WIDGETS}/a");
    let updated = server.put(&format!("{uri}/status"), &object).await.ok();
    assert_eq!((&updated["spec"]["size"], &updated["status"]), (&json!(1), &json!({"ready": true})));
    assert_eq!(updated["metadata"]["generation"], 1);
    let mut wrong = updated.clone();
    wrong["status"]["ready"] = json!("yes");
    assert_eq!(
        server.put(&format!("{uri}/status"), &wrong).await.failure().2,
        "Widget.example.com \"a\" is invalid: status.ready: Invalid value: \"string\": ready in body must be of type boolean: \
         \"string\""
    );
}

#[tokio::test]
async fn versions_differ_in_nothing_but_their_name_and_schema() {
    let server = Server::start();
    let mut definition = definition(sized());
    let beta = json!({"name": "v1beta1", "served": true, "storage": false, "deprecated": true,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    definition["spec"]["versions"].as_array_mut().unwrap().push(beta);
    establish(&server, &definition).await;
    let versions = server.get("/apis/example.com").await.ok();
    assert_eq!(versions["preferredVersion"]["version"], "v1");
    let beta = "/apis/example.com/v1beta1/namespaces/default/widgets";
    let mut object = widget("a", json!({"size": 2}));
    object["apiVersion"] = json!("example.com/v1beta1");
    let created = server.post(beta, &object).await;
    assert_eq!(
        created.headers["warning"],
        "299 - \"example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget\""
    );
    let created = created.ok();
    assert_eq!((&created["apiVersion"], &created["spec"]), (&json!("example.com/v1beta1"), &json!({"size": 2})));
    let v1 = server.get(&format!("{WIDGETS}/a")).await.ok();
    assert_eq!((&v1["apiVersion"], &v1["spec"]), (&json!("example.com/v1"), &json!({"size": 2, "color": "red"})));
}

#[tokio::test]
async fn fields_can_be_selected_by_and_columns_printed() {
    let server = Server::start();
    let mut definition = definition(sized());
    let version = &mut definition["spec"]["versions"][0];
    version["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    version["additionalPrinterColumns"] = json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]);
    establish(&server, &definition).await;
    server.post(WIDGETS, &widget("a", json!({"size": 1}))).await.ok();
    server.post(WIDGETS, &widget("b", json!({"color": "blue"}))).await.ok();
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let blue = server.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await.ok();
    assert_eq!(names(&blue), ["b"]);
    // A default counts like a value.
    let red = server.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.ok();
    assert_eq!(names(&red), ["a"]);
    let unknown = server.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")).await;
    assert_eq!(unknown.failure().2, "field label not supported: spec.size");
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = server.call("GET", WIDGETS, &table, "").await.ok();
    assert_eq!(table["columnDefinitions"][1]["name"], "Size");
    assert_eq!(table["rows"][0]["cells"], json!(["a", 1]));
    let mut events = Events::open(&server, &format!("{WIDGETS}?watch=true&fieldSelector=spec.color%3Dblue")).await;
    assert_eq!(events.brief().await, ("ADDED".into(), "b".into()));
    server.merge(&format!("{WIDGETS}/a"), &json!({"spec": {"color": "blue"}})).await.ok();
    assert_eq!(events.brief().await, ("ADDED".into(), "a".into()));
    server.merge(&format!("{WIDGETS}/b"), &json!({"spec": {"color": null}})).await.ok();
    assert_eq!(events.brief().await, ("DELETED".into(), "b".into()));
}

#[tokio::test]
async fn a_scale_subresource_finds_its_numbers_by_the_definitions_paths() {
    let server = Server::start();
    let mut definition = definition(json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"count": {"type": "integer"}}},
        "status": {"type": "object", "properties": {"count": {"type": "integer"}, "selector": {"type": "string"}}}}}));
    definition["spec"]["versions"][0]["subresources"] = json!({"status": {}, "scale": {"specReplicasPath": ".spec.count",
        "statusReplicasPath": ".status.count", "labelSelectorPath": ".status.selector"}});
    establish(&server, &definition).await;
    server.post(WIDGETS, &widget("a", json!({"count": 2}))).await.ok();
    let uri = format!("{WIDGETS}/a");
    server.merge(&format!("{uri}/status"), &json!({"status": {"count": 1, "selector": "app=a"}})).await.ok();
    let scale = server.get(&format!("{uri}/scale")).await.ok();
    assert_eq!(
        (&scale["kind"], &scale["spec"], &scale["status"]),
        (&json!("Scale"), &json!({"replicas": 2}), &json!({"replicas": 1, "selector": "app=a"}))
    );
    let scaled = server.merge(&format!("{uri}/scale"), &json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 5);
    let object = server.get(&uri).await.ok();
    assert_eq!((&object["spec"]["count"], &object["metadata"]["generation"]), (&json!(5), &json!(2)));
}

#[tokio::test]
async fn a_configuration_is_applied_to_custom_resources_field_by_field() {
    let server = Server::start();
    establish(&server, &definition(sized())).await;
    let apply = |manager: &str| format!("{WIDGETS}/a?fieldManager={manager}");
    let yaml = [("content-type", "application/apply-patch+yaml")];
    let config = "apiVersion: example.com/v1\nkind: Widget\nspec:\n  size: 3\n";
    let created = server.call("PATCH", &apply("one"), &yaml, config).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let fields = &created.json()["metadata"]["managedFields"][0];
    assert_eq!((&fields["manager"], &fields["fieldsV1"]), (&json!("one"), &json!({"f:spec": {"f:size": {}}})));
    let other = "apiVersion: example.com/v1\nkind: Widget\nspec:\n  size: 4\n";
    let conflict = server.call("PATCH", &apply("two"), &yaml, other).await.failure();
    assert_eq!((conflict.0, conflict.1.as_str()), (409, "Conflict"));
    let odd = "apiVersion: example.com/v1\nkind: Widget\nspec:\n  odd: 4\n";
    let refused = server.call("PATCH", &format!("{}&fieldValidation=Strict", apply("one")), &yaml, odd).await.failure();
    assert!(refused.2.contains("odd"), "{}", refused.2);
    let twice = "apiVersion: example.com/v1\nkind: Widget\nspec:\n  size: 3\n  size: 4\n";
    let warned = server.call("PATCH", &apply("one"), &yaml, twice).await;
    assert_eq!(warned.ok()["spec"]["size"], 4);
    assert!(warned.headers["warning"].to_str().unwrap().contains("already set in map"), "{:?}", warned.headers);
    let refused =
        server.call("PATCH", &format!("{}&fieldValidation=Strict", apply("one")), &yaml, twice).await.failure();
    assert!(refused.2.ends_with("line 5: key \"size\" already set in map"), "{}", refused.2);
}

#[tokio::test]
async fn the_documents_of_openapi_follow_the_definitions() {
    let server = Server::start();
    let before = server.get("/openapi/v3").await;
    assert_eq!(before.json()["paths"].get("apis/example.com/v1"), None);
    establish(&server, &definition(sized())).await;
    let index = server.get("/openapi/v3").await;
    assert_ne!(before.headers["etag"], index.headers["etag"]);
    let address = index.json()["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = server.get(&address).await;
    assert_eq!(document.headers["cache-control"], "public, immutable");
    let schema = &document.json()["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["type"], "integer");
    let tag = document.headers["etag"].to_str().unwrap();
    assert_eq!(server.call("GET", &address, &[("if-none-match", tag)], "").await.status, 304);
    let old = server.get("/openapi/v3/apis/example.com/v1?hash=old").await;
    assert_eq!((old.status.as_u16(), old.headers["location"].to_str().unwrap()), (301, address.as_str()));
    let v2 = server.get("/openapi/v2").await.json();
    assert_eq!(v2["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["type"], "object");
}

#[tokio::test]
async fn rules_judge_objects_and_their_changes() {
    let server = Server::start();
    let mut schema = sized();
    schema["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.size > 1 && (self.color == oldSelf.color)", "message": "too small, or another color"}]);
    let mut wrong = definition(schema.clone());
    wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"][0]["rule"] =
        json!("self.weight > 1");
    let refused = server.post(DEFINITIONS, &wrong).await.failure();
    assert!(refused.2.contains("x-kubernetes-validations[0].rule"), "{}", refused.2);
    assert!(refused.2.contains("undefined field 'weight'"), "{}", refused.2);
    establish(&server, &definition(schema)).await;
    server.post(WIDGETS, &widget("a", json!({"size": 1}))).await.ok();
    let uri = format!("{WIDGETS}/a");
    let refused = server.merge(&uri, &json!({"spec": {"color": "blue"}})).await.failure();
    assert_eq!(refused.2, "Widget.example.com \"a\" is invalid: spec: Invalid value: too small, or another color");
    server.merge(&uri, &json!({"spec": {"size": 3}})).await.ok();
}

#[tokio::test]
async fn custom_resources_have_no_protobuf_form() {
    let server = Server::start();
    establish(&server, &definition(sized())).await;
    server.post(WIDGETS, &widget("a", json!({}))).await.ok();
    let protobuf = "application/vnd.kubernetes.protobuf";
    assert_eq!(server.call("GET", WIDGETS, &[("accept", protobuf)], "").await.status, 406);
    let metadata = format!("{protobuf};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    assert_eq!(server.call("GET", WIDGETS, &[("accept", &metadata)], "").await.status, 200);
    assert_eq!(server.call("POST", WIDGETS, &[("content-type", protobuf)], "k8s\0").await.status, 400);
}

/// What `kubectl create` tells of a failure.
fn told(status: &Value) -> String {
    let details = &status["details"];
    let (kind, name) = (details["kind"].as_str().unwrap_or_default(), details["name"].as_str().unwrap_or_default());
    let mut causes: Vec<String> = Vec::new();
    for cause in details["causes"].as_array().map_or(&[][..], Vec::as_slice) {
        let cause = format!(
            "{}: {}",
            cause["field"].as_str().unwrap_or_default(),
            cause["message"].as_str().unwrap_or_default()
        );
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
    let causes = match &causes[..] {
        [] => return format!("{} {}", status["reason"], status["message"]),
        [one] => one.clone(),
        many => many.iter().map(|cause| format!("\n* {cause}")).collect(),
    };
    format!("The {kind} \"{name}\" is invalid: {causes}")
}

#[tokio::test]
async fn definitions_and_their_objects_are_answered_as_upstream_answers_them() {
    let recorded: Value = serde_json::from_str(include_str!("data/custom_resource_definitions.json")).unwrap();
    let server = Server::start();
    let objects = recorded["objects"].as_array().unwrap();
    let mut differences = Vec::new();
    for entry in recorded["definitions"].as_array().unwrap() {
        let (name, request) = (entry["name"].as_str().unwrap(), &entry["request"]);
        let own: Vec<&Value> = objects.iter().filter(|object| object["definition"] == name).collect();
        let answer = if own.is_empty() {
            let answer = server.post(&format!("{DEFINITIONS}?fieldValidation=Ignore"), request).await;
            if answer.status.is_success() { None } else { Some(told(&answer.json())) }
        } else {
            establish(&server, request).await;
            None
        };
        let full = request["metadata"]["name"].as_str().unwrap();
        let answer = answer.unwrap_or_else(|| format!("customresourcedefinition.apiextensions.k8s.io/{full} created"));
        if entry["answer"] != answer.as_str() {
            differences.push((name.to_owned(), entry["answer"].clone(), answer));
        }
        let names = &request["spec"]["names"];
        let uri = format!(
            "/apis/probe.io/v1/namespaces/default/{}?fieldValidation=Ignore",
            names["plural"].as_str().unwrap()
        );
        for (index, object) in own.into_iter().enumerate() {
            let body = json!({"apiVersion": "probe.io/v1", "kind": names["kind"], "metadata": {"name": format!("x{index}")},
                "spec": object["spec"]});
            let answer = server.post(&uri, &body).await;
            let expected = object["answer"].as_str().unwrap();
            let (same, answer) = if answer.status.is_success() {
                let spec = answer.json()["spec"].clone();
                (serde_json::from_str::<Value>(expected).is_ok_and(|expected| expected == spec), spec.to_string())
            } else {
                let answer = told(&answer.json());
                (expected == answer, answer)
            };
            if !same {
                differences.push((format!("{name}/x{index}"), object["answer"].clone(), answer));
            }
        }
    }
    let differences: Vec<String> = differences
        .iter()
        .map(|(name, expected, answer)| format!("{name}\n  upstream: {expected}\n  here:     {answer:?}"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
