//! Macros that the parser leaves: two-variable comprehensions and the optional ones.
// upstream: cel-go ext, TwoVarComprehensions; cel, OptionalTypes
use crate::charge::Charge;
use crate::expr::{Bind, Call, Kind, Loop, Node, OptionalMap, Step};
use crate::functions;
use crate::lower::Lowering;
use crate::value::Value;
use cel::common::ast::{Expr, IdedExpr, operators};

const ACCUMULATOR: &str = "@result";
/// The list that is being sorted.
const SORTED: &str = "@__sortBy_input__";

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
    let names = |args: &[IdedExpr], n: usize| -> Result<Vec<String>, u64> {
        let names = args.iter().take(n).map(|arg| match &arg.expr {
            Expr::Ident(name) => Ok(name.clone()),
            _ => Err(arg.id),
        });
        names.collect()
    };
    let wanted = match (name, args.len()) {
        ("optMap" | "optFlatMap" | "sortBy", 2) => 1,
        ("all" | "exists" | "existsOne" | "exists_one" | "transformList" | "transformMap" | "transformMapEntry", 3) => {
            2
        }
        ("transformList" | "transformMap" | "transformMapEntry", 4) => 2,
        _ => return Expanded::No(target, args),
    };
    let nothing = Expanded::Kind(Kind::Literal(Value::Null));
    if name == "sortBy" && matches!(target.expr, Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_)) {
        let why = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        lowering.errors.push((lowering.at(target.id), why.to_owned()));
        return nothing;
    }
    let names = match names(&args, wanted) {
        Ok(names) => names,
        Err(wrong) => {
            let why = match name {
                "optMap" | "optFlatMap" => format!("{name}() variable name must be a simple identifier"),
                "sortBy" => "argument is not an identifier".to_owned(),
                _ => "argument must be a simple name".to_owned(),
            };
            lowering.errors.push((lowering.at(wrong), why));
            return nothing;
        }
    };
    let mut bodies: Vec<Node> = args.into_iter().skip(wanted).map(|arg| lowering.node(arg)).collect();
    let operand = lowering.node(target);
    let Some(body) = bodies.pop() else { return nothing };
    let [var, rest @ ..] = names.as_slice() else { return nothing };
    if name == "sortBy" {
        return Expanded::Kind(sort_by(at, operand, var, body));
    }
    let Some(var2) = rest.first() else {
        let flat = name == "optFlatMap";
        return Expanded::Kind(Kind::OptionalMap(Box::new(OptionalMap { operand, var: var.clone(), body, flat })));
    };
    let node = |kind| Node { at, kind };
    let accumulator = || node(Kind::Ident(ACCUMULATOR.to_owned()));
    let call = |function: &str, args| {
        let builtin = functions::find(function);
        node(Kind::Call(Box::new(Call {
            function: function.to_owned(),
            member: false,
            args,
            builtin,
            charge: Charge::One,
            regex: None,
        })))
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

/// The list is bound, for it is sorted by the keys that are made of it.
fn sort_by(at: u32, list: Node, var: &str, key: Node) -> Kind {
    let node = |kind| Node { at, kind };
    let list_again = || node(Kind::Ident(SORTED.to_owned()));
    let keys = Kind::Loop(Box::new(Loop {
        range: list_again(),
        var: var.to_owned(),
        var2: None,
        accumulator: ACCUMULATOR.to_owned(),
        init: node(Kind::List(Vec::new())),
        condition: None,
        step: Step::Append(None, key),
        result: node(Kind::Ident(ACCUMULATOR.to_owned())),
    }));
    let function = "@sortByAssociatedKeys";
    let call = Call {
        function: function.to_owned(),
        member: true,
        args: vec![list_again(), node(keys)],
        builtin: functions::find(function),
        charge: Charge::One,
        regex: None,
    };
    let body = node(Kind::Call(Box::new(call)));
    Kind::Bind(Box::new(Bind { var: SORTED.to_owned(), value: list, body }))
}
