//! The scheme: kinds, schema facts, codecs, metadata, quantities, selectors and patches.
//!
//! | module | what it answers |
//! |---|---|
//! | [`scheme`] | which resources exist, by plural or kind: [`scheme::Scheme::builtin`] |
//! | [`meta`] | names, labels, owners, times of a dynamic object: [`meta::ObjectExt`] on `serde_json::Value` |
//! | [`status`] | errors of the API: [`status::ApiError`] |
//! | [`field`] | validation errors on fields: [`field::Path`], [`field::FieldError`] |
//! | [`user`] | identities: [`user::UserInfo`] |
pub mod field;
pub mod meta;
pub mod scheme;
pub mod status;
pub mod user;
