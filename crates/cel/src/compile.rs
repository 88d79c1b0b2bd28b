//! Source text to a checked program. Start at [`Env::compile`].
use crate::check::{Checker, Notes};
use crate::expr::Node;
use crate::lower::{At, Lowering};
use crate::settle::settle;
use crate::types::Type;
use cel::common::ast::SourceInfo;
use cel::parser::Parser;
use std::collections::BTreeSet;
use std::fmt;

/// How deep expressions may nest. upstream: cel-go's default is 250, of which its own grammar takes more per level.
const MAX_DEPTH: u16 = 96;
/// How many levels the tree of an expression may have, as upstream refuses longer chains of operators and calls.
const MAX_LEVELS: usize = 251;
/// The longest expression, in characters, as upstream has it.
const MAX_CHARACTERS: usize = 100_000;
/// The parser's recursion needs more than a worker thread's stack: so much for any expression, and so much for each operator,
/// as every one may be one more level.
const PARSER_STACK: usize = 16 << 20;
const OPERATOR_STACK: usize = 8 << 10;
/// More operators than this are refused unparsed.
const MAX_OPERATORS: usize = 8000;

/// What an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Env {
    pub(crate) variables: Vec<(String, Type)>,
    pub(crate) structs: Vec<Type>,
    patches: bool,
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) root: Node,
    source: String,
    output: Type,
    used: BTreeSet<String>,
}

/// One thing that is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The line, from 1; 0 if the whole expression is meant.
    pub line: usize,
    /// The column, from 1; 0 if the whole expression is meant.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// Why an expression does not compile. It is written as cel-go writes it, with the source line and a mark.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    /// All that is wrong.
    pub issues: Vec<Issue>,
    text: String,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.issues.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            let Issue { line, column, message } = issue;
            if *line == 0 {
                write!(f, "{separator}ERROR: <input>:-1:0: {message}")?;
                continue;
            }
            write!(f, "{separator}ERROR: <input>:{line}:{column}: {message}")?;
            if let Some(text) = self.text.lines().nth(line.saturating_sub(1)) {
                write!(f, "\n | {text}\n | {}^", ".".repeat(column.saturating_sub(1)))?;
            }
        }
        Ok(())
    }
}

impl Env {
    /// An environment without variables; all libraries are there.
    pub fn new() -> Self {
        Env::default()
    }

    /// Declares a variable. A dotted name (`variables.limit`) makes the field selection a variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, ty: Type) -> Self {
        let name = name.into();
        self.variables.retain(|(held, _)| *held != name);
        self.variables.push((name, ty));
        self
    }

    /// Declares an object type that expressions may construct: `Name{field: value}`, and `Name.field{…}` for the types
    /// of its fields.
    #[must_use]
    pub fn constructible(mut self, ty: Type) -> Self {
        self.structs.push(ty);
        self
    }

    /// Adds the functions that help to write JSON patches.
    #[must_use]
    pub fn patching(mut self) -> Self {
        self.patches = true;
        self
    }

    /// The type of a variable.
    pub fn variable_type(&self, name: &str) -> Option<&Type> {
        self.variables.iter().find(|(held, _)| held == name).map(|(_, ty)| ty)
    }

    /// Compiles an expression of any type.
    pub fn compile(&self, source: &str) -> Result<Program, CompileError> {
        let dotted: Vec<String> =
            self.variables.iter().filter(|(name, _)| name.contains('.')).map(|(name, _)| name.clone()).collect();
        let (characters, operators) = (source.chars().count(), operators(source));
        if characters > MAX_CHARACTERS {
            let why = format!("expression code point size exceeds limit: size: {characters}, limit {MAX_CHARACTERS}");
            return Err(internal(source, &why));
        }
        if operators > MAX_OPERATORS {
            return Err(internal(source, "max recursion depth exceeded"));
        }
        let stack = PARSER_STACK + operators * OPERATOR_STACK;
        let parsed = std::thread::scope(|scope| {
            let parse = || parse(source, &dotted, self.patches);
            let worker = std::thread::Builder::new().name("cel-parse".to_owned()).stack_size(stack);
            match worker.spawn_scoped(scope, parse) {
                Ok(worker) => worker.join().unwrap_or_else(|_| Err(internal(source, "the parser failed"))),
                Err(error) => Err(internal(source, &error.to_string())),
            }
        });
        let (mut root, mut errors, late) = parsed?;
        let mut checker = Checker::new(self);
        checker.notes = Some(Notes::default());
        let output = checker.check(&root);
        errors.extend(checker.errors);
        if errors.is_empty() {
            errors = late;
        }
        if !errors.is_empty() {
            errors.sort();
            errors.dedup();
            return Err(CompileError {
                issues: errors.iter().map(|at| issue(source, at)).collect(),
                text: source.into(),
            });
        }
        let used = checker.used;
        settle(&mut root, &checker.notes.unwrap_or_default());
        Ok(Program { root, source: source.to_owned(), output, used })
    }
}

impl Program {
    /// The source text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of the result.
    pub fn output(&self) -> &Type {
        &self.output
    }

    /// The variables that the expression uses, dotted names as they are declared.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.used.iter().map(String::as_str)
    }

    /// Whether the expression uses a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.used.contains(variable)
    }
}

/// At least as many operators as the expression has that may be chained without parentheses; those in texts count too.
fn operators(source: &str) -> usize {
    source.bytes().filter(|byte| b"+-*/%<>=!.[?:".contains(byte)).count() + source.matches("in").count()
}

fn internal(source: &str, why: &str) -> CompileError {
    CompileError { issues: vec![Issue { line: 0, column: 0, message: why.to_owned() }], text: source.to_owned() }
}

/// The tree, what is wrong, and what is wrong with literals.
fn parse(source: &str, dotted: &[String], patches: bool) -> Result<(Node, Vec<At>, Vec<At>), CompileError> {
    let parser = Parser::new().max_recursion_depth(MAX_DEPTH).enable_optional_syntax(true);
    let (expr, info): (_, SourceInfo) = parser.parse_with_source_info(source).map_err(|errors| {
        if errors.errors.iter().any(|error| error.msg.contains("Recursion limit of")) {
            return internal(source, "expression recursion limit exceeded: 250");
        }
        let issue = |error: cel::ParseError| Issue {
            line: usize::try_from(error.pos.0).unwrap_or(1).max(1),
            column: usize::try_from(error.pos.1).unwrap_or(1).max(1),
            message: error.msg,
        };
        CompileError { issues: errors.errors.into_iter().map(issue).collect(), text: source.to_owned() }
    })?;
    let mut lowering = Lowering { source: &info, dotted, patches, errors: Vec::new(), late: Vec::new() };
    let root = lowering.node(expr);
    if root.levels() > MAX_LEVELS {
        return Err(internal(source, "max recursion depth exceeded"));
    }
    Ok((root, lowering.errors, lowering.late))
}

fn issue(source: &str, (at, message): &At) -> Issue {
    let before: String = source.chars().take(*at as usize).collect();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |text| text.chars().count()) + 1;
    Issue { line, column, message: message.clone() }
}
