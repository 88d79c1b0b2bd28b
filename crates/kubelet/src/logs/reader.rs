//! Reads one container's log from where the options say, and follows it while the container runs.
use super::watch::{Changes, Watch, Watches};
use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Longest line kept together; the runtime splits longer ones itself.
const MAX_LINE: usize = 1 << 20;

/// Which stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Which part of a log (PodLogOptions).
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Go on while the container runs.
    pub follow: bool,
    /// Put each line's time before it.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only lines since.
    pub since: Option<Timestamp>,
    /// At most so many bytes.
    pub limit: Option<u64>,
    /// Only one stream.
    pub stream: Option<Stream>,
}

/// A reader of one log.
pub struct Reader {
    path: PathBuf,
    file: File,
    options: Options,
    left: u64,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
    watch: Option<Watch>,
    watches: Watches,
}

impl Reader {
    /// Opens the log where `options` begin.
    pub fn open(path: PathBuf, options: Options, watches: &Watches) -> std::io::Result<Self> {
        let watch = if options.follow { Some(watches.watch(&path)?) } else { None };
        let mut file = File::open(&path)?;
        if let Some(lines) = options.tail {
            let start = tail_offset(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        let left = options.limit.unwrap_or(u64::MAX);
        Ok(Reader { path, file, options, left, partial: Vec::new(), watch, watches: watches.clone() })
    }

    /// Sends the log to `sink` until its end, or the container's when following.
    pub async fn copy<F: Future<Output = bool>>(
        &mut self,
        sink: &mpsc::Sender<std::io::Result<Bytes>>,
        running: impl Fn() -> F,
    ) -> std::io::Result<()> {
        let mut ending = false;
        loop {
            while let Some(chunk) = self.next_chunk()? {
                if !chunk.is_empty() && sink.send(Ok(chunk)).await.is_err() {
                    return Ok(());
                }
                if self.left == 0 {
                    return Ok(());
                }
            }
            let Some(watch) = &mut self.watch else { return Ok(()) };
            if ending {
                return Ok(());
            }
            let changes = tokio::select! { changes = watch.changed() => changes, () = sink.closed() => return Ok(()) };
            match changes {
                Changes::Written => {}
                Changes::Closed => ending = !running().await,
                Changes::Moved => self.reopen()?,
            }
        }
    }

    /// After a rotation the new file begins where the old one ended.
    fn reopen(&mut self) -> std::io::Result<()> {
        match File::open(&self.path) {
            Ok(file) => {
                self.file = file;
                self.watch = Some(self.watches.watch(&self.path)?);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.watch = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The next piece of output; `None` at the end of the file.
    fn next_chunk(&mut self) -> std::io::Result<Option<Bytes>> {
        let mut buffer = vec![0; CHUNK];
        let read = self.file.read(&mut buffer)?;
        if read == 0 {
            return Ok(None);
        }
        self.partial.extend_from_slice(&buffer[..read]);
        let mut output = Vec::with_capacity(read);
        let complete = match self.partial.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.partial.len() > MAX_LINE => self.partial.len(),
            None => return Ok(Some(Bytes::new())),
        };
        let rest = self.partial.split_off(complete);
        let lines = std::mem::replace(&mut self.partial, rest);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.write_line(line, &mut output);
        }
        let allowed = usize::try_from(self.left).unwrap_or(usize::MAX).min(output.len());
        output.truncate(allowed);
        self.left -= allowed as u64;
        Ok(Some(output.into()))
    }

    fn write_line(&self, line: &[u8], output: &mut Vec<u8>) {
        let Some(parsed) = super::Line::parse(line) else { return };
        if self.options.stream.is_some_and(|wanted| wanted != parsed.stream) {
            return;
        }
        if let Some(since) = self.options.since
            && std::str::from_utf8(parsed.time)
                .ok()
                .and_then(|text| text.parse::<Timestamp>().ok())
                .is_some_and(|at| at < since)
        {
            return;
        }
        if self.options.timestamps {
            output.extend_from_slice(parsed.time);
            output.push(b' ');
        }
        output.extend_from_slice(parsed.message);
        if !parsed.partial {
            output.push(b'\n');
        }
    }
}

/// Where the last `lines` lines begin.
fn tail_offset(file: &mut File, lines: usize) -> std::io::Result<u64> {
    let mut end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let (mut seen, mut buffer) = (0, vec![0; CHUNK]);
    let mut last = true;
    while end > 0 {
        let size = usize::try_from(end.min(CHUNK as u64)).unwrap_or(CHUNK);
        end -= size as u64;
        file.seek(SeekFrom::Start(end))?;
        file.read_exact(&mut buffer[..size])?;
        for (index, byte) in buffer[..size].iter().enumerate().rev() {
            // The newline that ends the file starts no line.
            let ends_file = std::mem::replace(&mut last, false);
            if *byte == b'\n' && !ends_file {
                seen += 1;
                if seen == lines {
                    return Ok(end + index as u64 + 1);
                }
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-21T03:00:00.000000001Z stdout F one\n\
                       2026-11-21T03:00:01.000000001Z stderr F two\n\
                       2026-11-21T03:00:02.000000001Z stdout P thr\n\
                       2026-11-21T03:00:02.000000002Z stdout F ee\n";

    async fn read(name: &str, options: Options) -> String {
        let path = std::env::temp_dir().join(format!("pintle-log-{}-{name}", std::process::id()));
        std::fs::write(&path, LOG).unwrap();
        let (sender, mut receiver) = mpsc::channel(10);
        Reader::open(path.clone(), options, &Watches::default())
            .unwrap()
            .copy(&sender, || async { false })
            .await
            .unwrap();
        drop(sender);
        let mut text = String::new();
        while let Some(chunk) = receiver.recv().await {
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
        std::fs::remove_file(path).unwrap();
        text
    }

    #[tokio::test]
    async fn options_choose_the_part() {
        assert_eq!(read("all", Options::default()).await, "one\ntwo\nthree\n");
        assert_eq!(read("tail", Options { tail: Some(3), ..Default::default() }).await, "two\nthree\n");
        assert_eq!(read("none", Options { tail: Some(0), ..Default::default() }).await, "");
        assert_eq!(read("many", Options { tail: Some(99), ..Default::default() }).await, "one\ntwo\nthree\n");
        assert_eq!(read("limit", Options { limit: Some(5), ..Default::default() }).await, "one\nt");
        let since = Some("2026-11-21T03:00:01Z".parse().unwrap());
        assert_eq!(read("since", Options { since, ..Default::default() }).await, "two\nthree\n");
        let stream = Some(Stream::Stderr);
        assert_eq!(read("stream", Options { stream, ..Default::default() }).await, "two\n");
        let got = read("time", Options { timestamps: true, tail: Some(1), ..Default::default() }).await;
        assert_eq!(got, "2026-11-21T03:00:02.000000002Z ee\n");
    }
}
