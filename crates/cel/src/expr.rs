//! Expressions as the checker and the evaluator see them. Start at [`Node`].
use crate::charge::Charge;
use crate::functions::Builtin;
use crate::value::Value;
use regex::Regex;
use std::sync::Arc;

/// One node of an expression.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where it is in the source: a byte or character offset, as the parser gives it.
    pub at: u32,
    pub kind: Kind,
}

impl Node {
    /// How many levels the tree has.
    pub(crate) fn levels(&self) -> usize {
        let most = |nodes: &mut dyn Iterator<Item = &Node>| nodes.map(Node::levels).max().unwrap_or_default();
        1 + match &self.kind {
            Kind::Literal(_) | Kind::Ident(_) => 0,
            Kind::Select(a, _) | Kind::SelectOptional(a, _) | Kind::Has(a, _) | Kind::NotFalse(a) => a.levels(),
            Kind::And(a, b) | Kind::Or(a, b) => a.levels().max(b.levels()),
            Kind::Conditional(parts) => parts.0.levels().max(parts.1.levels()).max(parts.2.levels()),
            Kind::Call(call) => most(&mut call.args.iter()),
            Kind::List(elements) => most(&mut elements.iter().map(|(element, _)| element)),
            Kind::Map(entries) => most(&mut entries.iter().flat_map(|(key, value, _)| [key, value])),
            Kind::Struct(_, fields) => most(&mut fields.iter().map(|(_, value, _)| value)),
            Kind::Loop(l) => {
                let step = match &l.step {
                    Step::Next(a) => [Some(a), None, None],
                    Step::Append(condition, a) | Step::Merge(condition, a) => [condition.as_ref(), Some(a), None],
                    Step::Insert(condition, a, b) => [condition.as_ref(), Some(a), Some(b)],
                };
                let rest = [&l.range, &l.init, &l.result];
                most(&mut rest.into_iter().chain(&l.condition).chain(step.into_iter().flatten()))
            }
            Kind::Constant(constant) => constant.of.levels(),
            Kind::Bind(bind) => bind.value.levels().max(bind.body.levels()),
            Kind::OptionalMap(map) => map.operand.levels().max(map.body.levels()),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Literal(Value<'static>),
    /// A variable; also a dotted name that is declared as one (`variables.x`).
    Ident(String),
    Select(Box<Node>, String),
    /// `a.?b`
    SelectOptional(Box<Node>, String),
    /// `has(a.b)`
    Has(Box<Node>, String),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<(Node, Node, Node)>),
    /// Whether a condition is not false: errors count as true.
    NotFalse(Box<Node>),
    Call(Box<Call>),
    /// The flag marks elements that are left out if they are an empty optional.
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Struct(String, Vec<(String, Node, bool)>),
    Loop(Box<Loop>),
    OptionalMap(Box<OptionalMap>),
    Bind(Box<Bind>),
    Constant(Box<Constant>),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub function: String,
    /// Whether it is written `x.f()`; the first argument is `x` then.
    pub member: bool,
    pub args: Vec<Node>,
    pub builtin: Option<Builtin>,
    /// What it costs; settled when the expression has been checked.
    pub charge: Charge,
    /// A pattern that is known beforehand.
    pub regex: Option<Arc<Regex>>,
}

/// A comprehension.
#[derive(Clone, Debug)]
pub(crate) struct Loop {
    pub range: Node,
    pub var: String,
    /// With a second variable: index and element, or key and value.
    pub var2: Option<String>,
    pub accumulator: String,
    pub init: Node,
    pub condition: Option<Node>,
    pub step: Step,
    pub result: Node,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The accumulator's next value.
    Next(Node),
    /// One more element of a list, if the condition holds.
    Append(Option<Node>, Node),
    /// One more entry of a map, if the condition holds.
    Insert(Option<Node>, Node, Node),
    /// The entries of a map are added, if the condition holds.
    Merge(Option<Node>, Node),
}

/// `x.optMap(v, e)` and `x.optFlatMap(v, e)`.
#[derive(Clone, Debug)]
pub(crate) struct OptionalMap {
    pub operand: Node,
    pub var: String,
    pub body: Node,
    /// Whether the body is an optional itself.
    pub flat: bool,
}

/// A value with a name, for the macros that use it more than once.
#[derive(Clone, Debug)]
pub(crate) struct Bind {
    pub var: String,
    pub value: Node,
    pub body: Node,
}

/// What is known beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Constant {
    pub value: Value<'static>,
    /// The expression itself.
    pub of: Node,
}
