//! `fsGroup`: who owns a volume's files.
// upstream: pkg/volume, volume_linux.go
use crate::pods::PodExt;
use k8s_openapi::api::core::v1::Pod;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::Path;

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.pod_spec()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Sets permission bits exactly, whatever the process's umask.
pub fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Gives a writable volume to the pod's `fsGroup`.
pub fn set(path: &Path, pod: &Pod) -> Result<(), String> {
    let Some(group) = fs_group(pod) else { return Ok(()) };
    let policy = pod.pod_spec().and_then(|spec| spec.security_context.as_ref());
    let on_mismatch = policy.and_then(|context| context.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
    let fits = |meta: &fs::Metadata| meta.gid() == group && meta.mode() & 0o2660 == 0o2660;
    if on_mismatch && fs::metadata(path).is_ok_and(|meta| fits(&meta)) {
        return Ok(());
    }
    give(path, group, 0o660).map_err(|error| format!("{}: {error}", path.display()))
}

/// Gives a read-only payload to the pod's `fsGroup`.
pub fn set_payload(path: &Path, pod: &Pod) -> Result<(), String> {
    let Some(group) = fs_group(pod) else { return Ok(()) };
    give(path, group, 0o440).map_err(|error| format!("{}: {error}", path.display()))
}

fn give(path: &Path, group: u32, bits: u32) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.file_type().is_symlink() {
        return lchown(path, None, Some(group));
    }
    chown(path, None, Some(group))?;
    if meta.is_dir() {
        set_mode(path, meta.mode() & 0o7777 | bits | 0o2110)?;
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), group, bits)?;
        }
    } else {
        set_mode(path, meta.mode() & 0o7777 | bits)?;
    }
    Ok(())
}
