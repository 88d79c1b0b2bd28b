//! Kernel parameters under /proc/sys/net of the calling thread's network namespace.
use std::io;

/// Sets `name` (with slashes) to `value`, unless it is so already (a read-only /proc/sys is fine then).
pub fn ensure(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{name}");
    let current = std::fs::read_to_string(&path).map_err(|error| describe(&path, &error))?;
    if current.trim() == value {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|error| describe(&path, &error))
}

fn describe(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// Turns on forwarding for the families in use. It is the one setting that cannot be kept to Pintle's own interfaces.
pub fn enable_forwarding(v4: bool, v6: bool) -> io::Result<()> {
    if v4 {
        ensure("ipv4/ip_forward", "1")?;
    }
    if v6 && std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding")?.trim() != "1" {
        // A forwarding host ignores router advertisements unless accept_ra is 2: keep the uplinks' addresses alive.
        for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf")? {
            let name = entry?.file_name();
            let accept_ra = format!("ipv6/conf/{}/accept_ra", name.to_string_lossy());
            if std::fs::read_to_string(format!("/proc/sys/net/{accept_ra}")).is_ok_and(|value| value.trim() == "1") {
                ensure(&accept_ra, "2")?;
            }
        }
        ensure("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}
