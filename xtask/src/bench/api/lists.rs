//! Lists of 10,000 pods in both encodings, and their deletion with one request.
use super::{Server, Target, judge, number, rows};
use crate::bench::heading;
use anyhow::Result;
use serde_json::Value;

/// Measures and prints.
pub fn measure(ours: &Server, theirs: &Server) -> Result<()> {
    // JSON first: `apibench` asks for the server's version in the first encoding, and upstream has none in protobuf.
    let flags = ["-encodings", "json,protobuf", "-run", "list"];
    let ((a, _, _), (b, _, _)) = (ours.load(&flags)?, theirs.load(&flags)?);
    let (a, b) = (rows(&a, "list")?, rows(&b, "list")?);
    for (encoding, target) in [("json", 8.0), ("protobuf", 5.0)] {
        heading(&format!("10,000 pods, {encoding} (ms)"), &["what", "Pintle", "upstream", "upstream / Pintle"]);
        let (mut list, mut delete) = (0.0, 0.0);
        let of_encoding = |(a, _): &(&Value, &Value)| a["Encoding"] == encoding;
        for (a, b) in a.iter().zip(b).filter(of_encoding) {
            let (x, y) = (number(a, "Milliseconds")?, number(b, "Milliseconds")?);
            let what = a["What"].as_str().unwrap_or("?");
            println!("| {what} | {x:.0} | {y:.0} | {:.1} |", y / x);
            match what {
                "list all, newest" => list = y / x,
                "delete collection" => delete = x / 1000.0,
                _ => {}
            }
        }
        judge(&[
            ("list of all, ratio", list, Target::AtLeast(target)),
            ("deletion of all at once, seconds", delete, Target::AtMost(2.0)),
        ]);
    }
    Ok(())
}
