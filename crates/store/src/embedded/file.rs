//! The durable side: one `redb` table of live keys, one of facts about the store.
//!
//! A row is `crc32c | create_revision | mod_revision | value` (little-endian); the checksum covers key and row, so that a
//! bit that flipped on disk is found when the file is read, which is at every start.
use crate::seal::Seal;
use crate::{Error, Event, KeyValue, Revision};
use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) type Change = Event;

const LIVE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("live");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;
/// Every value is in memory already: the page cache only serves the writer's own path through the tree.
const CACHE_BYTES: usize = 4 << 20;
const HEADER: usize = 20;

/// The open file; `None` after a failed write, until the next one opens it again.
pub(super) struct File {
    path: PathBuf,
    database: Option<Database>,
    seal: Option<Arc<dyn Seal>>,
}

impl File {
    /// Opens or creates the file and reads all of it.
    pub(super) fn open(
        path: &Path,
        seal: Option<Arc<dyn Seal>>,
    ) -> Result<(Self, Revision, BTreeMap<Bytes, KeyValue>), Error> {
        let database = open_database(path)?;
        let (revision, mut live) = load(&database).map_err(|problem| damaged(path, &problem))?;
        if let Some(seal) = &seal {
            for kv in live.values_mut() {
                if let Some(value) = seal.open(&kv.key, &kv.value)? {
                    kv.value = value.into();
                }
            }
        }
        Ok((File { path: path.to_owned(), database: Some(database), seal }, revision, live))
    }

    /// Writes the changes of a batch in one transaction; durable when it returns.
    pub(super) fn commit(&mut self, revision: Revision, changes: &[Change]) -> Result<(), Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open_database(&self.path)?,
        };
        let sealed = self.sealed(changes)?;
        // On failure the handle is dropped: redb refuses work after an I/O error until the file is opened again.
        write(&database, revision, changes, &sealed).map_err(io_error)?;
        self.database = Some(database);
        Ok(())
    }

    /// The values that are encrypted, by their place among `changes`.
    fn sealed(&self, changes: &[Change]) -> Result<HashMap<usize, Vec<u8>>, Error> {
        let mut sealed = HashMap::new();
        let Some(seal) = &self.seal else { return Ok(sealed) };
        for (i, kv) in changes.iter().enumerate().filter_map(|(i, change)| Some((i, change.current.as_ref()?))) {
            if let Some(value) = seal.seal(&kv.key, &kv.value)? {
                sealed.insert(i, value);
            }
        }
        Ok(sealed)
    }

    /// Copies the committed state to a new file at `path`.
    pub(super) fn snapshot(&self, path: &Path) -> Result<Revision, Error> {
        let database =
            self.database.as_ref().ok_or_else(|| Error::Io(std::io::Error::other("the last write failed")))?;
        copy(database, path).map_err(io_error)
    }
}

fn open_database(path: &Path) -> Result<Database, Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let database = builder.create(path).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => {
            Error::Io(std::io::Error::other(format!("{} is in use by another process", path.display())))
        }
        redb::DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() != std::io::ErrorKind::InvalidData =>
        {
            Error::Io(error)
        }
        other => damaged(path, &other.to_string()),
    })?;
    Ok(database)
}

fn damaged(path: &Path, problem: &str) -> Error {
    let path = path.display();
    Error::Corrupt(format!(
        "{path} is damaged ({problem}); nothing was changed. Restore a snapshot over it, or move it away to start empty."
    ))
}

fn io_error(error: redb::Error) -> Error {
    match error {
        redb::Error::Io(error) => Error::Io(error),
        other => Error::Io(std::io::Error::other(other.to_string())),
    }
}

fn load(database: &Database) -> Result<(Revision, BTreeMap<Bytes, KeyValue>), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let read = database.begin_read().map_err(|e| text(&e))?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok((0, BTreeMap::new())),
        Err(error) => return Err(text(&error)),
    };
    let fact = |name: &str| meta.get(name).map_err(|e| text(&e)).map(|value| value.map_or(0, |v| v.value()));
    let (format, revision) = (fact(FORMAT)?, fact(REVISION)?);
    if format != FORMAT_VERSION {
        return Err(format!("its format is {format}, this version reads {FORMAT_VERSION}"));
    }
    let mut live = BTreeMap::new();
    for row in read.open_table(LIVE).map_err(|e| text(&e))?.iter().map_err(|e| text(&e))? {
        let (key, row) = row.map_err(|e| text(&e))?;
        let kv = decode(key.value(), row.value())
            .ok_or_else(|| format!("the checksum of {} is wrong", String::from_utf8_lossy(key.value())))?;
        live.insert(kv.key.clone(), kv);
    }
    Ok((revision, live))
}

fn write(
    database: &Database,
    revision: Revision,
    changes: &[Change],
    sealed: &HashMap<usize, Vec<u8>>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut live = transaction.open_table(LIVE)?;
        let mut row = Vec::new();
        for (i, change) in changes.iter().enumerate() {
            match &change.current {
                Some(kv) => {
                    encode(kv, sealed.get(&i).map_or(&kv.value, Vec::as_slice), &mut row);
                    live.insert(&change.key[..], &row[..])?;
                }
                None => {
                    live.remove(&change.key[..])?;
                }
            }
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(REVISION, revision)?;
        meta.insert(FORMAT, FORMAT_VERSION)?;
    }
    transaction.commit()?;
    Ok(())
}

fn copy(database: &Database, path: &Path) -> Result<Revision, redb::Error> {
    let target = Database::create(path)?;
    let write = target.begin_write()?;
    let mut revision = 0;
    {
        let read = database.begin_read()?;
        let (mut live, mut meta) = (write.open_table(LIVE)?, write.open_table(META)?);
        match read.open_table(META) {
            Ok(facts) => {
                revision = facts.get(REVISION)?.map_or(0, |value| value.value());
                for row in read.open_table(LIVE)?.iter()? {
                    let (key, row) = row?;
                    live.insert(key.value(), row.value())?;
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        meta.insert(REVISION, revision)?;
        meta.insert(FORMAT, FORMAT_VERSION)?;
    }
    write.commit()?;
    Ok(revision)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

fn encode(kv: &KeyValue, value: &[u8], row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(&[0; 4]);
    row.extend_from_slice(&kv.create_revision.to_le_bytes());
    row.extend_from_slice(&kv.mod_revision.to_le_bytes());
    row.extend_from_slice(value);
    let sum = checksum(&kv.key, &row[4..]);
    row[..4].copy_from_slice(&sum.to_le_bytes());
}

fn decode(key: &[u8], row: &[u8]) -> Option<KeyValue> {
    let (header, value) = row.split_at_checked(HEADER)?;
    let sum = u32::from_le_bytes(header[..4].try_into().ok()?);
    if sum != checksum(key, &row[4..]) {
        return None;
    }
    Some(KeyValue {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        create_revision: u64::from_le_bytes(header[4..12].try_into().ok()?),
        mod_revision: u64::from_le_bytes(header[12..].try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_with_a_flipped_bit_is_refused() {
        let kv = KeyValue { key: "k".into(), value: "value".into(), create_revision: 3, mod_revision: 7 };
        let mut row = Vec::new();
        encode(&kv, &kv.value, &mut row);
        assert_eq!(decode(b"k", &row), Some(kv));
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(b"k", &flipped), None, "bit {bit}");
        }
        assert_eq!(decode(b"j", &row), None, "a row under another key");
        assert_eq!(decode(b"k", &row[..10]), None, "a row cut short");
    }
}
