//! Container logs in the CRI format: `<RFC 3339 time> <stream> <P|F> <text>`, one line each.
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longer lines are cut into parts of this size, marked `P` except the last.
pub const MAX_LINE: usize = 16 * 1024;

/// Which output a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The unfinished line of one stream.
#[derive(Debug, Default)]
pub struct Pending(Vec<u8>);

/// A container's log file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Option<File>,
}

impl Log {
    /// Opens the file for appending; an empty path means that output is dropped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut log = Self { path: path.to_owned(), file: None };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the path again, after someone renamed the file.
    pub fn reopen(&mut self) -> io::Result<()> {
        if !self.path.as_os_str().is_empty() {
            if let Some(directory) = self.path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            self.file = Some(OpenOptions::new().create(true).append(true).mode(0o640).open(&self.path)?);
        }
        Ok(())
    }

    /// Writes what `data` completes; keeps the rest in `pending`.
    pub fn write(&mut self, stream: Stream, pending: &mut Pending, data: &[u8]) {
        let mut out = Vec::with_capacity(data.len() + 64);
        format_lines(&now(), stream, &mut pending.0, data, &mut out);
        self.append(&out);
    }

    /// The stream ended: writes an unfinished line, as a part that no end follows (as containerd does).
    pub fn finish(&mut self, stream: Stream, pending: &mut Pending) {
        if !pending.0.is_empty() {
            let mut out = Vec::with_capacity(pending.0.len() + 64);
            line(&now(), stream, b'P', &std::mem::take(&mut pending.0), &mut out);
            self.append(&out);
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file {
            // A full disk costs log lines; the container goes on.
            file.write_all(bytes).ok();
        }
    }
}

fn format_lines(time: &str, stream: Stream, pending: &mut Vec<u8>, mut data: &[u8], out: &mut Vec<u8>) {
    while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
        let (head, rest) = data.split_at(end);
        data = &rest[1..];
        add(time, stream, pending, head, out);
        line(time, stream, b'F', pending, out);
        pending.clear();
    }
    add(time, stream, pending, data, out);
    if pending.is_empty() {
        *pending = Vec::new();
    }
}

/// Adds to the unfinished line, writing parts as it grows over the limit.
fn add(time: &str, stream: Stream, pending: &mut Vec<u8>, mut data: &[u8], out: &mut Vec<u8>) {
    while pending.len() + data.len() > MAX_LINE {
        let (head, rest) = data.split_at(MAX_LINE - pending.len());
        pending.extend_from_slice(head);
        line(time, stream, b'P', pending, out);
        pending.clear();
        data = rest;
    }
    pending.extend_from_slice(data);
}

fn line(time: &str, stream: Stream, tag: u8, text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(time.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(&[b' ', tag, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Nanoseconds since 1970.
pub fn now_nanoseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn now() -> String {
    rfc3339(now_nanoseconds())
}

/// A time in UTC with nine digits of the second.
pub fn rfc3339(nanoseconds: i64) -> String {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let fraction = nanoseconds.rem_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a civil date, counting years from March (Howard Hinnant's algorithm).
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(chunks: &[&[u8]]) -> (String, Vec<u8>) {
        let (mut pending, mut out) = (Vec::new(), Vec::new());
        for chunk in chunks {
            format_lines("T", Stream::Stdout, &mut pending, chunk, &mut out);
        }
        (String::from_utf8(out).unwrap(), pending)
    }

    #[test]
    fn lines_are_joined_over_reads_and_kept_until_they_end() {
        let (out, pending) = formatted(&[b"one\ntw", b"o\n\nrest"]);
        assert_eq!(out, "T stdout F one\nT stdout F two\nT stdout F \n");
        assert_eq!(pending, b"rest");
    }

    #[test]
    fn a_long_line_is_cut_into_parts() {
        let (out, pending) = formatted(&[&vec![b'x'; MAX_LINE + 10], b"\n"]);
        let tags: Vec<&str> = out.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "F"]);
        assert!(pending.is_empty());
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        let (out, _) = formatted(&[&vec![b'x'; MAX_LINE], b"\n"]);
        assert_eq!(out.lines().count(), 1);
        assert!(out.starts_with("T stdout F "));
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(1_709_251_199_000_000_001), "2024-02-29T23:59:59.000000001Z");
        assert_eq!(rfc3339(1_795_228_800_123_456_789), "2026-11-21T02:40:00.123456789Z");
    }
}
