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
