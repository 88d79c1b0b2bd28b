//! What the API server refuses, kind by kind, with upstream's messages. Start at [`field::Field`].
//!
//! upstream: pkg/apis/<group>/validation/validation.go
pub(crate) mod api_services;
pub(crate) mod apps;
pub(crate) mod autoscaling;
pub(crate) mod batch;
pub(crate) mod certificates;
pub(crate) mod claim;
pub(crate) mod common;
pub(crate) mod conditions;
mod container;
pub(crate) mod core;
pub(crate) mod definitions;
pub(crate) mod dynamic_resources;
pub(crate) mod events;
pub mod field;
pub(crate) mod flow_control;
pub(crate) mod groups;
pub(crate) mod networking;
pub(crate) mod pod;
pub(crate) mod policies;
pub(crate) mod rbac;
mod resources;
mod scheduling;
mod security;
pub(crate) mod service;
pub(crate) mod storage;
mod volumes;
pub(crate) mod warnings;
pub(crate) mod webhooks;
