//! The node agent: registers the Node, runs the pods bound to it over CRI, and reports their status. Start at [`run`].
mod admission;
mod allocation;
mod backoff;
mod cgroups;
mod config;
mod container_config;
mod dns;
mod downward;
mod env;
mod events;
mod eviction;
mod expansion;
mod hooks;
mod housekeeping;
mod http_probe;
mod images;
mod kubelet;
mod logs;
mod node;
mod objects;
mod plan;
mod pods;
mod probes;
mod quantity;
mod resources;
mod security;
mod server;
mod static_pods;
mod status;
mod status_manager;
mod termination_message;
mod view;
mod volumes;
mod worker;

pub use config::{Config, ServerConfig};
pub use kubelet::{Error, Handle, run};

/// A CRI error as gRPC clients print it.
fn rpc_text(status: &tonic::Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}
