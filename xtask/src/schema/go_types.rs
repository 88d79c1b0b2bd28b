//! Reads struct declarations from Go packages: as much of the language as `gofmt`ted API types need.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::Context;

/// A field of a struct.
#[derive(Clone)]
pub struct GoField {
    /// The name in JSON; empty for inlined structs.
    pub json: String,
    pub omitempty: bool,
    pub omitzero: bool,
    /// Whether the Go field is a pointer.
    pub pointer: bool,
    /// The type without a leading `*`, imports resolved to package paths: `[]k8s.io/api/core/v1.Container`.
    pub go_type: String,
    /// The field number in protobuf; 0 if there is none.
    pub number: u32,
    pub patch_strategy: String,
    pub patch_merge_key: String,
}

/// What a declared name stands for.
pub enum GoType {
    Struct(Vec<GoField>),
    /// Another type, imports resolved.
    Named(String),
}

/// All declarations, by `package/path.Name`.
#[derive(Default)]
pub struct GoTypes(pub BTreeMap<String, GoType>, Enums);

/// The values of each type of constants; those of types that are marked as enums count.
#[derive(Default)]
struct Enums {
    marked: BTreeSet<String>,
    values: BTreeMap<String, BTreeSet<String>>,
}

impl GoTypes {
    /// Adds the declarations of the package at `dir`, imported as `package`.
    pub fn add_package(&mut self, dir: &Path, package: &str) -> anyhow::Result<()> {
        let mut files: Vec<_> = fs::read_dir(dir)
            .with_context(|| dir.display().to_string())?
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| {
                let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                name.ends_with(".go") && !name.ends_with("_test.go") && !name.starts_with("zz_")
            })
            .filter(|p| p.file_name().is_some_and(|n| n != "generated.pb.go"))
            .collect();
        files.sort();
        for file in files {
            self.add_file(&fs::read_to_string(&file)?, package);
        }
        Ok(())
    }

    /// The values of the type, sorted, if it is marked as an enum.
    pub fn enum_values(&self, go_type: &str) -> Option<Vec<&str>> {
        let values = self.1.values.get(go_type).filter(|_| self.1.marked.contains(go_type))?;
        Some(values.iter().map(String::as_str).collect())
    }

    fn add_file(&mut self, text: &str, package: &str) {
        let imports = imports(text);
        let mut lines = text.lines();
        let mut marked = false;
        while let Some(line) = lines.next() {
            if let Some((go_type, value)) = constant(line) {
                let values = self.1.values.entry(resolve(go_type, package, &imports)).or_default();
                values.insert(value.to_owned());
            }
            let was_marked = std::mem::take(&mut marked);
            marked = line.starts_with("//") && (was_marked || line.trim_end() == "// +enum");
            let Some(rest) = line.strip_prefix("type ") else { continue };
            if let Some((name, _)) = rest.split_once(' ').filter(|_| was_marked) {
                self.1.marked.insert(format!("{package}.{name}"));
            }
            let Some((name, declared)) = rest.split_once(' ') else { continue };
            let key = format!("{package}.{name}");
            if declared == "struct {" {
                let body = lines.by_ref().take_while(|l| *l != "}");
                let fields = body.filter_map(|l| field(l.trim(), package, &imports)).collect();
                self.0.insert(key, GoType::Struct(fields));
            } else if declared == "struct{}" {
                self.0.insert(key, GoType::Struct(Vec::new()));
            } else if !declared.starts_with("struct")
                && !declared.starts_with("interface")
                && !declared.starts_with("func")
            {
                let target = declared.split("//").next().unwrap_or_default().trim().trim_start_matches("= ");
                self.0.insert(key, GoType::Named(resolve(target, package, &imports)));
            }
        }
    }
}

/// The type and value of a constant: `Name Type = "value"`.
fn constant(line: &str) -> Option<(&str, &str)> {
    let (declared, value) = line.trim().split_once(" = \"")?;
    let mut words = declared.trim_start_matches("const ").split_whitespace();
    let (_, go_type, None) = (words.next()?, words.next()?, words.next()) else { return None };
    Some((go_type, value.split('"').next()?))
}

fn imports(text: &str) -> BTreeMap<String, String> {
    let block = text.split_once("import (").and_then(|(_, rest)| rest.split_once(')')).map_or("", |(block, _)| block);
    let single = text.lines().filter_map(|l| l.strip_prefix("import "));
    let lines = block.lines().chain(single).map(str::trim);
    lines
        .filter_map(|line| {
            let (alias, path) = line.split_once('"')?;
            let path = path.trim_end_matches('"');
            let alias = alias.trim();
            let name = if alias.is_empty() { path.rsplit('/').next()? } else { alias };
            Some((name.to_owned(), path.to_owned()))
        })
        .collect()
}

fn field(line: &str, package: &str, imports: &BTreeMap<String, String>) -> Option<GoField> {
    if line.starts_with("//") {
        return None;
    }
    let (declaration, tags) = line.split_once('`')?;
    let tags = tags.trim_end_matches('`');
    let mut words = declaration.split_whitespace();
    let first = words.next()?;
    let go_type = words.next().unwrap_or(first);
    let tag = |name: &str| {
        let (_, rest) = tags.split_once(&format!("{name}:\""))?;
        Some(rest.split('"').next().unwrap_or_default())
    };
    let mut json = tag("json")?.split(',');
    let name = json.next()?;
    if name == "-" {
        return None;
    }
    let options: Vec<&str> = json.collect();
    if name.is_empty() && !options.contains(&"inline") {
        return None;
    }
    let number = tag("protobuf").and_then(|t| t.split(',').nth(1)?.parse().ok()).unwrap_or(0);
    Some(GoField {
        json: name.to_owned(),
        omitempty: options.contains(&"omitempty"),
        omitzero: options.contains(&"omitzero"),
        pointer: go_type.starts_with('*'),
        go_type: resolve(go_type.trim_start_matches('*'), package, imports),
        number,
        patch_strategy: tag("patchStrategy").unwrap_or_default().to_owned(),
        patch_merge_key: tag("patchMergeKey").unwrap_or_default().to_owned(),
    })
}

const BUILTIN: [&str; 14] = [
    "string", "bool", "int", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32",
    "float64", "byte",
];

/// The type with package paths in place of import names.
fn resolve(go_type: &str, package: &str, imports: &BTreeMap<String, String>) -> String {
    if let Some(item) = go_type.strip_prefix("[]") {
        return format!("[]{}", resolve(item.trim_start_matches('*'), package, imports));
    }
    if let Some((key, value)) = go_type.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
        let value = resolve(value.trim_start_matches('*'), package, imports);
        return format!("map[{}]{value}", resolve(key, package, imports));
    }
    if BUILTIN.contains(&go_type) || go_type == "interface{}" {
        return go_type.to_owned();
    }
    match go_type.split_once('.') {
        Some((import, name)) => match imports.get(import) {
            Some(path) => format!("{path}.{name}"),
            None => go_type.to_owned(),
        },
        None => format!("{package}.{go_type}"),
    }
}
