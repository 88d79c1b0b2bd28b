//! Static checking of names and types. Start at [`Checker::check`].
// upstream: cel-go checker
use crate::compile::Env;
use crate::expr::{Kind, Loop, Node, Step};
use crate::lower::At;
use crate::signatures::{self, Signature};
use crate::types::Type;
use crate::value::Value;
use cel::common::ast::operators;
use std::collections::{BTreeSet, HashMap};

/// What the checker found out about a node.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub ty: Type,
    /// The overloads that a call may mean: several, where its arguments are dynamic.
    pub fits: Vec<&'static Signature>,
}

impl Default for Note {
    fn default() -> Self {
        Note { ty: Type::Dyn, fits: Vec::new() }
    }
}

/// Notes by where the nodes are in memory.
pub(crate) type Notes = HashMap<*const Node, Note>;

pub(crate) struct Checker<'a> {
    /// The environment's variables.
    pub variables: &'a [(String, Type)],
    /// Object types that expressions may construct, by name.
    pub structs: &'a [Type],
    pub scope: Vec<(String, Type)>,
    pub used: BTreeSet<String>,
    pub errors: Vec<At>,
    /// How many calls around allow literals whose elements are of several types.
    pub mixed: usize,
    /// If set, what is found out is kept here.
    pub notes: Option<Notes>,
}

/// Whether this is the name of a type: a value of type `type`.
pub(crate) fn is_type_name(name: &str) -> bool {
    let name = name.trim_start_matches('.');
    name == "dyn" || Type::of_name(name).is_some()
}

impl<'a> Checker<'a> {
    pub(crate) fn new(env: &'a Env) -> Self {
        Checker {
            variables: &env.variables,
            structs: &env.structs,
            scope: Vec::new(),
            used: BTreeSet::new(),
            errors: Vec::new(),
            mixed: 0,
            notes: None,
        }
    }

    fn error(&mut self, node: &Node, text: impl Into<String>) -> Type {
        self.errors.push((node.at, text.into()));
        Type::Dyn
    }

    /// The type of `node`; what is wrong goes to `errors`.
    pub(crate) fn check(&mut self, node: &Node) -> Type {
        let ty = self.infer(node);
        if let Some(notes) = &mut self.notes {
            notes.entry(std::ptr::from_ref(node)).or_default().ty = ty.clone();
        }
        ty
    }

