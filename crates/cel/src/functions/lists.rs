//! Lists and sets.
use super::operators::{compare, duration_overflow, equal, overflow, uint_overflow};
use super::{Builtin, int, no_overload};
use crate::eval::{Error, Outcome};
use crate::value::{List, Value};
use std::cmp::Ordering;
use std::sync::Arc;

/// How long a list `lists.range` makes at most.
const MAX_RANGE: i64 = 100_000;

pub(crate) fn find(name: &str) -> Option<Builtin> {
    let function: Builtin = match name {
        "isSorted" => |args, _| {
            let list = list(args)?;
            let sorted = list.windows(2).all(|w| compare(&w[0], &w[1]).is_some_and(Ordering::is_le));
            Ok(Value::Bool(sorted))
        },
        "sum" => |args, _| sum(&list(args)?),
        "min" => |args, _| extreme(list(args)?, "min", Ordering::is_lt),
        "max" => |args, _| extreme(list(args)?, "max", Ordering::is_gt),
        "slice" => |args, _| {
            let (list, from, to) = (list(args)?, int(args, 1)?, int(args, 2)?);
            let wrong = |why: String| Err(Error::new(why));
            match (usize::try_from(from), usize::try_from(to)) {
                (Ok(from), Ok(to)) if from > to => {
                    wrong(format!("cannot slice({from}, {to}), start index must be less than or equal to end index"))
                }
                (Ok(from), Ok(to)) if to <= list.len() => Ok(Value::list(list[from..to].to_vec())),
                (Ok(_), Ok(_)) => wrong(format!("cannot slice({from}, {to}), list is length {}", list.len())),
                _ => wrong(format!("cannot slice({from}, {to}), negative indexes not supported")),
            }
        },
        "flatten" => |args, _| {
            let depth = if args.len() > 1 { int(args, 1)? } else { 1 };
            if depth < 0 {
                return Err(Error::new("level must be non-negative"));
            }
            Ok(Value::list(flatten(list(args)?, depth)))
        },
        "sort" => |args, _| {
            let mut sorted = list(args)?;
            if sorted.windows(2).any(|w| compare(&w[0], &w[1]).is_none()) {
                return no_overload();
            }
            sorted.sort_by(|a, b| compare(a, b).unwrap_or(Ordering::Equal));
            Ok(Value::list(sorted))
        },
        "@sortByAssociatedKeys" => |args, _| {
            let (list, keys) = two(args)?;
            if keys.windows(2).any(|w| compare(&w[0], &w[1]).is_none()) {
                return no_overload();
            }
            let mut keyed: Vec<_> = keys.into_iter().zip(list).collect();
            keyed.sort_by(|(a, _), (b, _)| compare(a, b).unwrap_or(Ordering::Equal));
            Ok(Value::list(keyed.into_iter().map(|(_, value)| value).collect()))
        },
        "distinct" => |args, _| {
            let mut kept: Vec<Value<'_>> = Vec::new();
            for value in list(args)? {
                if !kept.iter().any(|held| equal(held, &value)) {
                    kept.push(value);
                }
            }
            Ok(Value::list(kept))
        },
        "reverse" => |args, _| match args {
            [Value::String(s)] => Ok(Value::text(s.chars().rev().collect::<String>())),
            args => {
                let mut reversed = list(args)?;
                reversed.reverse();
                Ok(Value::list(reversed))
            }
        },
        "first" => |args, _| Ok(Value::Optional(list(args)?.first().cloned().map(Arc::new))),
        "last" => |args, _| Ok(Value::Optional(list(args)?.last().cloned().map(Arc::new))),
        "lists.range" => |args, _| match int(args, 0)? {
            n if n > MAX_RANGE => Err(Error::new(format!("lists.range({n}) is too long"))),
            n => Ok(Value::list((0..n).map(Value::Int).collect())),
        },
        "sets.contains" => |args, _| {
            let (a, b) = two(args)?;
            Ok(Value::Bool(all_in(&b, &a)))
        },
        "sets.equivalent" => |args, _| {
            let (a, b) = two(args)?;
            Ok(Value::Bool(all_in(&b, &a) && all_in(&a, &b)))
        },
        "sets.intersects" => |args, _| {
            let (a, b) = two(args)?;
            Ok(Value::Bool(a.iter().any(|v| b.iter().any(|held| equal(v, held)))))
        },
        _ => return None,
    };
    Some(function)
}

fn list<'a>(args: &[Value<'a>]) -> Result<Vec<Value<'a>>, Error> {
    match args.first() {
        Some(Value::List(list)) => Ok(list.to_vec()),
        _ => Err(Error::new("no such overload")),
    }
}

fn two<'a>(args: &[Value<'a>]) -> Result<(Vec<Value<'a>>, Vec<Value<'a>>), Error> {
    match args {
        [Value::List(a), Value::List(b)] => Ok((a.to_vec(), b.to_vec())),
        _ => Err(Error::new("no such overload")),
    }
}

fn all_in(these: &[Value<'_>], those: &[Value<'_>]) -> bool {
    these.iter().all(|v| those.iter().any(|held| equal(v, held)))
}

fn sum<'a>(list: &[Value<'a>]) -> Outcome<'a> {
    let Some((first, rest)) = list.split_first() else { return Ok(Value::Int(0)) };
    let mut total = first.clone();
    for value in rest {
        total = match (&total, value) {
            (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(overflow)?),
            (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or_else(uint_overflow)?),
            (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
            (Value::Duration(a), Value::Duration(b)) => {
                Value::Duration(a.checked_add(*b).ok_or_else(duration_overflow)?)
            }
            _ => return no_overload(),
        };
    }
    Ok(total)
}

fn extreme<'a>(list: Vec<Value<'a>>, name: &str, better: fn(Ordering) -> bool) -> Outcome<'a> {
    let mut values = list.into_iter();
    let mut best = values.next().ok_or_else(|| Error::new(format!("{name} called on empty list")))?;
    for value in values {
        match compare(&value, &best) {
            Some(ordering) if better(ordering) => best = value,
            Some(_) => {}
            None => return no_overload(),
        }
    }
    Ok(best)
}

fn flatten<'a>(list: Vec<Value<'a>>, depth: i64) -> Vec<Value<'a>> {
    if depth == 0 {
        return list;
    }
    let mut out = Vec::new();
    for value in list {
        match value {
            Value::List(inner @ (List::Json(..) | List::Made(_))) => out.extend(flatten(inner.to_vec(), depth - 1)),
            other => out.push(other),
        }
    }
    out
}
