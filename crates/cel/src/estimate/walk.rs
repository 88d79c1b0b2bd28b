//! From the parts of an expression to its whole. Start at [`cost`].
use super::Estimate;
use super::path::Path;
use crate::check::{Note, Notes};
use crate::expr::{Bind, Call, Kind, Loop, Node, OptionalMap, Step};
use crate::sizes::Sizes;
use crate::types::Type;
use crate::value::Value;

const LIST: Estimate = Estimate::exactly(10);
const MAP: Estimate = Estimate::exactly(30);
const OBJECT: Estimate = Estimate::exactly(40);
pub(super) const NONE: Estimate = Estimate::exactly(0);
pub(super) const ONE: Estimate = Estimate::exactly(1);

/// What an expression costs.
pub(super) fn cost(root: &Node, notes: Notes, sizes: Option<&Sizes>) -> Estimate {
    Walk { notes, sizes, locals: Vec::new() }.node(root).cost
}

/// How large the keys and the values of a container are.
#[derive(Clone, Copy, Debug)]
struct Entry {
    list: bool,
    key: Estimate,
    value: Estimate,
}

fn union_of(a: Option<Entry>, b: Option<Entry>) -> Option<Entry> {
    let (a, b) = (a?, b?);
    Some(Entry { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
}

/// A variable of a comprehension.
struct Local<'n> {
    name: &'n str,
    path: Option<Path<'n>>,
    size: Option<Estimate>,
    entry: Option<Entry>,
}

/// What is known of a part of an expression.
#[derive(Clone)]
pub(super) struct Part<'n> {
    pub cost: Estimate,
    pub ty: Type,
    /// The way to the value from a variable of the environment.
    pub path: Option<Path<'n>>,
    /// How large the value is, once that is known.
    pub size: Option<Estimate>,
    entry: Option<Entry>,
    /// The variable that this is.
    name: Option<&'n str>,
    /// The number that this is.
    pub int: Option<i64>,
}

impl Part<'_> {
    fn new(cost: Estimate, ty: Type) -> Self {
        Part { cost, ty, path: None, size: None, entry: None, name: None, int: None }
    }

    pub(super) fn size_or_unknown(&self) -> Estimate {
        self.size.unwrap_or(Estimate::UNKNOWN)
    }
}

struct Walk<'n> {
    notes: Notes,
    sizes: Option<&'n Sizes>,
    locals: Vec<Local<'n>>,
}

impl<'n> Walk<'n> {
    fn note(&self, node: &Node) -> Note {
        self.notes.get(&std::ptr::from_ref(node)).cloned().unwrap_or_default()
    }

    fn local(&self, name: &str) -> Option<&Local<'n>> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    /// Finds out how large the value is; what the schema tells is kept.
    fn measure(&self, part: &mut Part<'n>) -> Option<Estimate> {
        if part.size.is_none() {
            part.size = self.sizes.zip(part.path.as_ref()).and_then(|(sizes, path)| sizes.at(&path.names()[1..]));
        }
        part.size
            .or_else(|| is_scalar(&part.ty).then_some(ONE))
            .or_else(|| part.name.and_then(|name| self.local(name)?.size))
    }

    fn entry(&self, part: &Part<'n>) -> Option<Entry> {
        part.entry.or_else(|| part.name.and_then(|name| self.local(name)?.entry))
    }

