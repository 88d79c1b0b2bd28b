//! What a call costs when it is made, beside its arguments. Start at [`Charge::of`].
// upstream: cel-go interpreter/runtimecost.go, ext/{lists,sets}.go; apiserver pkg/cel/library/cost.go, CallCost
use crate::signatures::Signature;
use crate::types::Type;
use crate::value::{Key, Value};

/// What reading a character costs, and a character of a regular expression for each unit of the text.
const TEXT: f64 = 0.1;
const PATTERN: f64 = 0.25;
/// What making a list costs, and calling a function that makes one.
const LIST: u64 = 11;

/// How the cost of a call is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Charge {
    /// Whether something is in a list that is known beforehand.
    Nothing,
    One,
    /// A question to the authorizer.
    Question,
    /// A selector is read.
    Selector,
    /// Everything in the first argument is read.
    Traverse,
    /// The first argument is read so often.
    Read(f64),
    /// The result is written.
    Join,
    /// The first argument is searched for a pattern.
    Search,
    /// The first argument is searched for a text.
    Contains,
    /// The second argument is gone through.
    InList,
    /// The shorter of two is read.
    Compare,
    /// The same, but for values of the libraries.
    Equal,
    Concat,
    /// Addresses are compared, and read if they are texts.
    ContainsIp {
        text: bool,
    },
    ContainsCidr {
        text: bool,
    },
    Format,
    Sets(f64),
    /// A list is made.
    List,
    Flatten,
    /// All elements of a list are compared with all: of this argument.
    EachWithEach(usize),
}

impl Charge {
    /// For a call that may mean these overloads; where there are several, only the name of the function counts.
    pub(crate) fn of(function: &str, member: bool, fits: &[&Signature]) -> Charge {
        let by_name = match function {
            "check" => Charge::Question,
            "fieldSelector" | "labelSelector" => Charge::Selector,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => Charge::Traverse,
            "url"
            | "lowerAscii"
            | "upperAscii"
            | "substring"
            | "trim"
            | "jsonpatch.escapeKey"
            | "cidr"
            | "isIP"
            | "isCIDR"
            | "quantity"
            | "isQuantity"
            | "semver"
            | "isSemver" => Charge::Read(1.0),
            "ip" if !member => Charge::Read(1.0),
            "replace" | "split" | "ip.isCanonical" => Charge::Read(2.0),
            "join" => Charge::Join,
            "find" | "findAll" => Charge::Search,
            "validate" => Charge::Format,
            "_==_" => Charge::Equal,
            "_!=_" => Charge::Compare,
            _ => Charge::One,
        };
        let [only] = fits else {
            return match function {
                "containsIP" => Charge::ContainsIp { text: false },
                "containsCIDR" => Charge::ContainsCidr { text: false },
                _ => by_name,
            };
        };
        let text = |index: usize| matches!(only.args.get(index), Some(Type::String));
        let texts = matches!(only.args.first(), Some(Type::String | Type::Bytes));
        match function {
            "containsIP" => Charge::ContainsIp { text: text(1) },
            "containsCIDR" => Charge::ContainsCidr { text: text(1) },
            "startsWith" | "endsWith" | "strings.quote" | "format" => Charge::Read(1.0),
            "bytes" if text(0) => Charge::Read(1.0),
            "string" if only.args == [Type::Bytes] => Charge::Read(1.0),
            "@in" if matches!(only.args.get(1), Some(Type::List(_))) => Charge::InList,
            "_<_" | "_<=_" | "_>_" | "_>=_" if texts => Charge::Compare,
            "_+_" if texts => Charge::Concat,
            "matches" if member => Charge::Search,
            "contains" => Charge::Contains,
            "slice" | "lists.range" | "reverse" => Charge::List,
            "flatten" => Charge::Flatten,
            "distinct" | "sort" => Charge::EachWithEach(0),
            "@sortByAssociatedKeys" => Charge::EachWithEach(1),
            "sets.contains" | "sets.intersects" => Charge::Sets(1.0),
            "sets.equivalent" => Charge::Sets(2.0),
            _ => by_name,
        }
    }

    /// Whether the cost is known only when the result is.
    pub(crate) fn needs_result(self) -> bool {
        matches!(self, Charge::Join | Charge::List)
    }

