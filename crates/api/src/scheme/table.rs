//! Reads the embedded table of resources (`schema/v1_36_resources.tsv`).
use super::{Resource, Subresource, Verb, Verbs};

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct TableError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The resources of the table, in its order.
pub(super) fn parse(text: &str) -> Result<Vec<Resource>, TableError> {
    let mut resources: Vec<Resource> = Vec::with_capacity(80);
    let mut group_version = ("", "");
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.starts_with('#')) {
        let fail = |reason| TableError { line: i + 1, reason };
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[..] {
            ["version", g, v] => group_version = (g, v),
            ["resource", plural, singular, kind, scope, verb_letters, short, categories, hash] => {
                let (group, version) = group_version;
                let (storage_group, storage_version) = storage(&resources, group, version, plural);
                resources.push(Resource {
                    group: group.into(),
                    version: version.into(),
                    kind: kind.into(),
                    list_kind: format!("{kind}List"),
                    plural: plural.into(),
                    singular: singular.into(),
                    short_names: words(short),
                    categories: words(categories),
                    namespaced: scope == "Namespaced",
                    verbs: verbs(verb_letters).ok_or_else(|| fail("unknown verb"))?,
                    subresources: Vec::new(),
                    storage_group,
                    storage_version,
                    storage_version_hash: hash.into(),
                    custom: None,
                });
            }
            ["sub", name, kind, group, version, verb_letters] => {
                let parent = resources.last_mut().ok_or_else(|| fail("a subresource without resource"))?;
                let own = version == "-";
                parent.subresources.push(Subresource {
                    name: name.into(),
                    group: if own { parent.group.clone() } else { group.into() },
                    version: if own { parent.version.clone() } else { version.into() },
                    kind: kind.into(),
                    verbs: verbs(verb_letters).ok_or_else(|| fail("unknown verb"))?,
                });
            }
            _ => return Err(fail("neither version, resource nor sub")),
        }
    }
    Ok(resources)
}

/// Where objects of a resource are stored: in the first version of their group that has it, but for `events`.
// upstream: pkg/controlplane/instance.go and pkg/kubeapiserver/default_storage_factory_builder.go
fn storage(before: &[Resource], group: &str, version: &str, plural: &str) -> (String, String) {
    if group == "events.k8s.io" {
        return (String::new(), "v1".to_owned());
    }
    let first = before.iter().find(|r| r.group == group && r.plural == plural);
    (group.to_owned(), first.map_or_else(|| version.to_owned(), |first| first.version.clone()))
}

fn words(list: &str) -> Vec<String> {
    list.split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

fn verbs(letters: &str) -> Option<Verbs> {
    letters.chars().try_fold(Verbs::default(), |verbs, c| {
        let verb = match c {
            'c' => Verb::Create,
            'd' => Verb::Delete,
            'x' => Verb::DeleteCollection,
            'g' => Verb::Get,
            'l' => Verb::List,
            'p' => Verb::Patch,
            'u' => Verb::Update,
            'w' => Verb::Watch,
            _ => return None,
        };
        Some(verbs.with(verb))
    })
}
