//! Creates, reads, updates, patches and deletes of single objects, durable before the answer.
use super::{Server, Target, judge, number, rows};
use crate::bench::heading;
use anyhow::Result;

const WORKERS: [u32; 3] = [1, 16, 128];
/// Operations of each verb.
const OPS: u64 = 2000;

/// Measures and prints.
pub fn measure(ours: &Server, theirs: &Server) -> Result<()> {
    heading(
        "Writes and reads of 1 KB objects, JSON, durable before the answer",
        &["workers", "verb", "Pintle /s", "upstream /s", "ratio", "Pintle p99 ms", "upstream p99 ms", "ratio"],
    );
    let (mut cpu, mut slowest, mut writes) = (Vec::new(), 0.0_f64, f64::INFINITY);
    for workers in WORKERS {
        let (workers_flag, ops) = (workers.to_string(), OPS.to_string());
        let flags = ["-encodings", "json", "-run", "crud", "-concurrency", &workers_flag, "-ops", &ops];
        let (a, a0, a1) = ours.load(&flags)?;
        let (b, b0, b1) = theirs.load(&flags)?;
        let (mut operations, mut seconds) = (0.0, (0.0, 0.0));
        for (a, b) in rows(&a, "crud")?.iter().zip(rows(&b, "crud")?) {
            let (x, y) = (number(a, "PerSecond")?, number(b, "PerSecond")?);
            let (p, q) = (number(a, "P99")?, number(b, "P99")?);
            let verb = a["Verb"].as_str().unwrap_or("?");
            operations += number(a, "Operations")?;
            if verb != "get" {
                seconds = (seconds.0 + 1.0 / x, seconds.1 + 1.0 / y);
            }
            slowest = slowest.max(p / q);
            println!("| {workers} | {verb} | {x:.0} | {y:.0} | {:.1} | {p:.1} | {q:.1} | {:.2} |", x / y, p / q);
        }
        writes = seconds.1 / seconds.0;
        cpu.push((workers, (a1.cpu_ms - a0.cpu_ms) / operations, (b1.cpu_ms - b0.cpu_ms) / operations));
    }
    heading("Server CPU per operation (ms)", &["workers", "Pintle", "upstream", "ratio"]);
    let mut share = 0.0;
    for (workers, ours, theirs) in cpu {
        share = ours / theirs;
        println!("| {workers} | {ours:.3} | {theirs:.3} | {share:.3} |");
    }
    judge(&[
        ("writes per second at 128 workers, ratio over all verbs", writes, Target::AtLeast(5.0)),
        ("CPU per operation at 128 workers, ratio", share, Target::AtMost(0.125)),
        ("p99, the worst ratio", slowest, Target::AtMost(0.5)),
    ]);
    Ok(())
}
