//! The audit log: one line of JSON for an event, in files that are changed by size and removed by age and number. Start at
//! [`start`].
// upstream: apiserver plugin/pkg/audit/log, server/options/audit.go; natefinch/lumberjack
use super::backend::{Backend, Entry, Errors, Mode};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};

/// How many lines are written at once.
const LINES: usize = 400;
const MEGABYTE: u64 = 1 << 20;
const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const HEAD: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;

/// Where and how the log is kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file; `-` is the standard output.
    pub path: PathBuf,
    /// How many days old files are kept; 0: for ever.
    pub max_age: u32,
    /// How many old files are kept; 0: all.
    pub max_backups: usize,
    /// The size in megabytes at which a new file begins; 0: never.
    pub max_size: u64,
    /// Whether old files are compressed.
    pub compress: bool,
    /// How requests wait.
    pub mode: Mode,
    /// How many events wait at most.
    pub buffer: usize,
    /// The size in bytes above which an event loses its objects.
    pub size_limit: Option<usize>,
}

/// Opens the log and writes what the backend is given from a thread of its own.
pub fn start(config: Config) -> io::Result<Backend> {
    let (queue, entries) = mpsc::channel(config.buffer.max(1));
    let errors = Errors::default();
    let backend = Backend::new("log", config.mode, config.size_limit, queue, errors.clone());
    let mut output = Output::open(config)?;
    let write = move || run(entries, &errors, |lines| output.write(lines));
    std::thread::Builder::new().name("audit-log".to_owned()).spawn(write)?;
    Ok(backend)
}

fn run(mut entries: mpsc::Receiver<Entry>, errors: &Errors, mut write: impl FnMut(&[u8]) -> io::Result<()>) {
    let (mut lines, mut waiting) = (Vec::new(), Vec::<oneshot::Sender<bool>>::new());
    while let Some(first) = entries.blocking_recv() {
        let mut next = Some(first);
        let mut count = 0;
        while let Some(entry) = next {
            match entry {
                Entry::Event(event, done) => {
                    append(&mut lines, &event);
                    count += 1;
                    waiting.extend(done);
                }
                Entry::Flush(done) => waiting.push(done),
            }
            next = if count < LINES { entries.try_recv().ok() } else { None };
        }
        let written = write(&lines);
        if let Err(error) = &written {
            errors.add(count);
            tracing::error!(%error, count, "audit events cannot be written");
        }
        lines.clear();
        for done in waiting.drain(..) {
            // Who waited may be gone: its client has left.
            done.send(written.is_ok()).ok();
        }
    }
}

fn append(lines: &mut Vec<u8>, event: &Bytes) {
    lines.extend_from_slice(HEAD);
    lines.extend_from_slice(event.get(1..).unwrap_or_default());
    lines.push(b'\n');
}

enum Output {
    Standard,
    File { file: File, size: u64, config: Config },
}

