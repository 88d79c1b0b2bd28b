//! Macros that the parser leaves: two-variable comprehensions and the optional ones.
// upstream: cel-go ext, TwoVarComprehensions; cel, OptionalTypes
use crate::expr::{Call, Kind, Loop, Node, OptionalMap, Step};
use crate::functions;
use crate::lower::Lowering;
use crate::value::Value;
use cel::common::ast::{Expr, IdedExpr, operators};

const ACCUMULATOR: &str = "@result";

pub(crate) enum Expanded {
    Kind(Kind),
    /// Not a macro: the target and the arguments, untouched.
    No(IdedExpr, Vec<IdedExpr>),
}

pub(crate) fn expand(
    lowering: &mut Lowering<'_>,
    at: u32,
    name: &str,
    target: IdedExpr,
    args: Vec<IdedExpr>,
) -> Expanded {
    let names = |args: &[IdedExpr], n: usize| -> Option<Vec<String>> {
        let names = args.iter().take(n).map(|arg| match &arg.expr {
            Expr::Ident(name) => Some(name.clone()),
            _ => None,
        });
        names.collect()
    };
    let wanted = match (name, args.len()) {
        ("optMap" | "optFlatMap", 2) => 1,
        ("all" | "exists" | "existsOne" | "exists_one" | "transformList" | "transformMap" | "transformMapEntry", 3) => {
            2
        }
        ("transformList" | "transformMap" | "transformMapEntry", 4) => 2,
        _ => return Expanded::No(target, args),
    };
    let Some(names) = names(&args, wanted) else {
        lowering.errors.push((at, "argument must be a simple name".to_owned()));
        return Expanded::Kind(Kind::Literal(Value::Null));
    };
    let mut bodies: Vec<Node> = args.into_iter().skip(wanted).map(|arg| lowering.node(arg)).collect();
    let operand = lowering.node(target);
    let Some(body) = bodies.pop() else { return Expanded::Kind(Kind::Literal(Value::Null)) };
    let [var, rest @ ..] = names.as_slice() else { return Expanded::Kind(Kind::Literal(Value::Null)) };
    let Some(var2) = rest.first() else {
        let flat = name == "optFlatMap";
        return Expanded::Kind(Kind::OptionalMap(Box::new(OptionalMap { operand, var: var.clone(), body, flat })));
    };
    let node = |kind| Node { at, kind };
    let accumulator = || node(Kind::Ident(ACCUMULATOR.to_owned()));
    let call = |function: &str, args| {
        let builtin = functions::find(function);
        node(Kind::Call(Box::new(Call { function: function.to_owned(), member: false, args, builtin, regex: None })))
    };
    let literal = |value| node(Kind::Literal(value));
    let filter = bodies.pop();
    let (init, condition, step, result) = match name {
        "all" => (
            literal(Value::Bool(true)),
            Some(node(Kind::NotFalse(Box::new(accumulator())))),
            Step::Next(node(Kind::And(Box::new(accumulator()), Box::new(body)))),
            accumulator(),
        ),
        "exists" => (
            literal(Value::Bool(false)),
            Some(node(Kind::NotFalse(Box::new(call(operators::LOGICAL_NOT, vec![accumulator()]))))),
            Step::Next(node(Kind::Or(Box::new(accumulator()), Box::new(body)))),
            accumulator(),
        ),
        "existsOne" | "exists_one" => {
            let more = call(operators::ADD, vec![accumulator(), literal(Value::Int(1))]);
            (
                literal(Value::Int(0)),
                None,
                Step::Next(node(Kind::Conditional(Box::new((body, more, accumulator()))))),
                call(operators::EQUALS, vec![accumulator(), literal(Value::Int(1))]),
            )
        }
        "transformList" => (node(Kind::List(Vec::new())), None, Step::Append(filter, body), accumulator()),
        "transformMap" => {
            let key = node(Kind::Ident(var.clone()));
            (node(Kind::Map(Vec::new())), None, Step::Insert(filter, key, body), accumulator())
        }
        _ => (node(Kind::Map(Vec::new())), None, Step::Merge(filter, body), accumulator()),
    };
    Expanded::Kind(Kind::Loop(Box::new(Loop {
        range: operand,
        var: var.clone(),
        var2: Some(var2.clone()),
        accumulator: ACCUMULATOR.to_owned(),
        init,
        condition,
        step,
        result,
    })))
}
