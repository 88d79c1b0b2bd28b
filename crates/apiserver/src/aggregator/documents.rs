//! Discovery and OpenAPI documents with the parts of extension servers. Start at [`Aggregator::merge_groups`].
use super::{Aggregator, Remote, availability};
use crate::api_services::priority;
use crate::registry::Registry;
use crate::value::Read;
use pintle_api::scheme::{Verb, api_version};
use serde_json::{Map, Value, json};

/// What an extension server said of itself when it was asked last.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// Its version in aggregated discovery; `None`: it has not answered yet.
    version: Option<Value>,
    /// Its entry in the index of OpenAPI v3.
    openapi: Option<Value>,
}

impl Documents {
    /// From its `APIResourceList` and its index of OpenAPI v3.
    pub(super) fn new(remote: &Remote, resources: &Value, openapi: &Value) -> Documents {
        let path = format!("apis/{}/{}", remote.group, remote.version);
        Documents {
            version: Some(json!({"version": remote.version, "resources": aggregated(resources)})),
            openapi: Some(openapi["paths"][path].clone()).filter(|entry| !entry.is_null()),
        }
    }
}

/// The resources of an `APIResourceList` as aggregated discovery shows them.
// upstream: apiserver pkg/endpoints, ConvertGroupVersionIntoToDiscovery
fn aggregated(list: &Value) -> Value {
    let mut resources: Vec<Value> = Vec::new();
    let kind = |r: &Value| json!({"group": r.text("group"), "version": r.text("version"), "kind": r.text("kind")});
    let (whole, parts): (Vec<&Value>, Vec<&Value>) =
        list.items("resources").iter().partition(|r| !r.text("name").contains('/'));
    for r in whole {
        let mut body = json!({
            "resource": r.text("name"), "responseKind": kind(r), "singularResource": r.text("singularName"),
            "scope": if r.flag("namespaced") { "Namespaced" } else { "Cluster" }, "verbs": verbs(r),
        });
        for names in ["shortNames", "categories"] {
            if !r.is_zero(names) {
                body[names] = r.field(names).clone();
            }
        }
        let own = parts
            .iter()
            .filter_map(|part| Some((part, part.text("name").strip_prefix(r.text("name"))?.strip_prefix('/')?)));
        let own: Vec<Value> = own
            .map(|(part, name)| json!({"subresource": name, "responseKind": kind(part), "verbs": verbs(part)}))
            .collect();
        if !own.is_empty() {
            body["subresources"] = own.into();
        }
        resources.push(body);
    }
    resources.into()
}

fn verbs(r: &Value) -> Vec<&str> {
    let known = Verb::ALL.iter().map(|verb| verb.as_str());
    let given: Vec<&str> = r.texts("verbs").collect();
    known.filter(|verb| given.contains(verb)).collect()
}

impl Aggregator {
    /// Adds the groups of extension servers to the list of groups, in the order of their priorities.
    pub(crate) fn merge_groups(&self, list: &mut Value) {
        let groups = list.get_mut("groups").and_then(Value::as_array_mut);
        let Some(groups) = groups else { return };
        for (group, priority) in self.groups() {
            let known = groups.iter().position(|g| g.text("name") == group);
            match (known, self.group(&group, known.map(|at| &groups[at]))) {
                (Some(at), Some(body)) => groups[at] = body,
                (None, Some(body)) => groups.insert(place(groups, priority, |g| g.text("name")), body),
                (_, None) => {}
            }
        }
    }

    /// The groups of extension servers with their priorities.
    fn groups(&self) -> Vec<(String, i64)> {
        let mut groups: Vec<(String, i64)> = Vec::new();
        for remote in self.remotes().iter() {
            match groups.iter_mut().find(|(group, _)| *group == remote.group) {
                Some((_, priority)) => *priority = (*priority).max(remote.priority.0),
                None => groups.push((remote.group.clone(), remote.priority.0)),
            }
        }
        groups
    }

