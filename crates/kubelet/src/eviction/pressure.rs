//! Whether the node is short of memory or disk; it counts as short for a while after it was.
use super::Seen;
use crate::config::Config;
use crate::node::{available_memory, disk, disk_pressure, memory_pressure};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a condition stays after what it tells has passed (upstream's default transition period).
const STAYS: Duration = Duration::from_secs(300);

/// What the node is short of; clones share it.
#[derive(Clone, Default)]
pub struct Pressure(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Memory, disk.
    seen: Mutex<(Seen, Seen)>,
    changed: Notify,
}

impl Pressure {
    /// Looks at the machine; what is short at this moment: memory, disk.
    pub fn look(&self, config: &Config) -> (bool, bool) {
        let now = (memory_pressure(available_memory()), disk_pressure(disk(&config.root_dir)));
        self.note(now);
        now
    }

    fn note(&self, (memory, disk): (bool, bool)) {
        let before = self.conditions();
        let now = Instant::now();
        {
            let mut seen = self.0.seen.lock();
            if memory {
                seen.0 = Some(now);
            }
            if disk {
                seen.1 = Some(now);
            }
        }
        if self.conditions() != before {
            self.0.changed.notify_one();
        }
    }

    /// Whether memory is, or was until lately, short.
    pub fn memory(&self) -> bool {
        lately(self.0.seen.lock().0)
    }

    /// Whether disk is, or was until lately, short.
    pub fn disk(&self) -> bool {
        lately(self.0.seen.lock().1)
    }

    /// The Node's conditions that hold.
    pub fn conditions(&self) -> Vec<&'static str> {
        let all = [(self.memory(), "MemoryPressure"), (self.disk(), "DiskPressure")];
        all.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect()
    }

    /// Completes when a condition has come.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

fn lately(seen: Seen) -> bool {
    seen.is_some_and(|seen| seen.elapsed() < STAYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn pressure_stays_for_five_minutes_and_keeps_pods_out() {
        let pressure = Pressure::default();
        let pod = |spec: serde_json::Value| serde_json::from_value(json!({"spec": spec})).unwrap();
        let refused = |spec: serde_json::Value| super::super::admit(&pod(spec), &pressure).err();
        let best_effort = || json!({"containers": [{"name": "c"}]});
        let burstable = || json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]});
        assert_eq!(refused(best_effort()), None);
        pressure.note((true, false));
        let message = "The node had condition: [MemoryPressure]. ";
        assert_eq!(refused(best_effort()).unwrap().message, message);
        assert_eq!(refused(burstable()), None);
        pressure.note((false, true));
        assert_eq!(refused(burstable()).unwrap().message, "The node had condition: [MemoryPressure DiskPressure]. ");
        assert_eq!(refused(json!({"priority": 2_000_001_000, "containers": []})), None);
        tokio::time::advance(STAYS).await;
        assert_eq!(refused(best_effort()), None);
    }
}
