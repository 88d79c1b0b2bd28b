//! Comparisons with what upstream publishes in its Go modules. They need the modules: the tests pass at once unless
//! `PINTLE_GO_MODULES` names the directory that holds `kubernetes@v1.36.3` and `api@v0.36.3`.
use std::{fs, path::PathBuf};

use pintle_api::{discovery, scheme::Scheme};
use serde_json::Value;

fn modules() -> Option<PathBuf> {
    std::env::var_os("PINTLE_GO_MODULES").map(PathBuf::from)
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn discovery_documents_equal_upstreams() {
    let Some(modules) = modules() else { return };
    let published = modules.join("kubernetes@v1.36.3/api/discovery");
    let scheme = Scheme::builtin();
    for gv in scheme.group_versions() {
        let (group, version) = (gv.group.as_str(), gv.version.as_str());
        let file =
            if group.is_empty() { format!("api__{version}.json") } else { format!("apis__{group}__{version}.json") };
        assert_eq!(discovery::api_resource_list(&scheme, group, version), Some(read(published.join(file))));
    }
}
