//! Timestamps and durations.
use super::{Builtin, no_overload};
use crate::eval::{Error, Outcome};
use crate::value::Value;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

pub(crate) fn find(name: &str) -> Option<Builtin> {
    let function: Builtin = match name {
        "timestamp" => |args, _| match args {
            [v @ Value::Timestamp(_)] => Ok(v.clone()),
            [Value::String(s)] => s
                .parse()
                .map(Value::Timestamp)
                .map_err(|_| Error::new("type conversion error from 'string' to 'google.protobuf.Timestamp'")),
            [Value::Int(i)] => {
                Timestamp::from_second(*i).map(Value::Timestamp).map_err(|_| Error::new("timestamp overflow"))
            }
            _ => no_overload(),
        },
        "duration" => |args, _| match args {
            [v @ Value::Duration(_)] => Ok(v.clone()),
            [Value::String(s)] => parse_duration(s)
                .map(Value::Duration)
                .ok_or_else(|| Error::new("type conversion error from 'string' to 'google.protobuf.Duration'")),
            [Value::Int(i)] => Ok(Value::Duration(*i)),
            _ => no_overload(),
        },
        "getFullYear" => |args, _| part(args, |t| i64::from(t.year())),
        "getMonth" => |args, _| part(args, |t| i64::from(t.month()) - 1),
        "getDayOfYear" => |args, _| part(args, |t| i64::from(t.day_of_year()) - 1),
        "getDayOfMonth" => |args, _| part(args, |t| i64::from(t.day()) - 1),
        "getDate" => |args, _| part(args, |t| i64::from(t.day())),
        "getDayOfWeek" => |args, _| part(args, |t| i64::from(t.weekday().to_sunday_zero_offset())),
        "getHours" => |args, _| match args {
            [Value::Duration(d)] => Ok(Value::Int(d / 3_600_000_000_000)),
            args => part(args, |t| i64::from(t.hour())),
        },
        "getMinutes" => |args, _| match args {
            [Value::Duration(d)] => Ok(Value::Int(d / 60_000_000_000)),
            args => part(args, |t| i64::from(t.minute())),
        },
        "getSeconds" => |args, _| match args {
            [Value::Duration(d)] => Ok(Value::Int(d / 1_000_000_000)),
            args => part(args, |t| i64::from(t.second())),
        },
        "getMilliseconds" => |args, _| match args {
            [Value::Duration(d)] => Ok(Value::Int(d / 1_000_000 % 1000)),
            args => part(args, |t| i64::from(t.millisecond())),
        },
        _ => return None,
    };
    Some(function)
}

fn part<'a>(args: &[Value<'a>], of: fn(&Zoned) -> i64) -> Outcome<'a> {
    let (time, zone) = match args {
        [Value::Timestamp(time)] => (time, TimeZone::UTC),
        [Value::Timestamp(time), Value::String(zone)] => (time, parse_zone(zone)?),
        _ => return no_overload(),
    };
    Ok(Value::Int(of(&time.to_zoned(zone))))
}

/// `America/New_York`, `UTC` or `-08:00`.
fn parse_zone(name: &str) -> Result<TimeZone, Error> {
    if let Some((hours, minutes)) = name.split_once(':') {
        let wrong = || Error::new(format!("invalid time zone {name:?}"));
        let hours: i8 = hours.parse().map_err(|_| wrong())?;
        let minutes: i32 = minutes.parse().map_err(|_| wrong())?;
        let sign = if name.starts_with('-') { -1 } else { 1 };
        let seconds = i32::from(hours) * 3600 + sign * minutes * 60;
        return jiff::tz::Offset::from_seconds(seconds).map(TimeZone::fixed).map_err(|_| wrong());
    }
    TimeZone::get(name).map_err(|_| Error::new(format!("unknown time zone {name}")))
}

/// A duration as Go writes it (`1h30m`, `-1.5s`), in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let end = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| digits + at);
        let unit: i128 = match &rest[digits..end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let number = &rest[..digits];
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let mut scale = unit;
        for digit in fraction.chars() {
            scale /= 10;
            total += i128::from(digit.to_digit(10)?) * scale;
        }
        rest = &rest[end..];
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration in seconds, as protobuf's JSON has it.
pub(crate) fn duration_text(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (seconds, rest) = (nanoseconds.unsigned_abs() / 1_000_000_000, nanoseconds.unsigned_abs() % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}
