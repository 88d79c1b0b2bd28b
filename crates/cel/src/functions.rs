//! The functions. Start at [`find`].
pub(crate) mod authz;
pub(crate) mod convert;
pub(crate) mod formats;
pub(crate) mod lists;
pub(crate) mod net;
pub(crate) mod operators;
pub(crate) mod quantity;
pub(crate) mod strings;
pub(crate) mod time;
pub(crate) mod versions;

use crate::eval::{Error, Outcome};
use crate::value::Value;
use regex::Regex;

/// A function on evaluated arguments, the receiver first; with the compiled pattern if that is a literal.
pub(crate) type Builtin = for<'a> fn(&[Value<'a>], Option<&Regex>) -> Outcome<'a>;

/// The function with this name, for all its overloads.
pub(crate) fn find(name: &str) -> Option<Builtin> {
    operators::find(name)
        .or_else(|| convert::find(name))
        .or_else(|| strings::find(name))
        .or_else(|| lists::find(name))
        .or_else(|| time::find(name))
        .or_else(|| quantity::find(name))
        .or_else(|| net::find(name))
        .or_else(|| versions::find(name))
        .or_else(|| formats::find(name))
        .or_else(|| authz::find(name))
}

/// What a call costs besides its arguments.
pub(crate) fn cost(name: &str, args: &[Value<'_>]) -> u64 {
    let size = |value: &Value<'_>| match value {
        Value::String(s) => s.len() as u64 / 10,
        Value::Bytes(b) => b.len() as u64 / 10,
        Value::List(list) => list.len() as u64,
        Value::Map(map) => map.len() as u64,
        _ => 0,
    };
    let sizes = || args.iter().map(size).fold(0, u64::saturating_add);
    match name {
        "_[_]" | "_[?_]" | "size" | "type" | "dyn" | "first" | "last" | "value" | "orValue" | "hasValue" => 1,
        "matches" | "find" | "findAll" => {
            let [text, pattern, ..] = args else { return 1 };
            (1 + size(text)).saturating_mul(1 + size(pattern) * 10 / 4)
        }
        "sets.contains" | "sets.equivalent" | "sets.intersects" => {
            1 + args.iter().map(size).fold(1, u64::saturating_mul)
        }
        "distinct" | "sort" => {
            let n = sizes();
            1 + n.saturating_mul(n)
        }
        "check" => 350_000,
        _ => 1 + sizes(),
    }
}

pub(crate) fn no_overload<'a>() -> Outcome<'a> {
    Err(Error::new("no such overload"))
}

pub(crate) fn text<'v>(args: &'v [Value<'_>], index: usize) -> Result<&'v str, Error> {
    match args.get(index) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(Error::new("no such overload")),
    }
}

pub(crate) fn int(args: &[Value<'_>], index: usize) -> Result<i64, Error> {
    match args.get(index) {
        Some(Value::Int(i)) => Ok(*i),
        _ => Err(Error::new("no such overload")),
    }
}
