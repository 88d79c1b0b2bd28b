//! What calls cost beside their arguments. Start at [`price`].
use super::Estimate;
use super::walk::{ONE, Part};
use crate::sizes::Sizes;
use crate::types::Type;

/// What reading a character of text costs.
const TEXT: f64 = 0.1;
/// What a character of a regular expression costs for each unit of the text.
const PATTERN: f64 = 0.25;
/// As long as the patterns behind named formats may be.
const FORMAT_PATTERN: f64 = 128.0;
/// As long as the names of formats may be.
const FORMAT_NAME: u64 = 64;
/// As many bytes as addresses have.
const ADDRESS: Estimate = Estimate { min: 4, max: 16 };
/// What making a list costs.
const LIST: Estimate = Estimate::exactly(10);
/// A question to the authorizer: an expression may ask two.
const QUESTION: Estimate = Estimate::exactly(350_000);
/// What a requirement of a selector costs, which has two characters at least.
const REQUIREMENT: f64 = 50.0;
const REQUIREMENTS: f64 = 0.5;

/// What a call costs, and how large its result is, where that tells more than the result's type.
pub(super) struct Price {
    pub cost: Estimate,
    pub size: Option<Estimate>,
}

impl From<Estimate> for Price {
    fn from(cost: Estimate) -> Self {
        Price { cost, size: None }
    }
}

impl Price {
    fn sized(cost: Estimate, size: Estimate) -> Self {
        Price { cost, size: Some(size) }
    }
}

/// The price of calling the overload with parameters of the types `wanted`.
pub(super) fn price(
    function: &str,
    wanted: &[Type],
    target: Option<&Part<'_>>,
    args: &[Part<'_>],
    sizes: Option<&Sizes>,
) -> Price {
    lists_and_sets(function, wanted, target, args)
        .or_else(|| texts(function, target, args, sizes))
        .or_else(|| libraries(function, wanted, target, args))
        .or_else(|| language(function, wanted, target, args))
        .unwrap_or(ONE.into())
}

// upstream: cel-go ext/lists.go, ext/sets.go
fn lists_and_sets(function: &str, wanted: &[Type], target: Option<&Part<'_>>, args: &[Part<'_>]) -> Option<Price> {
    let making = |factor: f64, size: Estimate| Some(Price::sized(size.scaled(factor).plus(ONE).plus(LIST), size));
    let int = |arg: &Part<'_>, unknown: u64| arg.int.map_or(unknown, |int| u64::try_from(int).unwrap_or_default());
    let of = |part: &Part<'_>| part.size_or_unknown();
    match (function, target, args) {
        ("slice", Some(list), [start, end]) => {
            let len = int(end, of(list).max).wrapping_sub(int(start, 0));
            making(1.0, Estimate::exactly(len))
        }
        ("lists.range", None, [n]) => making(1.0, Estimate::exactly(int(n, u64::MAX))),
        ("reverse", Some(list), []) => making(1.0, of(list)),
        ("flatten", Some(list), []) => making(1.0, of(list)),
        ("flatten", Some(list), [depth]) => making(int(depth, u64::MAX) as f64, of(list)),
        ("distinct", Some(list), []) => making(2.0, of(list).times(of(list))),
        ("sort", Some(list), []) => {
            let of_texts =
                matches!(wanted.first(), Some(Type::List(of)) if matches!(of.element, Type::String | Type::Bytes));
            making(if of_texts { 2.0 + TEXT } else { 2.0 }, of(list).times(of(list)))
        }
        ("@sortByAssociatedKeys", Some(_), [keys]) => {
            let of_texts =
                matches!(wanted.get(1), Some(Type::List(of)) if matches!(of.element, Type::String | Type::Bytes));
            making(if of_texts { 2.0 + TEXT } else { 2.0 }, of(keys).times(of(keys)))
        }
        ("sets.contains" | "sets.intersects", _, [a, b]) => Some(of(a).times(of(b)).plus(ONE).into()),
        ("sets.equivalent", _, [a, b]) => Some(of(a).times(of(b)).scaled(2.0).plus(ONE).into()),
        _ => None,
    }
}

