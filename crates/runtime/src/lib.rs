//! The built-in container runtime: images, snapshots, sandboxes, containers, streaming and the per-pod shim.
//!
//! Its face to the kubelet is [`cri::RuntimeService`] and [`cri::ImageService`], implemented by [`Runtime`]; what it needs
//! from the pod network is [`pod_network::PodNetwork`]. The binary calls [`shim::main`] for `pintle shim`.
#![allow(unsafe_code)]
pub mod cgroup;
pub mod cri;
pub mod image;
pub mod pod_network;
pub mod shim;
pub mod socket;
pub mod spec;

mod containers;
mod exec;
mod purge;
mod records;
mod runtime;
mod sandboxes;
mod service;
mod shim_client;
mod stats;
mod status;
mod streaming;

pub use purge::{Error as PurgeError, purge, stop, unmount_below};
pub use runtime::{Config, Error, Runtime};
pub use stats::disk_usage;
pub use streaming::spdy;
