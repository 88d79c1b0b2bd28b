//! `additionalPrinterColumns`: the columns and cells of tables of custom resources. Start at [`Columns`].
// upstream: apiextensions-apiserver pkg/registry/customresource/tableconvertor
use jiff::Timestamp;
use serde_json::{Value, json};

use super::definition::ColumnSpec;
use crate::{json_path::JsonPath, meta::ObjectExt, table::human_duration};

/// The columns of a version.
#[derive(Clone, Debug)]
pub struct Columns(Vec<Column>);

#[derive(Clone, Debug)]
struct Column {
    spec: ColumnSpec,
    path: JsonPath,
}

impl Columns {
    /// The columns that a definition declares, or the age if it declares none; with one that cannot be read those before it.
    pub fn new(declared: &[ColumnSpec]) -> Columns {
        let age = [ColumnSpec {
            name: "Age".into(),
            type_: "date".into(),
            description: "CreationTimestamp is a timestamp representing the server time when this object was created. It is not \
                          guaranteed to be set in happens-before order across separate operations. Clients may not set this \
                          value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null \
                          for lists. More info: \
                          https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
                .into(),
            json_path: ".metadata.creationTimestamp".into(),
            ..ColumnSpec::default()
        }];
        let specs = if declared.is_empty() { &age[..] } else { declared };
        let column = |spec: &ColumnSpec| {
            let path = JsonPath::parse(&spec.json_path).ok()?;
            Some(Column { spec: spec.clone(), path })
        };
        Columns(specs.iter().map_while(column).collect())
    }

    /// `columnDefinitions` of the Table.
    pub fn definitions(&self, name_description: &str) -> Value {
        let name =
            json!({"name": "Name", "type": "string", "format": "name", "description": name_description, "priority": 0});
        let column = |column: &Column| {
            let spec = &column.spec;
            let description = match spec.description.as_str() {
                "" => format!("Custom resource definition column (in JSONPath format): {}", spec.json_path),
                given => given.to_owned(),
            };
            json!({
                "name": spec.name, "type": spec.type_, "format": spec.format, "description": description,
                "priority": spec.priority,
            })
        };
        std::iter::once(name).chain(self.0.iter().map(column)).collect()
    }

    /// The cells of one object.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let cell = |column: &Column| {
            let value = column.path.first(object);
            value.map_or(Value::Null, |value| cell(&column.spec.type_, value, now))
        };
        std::iter::once(object.name().into()).chain(self.0.iter().map(cell)).collect()
    }
}

fn cell(type_: &str, value: &Value, now: Timestamp) -> Value {
    match (type_, value) {
        (_, Value::Null) => Value::Null,
        ("string", Value::String(_)) => value.clone(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) => match n.as_i64() {
            Some(i) => i.into(),
            None => n.as_f64().map_or(Value::Null, |f| (f as i64).into()),
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => human_duration(time.duration_until(now)).into(),
            Err(_) if text.is_empty() => "<unknown>".into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_of_their_columns_type() {
        let column =
            |type_: &str, path: &str| ColumnSpec { type_: type_.into(), json_path: path.into(), ..<_>::default() };
        let columns = Columns::new(&[
            column("integer", ".spec.n"),
            column("string", ".spec.list"),
            column("boolean", ".spec.n"),
            column("date", ".metadata.creationTimestamp"),
            column("string", ".spec.missing"),
        ]);
        let object = json!({"metadata": {"name": "w", "creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"n": 3, "list": [1]}});
        let cells = columns.cells(&object, "2024-01-01T00:05:00Z".parse().unwrap());
        assert_eq!(cells, [json!("w"), json!(3), json!("[1]"), Value::Null, json!("5m"), Value::Null]);
        assert_eq!(
            columns.definitions("")[1]["description"],
            "Custom resource definition column (in JSONPath format): .spec.n"
        );
    }

    #[test]
    fn without_columns_the_age_is_shown() {
        assert_eq!(Columns::new(&[]).definitions("")[1]["name"], "Age");
    }
}
