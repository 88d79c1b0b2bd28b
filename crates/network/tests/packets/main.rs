//! The node's network, asserted on packets between network namespaces that each test makes. Needs root and `nft`.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod fake_api;
mod pod_network;
mod policies;
mod services;
mod support;