    /// The cost of one call.
    pub(crate) fn cost(self, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
        let size_at = |index: usize| args.get(index).map_or(1, size);
        match self {
            Charge::Nothing => 0,
            Charge::One => 1,
            Charge::Question => 350_000,
            Charge::Selector => {
                let len = size_at(1);
                let requirements = scaled(len, 0.5);
                10 + scaled(len, TEXT) + requirements.saturating_mul(50)
            }
            Charge::Traverse => args.first().map_or(1, traversal),
            Charge::Read(times) => scaled(size_at(0), times * TEXT),
            Charge::Join => scaled(result.map_or(1, size), 2.0 * TEXT),
            Charge::Search => scaled(size_at(0) + 1, TEXT).saturating_mul(scaled(size_at(1), PATTERN)),
            Charge::Contains => scaled(size_at(0), TEXT).saturating_mul(scaled(size_at(1), TEXT)),
            Charge::InList => size_at(1),
            Charge::Equal if args.first().is_some_and(is_of_library) => 1,
            Charge::Compare | Charge::Equal => scaled(size_at(0).min(size_at(1)), TEXT),
            Charge::Concat => scaled(size_at(0).saturating_add(size_at(1)), TEXT),
            Charge::ContainsIp { text } => {
                scaled(2 * size_at(0), TEXT) + if text { scaled(size_at(1), TEXT) } else { 0 }
            }
            Charge::ContainsCidr { text } => {
                let read = if text { scaled(size_at(1), TEXT) } else { 0 };
                scaled(2 * size_at(0), TEXT) + scaled(size_at(0), TEXT) + 1 + read
            }
            Charge::Format => match args.first() {
                Some(Value::Format(name)) => {
                    let pattern = crate::functions::formats::pattern_size(name);
                    scaled(size_at(1) + 1, TEXT).saturating_mul(scaled(pattern, PATTERN))
                }
                _ => 1,
            },
            Charge::Sets(times) => 1 + (size_at(0).saturating_mul(size_at(1)) as f64 * times) as u64,
            Charge::List => LIST.saturating_add(result.map_or(1, size)),
            Charge::Flatten => {
                let depth = if let Some(Value::Int(depth)) = args.get(1) { *depth as f64 } else { 1.0 };
                LIST.saturating_add((size_at(0) as f64 * depth) as u64)
            }
            Charge::EachWithEach(index) => {
                let Some(Value::List(list)) = args.get(index) else { return 1 };
                let texts = matches!(list.get(0), Some(Value::String(_) | Value::Bytes(_)));
                let pairs = (list.len() as u64).saturating_mul(list.len() as u64);
                LIST.saturating_add((pairs as f64 * if texts { 2.0 + TEXT } else { 2.0 }) as u64)
            }
        }
    }
}

/// Times a factor, rounded up.
fn scaled(n: u64, factor: f64) -> u64 {
    (n as f64 * factor).ceil() as u64
}

/// How large a value is: in characters, bytes, elements or entries.
// upstream: cel-go interpreter/runtimecost.go, actualSize
fn size(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::List(list) => list.len() as u64,
        Value::Map(map) => map.len() as u64,
        Value::Optional(Some(inner)) => size(inner),
        Value::Ip(ip) => {
            if ip.is_ipv4() {
                4
            } else {
                16
            }
        }
        Value::Cidr(_, bits) => u64::from(bits.div_ceil(8)),
        _ => 1,
    }
}

/// What it costs to read all of a value.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * TEXT) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TEXT) as u64,
        Value::List(list) => list.iter().map(|value| traversal(&value)).fold(0, u64::saturating_add),
        Value::Map(map) => {
            let entry = |(key, value): (Key, Value<'_>)| traversal(&key.value()).saturating_add(traversal(&value));
            map.entries().into_iter().map(entry).fold(0, u64::saturating_add)
        }
        _ => 1,
    }
}

fn is_of_library(value: &Value<'_>) -> bool {
    matches!(
        value,
        Value::Quantity(_)
            | Value::Ip(_)
            | Value::Cidr(..)
            | Value::Format(_)
            | Value::Url(_)
            | Value::Semver(_)
            | Value::Authorizer(_)
    )
}
