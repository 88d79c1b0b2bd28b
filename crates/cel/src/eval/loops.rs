//! Comprehensions. Start at [`Evaluation::comprehension`].
use super::{Error, Evaluation, Outcome};
use crate::expr::{Kind, Loop, Node, Step};
use crate::functions::operators::truth;
use crate::value::{Key, Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What it costs to add a new list of one element to the accumulator: both are read and the list is made.
const APPEND: u64 = 12;
/// The same for an element that is known beforehand.
const APPEND_CONSTANT: u64 = 2;
/// What it costs to insert into the accumulator.
const INSERT: u64 = 2;

impl<'e, 'a> Evaluation<'e, 'a>
where
    'a: 'e,
{
    pub(super) fn comprehension(&mut self, l: &'e Loop) -> Outcome<'a> {
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
    pub(super) fn limited(&mut self, node: &'e Node) -> Result<Outcome<'a>, Error> {
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
            Step::Append(_, element) => {
                list.push(self.eval(element)?);
                let constant = matches!(element.kind, Kind::Literal(_) | Kind::Constant(_));
                self.budget.spend(if constant { APPEND_CONSTANT } else { APPEND })?;
            }
            Step::Insert(_, key, value) => {
                let key = self.eval(key)?;
                let key = Key::of(&key).ok_or_else(|| Error::new("unsupported key type"))?;
                let value = self.eval(value)?;
                self.budget.spend(INSERT)?;
                insert(key, value)?;
            }
            Step::Merge(_, entries) => match self.eval(entries)? {
                Value::Map(entries) => {
                    self.budget.spend(INSERT)?;
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
