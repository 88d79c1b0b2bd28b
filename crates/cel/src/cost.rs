//! Limits on the work that expressions may cause. Start at [`Budget`].
//!
//! A unit is one step: reading a variable or field, calling a function. Texts count a tenth per character where a function has
//! to read them. The costs are cel-go's, to the unit.
use crate::eval::Error;

/// What one evaluation may cost. upstream: apiserver pkg/apis/cel, PerCallLimit
pub const PER_CALL_LIMIT: u64 = 1_000_000;

/// What all evaluations for one object of a policy or schema may cost together. upstream: RuntimeCELCostBudget
pub const REQUEST_BUDGET: u64 = 10_000_000;

/// What is left to spend.
#[derive(Clone, Debug)]
pub struct Budget {
    total: u64,
    call: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget::new(REQUEST_BUDGET)
    }
}

impl Budget {
    /// A budget of `total` for several evaluations, each of which may cost at most [`PER_CALL_LIMIT`].
    pub fn new(total: u64) -> Self {
        Budget { total, call: PER_CALL_LIMIT }
    }

    /// What is left for all further evaluations.
    pub fn left(&self) -> u64 {
        self.total
    }

    /// What is left for this evaluation.
    pub(crate) fn left_for_call(&self) -> u64 {
        self.call
    }

    pub(crate) fn begin(&mut self) {
        self.call = PER_CALL_LIMIT;
    }

    pub(crate) fn spend(&mut self, cost: u64) -> Result<(), Error> {
        if cost > self.total {
            self.total = 0;
            return Err(Error::OutOfBudget);
        }
        self.total -= cost;
        self.call = self.call.checked_sub(cost).ok_or(Error::CallTooExpensive)?;
        Ok(())
    }
}
