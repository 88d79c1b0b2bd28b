//! Expressions as the checker and the evaluator see them. Start at [`Node`].
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
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub function: String,
    /// Whether it is written `x.f()`; the first argument is `x` then.
    pub member: bool,
    pub args: Vec<Node>,
    pub builtin: Option<Builtin>,
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
