//! `intstr.IntOrString` in dynamic objects: ports and percentages.
use serde_json::Value;

use crate::{field::go_quote, names};

/// A number or a string, borrowed from an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrString<'a> {
    /// A number.
    Int(i32),
    /// A name or a percentage.
    String(&'a str),
}

impl<'a> IntOrString<'a> {
    /// From a value of an object; `None` if it is neither an `int32` nor a string.
    pub fn from_value(value: &'a Value) -> Option<IntOrString<'a>> {
        match value {
            Value::String(s) => Some(IntOrString::String(s)),
            other => other.as_i64().and_then(|n| i32::try_from(n).ok()).map(IntOrString::Int),
        }
    }

    /// The number itself, or the percentage of `total`, rounded up or down.
    // upstream: intstr.GetScaledValueFromIntOrPercent
    pub fn scaled(self, total: i64, round_up: bool) -> Result<i64, String> {
        match self {
            IntOrString::Int(n) => Ok(n.into()),
            IntOrString::String(s) => {
                if !names::percent(s).is_empty() {
                    return Err("invalid value for IntOrString: invalid type: string is not a percentage".into());
                }
                let percent: i64 = s.trim_end_matches('%').parse().map_err(|_| {
                    format!("invalid value for IntOrString: invalid value {}: value out of range", go_quote(s))
                })?;
                let scaled = percent.saturating_mul(total);
                Ok(if round_up { scaled.saturating_add(99).div_euclid(100) } else { scaled.div_euclid(100) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentages_are_rounded_as_asked() {
        let (a, b) = (json!("25%"), json!(3));
        assert_eq!(IntOrString::from_value(&a).unwrap().scaled(10, true), Ok(3));
        assert_eq!(IntOrString::from_value(&a).unwrap().scaled(10, false), Ok(2));
        assert_eq!(IntOrString::from_value(&b).unwrap().scaled(10, false), Ok(3));
        assert!(IntOrString::String("http").scaled(1, true).is_err());
        assert_eq!(IntOrString::from_value(&json!(1.5)), None);
    }
}
