//! Evaluation. Start at [`Program::eval`].
mod attributes;
mod loops;

pub(crate) use attributes::index;

use crate::compile::Program;
use crate::cost::Budget;
use crate::expr::{Call, Kind, Node, OptionalMap};
use crate::functions::operators::truth;
use crate::value::{Key, Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The expression itself failed.
    #[error("{0}")]
    Failed(String),
    /// One evaluation did too much work.
    #[error("operation cancelled: actual cost limit exceeded")]
    CallTooExpensive,
    /// All evaluations together did too much work.
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    OutOfBudget,
}

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Error::Failed(text.into())
    }

    /// Whether the work ran out, which no operator absorbs.
    pub fn is_limit(&self) -> bool {
        !matches!(self, Error::Failed(_))
    }
}

/// A value or why there is none.
pub type Outcome<'a> = Result<Value<'a>, Error>;

/// Variables and their values.
#[derive(Clone, Debug, Default)]
pub struct Activation<'a> {
    bound: Vec<(String, Outcome<'a>)>,
}

impl<'a> Activation<'a> {
    /// No variables.
    pub fn new() -> Self {
        Activation::default()
    }

    /// Binds a variable; a dotted name stands for a field selection.
    pub fn bind(&mut self, name: impl Into<String>, value: Value<'a>) {
        self.bind_outcome(name, Ok(value));
    }

    /// Binds a variable that has no value; reading it fails with this error.
    pub fn bind_outcome(&mut self, name: impl Into<String>, outcome: Outcome<'a>) {
        let name = name.into();
        match self.bound.iter_mut().find(|(held, _)| *held == name) {
            Some(held) => held.1 = outcome,
            None => self.bound.push((name, outcome)),
        }
    }

    /// Whether a variable is bound.
    pub fn is_bound(&self, name: &str) -> bool {
        self.bound.iter().any(|(held, _)| held == name)
    }

    fn get(&self, name: &str) -> Option<&Outcome<'a>> {
        let name = name.trim_start_matches('.');
        self.bound.iter().find(|(held, _)| held == name).map(|(_, outcome)| outcome)
    }
}

impl Program {
    /// Evaluates the expression.
    pub fn eval<'a>(&self, activation: &Activation<'a>, budget: &mut Budget) -> Outcome<'a> {
        budget.begin();
        Evaluation { activation, scope: Vec::new(), budget }.eval(&self.root)
    }

    /// Evaluates a condition; anything but a boolean is an error.
    pub fn eval_bool(&self, activation: &Activation<'_>, budget: &mut Budget) -> Result<bool, Error> {
        match self.eval(activation, budget)? {
            Value::Bool(b) => Ok(b),
            other => Err(Error::new(format!("expected bool, got {}", other.type_name()))),
        }
    }
}

/// What an expression comes to that needs nothing; `None`, if it fails.
pub(crate) fn constant(node: &Node) -> Option<Value<'static>> {
    let (activation, mut budget) = (Activation::new(), Budget::default());
    Evaluation { activation: &activation, scope: Vec::new(), budget: &mut budget }.eval(node).ok()
}

struct Evaluation<'e, 'a> {
    activation: &'e Activation<'a>,
    /// Variables of comprehensions; errors are kept as values until they are used.
    scope: Vec<(&'e str, Outcome<'a>)>,
    budget: &'e mut Budget,
}