    /// A part of a call, a list or a map, whose size is asked as soon as its cost is known.
    fn measured(&mut self, node: &'n Node) -> Part<'n> {
        let mut part = self.node(node);
        part.size = self.measure(&mut part);
        part
    }

    fn node(&mut self, node: &'n Node) -> Part<'n> {
        let Note { ty, fits } = self.note(node);
        match &node.kind {
            Kind::Literal(value) => {
                let int = if let Value::Int(i) = value { Some(*i) } else { None };
                Part { size: literal_size(value), int, ..Part::new(NONE, ty) }
            }
            Kind::Ident(name) => self.variable(name, ty),
            Kind::Select(operand, field) => {
                let operand = self.node(operand);
                let own = if matches!(operand.ty, Type::Map(_) | Type::Object(_)) { ONE } else { NONE };
                let path = Some(Path::append(operand.path.as_ref(), field));
                Part { path, ..Part::new(operand.cost.plus(own), ty) }
            }
            Kind::SelectOptional(operand, _) => {
                let operand = self.node(operand);
                self.sized(Part::new(operand.cost.plus(ONE), ty))
            }
            // Asking for a field costs nothing.
            Kind::Has(operand, _) => Part::new(self.node(operand).cost, ty),
            Kind::And(a, b) | Kind::Or(a, b) => {
                let (a, b) = (self.node(a).cost, self.node(b).cost);
                self.sized(Part::new(Estimate { min: a.min, max: a.plus(b).max }, ty))
            }
            Kind::NotFalse(condition) => {
                let cost = self.node(condition).cost.plus(ONE);
                self.sized(Part::new(cost, ty))
            }
            Kind::Conditional(parts) => self.conditional(parts, ty),
            Kind::Call(call) if call.function == "dyn" => self.dynamic(call, ty),
            Kind::Call(call) => self.call(call, Note { ty, fits }),
            Kind::List(elements) => self.list(elements, ty),
            Kind::Map(entries) => self.map(entries, ty),
            Kind::Struct(_, fields) => {
                let cost = fields.iter().fold(OBJECT, |cost, (_, value, _)| cost.plus(self.node(value).cost));
                Part::new(cost, ty)
            }
            Kind::Loop(l) => self.comprehension(l, ty),
            Kind::OptionalMap(map) => self.optional_map(map, ty),
            Kind::Bind(bind) => self.bind(bind, ty),
            Kind::Constant(constant) => self.node(&constant.of),
        }
    }

    fn conditional(&mut self, parts: &'n (Node, Node, Node), ty: Type) -> Part<'n> {
        let condition = self.node(&parts.0).cost;
        let (then, otherwise) = (self.measured(&parts.1), self.measured(&parts.2));
        self.either(condition, &then, &otherwise, ty)
    }

    /// `dyn(x)`, which is as large as `x`.
    fn dynamic(&mut self, call: &'n Call, ty: Type) -> Part<'n> {
        let Some(arg) = call.args.first() else { return Part::new(ONE, ty) };
        let arg = self.measured(arg);
        Part { size: arg.size, entry: self.entry(&arg), ..Part::new(arg.cost.plus(ONE), ty) }
    }

    fn list(&mut self, elements: &'n [(Node, bool)], ty: Type) -> Part<'n> {
        let (mut cost, mut value) = (LIST, if elements.is_empty() { NONE } else { Estimate::NOTHING });
        for (element, _) in elements {
            let element = self.measured(element);
            cost = cost.plus(element.cost);
            value = value.union(element.size_or_unknown());
        }
        let size = Some(Estimate::exactly(elements.len() as u64));
        Part { size, entry: Some(Entry { list: true, key: ONE, value }), ..Part::new(cost, ty) }
    }

    fn map(&mut self, entries: &'n [(Node, Node, bool)], ty: Type) -> Part<'n> {
        let start = if entries.is_empty() { NONE } else { Estimate::NOTHING };
        let mut all = Entry { list: false, key: start, value: start };
        let mut cost = MAP;
        for (key, value, _) in entries {
            // The sizes are asked when both costs are known.
            let (mut key, mut value) = (self.node(key), self.node(value));
            cost = cost.plus(key.cost).plus(value.cost);
            all.key = all.key.union(self.measure(&mut key).unwrap_or(Estimate::UNKNOWN));
            all.value = all.value.union(self.measure(&mut value).unwrap_or(Estimate::UNKNOWN));
        }
        let size = Some(Estimate::exactly(entries.len() as u64));
        Part { size, entry: Some(all), ..Part::new(cost, ty) }
    }

    /// A result of which nothing but the type tells how large it is.
    fn sized(&self, mut part: Part<'n>) -> Part<'n> {
        part.size = self.measure(&mut part);
        part
    }

    fn variable(&self, name: &'n str, ty: Type) -> Part<'n> {
        let path = match self.local(name) {
            Some(local) => local.path.clone(),
            None => Some(Path::of(name)),
        };
        Part { path, name: Some(name), ..Part::new(ONE, ty) }
    }

    /// `condition ? then : otherwise`
    fn either(&self, condition: Estimate, then: &Part<'n>, otherwise: &Part<'n>, ty: Type) -> Part<'n> {
        Part {
            size: Some(then.size_or_unknown().union(otherwise.size_or_unknown())),
            entry: union_of(self.entry(then), self.entry(otherwise)),
            ..Part::new(condition.plus(then.cost.union(otherwise.cost)), ty)
        }
    }

    fn call(&mut self, call: &'n Call, note: Note) -> Part<'n> {
        // What stands before the dot comes last.
        let (target, args) = match call.args.split_first() {
            Some((target, args)) if call.member => (Some(target), args),
            _ => (None, &call.args[..]),
        };
        let mut given = Vec::with_capacity(args.len());
        for arg in args {
            given.push(self.measured(arg));
        }
        let target = target.map(|target| self.measured(target));
        self.priced(call, note, target.as_ref(), &given)
    }

    /// A call of which the arguments are known.
    fn priced(&self, call: &Call, note: Note, target: Option<&Part<'n>>, args: &[Part<'n>]) -> Part<'n> {
        let mut part = Part::new(NONE, note.ty);
        if note.fits.is_empty() {
            return part;
        }
        let given = target.into_iter().chain(args).fold(NONE, |sum, arg| sum.plus(arg.cost));
        let (mut own, mut result) = (Estimate::NOTHING, None::<Estimate>);
        for fit in &note.fits {
            let priced = super::calls::price(&call.function, &fit.args, target, args, self.sizes);
            own = own.union(priced.cost);
            if let Some(size) = priced.size {
                result = Some(result.map_or(size, |held| held.union(size)));
            }
            match (call.function.as_str(), fit.args.first(), args.first()) {
                ("_[_]", Some(Type::List(_)), Some(of)) => {
                    result = self.entry(of).map(|entry| entry.value);
                    part.path = Some(Path::append(of.path.as_ref(), "@items"));
                }
                ("_[_]", Some(Type::Map(_)), Some(of)) => {
                    result = self.entry(of).map(|entry| entry.value);
                    part.path = Some(Path::append(of.path.as_ref(), "@values"));
                }
                ("_+_", Some(Type::String | Type::Bytes | Type::List(_)), Some(a)) => {
                    let sum = union_of(self.entry(a), args.get(1).and_then(|b| self.entry(b)));
                    part.entry = sum.or(part.entry);
                }
                _ => {}
            }
            result = result.or_else(|| self.measure(&mut part));
        }
        part.cost = given.plus(own);
        part.size = result;
        part
    }

    /// A comprehension over an empty list binds the variable.
    fn bind(&mut self, bind: &'n Bind, ty: Type) -> Part<'n> {
        let value = self.measured(&bind.value);
        let entry = self.entry(&value);
        self.locals.push(Local { name: &bind.var, path: value.path, size: value.size, entry });
        let mut body = self.node(&bind.body);
        self.locals.pop();
        let size = self.measure(&mut body);
        let entry = self.entry(&body);
        self.sized(Part { size, entry, ..Part::new(LIST.plus(value.cost).plus(body.cost), ty) })
    }

    fn optional_map(&mut self, map: &'n OptionalMap, ty: Type) -> Part<'n> {
        // operand.hasValue() ? optional.of(body with the variable bound to operand.value()) : optional.none()
        let operand = self.node(&map.operand);
        let condition = operand.cost.plus(ONE);
        let inner = match &operand.ty {
            Type::Optional(of) => (**of).clone(),
            _ => Type::Dyn,
        };
        let value = self.sized(Part::new(operand.cost.plus(ONE), inner));
        self.locals.push(Local { name: &map.var, path: None, size: value.size, entry: None });
        let mut body = self.node(&map.body);
        self.locals.pop();
        // A comprehension over an empty list binds the variable.
        let bound = LIST.plus(value.cost).plus(body.cost);
        let then = match map.flat {
            true => {
                let size = self.measure(&mut body);
                self.sized(Part { size, entry: self.entry(&body), ..Part::new(bound, ty.clone()) })
            }
            false => self.sized(Part::new(bound.plus(ONE), ty.clone())),
        };
        let otherwise = self.sized(Part::new(ONE, ty.clone()));
        self.either(condition, &then, &otherwise, ty)
    }

    fn comprehension(&mut self, l: &'n Loop, ty: Type) -> Part<'n> {
        let mut range = self.node(&l.range);
        let mut init = self.node(&l.init);
        let size = self.measure(&mut init);
        self.locals.push(Local { name: &l.accumulator, path: init.path.clone(), size, entry: self.entry(&init) });
        let outside = self.locals.len();
        self.enter(l, &range);
        let condition = l.condition.as_ref().map_or(NONE, |condition| self.node(condition).cost);
        let (step, step_entry) = self.step(l, &init.ty);
        self.locals.truncate(outside);
        let result = self.node(&l.result).cost;
        self.locals.pop();
        let count = self.measure(&mut range).unwrap_or(Estimate::UNKNOWN);
        let cost = range.cost.plus(init.cost).plus(result).plus(count.times(step.plus(condition)));
        let mut part = Part::new(cost, ty);
        match &l.init.kind {
            Kind::Literal(_) => part.size = size,
            // Empty lists and maps are known beforehand.
            Kind::List(_) | Kind::Map(_) | Kind::Constant(_) => (part.size, part.entry) = (Some(count), step_entry),
            _ => {}
        }
        part
    }

    /// Declares the variables of a comprehension over `range`.
    fn enter(&mut self, l: &'n Loop, range: &Part<'n>) {
        let entry = self.entry(range);
        let list = entry.map_or(matches!(range.ty, Type::List(_)), |entry| entry.list);
        let (key, value) = (entry.map(|entry| entry.key), entry.map(|entry| entry.value));
        let mut declare = |name: &'n str, step: &'static str, size| {
            let path = Some(Path::append(range.path.as_ref(), step));
            self.locals.push(Local { name, path, size, entry: None });
        };
        match (&l.var2, list) {
            (None, true) => declare(&l.var, "@items", value),
            (None, false) => declare(&l.var, "@keys", key),
            (Some(var2), list) => {
                declare(&l.var, if list { "@indices" } else { "@keys" }, key);
                declare(var2, if list { "@items" } else { "@values" }, value);
            }
        }
    }

    /// What one step of a comprehension costs, and how large the entries are that it leaves in the accumulator.
    fn step(&mut self, l: &'n Loop, accumulated: &Type) -> (Estimate, Option<Entry>) {
        let (condition, next) = match &l.step {
            Step::Next(next) => {
                let next = self.node(next);
                return (next.cost, self.entry(&next));
            }
            Step::Append(condition, element) => (condition, (Some(element), [None, None])),
            Step::Insert(condition, key, value) => (condition, (None, [Some(key), Some(value)])),
            Step::Merge(condition, entries) => (condition, (None, [Some(entries), None])),
        };
        let condition = condition.as_ref().map(|condition| self.node(condition).cost);
        let accumulator = self.sized(self.variable(&l.accumulator, accumulated.clone()));
        let next = match next {
            (Some(element), _) => {
                // accumulator + [element]
                let element = self.measured(element);
                let entry = Some(Entry { list: true, key: ONE, value: element.size_or_unknown() });
                Part {
                    size: Some(accumulator.size_or_unknown().plus(ONE)),
                    entry: union_of(self.entry(&accumulator), entry),
                    ..Part::new(accumulator.cost.plus(element.cost).plus(LIST).plus(ONE), accumulated.clone())
                }
            }
            (None, inserted) => {
                let inserted = inserted.into_iter().flatten();
                let cost = inserted.fold(accumulator.cost.plus(ONE), |cost, node| cost.plus(self.node(node).cost));
                Part::new(cost, accumulated.clone())
            }
        };
        let step = match condition {
            Some(condition) => self.either(condition, &next, &accumulator, accumulated.clone()),
            None => next,
        };
        (step.cost, self.entry(&step))
    }
}

/// How large a literal is; in characters, if it is text.
fn literal_size(value: &Value<'_>) -> Option<Estimate> {
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 1,
    };
    Some(Estimate::exactly(size as u64))
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(of) => is_scalar(of),
        _ => false,
    }
}
