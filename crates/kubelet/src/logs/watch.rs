//! Tells followers that a log has grown, was rotated, or that its writer is done, and that a directory has changed: one inotify
//! instance for all of them.
use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;

/// What happened to a log.
pub enum Changes {
    /// Something was written, or an entry of the directory came or went.
    Written,
    /// A writer closed it, perhaps the last one.
    Closed,
    /// It is not at its path any more.
    Moved,
}

#[derive(Default)]
struct Bell {
    flags: Mutex<u32>,
    wake: Notify,
}

const WRITTEN: u32 = 1;
const CLOSED: u32 = 2;
const MOVED: u32 = 4;

/// One inotify instance and who listens.
struct Hub {
    fd: OwnedFd,
    bells: Mutex<HashMap<i32, Vec<Arc<Bell>>>>,
}

type Shared = Arc<Mutex<Option<Arc<Hub>>>>;

/// Watches on logs; clones share one inotify instance and its thread, which exist while somebody follows a log.
#[derive(Clone, Default)]
pub struct Watches(Shared);

impl Watches {
    /// Watches the file at `path`.
    pub fn watch(&self, path: &Path) -> std::io::Result<Watch> {
        self.add(path, WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF)
    }

    /// Watches the entries of the directory at `path`: complete files that come, and what goes.
    pub fn watch_directory(&self, path: &Path) -> std::io::Result<Watch> {
        self.add(path, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE)
    }

    fn add(&self, path: &Path, flags: WatchFlags) -> std::io::Result<Watch> {
        // Held to the end, so that the thread does not find the hub unused before the watch is in it.
        let mut known = self.0.lock();
        let hub = match known.as_ref() {
            Some(hub) => hub.clone(),
            None => {
                let hub = Arc::new(Hub { fd: inotify::init(CreateFlags::CLOEXEC)?, bells: Mutex::default() });
                let (shared, served) = (self.0.clone(), hub.clone());
                std::thread::Builder::new().name("log-watch".into()).spawn(move || ring(&shared, &served))?;
                known.insert(hub).clone()
            }
        };
        let bell = Arc::<Bell>::default();
        let mut bells = hub.bells.lock();
        match inotify::add_watch(&hub.fd, path, flags) {
            Ok(wd) => {
                bells.entry(wd).or_default().push(bell.clone());
                drop(bells);
                Ok(Watch { hub, wd, bell })
            }
            // An idle hub stays for the next follower.
            Err(error) => Err(error.into()),
        }
    }
}

/// Passes events on until nobody listens: removing the last watch is an event, too.
fn ring(shared: &Shared, hub: &Hub) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&hub.fd, &mut buffer);
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => {
                tracing::warn!(%error, "log followers hear nothing any more");
                *shared.lock() = None;
                return;
            }
        };
        let kinds = event.events();
        let mut flags = 0;
        if kinds.intersects(ReadFlags::MODIFY | ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
            flags |= WRITTEN;
        }
        if kinds.contains(ReadFlags::CLOSE_WRITE) {
            flags |= CLOSED;
        }
        if kinds.intersects(ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF) {
            flags |= MOVED;
        }
        for bell in hub.bells.lock().get(&event.wd()).into_iter().flatten() {
            *bell.flags.lock() |= flags;
            bell.wake.notify_one();
        }
        if kinds.contains(ReadFlags::IGNORED) {
            let mut known = shared.lock();
            if hub.bells.lock().is_empty() {
                *known = None;
                return;
            }
        }
    }
}

/// A watch on one file; ends when dropped.
pub struct Watch {
    hub: Arc<Hub>,
    wd: i32,
    bell: Arc<Bell>,
}

impl Watch {
    /// Waits for the next change. Cancel-safe.
    pub async fn changed(&mut self) -> Changes {
        loop {
            {
                let mut flags = self.bell.flags.lock();
                for (flag, change) in [(WRITTEN, Changes::Written), (CLOSED, Changes::Closed), (MOVED, Changes::Moved)]
                {
                    if *flags & flag != 0 {
                        *flags &= !flag;
                        return change;
                    }
                }
            }
            self.bell.wake.notified().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut bells = self.hub.bells.lock();
        let Some(all) = bells.get_mut(&self.wd) else { return };
        all.retain(|bell| !Arc::ptr_eq(bell, &self.bell));
        if all.is_empty() {
            bells.remove(&self.wd);
            // Already gone when the file was deleted.
            if let Err(error) = inotify::remove_watch(&self.hub.fd, self.wd) {
                tracing::trace!(%error, "watch was gone");
            }
        }
    }
}
