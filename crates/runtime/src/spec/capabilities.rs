//! Which capabilities a container gets.
use crate::cri::Capability;

/// What every container may do, unless it is told otherwise: containerd's default.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All capabilities by number.
pub const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A container's capabilities, named like `CAP_CHOWN`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Bounding, effective and permitted.
    pub granted: Vec<String>,
    /// Inheritable and ambient: kept over an exec by a user other than root.
    pub ambient: Vec<String>,
}

/// Computes them. `bounding` is the mask of what this process may hand on at all.
pub fn compute(request: Option<&Capability>, privileged: bool, bounding: u64) -> Result<Capabilities, String> {
    let available =
        |name: &&str| ALL.iter().position(|known| known == name).is_some_and(|number| bounding & (1 << number) != 0);
    let prefixed = |names: Vec<&str>| names.into_iter().map(|name| format!("CAP_{name}")).collect::<Vec<_>>();
    if privileged {
        return Ok(Capabilities {
            granted: prefixed(ALL.into_iter().filter(available).collect()),
            ambient: Vec::new(),
        });
    }
    let mut granted: Vec<&str> = DEFAULT.to_vec();
    let mut ambient = Vec::new();
    if let Some(request) = request {
        let named = |list: &[String], name: &str| list.iter().any(|entry| entry.eq_ignore_ascii_case(name));
        if named(&request.add_capabilities, "ALL") {
            granted = ALL.to_vec();
        }
        if named(&request.drop_capabilities, "ALL") {
            granted.clear();
        }
        for name in &request.add_capabilities {
            if !name.eq_ignore_ascii_case("ALL") {
                add(&mut granted, find(name)?);
            }
        }
        for name in &request.add_ambient_capabilities {
            let name = find(name)?;
            add(&mut granted, name);
            add(&mut ambient, name);
        }
        for name in &request.drop_capabilities {
            if !name.eq_ignore_ascii_case("ALL") {
                let name = find(name)?;
                granted.retain(|known| *known != name);
                ambient.retain(|known| *known != name);
            }
        }
    }
    granted.retain(available);
    ambient.retain(available);
    Ok(Capabilities { granted: prefixed(granted), ambient: prefixed(ambient) })
}

fn add<'a>(list: &mut Vec<&'a str>, name: &'a str) {
    if !list.contains(&name) {
        list.push(name);
    }
}

fn find(name: &str) -> Result<&'static str, String> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter().find(|known| *known == plain).ok_or_else(|| format!("unknown capability {name:?}"))
}

/// The mask of this process' bounding set, from the text of `/proc/self/status`.
pub fn bounding_set(status: &str) -> u64 {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(add: &[&str], drop: &[&str]) -> Capability {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Capability { add_capabilities: list(add), drop_capabilities: list(drop), add_ambient_capabilities: Vec::new() }
    }

    #[test]
    fn defaults_are_containerds() {
        let capabilities = compute(None, false, u64::MAX).unwrap();
        assert_eq!(capabilities.granted.len(), 14);
        assert!(capabilities.granted.contains(&"CAP_NET_RAW".to_owned()));
    }

    #[test]
    fn all_can_be_dropped_and_single_ones_added() {
        let wanted = request(&["NET_ADMIN"], &["ALL"]);
        assert_eq!(compute(Some(&wanted), false, u64::MAX).unwrap().granted, ["CAP_NET_ADMIN"]);
        let wanted = request(&["ALL"], &["CAP_SYS_ADMIN"]);
        let granted = compute(Some(&wanted), false, u64::MAX).unwrap().granted;
        assert_eq!(granted.len(), 40);
        assert!(compute(Some(&request(&["NONSENSE"], &[])), false, 0).is_err());
    }

    #[test]
    fn privileged_means_what_the_machine_has() {
        let bounding = bounding_set("Name:\tx\nCapBnd:\t0000000000000003\n");
        assert_eq!(compute(None, true, bounding).unwrap().granted, ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    }
}
