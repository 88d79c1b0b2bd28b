//! The service ranges and the `kubernetes` service, by which pods reach this server. Start at [`ensure`].
//!
//! upstream: pkg/controlplane/controller (defaultservicecidr, kubernetesservice), pkg/controlplane/reconcilers
use super::MANAGER;
use crate::context::RequestContext;
use crate::registry::{Registry, Write};
use crate::value::{Fill, Read, object_of};
use ipnet::IpNet;
use pintle_api::{meta, status::ApiError};
use serde_json::{Value, json};
use std::net::IpAddr;

/// What this server tells about itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ranges of cluster IPs, at most one of each family; the first is the primary one.
    pub service_cidrs: Vec<IpNet>,
    /// The address at which nodes and pods reach this server.
    pub advertise_address: IpAddr,
    /// The port at that address.
    pub port: u16,
}

impl Config {
    /// The address of the `kubernetes` service: the first of the primary range. None if there is no range.
    pub fn kubernetes_service_ip(&self) -> Option<IpAddr> {
        let cidr = self.service_cidrs.first()?;
        Some(match cidr.network() {
            IpAddr::V4(base) => IpAddr::V4((u32::from(base) + 1).into()),
            IpAddr::V6(base) => IpAddr::V6((u128::from(base) + 1).into()),
        })
    }
}

/// Creates what is missing and brings the `kubernetes` service up to date.
pub async fn ensure(registry: &Registry, config: &Config) -> Result<(), ApiError> {
    let objects = Objects { registry, cx: RequestContext::system() };
    objects.create_service_cidr(service_cidr(config)).await?;
    objects.service_cidr_status().await?;
    objects.apply("", "services", kubernetes_service(config)).await?;
    objects.apply("", "endpoints", kubernetes_endpoints(config)).await?;
    objects.apply("discovery.k8s.io", "endpointslices", kubernetes_endpoint_slice(config)).await
}

struct Objects<'a> {
    registry: &'a Registry,
    cx: RequestContext,
}

impl Objects<'_> {
    async fn create_service_cidr(&self, object: Value) -> Result<(), ApiError> {
        let resource = self.registry.resource("networking.k8s.io", "servicecidrs")?;
        match self.registry.create(&Write::internal(&self.cx, &resource, "").managed_by(MANAGER), object).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    /// Creates an object in `default`, or makes the fields given here (but for metadata) those of the one there is.
    async fn apply(&self, group: &str, plural: &str, object: Value) -> Result<(), ApiError> {
        let resource = self.registry.resource(group, plural)?;
        let write = Write::internal(&self.cx, &resource, "default").managed_by(MANAGER);
        match self.registry.create(&write, object.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
        }
        let change = |stored: &mut Value| {
            for (key, value) in object.as_object().into_iter().flatten().filter(|(key, _)| *key != "metadata") {
                match (stored.get_mut(key).and_then(Value::as_object_mut), value.as_object()) {
                    (Some(stored), Some(fields)) => {
                        fields.iter().for_each(|(field, value)| stored.set(field, value.clone()));
                    }
                    _ => object_of(stored).set(key, value.clone()),
                }
            }
            Ok(())
        };
        self.registry.update_with(&write, "kubernetes", change).await.map(drop)
    }

    async fn service_cidr_status(&self) -> Result<(), ApiError> {
        let resource = self.registry.resource("networking.k8s.io", "servicecidrs")?;
        let write = Write::internal(&self.cx, &resource, "").subresource("status").managed_by(MANAGER);
        let ready = |stored: &mut Value| {
            if stored.field("status").is_zero("conditions") {
                stored["status"] = json!({"conditions": [{
                    "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": meta::now(),
                    "message": "Kubernetes default Service CIDR is ready",
                }]});
            }
            Ok(())
        };
        self.registry.update_with(&write, "kubernetes", ready).await.map(drop)
    }
}

fn service_cidr(config: &Config) -> Value {
    let cidrs: Vec<String> = config.service_cidrs.iter().map(|c| c.trunc().to_string()).collect();
    json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}})
}

fn kubernetes_service(config: &Config) -> Value {
    let mut spec = json!({
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.port}],
    });
    if let Some(ip) = config.kubernetes_service_ip() {
        spec["clusterIP"] = json!(ip);
        spec["ipFamilies"] = json!([family(ip)]);
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    json!({"metadata": {"name": "kubernetes", "namespace": "default", "labels": labels}, "spec": spec})
}

fn kubernetes_endpoints(config: &Config) -> Value {
    let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let ports = json!([{"name": "https", "port": config.port, "protocol": "TCP"}]);
    json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "subsets": [{"addresses": [{"ip": config.advertise_address}], "ports": ports}],
    })
}

fn kubernetes_endpoint_slice(config: &Config) -> Value {
    json!({
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family(config.advertise_address),
        "endpoints": [{"addresses": [config.advertise_address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}],
    })
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}
