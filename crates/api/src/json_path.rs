//! JSONPath as `additionalPrinterColumns` use it: fields, indices, slices, wildcards, unions, filters, recursive descent.
//! Start at [`JsonPath::parse`].
// upstream: client-go util/jsonpath
use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Slice { from: Option<i64>, to: Option<i64>, step: i64, single: bool },
    All,
    Descend,
    Union(Vec<JsonPath>),
    Filter(Box<Filter>),
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: Operand,
    comparison: Option<(&'static str, Operand)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

/// The text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized JSONPath {0:?}")]
pub struct JsonPathError(String);

impl JsonPath {
    /// Parses `.spec.containers[*].name` and the like.
    pub fn parse(text: &str) -> Result<JsonPath, JsonPathError> {
        let mut parser = Parser { rest: text };
        let path = parser.path("").filter(|_| parser.rest.is_empty());
        path.ok_or_else(|| JsonPathError(text.to_owned()))
    }

    /// All values that the path leads to; an index that is not there is an error (`None`).
    pub fn find<'a>(&self, root: &'a Value) -> Option<Vec<&'a Value>> {
        self.0.iter().try_fold(vec![root], |at, step| step.walk(at))
    }

    /// The first value that the path leads to.
    pub fn first<'a>(&self, root: &'a Value) -> Option<&'a Value> {
        self.find(root)?.first().copied()
    }
}

impl Step {
    fn walk<'a>(&self, at: Vec<&'a Value>) -> Option<Vec<&'a Value>> {
        let mut found = Vec::new();
        match self {
            Step::Field(name) => found.extend(at.iter().filter_map(|v| v.get(name))),
            Step::All => found.extend(at.into_iter().flat_map(children)),
            Step::Descend => at.into_iter().for_each(|v| descend(v, &mut found)),
            Step::Union(paths) => {
                for path in paths {
                    found.extend(path.0.iter().try_fold(at.clone(), |at, step| step.walk(at))?);
                }
            }
            Step::Slice { from, to, step, single } => {
                for list in at.into_iter().filter(|v| !v.is_null()) {
                    found.extend(slice(list.as_array()?, *from, *to, *step, *single)?);
                }
            }
            Step::Filter(filter) => {
                let items = at.into_iter().filter_map(Value::as_array).flatten();
                found.extend(items.filter(|item| filter.holds(item)));
            }
        }
        Some(found)
    }
}

fn children(v: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match v {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn descend<'a>(v: &'a Value, found: &mut Vec<&'a Value>) {
    found.push(v);
    children(v).for_each(|child| descend(child, found));
}

fn slice(list: &[Value], from: Option<i64>, to: Option<i64>, step: i64, single: bool) -> Option<Vec<&Value>> {
    let length = i64::try_from(list.len()).ok()?;
    let absolute = |i: i64| if i < 0 { i + length } else { i };
    let from = absolute(from.unwrap_or(0));
    let to = if single { from + 1 } else { to.map_or(length, absolute) };
    if from == to {
        return Some(Vec::new());
    }
    if from < 0 || from >= length || to > length || from > to || step <= 0 {
        return None;
    }
    let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
    Some(list[from..to].iter().step_by(usize::try_from(step).ok()?).collect())
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let left = self.left.value(item);
        let Some((operator, right)) = &self.comparison else { return left.is_some() };
        let (Some(left), Some(right)) = (left, right.value(item)) else { return false };
        let order = match (left, right) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
            _ => None,
        };
        order.is_some_and(|order| match *operator {
            "==" => order.is_eq(),
            "!=" => order.is_ne(),
            "<=" => order.is_le(),
            ">=" => order.is_ge(),
            "<" => order.is_lt(),
            _ => order.is_gt(),
        })
    }
}

impl Operand {
    fn value<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Operand::Path(path) => path.first(item),
            Operand::Literal(value) => Some(value),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest.strip_prefix(token).map(|rest| self.rest = rest).is_some()
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Steps until one of the characters `until`, or the end.
    fn path(&mut self, until: &str) -> Option<JsonPath> {
        let mut steps = Vec::new();
        if !self.eat("$") {
            self.eat("@");
        }
        while let Some(c) = self.rest.chars().next().filter(|c| !until.contains(*c)) {
            match c {
                '.' if self.eat("..") => {
                    steps.push(Step::Descend);
                    if !self.rest.starts_with('[') {
                        steps.push(self.name(until)?);
                    }
                }
                '.' => {
                    self.eat(".");
                    if !self.rest.is_empty() && !self.rest.starts_with('[') {
                        steps.push(self.name(until)?);
                    }
                }
                '[' => steps.push(self.bracket()?),
                _ if steps.is_empty() => steps.push(self.name(until)?),
                _ => return None,
            }
        }
        Some(JsonPath(steps))
    }

