//! Rules: which resources and operations. Start at [`Rule::matches`].
// upstream: apiserver pkg/admission/plugin/webhook/predicates/rules
use crate::admission::Operation;
use crate::value::Read;
use serde_json::Value;

/// What a write is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct What<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub version: &'a str,
    pub plural: &'a str,
    pub subresource: &'a str,
    /// Empty for cluster-scoped objects, namespaces among them.
    pub namespace: &'a str,
    pub name: &'a str,
}

/// A rule of a webhook or policy.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
    names: Vec<String>,
}

impl Operation {
    /// As requests and rules name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

impl Rule {
    pub(crate) fn of(rule: &Value) -> Self {
        let list = |key: &str| rule.texts(key).map(str::to_owned).collect();
        let split = |resource: &str| {
            let (plural, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            (plural.to_owned(), subresource.to_owned())
        };
        Rule {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: rule.texts("resources").map(split).collect(),
            scope: rule.text("scope").to_owned(),
            names: list("resourceNames"),
        }
    }

    pub(crate) fn matches(&self, what: &What<'_>) -> bool {
        let among = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let resource = |(plural, subresource): &(String, String)| {
            (plural == "*" || plural == what.plural) && (subresource == "*" || subresource == what.subresource)
        };
        let scope = match self.scope.as_str() {
            "Namespaced" => !what.namespace.is_empty(),
            "Cluster" => what.namespace.is_empty(),
            _ => true,
        };
        scope
            && among(&self.operations, what.operation.as_str())
            && among(&self.groups, what.group)
            && among(&self.versions, what.version)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|name| name == what.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(rule: Value, plural: &str, subresource: &str, namespace: &str) -> bool {
        let mut full = json!({"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["v1"]});
        full.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        let what =
            What { operation: Operation::Create, group: "g", version: "v1", plural, subresource, namespace, name: "n" };
        Rule::of(&full).matches(&what)
    }

    #[test]
    fn rules_name_resources_subresources_and_scope() {
        assert!(matches(json!({"resources": ["pods"]}), "pods", "", "a"));
        assert!(!matches(json!({"resources": ["pods"]}), "pods", "exec", "a"));
        assert!(matches(json!({"resources": ["pods/*"]}), "pods", "exec", "a"));
        assert!(matches(json!({"resources": ["*/exec"]}), "pods", "exec", "a"));
        assert!(!matches(json!({"resources": ["*"]}), "pods", "exec", "a"));
        assert!(matches(json!({"resources": ["*/*"]}), "pods", "exec", "a"));
        assert!(!matches(json!({"resources": ["*"], "scope": "Cluster"}), "pods", "", "a"));
        assert!(matches(json!({"resources": ["*"], "scope": "Cluster"}), "nodes", "", ""));
        assert!(!matches(json!({"resources": ["*"], "resourceNames": ["m"]}), "pods", "", "a"));
        assert!(!matches(json!({"resources": ["*"], "operations": ["DELETE"]}), "pods", "", "a"));
    }
}
