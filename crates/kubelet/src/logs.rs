//! Container logs in CRI's format: reading their end, following them, rotating them.
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The end of a CRI log as plain text: at most `lines` lines and `bytes` bytes.
pub fn tail_text(path: &Path, lines: usize, bytes: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        // Each line carries a time stamp and a stream name of about 45 bytes.
        let window = u64::try_from(bytes + lines * 64).unwrap_or(u64::MAX);
        file.seek(SeekFrom::Start(length.saturating_sub(window)))?;
        let mut data = Vec::new();
        file.read_to_end(&mut data)?;
        Ok(data)
    };
    let Ok(data) = read() else { return String::new() };
    let text = String::from_utf8_lossy(&data);
    let parsed: Vec<String> = text.lines().filter_map(parse_text).collect();
    let joined = parsed[parsed.len().saturating_sub(lines)..].concat();
    let mut start = joined.len().saturating_sub(bytes);
    while !joined.is_char_boundary(start) {
        start += 1;
    }
    joined[start..].to_owned()
}

/// The message of one CRI log line, with its newline when it is complete.
fn parse_text(line: &str) -> Option<String> {
    let mut parts = line.splitn(4, ' ');
    let (_, _, tag, message) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(if tag.starts_with('P') { message.to_owned() } else { format!("{message}\n") })
}

/// Removes a log and its rotated files.
pub fn remove(path: &Path) {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let mine = entry
            .file_name()
            .to_str()
            .is_some_and(|file| file == name || file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')));
        if mine && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::debug!(path = %entry.path().display(), %error, "cannot remove a log");
        }
    }
}
