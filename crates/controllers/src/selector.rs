//! Label selectors as controllers use them: [`matches`] decides for a `LabelSelector`, [`matches_map`] for equality maps.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// True if `selector` selects `labels`. A selector with an unknown operator selects nothing.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value = |key: &String| labels.and_then(|labels| labels.get(key));
    selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted))
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let listed = |value| requirement.values.iter().flatten().any(|wanted| wanted == value);
            match requirement.operator.as_str() {
                "In" => value(&requirement.key).is_some_and(listed),
                "NotIn" => !value(&requirement.key).is_some_and(listed),
                "Exists" => value(&requirement.key).is_some(),
                "DoesNotExist" => value(&requirement.key).is_none(),
                _ => false,
            }
        })
}

/// True if `labels` hold every pair of `wanted`.
pub fn matches_map(wanted: &Labels, labels: Option<&Labels>) -> bool {
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// True if `selector` has no requirement, so that it selects everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// `selector` as upstream's messages print it, in Go's notation.
pub fn go_text(selector: &LabelSelector) -> String {
    let mut text = "&LabelSelector{MatchLabels:map[string]string{".to_owned();
    for (key, value) in selector.match_labels.iter().flatten() {
        text += &format!("{key}: {value},");
    }
    text += "},MatchExpressions:[]LabelSelectorRequirement{";
    for requirement in selector.match_expressions.iter().flatten() {
        let values = requirement.values.as_ref().map(|values| values.join(" ")).unwrap_or_default();
        let (key, operator) = (&requirement.key, &requirement.operator);
        text += &format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},");
    }
    text + "},}"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: serde_json::Value) -> LabelSelector {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn each_operator_selects_as_upstream() {
        let labels: Labels = [("app".to_owned(), "web".to_owned())].into();
        let expression = |key: &str, operator: &str, values: &[&str]| {
            selector(serde_json::json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        assert!(matches(&expression("app", "In", &["db", "web"]), Some(&labels)));
        assert!(!matches(&expression("app", "NotIn", &["web"]), Some(&labels)));
        assert!(matches(&expression("tier", "NotIn", &["web"]), Some(&labels)));
        assert!(matches(&expression("app", "Exists", &[]), Some(&labels)));
        assert!(matches(&expression("tier", "DoesNotExist", &[]), None));
        assert!(!matches(&selector(serde_json::json!({"matchLabels": {"app": "db"}})), Some(&labels)));
        assert!(matches(&LabelSelector::default(), None));
    }

    #[test]
    fn messages_show_a_selector_as_upstream_prints_it() {
        let selector = selector(serde_json::json!({"matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]}));
        assert_eq!(
            go_text(&selector),
            "&LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{\
             LabelSelectorRequirement{Key:tier,Operator:In,Values:[a b],},},}"
        );
    }
}
