//! Paths and operations of a resource, in the dialects of OpenAPI v2 and v3.
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    META,
    schemas::{Dialect, body_type},
};
use crate::scheme::{Resource, Subresource, Verb, Verbs, api_version};

type Parameter = (&'static str, &'static str);

const LIST: [Parameter; 11] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: [Parameter; 3] = [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: [Parameter; 4] =
    [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: [Parameter; 5] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
/// Custom resources have neither strategic merge patches nor a protobuf form.
const CUSTOM_TYPES: [&str; 2] = ["application/json", "application/yaml"];
const MEDIA_TYPES: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];

/// One operation.
struct Operation<'a> {
    /// The HTTP method in lower case.
    method: &'static str,
    /// `x-kubernetes-action`.
    action: &'static str,
    id: String,
    description: String,
    parameters: &'a [Parameter],
    /// The definition of the request's body.
    body: Option<String>,
    /// The definition of the answer; plain text if there is none.
    answer: Option<String>,
    codes: &'a [(&'static str, &'static str)],
}

const OK: [(&str, &str); 1] = [("200", "OK")];
const CREATED: [(&str, &str); 3] = [("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const UPDATED: [(&str, &str); 2] = [("200", "OK"), ("201", "Created")];
const DELETED: [(&str, &str); 2] = [("200", "OK"), ("202", "Accepted")];

fn capitalized(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// `AppsV1`, `RbacAuthorizationV1`, `CoreV1`.
fn camel(r: &Resource) -> String {
    let group = if r.group.is_empty() { "core" } else { r.group.trim_end_matches(".k8s.io") };
    let parts: String = group.split('.').map(capitalized).collect();
    format!("{parts}{}", capitalized(&r.version))
}

fn tag(r: &Resource) -> String {
    let camel = camel(r);
    let group = camel.strip_suffix(&capitalized(&r.version)).unwrap_or(&camel);
    let mut chars = group.chars();
    let group: String = chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect());
    format!("{group}_{}", r.version)
}

/// All paths of a resource with their operations.
pub(super) fn paths(r: &Resource, dialect: Dialect) -> BTreeMap<String, Value> {
    let prefix = if r.group.is_empty() { "/api/" } else { "/apis/" };
    let root = format!("{prefix}{}", api_version(&r.group, &r.version));
    let scope = if r.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{}", r.plural);
    let item = format!("{collection}/{{name}}");
    let mut paths = BTreeMap::new();
    let mut add = |path: String, operations: Vec<Operation<'_>>, gvk: &Value| {
        if !operations.is_empty() {
            paths.insert(path.clone(), path_item(r, &path, operations, gvk, dialect));
        }
    };
    let gvk = json!({"group": r.group, "version": r.version, "kind": r.kind});
    let (camel, namespaced, kind) = (camel(r), if r.namespaced { "Namespaced" } else { "" }, &r.kind);
    let own = body_type(&r.group, &r.version, kind);
    let list = body_type(&r.group, &r.version, &r.list_kind);
    let mut collection_operations = Vec::new();
    let mut item_operations = Vec::new();
    for verb in r.verbs.iter() {
        let id = |word: &str| format!("{word}{camel}{namespaced}{kind}");
        match verb {
            Verb::Create => collection_operations.push(create(id("create"), kind, own.clone())),
            Verb::List => collection_operations.push(Operation {
                answer: list.clone(),
                ..read(id("list"), "list", format!("list or watch objects of kind {kind}"), &LIST)
            }),
            Verb::DeleteCollection => {
                let id = format!("delete{camel}Collection{namespaced}{kind}");
                let description = format!("delete collection of {kind}");
                collection_operations.push(delete(id, "deletecollection", description));
            }
            Verb::Get => item_operations.push(Operation {
                answer: own.clone(),
                ..read(id("read"), "get", format!("read the specified {kind}"), &[])
            }),
            Verb::Update => item_operations.push(replace(id("replace"), "", kind, own.clone())),
            Verb::Patch => item_operations.push(patch(id("patch"), "", kind, own.clone())),
            Verb::Delete => item_operations.push(delete(id("delete"), "delete", format!("delete a {kind}"))),
            Verb::Watch => {}
        }
    }
    add(collection, collection_operations, &gvk);
    add(item.clone(), item_operations, &gvk);
    if r.namespaced && r.verbs.contains(Verb::List) {
        let id = format!("list{camel}{kind}ForAllNamespaces");
        let operation = read(id, "list", format!("list or watch objects of kind {kind}"), &LIST);
        add(format!("{root}/{}", r.plural), vec![Operation { answer: list, ..operation }], &gvk);
    }
    for s in &r.subresources {
        let gvk = json!({"group": s.group, "version": s.version, "kind": s.kind});
        // `readCoreV1NamespacedPodStatus`, but `connectCoreV1GetNamespacedPodExec`.
        let id = |word: &str| {
            let (word, method) = match word.strip_prefix("connect") {
                Some(method) => ("connect", method),
                None => (word, ""),
            };
            format!("{word}{camel}{method}{namespaced}{kind}{}", capitalized(&s.name))
        };
        add(format!("{item}/{}", s.name), subresource(s, kind, id), &gvk);
    }
    paths
}

fn subresource(s: &Subresource, kind: &str, id: impl Fn(&str) -> String) -> Vec<Operation<'static>> {
    let body = body_type(&s.group, &s.version, &s.kind);
    let about = format!("{} of ", s.name);
    if body.is_none() {
        return connect(s.verbs, kind, &s.name, id);
    }
    let mut operations = Vec::new();
    for verb in s.verbs.iter() {
        operations.push(match verb {
            Verb::Create => create(id("create"), &format!("{about}{kind}"), body.clone()),
            Verb::Get if s.name == "log" => read(id("read"), "get", format!("read log of the specified {kind}"), &[]),
            Verb::Get => Operation {
                answer: body.clone(),
                ..read(id("read"), "get", format!("read {about}the specified {kind}"), &[])
            },
            Verb::Update => replace(id("replace"), &about, kind, body.clone()),
            Verb::Patch => patch(id("patch"), &about, kind, body.clone()),
            Verb::Delete | Verb::DeleteCollection | Verb::List | Verb::Watch => continue,
        });
    }
    operations
}

