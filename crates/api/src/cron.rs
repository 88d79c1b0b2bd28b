//! Whether a text is a cron schedule, as the `robfig/cron` parser takes them, with its messages. Start at [`check`].

/// One field: its bounds and the names of its values.
struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds {
        min: 1,
        max: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

/// Says what is wrong with `schedule`.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let mut text = schedule;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let (zone, rest) = text.split_once(' ').unwrap_or((text, ""));
        let zone = zone.split_once('=').map_or("", |(_, zone)| zone);
        if zone != "UTC" && jiff::tz::TimeZone::get(zone).is_err() {
            return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        text = rest.trim();
    }
    if text.starts_with('@') {
        return descriptor(text);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(&FIELDS).try_for_each(|(field, bounds)| {
        field.split(',').filter(|range| !range.is_empty()).try_for_each(|range| check_range(range, bounds))
    })
}

fn descriptor(text: &str) -> Result<(), String> {
    match text {
        "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly" => Ok(()),
        _ => match text.strip_prefix("@every ") {
            Some(duration) if is_duration(duration) => Ok(()),
            Some(duration) => Err(format!("failed to parse duration {text}: time: invalid duration {duration:?}")),
            None => Err(format!("unrecognized descriptor: {text}")),
        },
    }
}

/// A duration as Go writes it: `1h30m`, `1.5s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, unit) = rest.split_at(number);
        let length = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let known = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"].contains(&&unit[..length]);
        if digits.parse::<f64>().is_err() || !known {
            return false;
        }
        rest = &unit[length..];
    }
    !text.is_empty()
}

fn check_range(expression: &str, bounds: &Bounds) -> Result<(), String> {
    let parts: Vec<&str> = expression.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let (start, mut end) = if matches!(ends[0], "*" | "?") {
        (bounds.min, bounds.max)
    } else {
        let start = number(ends[0], bounds)?;
        match ends[1..] {
            [] => (start, start),
            [end] => (start, number(end, bounds)?),
            _ => return Err(format!("too many hyphens: {expression}")),
        }
    };
    let step = match parts[1..] {
        [] => 1,
        [step] => {
            if ends.len() == 1 {
                end = bounds.max;
            }
            number(step, &Bounds { names: &[], ..*bounds })?
        }
        _ => return Err(format!("too many slashes: {expression}")),
    };
    let (min, max) = (bounds.min, bounds.max);
    if start < min {
        Err(format!("beginning of range ({start}) below minimum ({min}): {expression}"))
    } else if end > max {
        Err(format!("end of range ({end}) above maximum ({max}): {expression}"))
    } else if start > end {
        Err(format!("beginning of range ({start}) beyond end of range ({end}): {expression}"))
    } else if step == 0 {
        Err(format!("step of range should be a positive number: {expression}"))
    } else {
        Ok(())
    }
}

fn number(text: &str, bounds: &Bounds) -> Result<u64, String> {
    if let Some(i) = bounds.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(i as u64 + bounds.min);
    }
    match text.parse::<i64>() {
        Ok(number) => u64::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}")),
        Err(_) => {
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {}: invalid syntax", quote(text)))
        }
    }
}

fn quote(text: &str) -> String {
    pintle_api::field::go_quote(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_taken_as_upstream_takes_them() {
        for good in ["* * * * *", "*/5 0-23/2 1,15 jan-dec mon", "@hourly", "@every 1h30m", "0 0 ? * 0", "5/15 * * * *"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, message) in [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(check(bad).unwrap_err(), message, "{bad}");
        }
    }
}
