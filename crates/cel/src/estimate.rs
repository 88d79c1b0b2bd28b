//! What an expression may cost at worst, before it is ever evaluated. Start at [`Env::estimate`].
//!
//! The costs are those of cel-go's estimator with Kubernetes' own for its libraries, to the unit: the API refuses rules by
//! them, so they are part of what a client can observe.
// upstream: cel-go checker/cost.go; apiserver pkg/cel/library/cost.go
mod calls;
mod path;
mod walk;

use crate::check::Checker;
use crate::compile::{Env, Program};
use crate::sizes::Sizes;

/// The least and the most that something may cost, or the least and the most elements or characters it may have.
/// Sums and products stay within 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

impl Estimate {
    /// Anything.
    pub(crate) const UNKNOWN: Estimate = Estimate { min: 0, max: u64::MAX };
    /// What [`Estimate::union`] leaves as it is.
    const NOTHING: Estimate = Estimate { min: u64::MAX, max: 0 };

    pub(crate) const fn exactly(n: u64) -> Self {
        Estimate { min: n, max: n }
    }

    /// Of the two, and of what lies between.
    fn union(self, other: Estimate) -> Estimate {
        Estimate { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    fn plus(self, other: Estimate) -> Estimate {
        Estimate { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Estimate) -> Estimate {
        Estimate { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Times a factor, rounded up.
    fn scaled(self, factor: f64) -> Estimate {
        // Conversions from floating-point numbers stop at the greatest integer.
        let scale = |n: u64| (n as f64 * factor).ceil() as u64;
        Estimate { min: scale(self.min), max: scale(self.max) }
    }
}

impl Env {
    /// What `program`, compiled in this environment, costs. `sizes` tells how large the variables can be, which all are of
    /// one type; without it they may be of any size.
    pub fn estimate(&self, program: &Program, sizes: Option<&Sizes>) -> Estimate {
        let mut checker = Checker::new(self);
        checker.notes = Some(Default::default());
        checker.check(&program.root);
        walk::cost(&program.root, checker.notes.unwrap_or_default(), sizes)
    }
}

#[cfg(test)]
mod tests;
