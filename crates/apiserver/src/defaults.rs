//! What the API server fills in when a client leaves it out, kind by kind. One file per group; each kind's strategy names its function.
//!
//! upstream: pkg/apis/<group>/v1/defaults.go and zz_generated.defaults.go
pub(crate) mod admissionregistration;
pub(crate) mod apiextensions;
pub(crate) mod apps;
pub(crate) mod batch;
pub(crate) mod core;
pub(crate) mod dynamic_resources;
mod pod_spec;
pub(crate) mod small_groups;
pub(crate) mod storage;

use crate::value::Object;

/// Fills in the defaults of one kind.
pub type Defaults = fn(&mut Object);