/// Subresources that open a connection: `exec`, `proxy`.
fn connect(verbs: Verbs, kind: &str, name: &str, id: impl Fn(&str) -> String) -> Vec<Operation<'static>> {
    let methods = [
        (Verb::Get, "get", "connectGet"),
        (Verb::Create, "post", "connectPost"),
        (Verb::Update, "put", "connectPut"),
        (Verb::Patch, "patch", "connectPatch"),
        (Verb::Delete, "delete", "connectDelete"),
    ];
    let operation = |(_, method, word): (Verb, &'static str, &str)| Operation {
        method,
        ..read(id(word), "connect", format!("connect {} requests to {name} of {kind}", method.to_uppercase()), &[])
    };
    methods.into_iter().filter(|(verb, _, _)| verbs.contains(*verb)).map(operation).collect()
}

fn read<'a>(id: String, action: &'static str, description: String, parameters: &'a [Parameter]) -> Operation<'a> {
    Operation { method: "get", action, id, description, parameters, body: None, answer: None, codes: &OK }
}

fn create(id: String, kind: &str, own: Option<String>) -> Operation<'static> {
    Operation {
        method: "post",
        body: own.clone(),
        answer: own,
        codes: &CREATED,
        ..read(id, "post", format!("create a {kind}"), &WRITE)
    }
}

fn replace(id: String, about: &str, kind: &str, own: Option<String>) -> Operation<'static> {
    Operation {
        method: "put",
        body: own.clone(),
        answer: own,
        codes: &UPDATED,
        ..read(id, "put", format!("replace {about}the specified {kind}"), &WRITE)
    }
}

fn patch(id: String, about: &str, kind: &str, own: Option<String>) -> Operation<'static> {
    Operation {
        method: "patch",
        body: Some(format!("{META}Patch")),
        answer: own,
        codes: &UPDATED,
        ..read(id, "patch", format!("partially update {about}the specified {kind}"), &PATCH)
    }
}

