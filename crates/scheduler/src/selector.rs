//! Selectors in the form in which they are evaluated a thousand times: [`Selector`] on labels, [`NodeRequirement`] on nodes.
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// What one requirement wants of a label's value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Wanted {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Greater(i64),
    Less(i64),
    /// An operator or value that does not exist: nothing fits.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Requirement {
    key: String,
    wanted: Wanted,
}

impl Requirement {
    fn fits(&self, value: Option<&str>) -> bool {
        let listed = |values: &[String]| value.is_some_and(|value| values.iter().any(|listed| listed == value));
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.wanted {
            Wanted::In(values) => listed(values),
            Wanted::NotIn(values) => !listed(values),
            Wanted::Exists => value.is_some(),
            Wanted::DoesNotExist => value.is_none(),
            Wanted::Greater(limit) => number().is_some_and(|is| is > *limit),
            Wanted::Less(limit) => number().is_some_and(|is| is < *limit),
            Wanted::Nothing => false,
        }
    }
}

/// A label selector; no requirement selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// The selector that `selector` means.
    pub fn new(selector: &LabelSelector) -> Self {
        let mut made = Selector::default();
        for (key, value) in selector.match_labels.iter().flatten() {
            made.require(key, value);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values = || {
                let mut values = expression.values.clone().unwrap_or_default();
                values.sort();
                values
            };
            let wanted = match expression.operator.as_str() {
                "In" => Wanted::In(values()),
                "NotIn" => Wanted::NotIn(values()),
                "Exists" => Wanted::Exists,
                "DoesNotExist" => Wanted::DoesNotExist,
                _ => Wanted::Nothing,
            };
            made.0.push(Requirement { key: expression.key.clone(), wanted });
        }
        made.tidy()
    }

    /// The selector of exactly these labels.
    pub fn of_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let mut made = Selector::default();
        for (key, value) in labels {
            made.require(key, value);
        }
        made.tidy()
    }

    fn require(&mut self, key: &str, value: &str) {
        self.0.push(Requirement { key: key.to_owned(), wanted: Wanted::In(vec![value.to_owned()]) });
    }

    /// Both selectors at once.
    pub fn and(mut self, other: &Selector) -> Self {
        self.0.extend(other.0.iter().cloned());
        self.tidy()
    }

    fn tidy(mut self) -> Self {
        self.0.sort();
        self.0.dedup();
        self
    }

    /// Whether there is no requirement.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the selector selects `labels`.
    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        self.0
            .iter()
            .all(|requirement| requirement.fits(labels.and_then(|l| l.get(&requirement.key)).map(String::as_str)))
    }
}

/// One term of a node selector: all requirements hold together; a term without any matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    /// On `metadata.name`, the only field there is.
    names: Vec<Requirement>,
}

impl NodeTerm {
    /// The term that `term` means.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let labels = term.match_expressions.iter().flatten().map(node_requirement).collect();
        let names = term.match_fields.iter().flatten().map(|field| match field.key.as_str() {
            "metadata.name" => node_requirement(field),
            _ => Requirement { key: field.key.clone(), wanted: Wanted::Nothing },
        });
        NodeTerm { labels, names: names.collect() }
    }

    /// Whether a node of that name and labels fits.
    pub fn matches(&self, name: &str, labels: Option<&Labels>) -> bool {
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
        !(self.labels.is_empty() && self.names.is_empty())
            && self.labels.iter().all(|requirement| requirement.fits(label(&requirement.key)))
            && self.names.iter().all(|requirement| requirement.fits(Some(name)))
    }

    /// The only names that the term lets through, if it names any (upstream: NodeAffinity's PreFilter).
    fn named(&self) -> Option<Vec<&str>> {
        let mut named: Option<Vec<&str>> = None;
        for requirement in &self.names {
            if let Wanted::In(values) = &requirement.wanted {
                let values = values.iter().map(String::as_str);
                named = Some(match named {
                    None => values.collect(),
                    Some(known) => values.filter(|value| known.contains(value)).collect(),
                });
            }
        }
        named
    }
}

fn node_requirement(requirement: &NodeSelectorRequirement) -> Requirement {
    let values = || requirement.values.clone().unwrap_or_default();
    let number = || match requirement.values.as_deref() {
        Some([value]) => value.parse::<i64>().ok(),
        _ => None,
    };
    let wanted = match requirement.operator.as_str() {
        "In" => Wanted::In(values()),
        "NotIn" => Wanted::NotIn(values()),
        "Exists" => Wanted::Exists,
        "DoesNotExist" => Wanted::DoesNotExist,
        "Gt" => number().map_or(Wanted::Nothing, Wanted::Greater),
        "Lt" => number().map_or(Wanted::Nothing, Wanted::Less),
        _ => Wanted::Nothing,
    };
    Requirement { key: requirement.key.clone(), wanted }
}

