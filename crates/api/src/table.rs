//! `meta.k8s.io/v1` Tables: the columns and cells that `kubectl get` shows for each kind. Start at [`printer`].
// upstream: pkg/printers/internalversion/printers.go, apiserver pkg/registry/rest/table.go
mod columns;
mod core;
mod groups;
mod pod;
mod preview;
mod text;

use std::{collections::HashMap, sync::LazyLock};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{descriptions::Text, meta::ObjectExt};

pub use text::human_duration;

/// What a row of a Table carries besides its cells: `includeObject`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// From the query parameter; `None` if it is none of the known values.
    pub fn parse(value: &str) -> Option<IncludeObject> {
        match value {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// A column of a Table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// The OpenAPI type of the cells.
    pub type_: &'static str,
    /// The OpenAPI format: `name` for the column that names the object.
    pub format: &'static str,
    /// 0: always shown; above: only in wide output.
    pub priority: i32,
    /// The field that describes the column, as `api.core.v1.PodStatus.podIP`, or its own description after `= `; empty: none.
    source: &'static str,
}

/// An object to print, and the time at which.
pub(crate) struct Printed<'a> {
    object: &'a Value,
    now: Timestamp,
}

type Cells = fn(&Printed<'_>) -> Vec<Value>;

/// How a kind is printed.
pub struct Printer {
    columns: &'static [Column],
    cells: Cells,
}

/// A Table of custom resources; `definitions` as for [`table`].
pub fn custom_table(
    columns: &crate::custom::columns::Columns,
    objects: &[Value],
    metadata: Value,
    include: IncludeObject,
    headers: bool,
) -> Value {
    let now = Timestamp::now();
    let row = |object: &Value| carrying(columns.cells(object, now), object, include).into();
    let description = DESCRIPTIONS.get("apimachinery.pkg.apis.meta.v1.ObjectMeta.name").map_or("", String::as_str);
    table(headers.then(|| columns.definitions(description)), objects.iter().map(row).collect::<Vec<Value>>(), metadata)
}

/// A row of `cells` with as much of the object as is asked for.
fn carrying(cells: Vec<Value>, object: &Value, include: IncludeObject) -> Map<String, Value> {
    let carried = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial_object_metadata(object),
        IncludeObject::Object => object.clone(),
    };
    Map::from_iter([("cells".to_owned(), cells.into()), ("object".to_owned(), carried)])
}

/// How objects of a kind are printed; kinds without columns of their own show name and creation time.
pub fn printer(group: &str, kind: &str) -> Printer {
    let (columns, cells) = columns::of(group, kind);
    Printer { columns, cells }
}

impl Printer {
    /// The columns.
    pub fn columns(&self) -> &'static [Column] {
        self.columns
    }

    /// `columnDefinitions` of the Table.
    pub fn column_definitions(&self) -> Value {
        let definition = |c: &Column| {
            let of_field = || DESCRIPTIONS.get(c.source).map_or("", String::as_str);
            let description = c.source.strip_prefix("= ").unwrap_or_else(of_field);
            json!({
                "name": c.name, "type": c.type_, "format": c.format, "description": description, "priority": c.priority,
            })
        };
        self.columns.iter().map(definition).collect()
    }

    /// The cells of one object.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.cells)(&Printed { object, now })
    }

    /// One element of the Table's `rows`.
    pub fn row(&self, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
        let mut row = carrying(self.cells(object, now), object, include);
        if let Some(conditions) = pod::row_conditions(object) {
            row.insert("conditions".into(), conditions);
        }
        row.into()
    }
}

