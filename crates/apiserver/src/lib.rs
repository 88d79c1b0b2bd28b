//! The API server: HTTP, authentication, authorization, admission and the generic registry. Start at [`ApiServer`].
//!
//! | module | what it is for |
//! |---|---|
//! | [`ApiServer`], [`listener`] | the request pipeline, in process and over TLS |
//! | [`request_info`], [`query`], [`context`] | what a request asks for, and who asks |
//! | [`authn`], [`authz`], [`admission`] | the three gates before a write |
//! | [`flow_control`] | how many requests run at the same time, and whose turn it is |
//! | [`audit`] | who did what, recorded |
//! | [`registry`], [`watch_cache`], [`encode`] | reading, writing and watching objects of every kind |
//! | [`strategy`], [`defaults`] | what differs from kind to kind |
//! | [`validation`] | what is refused, with upstream's messages |
//! | [`definitions`] | CustomResourceDefinitions and the resources that they bring |
//! | [`special`] | endpoints with behaviour of their own |
pub mod admission;
pub mod aggregator;
pub mod api_services;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod body;
pub mod bootstrap;
pub mod codec;
pub mod compaction;
pub mod context;
mod conversion;
pub mod defaults;
pub mod definitions;
mod deprecation;
pub mod diff;
pub mod encode;
pub mod event_ttl;
pub mod flow_control;
pub mod follow;
pub mod in_process;
pub mod list_options;
pub mod listener;
mod metrics;
pub mod negotiate;
pub mod patch;
pub mod proxy;
pub mod query;
pub mod registry;
pub mod remote;
pub mod request_info;
pub mod respond;
pub mod secure;
pub mod selection;
mod server;
pub mod special;
pub mod strategy;
pub mod validation;
pub mod value;
pub mod watch_cache;

pub use server::{ApiServer, Features, Parts, parse_go_duration};

/// The version of Kubernetes whose API this server serves.
pub const KUBERNETES_VERSION: &str = "v1.36.3";
