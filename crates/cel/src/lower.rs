//! From the parser's tree to [`Node`]s: names are resolved to variables and functions, macros to loops.
use crate::charge::Charge;
use crate::expr::{Call, Kind, Loop, Node, Step};
use crate::functions;
use crate::macros;
use crate::signatures::{is_known, is_namespaced};
use crate::value::{Text, Value};
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue, SelectExpr, SourceInfo,
    operators,
};
use regex::Regex;
use std::sync::Arc;

/// An error at a place in the source.
pub(crate) type At = (u32, String);

pub(crate) struct Lowering<'a> {
    pub source: &'a SourceInfo,
    /// Dotted names that are variables.
    pub dotted: &'a [String],
    /// Whether `jsonpatch.…` are functions.
    pub patches: bool,
    pub errors: Vec<At>,
    /// What is wrong with literals, which matters only if nothing else is wrong.
    pub late: Vec<At>,
}

impl Lowering<'_> {
    pub(crate) fn at(&self, id: u64) -> u32 {
        self.source.offset_for(id).map_or(0, |(start, _)| start)
    }

    pub(crate) fn node(&mut self, expr: IdedExpr) -> Node {
        let at = self.at(expr.id);
        let kind = match expr.expr {
            Expr::Literal(literal) => Kind::Literal(value(literal)),
            Expr::Ident(name) => Kind::Ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(at, call),
            Expr::List(list) => {
                let optional = list.optional_indices;
                let elements = list.elements.into_iter().enumerate();
                Kind::List(elements.map(|(i, e)| (self.node(e), optional.contains(&i))).collect())
            }
            Expr::Map(map) => Kind::Map(map.entries.into_iter().filter_map(|entry| self.entry(entry)).collect()),
            Expr::Struct(s) => {
                let fields = s.entries.into_iter().filter_map(|entry| match entry.expr {
                    EntryExpr::StructField(field) => Some((field.field, self.node(field.value), field.optional)),
                    EntryExpr::MapEntry(_) => None,
                });
                Kind::Struct(s.type_name, fields.collect())
            }
            Expr::Comprehension(c) => self.comprehension(*c),
            Expr::Unspecified => {
                self.errors.push((at, "unexpected expression".to_owned()));
                Kind::Literal(Value::Null)
            }
        };
        Node { at, kind }
    }

    fn entry(&mut self, entry: IdedEntryExpr) -> Option<(Node, Node, bool)> {
        match entry.expr {
            EntryExpr::MapEntry(entry) => Some((self.node(entry.key), self.node(entry.value), entry.optional)),
            EntryExpr::StructField(_) => None,
        }
    }

    fn select(&mut self, select: SelectExpr) -> Kind {
        let operand = self.node(*select.operand);
        if let Kind::Ident(name) = &operand.kind {
            let dotted = format!("{name}.{}", select.field);
            if self.dotted.contains(&dotted) {
                return if select.test { Kind::Literal(Value::Bool(true)) } else { Kind::Ident(dotted) };
            }
        }
        // Types have names with dots.
        if let (Kind::Select(package, name), "Timestamp" | "Duration") = (&operand.kind, select.field.as_str())
            && let (Kind::Ident(root), "protobuf") = (&package.kind, name.as_str())
            && root == "google"
        {
            return Kind::Ident(format!("google.protobuf.{}", select.field));
        }
        match select.test {
            true => Kind::Has(Box::new(operand), select.field),
            false => Kind::Select(Box::new(operand), select.field),
        }
    }

    fn call(&mut self, at: u32, call: CallExpr) -> Kind {
        let CallExpr { func_name, target, args } = call;
        if let Some(target) = target {
            let namespaced = match &target.expr {
                Expr::Ident(name) if is_namespaced(name) || (self.patches && name == "jsonpatch") => {
                    Some(format!("{name}.{func_name}"))
                }
                _ => None,
            };
            if let Some(function) = namespaced.filter(|function| is_known(function)) {
                let args = args.into_iter().map(|arg| self.node(arg)).collect();
                return self.function(function, false, args);
            }
            return match macros::expand(self, at, &func_name, *target, args) {
                macros::Expanded::Kind(kind) => kind,
                macros::Expanded::No(target, args) => {
                    let nodes = std::iter::once(target).chain(args).map(|arg| self.node(arg)).collect();
                    self.function(func_name, true, nodes)
                }
            };
        }
        let mut nodes: Vec<Node> = args.into_iter().map(|arg| self.node(arg)).collect();
        let mut next = || nodes.remove(0);
        match func_name.as_str() {
            operators::LOGICAL_AND => Kind::And(Box::new(next()), Box::new(next())),
            operators::LOGICAL_OR => Kind::Or(Box::new(next()), Box::new(next())),
            operators::CONDITIONAL => Kind::Conditional(Box::new((next(), next(), next()))),
            operators::NOT_STRICTLY_FALSE => Kind::NotFalse(Box::new(next())),
            operators::OPT_SELECT => {
                let (operand, field) = (next(), next());
                match field.kind {
                    Kind::Literal(Value::String(field)) => Kind::SelectOptional(Box::new(operand), field.to_string()),
                    _ => {
                        self.errors.push((at, "unsupported optional field selection".to_owned()));
                        Kind::Literal(Value::Null)
                    }
                }
            }
            _ => self.function(func_name, false, nodes),
        }
    }

    fn function(&mut self, function: String, member: bool, args: Vec<Node>) -> Kind {
        self.literal(&function, &args);
        let mut regex = None;
        if let ("matches" | "find" | "findAll", Some(Kind::Literal(Value::String(pattern)))) =
            (function.as_str(), args.get(1).map(|arg| &arg.kind))
        {
            match Regex::new(pattern) {
                Ok(compiled) => regex = Some(Arc::new(compiled)),
                Err(_) => self.late.push((args[1].at, format!("invalid {function} argument"))),
            }
        }
        let builtin = functions::find(&function);
        Kind::Call(Box::new(Call { function, member, args, builtin, charge: Charge::One, regex }))
    }

    /// Judges a text from which a time is made.
    fn literal(&mut self, function: &str, args: &[Node]) {
        let [Node { at, kind: Kind::Literal(Value::String(text)) }] = args else { return };
        let good = match function {
            "timestamp" => text.parse::<jiff::Timestamp>().is_ok(),
            "duration" => functions::time::parse_duration(text).is_some(),
            _ => true,
        };
        if !good {
            self.late.push((*at, format!("invalid {function} argument")));
        }
    }

    fn comprehension(&mut self, c: ComprehensionExpr) -> Kind {
        let condition = match &c.loop_cond.expr {
            Expr::Literal(LiteralValue::Boolean(always)) if *always.inner() => None,
            _ => Some(self.node(c.loop_cond)),
        };
        let step = self.node(c.loop_step);
        Kind::Loop(Box::new(Loop {
            range: self.node(c.iter_range),
            var: c.iter_var,
            var2: c.iter_var2,
            init: self.node(c.accu_init),
            condition,
            step: appending(step, &c.accu_var),
            result: self.node(c.result),
            accumulator: c.accu_var,
        }))
    }
}

