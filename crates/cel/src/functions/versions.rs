//! Semantic versions.
use super::{Builtin, no_overload, text};
use crate::eval::{Error, Outcome};
use crate::value::Value;
use semver::Version;
use std::sync::Arc;

pub(crate) fn find(name: &str) -> Option<Builtin> {
    let function: Builtin = match name {
        "semver" => |args, _| parse(args).map(|version| Value::Semver(Arc::new(version))),
        "isSemver" => |args, _| Ok(Value::Bool(text(args, 0).is_ok() && parse(args).is_ok())),
        "major" => |args, _| number(args, |version| version.major),
        "minor" => |args, _| number(args, |version| version.minor),
        "patch" => |args, _| number(args, |version| version.patch),
        _ => return None,
    };
    Some(function)
}

fn parse(args: &[Value<'_>]) -> Result<Version, Error> {
    let given = text(args, 0)?;
    let normalized = match args.get(1) {
        Some(Value::Bool(true)) => normalize(given),
        _ => given.to_owned(),
    };
    Version::parse(&normalized).map_err(|error| Error::new(format!("failed to parse semver {given:?}: {error}")))
}

/// Drops a leading `v` and leading zeros, and fills up to three numbers.
fn normalize(text: &str) -> String {
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(end);
    let mut parts: Vec<String> = core
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0".to_owned(),
            trimmed => trimmed.to_owned(),
        })
        .collect();
    while parts.len() < 3 {
        parts.push("0".to_owned());
    }
    format!("{}{rest}", parts.join("."))
}

fn number<'a>(args: &[Value<'a>], of: fn(&Version) -> u64) -> Outcome<'a> {
    match args {
        [Value::Semver(version)] => {
            i64::try_from(of(version)).map(Value::Int).map_err(|_| Error::new("return error for overflow"))
        }
        _ => no_overload(),
    }
}
