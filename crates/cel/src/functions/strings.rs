//! Text, regular expressions, `format`.
use super::convert::{display, double_text};
use super::{Builtin, int, no_overload, text};
use crate::eval::{Error, Outcome};
use crate::value::Value;
use regex::Regex;

pub(crate) fn find(name: &str) -> Option<Builtin> {
    let function: Builtin = match name {
        "contains" => |args, _| Ok(Value::Bool(text(args, 0)?.contains(text(args, 1)?))),
        "startsWith" => |args, _| Ok(Value::Bool(text(args, 0)?.starts_with(text(args, 1)?))),
        "endsWith" => |args, _| Ok(Value::Bool(text(args, 0)?.ends_with(text(args, 1)?))),
        "matches" => |args, regex| with_regex(args, regex, |regex, text| Ok(Value::Bool(regex.is_match(text)))),
        "find" => |args, regex| {
            with_regex(args, regex, |regex, text| Ok(Value::text(regex.find(text).map_or("", |m| m.as_str()))))
        },
        "findAll" => |args, regex| {
            let limit = match args.get(2) {
                Some(Value::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            with_regex(args, regex, |regex, text| {
                Ok(Value::list(regex.find_iter(text).take(limit).map(|m| Value::text(m.as_str())).collect()))
            })
        },
        "charAt" => |args, _| {
            let (s, at) = (text(args, 0)?, int(args, 1)?);
            let length = s.chars().count() as i64;
            if at < 0 || at > length {
                return Err(Error::new(format!("index out of range: {at}")));
            }
            Ok(Value::text(s.chars().nth(at as usize).map(String::from).unwrap_or_default()))
        },
        "indexOf" => |args, _| match args {
            [Value::List(list), wanted] => {
                Ok(Value::Int(list.iter().position(|v| super::operators::equal(&v, wanted)).map_or(-1, |i| i as i64)))
            }
            _ => index_of(args),
        },
        "lastIndexOf" => |args, _| match args {
            [Value::List(list), wanted] => {
                let found = list.to_vec().iter().rposition(|v| super::operators::equal(v, wanted));
                Ok(Value::Int(found.map_or(-1, |i| i as i64)))
            }
            _ => last_index_of(args),
        },
        "lowerAscii" => |args, _| Ok(Value::text(text(args, 0)?.to_ascii_lowercase())),
        "upperAscii" => |args, _| Ok(Value::text(text(args, 0)?.to_ascii_uppercase())),
        "replace" => |args, _| {
            let (s, from, to) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
            match args.get(3) {
                Some(Value::Int(n)) if *n >= 0 => Ok(Value::text(s.replacen(from, to, *n as usize))),
                _ => Ok(Value::text(s.replace(from, to))),
            }
        },
        "split" => |args, _| split(args),
        "substring" => |args, _| {
            let (s, from) = (text(args, 0)?, int(args, 1)?);
            let length = s.chars().count() as i64;
            let to = if args.len() > 2 { int(args, 2)? } else { length };
            for at in [from, to] {
                if at < 0 || at > length {
                    return Err(Error::new(format!("index out of range: {at}")));
                }
            }
            if from > to {
                return Err(Error::new(format!("invalid substring range. start: {from}, end: {to}")));
            }
            Ok(Value::text(s.chars().skip(from as usize).take((to - from) as usize).collect::<String>()))
        },
        "trim" => |args, _| Ok(Value::text(text(args, 0)?.trim())),
        "strings.quote" => |args, _| Ok(Value::text(pintle_api::field::go_quote(text(args, 0)?))),
        "join" => |args, _| {
            let separator = if args.len() > 1 { text(args, 1)? } else { "" };
            let Some(Value::List(list)) = args.first() else { return no_overload() };
            let mut parts = Vec::with_capacity(list.len());
            for element in list.iter() {
                match element {
                    Value::String(s) => parts.push(s.to_string()),
                    _ => return no_overload(),
                }
            }
            Ok(Value::text(parts.join(separator)))
        },
        "format" => |args, _| match args {
            [Value::String(pattern), Value::List(list)] => format(pattern, &list.to_vec()).map(Value::text),
            _ => no_overload(),
        },
        "jsonpatch.escapeKey" => |args, _| Ok(Value::text(text(args, 0)?.replace('~', "~0").replace('/', "~1"))),
        _ => return None,
    };
    Some(function)
}

fn with_regex<'a>(
    args: &[Value<'a>],
    regex: Option<&Regex>,
    then: impl Fn(&Regex, &str) -> Outcome<'a>,
) -> Outcome<'a> {
    let (s, pattern) = (text(args, 0)?, text(args, 1)?);
    match regex {
        Some(regex) => then(regex, s),
        None => {
            let regex = Regex::new(pattern).map_err(|error| Error::new(format!("error parsing regexp: {error}")))?;
            then(&regex, s)
        }
    }
}

/// Positions count characters.
fn index_of<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (s, wanted) = (text(args, 0)?, text(args, 1)?);
    let from = if args.len() > 2 { int(args, 2)? } else { 0 };
    let length = s.chars().count() as i64;
    if from < 0 {
        return Err(Error::new(format!("index out of range: {from}")));
    }
    if args.len() > 2 && from >= length && !wanted.is_empty() {
        return Ok(Value::Int(-1));
    }
    let start = s.char_indices().nth(from as usize).map_or(s.len(), |(at, _)| at);
    let found = s[start..].find(wanted).map(|at| s[..start + at].chars().count() as i64);
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn last_index_of<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (s, wanted) = (text(args, 0)?, text(args, 1)?);
    let length = s.chars().count() as i64;
    let end = match args.get(2) {
        Some(Value::Int(before)) if *before < 0 => {
            return Err(Error::new(format!("index out of range: {before}")));
        }
        Some(Value::Int(before)) if *before >= length && !wanted.is_empty() => return Ok(Value::Int(-1)),
        // A match may begin at the position and reach beyond it.
        Some(Value::Int(before)) => {
            let start = s.char_indices().nth(*before as usize).map_or(s.len(), |(at, _)| at);
            (start + wanted.len()).min(s.len())
        }
        _ => s.len(),
    };
    let end = (end..=s.len()).find(|at| s.is_char_boundary(*at)).unwrap_or(s.len());
    let found = s[..end].rfind(wanted).map(|at| s[..at].chars().count() as i64);
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn split<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (s, separator) = (text(args, 0)?, text(args, 1)?);
    let limit = match args.get(2) {
        Some(Value::Int(n)) => *n,
        _ => -1,
    };
    let characters = || s.chars().map(String::from).collect::<Vec<_>>();
    let parts: Vec<String> = match limit {
        0 => Vec::new(),
        n if n > 0 && separator.is_empty() => {
            let mut all = characters();
            if all.len() > n as usize {
                let rest = all.split_off(n as usize - 1).concat();
                all.push(rest);
            }
            all
        }
        n if n > 0 => s.splitn(n as usize, separator).map(str::to_owned).collect(),
        _ if separator.is_empty() => characters(),
        _ => s.split(separator).map(str::to_owned).collect(),
    };
    Ok(Value::list(parts.into_iter().map(Value::text).collect()))
}

