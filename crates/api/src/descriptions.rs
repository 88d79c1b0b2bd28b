//! The descriptions of types and fields, unpacked while a document is built and dropped afterwards.
use std::{collections::HashMap, io::Read};

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.deflate"));

/// All descriptions, unpacked.
pub(crate) struct Text(String);

impl Text {
    /// Unpacks the descriptions; a few milliseconds and a megabyte.
    pub(crate) fn unpack() -> Text {
        let mut text = String::new();
        flate2::read::DeflateDecoder::new(PACKED).read_to_string(&mut text).expect("a test unpacks the embedded file");
        Text(text)
    }

    /// An index into the text: type → its description and those of its fields.
    pub(crate) fn index(&self) -> Descriptions<'_> {
        let mut types: HashMap<&str, TypeText<'_>> = HashMap::new();
        let mut current = "";
        for line in self.0.lines() {
            let Some((name, text)) = line.trim_start_matches('\t').split_once('\t') else { continue };
            if line.starts_with('\t') {
                types.entry(current).or_default().fields.push((name, text));
            } else {
                current = name;
                types.entry(name).or_default().own = text;
            }
        }
        Descriptions { types }
    }
}

#[derive(Default)]
struct TypeText<'a> {
    own: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

/// Descriptions by type and field.
pub(crate) struct Descriptions<'a> {
    types: HashMap<&'a str, TypeText<'a>>,
}

impl Descriptions<'_> {
    /// What the type with this OpenAPI name is.
    pub(crate) fn of_type(&self, name: &str) -> Option<String> {
        self.types.get(name).map(|t| unescape(t.own)).filter(|t| !t.is_empty())
    }

    /// What a field of the type is.
    pub(crate) fn of_field(&self, name: &str, field: &str) -> Option<String> {
        let (_, text) = self.types.get(name)?.fields.iter().find(|(f, _)| *f == field)?;
        Some(unescape(text))
    }
}

fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some(other)) => out.push(other),
            (c, _) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_file_describes_types_and_fields() {
        let text = Text::unpack();
        let all = text.index();
        let pod = all.of_type("io.k8s.api.core.v1.Pod").unwrap();
        assert!(pod.starts_with("Pod is a collection of containers"), "{pod}");
        assert!(
            all.of_field("io.k8s.api.apps.v1.DeploymentSpec", "replicas")
                .unwrap()
                .starts_with("Number of desired pods.")
        );
        assert!(all.of_field("io.k8s.api.apps.v1.DeploymentSpec", "template").unwrap().ends_with("is \"Always\"."));
        assert!(all.types.len() > 500);
    }
}
