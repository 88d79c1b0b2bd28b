//! The embedded store: every live key in memory, made durable by `redb`. Start at [`EmbeddedStore::open`].
//!
//! One writer thread takes whatever transactions wait, decides them against the newest state, commits them to the file
//! in one fsync, and only then shows them to readers and watchers and answers. A reader never sees what a crash could
//! take back. Reads never touch the file.
mod file;
mod history;
mod state;
mod watchers;

use crate::seal::Seal;
use crate::{Compare, Error, KeyValue, Op, RangeResult, Revision, Store, TxnOutcome, Watch};
use file::{Change, File};
use parking_lot::RwLock;
use state::State;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// How many transactions may wait for the writer; further callers wait their turn.
const QUEUE: usize = 4096;
/// How many transactions share one fsync at most.
const BATCH: usize = 1024;

/// How an [`EmbeddedStore`] keeps history and what it encrypts.
#[derive(Clone)]
pub struct Options {
    /// How many bytes of past values watches and paged lists may reach back to.
    pub history_bytes: usize,
    /// How many changes a watch may lag behind before it has to start over.
    pub watch_lag: usize,
    /// Encrypts values on disk; none: all are kept plain.
    pub seal: Option<Arc<dyn Seal>>,
}

impl Default for Options {
    fn default() -> Self {
        Options { history_bytes: 16 << 20, watch_lag: 1 << 16, seal: None }
    }
}

/// The store of one server on its own disk.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// `None` once closed.
    requests: RwLock<Option<mpsc::Sender<Request>>>,
    writer: parking_lot::Mutex<Option<std::thread::JoinHandle<()>>>,
}

struct Shared {
    state: RwLock<State>,
    /// Equal to the state's revision; read without the lock.
    revision: AtomicU64,
    /// Whether the newest batch could not be written.
    failing: AtomicBool,
}

enum Request {
    Txn { compares: Vec<Compare>, ops: Vec<Op>, answer: oneshot::Sender<Result<TxnOutcome, Error>> },
    Snapshot { path: PathBuf, answer: oneshot::Sender<Result<Revision, Error>> },
}

impl EmbeddedStore {
    /// Opens the store at `path`, creating it if there is none. Reads and checks everything; a damaged file is refused.
    pub fn open(path: &Path, options: &Options) -> Result<Self, Error> {
        let (file, revision, live) = File::open(path, options.seal.clone())?;
        let state = State::new(revision, live, options);
        let shared = Arc::new(Shared {
            revision: AtomicU64::new(revision),
            state: RwLock::new(state),
            failing: AtomicBool::new(false),
        });
        let (requests, queue) = mpsc::channel(QUEUE);
        let writer = Writer { file, shared: shared.clone() };
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run(queue))?;
        Ok(EmbeddedStore {
            shared,
            requests: RwLock::new(Some(requests)),
            writer: parking_lot::Mutex::new(Some(thread)),
        })
    }

    /// Finishes what was asked before and closes the file; later calls that write get [`Error::Closed`]. Blocks.
    pub fn close(&self) {
        drop(self.requests.write().take());
        if let Some(thread) = self.writer.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer ended in a panic; what was acknowledged is on disk");
        }
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        let requests = self.requests.read().clone().ok_or(Error::Closed)?;
        requests.send(request).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait::async_trait]
impl Store for EmbeddedStore {
    fn revision(&self) -> Revision {
        self.shared.revision.load(Ordering::Acquire)
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        Ok(self.shared.state.read().get(key))
    }

    async fn range(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        revision: Option<Revision>,
    ) -> Result<RangeResult, Error> {
        self.shared.state.read().range(start, end, limit, revision)
    }

    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome, Error> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Txn { compares, ops, answer }, answered).await
    }

    fn watch(&self, prefix: &[u8], after: Revision) -> Result<Box<dyn Watch>, Error> {
        Ok(Box::new(self.shared.state.write().watch(prefix, after)?))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.shared.state.write().compact(revision)
    }

    fn is_writable(&self) -> bool {
        !self.shared.failing.load(Ordering::Relaxed) && self.requests.read().is_some()
    }

    async fn snapshot(&self, path: &Path) -> Result<Revision, Error> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Snapshot { path: path.to_owned(), answer }, answered).await
    }
}

