//! What the rules of a definition may cost at worst. Start at [`Costs`].
// upstream: apiextensions-apiserver pkg/apis/apiextensions/validation, StaticEstimatedCostLimit, TotalCost
use crate::value::Read;
use pintle_api::field::{FieldError, Path};
use serde_json::Value;

/// What one expression may cost, as often as its value can be in an object.
const EXPRESSION_LIMIT: u64 = 10_000_000;
/// What all expressions of a schema may cost.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// How many of the most expensive expressions are named when all together cost too much.
const NAMED: usize = 4;

/// The costs of the expressions of one schema.
#[derive(Debug)]
pub(super) struct Costs {
    /// Whether each expression has to keep its own limit.
    each: bool,
    total: u64,
    /// The most expensive ones, that one first.
    highest: Vec<(u64, String)>,
}

impl Costs {
    pub(super) fn new(each: bool) -> Self {
        Costs { each, total: 0, highest: Vec::new() }
    }

    /// Counts the cost of the expression at `at`; `name` is what an error calls the cost.
    pub(super) fn add(&mut self, name: &str, cost: u64, at: &str, errors: &mut Vec<FieldError>) {
        if self.each && cost > EXPRESSION_LIMIT {
            errors.push(FieldError::forbidden(&Path::root(at), exceeds(name, cost, EXPRESSION_LIMIT)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_LIMIT / 100 {
            let place = self.highest.partition_point(|(other, _)| *other >= cost);
            self.highest.insert(place, (cost, at.to_owned()));
            self.highest.truncate(NAMED);
        }
    }

    /// What is wrong with all of them together, in the schema at `root`.
    pub(super) fn judge(self, root: &str, errors: &mut Vec<FieldError>) {
        if self.total <= SCHEMA_LIMIT {
            return;
        }
        let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        errors.extend(self.highest.iter().map(|(_, at)| FieldError::forbidden(&Path::root(at), why)));
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(FieldError::forbidden(&Path::root(root), exceeds(name, self.total, SCHEMA_LIMIT)));
    }
}

fn exceeds(name: &str, cost: u64, limit: u64) -> String {
    let factor = match cost as f64 / limit as f64 {
        factor if factor > 100.0 => "more than 100x".to_owned(),
        // What is nearly 1 is shown in full.
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength \
         where arrays, maps, and strings are declared)"
    )
}

/// How often a value inside `openapi` can be in an object in which `openapi` can be `so_far` times; `None`: without limit.
// upstream: apiextensions-apiserver pkg/apis/apiextensions/validation, extractMaxElements
pub(super) fn cardinality(openapi: &Value, so_far: Option<u64>) -> Option<u64> {
    let limit = |key: &str| openapi.field(key).as_i64().map(|limit| u64::try_from(limit).unwrap_or_default());
    let factor = match openapi.text("type") {
        "object" if openapi.has("additionalProperties") => limit("maxProperties")?,
        "array" => limit("maxItems")?,
        _ => 1,
    };
    so_far.map(|so_far| so_far.saturating_mul(factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(each: bool, costs: &[u64]) -> Vec<String> {
        let (mut sum, mut errors) = (Costs::new(each), Vec::new());
        for (i, cost) in costs.iter().enumerate() {
            sum.add("estimated rule cost", *cost, &format!("rule{i}"), &mut errors);
        }
        sum.judge("schema", &mut errors);
        errors.iter().map(|error| error.to_string().replace(" (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)", "")).collect()
    }

    #[test]
    fn each_expression_has_a_limit() {
        assert_eq!(texts(true, &[10_000_000]), Vec::<String>::new());
        assert_eq!(
            texts(true, &[10_000_001, 14_999_999, 15_000_000]),
            [
                "rule0: Forbidden: estimated rule cost exceeds budget by factor of 1.000000x",
                "rule1: Forbidden: estimated rule cost exceeds budget by factor of 1.500000x",
                "rule2: Forbidden: estimated rule cost exceeds budget by factor of 1.5x"
            ]
        );
        assert_eq!(texts(false, &[10_000_001]), Vec::<String>::new());
    }

    #[test]
    fn together_they_have_one_and_the_most_expensive_are_named() {
        let contributed =
            "Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        let total = "schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds \
                     budget by factor of";
        assert_eq!(
            texts(false, &[999_999, 60_000_000, 70_000_000, 60_000_000, 1_000_000, 1_000_001]),
            [2, 1, 3, 5]
                .map(|i| format!("rule{i}: {contributed}"))
                .into_iter()
                .chain([format!("{total} 1.9x")])
                .collect::<Vec<_>>()
        );
        let many = texts(false, &[u64::MAX, u64::MAX]);
        assert_eq!(many.last().unwrap(), &format!("{total} more than 100x"));
        assert_eq!(texts(true, &[10_000_000; 10]), Vec::<String>::new());
    }

    #[test]
    fn values_are_as_often_as_the_lists_and_maps_around_them_allow() {
        let list = json!({"type": "array", "maxItems": 10});
        let map = json!({"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 3});
        assert_eq!(cardinality(&map, cardinality(&list, Some(1))), Some(30));
        assert_eq!(cardinality(&json!({"type": "object"}), Some(7)), Some(7));
        assert_eq!(cardinality(&json!({"type": "array"}), Some(7)), None);
        assert_eq!(cardinality(&list, None), None);
    }
}
