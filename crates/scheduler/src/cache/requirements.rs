//! Which nodes meet which requirement, remembered: pods of one workload ask the same about each node.
use super::NodeInfo;
use crate::selector::NodeRequirement;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

/// Requirements beyond these go, those first that were not asked for the longest.
const MAX_REQUIREMENTS: usize = 256;

/// A requirement in use, by number.
pub type RequirementId = usize;

#[derive(Debug)]
struct Memo {
    requirement: Arc<NodeRequirement>,
    per_slot: Vec<Cell<Option<bool>>>,
    used: u64,
}

/// The requirements that pods have had so far.
#[derive(Debug, Default)]
pub struct Requirements {
    memos: Vec<Memo>,
    by_requirement: HashMap<Arc<NodeRequirement>, RequirementId>,
    clock: u64,
}

impl Requirements {
    /// Makes room before a pod's requirement is looked up; numbers hold until the next call.
    pub fn tidy(&mut self) {
        if self.memos.len() <= MAX_REQUIREMENTS {
            return;
        }
        let mut uses: Vec<u64> = self.memos.iter().map(|memo| memo.used).collect();
        uses.sort_unstable();
        let oldest = uses[uses.len() / 2];
        self.memos.retain(|memo| memo.used > oldest);
        self.by_requirement = self.memos.iter().enumerate().map(|(id, memo)| (memo.requirement.clone(), id)).collect();
    }

    /// The number of `requirement` in a cluster of `slots` nodes.
    pub fn of(&mut self, requirement: &Arc<NodeRequirement>, slots: usize) -> RequirementId {
        self.clock += 1;
        let id = self.by_requirement.get(requirement).copied().unwrap_or_else(|| {
            self.by_requirement.insert(requirement.clone(), self.memos.len());
            self.memos.push(Memo { requirement: requirement.clone(), per_slot: Vec::new(), used: 0 });
            self.memos.len() - 1
        });
        let memo = &mut self.memos[id];
        memo.used = self.clock;
        memo.per_slot.resize(slots, Cell::new(None));
        id
    }

    /// The labels of a node changed.
    pub fn node_changed(&mut self, slot: usize) {
        for memo in &self.memos {
            if let Some(known) = memo.per_slot.get(slot) {
                known.set(None);
            }
        }
    }

    /// Whether `node` meets the requirement.
    pub fn met(&self, requirement: RequirementId, node: &NodeInfo) -> bool {
        let memo = &self.memos[requirement];
        let answer = || memo.requirement.matches(node.name(), node.labels());
        match memo.per_slot.get(node.slot) {
            Some(known) => known.get().unwrap_or_else(|| {
                let met = answer();
                known.set(Some(met));
                met
            }),
            None => answer(),
        }
    }
}
