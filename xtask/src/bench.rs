//! `cargo xtask bench`: Pintle beside upstream's kube-apiserver and etcd, in one run, as ratios. Prints a table per subject.
mod api;
mod pods;
mod process;
mod scheduler;
mod start;

use crate::cluster::Cluster;
use anyhow::Result;
use std::path::PathBuf;

/// What to measure, with what.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    subject: Subject,
    /// Pintle's release binary.
    #[arg(long, default_value = "target/x86_64-unknown-linux-gnu/release/pintle")]
    pintle: PathBuf,
    /// The directory of upstream's scripts (apiserver.sh, apibench).
    #[arg(long, default_value = "../shared/upstream")]
    upstream: PathBuf,
    /// How often each figure is taken; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// What of the API to measure; all of it if not given.
    #[arg(long = "phase", value_enum)]
    phases: Vec<api::Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    All,
    Start,
    Idle,
    Api,
    Pods,
    Scheduler,
}

impl Bench {
    /// Measures and prints.
    pub fn run(&self) -> Result<()> {
        let wants = |subject| self.subject == subject || self.subject == Subject::All;
        if wants(Subject::Start) {
            start::run(self)?;
        }
        if wants(Subject::Idle) {
            start::idle(self)?;
        }
        if wants(Subject::Api) {
            api::measure(self)?;
        }
        if wants(Subject::Pods) {
            pods::run_subject(self)?;
        }
        if wants(Subject::Scheduler) {
            scheduler::measure(self)?;
        }
        Ok(())
    }

    /// A cluster of Pintle.
    fn cluster(&self) -> Result<Cluster> {
        Cluster::new(&self.pintle)
    }
}

/// Median, minimum and maximum of a figure.
#[derive(Clone, Copy, Debug)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Result<Self> {
        figures.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (figures.first().copied(), figures.last().copied()) else {
            anyhow::bail!("no figure was taken");
        };
        let middle = figures.len() / 2;
        let median = if figures.len().is_multiple_of(2) {
            f64::midpoint(figures[middle - 1], figures[middle])
        } else {
            figures[middle]
        };
        Ok(Spread { median, min, max })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ({:.1}–{:.1})", self.median, self.min, self.max)
    }
}

/// Prints the heading of a table in Markdown.
fn heading(title: &str, columns: &[&str]) {
    println!("\n### {title}\n\n| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_figures_lies_between_the_middle_two() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]).expect("figures");
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert!(Spread::of(vec![]).is_err());
    }
}
