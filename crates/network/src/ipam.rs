//! Which sandbox holds which address: one small file per sandbox, written before the address is used.
//!
//! An allocation is an offset into every pod CIDR of the node (so both families share it). Files are replaced
//! atomically and need no fsync: after a crash of the machine the sandboxes' namespaces are gone as well, and
//! [`Ipam::retain`] drops what has no interface any more.
use parking_lot::Mutex;
use pintle_runtime::pod_network::PortMapping;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Offset 0 is the network's address, 1 the gateway.
const FIRST: u32 = 2;
/// What five hex digits of a link's name can say.
const LIMIT: u32 = 0xf_ffff;

/// What a sandbox holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address' position in the pod CIDRs.
    pub offset: u32,
    /// Its ports of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
}

/// A [`PortMapping`] as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The port on the node.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
    /// The node's address; all of them if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl From<&PortMapping> for HostPort {
    fn from(mapping: &PortMapping) -> Self {
        HostPort {
            protocol: mapping.protocol.to_ascii_lowercase(),
            host_port: mapping.host_port,
            container_port: mapping.container_port,
            host_ip: mapping.host_ip.filter(|address| !address.is_unspecified()),
        }
    }
}

/// What can go wrong with an allocation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All addresses are in use.
    #[error("no free address is left in the node's pod CIDRs; delete pods or use a larger CIDR")]
    Exhausted,
    /// A sandbox id that cannot be a file name.
    #[error("sandbox id {0:?} is not usable as a file name")]
    SandboxId(String),
    /// The allocation cannot be kept.
    #[error("cannot keep address allocations in {path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The node's address allocations.
pub struct Ipam {
    directory: PathBuf,
    /// The last offset that can be handed out.
    last: u32,
    state: Mutex<State>,
}

struct State {
    leases: HashMap<String, Lease>,
    used: HashSet<u32>,
    /// The offset handed out last: the search goes on from there, so that addresses rest before they are used again.
    cursor: u32,
}

impl Ipam {
    /// Reads the allocations under `directory` (made if absent) for CIDRs of `size` addresses each.
    pub fn open(directory: &Path, size: u64) -> Result<Self, Error> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |error| Error::Io { path, error }
        };
        fs::create_dir_all(directory).map_err(fail(directory))?;
        let last = u32::try_from(size.saturating_sub(2)).unwrap_or(LIMIT).min(LIMIT);
        let mut state = State { leases: HashMap::new(), used: HashSet::new(), cursor: FIRST - 1 };
        for entry in fs::read_dir(directory).map_err(fail(directory))? {
            let path = entry.map_err(fail(directory))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name == "cursor" {
                let text = fs::read_to_string(&path).map_err(fail(&path))?;
                state.cursor = state.cursor.max(text.trim().parse().unwrap_or(0));
                continue;
            }
            let lease = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Lease>(&bytes).ok());
            match lease.filter(|lease| (FIRST..=last).contains(&lease.offset)) {
                Some(lease) if state.used.insert(lease.offset) => {
                    state.leases.insert(name, lease);
                }
                // Unfinished, of other CIDRs, or taken twice: nobody was told of it.
                _ => fs::remove_file(&path).map_err(fail(&path))?,
            }
        }
        state.cursor = state.cursor.min(last);
        Ok(Ipam { directory: directory.to_owned(), last, state: Mutex::new(state) })
    }

    /// The lease of `sandbox`, made if it has none.
    pub fn allocate(&self, sandbox: &str, host_ports: &[HostPort]) -> Result<Lease, Error> {
        check(sandbox)?;
        let mut state = self.state.lock();
        if let Some(lease) = state.leases.get(sandbox).filter(|lease| lease.host_ports == host_ports) {
            return Ok(lease.clone());
        }
        let held = state.leases.get(sandbox).map(|lease| lease.offset);
        let offset = match held {
            Some(offset) => offset,
            None => state.next_free(self.last).ok_or(Error::Exhausted)?,
        };
        let lease = Lease { offset, host_ports: host_ports.to_vec() };
        self.write(sandbox, &lease)?;
        if held.is_none() {
            state.cursor = offset;
            self.write_file("cursor", offset.to_string().as_bytes())?;
        }
        state.used.insert(offset);
        state.leases.insert(sandbox.to_owned(), lease.clone());
        Ok(lease)
    }

    /// The lease of `sandbox`, if it has one.
    pub fn get(&self, sandbox: &str) -> Option<Lease> {
        self.state.lock().leases.get(sandbox).cloned()
    }

    /// Gives back what `sandbox` holds.
    pub fn release(&self, sandbox: &str) -> Result<(), Error> {
        check(sandbox)?;
        let mut state = self.state.lock();
        let path = self.directory.join(sandbox);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::Io { path, error }),
            _ => {}
        }
        if let Some(lease) = state.leases.remove(sandbox) {
            state.used.remove(&lease.offset);
        }
        Ok(())
    }

    /// Releases the leases whose offset `keep` does not want.
    pub fn retain(&self, keep: impl Fn(u32) -> bool) -> Result<(), Error> {
        for (sandbox, lease) in self.leases() {
            if !keep(lease.offset) {
                self.release(&sandbox)?;
            }
        }
        Ok(())
    }

    /// All leases by sandbox.
    pub fn leases(&self) -> Vec<(String, Lease)> {
        self.state.lock().leases.iter().map(|(sandbox, lease)| (sandbox.clone(), lease.clone())).collect()
    }

    fn write(&self, sandbox: &str, lease: &Lease) -> Result<(), Error> {
        let bytes = serde_json::to_vec(lease).map_err(|error| self.failed(sandbox, error.into()))?;
        self.write_file(sandbox, &bytes)
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let temporary = self.directory.join(format!(".{name}"));
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, self.directory.join(name)))
            .map_err(|error| self.failed(name, error))
    }

    fn failed(&self, name: &str, error: io::Error) -> Error {
        Error::Io { path: self.directory.join(name), error }
    }
}

