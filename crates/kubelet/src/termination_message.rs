//! A dead container's last words: its termination message file, or the end of its log.
use crate::pods::labels;
use pintle_runtime::cri;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Most bytes of a termination message file that are reported.
pub const MAX_MESSAGE: u64 = 4096;
/// Most bytes and lines of a log that stand in for a message.
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// The termination message of an exited container.
// upstream: pkg/kubelet/kuberuntime, getTerminationMessage
pub fn read(status: &cri::ContainerStatus) -> String {
    let path = status.annotations.get(labels::TERMINATION_MESSAGE_PATH).map(String::as_str).unwrap_or_default();
    let mount = status.mounts.iter().find(|mount| !path.is_empty() && mount.container_path == path);
    let message = mount.map(|mount| read_tail(Path::new(&mount.host_path), MAX_MESSAGE));
    let message = match message {
        Some(Ok(message)) => message,
        Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
            format!("Error on reading termination log {path}: {error}")
        }
        _ => String::new(),
    };
    let policy = status.annotations.get(labels::TERMINATION_MESSAGE_POLICY).map(String::as_str);
    let failed = status.exit_code != 0 || status.reason == "OOMKilled";
    if message.is_empty() && policy == Some("FallbackToLogsOnError") && failed {
        return crate::logs::tail_text(Path::new(&status.log_path), MAX_LOG_LINES, MAX_LOG_BYTES);
    }
    if message.is_empty() { status.message.clone() } else { message }
}

fn read_tail(path: &Path, limit: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
