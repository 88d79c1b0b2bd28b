//! Discovery documents from the [`Scheme`]: the legacy ones of `/api`, `/apis` and below, and the aggregated ones.
use serde_json::{Map, Value, json};

use crate::scheme::{Resource, Scheme, Subresource, Verb, Verbs, api_version};

/// The media type of aggregated discovery documents.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `/api`: the versions of the core group. `server_address` is where the API server tells clients that it is, `host:port`.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// The names of all groups but the core group, in order.
fn groups(scheme: &Scheme) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for gv in scheme.group_versions() {
        if !gv.group.is_empty() && !names.contains(&gv.group.as_str()) {
            names.push(&gv.group);
        }
    }
    names
}

fn versions<'a>(scheme: &'a Scheme, group: &'a str) -> impl Iterator<Item = &'a str> {
    scheme.group_versions().iter().filter(move |gv| gv.group == group).map(|gv| gv.version.as_str())
}

fn group_body(scheme: &Scheme, group: &str) -> Map<String, Value> {
    let describe = |version: &str| json!({"groupVersion": api_version(group, version), "version": version});
    let versions: Vec<Value> = versions(scheme, group).map(describe).collect();
    let mut body = Map::new();
    body.insert("name".into(), group.into());
    if let Some(preferred) = versions.first() {
        body.insert("preferredVersion".into(), preferred.clone());
    }
    body.insert("versions".into(), versions.into());
    body
}

