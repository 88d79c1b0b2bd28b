//! A container's environment: its variables, what they refer to, and the namespace's services.
// upstream: pkg/kubelet, makeEnvironmentVariables; pkg/kubelet/envvars
mod file;

use crate::downward;
use crate::expansion::expand;
use crate::objects::{self, Objects};
use crate::pods::PodExt;
use crate::volumes::{Mounted, subpath};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Why an environment could not be built; shown as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A referenced object is missing.
    #[error(transparent)]
    Object(#[from] objects::Error),
    /// The object lacks the key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace of the object.
        namespace: String,
        /// Name of the object.
        name: String,
    },
    /// A field reference that cannot be resolved.
    #[error(transparent)]
    Field(#[from] downward::Error),
    /// A file in a volume that cannot be read as a list of variables.
    #[error("couldn't parse env file")]
    File,
    /// A file in a volume that the pod does not have.
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    NoVolume(String),
    /// A file without the variable.
    #[error("environment variable key {key:?} not found in file {file:?}")]
    NoVariable {
        /// The variable.
        key: String,
        /// The file's path in its volume.
        file: String,
    },
    /// A source this version does not know.
    #[error("unsupported source of environment variable {0}")]
    Unsupported(String),
}

/// What an environment is built from besides the objects it refers to.
pub struct Context<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The pod's addresses.
    pub pod_ips: &'a [String],
    /// The node's facts for field references.
    pub node: &'a downward::NodeFacts,
    /// Services of the cluster.
    pub services: &'a [Arc<Service>],
    /// The pod's volumes by name.
    pub volumes: &'a BTreeMap<String, Mounted>,
}

