//! Which resources the API serves now: the namespace controller and the garbage collector work on all of them.
use crate::error::Error;
use kube::Client;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList};
use kube::discovery::ApiResource;
use std::collections::HashSet;

/// One resource in its group's preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Group, version, kind and plural.
    pub api: ApiResource,
    /// True if its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
    /// True if it has a scale subresource.
    pub scalable: bool,
}

impl Resource {
    /// True if the resource offers every one of `verbs`.
    pub fn supports(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|offered| offered == verb))
    }
}

/// All resources, and the groups that could not be asked.
#[derive(Debug, Default)]
pub struct Served {
    /// Each resource once, in its preferred version.
    pub resources: Vec<Resource>,
    /// `group/version` of documents that are not up to date.
    pub stale: Vec<String>,
}

/// Asks the API what it serves: two requests, whatever the number of groups.
pub async fn served(client: &Client) -> Result<Served, Error> {
    let (core, groups) =
        tokio::try_join!(client.list_core_api_versions_aggregated(), client.list_api_groups_aggregated())?;
    Ok(read(&[core, groups]))
}

fn read(documents: &[APIGroupDiscoveryList]) -> Served {
    let mut served = Served::default();
    for group in documents.iter().flat_map(|document| &document.items) {
        read_group(group, &mut served);
    }
    served
}

fn read_group(document: &APIGroupDiscovery, served: &mut Served) {
    let group = document.metadata.as_ref().and_then(|meta| meta.name.clone()).unwrap_or_default();
    let mut seen = HashSet::new();
    for versioned in &document.versions {
        let Some(version) = &versioned.version else { continue };
        let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
        if versioned.freshness.as_deref() == Some("Stale") {
            served.stale.push(api_version.clone());
        }
        for resource in &versioned.resources {
            let Some(plural) = &resource.resource else { continue };
            let Some(kind) = resource.response_kind.as_ref().and_then(|kind| kind.kind.clone()) else { continue };
            if seen.insert(plural.clone()) {
                served.resources.push(Resource {
                    api: ApiResource {
                        group: group.clone(),
                        version: version.clone(),
                        api_version: api_version.clone(),
                        kind,
                        plural: plural.clone(),
                    },
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    verbs: resource.verbs.clone(),
                    scalable: resource.subresources.iter().any(|part| part.subresource.as_deref() == Some("scale")),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_resource_is_taken_in_its_preferred_version() {
        let resource = |name: &str| json!({"resource": name, "responseKind": {"kind": "K"}, "scope": "Namespaced", "verbs": ["list"]});
        let document = serde_json::from_value(json!({"items": [{"metadata": {"name": "g"}, "versions": [
            {"version": "v1", "resources": [resource("a")]},
            {"version": "v1beta1", "freshness": "Stale", "resources": [resource("a"), resource("b")]},
        ]}]}))
        .unwrap();
        let served = read(&[document]);
        let found: Vec<_> =
            served.resources.iter().map(|r| (r.api.plural.as_str(), r.api.api_version.as_str())).collect();
        assert_eq!(found, [("a", "g/v1"), ("b", "g/v1beta1")]);
        assert_eq!(served.stale, ["g/v1beta1"]);
        assert!(served.resources[0].supports(&["list"]) && !served.resources[0].supports(&["list", "delete"]));
    }
}
