//! Discovery documents: which groups, versions and resources are served.
use pintle_api::scheme::{Scheme, Verb, Verbs, api_version};
use serde_json::{Value, json};

/// The document at `segments` (`apis`, `apps`, `v1`), if there is one.
pub fn document(scheme: &Scheme, segments: &[&str]) -> Option<Value> {
    match segments {
        ["api"] => Some(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
        })),
        ["apis"] => {
            let mut groups: Vec<&str> = Vec::new();
            for gv in scheme.group_versions().iter().filter(|gv| !gv.group.is_empty()) {
                if groups.last() != Some(&gv.group.as_str()) {
                    groups.push(&gv.group);
                }
            }
            let groups: Vec<Value> = groups.into_iter().filter_map(|group| group_document(scheme, group)).collect();
            Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
        }
        ["apis", group] => {
            let mut document = group_document(scheme, group)?;
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            Some(document)
        }
        ["api", version] => resources(scheme, "", version),
        ["apis", group, version] => resources(scheme, group, version),
        _ => None,
    }
}

fn group_document(scheme: &Scheme, group: &str) -> Option<Value> {
    let of_group = scheme.group_versions().iter().filter(|gv| gv.group == group);
    let versions: Vec<Value> =
        of_group.map(|gv| json!({ "groupVersion": api_version(group, &gv.version), "version": gv.version })).collect();
    let preferred = versions.first()?.clone();
    Some(json!({ "name": group, "versions": versions, "preferredVersion": preferred }))
}

fn resources(scheme: &Scheme, group: &str, version: &str) -> Option<Value> {
    let verbs = |verbs: Verbs| verbs.iter().map(Verb::as_str).collect::<Vec<_>>();
    let mut all = Vec::new();
    for resource in scheme.resources_of(group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": verbs(resource.verbs),
        });
        for (field, values) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
            if !values.is_empty() {
                entry[field] = json!(values);
            }
        }
        if !resource.storage_version_hash.is_empty() {
            entry["storageVersionHash"] = resource.storage_version_hash.clone().into();
        }
        all.push(entry);
        for sub in &resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": sub.kind, "verbs": verbs(sub.verbs),
            });
            if sub.group != resource.group || sub.version != resource.version {
                entry["group"] = sub.group.clone().into();
                entry["version"] = sub.version.clone().into();
            }
            all.push(entry);
        }
    }
    let found = !all.is_empty();
    found.then(|| {
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": all,
        })
    })
}