/// The only one that changes the state.
struct Writer {
    file: File,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut waiting = Vec::with_capacity(BATCH);
        while queue.blocking_recv_many(&mut waiting, BATCH) > 0 {
            let mut batch = Batch::new(self.shared.revision.load(Ordering::Acquire));
            for request in waiting.drain(..) {
                match request {
                    Request::Txn { compares, ops, answer } => {
                        let outcome = batch.decide(&self.shared.state.read(), &compares, ops);
                        batch.answers.push((answer, outcome));
                    }
                    Request::Snapshot { path, answer } => {
                        let copied = self.file.snapshot(&path);
                        reply(answer, copied);
                    }
                }
            }
            self.commit(batch);
            // A burst leaves its buffer behind only as long as the burst lasts.
            waiting.shrink_to(BATCH);
        }
        self.shared.state.write().close();
    }

    fn commit(&mut self, batch: Batch) {
        if !batch.changes.is_empty() {
            if let Err(error) = self.file.commit(batch.revision, &batch.changes) {
                self.shared.failing.store(true, Ordering::Relaxed);
                tracing::error!(%error, transactions = batch.answers.len(), "the store cannot write");
                for (answer, outcome) in batch.answers {
                    // A failed compare may have been decided against what was not written: nobody gets an answer from it.
                    drop(outcome);
                    reply(answer, Err(error.again()));
                }
                return;
            }
            self.shared.failing.store(false, Ordering::Relaxed);
            let mut state = self.shared.state.write();
            state.apply(batch.changes, batch.revision);
            self.shared.revision.store(batch.revision, Ordering::Release);
        }
        for (answer, outcome) in batch.answers {
            reply(answer, Ok(outcome));
        }
    }
}

/// Whoever stopped waiting (a client that disconnected) has no use for the answer.
fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    if answer.send(value).is_err() {
        tracing::trace!("the caller of a transaction is gone");
    }
}

/// Transactions decided but not yet durable.
struct Batch {
    revision: Revision,
    changes: Vec<Change>,
    /// The newest state of each changed key.
    pending: HashMap<bytes::Bytes, Option<KeyValue>>,
    answers: Vec<(oneshot::Sender<Result<TxnOutcome, Error>>, TxnOutcome)>,
}

impl Batch {
    fn new(revision: Revision) -> Self {
        Batch { revision, changes: Vec::new(), pending: HashMap::new(), answers: Vec::new() }
    }

    fn current(&self, state: &State, key: &[u8]) -> Option<KeyValue> {
        self.pending.get(key).map_or_else(|| state.get(key), Clone::clone)
    }

    fn decide(&mut self, state: &State, compares: &[Compare], ops: Vec<Op>) -> TxnOutcome {
        let holds = |compare: &Compare| {
            self.current(state, &compare.key).map_or(0, |kv| kv.mod_revision) == compare.mod_revision
        };
        if !compares.iter().all(holds) {
            return TxnOutcome::Conflict(compares.iter().map(|compare| self.current(state, &compare.key)).collect());
        }
        let (revision, before) = (self.revision + 1, self.changes.len());
        for op in ops {
            let (key, current) = match op {
                Op::Put { key, value, stamp } => {
                    let value = stamp.map_or_else(|| value.clone(), |at| crate::stamp(&value, at, revision));
                    (key, Some(value))
                }
                Op::Delete { key } => (key, None),
            };
            let previous = self.current(state, &key);
            if current.is_none() && previous.is_none() {
                continue;
            }
            let current = current.map(|value| KeyValue {
                create_revision: previous.as_ref().map_or(revision, |kv| kv.create_revision),
                mod_revision: revision,
                key: key.clone(),
                value,
            });
            self.pending.insert(key.clone(), current.clone());
            self.changes.push(Change { key, revision, current, previous });
        }
        if self.changes.len() > before {
            self.revision = revision;
        }
        TxnOutcome::Committed(self.revision)
    }
}
