//! What the API server refuses, kind by kind, with upstream's messages. Start at [`field::Field`].
//!
//! upstream: pkg/apis/<group>/validation/validation.go
pub mod field;
pub(crate) mod service;
