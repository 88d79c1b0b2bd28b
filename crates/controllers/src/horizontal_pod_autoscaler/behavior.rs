//! How fast an autoscaler may act on what its metrics ask for: [`History`] remembers, [`History::normalize`] decides.
//! (upstream: pkg/controller/podautoscaler, normalizeDesiredReplicas and its like)
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec};

/// Without a behavior a scale-down waits this long for higher recommendations.
const DOWNSCALE_WINDOW: i32 = 300;
/// Older than any window or period can be (an hour at most).
const FORGET: SignedDuration = SignedDuration::from_secs(3600);

/// What one autoscaler recommended and did.
#[derive(Debug, Default)]
pub struct History {
    recommendations: Vec<(Timestamp, i32)>,
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

/// A number of replicas and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Normalized {
    /// How many replicas.
    pub replicas: i32,
    /// Reason and message of `AbleToScale`.
    pub able: (&'static str, &'static str),
    /// Whether `ScalingLimited`, reason and message.
    pub limited: (bool, &'static str, &'static str),
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const HIGHER: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const LOWER: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const IN_RANGE: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

fn policy(kind: &str, value: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: kind.to_owned(), value, period_seconds: 15 }
}

/// The rules of one direction with their defaults.
struct Rules {
    window: i32,
    select: String,
    policies: Vec<HPAScalingPolicy>,
}

impl Rules {
    fn new(given: Option<&HPAScalingRules>, window: i32, policies: Vec<HPAScalingPolicy>) -> Self {
        let given = given.cloned().unwrap_or_default();
        Rules {
            window: given.stabilization_window_seconds.unwrap_or(window),
            select: given.select_policy.unwrap_or_else(|| "Max".to_owned()),
            policies: given.policies.unwrap_or(policies),
        }
    }

    fn up(spec: &HorizontalPodAutoscalerSpec) -> Self {
        let given = spec.behavior.as_ref().and_then(|behavior| behavior.scale_up.as_ref());
        Rules::new(given, 0, vec![policy("Pods", 4), policy("Percent", 100)])
    }

    fn down(spec: &HorizontalPodAutoscalerSpec) -> Self {
        let given = spec.behavior.as_ref().and_then(|behavior| behavior.scale_down.as_ref());
        Rules::new(given, DOWNSCALE_WINDOW, vec![policy("Percent", 100)])
    }
}

fn seconds(count: i32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(count))
}

impl History {
    /// The first look: what runs counts as recommended.
    pub fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// Remembers a change of size.
    pub fn scaled(&mut self, before: i32, after: i32, now: Timestamp) {
        self.ups.retain(|(at, _)| now.duration_since(*at) < FORGET);
        self.downs.retain(|(at, _)| now.duration_since(*at) < FORGET);
        if after > before {
            self.ups.push((now, after - before));
        } else {
            self.downs.push((now, before - after));
        }
    }

    /// What of `desired` may be done now.
    pub fn normalize(
        &mut self,
        spec: &HorizontalPodAutoscalerSpec,
        current: i32,
        desired: i32,
        min: i32,
        now: Timestamp,
    ) -> Normalized {
        let (stable, able) = self.stabilize(spec, current, desired, now);
        self.recommendations.retain(|(at, _)| now.duration_since(*at) < FORGET);
        self.recommendations.push((now, desired));
        let (replicas, (reason, message)) = if spec.behavior.is_some() {
            self.limit_rate(spec, current, stable, min, now)
        } else {
            limit(current, stable, min, spec.max_replicas)
        };
        Normalized { replicas, able, limited: (replicas != stable, reason, message) }
    }

    fn stabilize(
        &self,
        spec: &HorizontalPodAutoscalerSpec,
        current: i32,
        desired: i32,
        now: Timestamp,
    ) -> (i32, (&'static str, &'static str)) {
        let recent = |window: i32| {
            let within = move |(at, _): &&(Timestamp, i32)| now.duration_since(*at) < seconds(window);
            self.recommendations.iter().filter(within).map(|(_, replicas)| *replicas)
        };
        if spec.behavior.is_none() {
            let highest = recent(DOWNSCALE_WINDOW).max().unwrap_or(desired).max(desired);
            return (highest, if highest == desired { READY } else { HIGHER });
        }
        let lowest = recent(Rules::up(spec).window).min().unwrap_or(desired).min(desired);
        let highest = recent(Rules::down(spec).window).max().unwrap_or(desired).max(desired);
        let stable = current.max(lowest).min(highest);
        let why = if desired >= current { LOWER } else { HIGHER };
        (stable, if stable == desired { READY } else { why })
    }

    /// By how much `changes` changed the size within the period.
    fn change(changes: &[(Timestamp, i32)], period: i32, now: Timestamp) -> i32 {
        changes.iter().filter(|(at, _)| now.duration_since(*at) < seconds(period)).map(|(_, change)| change).sum()
    }