/// How large the elements of a list are; `None` if it is no list.
fn elements(list: &Part<'_>, sizes: Option<&Sizes>) -> Option<(Type, Estimate)> {
    let ty = match &list.ty {
        Type::List(of) => of.element.clone(),
        Type::Map(of) => of.0.clone(),
        Type::Optional(of) => (**of).clone(),
        _ => return None,
    };
    let known = sizes.zip(list.path.as_ref()).and_then(|(sizes, path)| sizes.at(&path.items().names()[1..]));
    Some((ty, known.unwrap_or(Estimate::UNKNOWN)))
}

// upstream: apiserver pkg/cel/library/cost.go, EstimateCallCost
fn texts(function: &str, target: Option<&Part<'_>>, args: &[Part<'_>], sizes: Option<&Sizes>) -> Option<Price> {
    match (function, target, args) {
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target), _) => {
            let size = target.size_or_unknown();
            let cost = match elements(target, sizes) {
                Some((Type::String | Type::Bytes, each)) => size.times(ONE.plus(each.scaled(TEXT))),
                Some(_) => size.times(ONE),
                None => size.scaled(TEXT),
            };
            Some(cost.into())
        }
        ("url" | "jsonpatch.escapeKey", _, [text]) => {
            let size = text.size_or_unknown();
            Some(Price::sized(size.scaled(TEXT), size))
        }
        ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(text), _) => {
            let size = text.size_or_unknown();
            Some(Price::sized(size.scaled(TEXT), size))
        }
        ("replace", Some(text), [from, to, ..]) => {
            let size = text.size_or_unknown();
            let result = replaced(size, from.size_or_unknown(), to.size_or_unknown());
            Some(Price::sized(size.scaled(2.0 * TEXT), result))
        }
        ("split", Some(text), args) => {
            let size = text.size_or_unknown();
            // At most every character is a part.
            let most = args.get(1).and_then(|limit| limit.int).map_or(size.max, i64::cast_unsigned);
            Some(Price::sized(size.scaled(2.0 * TEXT), Estimate { min: 0, max: most }))
        }
        ("join", Some(list), args) => {
            let size = list.size_or_unknown();
            let texts = elements(list, sizes).map_or(Estimate::exactly(0), |(_, each)| size.times(each));
            let separators = Estimate { min: size.min.saturating_sub(1), max: size.max.saturating_sub(1) };
            let separator = args.first().map_or(Estimate::exactly(0), |arg| arg.size_or_unknown().times(separators));
            let size = texts.plus(separator);
            Some(Price::sized(size.scaled(TEXT), size))
        }
        ("find" | "findAll", Some(text), [pattern, ..]) => {
            let size = text.size_or_unknown();
            let cost = search(size, pattern.size_or_unknown());
            Some(Price::sized(cost, Estimate { min: 0, max: size.max }))
        }
        _ => None,
    }
}

/// What it costs to search a text for a regular expression.
fn search(text: Estimate, pattern: Estimate) -> Estimate {
    text.plus(ONE).scaled(TEXT).times(pattern.scaled(PATTERN))
}

/// How long a text is in which all of `from` is replaced.
fn replaced(text: Estimate, from: Estimate, to: Estimate) -> Estimate {
    // The longest result comes of the shortest places and the longest replacement, and the other way round.
    let result = |text: u64, from: u64, to: u64, stays: bool| {
        let (count, kept) = match from {
            // What is put around every character.
            0 => (text.saturating_add(1), text),
            _ if stays => (0, text),
            from => ((text as f64 / from as f64).ceil() as u64, 0),
        };
        count.saturating_mul(to).saturating_add(kept)
    };
    Estimate {
        min: result(text.min, from.max, to.min, from.max <= to.min),
        max: result(text.max, from.min, to.max, to.max <= from.min),
    }
}

