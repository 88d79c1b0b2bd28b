//! What all Ingresses together say (networking.k8s.io/v1): which backend answers a host and a path. Pure.
//!
//! Ingresses are taken in the order of their creation, so that the older one keeps a host's path that two of them name.
use crate::options::Options;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The `spec.controller` of the IngressClasses that are answered here.
pub(crate) const CONTROLLER: &str = "pintle.dev/ingress";
/// The annotation that named the class before IngressClasses were there.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// A port of a Service, as an Ingress names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Port {
    Name(String),
    Number(i32),
}

/// Where requests go: a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Service {
    pub namespace: String,
    pub name: String,
    pub port: Port,
}

/// A backend and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub service: Service,
    pub options: Options,
}

#[derive(Debug)]
struct Path {
    /// Without a slash at the end, but for paths that are exact.
    path: String,
    exact: bool,
    route: Arc<Route>,
}

impl Path {
    /// upstream: the API's description of `pathType`.
    fn matches(&self, path: &str) -> bool {
        if self.exact {
            return path == self.path;
        }
        path.strip_prefix(&self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// What one host serves.
#[derive(Debug, Default)]
struct Host {
    /// The longest first; of the same length, exact ones first.
    paths: Vec<Path>,
    default: Option<Arc<Route>>,
}

/// The rules of all Ingresses.
#[derive(Debug, Default)]
pub(crate) struct Table {
    exact: HashMap<String, Host>,
    /// `foo.com` for `*.foo.com`.
    wildcard: HashMap<String, Host>,
    /// The rules without a host.
    any: Host,
    /// For what no rule takes.
    default: Option<Arc<Route>>,
    /// Hosts whose TLS the backend itself speaks.
    passthrough: HashMap<String, Arc<Route>>,
    /// Hosts with a certificate, to the Secret (namespace, name) that has it.
    pub certificates: HashMap<String, (String, String)>,
}

impl Table {
    /// Compiles the Ingresses that belong here.
    pub fn of<'a>(ingresses: impl IntoIterator<Item = &'a Ingress>) -> Self {
        let mut table = Table::default();
        let mut ordered: Vec<&Ingress> = ingresses.into_iter().collect();
        ordered.sort_by_key(|ingress| {
            let meta = &ingress.metadata;
            (meta.creation_timestamp.as_ref().map(|t| t.0), meta.namespace.clone(), meta.name.clone())
        });
        for ingress in ordered {
            table.add(ingress);
        }
        let hosts = table.exact.values_mut().chain(table.wildcard.values_mut()).chain([&mut table.any]);
        for host in hosts {
            host.paths.sort_by_key(|path| std::cmp::Reverse((path.path.len(), path.exact)));
        }
        table
    }

    fn add(&mut self, ingress: &Ingress) {
        let Some(spec) = &ingress.spec else { return };
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let options = Options::of(ingress);
        let route = |backend: &IngressBackend| {
            let service = backend.service.as_ref()?;
            let port = service.port.as_ref()?;
            let port = match (&port.name, port.number) {
                (Some(name), _) if !name.is_empty() => Port::Name(name.clone()),
                (_, Some(number)) => Port::Number(number),
                _ => return None,
            };
            let service = Service { namespace: namespace.to_owned(), name: service.name.clone(), port };
            Some(Arc::new(Route { service, options: options.clone() }))
        };
        let default = spec.default_backend.as_ref().and_then(route);
        for rule in spec.rules.iter().flatten() {
            let name = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            if options.tls_passthrough {
                if let Some(route) = paths.clone().find_map(|path| route(&path.backend)) {
                    self.passthrough.entry(name).or_insert(route);
                }
                continue;
            }
            let host = match name.strip_prefix("*.") {
                _ if name.is_empty() => &mut self.any,
                Some(rest) => self.wildcard.entry(rest.to_owned()).or_default(),
                None => self.exact.entry(name).or_default(),
            };
            for path in paths {
                let exact = path.path_type == "Exact";
                let text = path.path.as_deref().unwrap_or("/");
                let text = if exact { text } else { text.trim_end_matches('/') };
                let taken = host.paths.iter().any(|known| known.exact == exact && known.path == text);
                if !taken && let Some(route) = route(&path.backend) {
                    host.paths.push(Path { path: text.to_owned(), exact, route });
                }
            }
            if host.default.is_none() {
                host.default.clone_from(&default);
            }
        }
        if self.default.is_none() {
            self.default = default;
        }
        for tls in spec.tls.iter().flatten() {
            let Some(secret) = tls.secret_name.as_ref().filter(|name| !name.is_empty()) else { continue };
            let named: Vec<&String> = tls.hosts.iter().flatten().collect();
            let ruled = spec.rules.iter().flatten().filter_map(|rule| rule.host.as_ref());
            let hosts = if named.is_empty() { ruled.collect() } else { named };
            for host in hosts {
                let secret = (namespace.to_owned(), secret.clone());
                self.certificates.entry(host.to_ascii_lowercase()).or_insert(secret);
            }
        }
    }

    /// The route of a request; `host` without a port.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let host = host.to_ascii_lowercase();
        let named = self.exact.get(&host).or_else(|| self.wildcard.get(parent(&host)?));
        let of = |rules: &Host| rules.paths.iter().position(|known| known.matches(path));
        let chosen = named.unwrap_or(&self.any);
        match of(chosen) {
            Some(at) => Some(&chosen.paths[at].route),
            None => chosen.default.as_ref().or(self.default.as_ref()),
        }
    }

    /// The backend that speaks TLS for `host` itself.
    pub fn passthrough(&self, host: &str) -> Option<&Arc<Route>> {
        let host = host.to_ascii_lowercase();
        let of_parent = || self.passthrough.get(&format!("*.{}", parent(&host)?));
        self.passthrough.get(&host).or_else(of_parent)
    }

    /// Every Service that is named.
    pub fn services(&self) -> BTreeSet<&Service> {
        let hosts = self.exact.values().chain(self.wildcard.values()).chain([&self.any]);
        let routes = hosts.flat_map(|host| host.paths.iter().map(|path| &path.route).chain(&host.default));
        routes.chain(&self.default).chain(self.passthrough.values()).map(|route| &route.service).collect()
    }
}

/// What is left of a host without its first label.
pub(crate) fn parent(host: &str) -> Option<&str> {
    host.split_once('.').map(|(_, rest)| rest)
}

/// Whether an Ingress is to be answered here: it names a class of [`CONTROLLER`].
pub(crate) fn is_ours(ingress: &Ingress, class: impl Fn(&str) -> Option<Arc<IngressClass>>) -> bool {
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let annotated = || ingress.metadata.annotations.as_ref()?.get(CLASS_ANNOTATION).map(String::as_str);
    let Some(name) = named.or_else(annotated) else { return false };
    class(name).is_some_and(|class| class.spec.as_ref().is_some_and(|s| s.controller.as_deref() == Some(CONTROLLER)))
}

/// The bytes of a Secret under `key`.
pub(crate) fn secret_data<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    secret.data.as_ref()?.get(key).map(|data| data.0.as_slice())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ingress(name: &str, spec: Value) -> Ingress {
        let metadata = json!({"name": name, "namespace": "shop", "creationTimestamp": format!("2026-01-0{}T00:00:00Z", name.len())});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn backend(name: &str) -> Value {
        json!({"service": {"name": name, "port": {"number": 80}}})
    }

    fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
        let paths: Vec<Value> = paths
            .iter()
            .map(|(path, kind, service)| json!({"path": path, "pathType": kind, "backend": backend(service)}))
            .collect();
        if host.is_empty() {
            json!({"http": {"paths": paths}})
        } else {
            json!({"host": host, "http": {"paths": paths}})
        }
    }

