//! Whether a pod fits what is left of a node, and which node it leaves in the best shape.
use crate::cache::NodeInfo;
use crate::framework::{Cycle, Filter, MAX_SCORE, Rejection, Score};

/// Filter: everything asked for is left. Score: the node with the most left (strategy LeastAllocated).
pub struct Fit;

/// Score: CPU and memory end up used in like proportion.
pub struct BalancedAllocation;

impl Filter for Fit {
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Rejection> {
        let (asked, used, has) = (&cycle.pod.requests, &node.requested, &node.allocatable);
        let mut reasons = Vec::new();
        // What even an empty node does not have cannot be helped by preemption.
        let mut resolvable = true;
        if node.pods.len() + 1 > node.allowed_pods {
            reasons.push("Too many pods".to_owned());
        }
        let mut check = |name: &str, asked: i64, used: i64, has: i64| {
            if asked > 0 && asked > has - used {
                reasons.push(format!("Insufficient {name}"));
                resolvable &= asked <= has;
            }
        };
        check("cpu", asked.milli_cpu, used.milli_cpu, has.milli_cpu);
        check("memory", asked.memory, used.memory, has.memory);
        check("ephemeral-storage", asked.ephemeral_storage, used.ephemeral_storage, has.ephemeral_storage);
        for (name, asked) in &asked.scalar {
            let amount = |resources: &crate::resources::Resources| resources.scalar.get(name).copied().unwrap_or(0);
            check(name, *asked, amount(used), amount(has));
        }
        if reasons.is_empty() { Ok(()) } else { Err(Rejection { plugin: "NodeResourcesFit", reasons, resolvable }) }
    }
}

/// CPU and memory: what the node would have in use, and what it has.
fn usage(cycle: &Cycle<'_>, node: &NodeInfo) -> [(i64, i64); 2] {
    let (pod, used, has) = (&cycle.pod.non_zero, &node.non_zero, &node.allocatable);
    [(used.milli_cpu + pod.milli_cpu, has.milli_cpu), (used.memory + pod.memory, has.memory)]
}

impl Score for Fit {
    fn score(&self, cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
        let left = |(used, has): (i64, i64)| if has == 0 || used > has { 0 } else { (has - used) * MAX_SCORE / has };
        nodes.iter().map(|node| usage(cycle, node).map(left).iter().sum::<i64>() / 2).collect()
    }

    fn weight(&self) -> i64 {
        1
    }
}

impl Score for BalancedAllocation {
    fn score(&self, cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Vec<i64> {
        // What the pod does to the balance, not the balance itself (upstream: balancedResourceScorer).
        let balance = |node: &&NodeInfo| {
            let used = [
                (node.non_zero.milli_cpu, node.allocatable.milli_cpu),
                (node.non_zero.memory, node.allocatable.memory),
            ];
            MAX_SCORE / 2 + (MAX_SCORE / 2 + balance(usage(cycle, node)) - balance(used)) / 2
        };
        nodes.iter().map(balance).collect()
    }

    fn weight(&self) -> i64 {
        1
    }
}

fn balance(usage: [(i64, i64); 2]) -> i64 {
    let [cpu, memory] = usage.map(|(used, has)| if has == 0 { 1.0 } else { (used as f64 / has as f64).min(1.0) });
    // Of two fractions the standard deviation is half their distance.
    ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
}