/// What a pod requires of its node: `nodeSelector` and the required node affinity together (upstream:
/// `nodeaffinity.RequiredNodeAffinity`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeRequirement {
    labels: Vec<(String, String)>,
    terms: Option<Vec<NodeTerm>>,
}

impl NodeRequirement {
    /// The requirement of a pod, `None` if it has none.
    pub fn of_pod(spec: &PodSpec) -> Option<Self> {
        let labels: Vec<_> =
            spec.node_selector.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let terms = required.map(|selector| selector.node_selector_terms.iter().map(NodeTerm::new).collect());
        (!labels.is_empty() || terms.is_some()).then_some(NodeRequirement { labels, terms })
    }

    /// The requirement that a node selector makes.
    pub fn of_selector(selector: &NodeSelector) -> Self {
        let terms = selector.node_selector_terms.iter().map(NodeTerm::new).collect();
        NodeRequirement { labels: Vec::new(), terms: Some(terms) }
    }

    /// Whether a node of that name and labels fits.
    pub fn matches(&self, name: &str, labels: Option<&Labels>) -> bool {
        self.labels.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }

    /// The only nodes that can fit by their names, if every term names some.
    pub fn named(&self) -> Option<Vec<&str>> {
        let terms = self.terms.as_ref().filter(|terms| !terms.is_empty())?;
        let mut names = Vec::new();
        for term in terms {
            names.extend(term.named()?);
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node_selector(terms: serde_json::Value) -> NodeRequirement {
        NodeRequirement::of_selector(&serde_json::from_value(json!({ "nodeSelectorTerms": terms })).unwrap())
    }

    #[test]
    fn terms_are_alternatives_and_requirements_of_a_term_hold_together() {
        let labels = Labels::from([("zone".into(), "a".into()), ("cores".into(), "8".into())]);
        let requirement =
            |key: &str, operator: &str, values: &[&str]| json!({ "key": key, "operator": operator, "values": values });
        for (terms, expected) in [
            (
                json!([{ "matchExpressions": [requirement("zone", "In", &["a", "b"]), requirement("cores", "Gt", &["4"])] }]),
                true,
            ),
            (
                json!([{ "matchExpressions": [requirement("zone", "In", &["b"])] }, { "matchFields": [requirement("metadata.name", "In", &["n1"])] }]),
                true,
            ),
            (json!([{ "matchExpressions": [requirement("zone", "NotIn", &["a"])] }]), false),
            (
                json!([{ "matchExpressions": [requirement("disk", "DoesNotExist", &[]), requirement("cores", "Lt", &["8"])] }]),
                false,
            ),
            (json!([{}]), false),
        ] {
            let selector = node_selector(terms);
            assert_eq!(selector.matches("n1", Some(&labels)), expected, "{selector:?}");
        }
    }

    #[test]
    fn a_pod_names_its_nodes_only_if_every_term_does() {
        let name = |values: &[&str]| json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": values }] });
        assert_eq!(node_selector(json!([name(&["b"]), name(&["a"])])).named(), Some(vec!["a", "b"]));
        let other = json!({ "matchExpressions": [{ "key": "zone", "operator": "Exists" }] });
        assert_eq!(node_selector(json!([name(&["b"]), other])).named(), None);
        let fields = json!([{ "matchFields": [
            { "key": "metadata.name", "operator": "In", "values": ["a"] },
            { "key": "metadata.name", "operator": "In", "values": ["b"] },
        ] }]);
        assert_eq!(node_selector(fields).named(), Some(vec![]), "the term contradicts itself");
    }

    #[test]
    fn a_label_selector_without_requirements_selects_everything() {
        let selector = Selector::new(&LabelSelector::default());
        assert!(selector.is_empty() && selector.matches(None));
        let selector: LabelSelector = serde_json::from_value(
            json!({ "matchLabels": { "a": "1" }, "matchExpressions": [{ "key": "b", "operator": "NotIn", "values": ["2"] }] }),
        )
        .unwrap();
        let selector = Selector::new(&selector);
        assert!(selector.matches(Some(&Labels::from([("a".into(), "1".into())]))), "NotIn holds without the label");
        assert!(!selector.matches(Some(&Labels::from([("a".into(), "1".into()), ("b".into(), "2".into())]))));
    }
}
