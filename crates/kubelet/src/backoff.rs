//! Exponential back-off that is measured from an event's own time, as client-go's `flowcontrol.Backoff`.
use std::time::Duration;
use tokio::time::Instant;

/// One key's back-off.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    current: Option<(Duration, Instant)>,
}

impl Backoff {
    /// A back-off from `initial`, doubling up to `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Backoff { initial, max, current: None }
    }

    /// The present delay.
    pub fn delay(&self) -> Duration {
        self.current.map_or(Duration::ZERO, |(delay, _)| delay)
    }

    /// When something that failed at `event` may be tried again; `None` when at once.
    pub fn until(&self, event: Instant, now: Instant) -> Option<Instant> {
        let (delay, last) = self.current?;
        if self.expired(event, last) {
            return None;
        }
        Some(event + delay).filter(|until| *until > now)
    }

    /// Notes a try after a failure at `event`: the next one waits longer.
    pub fn next(&mut self, event: Instant, now: Instant) {
        let delay = match self.current {
            Some((delay, last)) if !self.expired(event, last) => (delay * 2).min(self.max),
            _ => self.initial,
        };
        self.current = Some((delay, now));
    }

    /// Twice the longest delay without failure starts over.
    fn expired(&self, event: Instant, last: Instant) -> bool {
        event.saturating_duration_since(last) > self.max * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_double_to_the_limit_and_start_over_after_twice_that() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(10), seconds(300));
        let mut event = Instant::now();
        assert_eq!(backoff.until(event, event), None);
        let mut delays = Vec::new();
        for _ in 0..7 {
            backoff.next(event, event);
            assert_eq!(backoff.until(event, event), Some(event + backoff.delay()));
            delays.push(backoff.delay().as_secs());
            event += backoff.delay();
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        let later = event + seconds(601);
        assert_eq!(backoff.until(later, later), None);
        backoff.next(later, later);
        assert_eq!(backoff.delay(), seconds(10));
    }
}