impl Output {
    fn open(config: Config) -> io::Result<Self> {
        if config.path.as_os_str() == "-" {
            return Ok(Output::Standard);
        }
        if let Some(directory) = config.path.parent().filter(|path| !path.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = append_to(&config.path)?;
        let size = file.metadata()?.len();
        Ok(Output::File { file, size, config })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let Output::File { file, size, config } = self else {
            let mut out = io::stdout().lock();
            return out.write_all(lines).and_then(|()| out.flush());
        };
        let added = lines.len() as u64;
        if config.max_size > 0 && *size > 0 && *size + added > config.max_size * MEGABYTE {
            *file = change(config)?;
            *size = 0;
        }
        file.write_all(lines)?;
        *size += added;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Puts the file aside and begins a new one.
fn change(config: &Config) -> io::Result<File> {
    let now = Timestamp::now();
    let aside = config.path.with_file_name(backup_name(&config.path, now));
    fs::rename(&config.path, &aside)?;
    let file = append_to(&config.path)?;
    if config.compress {
        compress(&aside)?;
    }
    let directory = config.path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in expired(&config.path, names.collect(), now, config.max_backups, config.max_age) {
        fs::remove_file(directory.join(name))?;
    }
    Ok(file)
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let packed = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&name)?;
    let mut encoder = GzEncoder::new(packed, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(path)
}

/// Stem and extension (with its dot) of the log's name.
fn split(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    (stem, extension.unwrap_or_default())
}

fn backup_name(path: &Path, now: Timestamp) -> String {
    let (stem, extension) = split(path);
    format!("{stem}-{}{extension}", now.strftime(STAMP))
}

/// Which of the files `names` beside the log are its old ones that are not to be kept.
fn expired(path: &Path, names: Vec<String>, now: Timestamp, max_backups: usize, max_age: u32) -> Vec<String> {
    let (stem, extension) = split(path);
    let time = |name: &str| {
        let name = name.strip_suffix(".gz").unwrap_or(name);
        let stamp = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
        DateTime::strptime(STAMP, stamp).ok()?.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp())
    };
    let mut old: Vec<(Timestamp, String)> = names.into_iter().filter_map(|name| Some((time(&name)?, name))).collect();
    old.sort_by(|one, other| other.cmp(one));
    let oldest = now - SignedDuration::from_hours(24 * i64::from(max_age));
    let gone = old
        .into_iter()
        .enumerate()
        .filter(|(i, (time, _))| (max_backups > 0 && *i >= max_backups) || (max_age > 0 && *time < oldest));
    gone.map(|(_, (_, name))| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::backend::Encoded;

    fn config(path: PathBuf) -> Config {
        Config {
            path,
            max_age: 366,
            max_backups: 100,
            max_size: 100,
            compress: false,
            mode: Mode::Blocking,
            buffer: 10,
            size_limit: None,
        }
    }

    #[test]
    fn old_files_go_by_number_and_age() {
        let path = Path::new("/var/log/audit.log");
        let time = |day: i64| Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap();
        let names: Vec<String> = (0..5).map(|day| backup_name(path, time(day))).collect();
        let with_others = [names.clone(), vec!["audit.log".into(), "audit-x.log".into(), "other.log".into()]].concat();
        let gone = |backups, age| expired(path, with_others.clone(), time(5), backups, age);
        assert_eq!(gone(0, 0), Vec::<String>::new());
        assert_eq!(gone(3, 0), [names[1].clone(), names[0].clone()]);
        assert_eq!(gone(0, 4), [names[0].clone()]);
        assert_eq!(gone(100, 366), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_is_full_is_put_aside_and_compressed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/audit.log");
        let settings = Config { max_size: 1, compress: true, max_backups: 1, ..config(path.clone()) };
        let mut output = Output::open(settings).unwrap();
        let line = vec![b'x'; 700 << 10];
        for _ in 0..3 {
            output.write(&line).unwrap();
            // Two files must not be of the same millisecond.
            let now = Timestamp::now().as_millisecond();
            while Timestamp::now().as_millisecond() == now {
                std::thread::yield_now();
            }
        }
        let mut names: Vec<String> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[0].starts_with("audit-2") && names[0].ends_with(".log.gz"), "{names:?}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 700 << 10);
    }

    #[tokio::test]
    async fn who_waits_finds_the_event_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let backend = start(config(path.clone())).unwrap();
        let (parts, ()) = http::Request::get("/version").body(()).unwrap().into_parts();
        let info = crate::request_info::RequestInfo::parse(&parts.method, &parts.uri);
        let user = pintle_api::user::UserInfo::new("a", &[]);
        let event =
            crate::audit::event::Event::of_request(crate::audit::event::Level::Metadata, &user, &info, &parts, "id");
        assert!(backend.process(&Encoded::of(&event, None).unwrap()).await);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id","#)
        );
        assert!(text.ends_with("}\n"), "{text}");
    }
}
