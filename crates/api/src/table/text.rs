//! Durations, selectors and lists as upstream's printers write them.
use jiff::SignedDuration;
use serde_json::{Map, Value};

use super::{list, str_of};
use crate::selector::LabelSelector;

/// A duration in at most two units, as the column `Age` shows it.
// upstream: apimachinery pkg/util/duration, HumanDuration
pub fn human_duration(d: SignedDuration) -> String {
    let seconds = d.as_secs();
    if seconds < -1 {
        return "<invalid>".into();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |a: i64, unit: char, b: i64, sub: char| {
        if b == 0 { format!("{a}{unit}") } else { format!("{a}{unit}{b}{sub}") }
    };
    match () {
        () if seconds < 0 => "0s".into(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => two(years, 'y', days % 365, 'd'),
        () => format!("{years}y"),
    }
}

/// A map of labels as `a=1,b=2`.
pub(super) fn labels(map: &Value) -> String {
    let labels = |map: &Map<String, Value>| {
        let mut pairs: Vec<String> =
            map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
        pairs.sort_unstable();
        pairs.join(",")
    };
    map.as_object().map(labels).filter(|l| !l.is_empty()).unwrap_or_else(|| "<none>".into())
}

/// A label selector object, `<none>` if it is empty or missing.
pub(super) fn selector(selector: &Value) -> String {
    match LabelSelector::from_value(selector) {
        Ok(s) => Some(s.to_string()).filter(|t| !t.is_empty()).unwrap_or_else(|| "<none>".into()),
        Err(_) => "<error>".into(),
    }
}

/// The names and the images of the containers of a pod spec.
pub(super) fn containers(pod_spec: &Value) -> [Value; 2] {
    let all = |field: &str| {
        let texts: Vec<&str> = list(pod_spec, "containers").iter().map(|c| str_of(c, field)).collect();
        texts.join(",").into()
    };
    [all("name"), all("image")]
}

/// The first three of `items`, and how many there are more.
pub(super) fn up_to_three(items: &[String]) -> String {
    let shown = items.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(",");
    if items.len() > 3 { format!("{shown} + {} more...", items.len() - 3) } else { shown }
}

pub(super) fn joined<'a>(items: impl IntoIterator<Item = &'a Value>) -> String {
    items.into_iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// A string or number as text.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (130, "2m10s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (8 * 3600, "8h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86_400, "8d"),
            (730 * 86_400, "2y"),
            (731 * 86_400, "2y1d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(human_duration(SignedDuration::from_secs(seconds)), text, "{seconds}");
        }
    }
}
