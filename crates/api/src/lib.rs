//! The scheme: kinds, schema facts, codecs, metadata, quantities, selectors and patches.
//!
//! | module | what it answers |
//! |---|---|
//! | [`scheme`] | which resources exist, by plural or kind: [`scheme::Scheme::builtin`] |
//! | [`features`], [`runtime_config`] | feature gates, and which alpha and beta APIs are served: [`scheme::Scheme::served`] |
//! | [`discovery`] | the documents of `/api`, `/apis` and below, legacy and aggregated |
//! | [`facts`] | the type of a kind and of each of its fields: [`facts::lookup`] |
//! | [`apply`] | server-side apply and managed fields: [`apply::apply`], [`apply::track_update`] |
//! | [`convert`] | between versions that share one place in the store: [`convert::to_storage`] |
//! | [`custom`] | what a CustomResourceDefinition adds to the scheme: [`custom::Definition`] |
//! | [`decode`] | typed decoding: unknown and duplicate fields, Go's type errors, Go's form of empty values |
//! | [`meta`] | names, labels, owners, times of a dynamic object: [`meta::ObjectExt`] on `serde_json::Value` |
//! | [`status`] | errors of the API: [`status::ApiError`] |
//! | [`field`] | validation errors on fields: [`field::Path`], [`field::FieldError`] |
//! | [`names`] | rules for names, labels, ports, each with upstream's complaint |
//! | [`protobuf`] | `application/vnd.kubernetes.protobuf` both ways, lists, watch frames |
//! | [`quantity`] | exact amounts: [`quantity::Quantity`] |
//! | [`quota`], [`resource_list`] | what objects count against quotas and limits |
//! | [`selector`] | label and field selectors |
//! | [`cron`] | cron schedules: [`cron::Schedule`]; [`time_zone`] finds the zone of a name, [`duration`] reads `1h30m` |
//! | [`int_or_string`] | ports and percentages |
//! | [`json_path`] | JSONPath of printer columns |
//! | [`openapi`] | the documents of `/openapi/v2` and `/openapi/v3`: [`openapi::OpenApi`] |
//! | [`patch`] | JSON patch, JSON merge patch, strategic merge patch |
//! | [`structural`] | schemas of custom resources: pruning, defaults, validation |
//! | [`structural`] | schemas of custom resources: pruning, defaults, validation |
//! | [`table`] | what `kubectl get` shows: [`table::printer`] |
//! | [`user`] | identities: [`user::UserInfo`] |
pub mod apply;
pub mod convert;
pub mod cron;
pub mod custom;
pub mod decode;
mod descriptions;
pub mod discovery;
pub mod duration;
pub mod facts;
pub mod features;
pub mod field;
pub mod int_or_string;
pub mod json_path;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod resource_list;
pub mod runtime_config;
pub mod scheme;
pub mod selector;
pub mod status;
pub mod structural;
pub mod table;
pub mod time_zone;
pub mod user;
