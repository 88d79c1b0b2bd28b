//! The Common Expression Language as Kubernetes speaks it. Start at [`Env`].
//!
//! An [`Env`] declares the variables that an expression may use and compiles it: syntax (the `cel` crate's parser), names
//! and types. The [`Program`] is then evaluated as often as wanted against variables bound in an [`Activation`], which
//! borrow their JSON, within a [`Budget`].
//!
//! | module | what it is for |
//! |---|---|
//! | [`types`], [`schema`] | what an expression may expect of its variables |
//! | [`compile`] | source text to a checked [`Program`] |
//! | [`value`], [`eval`] | evaluation |
//! | [`estimate`], [`sizes`] | what an expression may cost at worst, by how large its variables can be |
//! | [`cost`] | limits of one evaluation and of all evaluations of a request |
//! | [`authorizer`] | what `authorizer` asks |
//!
//! Why the `cel` crate's evaluator is not used: it has no limit on the work that an expression may cause and no static
//! types, both of which the API promises. `kube-cel` builds on that evaluator.
pub mod authorizer;
mod charge;
mod check;
pub mod compile;
pub mod cost;
pub mod estimate;
pub mod eval;
mod expr;
mod functions;
mod lower;
mod macros;
pub mod schema;
mod settle;
mod signatures;
pub mod sizes;
pub mod types;
pub mod value;

pub use compile::{CompileError, Env, Issue, Program};
pub use cost::{Budget, PER_CALL_LIMIT, REQUEST_BUDGET};
pub use estimate::Estimate;
pub use eval::{Activation, Error};
pub use sizes::Sizes;
pub use types::{Field, Fields, ListKind, ListType, ObjectType, Type};
pub use value::Value;
