//! Container logs in CRI's format: reading their end, following them, rotating them.
mod reader;
mod watch;

pub use reader::{Options, Reader, Stream};
pub use watch::Watches;

/// One line of a log: `<time> <stream> <tag> <message>`.
pub struct Line<'a> {
    /// RFC 3339 with nanoseconds.
    pub time: &'a [u8],
    /// Which stream it came from.
    pub stream: Stream,
    /// Whether the line goes on in the next one.
    pub partial: bool,
    /// Its text without the newline.
    pub message: &'a [u8],
}

impl<'a> Line<'a> {
    /// Splits a line; `None` when it is none of CRI's.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (time, stream, tag, message) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        Some(Line { time, stream, partial: tag.first() == Some(&b'P'), message })
    }
}

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
    let parsed: Vec<String> = data
        .split(|byte| *byte == b'\n')
        .filter_map(Line::parse)
        .map(|line| String::from_utf8_lossy(line.message).into_owned() + if line.partial { "" } else { "\n" })
        .collect();
    let joined = parsed[parsed.len().saturating_sub(lines)..].concat();
    let mut start = joined.len().saturating_sub(bytes);
    while !joined.is_char_boundary(start) {
        start += 1;
    }
    joined[start..].to_owned()
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
