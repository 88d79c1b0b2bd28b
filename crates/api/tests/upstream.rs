//! Comparisons with what upstream publishes in its Go modules. They run when they are asked for and have the modules:
//! `PINTLE_GO_MODULES=DIR cargo test -p pintle-api --test upstream -- --ignored`, where DIR holds `kubernetes@v1.36.3` and
//! `api@v0.36.3`.
#![allow(clippy::unwrap_used, reason = "a test")]
use std::{collections::BTreeSet, fs, path::PathBuf};

use pintle_api::{
    decode, discovery, facts,
    openapi::OpenApi,
    protobuf,
    scheme::{Scheme, api_version},
};
use serde_json::Value;

fn modules() -> PathBuf {
    PathBuf::from(std::env::var_os("PINTLE_GO_MODULES").expect("PINTLE_GO_MODULES names upstream's modules"))
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
#[ignore = "needs upstream's Go modules"]
fn discovery_documents_equal_upstreams() {
    let modules = modules();
    let published = modules.join("kubernetes@v1.36.3/api/discovery");
    let scheme = Scheme::all();
    for gv in scheme.group_versions() {
        let (group, version) = (gv.group.as_str(), gv.version.as_str());
        let file =
            if group.is_empty() { format!("api__{version}.json") } else { format!("apis__{group}__{version}.json") };
        assert_eq!(discovery::api_resource_list(scheme, group, version), Some(read(published.join(file))));
    }
}

/// Schemas of the two documents must be equal; descriptions and operations' prose are compared only where both have them.
#[test]
#[ignore = "needs upstream's Go modules"]
fn openapi_schemas_equal_upstreams() {
    let modules = modules();
    let published = modules.join("kubernetes@v1.36.3/api/openapi-spec/v3");
    let scheme = Scheme::all();
    let openapi = OpenApi::new(scheme);
    let mut differences = Vec::new();
    for gv in scheme.group_versions() {
        let prefix = if gv.group.is_empty() { "api" } else { "apis" };
        let path = format!("{prefix}/{}", api_version(&gv.group, &gv.version));
        let own: Value = serde_json::from_slice(&openapi.v3(&path).unwrap()).unwrap();
        let theirs = read(published.join(format!("{}_openapi.json", path.replace('/', "__"))));
        for (name, schema) in
            theirs["components"]["schemas"].as_object().unwrap().iter().filter(|(n, _)| !n.ends_with(".WatchEvent"))
        {
            compare(name, schema, &own["components"]["schemas"][name], &mut differences);
        }
        for (path, item) in theirs["paths"].as_object().unwrap().iter().filter(|(p, _)| !p.contains("/watch/")) {
            for method in ["get", "put", "post", "patch", "delete"] {
                let (a, b) = (&item[method]["operationId"], &own["paths"][path][method]["operationId"]);
                if a != b && !path.ends_with('/') && !path.contains("{path}") {
                    differences.push(format!("{method} {path}: {a} {b}"));
                }
            }
        }
    }
    differences.sort();
    differences.dedup();
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

fn compare(at: &str, theirs: &Value, own: &Value, differences: &mut Vec<String>) {
    match (theirs, own) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                let both = b.contains_key(key);
                if key == "x-kubernetes-group-version-kind" && at.contains(".meta.v1.") || key == "description" && !both
                {
                    continue;
                }
                compare(&format!("{at}.{key}"), value, b.get(key).unwrap_or(&Value::Null), differences);
            }
            // The published files are made without the gate OpenAPIEnums, which a server has on.
            for key in b.keys().filter(|key| !a.contains_key(*key) && *key != "enum") {
                differences.push(format!("{at}.{key}: only here"));
            }
        }
        (a, b) if a != b => differences.push(format!("{at}: {a} {b}")),
        _ => {}
    }
}

/// Upstream's round-trip fixtures: one object of each kind with every field set, in JSON and in protobuf.
#[test]
#[ignore = "needs upstream's Go modules"]
fn protobuf_and_json_fixtures_are_the_same_objects() {
    let modules = modules();
    let mut differences = Vec::new();
    let mut compared = 0;
    let mut skipped = BTreeSet::new();
    for entry in fs::read_dir(modules.join("api@v0.36.3/testdata/HEAD")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // A WatchEvent never has an envelope outside of the fixtures.
        let Some(name) = name.strip_suffix(".pb").filter(|n| *n != "core.v1.WatchEvent") else { continue };
        let (rest, kind) = name.rsplit_once('.').unwrap();
        let (group, version) = rest.rsplit_once('.').unwrap();
        let group = if group == "core" { "" } else { group };
        let Some(ty) = facts::lookup(group, version, kind) else {
            skipped.insert(api_version(group, version));
            continue;
        };
        compared += 1;
        let bytes = fs::read(&path).unwrap();
        let text = fs::read(path.with_extension("json")).unwrap();
        let json = decode::decode(&text, ty).unwrap();
        // Members have no order: both texts are written with sorted keys, and then every byte counts.
        let sorted = serde_json::to_vec(&serde_json::from_slice::<Value>(&text).unwrap()).unwrap();
        if serde_json::to_vec(&json.value).unwrap() != sorted {
            differences.push(format!("{name}: JSON differs"));
        }
        if !json.strict_errors.is_empty() {
            differences.push(format!("{name}: {:?}", json.strict_errors));
        }
        match protobuf::decode(&bytes, ("", "")) {
            Ok(value) => compare(name, &json.value, &value, &mut differences),
            Err(e) => differences.push(format!("{name}: {e}")),
        }
        let own = protobuf::encode(&json.value, &api_version(group, version), kind, ty);
        if own != bytes {
            let at = own.iter().zip(&bytes).position(|(a, b)| a != b).unwrap_or(own.len().min(bytes.len()));
            let around = |b: &[u8]| b[at.saturating_sub(24)..b.len().min(at + 24)].escape_ascii().to_string();
            differences.push(format!("{name}: byte {at}: {} | {}", around(&bytes), around(&own)));
        }
    }
    println!("{compared} kinds compared; not served: {skipped:?}");
    assert!(compared > 60, "{compared}");
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