// upstream: apiserver pkg/cel/library/cost.go, EstimateCallCost
fn libraries(function: &str, wanted: &[Type], target: Option<&Part<'_>>, args: &[Part<'_>]) -> Option<Price> {
    let first = || args.first().map(Part::size_or_unknown);
    let read = |times: f64| first().map(|size| size.scaled(times * TEXT).into());
    match function {
        "check" => Some(QUESTION.into()),
        "fieldSelector" | "labelSelector" if args.len() == 1 => {
            let size = first()?;
            let requirements = size.scaled(REQUIREMENTS).scaled(REQUIREMENT);
            Some(LIST.plus(size.scaled(TEXT)).plus(requirements).into())
        }
        "ip" if target.is_some() => Some(ONE.into()),
        "ip" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => read(1.0),
        "ip.isCanonical" => read(2.0),
        "containsIP" | "containsCIDR" if !args.is_empty() => {
            let mut cost = ADDRESS.plus(ADDRESS).scaled(TEXT);
            if function == "containsCIDR" {
                cost = cost.plus(ADDRESS.scaled(TEXT)).plus(ONE);
            }
            if wanted.get(1) == Some(&Type::String) {
                cost = cost.plus(first()?.scaled(TEXT));
            }
            Some(cost.into())
        }
        "validate" => Some(first()?.scaled(TEXT).scaled(FORMAT_PATTERN * PATTERN).into()),
        "_==_" => same_library_type(args),
        _ => None,
    }
}

/// Whether two values of a type of the libraries are equal.
fn same_library_type(args: &[Part<'_>]) -> Option<Price> {
    let [a, b] = args else { return None };
    match (&a.ty, &b.ty) {
        (Type::Opaque(one), Type::Opaque(other)) if one == other => {}
        _ => return None,
    }
    let at_most = |max: u64| Estimate { min: 1, max }.scaled(TEXT).into();
    match &a.ty {
        Type::Opaque("kubernetes.NamedFormat") => Some(at_most(FORMAT_NAME)),
        Type::Opaque("kubernetes.URL") => Some(at_most(b.size.map_or(1, |size| size.max))),
        _ => Some(ONE.into()),
    }
}

// upstream: cel-go checker/cost.go, functionCost
fn language(function: &str, wanted: &[Type], target: Option<&Part<'_>>, args: &[Part<'_>]) -> Option<Price> {
    match (function, target, args) {
        ("format", Some(text), _) => Some(text.size_or_unknown().scaled(TEXT).into()),
        ("bytes", None, [text]) if wanted == [Type::String] => {
            let size = text.size_or_unknown();
            // A character has up to four bytes; upstream lets this product overflow.
            Some(Price::sized(size.scaled(TEXT), Estimate { max: size.max.wrapping_mul(4), ..size }))
        }
        ("string", None, [bytes]) if wanted == [Type::Bytes] => {
            let size = bytes.size_or_unknown();
            Some(Price::sized(size.scaled(TEXT), Estimate { min: size.min / 4, ..size }))
        }
        ("strings.quote", None, [text]) => {
            let size = text.size_or_unknown();
            let quoted = Estimate { min: size.min.wrapping_add(2), max: size.max.wrapping_mul(2).wrapping_add(2) };
            Some(Price::sized(size.scaled(TEXT), quoted))
        }
        ("startsWith" | "endsWith", _, [part]) => Some(part.size_or_unknown().scaled(TEXT).into()),
        ("@in", _, [_, list]) if matches!(wanted.get(1), Some(Type::List(_))) => {
            Some(list.size_or_unknown().scaled(1.0).into())
        }
        ("matches", Some(text), [pattern]) => Some(search(text.size_or_unknown(), pattern.size_or_unknown()).into()),
        ("contains", Some(text), [part]) => {
            Some(text.size_or_unknown().scaled(TEXT).times(part.size_or_unknown().scaled(TEXT)).into())
        }
        ("_+_", _, [a, b]) => {
            let sum = a.size_or_unknown().plus(b.size_or_unknown());
            match wanted.first()? {
                Type::List(_) => Some(Price::sized(ONE, sum)),
                Type::String | Type::Bytes => Some(Price::sized(sum.scaled(TEXT), sum)),
                _ => None,
            }
        }
        ("_==_" | "_!=_", _, [a, b]) => Some(compared(a, b).into()),
        ("_<_" | "_<=_" | "_>_" | "_>=_", _, [a, b]) if matches!(wanted.first(), Some(Type::String | Type::Bytes)) => {
            Some(compared(a, b).into())
        }
        _ => None,
    }
}

/// What comparing two values costs: the shorter one is read.
fn compared(a: &Part<'_>, b: &Part<'_>) -> Estimate {
    let max = a.size_or_unknown().max.min(b.size_or_unknown().max);
    Estimate { min: u64::from(max > 0), max }.scaled(TEXT)
}