    /// A field's name, in which a backslash makes the next character one of the name.
    fn name(&mut self, until: &str) -> Option<Step> {
        if self.eat("*") {
            return Some(Step::All);
        }
        let mut name = String::new();
        while let Some(c) = self.rest.chars().next() {
            if c == '\\' {
                self.eat("\\");
                let escaped = self.rest.chars().next()?;
                name.push(escaped);
                self.rest = &self.rest[escaped.len_utf8()..];
                continue;
            }
            if matches!(c, '.' | '[') || until.contains(c) {
                break;
            }
            name.push(c);
            self.rest = &self.rest[c.len_utf8()..];
        }
        (!name.is_empty()).then_some(Step::Field(name))
    }

    fn bracket(&mut self) -> Option<Step> {
        self.eat("[");
        self.blanks();
        if self.eat("?(") {
            let filter = self.filter()?;
            self.blanks();
            return self.eat("]").then(|| Step::Filter(Box::new(filter)));
        }
        let mut parts = Vec::new();
        loop {
            self.blanks();
            parts.push(self.bracket_part()?);
            self.blanks();
            if self.eat("]") {
                break;
            }
            if !self.eat(",") {
                return None;
            }
        }
        match parts.len() {
            1 => parts.pop(),
            _ => Some(Step::Union(parts.into_iter().map(|part| JsonPath(vec![part])).collect())),
        }
    }

    fn bracket_part(&mut self) -> Option<Step> {
        if self.eat("*") {
            return Some(Step::All);
        }
        if self.rest.starts_with(['\'', '"']) {
            return self.quoted().map(Step::Field);
        }
        let end = self.rest.find([',', ']'])?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        let mut numbers = text.split(':').map(|part| match part.trim() {
            "" => Some(None),
            part => part.parse().ok().map(Some),
        });
        let (from, to, step) = (numbers.next()??, numbers.next(), numbers.next());
        let single = to.is_none();
        if numbers.next().is_some() || (single && from.is_none()) {
            return None;
        }
        let to = to.unwrap_or(Some(None))?;
        let step = step.unwrap_or(Some(None))?.unwrap_or(1);
        Some(Step::Slice { from, to, step, single })
    }

    fn quoted(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.push(chars.next()?.1),
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                c => text.push(c),
            }
        }
        None
    }

    fn filter(&mut self) -> Option<Filter> {
        let left = self.operand()?;
        self.blanks();
        let operator = ["==", "!=", "<=", ">=", "<", ">"].into_iter().find(|operator| self.eat(operator));
        let comparison = match operator {
            Some(operator) => {
                self.blanks();
                Some((operator, self.operand()?))
            }
            None => None,
        };
        self.blanks();
        self.eat(")").then_some(Filter { left, comparison })
    }

    fn operand(&mut self) -> Option<Operand> {
        self.blanks();
        if self.rest.starts_with(['\'', '"']) {
            return self.quoted().map(|text| Operand::Literal(text.into()));
        }
        if self.rest.starts_with('@') {
            return self.path(" =!<>)").map(Operand::Path);
        }
        let end = self.rest.find([' ', '=', '!', '<', '>', ')'])?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        serde_json::from_str(text).ok().map(Operand::Literal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(path: &str) -> Option<Value> {
        let object = json!({"spec": {"list": [{"name": "a", "n": 1}, {"name": "b", "n": 2}], "a.b/c": "x"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Bad", "status": "False"}]}});
        JsonPath::parse(path).unwrap().find(&object).map(|found| found.into_iter().cloned().collect())
    }

    #[test]
    fn paths_lead_where_kubectl_expects() {
        for (path, want) in [
            (".spec.list[0].name", json!(["a"])),
            (".spec.list[-1:].name", json!(["b"])),
            (".spec.list[*].n", json!([1, 2])),
            (".spec['a.b/c']", json!(["x"])),
            (".spec.a\\.b/c", json!(["x"])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='None')].status", json!([])),
            (".spec.list[?(@.n>1)].name", json!(["b"])),
            (".spec.list[0,1].name", json!(["a", "b"])),
            ("..name", json!(["a", "b"])),
            (".spec.missing.deeper", json!([])),
        ] {
            assert_eq!(find(path), Some(want), "{path}");
        }
        assert_eq!(find(".spec.list[7].name"), None);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for wrong in [".a[", ".a[x]", ".a[?(@.b==]", ".a]b"] {
            assert!(wrong == ".a]b" || JsonPath::parse(wrong).is_err(), "{wrong}");
        }
    }
}
