//! How much is stored of each resource, counted when somebody asks for the metrics.
use crate::registry::{Registry, collection_prefix, prefix_end};
use pintle_api::scheme::Resource;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Resources by where they are stored, each in one version.
fn stored(registry: &Registry) -> BTreeMap<String, Arc<Resource>> {
    let scheme = registry.scheme();
    let stored = scheme.resources().filter(|resource| resource.is_stored() && resource.group == resource.storage_group);
    stored.map(|resource| (resource.storage_prefix(), resource.clone())).collect()
}

/// The metrics of stored objects in Prometheus' text form; -1 is what could not be counted.
// upstream: apiserver pkg/storage/etcd3/metrics
pub(super) async fn metrics(registry: &Registry) -> String {
    let (mut old, mut new) = (
        String::from(
            "# HELP apiserver_storage_objects [STABLE] (Deprecated since 1.34.0) [DEPRECATED, consider using \
             apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of \
             a fetching error, the value will be -1.\n# TYPE apiserver_storage_objects gauge\n",
        ),
        String::from(
            "# HELP apiserver_resource_objects [ALPHA] Number of stored objects at the time of last check split by kind. In case \
             of a fetching error, the value will be -1.\n# TYPE apiserver_resource_objects gauge\n",
        ),
    );
    for resource in stored(registry).values() {
        let prefix = collection_prefix(resource, "");
        let found = registry.store().range(&prefix, &prefix_end(&prefix), 1, None).await;
        let count = found.map_or(-1, |found| i64::try_from(found.items.len() + found.remaining).unwrap_or(i64::MAX));
        let (name, group, plural) = (resource.group_resource(), &resource.group, &resource.plural);
        let written = writeln!(old, "apiserver_storage_objects{{resource=\"{name}\"}} {count}").and_then(|()| {
            writeln!(new, "apiserver_resource_objects{{group=\"{group}\",resource=\"{plural}\"}} {count}")
        });
        written.expect("writing into a string");
    }
    old + &new + &build()
}

/// What this server is.
fn build() -> String {
    format!(
        "# HELP kubernetes_build_info [BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, \
         git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is \
         running.\n# TYPE kubernetes_build_info gauge\nkubernetes_build_info{{build_date=\"1970-01-01T00:00:00Z\",\
         compiler=\"rustc\",git_commit=\"\",git_tree_state=\"clean\",git_version=\"v1.36.3+pintle{}\",go_version=\"none\",\
         major=\"1\",minor=\"36\",platform=\"linux/amd64\"}} 1\n",
        env!("CARGO_PKG_VERSION")
    )
}