fn delete(id: String, action: &'static str, description: String) -> Operation<'static> {
    Operation {
        method: "delete",
        body: Some(format!("{META}DeleteOptions")),
        answer: Some(format!("{META}Status")),
        codes: if action == "delete" { &DELETED } else { &OK },
        ..read(id, action, description, &DELETE)
    }
}

fn parameter(name: &str, place: &str, type_: &str, dialect: Dialect) -> Value {
    let mut parameter = json!({"name": name, "in": place});
    match dialect {
        Dialect::V2 => {
            parameter["type"] = type_.into();
            parameter["uniqueItems"] = true.into();
        }
        Dialect::V3 => parameter["schema"] = json!({"type": type_, "uniqueItems": true}),
    }
    if place == "path" {
        parameter["required"] = true.into();
    }
    parameter
}

fn path_item(r: &Resource, path: &str, operations: Vec<Operation<'_>>, gvk: &Value, dialect: Dialect) -> Value {
    let mut item = Map::new();
    for operation in operations {
        item.insert(operation.method.to_owned(), describe(r, &operation, gvk, dialect));
    }
    let mut parameters = Vec::new();
    for name in ["name", "namespace"] {
        if path.contains(&format!("{{{name}}}")) {
            parameters.push(parameter(name, "path", "string", dialect));
        }
    }
    parameters.push(parameter("pretty", "query", "string", dialect));
    item.insert("parameters".into(), parameters.into());
    item.into()
}

fn describe(r: &Resource, o: &Operation<'_>, gvk: &Value, dialect: Dialect) -> Value {
    let mut operation = json!({
        "tags": [tag(r)],
        "description": o.description,
        "operationId": o.id,
        "x-kubernetes-action": o.action,
        "x-kubernetes-group-version-kind": gvk,
    });
    let mut parameters: Vec<Value> = o.parameters.iter().map(|(n, t)| parameter(n, "query", t, dialect)).collect();
    let is_patch = o.method == "patch";
    let required = o.method != "delete";
    if let Some(body) = &o.body {
        let reference = dialect.reference(body);
        match dialect {
            Dialect::V2 => {
                let mut body = json!({"name": "body", "in": "body", "schema": reference});
                if required {
                    body["required"] = true.into();
                }
                parameters.insert(0, body);
            }
            Dialect::V3 => {
                let types: &[&str] = match (is_patch, r.custom.is_some()) {
                    (true, false) => &PATCH_TYPES,
                    (true, true) => &PATCH_TYPES[..3],
                    (false, true) => &CUSTOM_TYPES,
                    (false, false) => &["*/*"],
                };
                let mut body = json!({"content": content(types, &reference)});
                if required {
                    body["required"] = true.into();
                }
                operation["requestBody"] = body;
            }
        }
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    let schema = o.answer.as_ref().map_or_else(|| json!({"type": "string"}), |name| dialect.reference(name));
    let types: &[&str] = match (o.answer.is_some(), r.custom.is_some()) {
        (true, false) => &MEDIA_TYPES,
        (true, true) => &CUSTOM_TYPES,
        (false, _) => &["*/*"],
    };
    let mut responses = Map::new();
    for (code, description) in o.codes {
        let response = match dialect {
            Dialect::V2 => json!({"description": description, "schema": schema}),
            Dialect::V3 => json!({"description": description, "content": content(types, &schema)}),
        };
        responses.insert((*code).to_owned(), response);
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    operation["responses"] = responses.into();
    if dialect == Dialect::V2 {
        operation["schemes"] = json!(["https"]);
        operation["consumes"] = match (is_patch, r.custom.is_some()) {
            (true, false) => json!(PATCH_TYPES),
            (true, true) => json!(PATCH_TYPES[..3]),
            (false, true) => json!(CUSTOM_TYPES),
            (false, false) => json!(["*/*"]),
        };
        operation["produces"] = types.into();
    }
    operation
}

fn content(types: &[&str], schema: &Value) -> Value {
    types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect::<Map<String, Value>>().into()
}