    fn infer(&mut self, node: &Node) -> Type {
        match &node.kind {
            Kind::Literal(value) => literal(value),
            Kind::Ident(name) => self.ident(node, name),
            Kind::Select(operand, field) => {
                let operand = self.check(operand);
                self.select(node, &operand, field)
            }
            Kind::SelectOptional(operand, field) => {
                let operand = self.check(operand);
                match self.select(node, &operand, field) {
                    already @ Type::Optional(_) => already,
                    plain => Type::optional(plain),
                }
            }
            Kind::Has(operand, field) => {
                let operand = self.check(operand);
                self.select(node, &operand, field);
                Type::Bool
            }
            Kind::And(a, b) | Kind::Or(a, b) => {
                self.condition(a);
                self.condition(b);
                Type::Bool
            }
            Kind::NotFalse(condition) => {
                self.check(condition);
                Type::Bool
            }
            Kind::Conditional(parts) => {
                let (condition, then, otherwise) = (self.check(&parts.0), self.check(&parts.1), self.check(&parts.2));
                match then.join(&otherwise).filter(|_| Type::Bool.accepts(&condition)) {
                    Some(joined) => joined,
                    None => self.no_overload(node, operators::CONDITIONAL, false, &[condition, then, otherwise]),
                }
            }
            Kind::Call(call) => {
                let mixed = usize::from(call.function == "format");
                self.mixed += mixed;
                let args: Vec<Type> = call.args.iter().map(|arg| self.check(arg)).collect();
                self.mixed -= mixed;
                if !signatures::is_known(&call.function) {
                    return self.error(node, format!("undeclared reference to '{}' (in container '')", call.function));
                }
                let fits = signatures::fitting(&call.function, call.member, &args);
                let Some(result) = signatures::result(&fits) else {
                    return self.no_overload(node, &call.function, call.member, &args);
                };
                if let Some(notes) = &mut self.notes {
                    let fits = fits.into_iter().map(|fit| fit.signature).collect();
                    notes.insert(std::ptr::from_ref(node), Note { ty: result.clone(), fits });
                }
                result
            }
            Kind::List(elements) => {
                let mut held = Type::Unknown;
                for (element, optional) in elements {
                    let ty = self.check(element);
                    let ty = if *optional { unwrapped(ty) } else { ty };
                    held = self.same(element, held, ty);
                }
                Type::list(held)
            }
            Kind::Map(entries) => {
                let (mut keys, mut values) = (Type::Unknown, Type::Unknown);
                for (key, value, optional) in entries {
                    let ty = self.check(key);
                    keys = self.same(key, keys, ty);
                    let ty = self.check(value);
                    let ty = if *optional { unwrapped(ty) } else { ty };
                    values = self.same(value, values, ty);
                }
                Type::map(keys, values)
            }
            Kind::Struct(name, fields) => self.construct(node, name, fields),
            Kind::Loop(comprehension) => self.comprehension(node, comprehension),
            Kind::Constant(constant) => self.check(&constant.of),
            Kind::Bind(bind) => {
                let value = self.check(&bind.value);
                self.scope.push((bind.var.clone(), value));
                let body = self.check(&bind.body);
                self.scope.pop();
                body
            }
            Kind::OptionalMap(map) => {
                let operand = self.check(&map.operand);
                let inner = match operand {
                    Type::Optional(of) => (*of).clone(),
                    other if other.is_dynamic() => Type::Dyn,
                    other => return self.no_overload(node, "optMap", true, &[other]),
                };
                self.scope.push((map.var.clone(), inner));
                let body = self.check(&map.body);
                self.scope.pop();
                match (map.flat, body) {
                    (false, body) => Type::optional(body),
                    (true, body @ Type::Optional(_)) => body,
                    (true, body) if body.is_dynamic() => Type::optional(Type::Dyn),
                    (true, body) => self.no_overload(node, "optFlatMap", true, &[body]),
                }
            }
        }
    }

    fn ident(&mut self, node: &Node, name: &str) -> Type {
        let plain = name.trim_start_matches('.');
        if let Some((_, ty)) = self.scope.iter().rev().find(|(held, _)| held == name) {
            return ty.clone();
        }
        if let Some((held, ty)) = self.variables.iter().find(|(held, _)| held == plain) {
            self.used.insert(held.clone());
            return ty.clone();
        }
        if is_type_name(plain) {
            return Type::Type;
        }
        self.error(node, format!("undeclared reference to '{plain}' (in container '')"))
    }

    fn select(&mut self, node: &Node, operand: &Type, field: &str) -> Type {
        match operand {
            t if t.is_dynamic() => Type::Dyn,
            Type::Map(of) => of.1.clone(),
            Type::Object(object) => match object.fields.field(field) {
                Some(field) => field.ty,
                None => self.error(node, format!("undefined field '{field}'")),
            },
            Type::Optional(of) => match self.select(node, of, field) {
                already @ Type::Optional(_) => already,
                plain => Type::optional(plain),
            },
            // These are objects to upstream, whose fields nobody knows.
            Type::Opaque(name) if name.starts_with("kubernetes.") => {
                self.error(node, format!("unexpected failed resolution of '{name}'"))
            }
            other => self.error(node, format!("type '{other}' does not support field selection")),
        }
    }

    /// An operand of `&&` or `||`.
    fn condition(&mut self, node: &Node) {
        let ty = self.check(node);
        if !Type::Bool.accepts(&ty) {
            self.error(node, format!("expected type 'bool' but found '{ty}'"));
        }
    }

    fn no_overload(&mut self, node: &Node, function: &str, member: bool, args: &[Type]) -> Type {
        let list = |args: &[Type]| args.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let applied = match args {
            [target, rest @ ..] if member => format!("{target}.({})", list(rest)),
            args => format!("({})", list(args)),
        };
        self.error(node, format!("found no matching overload for '{function}' applied to '{applied}'"))
    }

