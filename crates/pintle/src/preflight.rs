//! What Pintle needs of the host, checked before anything is started: one line per problem.
use crate::instance::port_is_free;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// A start needs this much room on the data directory's disk, in bytes.
const DISK: u64 = 256 << 20;
/// The oldest kernel that has what the runtime and the network use.
const KERNEL: (u32, u32) = (5, 10);

/// What a start is about to use.
pub struct Needs<'a> {
    /// The data directory (exists).
    pub data: &'a Path,
    /// The address the API server listens on.
    pub bind: IpAddr,
    /// Ports to listen on, with the flag that changes each.
    pub ports: &'a [(u16, &'static str)],
    /// Whether a node runs here too.
    pub node: bool,
}

/// Every problem that would keep a start from succeeding, each with its remedy.
pub fn problems(needs: &Needs<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(problem) = disk(needs.data) {
        problems.push(problem);
    }
    for (port, flag) in needs.ports {
        let address =
            SocketAddr::new(if *flag == "--https-port" { needs.bind } else { Ipv4Addr::UNSPECIFIED.into() }, *port);
        if !port_is_free(address) {
            problems
                .push(format!("port {port} is in use by another program; stop it or choose another port with {flag}"));
        }
    }
    if needs.node {
        problems.extend(node_problems());
    }
    problems
}

/// Whether the caller may start a cluster at all.
pub fn not_root() -> Option<String> {
    (!nix::unistd::geteuid().is_root())
        .then(|| "pintle must run as root (try sudo): it makes namespaces, mounts and cgroups".into())
}

fn node_problems() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut problems = Vec::new();
    problems.extend(kernel(&read("/proc/sys/kernel/osrelease")));
    if !in_path("nft") {
        problems.push("the program nft is missing; install the package nftables".into());
    }
    if !read("/proc/filesystems").lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        problems.push("the kernel has no overlay file system; load it with `modprobe overlay`".into());
    }
    problems.extend(cgroups(&read("/proc/mounts")));
    for namespace in ["net", "mnt", "pid", "ipc", "uts"] {
        if !Path::new("/proc/self/ns").join(namespace).exists() {
            problems.push(format!("the kernel has no {namespace} namespaces; use one built with CONFIG_NAMESPACES"));
        }
    }
    problems
}

fn kernel(release: &str) -> Option<String> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    let version = (numbers.next()?, numbers.next()?);
    let (major, minor) = KERNEL;
    (version < KERNEL).then(|| format!("Linux {} is too old; Pintle needs {major}.{minor} or newer", release.trim()))
}

fn cgroups(mounts: &str) -> Option<String> {
    let mounted = |kind: &str, option: &str| {
        mounts.lines().any(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            words.get(2) == Some(&kind)
                && (option.is_empty() || words.get(3).is_some_and(|o| o.split(',').any(|o| o == option)))
        })
    };
    let v1 = ["cpu", "memory", "pids", "devices"].iter().all(|controller| mounted("cgroup", controller));
    let v2 = mounted("cgroup2", "") && !mounted("cgroup", "memory");
    (!v1 && !v2)
        .then(|| "no cgroup hierarchy with cpu, memory and pids is mounted; mount cgroup2 at /sys/fs/cgroup".into())
}

fn disk(data: &Path) -> Option<String> {
    let free = match nix::sys::statvfs::statvfs(data) {
        Ok(stat) => stat.blocks_available() * stat.fragment_size(),
        Err(error) => return Some(format!("cannot look at the disk of {}: {error}", data.display())),
    };
    (free < DISK).then(|| {
        let (data, free, need) = (data.display(), free >> 20, DISK >> 20);
        format!("only {free} MiB are free on the disk of {data}; Pintle needs {need} MiB: free some or choose another --data-dir")
    })
}

fn in_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused_by_name() {
        assert_eq!(kernel("6.18.44-fc-v669\n"), None);
        assert_eq!(kernel("5.10.0-9-amd64\n"), None);
        assert_eq!(kernel("4.19.0\n").as_deref(), Some("Linux 4.19.0 is too old; Pintle needs 5.10 or newer"));
    }

    #[test]
    fn both_cgroup_versions_serve() {
        assert_eq!(cgroups("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), None);
        let v1 = "cgroup /c/a cgroup rw,cpu,cpuacct 0 0\ncgroup /c/b cgroup rw,memory 0 0\n\
                  cgroup /c/c cgroup rw,pids 0 0\ncgroup /c/d cgroup rw,devices 0 0\ncgroup2 /c/u cgroup2 rw 0 0\n";
        assert_eq!(cgroups(v1), None);
        assert!(cgroups("tmpfs /tmp tmpfs rw 0 0\n").is_some());
    }

    #[test]
    fn a_port_in_use_names_its_flag() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let needs = Needs {
            data: Path::new("/"),
            bind: Ipv4Addr::LOCALHOST.into(),
            ports: &[(port, "--https-port")],
            node: false,
        };
        let problems = problems(&needs);
        assert!(
            problems.iter().any(|p| p.contains(&format!("port {port}")) && p.contains("--https-port")),
            "{problems:?}"
        );
    }
}
