//! Label selectors ([`LabelSelector`]) and field selectors ([`FieldSelector`]): parse, print, match.
mod fields;
mod parser;

use serde_json::{Map, Value};

use crate::{
    field::{FieldError, Path, aggregate, go_quote},
    names,
};

pub use fields::{FieldSelector, FieldTerm, canonical_field, field_value};

/// Why a selector was refused, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// How a requirement compares the value of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the operators of the API")]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    /// A checked requirement; `path` is where the errors point.
    pub fn new(key: String, operator: Operator, values: Vec<String>, path: &Path<'_>) -> Result<Self, SelectorError> {
        use Operator::{DoesNotExist, DoubleEquals, Equals, Exists, GreaterThan, In, LessThan, NotEquals, NotIn};
        let mut errors = Vec::new();
        let wrong_key = names::qualified_name(&key);
        if !wrong_key.is_empty() {
            errors.push(FieldError::invalid(&path.child("key"), &key, wrong_key.join("; ")));
        }
        let values_path = path.child("values");
        let complaint = match operator {
            In | NotIn if values.is_empty() => Some("for 'in', 'notin' operators, values set can't be empty"),
            Equals | DoubleEquals | NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Exists | DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            GreaterThan | LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        if let Some(complaint) = complaint {
            let shown = Value::from(values.clone());
            errors.push(FieldError::invalid(&values_path, &shown, complaint));
        }
        for (i, value) in values.iter().enumerate() {
            if matches!(operator, GreaterThan | LessThan) && value.parse::<i64>().is_err() {
                let complaint = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(&values_path.index(i), value, complaint));
            }
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(&values_path.index(i).key(&key), value, wrong.join("; ")));
            }
        }
        if errors.is_empty() {
            Ok(Requirement { key, operator, values })
        } else {
            Err(SelectorError(aggregate(&errors)))
        }
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label with this value (`None`: no such label) satisfies the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let has = |v: &str| self.values.iter().any(|own| own == v);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(has),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (value.and_then(|v| v.parse::<i64>().ok()), bound) {
                    (Some(v), Some(bound)) if self.operator == Operator::GreaterThan => v > bound,
                    (Some(v), Some(bound)) => v < bound,
                    _ => false,
                }
            }
        }
    }
}

impl std::fmt::Display for Requirement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut values = self.values.clone();
        values.sort_unstable();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

/// A conjunction of requirements on labels; displayed in the form that `labelSelector=` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelSelector {
    /// Matches no object: what a missing `selector` of most kinds means.
    Nothing,
    /// Matches objects that satisfy all requirements, sorted by key; none: every object.
    All(Vec<Requirement>),
}

impl LabelSelector {
    /// Matches every object.
    pub const EVERYTHING: LabelSelector = LabelSelector::All(Vec::new());

    /// Parses the string form: `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        parser::parse(text).map(LabelSelector::sorted)
    }

    fn sorted(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector::All(requirements)
    }

    /// From a plain map of labels, as `spec.selector` of a Service. Not validated.
    pub fn from_map(labels: &Map<String, Value>) -> LabelSelector {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        };
        LabelSelector::sorted(labels.iter().map(requirement).collect())
    }

    /// From a `metav1.LabelSelector` object; null matches nothing, an empty one everything.
    pub fn from_value(selector: &Value) -> Result<LabelSelector, SelectorError> {
        let Some(selector) = selector.as_object() else { return Ok(LabelSelector::Nothing) };
        let root = Path::root("");
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let values = vec![value.as_str().unwrap_or_default().to_owned()];
            requirements.push(Requirement::new(key.clone(), Operator::Equals, values, &root)?);
        }
        for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| e.get(field).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{} is not a valid label selector operator", go_quote(other))));
                }
            };
            let values = e.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(text("key").to_owned(), operator, values, &root)?);
        }
        Ok(LabelSelector::sorted(requirements))
    }

    /// Whether the selector matches every object.
    pub fn is_everything(&self) -> bool {
        matches!(self, LabelSelector::All(r) if r.is_empty())
    }

    /// The requirements; `None` if nothing can match.
    pub fn requirements(&self) -> Option<&[Requirement]> {
        match self {
            LabelSelector::Nothing => None,
            LabelSelector::All(requirements) => Some(requirements),
        }
    }

    /// Whether labels looked up with `label` satisfy the selector.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements().is_some_and(|all| all.iter().all(|r| r.matches(label(&r.key))))
    }

    /// Whether `labels` (`metadata.labels`) satisfy the selector.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_with(|key| labels?.get(key)?.as_str())
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, r) in self.requirements().into_iter().flatten().enumerate() {
            write!(f, "{}{r}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(selector: &str, labels: &Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(labels.as_object())
    }

    #[test]
    fn string_selectors_match_as_upstreams() {
        let labels = json!({"a": "1", "b": "x"});
        for yes in ["", "a=1", "a==1,b", "a in (1,2)", "a notin (2)", "!c", "c!=1", "a>0,a<2", "b in(x)", "a = 1 , b"] {
            assert!(matches(yes, &labels), "{yes}");
        }
        for no in ["a=2", "c", "!a", "a!=1", "a>1", "b>0", "c in (x)"] {
            assert!(!matches(no, &labels), "{no}");
        }
    }

    #[test]
    fn printing_sorts_keys_and_values() {
        for (from, to) in
            [("b=1,a", "a,b=1"), ("a in (z,y)", "a in (y,z)"), ("!x", "!x"), ("a in ()", "a in ()"), ("x=", "x=")]
        {
            assert_eq!(LabelSelector::parse(from).unwrap().to_string(), to, "{from}");
        }
    }

    #[test]
    fn parse_errors_are_upstreams() {
        for (selector, error) in [
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a=1 b", "found 'b', expected: ',' or 'end of string'"),
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a x", "unable to parse requirement: found 'x', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap_err().0, error, "{selector}");
        }
        let error = LabelSelector::parse("a=b b=").unwrap_err();
        assert_eq!(error.0, "found 'b', expected: ',' or 'end of string'");
        assert!(LabelSelector::parse("-a=1").unwrap_err().0.starts_with(
            "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of alphanumeric"
        ));
        assert!(LabelSelector::parse("a=-1").unwrap_err().0.starts_with(
            "unable to parse requirement: values[0][a]: Invalid value: \"-1\": a valid label must be an empty string"
        ));
    }

    #[test]
    fn selector_objects() {
        assert_eq!(LabelSelector::from_value(&Value::Null), Ok(LabelSelector::Nothing));
        assert!(LabelSelector::from_value(&json!({})).unwrap().is_everything());
        let expressions =
            json!([{"key": "b", "operator": "NotIn", "values": ["x"]}, {"key": "c", "operator": "Exists"}]);
        let selector = LabelSelector::from_value(&json!({"matchLabels": {"a": "1"}, "matchExpressions": expressions}));
        assert_eq!(selector.unwrap().to_string(), "a=1,b notin (x),c");
        let bad = LabelSelector::from_value(&json!({"matchExpressions": [{"key": "b", "operator": "Is"}]}));
        assert_eq!(bad.unwrap_err().0, "\"Is\" is not a valid label selector operator");
    }
}
