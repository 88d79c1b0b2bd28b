//! The wall clock behind certificate lifetimes, replaceable so that a test can live through a year.
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Tells the time; clones share the source.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Self {
        Clock(Arc::new(SystemTime::now))
    }

    /// A clock that starts at `start` and advances with tokio's clock, which tests can pause.
    pub fn tokio(start: SystemTime) -> Self {
        let origin = Instant::now();
        Clock(Arc::new(move || start + origin.elapsed()))
    }

    /// The current time.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }

    /// Seconds since 1970; 0 before that.
    pub fn unix(&self) -> u64 {
        self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
    }
}
