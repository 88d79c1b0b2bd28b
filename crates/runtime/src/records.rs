//! What the runtime remembers of sandboxes and containers, and its form on disk.
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cri::{ContainerConfig, PodSandboxConfig};

/// A CRI message, stored as base64 of its protobuf form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored<T>(pub T);

impl<T: Message> Serialize for Stored<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0.encode_to_vec()))
    }
}

impl<'de, T: Message + Default> Deserialize<'de> for Stored<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        T::decode(bytes.as_slice()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A sandbox on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its id.
    pub id: String,
    /// When it was made, in nanoseconds since 1970.
    pub created_at: i64,
    /// What the kubelet asked for.
    pub config: Stored<PodSandboxConfig>,
    /// The pod's addresses.
    pub ips: Vec<String>,
    /// On the host's network.
    pub host_network: bool,
    /// The runtime class' handler.
    pub runtime_handler: String,
    /// Its group in the control groups.
    pub cgroup: String,
    /// Stopped for good.
    pub stopped: bool,
}

/// How far a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPhase {
    /// Not started.
    #[default]
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
}

/// A container on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its id.
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// When it was made, in nanoseconds since 1970.
    pub created_at: i64,
    /// What the kubelet asked for.
    pub config: Stored<ContainerConfig>,
    /// Its image.
    pub image_id: String,
    /// The image by digest, or its id.
    pub image_ref: String,
    /// The log file.
    pub log_path: String,
    /// Its group in the control groups.
    pub cgroup: String,
    /// The signal that asks it to end.
    pub stop_signal: String,
    /// Its user's id.
    pub uid: u32,
    /// Its primary group's id.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// How far it is.
    pub phase: ContainerPhase,
    /// The first process' pid while it runs.
    pub pid: i32,
    /// When it was started, in nanoseconds since 1970.
    pub started_at: i64,
    /// When it ended.
    pub finished_at: i64,
    /// Its exit code.
    pub exit_code: i32,
    /// Why it ended, in a word.
    pub reason: String,
    /// Why it ended, in a sentence.
    pub message: String,
}

/// Writes a record in one step. A power failure may lose it (the pod is then made anew); a crash does not.
pub fn write<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let text = serde_json::to_vec(record).map_err(io::Error::other)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
    file.write_all(&text)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Reads all records of a directory; unreadable ones are removed and told in the log.
pub fn read_all<T: for<'de> Deserialize<'de>>(directory: &Path) -> io::Result<Vec<T>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            // An interrupted write.
            if entry.file_name().to_string_lossy().starts_with(".new-") {
                fs::remove_file(&path)?;
            }
            continue;
        }
        match fs::read(&path).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other)) {
            Ok(record) => records.push(record),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "dropping an unreadable record");
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_damaged_ones_are_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = ContainerRecord { id: "a".to_owned(), phase: ContainerPhase::Exited, ..Default::default() };
        record.config.0.args.push("x".to_owned());
        write(&directory.path().join("a.json"), &record).unwrap();
        fs::write(directory.path().join("b.json"), "{").unwrap();
        let records: Vec<ContainerRecord> = read_all(directory.path()).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].config, record.config);
        assert!(!directory.path().join("b.json").exists());
    }
}
