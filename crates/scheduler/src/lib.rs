//! The scheduler: finds a node for each pod that has none. Start at [`Scheduler`].
//!
//! | module | what it is for |
//! |---|---|
//! | [`config`] | profiles, plugins and their settings, as upstream's configuration file has them |
//! | [`queue`] | which pod is tried next, and what wakes one that did not fit |
//! | [`cache`], [`pod_info`], [`resources`], [`selector`] | what is known of the cluster, kept up change by change |
//! | [`algorithm`], [`framework`], [`plugins`] | the decision: filters, scores |
//! | [`preemption`] | room for important pods |
//! | [`lookup`], [`volumes`] | claims, volumes and other objects that plugins look up |
//! | [`scheduler`], [`bind`], [`metrics`] | the edge: follows the API, acts on decisions, counts |
pub mod algorithm;
pub mod bind;
pub mod cache;
pub mod config;
pub mod framework;
pub mod lookup;
pub mod metrics;
pub mod plugins;
pub mod pod_info;
pub mod preemption;
pub mod queue;
pub mod resources;
pub mod scheduler;
pub mod selector;
pub mod volumes;

pub use config::Config;
pub use scheduler::Scheduler;
