//! Private files written atomically: a reader sees the old content or the new, also after a power failure.
use crate::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes `dir` and its parents, readable by the owner only.
pub(crate) fn create_dir(dir: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| io(dir, source))
}

/// The content of `path`; `None` if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(unusable(path, "the file is damaged: it is not PEM text"))
        }
        Err(error) => Err(io(path, error)),
    }
}

/// Replaces `path` by `content`, mode 0600, durable on return.
pub(crate) fn write(path: &Path, content: &str) -> Result<(), Error> {
    let temporary = path.with_added_extension("new");
    let attempt = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    attempt().map_err(|source| io(path, source))
}

pub(crate) fn unusable(path: &Path, reason: impl Into<String>) -> Error {
    Error::Unusable { path: path.to_owned(), reason: reason.into() }
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}