    fn limit_rate(
        &self,
        spec: &HorizontalPodAutoscalerSpec,
        current: i32,
        desired: i32,
        min: i32,
        now: Timestamp,
    ) -> (i32, (&'static str, &'static str)) {
        let at_start =
            |period: i32| current - Self::change(&self.ups, period, now) + Self::change(&self.downs, period, now);
        if desired > current {
            let rules = Rules::up(spec);
            let proposals = rules.policies.iter().map(|policy| {
                let start = at_start(policy.period_seconds);
                if policy.type_ == "Pods" {
                    start.saturating_add(policy.value)
                } else {
                    // Rounded up, or small workloads would never grow.
                    whole((f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil())
                }
            });
            let allowed = match rules.select.as_str() {
                "Disabled" => Some(current),
                "Min" => proposals.min(),
                _ => proposals.max(),
            };
            let allowed = allowed.unwrap_or(current).max(current);
            let (most, why) =
                if spec.max_replicas > allowed { (allowed, UP_LIMIT) } else { (spec.max_replicas, TOO_MANY) };
            if desired > most {
                return (most, why);
            }
        } else if desired < current {
            let rules = Rules::down(spec);
            let proposals = rules.policies.iter().map(|policy| {
                let start = at_start(policy.period_seconds);
                if policy.type_ == "Pods" {
                    start.saturating_sub(policy.value)
                } else {
                    whole(f64::from(start) * (1.0 - f64::from(policy.value) / 100.0))
                }
            });
            let allowed = match rules.select.as_str() {
                "Disabled" => Some(current),
                "Min" => proposals.max(),
                _ => proposals.min(),
            };
            let allowed = allowed.unwrap_or(current).min(current);
            let (least, why) = if min < allowed { (allowed, DOWN_LIMIT) } else { (min, TOO_FEW) };
            if desired < least {
                return (least, why);
            }
        }
        (desired, IN_RANGE)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the conversion saturates, which is what is wanted")]
fn whole(number: f64) -> i32 {
    number as i32
}

/// Without a behavior: at most twice as many at once, and never more than the maximum or less than the minimum.
// upstream: convertDesiredReplicasWithRules
fn limit(current: i32, desired: i32, min: i32, max: i32) -> (i32, (&'static str, &'static str)) {
    let rate = current.saturating_mul(2).max(4);
    let (most, why) = if max > rate { (rate, UP_LIMIT) } else { (max, TOO_MANY) };
    if desired < min {
        (min, TOO_FEW)
    } else if desired > most {
        (most, why)
    } else {
        (desired, IN_RANGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(behavior: Value) -> HorizontalPodAutoscalerSpec {
        let mut spec = json!({"maxReplicas": 100, "scaleTargetRef": {"kind": "Deployment", "name": "web"}});
        if !behavior.is_null() {
            spec["behavior"] = behavior;
        }
        serde_json::from_value(spec).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_scale_down_waits_for_five_minutes_of_lower_recommendations() {
        let (mut history, spec) = (History::default(), spec(Value::Null));
        history.begin(10, at(0));
        let held = history.normalize(&spec, 10, 4, 1, at(60));
        assert_eq!((held.replicas, held.able.0), (10, "ScaleDownStabilized"));
        assert_eq!(history.normalize(&spec, 10, 4, 1, at(301)).replicas, 4);
    }

    #[test]
    fn a_scale_up_at_most_doubles_and_respects_the_bounds() {
        let (mut history, spec) = (History::default(), spec(Value::Null));
        let doubled = history.normalize(&spec, 10, 50, 1, at(0));
        assert_eq!((doubled.replicas, doubled.limited.0, doubled.limited.1), (20, true, "ScaleUpLimit"));
        assert_eq!(History::default().normalize(&spec, 60, 500, 1, at(0)).limited.1, "TooManyReplicas");
        assert_eq!(History::default().normalize(&spec, 6, 1, 3, at(0)).limited.1, "TooFewReplicas");
    }

    #[test]
    fn policies_limit_the_change_within_their_period() {
        let rules = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 3, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 20, "periodSeconds": 60}]}});
        let (mut history, spec) = (History::default(), spec(rules));
        assert_eq!(history.normalize(&spec, 10, 30, 1, at(0)).replicas, 13);
        history.scaled(10, 13, at(0));
        let spent = history.normalize(&spec, 13, 30, 1, at(30));
        assert_eq!((spent.replicas, spent.limited.1), (13, "ScaleUpLimit"));
        assert_eq!(history.normalize(&spec, 13, 30, 1, at(61)).replicas, 16);
        let down = History::default().normalize(&spec, 10, 1, 1, at(0));
        assert_eq!((down.replicas, down.limited.1), (8, "ScaleDownLimit"));
    }

    #[test]
    fn a_direction_can_be_switched_off() {
        let spec = spec(json!({"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}));
        assert_eq!(History::default().normalize(&spec, 10, 1, 1, at(0)).replicas, 10);
    }
}
