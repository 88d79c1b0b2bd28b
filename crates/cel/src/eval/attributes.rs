//! Variables, and what is selected of values. Start at [`Evaluation::attribute`].
//!
//! Each step of `a.b[c]` costs one, and the whole costs one more; but what a condition chooses or an index is made of is part of
//! another whole.
// upstream: cel-go interpreter/attributes.go, planner.go; the costs: interpreter/runtimecost.go
use super::{Error, Evaluation, Outcome};
use crate::expr::{Call, Kind, Node};
use crate::functions::operators::truth;
use crate::types::Type;
use crate::value::{Key, List, Value};
use std::sync::Arc;

impl<'e, 'a> Evaluation<'e, 'a>
where
    'a: 'e,
{
    /// A variable, or what is selected of a value, as a whole.
    pub(super) fn attribute(&mut self, node: &'e Node) -> Outcome<'a> {
        let outcome = self.steps(node);
        if let Err(limit) = &outcome
            && limit.is_limit()
        {
            return outcome;
        }
        self.budget.spend(whole(node))?;
        outcome
    }

    /// The operand of a selection, an index, or what a condition chooses.
    fn part(&mut self, node: &'e Node) -> Outcome<'a> {
        if is_attribute(node) { self.steps(node) } else { self.eval(node) }
    }

    fn steps(&mut self, node: &'e Node) -> Outcome<'a> {
        match &node.kind {
            Kind::Ident(name) => {
                // The variables of a policy are fields of one.
                self.budget.spend(u64::from(name.starts_with("variables.")))?;
                self.ident(name)
            }
            Kind::Select(operand, field) => {
                let operand = self.part(operand)?;
                let value = select(&operand, field);
                self.step(&operand, &value)?;
                value
            }
            Kind::SelectOptional(operand, field) => {
                let value = select_optional(&self.part(operand)?, field);
                self.budget.spend(u64::from(matches!(value, Value::Optional(Some(_)))))?;
                Ok(value)
            }
            Kind::Has(operand, field) => {
                let operand = self.part(operand)?;
                let has = |value: &Value<'a>| match value {
                    Value::Map(map) => Ok(map.field(field).is_some()),
                    other => Err(Error::new(format!("unexpected type for presence test: {}", other.type_name()))),
                };
                let held = match &operand {
                    Value::Optional(None) => return Ok(Value::Bool(false)),
                    Value::Optional(Some(inner)) => Ok(has(inner).unwrap_or_default()),
                    plain => has(plain),
                };
                self.budget.spend(1)?;
                Ok(Value::Bool(held?))
            }
            Kind::Conditional(parts) => {
                let condition = self.eval(&parts.0)?;
                if truth(&condition)? { self.part(&parts.1) } else { self.part(&parts.2) }
            }
            Kind::Call(call) => self.element(call),
            _ => self.eval(node),
        }
    }

    /// One step into `operand`, which came to `value`: what is missing in an optional costs nothing.
    fn step(&mut self, operand: &Value<'a>, value: &Outcome<'a>) -> Result<(), Error> {
        let missing = matches!(operand, Value::Optional(_)) && !matches!(value, Ok(Value::Optional(Some(_))));
        self.budget.spend(u64::from(!missing))
    }

    /// `a[i]` and `a[?i]`
    fn element(&mut self, call: &'e Call) -> Outcome<'a> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.part(arg)?);
        }
        let Some(builtin) = call.builtin else { return Err(Error::new("no such overload")) };
        let value = builtin(&args, None);
        match call.function.as_str() {
            "_[?_]" => self.budget.spend(u64::from(matches!(value, Ok(Value::Optional(Some(_))))))?,
            _ => self.step(&args[0], &value)?,
        }
        value
    }

    fn ident(&self, name: &str) -> Outcome<'a> {
        if let Some((_, outcome)) = self.scope.iter().rev().find(|(held, _)| *held == name) {
            return outcome.clone();
        }
        if let Some(outcome) = self.activation.get(name) {
            return outcome.clone();
        }
        let ty = Type::of_name(name.trim_start_matches('.'));
        ty.map(Value::Type).ok_or_else(|| Error::new(format!("no such attribute(s): {name}")))
    }
}

/// Whether the node is a variable, something selected, or a choice.
pub(super) fn is_attribute(node: &Node) -> bool {
    match &node.kind {
        Kind::Ident(_) | Kind::Select(..) | Kind::SelectOptional(..) | Kind::Has(..) | Kind::Conditional(_) => true,
        Kind::Call(call) => is_index(call),
        _ => false,
    }
}

fn is_index(call: &Call) -> bool {
    matches!(call.function.as_str(), "_[_]" | "_[?_]")
}

/// What an attribute costs beside its steps.
fn whole(node: &Node) -> u64 {
    let mut node = node;
    loop {
        let operand = match &node.kind {
            Kind::Ident(_) => return 1,
            Kind::Select(operand, _) | Kind::SelectOptional(operand, _) => operand,
            Kind::Call(call) if is_index(call) => &call.args[0],
            Kind::Has(..) | Kind::Conditional(_) => return 0,
            _ => return 1,
        };
        if !is_attribute(operand) {
            return 1;
        }
        node = operand;
    }
}

fn select<'a>(operand: &Value<'a>, field: &str) -> Outcome<'a> {
    match operand {
        Value::Map(map) => map.field(field).ok_or_else(|| Error::new(format!("no such key: {field}"))),
        Value::Optional(_) => Ok(select_optional(operand, field)),
        other => Err(Error::new(format!(
            "unsupported field selection on type '{}': no such key: {field}",
            other.type_name()
        ))),
    }
}

fn select_optional<'a>(operand: &Value<'a>, field: &str) -> Value<'a> {
    let inner = match operand {
        Value::Optional(Some(inner)) => inner,
        other => other,
    };
    match inner {
        Value::Map(map) => Value::Optional(map.field(field).map(Arc::new)),
        _ => Value::Optional(None),
    }
}

/// `a[i]` and `a[?i]`; `None` if there is no such element.
pub(crate) fn index<'a>(operand: &Value<'a>, index: &Value<'_>) -> Result<Option<Value<'a>>, Error> {
    match operand {
        Value::List(list) => {
            let number = match index {
                Value::Int(i) => *i,
                Value::Uint(u) => i64::try_from(*u).unwrap_or(i64::MAX),
                Value::Double(d) if d.fract() == 0.0 => *d as i64,
                other => return Err(Error::new(format!("unsupported index type '{}' in list", other.type_name()))),
            };
            Ok(usize::try_from(number).ok().and_then(|i| list.get(i)))
        }
        Value::Map(map) => Ok(Key::of(index).and_then(|key| map.get(&key))),
        _ => Err(Error::new("no such overload")),
    }
}

impl<'a> List<'a> {
    pub(crate) fn to_vec(&self) -> Vec<Value<'a>> {
        self.iter().collect()
    }
}
