//! The scheme: kinds, schema facts, codecs, metadata, quantities, selectors and patches. Start at [`user`] for identities.
pub mod user;
