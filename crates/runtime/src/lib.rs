//! The built-in container runtime: images, snapshots, sandboxes, containers, streaming and the per-pod shim.
//!
//! Its face to the kubelet is [`cri::RuntimeService`] and [`cri::ImageService`]; what it needs from the pod network is
//! [`pod_network::PodNetwork`].
pub mod cri;
pub mod pod_network;