/// `/apis`: all groups but the core group.
pub fn api_group_list(scheme: &Scheme) -> Value {
    let groups: Vec<Value> = groups(scheme).into_iter().map(|g| group_body(scheme, g).into()).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub fn api_group(scheme: &Scheme, group: &str) -> Option<Value> {
    let mut body = group_body(scheme, group);
    body.contains_key("preferredVersion").then(|| {
        body.insert("kind".into(), "APIGroup".into());
        body.insert("apiVersion".into(), "v1".into());
        body.into()
    })
}

fn verbs(verbs: Verbs) -> Value {
    verbs.iter().map(Verb::as_str).collect()
}

/// The verbs of a resource. Custom resources list theirs in an order of their own, and no writes once they are going away.
// upstream: apiextensions-apiserver pkg/apiserver/customresource_discovery_controller.go
fn verbs_of(r: &Resource) -> Value {
    match &r.custom {
        None => verbs(r.verbs),
        Some(custom) if custom.terminating => json!(["delete", "deletecollection", "get", "list", "watch"]),
        Some(_) => json!(["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]),
    }
}

/// `/api/v1`, `/apis/<group>/<version>`.
pub fn api_resource_list(scheme: &Scheme, group: &str, version: &str) -> Option<Value> {
    let mut served: Vec<_> = scheme.resources_of(group, version).collect();
    if served.is_empty() {
        return None;
    }
    served.sort_by(|a, b| a.plural.cmp(&b.plural));
    let mut resources = Vec::new();
    for r in served {
        let mut body = Map::new();
        body.insert("name".into(), r.plural.as_str().into());
        body.insert("singularName".into(), r.singular.as_str().into());
        body.insert("namespaced".into(), r.namespaced.into());
        body.insert("kind".into(), r.kind.as_str().into());
        body.insert("verbs".into(), verbs_of(r));
        names(&mut body, r);
        if !r.storage_version_hash.is_empty() {
            body.insert("storageVersionHash".into(), r.storage_version_hash.as_str().into());
        }
        resources.push(Value::Object(body));
        resources.extend(r.subresources.iter().map(|s| legacy_subresource(r, s)));
    }
    let group_version = api_version(group, version);
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    if !group.is_empty() {
        // Upstream leaves it out for the core group.
        list["apiVersion"] = "v1".into();
    }
    Some(list)
}

fn names(body: &mut Map<String, Value>, r: &Resource) {
    if !r.short_names.is_empty() {
        body.insert("shortNames".into(), r.short_names.clone().into());
    }
    if !r.categories.is_empty() {
        body.insert("categories".into(), r.categories.clone().into());
    }
}

fn legacy_subresource(r: &Resource, s: &Subresource) -> Value {
    let mut body = Map::new();
    body.insert("name".into(), format!("{}/{}", r.plural, s.name).into());
    body.insert("singularName".into(), "".into());
    body.insert("namespaced".into(), r.namespaced.into());
    if (&s.group, &s.version) != (&r.group, &r.version) {
        body.insert("group".into(), s.group.as_str().into());
        body.insert("version".into(), s.version.as_str().into());
    }
    body.insert("kind".into(), s.kind.as_str().into());
    body.insert("verbs".into(), verbs(s.verbs));
    body.into()
}

/// The aggregated document of `/api` (the core group) or of `/apis` (all others).
pub fn aggregated(scheme: &Scheme, core: bool) -> Value {
    let groups = if core { vec![""] } else { groups(scheme) };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|group| {
            let metadata = if core { json!({}) } else { json!({"name": group}) };
            let versions: Vec<Value> = versions(scheme, group).map(|v| aggregated_version(scheme, group, v)).collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_version(scheme: &Scheme, group: &str, version: &str) -> Value {
    let mut served: Vec<_> = scheme.resources_of(group, version).collect();
    served.sort_by(|a, b| a.plural.cmp(&b.plural));
    let resources: Vec<Value> = served.into_iter().map(|r| aggregated_resource(r)).collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

fn aggregated_resource(r: &Resource) -> Value {
    let mut body = Map::new();
    body.insert("resource".into(), r.plural.as_str().into());
    // Upstream leaves out group and version where they are those of the document, but not for custom resources.
    let own = if r.custom.is_some() { (r.group.as_str(), r.version.as_str()) } else { ("", "") };
    body.insert("responseKind".into(), json!({"group": own.0, "version": own.1, "kind": r.kind}));
    body.insert("scope".into(), if r.namespaced { "Namespaced" } else { "Cluster" }.into());
    body.insert("singularResource".into(), r.singular.as_str().into());
    body.insert("verbs".into(), verbs_of(r));
    names(&mut body, r);
    if !r.subresources.is_empty() {
        let subresource = |s: &Subresource| {
            let same = (&s.group, &s.version) == (&r.group, &r.version);
            let (group, version) = if same { own } else { (s.group.as_str(), s.version.as_str()) };
            let kind = json!({"group": group, "version": version, "kind": s.kind});
            json!({"subresource": s.name, "responseKind": kind, "verbs": verbs(s.verbs)})
        };
        body.insert("subresources".into(), r.subresources.iter().map(subresource).collect());
    }
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_documents_name_groups_and_resources() {
        let scheme = Scheme::builtin();
        let list = api_group_list(&scheme);
        assert_eq!(list["groups"][1]["preferredVersion"], json!({"groupVersion": "apps/v1", "version": "v1"}));
        assert_eq!(api_group(&scheme, "autoscaling").unwrap()["versions"][1]["version"], "v1");
        assert_eq!(api_group(&scheme, "nope"), None);
        let apps = api_resource_list(&scheme, "apps", "v1").unwrap();
        let scale = apps["resources"].as_array().unwrap().iter().find(|r| r["name"] == "deployments/scale").unwrap();
        assert_eq!(
            *scale,
            json!({"name": "deployments/scale", "singularName": "", "namespaced": true, "group": "autoscaling",
                   "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"]})
        );
        assert_eq!(api_resource_list(&scheme, "apps", "v2"), None);
    }

    #[test]
    fn aggregated_documents_split_the_core_group_from_the_others() {
        let scheme = Scheme::builtin();
        let core = aggregated(&scheme, true);
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
        let bindings = &core["items"][0]["versions"][0]["resources"][0];
        assert_eq!(
            *bindings,
            json!({"resource": "bindings", "responseKind": {"group": "", "version": "", "kind": "Binding"},
                   "scope": "Namespaced", "singularResource": "binding", "verbs": ["create"]})
        );
        assert_eq!(aggregated(&scheme, false)["items"].as_array().unwrap().len(), 20);
    }
}
