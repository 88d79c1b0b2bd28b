//! Seccomp profiles: the default one, and those that the operator put on the node.
use std::path::Path;

use serde_json::{Value, json};

use crate::cri::SecurityProfile;
use crate::cri::security_profile::ProfileType;

const DEFAULT: &str = include_str!("seccomp.txt");
/// The flags of clone(2) that make namespaces.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
const AF_VSOCK: u64 = 40;
const ENOSYS: u32 = 38;

/// The OCI form of the profile that a container asked for.
pub fn profile(wanted: Option<&SecurityProfile>, capabilities: &[String]) -> Result<Option<Value>, String> {
    let Some(wanted) = wanted else { return Ok(None) };
    match ProfileType::try_from(wanted.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Some(default_profile(capabilities))),
        Ok(ProfileType::Unconfined) => Ok(None),
        Ok(ProfileType::Localhost) => {
            let path = wanted.localhost_ref.strip_prefix("localhost/").unwrap_or(&wanted.localhost_ref);
            localhost(Path::new(path), capabilities).map(Some)
        }
        Err(_) => Err(format!("unknown seccomp profile type {}", wanted.profile_type)),
    }
}

fn architectures() -> Value {
    match std::env::consts::ARCH {
        "x86_64" => json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
        "aarch64" => json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        _ => json!([]),
    }
}

/// Everything that is listed is allowed, the rest fails with EPERM.
fn default_profile(capabilities: &[String]) -> Value {
    let holds = |name: &str| capabilities.iter().any(|capability| capability == name);
    let mut allowed = Vec::new();
    for line in DEFAULT.lines().filter(|line| !line.starts_with('#')) {
        if let Some((who, calls)) = line.split_once(' ')
            && (who == "*" || holds(who))
        {
            allowed.extend(calls.split(' '));
        }
    }
    let condition = |name: &str, index: u32, value: u64, op: &str| json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [{"index": index, "value": value, "op": op}]});
    let mut calls = vec![json!({"names": allowed, "action": "SCMP_ACT_ALLOW"})];
    calls.extend([0, 8, 0x20000, 0x20008, 0xffff_ffff].map(|v| condition("personality", 0, v, "SCMP_CMP_EQ")));
    calls.push(condition("socket", 0, AF_VSOCK, "SCMP_CMP_NE"));
    if !holds("CAP_SYS_ADMIN") {
        calls.push(json!({
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
        }));
        // Its flags are behind a pointer; told that it is missing, the C library uses clone.
        calls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": architectures(), "syscalls": calls})
}

/// A profile file in Docker's form, with `includes` and `excludes` by capability and architecture resolved.
fn localhost(path: &Path, capabilities: &[String]) -> Result<Value, String> {
    let text = std::fs::read(path)
        .map_err(|error| format!("cannot load seccomp profile {:?}: {error}", path.display().to_string()))?;
    let mut profile: Value = serde_json::from_slice(&text)
        .map_err(|error| format!("cannot read seccomp profile {:?}: {error}", path.display().to_string()))?;
    resolve(&mut profile, capabilities);
    Ok(profile)
}

fn resolve(profile: &mut Value, capabilities: &[String]) {
    let arch = crate::image::archive::architecture();
    if let Some(map) = profile.as_object_mut() {
        if map.remove("archMap").is_some() && !map.contains_key("architectures") {
            map.insert("architectures".to_owned(), architectures());
        }
        if map.get("architectures").is_some_and(Value::is_null) {
            map.remove("architectures");
        }
    }
    let matches = |condition: &Value, all: bool| {
        let list = |name: &str| condition[name].as_array().cloned().unwrap_or_default();
        let holds = |cap: &Value| capabilities.iter().any(|known| cap.as_str() == Some(known));
        let caps = list("caps");
        let arches = list("arches");
        if all {
            caps.iter().all(holds) && (arches.is_empty() || arches.iter().any(|a| a == arch))
        } else {
            caps.iter().any(holds) || arches.iter().any(|a| a == arch)
        }
    };
    let Some(calls) = profile["syscalls"].as_array_mut() else { return };
    calls.retain(|call| matches(&call["includes"], true) && !matches(&call["excludes"], false));
    for call in calls {
        let Some(map) = call.as_object_mut() else { continue };
        if let Some(name) = map.remove("name").filter(Value::is_string) {
            map.insert("names".to_owned(), json!([name]));
        }
        for name in ["includes", "excludes", "comment"] {
            map.remove(name);
        }
        map.retain(|_, value| !value.is_null());
    }
}

#[cfg(test)]
mod tests {
    use libcontainer::oci_spec::runtime::LinuxSeccomp;

    use super::*;

    fn allowed(profile: &Value) -> Vec<&str> {
        profile["syscalls"][0]["names"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
    }

    #[test]
    fn the_default_profile_is_read_by_libcontainer() {
        let profile = default_profile(&[]);
        serde_json::from_value::<LinuxSeccomp>(profile.clone()).unwrap();
        let names = allowed(&profile);
        assert!(names.len() > 300 && names.contains(&"openat"));
        for denied in ["mount", "unshare", "io_uring_setup", "bpf", "clone", "socket", "kexec_load", "add_key"] {
            assert!(!names.contains(&denied), "{denied}");
        }
    }

    #[test]
    fn capabilities_open_their_calls() {
        let profile = default_profile(&["CAP_SYS_ADMIN".to_owned()]);
        assert!(allowed(&profile).contains(&"mount"));
        assert!(allowed(&profile).contains(&"clone3"));
    }

    #[test]
    fn dockers_conditions_are_resolved() {
        let mut profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [],
            "syscalls": [
                {"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
                {"names": ["b"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_X"]}},
                {"names": ["c"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_Y"]}},
            ],
        });
        resolve(&mut profile, &["CAP_Y".to_owned()]);
        assert_eq!(profile["syscalls"].as_array().unwrap().len(), 1);
        serde_json::from_value::<LinuxSeccomp>(profile).unwrap();
    }
}