    fn found(table: &Table, host: &str, path: &str) -> String {
        table.find(host, path).map_or_else(|| "none".to_owned(), |route| route.service.name.clone())
    }

    #[test]
    fn the_longest_path_wins_and_an_exact_one_before_a_prefix() {
        let paths = [
            ("/", "Prefix", "root"),
            ("/api", "Prefix", "api"),
            ("/api/v2", "Prefix", "two"),
            ("/api", "Exact", "exact"),
            ("/files/", "ImplementationSpecific", "files"),
        ];
        let table = Table::of([&ingress("a", json!({"rules": [rule("x.io", &paths)]}))]);
        let expected = [
            ("/", "root"),
            ("/apis", "root"),
            ("/api", "exact"),
            ("/api/", "api"),
            ("/api/v1", "api"),
            ("/api/v2", "two"),
            ("/api/v2/x", "two"),
            ("/files", "files"),
            ("/files/a", "files"),
            ("/API", "root"),
        ];
        for (path, service) in expected {
            assert_eq!(found(&table, "x.io", path), service, "{path}");
            assert_eq!(found(&table, "X.IO", path), service, "{path}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label_and_a_host_of_its_own_goes_first() {
        let rules = json!([rule("*.x.io", &[("/", "Prefix", "wild")]), rule("a.x.io", &[("/a", "Prefix", "own")])]);
        let table = Table::of([&ingress("a", json!({"rules": rules}))]);
        let expected = [("b.x.io", "wild"), ("x.io", "none"), ("c.b.x.io", "none"), ("a.x.io", "none")];
        for (host, service) in expected {
            assert_eq!(found(&table, host, "/"), service, "{host}");
        }
        assert_eq!(found(&table, "a.x.io", "/a"), "own");
    }

    #[test]
    fn what_no_rule_takes_goes_to_the_default_backend() {
        let one =
            ingress("a", json!({"rules": [rule("x.io", &[("/a", "Prefix", "a")])], "defaultBackend": backend("d")}));
        let two = ingress("bb", json!({"defaultBackend": backend("e")}));
        let three = ingress("ccc", json!({"rules": [rule("y.io", &[("/a", "Prefix", "y")])]}));
        let table = Table::of([&three, &two, &one]);
        assert_eq!(found(&table, "x.io", "/other"), "d");
        assert_eq!(found(&table, "nobody.io", "/"), "d", "the oldest default backend");
        assert_eq!(found(&table, "y.io", "/other"), "d");
        let table = Table::of([&three]);
        assert_eq!(found(&table, "y.io", "/other"), "none");
        let any = ingress("a", json!({"rules": [rule("", &[("/", "Prefix", "any")])]}));
        assert_eq!(found(&Table::of([&any, &three]), "nobody.io", "/x"), "any");
    }

    #[test]
    fn the_older_ingress_keeps_a_path() {
        let old = ingress("a", json!({"rules": [rule("x.io", &[("/", "Prefix", "old")])]}));
        let new = ingress("bb", json!({"rules": [rule("x.io", &[("/", "Prefix", "new"), ("/n", "Prefix", "new")])]}));
        let table = Table::of([&new, &old]);
        assert_eq!((found(&table, "x.io", "/"), found(&table, "x.io", "/n")), ("old".to_owned(), "new".to_owned()));
        let services: Vec<&str> = table.services().into_iter().map(|service| service.name.as_str()).collect();
        assert_eq!(services, ["new", "old"]);
    }

    #[test]
    fn hosts_have_the_certificates_of_their_secrets() {
        let tls = json!([{"hosts": ["X.io", "*.y.io"], "secretName": "one"}, {"secretName": "two"}]);
        let rules = json!([rule("x.io", &[]), rule("z.io", &[])]);
        let table = Table::of([&ingress("a", json!({"tls": tls, "rules": rules}))]);
        let secret = |host: &str| table.certificates.get(host).map(|(_, name)| name.as_str());
        assert_eq!((secret("x.io"), secret("*.y.io"), secret("z.io")), (Some("one"), Some("one"), Some("two")));
    }

    #[test]
    fn an_ingress_is_ours_by_its_class() {
        let class = |name: &str| {
            let controller = if name == "pintle" { CONTROLLER } else { "example.com/other" };
            let class = json!({"metadata": {"name": name}, "spec": {"controller": controller}});
            (name != "absent").then(|| Arc::new(serde_json::from_value(class).unwrap()))
        };
        let named = |name: &str| ingress("a", json!({"ingressClassName": name}));
        assert!(is_ours(&named("pintle"), class));
        assert!(!is_ours(&named("other"), class));
        assert!(!is_ours(&named("absent"), class));
        let mut old = ingress("a", json!({}));
        assert!(!is_ours(&old, class), "an Ingress without a class is nobody's");
        old.metadata.annotations = Some([(CLASS_ANNOTATION.to_owned(), "pintle".to_owned())].into());
        assert!(is_ours(&old, class));
    }
}
