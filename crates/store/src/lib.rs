//! The revisioned key-value store under the API server, with etcd v3 semantics. Start at [`Store`].
use bytes::Bytes;

pub mod embedded;
pub mod seal;

pub use embedded::EmbeddedStore;

/// The store's logical clock: one counter for all keys; each committed transaction increases it by one.
pub type Revision = u64;

/// A live key at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, `/registry/…` as upstream lays it out.
    pub key: Bytes,
    /// The stamped value (see [`Op::Put`]); cloning shares the bytes.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that last modified the key.
    pub mod_revision: Revision,
}

/// One mutation of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Sets `key` to `value`.
    Put {
        /// The key.
        key: Bytes,
        /// The encoded value.
        value: Bytes,
        /// Where in `value` the decimal revision of the commit is inserted before it is stored, so that an encoded
        /// object carries its own `resourceVersion` and is never encoded again. `None`: stored as it is.
        stamp: Option<usize>,
    },
    /// Removes `key`; nothing happens if it does not exist.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// A condition of a transaction: `key` was last modified at `mod_revision`; 0 means that it does not exist.
#[derive(Clone, Debug)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// The expected modification revision.
    pub mod_revision: Revision,
}

/// What a transaction came to.
#[derive(Clone, Debug)]
pub enum TxnOutcome {
    /// All compares held; the operations are durable at this revision.
    Committed(Revision),
    /// A compare failed; nothing changed. The current state of each compared key, in order.
    Conflict(Vec<Option<KeyValue>>),
}

/// A consistent page of live keys.
#[derive(Clone, Debug)]
pub struct RangeResult {
    /// The keys in order.
    pub items: Vec<KeyValue>,
    /// The revision that was read.
    pub revision: Revision,
    /// How many keys of the range follow after the page.
    pub remaining: usize,
}

/// One committed change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// The revision of the change.
    pub revision: Revision,
    /// The state after the change; `None` for a deletion.
    pub current: Option<KeyValue>,
    /// The state before the change; `None` for a creation.
    pub previous: Option<KeyValue>,
}

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The revision was compacted away; the client must list again (HTTP 410, reason `Expired`).
    #[error("required revision {requested} has been compacted; the oldest that can be read is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// What can still be read.
        oldest: Revision,
    },
    /// The revision lies in the future.
    #[error("revision {requested} is newer than the store's {current}")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The store's newest.
        current: Revision,
    },
    /// The file is damaged; the message says where and how to restore.
    #[error("{0}")]
    Corrupt(String),
    /// The disk refused (full, read-only, failing).
    #[error("the store cannot write: {0}")]
    Io(#[from] std::io::Error),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// The same error for a further caller: those of a batch share its fate.
    fn again(&self) -> Self {
        match self {
            Error::Io(error) => Error::Io(std::io::Error::new(error.kind(), error.to_string())),
            Error::Corrupt(text) => Error::Corrupt(text.clone()),
            Error::Compacted { requested, oldest } => Error::Compacted { requested: *requested, oldest: *oldest },
            Error::Future { requested, current } => Error::Future { requested: *requested, current: *current },
            Error::Closed => Error::Closed,
        }
    }
}

/// `value` with the decimal `revision` inserted at byte `at`: how [`Op::Put::stamp`] is carried out.
pub fn stamp(value: &[u8], at: usize, revision: Revision) -> Bytes {
    let (digits, at) = (revision.to_string(), at.min(value.len()));
    [&value[..at], digits.as_bytes(), &value[at..]].concat().into()
}

/// A stream of changes in revision order; a batch holds all events of one or more whole transactions.
#[async_trait::async_trait]
pub trait Watch: Send {
    /// The next batch; `Err(Compacted)` when the reader fell behind the retained window. Cancel-safe.
    async fn next(&mut self) -> Result<Vec<Event>, Error>;
}

/// The seam between the API server and what keeps its state.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest committed revision.
    fn revision(&self) -> Revision;
    /// The live state of `key`.
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error>;
    /// Keys `start <= key < end` as of `revision` (the newest if `None`), at most `limit` (0: all).
    async fn range(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        revision: Option<Revision>,
    ) -> Result<RangeResult, Error>;
    /// Applies `ops` atomically if every compare holds; returns after the commit is durable.
    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome, Error>;
    /// Changes of keys under `prefix` with revision > `after`.
    fn watch(&self, prefix: &[u8], after: Revision) -> Result<Box<dyn Watch>, Error>;
    /// Forgets history before `revision`.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;
    /// Whether the newest write reached the disk, as far as this is known.
    fn is_writable(&self) -> bool {
        true
    }
    /// Writes a consistent copy to `path` while the store keeps serving; returns its revision.
    async fn snapshot(&self, path: &std::path::Path) -> Result<Revision, Error>;
}