impl<'e, 'a> Evaluation<'e, 'a>
where
    'a: 'e,
{
    fn eval(&mut self, node: &'e Node) -> Outcome<'a> {
        match &node.kind {
            Kind::Literal(value) => Ok(value.clone()),
            Kind::Constant(constant) => Ok(constant.value.clone()),
            Kind::Ident(_) | Kind::Select(..) | Kind::SelectOptional(..) | Kind::Has(..) | Kind::Conditional(_) => {
                self.attribute(node)
            }
            Kind::And(a, b) => self.logical(a, b, false),
            Kind::Or(a, b) => self.logical(a, b, true),
            Kind::NotFalse(condition) => {
                let outcome = self.limited(condition)?;
                self.budget.spend(1)?;
                Ok(Value::Bool(!matches!(outcome, Ok(Value::Bool(false)))))
            }
            Kind::Call(_) if attributes::is_attribute(node) => self.attribute(node),
            Kind::Call(call) if call.member && matches!(call.function.as_str(), "or" | "orValue") => {
                self.alternative(call)
            }
            Kind::Call(call) => self.call(call),
            Kind::List(elements) => {
                self.budget.spend(10)?;
                let mut list = Vec::with_capacity(elements.len());
                for (element, optional) in elements {
                    match (self.eval(element)?, optional) {
                        (Value::Optional(inner), true) => list.extend(inner.map(|v| (*v).clone())),
                        (value, _) => list.push(value),
                    }
                }
                Ok(Value::list(list))
            }
            Kind::Map(entries) => self.map(entries),
            Kind::Struct(name, fields) => {
                self.budget.spend(40)?;
                let mut map = BTreeMap::new();
                for (field, value, optional) in fields {
                    match (self.eval(value)?, optional) {
                        (Value::Optional(None), true) => {}
                        (Value::Optional(Some(inner)), true) => {
                            map.insert(Key::String(field.clone()), (*inner).clone());
                        }
                        (value, _) => {
                            map.insert(Key::String(field.clone()), value);
                        }
                    }
                }
                Ok(Value::Map(Map::Made(Arc::new(map), Some(name.as_str().into()))))
            }
            Kind::Loop(l) => self.comprehension(l),
            Kind::OptionalMap(map) => self.optional_map(map),
            Kind::Bind(bind) => {
                let value = self.eval(&bind.value)?;
                self.scope.push((&bind.var, Ok(value)));
                let body = self.eval(&bind.body);
                self.scope.pop();
                body
            }
        }
    }

    /// `&&` and `||`: an error counts only if the other side does not decide.
    fn logical(&mut self, a: &'e Node, b: &'e Node, decisive: bool) -> Outcome<'a> {
        let first = match self.eval(a) {
            Ok(value) => truth(&value),
            Err(error) => Err(error),
        };
        match first {
            Ok(value) if value == decisive => return Ok(Value::Bool(value)),
            Err(limit) if limit.is_limit() => return Err(limit),
            _ => {}
        }
        let second = match self.eval(b) {
            Ok(value) => truth(&value),
            Err(error) => Err(error),
        };
        match (first, second) {
            (_, Ok(value)) if value == decisive => Ok(Value::Bool(value)),
            (_, Err(limit)) if limit.is_limit() => Err(limit),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(_), Ok(value)) => Ok(Value::Bool(value)),
        }
    }

    /// `a.or(b)` and `a.orValue(b)`: `b` is not asked if `a` has a value.
    // upstream: cel-go cel/optlib.go, evalOptionalOr
    fn alternative(&mut self, call: &'e Call) -> Outcome<'a> {
        let [optional, other] = call.args.as_slice() else { return Err(Error::new("no such overload")) };
        match (self.eval(optional)?, call.function.as_str()) {
            (Value::Optional(None), _) => self.eval(other),
            (Value::Optional(Some(value)), "orValue") => Ok((*value).clone()),
            (optional @ Value::Optional(_), _) => Ok(optional),
            _ => Err(Error::new("no such overload")),
        }
    }

    fn call(&mut self, call: &'e Call) -> Outcome<'a> {
        let mut args = Vec::with_capacity(call.args.len());
        let mut failed = None;
        for arg in &call.args {
            match self.limited(arg)? {
                Ok(value) => args.push(value),
                // Calls with one or two arguments are paid for even so.
                Err(error) if call.args.len() <= 2 => {
                    failed = failed.or(Some(error));
                    args.push(Value::Null);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = failed {
            self.budget.spend(call.charge.cost(&args, None))?;
            return Err(error);
        }
        let Some(builtin) = call.builtin else { return Err(Error::new("no such overload")) };
        // The work is paid for before it is done, where that is possible.
        if !call.charge.needs_result() {
            self.budget.spend(call.charge.cost(&args, None))?;
            return builtin(&args, call.regex.as_deref());
        }
        let outcome = builtin(&args, call.regex.as_deref());
        self.budget.spend(call.charge.cost(&args, outcome.as_ref().ok()))?;
        outcome
    }

    fn map(&mut self, entries: &'e [(Node, Node, bool)]) -> Outcome<'a> {
        self.budget.spend(30)?;
        let mut map = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let key = Key::of(&key).ok_or_else(|| Error::new(format!("unsupported key type: {}", key.type_name())))?;
            let value = match (self.eval(value)?, optional) {
                (Value::Optional(None), true) => continue,
                (Value::Optional(Some(inner)), true) => (*inner).clone(),
                (value, _) => value,
            };
            if map.contains_key(&key) {
                return Err(Error::new(format!("Failed with repeated key: {key}")));
            }
            map.insert(key, value);
        }
        Ok(Value::Map(Map::Made(Arc::new(map), None)))
    }

    // upstream: operand.hasValue() ? optional.of(body with operand.value()) : optional.none()
    fn optional_map(&mut self, map: &'e OptionalMap) -> Outcome<'a> {
        let before = self.budget.left_for_call();
        let operand = self.eval(&map.operand)?;
        let again = before.saturating_sub(self.budget.left_for_call());
        self.budget.spend(1)?;
        let inner = match operand {
            Value::Optional(Some(inner)) => inner,
            Value::Optional(None) => {
                self.budget.spend(1)?;
                return Ok(Value::Optional(None));
            }
            _ => return Err(Error::new("no such overload")),
        };
        self.budget.spend(again + 1 + u64::from(!map.flat))?;
        self.scope.push((&map.var, Ok((*inner).clone())));
        let body = self.eval(&map.body);
        self.scope.pop();
        let body = body?;
        match (map.flat, body) {
            (true, optional @ Value::Optional(_)) => Ok(optional),
            (true, _) => Err(Error::new("no such overload")),
            (false, value) => Ok(Value::Optional(Some(Arc::new(value)))),
        }
    }
}
