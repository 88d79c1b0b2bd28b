//! What is settled once an expression is checked: the charges of its calls, and what it comes to where that is known beforehand.
//! Start at [`settle`].
// upstream: cel-go interpreter/decorators.go, Optimize
use crate::charge::Charge;
use crate::check::Notes;
use crate::eval;
use crate::expr::{Constant, Kind, Node, Step};
use crate::types::Type;
use crate::value::Value;

/// Settles the expression at `node`, about which the checker left `notes`.
pub(crate) fn settle(node: &mut Node, notes: &Notes) {
    let note = notes.get(&std::ptr::from_ref(node)).cloned().unwrap_or_default();
    for inner in inside(&mut node.kind) {
        settle(inner, notes);
    }
    if let Kind::Call(call) = &mut node.kind {
        call.charge = Charge::of(&call.function, call.member, &note.fits);
        if call.charge == Charge::InList && call.args.get(1).is_some_and(is_set) {
            call.charge = Charge::Nothing;
        }
    }
    let known = match &node.kind {
        Kind::List(elements) => elements.iter().all(|(element, optional)| !optional && is_constant(element)),
        Kind::Map(entries) => {
            entries.iter().all(|(key, value, optional)| !optional && is_constant(key) && is_constant(value))
        }
        Kind::Call(call) => {
            let converts = matches!(
                call.function.as_str(),
                "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type" | "uint"
            );
            converts && !call.member && call.args.len() == 1 && call.args.iter().all(is_constant)
        }
        Kind::Ident(name) => note.ty == Type::Type && crate::check::is_type_name(name),
        _ => false,
    };
    if let Some(value) = known.then(|| eval::constant(node)).flatten() {
        let at = node.at;
        let of = std::mem::replace(node, Node { at, kind: Kind::Literal(Value::Null) });
        node.kind = Kind::Constant(Box::new(Constant { value, of }));
    }
}

fn is_constant(node: &Node) -> bool {
    matches!(node.kind, Kind::Literal(_) | Kind::Constant(_))
}

/// Whether membership in the list is found without going through it.
fn is_set(node: &Node) -> bool {
    let Kind::Constant(constant) = &node.kind else { return false };
    let Value::List(list) = &constant.value else { return false };
    let plain = |value: Value<'_>| {
        matches!(value, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_))
    };
    list.iter().all(plain)
}

fn inside(kind: &mut Kind) -> Vec<&mut Node> {
    match kind {
        Kind::Literal(_) | Kind::Ident(_) | Kind::Constant(_) => Vec::new(),
        Kind::Select(a, _) | Kind::SelectOptional(a, _) | Kind::Has(a, _) | Kind::NotFalse(a) => vec![a],
        Kind::And(a, b) | Kind::Or(a, b) => vec![a, b],
        Kind::Conditional(parts) => vec![&mut parts.0, &mut parts.1, &mut parts.2],
        Kind::Call(call) => call.args.iter_mut().collect(),
        Kind::List(elements) => elements.iter_mut().map(|(element, _)| element).collect(),
        Kind::Map(entries) => entries.iter_mut().flat_map(|(key, value, _)| [key, value]).collect(),
        Kind::Struct(_, fields) => fields.iter_mut().map(|(_, value, _)| value).collect(),
        Kind::Loop(l) => {
            let mut nodes = vec![&mut l.range, &mut l.init, &mut l.result];
            nodes.extend(&mut l.condition);
            match &mut l.step {
                Step::Next(a) => nodes.push(a),
                Step::Append(condition, a) | Step::Merge(condition, a) => {
                    nodes.extend(condition);
                    nodes.push(a);
                }
                Step::Insert(condition, a, b) => {
                    nodes.extend(condition);
                    nodes.extend([a, b]);
                }
            }
            nodes
        }
        Kind::OptionalMap(map) => vec![&mut map.operand, &mut map.body],
        Kind::Bind(bind) => vec![&mut bind.value, &mut bind.body],
    }
}