/// An object reduced to its metadata, as clients ask for with `as=PartialObjectMetadata`.
pub fn partial_object_metadata(object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

/// A Table without rows for a kind; upstream writes `null` for kinds without columns of their own.
pub fn no_rows(printer: &Printer) -> Value {
    if columns::is_default(printer.columns) { Value::Null } else { json!([]) }
}

/// A Table of `rows`. `metadata` is that of the list (or the `resourceVersion` of the single object); without
/// `column_definitions` (`noHeaders`, or a later event of a watch) clients keep those that they know.
pub fn table(column_definitions: Option<Value>, rows: impl Into<Value>, metadata: Value) -> Value {
    let mut table = Map::new();
    table.insert("kind".into(), "Table".into());
    table.insert("apiVersion".into(), "meta.k8s.io/v1".into());
    table.insert("metadata".into(), metadata);
    table.insert("columnDefinitions".into(), column_definitions.unwrap_or_else(|| json!([])));
    table.insert("rows".into(), rows.into());
    table.into()
}

/// The descriptions of all columns that have one; the packed text is unpacked for it once.
static DESCRIPTIONS: LazyLock<HashMap<&'static str, String>> = LazyLock::new(|| {
    let text = Text::unpack();
    let index = text.index();
    columns::all()
        .filter_map(|c| {
            let (ty, field) = c.source.rsplit_once('.')?;
            Some((c.source, index.of_field(&format!("io.k8s.{ty}"), field)?))
        })
        .collect()
});

impl<'a> Printed<'a> {
    fn get(&self, path: &str) -> &'a Value {
        get(self.object, path)
    }

    fn text(&self, path: &str) -> &'a str {
        self.get(path).as_str().unwrap_or_default()
    }

    fn text_or(&self, path: &str, default: &'a str) -> &'a str {
        Some(self.text(path)).filter(|s| !s.is_empty()).unwrap_or(default)
    }

    fn int(&self, path: &str) -> i64 {
        self.get(path).as_i64().unwrap_or(0)
    }

    fn flag(&self, path: &str) -> bool {
        self.get(path).as_bool().unwrap_or(false)
    }

    fn list(&self, path: &str) -> &'a [Value] {
        list(self.object, path)
    }

    fn name(&self) -> Value {
        self.object.name().into()
    }

    fn age(&self) -> Value {
        self.since("metadata.creationTimestamp").into()
    }

    /// How long ago the time at `path` was.
    fn since(&self, path: &str) -> String {
        self.since_text(self.text(path))
    }

    fn since_text(&self, time: &str) -> String {
        match time.parse::<Timestamp>() {
            Ok(t) => human_duration(t.duration_until(self.now)),
            Err(_) => "<unknown>".into(),
        }
    }

    fn deleted(&self) -> bool {
        self.object.deletion_timestamp().is_some()
    }
}

/// The value at a dotted path; null if there is none.
fn get<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').try_fold(value, |v, key| v.get(key)).unwrap_or(&Value::Null)
}

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    get(value, path).as_array().map_or(&[], Vec::as_slice)
}

fn str_of<'a>(value: &'a Value, path: &str) -> &'a str {
    get(value, path).as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::Scheme;

    #[test]
    fn every_kind_prints_as_many_cells_as_it_has_columns() {
        let object = json!({"metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"}});
        for r in Scheme::all().resources() {
            let printer = printer(&r.group, &r.kind);
            let cells = printer.cells(&object, Timestamp::now());
            assert_eq!(cells.len(), printer.columns().len(), "{}", r.group_kind());
        }
    }

    #[test]
    fn columns_are_described_by_the_fields_that_they_show() {
        let columns = printer("", "Pod").column_definitions();
        assert_eq!(columns[0]["format"], "name");
        assert!(columns[0]["description"].as_str().unwrap().starts_with("Name must be unique"));
        assert_eq!(columns[5]["name"], "IP");
        assert!(columns[5]["description"].as_str().unwrap().contains("IP address"));
        assert_eq!(columns[5]["priority"], 1);
    }

    #[test]
    fn rows_carry_metadata_by_default() {
        let object = json!({"metadata": {"name": "a", "uid": "u"}, "data": {"k": "v"}});
        let row = printer("", "ConfigMap").row(&object, IncludeObject::default(), Timestamp::now());
        assert_eq!(row["cells"], json!(["a", 1, "<unknown>"]));
        assert_eq!(row["object"]["metadata"]["uid"], "u");
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(row["object"].get("data"), None);
    }

    #[test]
    fn kinds_without_columns_show_name_and_creation_time() {
        let object = json!({"metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"}});
        let printer = printer("rbac.authorization.k8s.io", "Role");
        assert_eq!(printer.cells(&object, Timestamp::now()), ["a", "2024-01-01T00:00:00Z"]);
        assert_eq!(printer.columns()[1].name, "Created At");
    }
}
