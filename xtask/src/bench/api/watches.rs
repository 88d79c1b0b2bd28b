//! Events to many watchers, and how many watchers are held.
use super::{Server, Target, judge, number, rows};
use crate::bench::heading;
use anyhow::Result;

/// 1, 100 and 1,000 watchers of 1,000 events.
pub fn measure(ours: &Server, theirs: &Server) -> Result<()> {
    let flags = ["-encodings", "json", "-run", "watch"];
    let (a, _, a1) = ours.load(&flags)?;
    let (b, _, b1) = theirs.load(&flags)?;
    heading("Watchers × events, deliveries per second", &["watchers", "events", "Pintle", "upstream", "ratio"]);
    let mut ratio = 0.0;
    for (a, b) in rows(&a, "watch")?.iter().zip(rows(&b, "watch")?) {
        let (x, y) = (number(a, "DeliveredPerSecond")?, number(b, "DeliveredPerSecond")?);
        ratio = x / y;
        println!("| {} | {} | {x:.0} | {y:.0} | {ratio:.1} |", a["Watchers"], a["Events"]);
    }
    let (x, y) = (a1.pss_kib as f64 / 1024.0, b1.pss_kib as f64 / 1024.0);
    println!("\nMemory afterwards: Pintle {x:.0} MiB PSS, upstream {y:.0} MiB PSS, ratio {:.2}", x / y);
    judge(&[("deliveries to 1,000 watchers, ratio", ratio, Target::AtLeast(5.0))]);
    Ok(())
}

/// 5,000 watchers: each must get every event, and none may be ended.
pub fn hold(ours: &Server, theirs: &Server) -> Result<()> {
    heading(
        "5,000 watchers × 20 events",
        &["server", "opening ms", "last event ms", "watches opened again", "memory MiB PSS"],
    );
    let mut again = 0.0;
    for (name, server) in [("upstream", theirs), ("Pintle", ours)] {
        let flags = ["-encodings", "json", "-run", "watch", "-watchers", "5000", "-events", "20"];
        let (report, _, after) = server.load(&flags)?;
        for row in rows(&report, "watch")? {
            again = number(row, "Restarts")?;
            let (opening, last, memory) =
                (number(row, "Opening")?, number(row, "LastGot")?, after.pss_kib as f64 / 1024.0);
            println!("| {name} | {opening:.0} | {last:.0} | {again:.0} | {memory:.0} |");
        }
    }
    judge(&[("watches that Pintle ended", again, Target::AtMost(0.0))]);
    Ok(())
}