    /// The document of one group; `local` is what this server has of it.
    pub(crate) fn group(&self, group: &str, local: Option<&Value>) -> Option<Value> {
        let remotes = self.remotes();
        let mut versions: Vec<(i64, String)> = remotes
            .iter()
            .filter(|remote| remote.group == group)
            .map(|remote| (remote.priority.1, remote.version.clone()))
            .collect();
        if versions.is_empty() {
            return None;
        }
        for version in local.into_iter().flat_map(|local| local.items("versions")) {
            let version = version.text("version");
            versions.push((priority(group, version).1, version.to_owned()));
        }
        versions.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| b.1.cmp(&a.1)));
        let described: Vec<Value> = versions
            .iter()
            .map(|(_, version)| json!({"groupVersion": api_version(group, version), "version": version}))
            .collect();
        let mut body = local.cloned().unwrap_or_else(|| json!({"name": group}));
        body["preferredVersion"] = described.first().cloned().unwrap_or_default();
        body["versions"] = described.into();
        Some(body)
    }

    /// Adds what extension servers serve to the aggregated document.
    pub(crate) fn merge_aggregated(&self, document: &mut Value) {
        let Some(items) = document.get_mut("items").and_then(Value::as_array_mut) else { return };
        for remote in self.remotes().iter() {
            let documents = remote.documents.load();
            let mut version =
                documents.version.clone().unwrap_or_else(|| json!({"version": remote.version, "resources": []}));
            let fresh = remote.available && documents.version.is_some();
            version["freshness"] = if fresh { "Current" } else { "Stale" }.into();
            let name = |item: &Value| item.field("metadata").text("name").to_owned();
            match items.iter_mut().find(|item| name(item) == remote.group) {
                Some(item) => {
                    if let Some(versions) = item.get_mut("versions").and_then(Value::as_array_mut) {
                        versions.retain(|known| known.text("version") != remote.version);
                        let before =
                            |known: &Value| priority(&remote.group, known.text("version")).1 >= remote.priority.1;
                        let at = versions.iter().take_while(|known| before(known)).count();
                        versions.insert(at, version);
                    }
                }
                None => {
                    let at = place(items, remote.priority.0, |item| item.field("metadata").text("name"));
                    items.insert(at, json!({"metadata": {"name": remote.group}, "versions": [version]}));
                }
            }
        }
    }

    /// Adds the documents of extension servers to the index of OpenAPI v3.
    pub(crate) fn merge_openapi_index(&self, index: Vec<u8>) -> Vec<u8> {
        let remotes = self.remotes();
        let entries: Map<String, Value> = remotes
            .iter()
            .filter_map(|r| Some((format!("apis/{}/{}", r.group, r.version), r.documents.load().openapi.clone()?)))
            .collect();
        if entries.is_empty() {
            return index;
        }
        let Ok(mut document) = serde_json::from_slice::<Value>(&index) else { return index };
        if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
            paths.extend(entries);
        }
        document.to_string().into_bytes()
    }

    /// The OpenAPI v3 document at `path` (`apis/<group>/<version>`), if an extension server has it.
    pub(crate) async fn openapi_v3(&self, path: &str, registry: &Registry) -> Option<Vec<u8>> {
        let remote = self.remote_for(&format!("/{path}"))?;
        let document = availability::get(&remote, registry, &format!("/openapi/v3/{path}")).await;
        match document {
            Ok(document) => Some(document.to_string().into_bytes()),
            Err(error) => {
                tracing::debug!(service = %remote.name, error, "its OpenAPI document cannot be read");
                None
            }
        }
    }

    /// Whether there is an extension server at all.
    pub(crate) fn has_remotes(&self) -> bool {
        !self.remotes().is_empty()
    }

    /// Adds the paths and definitions of extension servers to the document of OpenAPI v2.
    pub(crate) async fn merge_openapi_v2(&self, document: Vec<u8>, registry: &Registry) -> Vec<u8> {
        let remotes = self.remotes();
        let Ok(mut merged) = serde_json::from_slice::<Value>(&document) else { return document };
        for remote in remotes.iter().filter(|remote| remote.available) {
            let Ok(own) = availability::get(remote, registry, "/openapi/v2").await else { continue };
            let prefix = format!("/apis/{}/", remote.group);
            for part in ["paths", "definitions"] {
                let Some(all) = merged.get_mut(part).and_then(Value::as_object_mut) else { continue };
                for (key, value) in own.entries(part) {
                    if !all.contains_key(key) && (part != "paths" || key.starts_with(&prefix)) {
                        all.insert(key.to_owned(), value.clone());
                    }
                }
            }
        }
        merged.to_string().into_bytes()
    }
}

/// Where a group of this priority belongs among those that are there.
fn place(items: &[Value], wanted: i64, name: impl Fn(&Value) -> &str) -> usize {
    items.iter().take_while(|item| priority(name(item), "").0 >= wanted).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_lists_become_aggregated_ones() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["watch", "get"]},
            {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["update"]}]});
        assert_eq!(
            aggregated(&list),
            json!([{"resource": "flunders", "responseKind": {"group": "", "version": "", "kind": "Flunder"},
                "scope": "Namespaced", "singularResource": "flunder", "verbs": ["get", "watch"],
                "subresources": [{"subresource": "status", "verbs": ["update"],
                    "responseKind": {"group": "", "version": "", "kind": "Flunder"}}]}])
        );
    }

    #[test]
    fn groups_are_placed_by_priority() {
        let items = [json!({"name": "apps"}), json!({"name": "flowcontrol.apiserver.k8s.io"}), json!({"name": "x.y"})];
        let at = |priority| place(&items, priority, |item| item.text("name"));
        assert_eq!([at(20_000), at(17_000), at(2_000), at(500)], [0, 1, 2, 3]);
    }
}
