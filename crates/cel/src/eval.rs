//! Evaluation. Start at [`Program::eval`].
use crate::compile::Program;
use crate::cost::Budget;
use crate::expr::{Call, Kind, Loop, Node, OptionalMap, Step};
use crate::functions;
use crate::functions::operators::truth;
use crate::types::Type;
use crate::value::{Key, List, Map, Value};
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
            Kind::Ident(name) => self.ident(name),
            Kind::Select(operand, field) => {
                let operand = self.eval(operand)?;
                self.budget.spend(1)?;
                select(&operand, field)
            }
            Kind::SelectOptional(operand, field) => {
                let operand = self.eval(operand)?;
                self.budget.spend(1)?;
                Ok(select_optional(&operand, field))
            }
            Kind::Has(operand, field) => {
                let operand = self.eval(operand)?;
                match &operand {
                    Value::Map(map) => Ok(Value::Bool(map.field(field).is_some())),
                    Value::Optional(Some(inner)) => match &**inner {
                        Value::Map(map) => Ok(Value::Bool(map.field(field).is_some())),
                        _ => Ok(Value::Bool(false)),
                    },
                    Value::Optional(None) => Ok(Value::Bool(false)),
                    other => Err(Error::new(format!("unexpected type for presence test: {}", other.type_name()))),
                }
            }
            Kind::And(a, b) => self.logical(a, b, false),
            Kind::Or(a, b) => self.logical(a, b, true),
            Kind::NotFalse(condition) => match self.eval(condition) {
                Ok(Value::Bool(b)) => Ok(Value::Bool(b)),
                Err(limit) if limit.is_limit() => Err(limit),
                _ => Ok(Value::Bool(true)),
            },
            Kind::Conditional(parts) => {
                let condition = self.eval(&parts.0)?;
                if truth(&condition)? { self.eval(&parts.1) } else { self.eval(&parts.2) }
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

    fn ident(&mut self, name: &str) -> Outcome<'a> {
        self.budget.spend(1)?;
        if let Some((_, outcome)) = self.scope.iter().rev().find(|(held, _)| *held == name) {
            return outcome.clone();
        }
        if let Some(outcome) = self.activation.get(name) {
            return outcome.clone();
        }
        let ty = match name.trim_start_matches('.') {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "list" => Type::Opaque("list"),
            "map" => Type::Opaque("map"),
            "null_type" => Type::Null,
            "type" => Type::Type,
            "google.protobuf.Timestamp" => Type::Timestamp,
            "google.protobuf.Duration" => Type::Duration,
            _ => return Err(Error::new(format!("no such attribute(s): {name}"))),
        };
        Ok(Value::Type(ty))
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

    fn call(&mut self, call: &'e Call) -> Outcome<'a> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.eval(arg)?);
        }
        self.budget.spend(functions::cost(&call.function, &args))?;
        let Some(builtin) = call.builtin else { return Err(Error::new("no such overload")) };
        builtin(&args, call.regex.as_deref())
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

    fn optional_map(&mut self, map: &'e OptionalMap) -> Outcome<'a> {
        let inner = match self.eval(&map.operand)? {
            Value::Optional(Some(inner)) => inner,
            Value::Optional(None) => return Ok(Value::Optional(None)),
            _ => return Err(Error::new("no such overload")),
        };
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

    fn comprehension(&mut self, l: &'e Loop) -> Outcome<'a> {
        let range = self.eval(&l.range)?;
        let pairs: Vec<(Option<Value<'a>>, Value<'a>)> = match (&range, &l.var2) {
            (Value::List(list), None) => list.iter().map(|v| (None, v)).collect(),
            (Value::List(list), Some(_)) => {
                list.iter().enumerate().map(|(i, v)| (Some(Value::Int(i as i64)), v)).collect()
            }
            (Value::Map(map), None) => map.keys().into_iter().map(|key| (None, key)).collect(),
            (Value::Map(map), Some(_)) => map.entries().into_iter().map(|(key, v)| (Some(key.value()), v)).collect(),
            _ => return Err(Error::new(format!("got '{}', expected iterable type", range.type_name()))),
        };
        let init = self.eval(&l.init)?;
        let depth = self.scope.len();
        let result = match &l.step {
            Step::Next(next) => self.fold(l, next, init, pairs),
            step => self.build(l, step, pairs),
        };
        self.scope.truncate(depth);
        let result = result?;
        self.scope.push((&l.accumulator, result));
        let result = self.eval(&l.result);
        self.scope.truncate(depth);
        result
    }

    /// Binds one element; the number of variables that were bound.
    fn enter(&mut self, l: &'e Loop, pair: (Option<Value<'a>>, Value<'a>)) {
        match (pair, &l.var2) {
            ((Some(first), second), Some(var2)) => {
                self.scope.push((&l.var, Ok(first)));
                self.scope.push((var2, Ok(second)));
            }
            ((_, value), _) => self.scope.push((&l.var, Ok(value))),
        }
    }

    fn fold(
        &mut self,
        l: &'e Loop,
        next: &'e Node,
        init: Value<'a>,
        pairs: Vec<(Option<Value<'a>>, Value<'a>)>,
    ) -> Result<Outcome<'a>, Error> {
        let depth = self.scope.len();
        let mut accumulator: Outcome<'a> = Ok(init);
        for pair in pairs {
            self.budget.spend(1)?;
            self.scope.push((&l.accumulator, accumulator.clone()));
            if let Some(condition) = &l.condition
                && let Ok(Value::Bool(false)) = self.limited(condition)?
            {
                break;
            }
            self.enter(l, pair);
            accumulator = self.limited(next)?;
            self.scope.truncate(depth);
        }
        Ok(accumulator)
    }

    /// The outcome, unless the work ran out.
    fn limited(&mut self, node: &'e Node) -> Result<Outcome<'a>, Error> {
        match self.eval(node) {
            Err(limit) if limit.is_limit() => Err(limit),
            outcome => Ok(outcome),
        }
    }

    /// Loops that only add to a list or map.
    fn build(
        &mut self,
        l: &'e Loop,
        step: &'e Step,
        pairs: Vec<(Option<Value<'a>>, Value<'a>)>,
    ) -> Result<Outcome<'a>, Error> {
        let depth = self.scope.len();
        let (mut list, mut map) = (Vec::new(), BTreeMap::new());
        for pair in pairs {
            self.budget.spend(1)?;
            self.enter(l, pair);
            let added = self.add(step, &mut list, &mut map);
            self.scope.truncate(depth);
            match added {
                Err(limit) if limit.is_limit() => return Err(limit),
                Err(error) => return Ok(Err(error)),
                Ok(()) => {}
            }
        }
        Ok(Ok(match step {
            Step::Append(..) => Value::list(list),
            _ => Value::Map(Map::Made(Arc::new(map), None)),
        }))
    }

    fn add(
        &mut self,
        step: &'e Step,
        list: &mut Vec<Value<'a>>,
        map: &mut BTreeMap<Key, Value<'a>>,
    ) -> Result<(), Error> {
        let (Step::Append(condition, _) | Step::Insert(condition, ..) | Step::Merge(condition, _)) = step else {
            return Ok(());
        };
        if let Some(condition) = condition {
            let holds = self.eval(condition)?;
            if !truth(&holds)? {
                return Ok(());
            }
        }
        let mut insert = |key: Key, value| match map.insert(key, value) {
            None => Ok(()),
            Some(_) => Err(Error::new("insert failed: key already exists")),
        };
        match step {
            Step::Append(_, element) => list.push(self.eval(element)?),
            Step::Insert(_, key, value) => {
                let key = self.eval(key)?;
                let key = Key::of(&key).ok_or_else(|| Error::new("unsupported key type"))?;
                insert(key, self.eval(value)?)?;
            }
            Step::Merge(_, entries) => match self.eval(entries)? {
                Value::Map(entries) => {
                    for (key, value) in entries.entries() {
                        insert(key, value)?;
                    }
                }
                _ => return Err(Error::new("no such overload")),
            },
            Step::Next(_) => {}
        }
        Ok(())
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
