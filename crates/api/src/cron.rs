//! Cron schedules as `robfig/cron` takes them, with its messages: [`Schedule::parse`] reads one, [`Schedule::next`] says when
//! it comes next.
use crate::{duration, time_zone};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

/// One field: its bounds and the names of its values.
struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// A schedule that has no time in this many years has none at all.
const YEARS: i16 = 5;

/// When something is to happen again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    when: When,
    zone: TimeZone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum When {
    /// At fixed distances.
    Every(SignedDuration),
    /// When all fields agree.
    Fields { minutes: Set, hours: Set, days: Set, months: Set, weekdays: Set },
}

/// The values of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Set {
    bits: u64,
    /// True if the field says "any" in so many words: of the two fields for days the other one then decides.
    any: bool,
}

impl Set {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits & (1 << value) != 0)
    }
}

impl Schedule {
    /// Reads `schedule`, which is in `zone` unless it names one itself (`TZ=…`).
    pub fn parse(schedule: &str, zone: TimeZone) -> Result<Self, String> {
        let (mut text, mut zone) = (schedule, zone);
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            let (named, rest) = text.split_once(' ').unwrap_or((text, ""));
            let named = named.split_once('=').map_or("", |(_, zone)| zone);
            zone = time_zone::get(named)
                .ok_or_else(|| format!("provided bad location {named}: unknown time zone {named}"))?;
            text = rest.trim();
        }
        if text.starts_with('@') {
            return Ok(Schedule { when: descriptor(text)?, zone });
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        let when = When::Fields {
            minutes: set(minutes, &MINUTES)?,
            hours: set(hours, &HOURS)?,
            days: set(days, &DAYS)?,
            months: set(months, &MONTHS)?,
            weekdays: set(weekdays, &WEEKDAYS)?,
        };
        Ok(Schedule { when, zone })
    }

    /// The first time after `after`; `None` if there is none (31 February).
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        if let When::Every(distance) = self.when {
            return whole.checked_add(distance).ok();
        }
        let minute = (whole.as_second().div_euclid(60) + 1) * 60;
        let mut at = Timestamp::from_second(minute).ok()?.to_zoned(self.zone.clone());
        let last_year = at.year().checked_add(YEARS)?;
        while at.year() <= last_year {
            match self.later(&at)? {
                None => return Some(at.timestamp()),
                Some(later) => at = later,
            }
        }
        None
    }

    /// `Some(None)` if `at` is a time of the schedule, else the next one worth a look.
    fn later(&self, at: &Zoned) -> Option<Option<Zoned>> {
        let When::Fields { minutes, hours, days, months, weekdays } = &self.when else { return Some(None) };
        let start = |date: Date| date.to_zoned(self.zone.clone()).ok();
        if !months.has(at.month()) {
            let next = if at.month() == 12 {
                Date::new(at.year().checked_add(1)?, 1, 1)
            } else {
                Date::new(at.year(), at.month() + 1, 1)
            };
            return start(next.ok()?).map(Some);
        }
        let (day, weekday) = (days.has(at.day()), weekdays.has(at.weekday().to_sunday_zero_offset()));
        let matches = if days.any || weekdays.any { day && weekday } else { day || weekday };
        if !matches {
            return start(at.date().tomorrow().ok()?).map(Some);
        }
        if !hours.has(at.hour()) {
            let left = SignedDuration::from_mins(i64::from(60 - at.minute()));
            return at.checked_add(left).ok().map(Some);
        }
        if !minutes.has(at.minute()) {
            return at.checked_add(SignedDuration::from_mins(1)).ok().map(Some);
        }
        Some(None)
    }
}

