//! What a request asks for: upstream's `RequestInfo`. Start at [`RequestInfo::parse`].
use crate::query::{self, Query};
use http::{Method, Uri};

/// A request's meaning, from its method and URI alone; authorization and routing both go by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether an API resource is meant, or only a path.
    pub is_resource_request: bool,
    /// The decoded path.
    pub path: String,
    /// The verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or for plain paths
    /// the method in lower case.
    pub verb: &'static str,
    /// `api` or `apis`, empty for plain paths.
    pub api_prefix: String,
    /// The API group, empty for the core group.
    pub api_group: String,
    /// The API version.
    pub api_version: String,
    /// The namespace, empty for cluster-scoped resources and for requests over all namespaces.
    pub namespace: String,
    /// The resource in plural, `pods`.
    pub resource: String,
    /// The subresource, `status`; empty if none.
    pub subresource: String,
    /// The object's name; empty for collections.
    pub name: String,
    /// The path segments from the resource on: resource, name, subresource, and what follows it (proxied paths).
    pub parts: Vec<String>,
    /// The decoded query parameters.
    pub query: Query,
}

impl RequestInfo {
    /// Reads method and URI as upstream's `RequestInfoFactory.NewRequestInfo` does.
    pub fn parse(method: &Method, uri: &Uri) -> Self {
        let query = Query::parse(uri.query().unwrap_or_default());
        let path = query::decode(uri.path(), false);
        let plain = RequestInfo { verb: method_verb(method), path, query, ..RequestInfo::default() };
        // Segments are split before they are decoded, so that an escaped slash stays inside its segment.
        let raw: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
        let segments: Vec<String> = raw.iter().map(|segment| query::decode(segment, false)).collect();
        plain.with_resource(method, &segments)
    }

    fn with_resource(mut self, method: &Method, segments: &[String]) -> Self {
        let [prefix, rest @ ..] = segments else { return self };
        let (group, version, mut rest) = match (prefix.as_str(), rest) {
            ("api", [version, rest @ ..]) if !rest.is_empty() => ("", version, rest),
            ("apis", [group, version, rest @ ..]) if !rest.is_empty() => (group.as_str(), version, rest),
            _ => return self,
        };
        self.is_resource_request = true;
        (self.api_prefix, self.api_group, self.api_version) = (prefix.clone(), group.to_owned(), version.clone());
        self.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let watch_prefix = rest[0] == "watch" && rest.len() > 1;
        if watch_prefix {
            (self.verb, rest) = ("watch", &rest[1..]);
        }
        if rest[0] == "namespaces"
            && let Some(namespace) = rest.get(1)
        {
            namespace.clone_into(&mut self.namespace);
            if rest.get(2).is_some_and(|next| next != "status" && next != "finalize") {
                rest = &rest[2..];
            }
        }
        self.parts = rest.to_vec();
        self.resource = rest.first().cloned().unwrap_or_default();
        self.name = rest.get(1).cloned().unwrap_or_default();
        if !watch_prefix {
            self.subresource = rest.get(2).cloned().unwrap_or_default();
        }
        if self.name.is_empty() && (self.verb == "get" || self.verb == "watch") {
            self.verb = if watch_prefix || self.query.flag("watch") { "watch" } else { "list" };
        } else if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection";
        }
        if matches!(self.verb, "list" | "watch" | "deletecollection")
            && self.name.is_empty()
            && let Some(name) = selected_name(self.query.text("fieldSelector"))
        {
            self.name = name.to_owned();
        }
        self
    }

    /// Whether the request ends by itself soon: not a watch, nor a stream (upstream's long-running check).
    pub fn is_long_running(&self) -> bool {
        let streams = matches!(self.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward");
        self.is_resource_request && (self.verb == "watch" || streams)
    }
}

/// The name in a `metadata.name=<name>` requirement of a field selector, if it is well-formed enough to be one.
fn selected_name(selector: &str) -> Option<&str> {
    let mut names = selector.split(',').filter_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        Some(value.strip_prefix('=').unwrap_or(value))
    });
    names.next().filter(|name| !name.is_empty() && !name.contains(['/', '%']) && *name != "." && *name != "..")
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str) -> RequestInfo {
        RequestInfo::parse(&method, &uri.parse().unwrap())
    }

    fn brief(method: Method, uri: &str) -> String {
        let i = parse(method, uri);
        format!(
            "{} {}/{} ns={} {} {} {}",
            i.verb, i.api_group, i.api_version, i.namespace, i.resource, i.name, i.subresource
        )
    }

    #[test]
    fn resource_paths_give_verb_group_namespace_and_name() {
        for (method, uri, want) in [
            (Method::GET, "/api/v1/namespaces", "list /v1 ns= namespaces  "),
            (Method::GET, "/api/v1/namespaces/other", "get /v1 ns=other namespaces other "),
            (Method::PUT, "/api/v1/namespaces/other/finalize", "update /v1 ns=other namespaces other finalize"),
            (Method::GET, "/api/v1/namespaces/other/pods", "list /v1 ns=other pods  "),
            (Method::GET, "/api/v1/namespaces/other/pods/foo/log", "get /v1 ns=other pods foo log"),
            (Method::GET, "/api/v1/pods?watch=true", "watch /v1 ns= pods  "),
            (Method::GET, "/api/v1/watch/namespaces/other/pods/foo", "watch /v1 ns=other pods foo "),
            (Method::DELETE, "/apis/apps/v1/namespaces/a/deployments", "deletecollection apps/v1 ns=a deployments  "),
            (Method::PATCH, "/apis/apps/v1/namespaces/a/deployments/d/scale", "patch apps/v1 ns=a deployments d scale"),
            (Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Dfoo", "list /v1 ns= pods foo "),
            (Method::POST, "/api/v1/namespaces/a/pods/p/binding", "create /v1 ns=a pods p binding"),
        ] {
            assert_eq!(brief(method, uri), want, "{uri}");
        }
    }

    #[test]
    fn other_paths_are_not_resource_requests() {
        for uri in ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/version"] {
            let info = parse(Method::GET, uri);
            assert!(!info.is_resource_request, "{uri}");
            assert_eq!((info.verb, info.path.as_str()), ("get", uri));
        }
    }

    #[test]
    fn proxied_paths_keep_their_rest() {
        let info = parse(Method::GET, "/api/v1/namespaces/a/services/s/proxy/x/y");
        assert_eq!(info.parts, ["services", "s", "proxy", "x", "y"]);
        assert!(info.is_long_running());
    }
}
