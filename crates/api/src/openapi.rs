//! OpenAPI documents, built from the scheme, the schema facts and the packed descriptions. Start at [`OpenApi`].
//!
//! Documents are written straight into bytes, one schema and one path at a time, so that building one needs little more memory
//! than the document itself. Callers keep the bytes for as long as the scheme stays the same.
mod custom;
pub mod gnostic;
mod operations;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use crate::{
    descriptions::{Descriptions, Text},
    facts,
    scheme::{GroupVersion, Scheme, api_version},
};
use schemas::Dialect;

/// What the documents are made of.
#[derive(Clone, Copy)]
pub struct OpenApi<'a> {
    scheme: &'a Scheme,
}

/// The OpenAPI name of a type: of the facts, or for custom resources of the reversed group.
fn definition_name(group: &str, version: &str, kind: &str) -> String {
    match facts::lookup(group, version, kind) {
        Some(ty) => full_name(ty.name),
        None => reversed_name(group, version, kind),
    }
}

fn reversed_name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

fn full_name(name: &str) -> String {
    format!("io.k8s.{name}")
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

impl<'a> OpenApi<'a> {
    /// Documents of `scheme`.
    pub fn new(scheme: &'a Scheme) -> Self {
        OpenApi { scheme }
    }

    fn group_version(&self, path: &str) -> Option<&'a GroupVersion> {
        self.scheme.group_versions().iter().find(|gv| document_path(gv) == path)
    }

    /// The hash of the document at `path` (`apis/apps/v1`): it changes when the document does.
    pub fn v3_hash(&self, path: &str) -> Option<String> {
        let gv = self.group_version(path)?;
        let mut hash = Sha512::new();
        hash.update(env!("CARGO_PKG_VERSION"));
        for r in self.scheme.resources_of(&gv.group, &gv.version) {
            // Of custom resources this shows what changes with their definition.
            hash.update(format!("{r:?}"));
        }
        Some(hash.finalize().iter().map(|b| format!("{b:02X}")).collect())
    }

    /// `/openapi/v3`: where the document of each group version is.
    pub fn v3_index(&self) -> Vec<u8> {
        let mut paths = Map::new();
        for gv in self.scheme.group_versions() {
            let path = document_path(gv);
            if let Some(hash) = self.v3_hash(&path) {
                let url = format!("/openapi/v3/{path}?hash={hash}");
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
        json!({"paths": paths}).to_string().into_bytes()
    }

    /// `/openapi/v3/<path>`: the document of one group version, such as `apis/apps/v1`.
    pub fn v3(&self, path: &str) -> Option<Vec<u8>> {
        let gv = self.group_version(path)?;
        let text = Text::unpack();
        let mut out = Vec::with_capacity(1 << 19);
        out.extend_from_slice(br#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"1.36"},"paths":{"#);
        self.write_paths(&mut out, Dialect::V3, std::slice::from_ref(gv));
        out.extend_from_slice(br#"},"components":{"schemas":{"#);
        self.write_schemas(&mut out, Dialect::V3, std::slice::from_ref(gv), &text.index());
        out.extend_from_slice(br#"},"securitySchemes":{"BearerToken":{"type":"apiKey","description":"Bearer Token authentication","name":"authorization","in":"header"}}}}"#);
        Some(out)
    }

    /// `/openapi/v2`: one document of everything.
    pub fn v2(&self) -> Vec<u8> {
        let text = Text::unpack();
        let mut out = Vec::with_capacity(1 << 21);
        out.extend_from_slice(br#"{"swagger":"2.0","info":{"title":"Kubernetes","version":"1.36"},"paths":{"#);
        self.write_paths(&mut out, Dialect::V2, self.scheme.group_versions());
        out.extend_from_slice(br#"},"definitions":{"#);
        self.write_schemas(&mut out, Dialect::V2, self.scheme.group_versions(), &text.index());
        out.extend_from_slice(br#"},"securityDefinitions":{"BearerToken":{"description":"Bearer Token authentication","type":"apiKey","name":"authorization","in":"header"}},"security":[{"BearerToken":[]}]}"#);
        out
    }

    fn write_paths(&self, out: &mut Vec<u8>, dialect: Dialect, group_versions: &[GroupVersion]) {
        let mut paths: BTreeMap<String, Value> = BTreeMap::new();
        for gv in group_versions {
            for r in self.scheme.resources_of(&gv.group, &gv.version) {
                paths.extend(operations::paths(r, dialect));
            }
        }
        write_members(out, paths);
    }

    fn write_schemas(
        &self,
        out: &mut Vec<u8>,
        dialect: Dialect,
        group_versions: &[GroupVersion],
        descriptions: &Descriptions<'_>,
    ) {
        let mut custom = BTreeMap::new();
        let mut wanted: BTreeSet<String> =
            ["Status", "DeleteOptions", "Patch", "APIResourceList", "WatchEvent"].map(|n| format!("{META}{n}")).into();
        for gv in group_versions {
            for r in self.scheme.resources_of(&gv.group, &gv.version) {
                let name = definition_name(&r.group, &r.version, &r.kind);
                if let Some(definitions) = custom::definitions(r, dialect, descriptions) {
                    custom.extend(definitions);
                    wanted.insert(format!("{META}ListMeta"));
                    wanted.insert(format!("{META}ObjectMeta"));
                } else {
                    wanted.insert(name);
                    wanted.insert(definition_name(&r.group, &r.version, &r.list_kind));
                }
                wanted.extend(r.subresources.iter().map(|s| definition_name(&s.group, &s.version, &s.kind)));
            }
        }
        let shared = self.shared_kinds(group_versions);
        let all = schemas::closure(wanted);
        let built_in = all.into_iter().filter_map(|name| {
            let schema = schemas::definition(&name, dialect, descriptions, &shared)?;
            Some((name, schema))
        });
        write_members(out, built_in.chain(custom));
    }

    /// The group versions in which kinds such as `DeleteOptions` exist: all of the document's.
    fn shared_kinds(&self, group_versions: &[GroupVersion]) -> Vec<(String, String)> {
        let core = self.scheme.group_versions().iter().find(|gv| gv.group.is_empty());
        let mut all: Vec<(String, String)> =
            core.into_iter().chain(group_versions).map(|gv| (gv.group.clone(), gv.version.clone())).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// `api/v1`, `apis/apps/v1`.
fn document_path(gv: &GroupVersion) -> String {
    let prefix = if gv.group.is_empty() { "api" } else { "apis" };
    format!("{prefix}/{}", api_version(&gv.group, &gv.version))
}

fn write_members(out: &mut Vec<u8>, members: impl IntoIterator<Item = (String, Value)>) {
    for (i, (name, value)) in members.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(Value::String(name).to_string().as_bytes());
        out.push(b':');
        serde_json::to_writer(&mut *out, &value).expect("values are always written to memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(path: &str) -> Value {
        let scheme = Scheme::builtin();
        let bytes = OpenApi::new(&scheme).v3(path).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn the_index_names_every_group_version_with_a_hash() {
        let scheme = Scheme::builtin();
        let index: Value = serde_json::from_slice(&OpenApi::new(&scheme).v3_index()).unwrap();
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash=") && url.len() == 30 + 128, "{url}");
        assert_eq!(index["paths"].as_object().unwrap().len(), scheme.group_versions().len());
    }

    #[test]
    fn a_document_has_what_kubectl_looks_for() {
        let apps = document("apis/apps/v1");
        let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
        let schemas = apps["components"]["schemas"].as_object().unwrap();
        let spec = &schemas["io.k8s.api.apps.v1.DeploymentSpec"];
        assert_eq!(spec["required"], json!(["selector", "template"]));
        assert!(spec["properties"]["replicas"]["description"].as_str().unwrap().starts_with("Number of desired"));
        let strategy = &schemas["io.k8s.api.apps.v1.DeploymentStrategy"]["properties"]["type"];
        assert_eq!(strategy["enum"], json!(["Recreate", "RollingUpdate"]));
        // Every reference leads somewhere.
        let text = apps.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        assert!(OpenApi::new(&Scheme::builtin()).v3("apis/nope/v1").is_none());
    }

    #[test]
    fn custom_resources_are_published() {
        let object = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "description": "What is wanted."}}}}}]}});
        let source = bytes::Bytes::from(object.to_string());
        let definition: crate::custom::Definition = serde_json::from_slice(&source).unwrap();
        let widgets = definition.resources(&source, &definition.spec.names);
        let scheme = Scheme::builtin().extended(widgets);
        let bytes = OpenApi::new(&scheme).v3("apis/example.com/v1").unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let widget = &schemas["com.example.v1.Widget"];
        assert_eq!(widget["properties"]["spec"]["description"], "What is wanted.");
        assert_eq!(
            widget["properties"]["metadata"]["allOf"],
            json!([{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}])
        );
        assert_eq!(widget["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
        assert!(schemas["com.example.v1.WidgetList"]["properties"]["items"].is_object());
        let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
        assert!(!patch["requestBody"].to_string().contains("strategic"));
    }

    #[test]
    fn the_v2_document_defines_every_kind() {
        let scheme = Scheme::builtin();
        let document: Value = serde_json::from_slice(&OpenApi::new(&scheme).v2()).unwrap();
        let pod = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(pod["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(pod["items"], json!({"$ref": "#/definitions/io.k8s.api.core.v1.Container"}));
    }
}