fn descriptor(text: &str) -> Result<When, String> {
    let only = |value: u64| Set { bits: 1 << value, any: false };
    let all = |bounds: &Bounds| Set { bits: range(bounds.min, bounds.max, 1), any: true };
    let (days, months) = match text {
        "@yearly" | "@annually" => (only(1), only(1)),
        "@monthly" => (only(1), all(&MONTHS)),
        "@weekly" | "@daily" | "@midnight" | "@hourly" => (all(&DAYS), all(&MONTHS)),
        _ => {
            let Some(given) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            let Some(distance) = duration::parse(given) else {
                return Err(format!("failed to parse duration {text}: time: invalid duration {given:?}"));
            };
            let seconds = distance.as_secs().max(1);
            return Ok(When::Every(SignedDuration::from_secs(seconds)));
        }
    };
    let hours = if text == "@hourly" { all(&HOURS) } else { only(0) };
    let weekdays = if text == "@weekly" { only(0) } else { all(&WEEKDAYS) };
    Ok(When::Fields { minutes: only(0), hours, days, months, weekdays })
}

fn range(start: u64, end: u64, step: u64) -> u64 {
    let mut bits = 0;
    let mut value = start;
    while value <= end {
        bits |= 1 << value;
        value = value.saturating_add(step);
    }
    bits
}

fn set(field: &str, bounds: &Bounds) -> Result<Set, String> {
    let mut whole = Set { bits: 0, any: false };
    for expression in field.split(',').filter(|expression| !expression.is_empty()) {
        let part = one_range(expression, bounds)?;
        whole = Set { bits: whole.bits | part.bits, any: whole.any || part.any };
    }
    Ok(whole)
}

fn one_range(expression: &str, bounds: &Bounds) -> Result<Set, String> {
    let parts: Vec<&str> = expression.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let star = matches!(ends[0], "*" | "?");
    let (start, mut end) = if star {
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
        Ok(Set { bits: range(start, end, step), any: star && step == 1 })
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
    crate::field::go_quote(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str) -> Result<(), String> {
        Schedule::parse(schedule, TimeZone::UTC).map(drop)
    }

    fn times(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule, time_zone::get(zone).unwrap()).unwrap();
        let first: Timestamp = after.parse().unwrap();
        std::iter::successors(schedule.next(first), |at| schedule.next(*at))
            .take(count)
            .map(|at| at.to_string())
            .collect()
    }

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

    #[test]
    fn the_next_time_follows_the_fields() {
        let start = "2026-01-30T10:07:30.5Z";
        assert_eq!(times("*/15 * * * *", "UTC", start, 2), ["2026-01-30T10:15:00Z", "2026-01-30T10:30:00Z"]);
        assert_eq!(times("0 0 31 * *", "UTC", start, 2), ["2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"]);
        assert_eq!(times("30 6 29 2 *", "UTC", start, 1), ["2028-02-29T06:30:00Z"]);
        assert_eq!(times("0 0 31 2 *", "UTC", start, 1), [""; 0]);
        assert_eq!(times("@every 90s", "UTC", start, 2), ["2026-01-30T10:09:00Z", "2026-01-30T10:10:30Z"]);
        assert_eq!(times("@weekly", "UTC", start, 1), ["2026-02-01T00:00:00Z"]);
        assert_eq!(times("* * * * *", "UTC", "2026-01-30T10:00:00Z", 1), ["2026-01-30T10:01:00Z"]);
    }

    #[test]
    fn either_day_is_enough_if_both_fields_name_some() {
        let start = "2026-01-01T00:00:00Z";
        assert_eq!(
            times("0 0 13 * fri", "UTC", start, 3),
            ["2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z"]
        );
        assert_eq!(times("0 0 * * fri", "UTC", start, 2), ["2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z"]);
    }

    #[test]
    fn clocks_that_are_put_forward_skip_and_those_put_back_repeat() {
        let spring = times("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 2);
        assert_eq!(spring, ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"]);
        let autumn = times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3);
        assert_eq!(autumn, ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]);
        assert_eq!(times("TZ=Asia/Tokyo 0 9 * * *", "UTC", "2026-01-01T00:00:00Z", 1), ["2026-01-02T00:00:00Z"]);
    }
}