impl State {
    fn next_free(&self, last: u32) -> Option<u32> {
        (self.cursor + 1..=last).chain(FIRST..=self.cursor).find(|offset| !self.used.contains(offset))
    }
}

fn check(sandbox: &str) -> Result<(), Error> {
    let bad = sandbox.is_empty() || sandbox == "cursor" || sandbox.starts_with('.') || sandbox.contains('/');
    if bad { Err(Error::SandboxId(sandbox.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_keeps_its_address_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ipam::open(dir.path(), 256).unwrap().allocate("a", &[]).unwrap();
        let ipam = Ipam::open(dir.path(), 256).unwrap();
        assert_eq!(ipam.get("a"), Some(first.clone()));
        assert_eq!(ipam.allocate("a", &[]).unwrap(), first);
        assert_ne!(ipam.allocate("b", &[]).unwrap().offset, first.offset);
    }

    #[test]
    fn a_released_address_rests_until_the_others_were_used() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::open(dir.path(), 8).unwrap();
        let first = ipam.allocate("a", &[]).unwrap().offset;
        ipam.release("a").unwrap();
        let ipam = Ipam::open(dir.path(), 8).unwrap();
        let offsets: Vec<u32> = (0..5).map(|n| ipam.allocate(&format!("b{n}"), &[]).unwrap().offset).collect();
        assert_eq!(offsets, vec![3, 4, 5, 6, first]);
        assert!(matches!(ipam.allocate("c", &[]), Err(Error::Exhausted)));
        ipam.release("b1").unwrap();
        assert_eq!(ipam.allocate("c", &[]).unwrap().offset, offsets[1]);
    }

    #[test]
    fn half_written_and_foreign_files_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("broken"), b"{\"off").unwrap();
        fs::write(dir.path().join("outside"), b"{\"offset\":400}").unwrap();
        fs::write(dir.path().join("cursor"), b"junk").unwrap();
        let ipam = Ipam::open(dir.path(), 256).unwrap();
        assert!(ipam.leases().is_empty());
        assert_eq!(ipam.allocate("a", &[]).unwrap().offset, FIRST);
        assert!(matches!(ipam.allocate("../a", &[]), Err(Error::SandboxId(_))));
    }
}