/// upstream: cel-go ext, strings.format
fn format(pattern: &str, args: &[Value<'_>]) -> Result<String, Error> {
    let (mut out, mut next) = (String::new(), args.iter());
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            let parsed: usize =
                digits.parse().map_err(|_| Error::new("error while converting precision to integer"))?;
            precision = Some(parsed.min(100));
        }
        let verb = chars.next().ok_or_else(|| Error::new("unexpected end of string"))?;
        let arg = next.next().ok_or_else(|| Error::new(format!("index {} out of range", args.len())))?;
        out.push_str(&formatted(verb, precision, arg)?);
    }
    Ok(out)
}

fn formatted(verb: char, precision: Option<usize>, arg: &Value<'_>) -> Result<String, Error> {
    let unfit = |wanted: &str| Error::new(format!("error during formatting: {wanted}, was given {}", arg.type_name()));
    Ok(match (verb, arg) {
        ('s', value) => display(value),
        ('d', Value::Int(i)) => i.to_string(),
        ('d', Value::Uint(u)) => u.to_string(),
        ('d', Value::Double(d)) if d.fract() == 0.0 || !d.is_finite() => double_text(*d),
        ('d', _) => return Err(unfit("decimal clause can only be used on integers")),
        ('f', Value::Double(d)) => format!("{d:.*}", precision.unwrap_or(6)),
        ('f', Value::Int(i)) => format!("{:.*}", precision.unwrap_or(6), *i as f64),
        ('f', Value::Uint(u)) => format!("{:.*}", precision.unwrap_or(6), *u as f64),
        ('f', _) => return Err(unfit("fixed-point clause can only be used on doubles")),
        ('e', Value::Double(d)) => {
            let text = format!("{d:.*e}", precision.unwrap_or(6));
            match text.split_once('e') {
                Some((mantissa, exponent)) => {
                    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
                    format!("{mantissa}e{sign}{digits:0>2}")
                }
                None => text,
            }
        }
        ('e', _) => return Err(unfit("scientific clause can only be used on doubles")),
        ('b', Value::Int(i)) if *i < 0 => format!("-{:b}", i.unsigned_abs()),
        ('b', Value::Int(i)) => format!("{i:b}"),
        ('b', Value::Uint(u)) => format!("{u:b}"),
        ('b', Value::Bool(b)) => i32::from(*b).to_string(),
        ('b', _) => return Err(unfit("only integers and bools can be formatted as binary")),
        ('o', Value::Int(i)) if *i < 0 => format!("-{:o}", i.unsigned_abs()),
        ('o', Value::Int(i)) => format!("{i:o}"),
        ('o', Value::Uint(u)) => format!("{u:o}"),
        ('o', _) => return Err(unfit("octal clause can only be used on integers")),
        ('x' | 'X', value) => {
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let text = match value {
                Value::Int(i) if *i < 0 => format!("-{:x}", i.unsigned_abs()),
                Value::Int(i) => format!("{i:x}"),
                Value::Uint(u) => format!("{u:x}"),
                Value::String(s) => hex(s.as_bytes()),
                Value::Bytes(b) => hex(b),
                _ => return Err(unfit("only integers, byte buffers, and strings can be formatted as hex")),
            };
            if verb == 'X' { text.to_uppercase() } else { text }
        }
        (other, _) => {
            return Err(Error::new(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{other}\""
            )));
        }
    })
}