    /// Elements of a literal must be of one type, but for those that are formatted.
    fn same(&mut self, node: &Node, held: Type, given: Type) -> Type {
        match held.join(&given) {
            Some(joined) => joined,
            None if self.mixed > 0 => Type::Dyn,
            None => self.error(node, format!("expected type '{held}' but found '{given}'")),
        }
    }

    fn construct(&mut self, node: &Node, name: &str, fields: &[(String, Node, bool)]) -> Type {
        let known = self.structs.iter().find_map(|ty| match ty {
            Type::Object(object) if object.name == name => Some(ty.clone()),
            Type::Object(object) => {
                // Nested types are named by the way to them: Object.spec.template.
                let rest = name.strip_prefix(object.name.as_str())?.strip_prefix('.')?;
                rest.split('.').try_fold(ty.clone(), |ty, step| match ty {
                    Type::Object(object) => match object.fields.field(step)?.ty {
                        Type::List(of) => Some(of.element.clone()),
                        other => Some(other),
                    },
                    Type::Dyn => Some(Type::Dyn),
                    _ => None,
                })
            }
            _ => None,
        });
        let Some(ty) = known else {
            return self.error(node, format!("undeclared reference to '{name}' (in container '')"));
        };
        for (field, value, optional) in fields {
            let given = self.check(value);
            let given = if *optional { unwrapped(given) } else { given };
            if let Type::Object(object) = &ty {
                match object.fields.field(field) {
                    None => {
                        self.error(value, format!("undefined field '{field}'"));
                    }
                    Some(known) if !known.ty.accepts(&given) => {
                        let text = format!(
                            "expected type of field '{field}' is '{}' but provided type is '{given}'",
                            known.ty
                        );
                        self.error(value, text);
                    }
                    Some(_) => {}
                }
            }
        }
        ty
    }

    fn comprehension(&mut self, node: &Node, l: &Loop) -> Type {
        let range = self.check(&l.range);
        let (key, element) = match &range {
            t if t.is_dynamic() => (Type::Dyn, Type::Dyn),
            Type::List(of) => (Type::Int, of.element.clone()),
            Type::Map(of) if l.var2.is_some() => (of.0.clone(), of.1.clone()),
            Type::Map(of) => (Type::Int, of.0.clone()),
            other => {
                let text = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.error(node, text);
            }
        };
        let accumulator = self.check(&l.init);
        let depth = self.scope.len();
        match &l.var2 {
            Some(var2) => self.scope.extend([(l.var.clone(), key.clone()), (var2.clone(), element)]),
            None => self.scope.push((l.var.clone(), element)),
        }
        self.scope.push((l.accumulator.clone(), accumulator.clone()));
        if let Some(condition) = &l.condition {
            self.check(condition);
        }
        let (filter, next) = match &l.step {
            Step::Next(next) => {
                let next = self.check(next);
                (&None, accumulator.join(&next).unwrap_or(next))
            }
            Step::Append(filter, element) => (filter, Type::list(self.check(element))),
            Step::Insert(filter, _, value) => (filter, Type::map(key, self.check(value))),
            Step::Merge(filter, map) => (filter, self.check(map)),
        };
        let accumulator = next;
        if let Some(filter) = filter {
            let ty = self.check(filter);
            if !Type::Bool.accepts(&ty) {
                let operands = [ty, accumulator.clone(), accumulator.clone()];
                self.no_overload(node, operators::CONDITIONAL, false, &operands);
            }
        }
        if let Some(held) = self.scope.last_mut() {
            held.1 = accumulator;
        }
        let result = self.check(&l.result);
        self.scope.truncate(depth);
        result
    }
}

fn unwrapped(ty: Type) -> Type {
    match ty {
        Type::Optional(of) => (*of).clone(),
        other => other,
    }
}

fn literal(value: &Value<'_>) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        _ => Type::Dyn,
    }
}
