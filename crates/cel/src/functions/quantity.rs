//! `quantity`.
use super::{Builtin, no_overload, text};
use crate::eval::Error;
use crate::value::Value;
use pintle_api::quantity::Quantity;
use std::cmp::Ordering;

pub(crate) fn find(name: &str) -> Option<Builtin> {
    let function: Builtin = match name {
        "quantity" => |args, _| {
            Quantity::parse(text(args, 0)?).map(Value::Quantity).map_err(|error| Error::new(error.to_string()))
        },
        "isQuantity" => |args, _| Ok(Value::Bool(Quantity::parse(text(args, 0)?).is_ok())),
        "sign" => |args, _| one(args).map(|q| Value::Int(q.sign().into())),
        "asApproximateFloat" => |args, _| one(args).map(|q| Value::Double(q.as_f64())),
        "asInteger" => |args, _| {
            let quantity = one(args)?;
            quantity.as_i64().map(Value::Int).ok_or_else(|| Error::new("cannot convert value to integer"))
        },
        "isInteger" => |args, _| one(args).map(|q| Value::Bool(q.as_i64().is_some())),
        "isGreaterThan" => |args, _| order(args).map(|o| Value::Bool(o.is_gt())),
        "isLessThan" => |args, _| order(args).map(|o| Value::Bool(o.is_lt())),
        "compareTo" => |args, _| order(args).map(|o| Value::Int(o as i64)),
        "add" => |args, _| match args {
            [Value::Quantity(a), Value::Quantity(b)] => Ok(Value::Quantity(*a + *b)),
            [Value::Quantity(a), Value::Int(b)] => whole(*b).map(|b| Value::Quantity(*a + b)),
            _ => no_overload(),
        },
        "sub" => |args, _| match args {
            [Value::Quantity(a), Value::Quantity(b)] => Ok(Value::Quantity(*a - *b)),
            [Value::Quantity(a), Value::Int(b)] => whole(*b).map(|b| Value::Quantity(*a - b)),
            _ => no_overload(),
        },
        _ => return None,
    };
    Some(function)
}

fn whole(number: i64) -> Result<Quantity, Error> {
    Quantity::parse(&number.to_string()).map_err(|error| Error::new(error.to_string()))
}

fn one(args: &[Value<'_>]) -> Result<Quantity, Error> {
    match args {
        [Value::Quantity(q)] => Ok(*q),
        _ => Err(Error::new("no such overload")),
    }
}

fn order(args: &[Value<'_>]) -> Result<Ordering, Error> {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(a.cmp(b)),
        [Value::Semver(a), Value::Semver(b)] => Ok(a.cmp_precedence(b)),
        _ => Err(Error::new("no such overload")),
    }
}