/// Recognises `accumulator + [x]` and `condition ? accumulator + [x] : accumulator`.
fn appending(step: Node, accumulator: &str) -> Step {
    let is_accumulator = |node: &Node| matches!(&node.kind, Kind::Ident(name) if name == accumulator);
    let appends = |node: &Node| match &node.kind {
        Kind::Call(call) if call.function == operators::ADD && is_accumulator(&call.args[0]) => {
            matches!(&call.args[1].kind, Kind::List(elements) if elements.len() == 1 && !elements[0].1)
        }
        _ => false,
    };
    let element = |node: Node| match node.kind {
        Kind::Call(mut call) => match call.args.pop().map(|arg| arg.kind) {
            Some(Kind::List(mut elements)) => elements.pop().map(|(element, _)| element),
            _ => None,
        },
        _ => None,
    };
    match step.kind {
        Kind::Conditional(parts) if appends(&parts.1) && is_accumulator(&parts.2) => {
            let (condition, then, otherwise) = *parts;
            let at = step.at;
            match element(then) {
                Some(element) => Step::Append(Some(condition), element),
                None => Step::Next(Node { at, ..otherwise }),
            }
        }
        _ if appends(&step) => {
            let at = step.at;
            match element(step) {
                Some(element) => Step::Append(None, element),
                None => Step::Next(Node { at, kind: Kind::Ident(accumulator.to_owned()) }),
            }
        }
        _ => Step::Next(step),
    }
}

fn value(literal: LiteralValue) -> Value<'static> {
    match literal {
        LiteralValue::Boolean(b) => Value::Bool(b.into_inner()),
        LiteralValue::Bytes(b) => Value::Bytes(b.into_inner().into()),
        LiteralValue::Double(d) => Value::Double(d.into_inner()),
        LiteralValue::Int(i) => Value::Int(i.into_inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(s) => Value::String(Text::from(s.into_inner())),
        LiteralValue::UInt(u) => Value::Uint(u.into_inner()),
    }
}
