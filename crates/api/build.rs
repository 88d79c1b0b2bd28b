//! Collects the descriptions of all API types and fields for `kubectl explain` into one compressed file.
//!
//! They are upstream's, and come from the sources of the `k8s-openapi` crate, which the workspace depends on anyway: nothing of
//! them is copied into the repository. Its code is read as text rather than compiled, for compiling it costs minutes.
//!
//! The file has a line per type (`name TAB description`) and below it one per field, with a leading tab; newlines and
//! backslashes are escaped as in Rust.
use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let mut files = Vec::new();
    collect(&sources()?.join("src/v1_36"), &mut files)?;
    files.sort();
    let mut out = String::new();
    for file in files {
        describe(&fs::read_to_string(file)?, &mut out);
    }
    if !out.contains("io.k8s.api.core.v1.PodSpec\t") {
        return Err("the sources of k8s-openapi do not look as expected: no description of PodSpec".into());
    }
    let target = PathBuf::from(env::var("OUT_DIR")?).join("descriptions.deflate");
    let mut encoder = flate2::write::DeflateEncoder::new(fs::File::create(target)?, flate2::Compression::best());
    encoder.write_all(out.as_bytes())?;
    encoder.finish()?;
    Ok(())
}

/// Where cargo keeps the sources of `k8s-openapi`.
fn sources() -> Result<PathBuf> {
    let manifest = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    // May download: a build fetches only what it compiles, the whole graph names more.
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &env::var("TARGET")?])
        .arg("--manifest-path")
        .arg(manifest)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let text = String::from_utf8(output.stdout)?;
    let paths = text.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let manifest = paths
        .map(PathBuf::from)
        .find(|p| {
            let directory = p.parent().and_then(Path::file_name).and_then(|n| n.to_str());
            directory.is_some_and(|n| n.starts_with("k8s-openapi-0") || n == "k8s-openapi")
        })
        .ok_or("the workspace does not depend on k8s-openapi")?;
    Ok(manifest.parent().ok_or("a manifest is in a directory")?.to_owned())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The text of the first Rust string literal after `marker`, escapes left as they are.
fn literal<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    let rest = line.split_once(marker)?.1;
    let bytes = rest.as_bytes();
    let mut at = 0;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    rest.get(..at)
}

/// Adds what the JSON schema of a generated file says.
fn describe(source: &str, out: &mut String) {
    let Some(name) = source.strip_prefix("// Generated from definition ").and_then(|s| s.lines().next()) else {
        return;
    };
    let Some((_, schema)) = source.split_once("fn json_schema(") else { return };
    let schema = schema.split("\n    }\n").next().unwrap_or_default();
    let mut described = false;
    let mut field = None;
    for line in schema.lines() {
        let indent = line.len() - line.trim_start().len();
        let description =
            literal(line, "\"description\": \"").or_else(|| literal(line, "insert(\"description\".into(), \""));
        if let Some(text) = description {
            let text = text.replace("\\\"", "\"");
            match field.take() {
                Some(field) => out.push_str(&format!("\t{field}\t{text}\n")),
                None if !described => {
                    out.push_str(&format!("{name}\t{text}\n"));
                    described = true;
                }
                None => {}
            }
        } else if indent == 16 && line.trim_start().starts_with('"') {
            field = literal(line, "\"");
            if !described {
                out.push_str(&format!("{name}\t\n"));
                described = true;
            }
        }
    }
}