/// The environment of `container`, in the order of declaration where order matters.
pub async fn build(
    context: &Context<'_>,
    container: &Container,
    objects: &Objects,
) -> Result<Vec<(String, String)>, Error> {
    let pod = context.pod;
    let links = pod.pod_spec().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let services = service_variables(context.services, pod.namespace(), links);
    let mut sources = Sources { pod, objects, config_maps: HashMap::new(), secrets: HashMap::new() };
    let mut names: Vec<String> = Vec::new();
    let mut values: HashMap<String, String> = HashMap::new();
    let mut set = |values: &mut HashMap<String, String>, name: String, value: String| {
        if values.insert(name.clone(), value).is_none() {
            names.push(name);
        }
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            if let Some(map) = sources.config_map(&reference.name, reference.optional).await? {
                for (key, value) in map.data.iter().flatten() {
                    set(&mut values, format!("{prefix}{key}"), value.clone());
                }
            }
        } else if let Some(reference) = &from.secret_ref
            && let Some(secret) = sources.secret(&reference.name, reference.optional).await?
        {
            for (key, value) in secret.data.iter().flatten() {
                set(&mut values, format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let literal = variable.value.as_deref().unwrap_or_default();
        let value = if !literal.is_empty() {
            expand(literal, |name| values.get(name).or_else(|| services.get(name)).cloned())
        } else if let Some(source) = &variable.value_from {
            match resolve(context, container, &mut sources, source, &variable.name).await? {
                Some(value) => value,
                None => continue,
            }
        } else {
            String::new()
        };
        set(&mut values, variable.name.clone(), value);
    }
    let mut result: Vec<(String, String)> =
        names.into_iter().map(|name| (name.clone(), values.remove(&name).unwrap_or_default())).collect();
    let taken: std::collections::HashSet<String> = result.iter().map(|(name, _)| name.clone()).collect();
    result.extend(services.into_iter().filter(|(name, _)| !taken.contains(name)));
    Ok(result)
}

/// The value of a reference; `None` when it is optional and missing.
async fn resolve(
    context: &Context<'_>,
    container: &Container,
    sources: &mut Sources<'_>,
    source: &EnvVarSource,
    variable: &str,
) -> Result<Option<String>, Error> {
    let namespace = context.pod.namespace();
    if let Some(field) = &source.field_ref {
        let ips = context.pod_ips;
        return Ok(Some(downward::field(context.pod, &field.field_path, ips, context.node)?));
    }
    if let Some(resource) = &source.resource_field_ref {
        return Ok(Some(downward::resource(context.pod, container, resource, context.node)?));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let Some(map) = sources.config_map(&reference.name, reference.optional).await? else { return Ok(None) };
        let value = map.data.as_ref().and_then(|data| data.get(&reference.key)).cloned();
        return found(value, reference.optional, &reference.key, "ConfigMap", namespace, &reference.name);
    }
    if let Some(reference) = &source.secret_key_ref {
        let Some(secret) = sources.secret(&reference.name, reference.optional).await? else { return Ok(None) };
        let value = secret.data.as_ref().and_then(|data| data.get(&reference.key));
        let value = value.map(|value| String::from_utf8_lossy(&value.0).into_owned());
        return found(value, reference.optional, &reference.key, "Secret", namespace, &reference.name);
    }
    if let Some(reference) = &source.file_key_ref {
        let volume = context.volumes.get(&reference.volume_name);
        let volume = volume.ok_or_else(|| Error::NoVolume(reference.volume_name.clone()))?;
        let text = subpath::read(&volume.path, &reference.path);
        let value = text.and_then(|text| file::parse(&text, &reference.key)).map_err(|error| {
            tracing::warn!(pod = context.pod.described(), error, "cannot read a file of variables");
            Error::File
        })?;
        return match value {
            None if reference.optional != Some(true) => {
                Err(Error::NoVariable { key: reference.key.clone(), file: reference.path.clone() })
            }
            value => Ok(value),
        };
    }
    Err(Error::Unsupported(variable.to_owned()))
}

fn found(
    value: Option<String>,
    optional: Option<bool>,
    key: &str,
    kind: &'static str,
    namespace: &str,
    name: &str,
) -> Result<Option<String>, Error> {
    if value.is_none() && optional != Some(true) {
        let (key, namespace, name) = (key.to_owned(), namespace.to_owned(), name.to_owned());
        return Err(Error::NoKey { key, kind, namespace, name });
    }
    Ok(value)
}

struct Sources<'a> {
    pod: &'a Pod,
    objects: &'a Objects,
    config_maps: HashMap<String, Arc<ConfigMap>>,
    secrets: HashMap<String, Arc<Secret>>,
}

impl Sources<'_> {
    async fn config_map(&mut self, name: &str, optional: Option<bool>) -> Result<Option<Arc<ConfigMap>>, Error> {
        if let Some(map) = self.config_maps.get(name) {
            return Ok(Some(map.clone()));
        }
        match self.objects.config_map(self.pod.uid(), self.pod.namespace(), name).await {
            Ok(map) => {
                self.config_maps.insert(name.to_owned(), map.clone());
                Ok(Some(map))
            }
            Err(objects::Error::NotFound { .. }) if optional == Some(true) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn secret(&mut self, name: &str, optional: Option<bool>) -> Result<Option<Arc<Secret>>, Error> {
        if let Some(secret) = self.secrets.get(name) {
            return Ok(Some(secret.clone()));
        }
        match self.objects.secret(self.pod.uid(), self.pod.namespace(), name).await {
            Ok(secret) => {
                self.secrets.insert(name.to_owned(), secret.clone());
                Ok(Some(secret))
            }
            Err(objects::Error::NotFound { .. }) if optional == Some(true) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Variables that announce services: always `default/kubernetes`, with `links` all of the pod's namespace.
pub fn service_variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let name_of = |service: &Service| service.metadata.name.clone().unwrap_or_default();
    let in_namespace = |service: &Service, ns: &str| service.metadata.namespace.as_deref() == Some(ns);
    let mut chosen: BTreeMap<String, &Service> = BTreeMap::new();
    for service in services.iter().filter(|service| cluster_ip(service).is_some()) {
        let name = name_of(service);
        if name == "kubernetes" && in_namespace(service, "default") {
            chosen.entry(name).or_insert(service);
        } else if links && in_namespace(service, namespace) {
            chosen.insert(name, service);
        }
    }
    chosen.values().flat_map(|service| variables(service)).collect()
}

fn cluster_ip(service: &Service) -> Option<&str> {
    let ip = service.spec.as_ref()?.cluster_ip.as_deref()?;
    (!ip.is_empty() && ip != "None").then_some(ip)
}

fn variables(service: &Service) -> Vec<(String, String)> {
    let upper = |name: &str| name.replace('-', "_").to_uppercase();
    let prefix = upper(service.metadata.name.as_deref().unwrap_or_default());
    let ip = cluster_ip(service).unwrap_or_default();
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let Some(first) = ports.first() else { return Vec::new() };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let url = |port: &k8s_openapi::api::core::v1::ServicePort| {
        format!("{}://{host}:{}", port.protocol.as_deref().unwrap_or("TCP").to_lowercase(), port.port)
    };
    let mut all = vec![
        (format!("{prefix}_SERVICE_HOST"), ip.to_owned()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
        (format!("{prefix}_PORT"), url(first)),
    ];
    for port in ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            all.push((format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.port.to_string()));
        }
        let base = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        all.push((format!("{base}_PROTO"), protocol.to_lowercase()));
        all.push((format!("{base}_PORT"), port.port.to_string()));
        all.push((format!("{base}_ADDR"), ip.to_owned()));
        all.push((base, url(port)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_of_the_namespace_and_the_api_server_are_announced() {
        let service = |ns: &str, name: &str, ip: &str| -> Arc<Service> {
            let spec = json!({"clusterIP": ip, "ports": [{"name": "http", "port": 80}]});
            Arc::new(
                serde_json::from_value(json!({"metadata": {"namespace": ns, "name": name}, "spec": spec})).unwrap(),
            )
        };
        let all = [
            service("default", "kubernetes", "10.0.0.1"),
            service("a", "my-db", "10.0.0.2"),
            service("a", "headless", "None"),
            service("b", "other", "10.0.0.3"),
        ];
        let got = service_variables(&all, "a", true);
        assert_eq!(got["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert_eq!(got["MY_DB_SERVICE_PORT_HTTP"], "80");
        assert_eq!(got["MY_DB_PORT_80_TCP"], "tcp://10.0.0.2:80");
        assert!(!got.keys().any(|key| key.starts_with("HEADLESS") || key.starts_with("OTHER")));
        assert!(!service_variables(&all, "a", false).contains_key("MY_DB_PORT"));
    }
}
