//! hostPath volumes: what the path must be, and what is made when it is missing.
// upstream: pkg/volume/hostpath, checkTypeInternal
use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::Path;

/// Checks `path` against the volume's type, making it for the `…OrCreate` types.
pub fn check(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("{shown}: {error}");
    if matches!(kind, "DirectoryOrCreate" | "FileOrCreate") && !path.exists() {
        if kind == "DirectoryOrCreate" {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)?;
        } else {
            fs::File::create(path).map_err(failed)?;
        }
    }
    let is = |test: fn(&fs::FileType) -> bool| fs::metadata(path).is_ok_and(|meta| test(&meta.file_type()));
    let (ok, what) = match kind {
        "" => return Ok(()),
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "a file"),
        "Socket" => (is(fs::FileType::is_socket), "a socket file"),
        "CharDevice" => (is(fs::FileType::is_char_device), "a character device"),
        "BlockDevice" => (is(fs::FileType::is_block_device), "a block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if ok { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not {what}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_with_upstreams_words() {
        assert_eq!(check(Path::new("/dev/null"), "CharDevice"), Ok(()));
        assert_eq!(
            check(Path::new("/dev/null"), "Directory"),
            Err("hostPath type check failed: /dev/null is not a directory".into())
        );
        assert_eq!(check(Path::new("/nonexistent"), ""), Ok(()));
    }
}
