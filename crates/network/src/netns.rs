//! Opening sockets inside another network namespace.
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;

/// Runs `open` on a thread of its own that has entered `netns`, and returns what it opened: a socket stays in the
/// namespace it was made in, whichever thread uses it later.
pub fn inside<T: Send>(netns: &File, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            open()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the network namespace panicked")))
    })
}
