//! What `libcontainer` logs while it creates a container: the detail that its errors leave out.
use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Marks a line that says all there is to say.
const FINAL: char = '!';

/// Writes to a pipe, as far as it is there.
fn write(fd: RawFd, line: &str) {
    // SAFETY: the descriptor is this process' copy of the pipe's writing side, open until exec.
    let mut pipe = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(fd) });
    pipe.write_all(line.as_bytes()).ok();
}

/// Tells the reason that a user is to read.
pub fn tell(fd: RawFd, reason: &str) {
    write(fd, &format!("{FINAL}{}\n", reason.replace('\n', " ")));
}

/// The reason in what was written to the pipe, if a final one is there.
pub fn reason(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix(FINAL))
}

/// The first, innermost error that was logged.
pub fn detail(text: &str) -> Option<&str> {
    text.lines().find(|line| !line.starts_with(FINAL))
}

/// Writes logged errors to a pipe, one line each.
#[derive(Debug)]
pub struct Errors(pub RawFd);

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = if line.fields.is_empty() { line.message } else { format!("{} ({})", line.message, line.fields) };
        write(self.0, &format!("{}\n", text.replace('\n', " ")));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let (target, comma) =
            if field.name() == "message" { (&mut self.message, "") } else { (&mut self.fields, ", ") };
        // Writing to a String cannot fail.
        if field.name() == "message" {
            write!(target, "{value:?}").ok();
        } else {
            let comma = if target.is_empty() { "" } else { comma };
            write!(target, "{comma}{}={value:?}", field.name()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_reason_hides_the_details() {
        let text = "inner (err=EINVAL)\n!exec: not found\nouter\n";
        assert_eq!(reason(text), Some("exec: not found"));
        assert_eq!(detail(text), Some("inner (err=EINVAL)"));
        assert_eq!(reason("only details\n"), None);
    }
}
