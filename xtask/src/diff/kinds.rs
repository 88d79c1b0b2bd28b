//! The kinds under comparison: what discovery says of them, and objects of each. Start at [`discover`].
use super::Args;
use super::session::{Request, Session};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Requests by hand, with a valid object for most kinds.
const CASES: &str = include_str!("../../diff/cases.json");

/// A valid object for each of the other kinds, by the path of its collection.
const OBJECTS: &str = include_str!("../../diff/objects.yaml");

/// Asks for aggregated discovery.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A kind that both serve.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The path of its collection, with `{ns}`.
    pub path: String,
    /// The path of the collection over all namespaces.
    pub all: String,
    /// `apiVersion` of its objects.
    pub api_version: String,
    /// `kind` of its objects.
    pub kind: String,
    /// The plural name with its group, as kubectl takes it.
    pub resource: String,
    /// What may be done with it.
    pub verbs: Vec<String>,
    /// The names of its subresources.
    pub subresources: Vec<String>,
    /// An object with every field filled.
    pub fixture: Option<Value>,
    /// A valid object.
    pub object: Option<Value>,
}

impl Kind {
    /// Whether the kind is stored and clients may write it.
    pub fn is_writable(&self) -> bool {
        self.has("create") && self.has("get")
    }

    /// Whether `verb` is served.
    pub fn has(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// The kinds that both serve and whose path contains `args.only`.
pub async fn discover(args: &Args, session: &Session) -> Result<Vec<Kind>> {
    let mut sides: [Vec<Kind>; 2] = [vec![], vec![]];
    for root in ["/api", "/apis"] {
        let answers = session.ask(&Request::plain("GET", root).accepting(AGGREGATED)).await?;
        for (side, answer) in sides.iter_mut().zip(&answers) {
            side.extend(kinds(root, &answer.body));
        }
    }
    let [theirs, ours] = sides;
    let shared = theirs.into_iter().filter(|kind| ours.iter().any(|other| other.path == kind.path));
    let mut kinds: Vec<Kind> = shared.filter(|kind| kind.path.contains(&args.only)).collect();
    let directory = super::fixtures(args)?;
    let objects = objects()?;
    for kind in &mut kinds {
        let group = kind.api_version.replace('/', ".");
        let group = if group == "v1" { "core.v1".to_owned() } else { group };
        let file = directory.join(format!("{group}.{}.json", kind.kind));
        if file.exists() {
            kind.fixture = Some(serde_json::from_slice(&std::fs::read(&file)?)?);
        }
        kind.object = objects.get(&kind.path).map(|object| {
            let mut object = object.clone();
            object["apiVersion"] = json!(kind.api_version);
            object["kind"] = json!(kind.kind);
            object
        });
    }
    Ok(kinds)
}

/// The requests by hand.
pub fn cases() -> Result<Vec<Value>> {
    serde_json::from_str(CASES).context("cases.json")
}

fn objects() -> Result<BTreeMap<String, Value>> {
    let mut objects: BTreeMap<String, Value> = serde_saphyr::from_str(OBJECTS).context("objects.yaml")?;
    for case in cases()? {
        let path = case["path"].as_str().context("a case has a path")?;
        objects.entry(path.to_owned()).or_insert_with(|| case["base"].clone());
    }
    Ok(objects)
}

fn kinds(root: &str, document: &Value) -> Vec<Kind> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for group in list(&document["items"]) {
        let name = text(&group["metadata"]["name"]);
        for version in list(&group["versions"]) {
            let version_name = text(&version["version"]);
            for resource in list(&version["resources"]) {
                let plural = text(&resource["resource"]);
                let (base, api_version) = if name.is_empty() {
                    (format!("{root}/{version_name}"), version_name.clone())
                } else {
                    (format!("{root}/{name}/{version_name}"), format!("{name}/{version_name}"))
                };
                let scope = if resource["scope"] == "Namespaced" { "/namespaces/{ns}" } else { "" };
                let kind = text(&resource["responseKind"]["kind"]);
                if kind.is_empty() {
                    continue;
                }
                found.push(Kind {
                    path: format!("{base}{scope}/{plural}"),
                    all: format!("{base}/{plural}"),
                    api_version,
                    kind,
                    resource: if name.is_empty() { plural } else { format!("{plural}.{name}") },
                    verbs: list(&resource["verbs"]).iter().map(text).collect(),
                    subresources: list(&resource["subresources"]).iter().map(|s| text(&s["subresource"])).collect(),
                    fixture: None,
                    object: None,
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_valid_object_has_a_path_and_a_name() {
        for (path, object) in objects().expect("readable") {
            assert!(path.starts_with("/api"), "{path}");
            assert!(object["metadata"]["name"].is_string() || path.contains("review"), "{path}");
        }
    }

    #[test]
    fn a_kind_is_read_from_aggregated_discovery() {
        let document = json!({"items": [{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [{
            "resource": "deployments", "scope": "Namespaced", "responseKind": {"kind": "Deployment"},
            "verbs": ["create", "get"], "subresources": [{"subresource": "status"}],
        }]}]}]});
        let found = kinds("/apis", &document);
        assert_eq!(found[0].path, "/apis/apps/v1/namespaces/{ns}/deployments");
        assert_eq!(found[0].all, "/apis/apps/v1/deployments");
        assert_eq!(found[0].resource, "deployments.apps");
        assert!(found[0].is_writable() && found[0].subresources == ["status"]);
    }
}
