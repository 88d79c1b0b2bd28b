//! Reads the embedded table of types (`schema/v1_36_facts.tsv`); its header describes the format.
use std::collections::HashMap;

use super::{Facts, Field, Flags, ListType, Member, Shape, Type, TypeId};

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct TableError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// What a line declares, before inlined structs are spread out.
enum Declared {
    Field(Field),
    Inline(u32, TypeId),
}

pub(super) fn parse(text: &'static str) -> Result<Facts, TableError> {
    let mut by_name = HashMap::new();
    for (line, text) in lines(text).filter(|(_, l)| !l.starts_with('\t')) {
        let name = text.split('\t').next().unwrap_or_default();
        let id = u16::try_from(by_name.len()).map_err(|_| TableError { line, reason: "too many types" })?;
        by_name.insert(name, TypeId(id));
    }
    let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
    let mut declared: Vec<Vec<Declared>> = Vec::with_capacity(by_name.len());
    let mut shapes = Shapes::default();
    for (line, text) in lines(text) {
        let fail = |reason| TableError { line, reason };
        if let Some(text) = text.strip_prefix('\t') {
            let last = declared.last_mut().ok_or_else(|| fail("a field without type"))?;
            last.push(field(text, &by_name, &mut shapes).map_err(fail)?);
        } else {
            types.push(type_line(text));
            declared.push(Vec::new());
        }
    }
    for (i, own) in declared.iter().enumerate() {
        let (mut members, mut fields) = (Vec::new(), Vec::new());
        for d in own {
            match d {
                Declared::Field(f) => {
                    members.push(Member::Field(fields.len() as u16));
                    fields.push(f.clone());
                }
                Declared::Inline(number, id) => {
                    members.push(Member::Inline(*number, *id));
                    spread(&declared, *id, &mut fields);
                }
            }
        }
        let mut sorted: Vec<u16> = (0..fields.len() as u16).collect();
        sorted.sort_by_key(|f| fields[usize::from(*f)].name);
        let always = (0..fields.len() as u16).filter(|f| always_written(&fields[usize::from(*f)])).collect();
        let number = |m: &Member| match m {
            Member::Field(f) => fields[usize::from(*f)].number,
            Member::Inline(number, _) => *number,
        };
        let mut by_number: Vec<u16> =
            (0..members.len() as u16).filter(|m| number(&members[usize::from(*m)]) != 0).collect();
        by_number.sort_by_key(|m| number(&members[usize::from(*m)]));
        let ty = &mut types[i];
        ty.by_number = by_number;
        (ty.members, ty.fields, ty.by_name, ty.always_written) = (members, fields, sorted, always);
        ty.id = TypeId(i as u16);
    }
    let by_gvk = types.iter().enumerate().filter_map(|(i, t)| Some((t.gvk?, TypeId(i as u16)))).collect();
    Ok(Facts { types, by_name, by_gvk })
}

fn lines(text: &'static str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines().enumerate().filter(|(_, l)| !l.starts_with('#')).map(|(i, l)| (i + 1, l))
}

/// Go leaves out fields marked `omitempty` if they are nil, zero or empty; structs are none of these.
fn always_written(field: &Field) -> bool {
    if field.flags.omitzero() {
        return false;
    }
    if field.flags.pointer() {
        return !field.flags.omitempty();
    }
    let is_struct = matches!(
        field.shape,
        Shape::Object(_)
            | Shape::Time
            | Shape::MicroTime
            | Shape::Duration
            | Shape::Quantity
            | Shape::IntOrString
            | Shape::RawExtension
    );
    is_struct || !field.flags.omitempty()
}

/// Adds the fields of an inlined struct.
fn spread(declared: &[Vec<Declared>], id: TypeId, fields: &mut Vec<Field>) {
    for d in declared.get(usize::from(id.0)).into_iter().flatten() {
        match d {
            Declared::Field(f) => fields.push(f.clone()),
            Declared::Inline(_, id) => spread(declared, *id, fields),
        }
    }
}

fn type_line(text: &'static str) -> Type {
    let mut parts = text.split('\t');
    let mut next = || parts.next().unwrap_or_default();
    let (name, flags, gvk, unions) = (next(), next(), next(), next());
    let gvk = gvk.split_once('/').and_then(|(group, rest)| {
        let (version, kind) = rest.split_once('/')?;
        Some((group, version, kind))
    });
    Type { name, gvk, unions, atomic: flags.contains('A'), described: flags.contains('S'), ..Type::default() }
}

fn field(
    text: &'static str,
    types: &HashMap<&'static str, TypeId>,
    shapes: &mut Shapes,
) -> Result<Declared, &'static str> {
    let mut parts = text.split('\t');
    let name = parts.next().unwrap_or_default();
    let number = parts.next().and_then(|n| n.parse().ok()).ok_or("no field number")?;
    let shape = shapes.parse(parts.next().unwrap_or_default(), types)?;
    if name.is_empty() {
        let Shape::Object(id) = shape else { return Err("only structs are inlined") };
        return Ok(Declared::Inline(number, id));
    }
    let letters = parts.next().unwrap_or_default();
    let bits = ["r", "o", "z", "p", "A", "M", "R", "Z", "G", "X"];
    let flags = bits.iter().enumerate().filter(|(_, l)| letters.contains(**l)).fold(0, |n, (bit, _)| n | 1 << bit);
    let list_type = match () {
        () if letters.contains('a') => ListType::Atomic,
        () if letters.contains('s') => ListType::Set,
        () if letters.contains('m') => ListType::Map,
        () => ListType::Unset,
    };
    let mut field = Field {
        name,
        number,
        shape,
        flags: Flags(flags),
        list_type,
        list_map_keys: &[],
        merge_key: "",
        default: "",
        go_type: "",
        enum_values: &[],
    };
    for fact in parts {
        match fact.split_once('=') {
            Some(("k", keys)) => field.list_map_keys = shapes.keys(keys),
            Some(("mk", key)) => field.merge_key = key,
            Some(("d", json)) => field.default = json,
            Some(("g", go)) => field.go_type = go,
            Some(("e", values)) => field.enum_values = shapes.keys(values),
            _ => return Err("unknown fact"),
        }
    }
    Ok(Declared::Field(field))
}

/// Shapes and keys live as long as the process, each kept once.
#[derive(Default)]
struct Shapes {
    items: Vec<(Shape, &'static Shape)>,
    keys: HashMap<&'static str, &'static [&'static str]>,
}

impl Shapes {
    fn parse(&mut self, code: &str, types: &HashMap<&'static str, TypeId>) -> Result<Shape, &'static str> {
        Ok(match code.split_at_checked(1).ok_or("no shape")? {
            ("s", "") => Shape::String,
            ("b", "") => Shape::Bool,
            ("i" | "B", "") => Shape::Int32,
            ("l", "") => Shape::Int64,
            ("d", "") => Shape::Double,
            ("y", "") => Shape::Bytes,
            ("t", "") => Shape::Time,
            ("T", "") => Shape::MicroTime,
            ("D", "") => Shape::Duration,
            ("q", "") => Shape::Quantity,
            ("x", "") => Shape::IntOrString,
            ("r", "") => Shape::RawExtension,
            ("f", "") => Shape::FieldsV1,
            ("j", "") => Shape::Json,
            ("#", name) => Shape::Object(*types.get(name).ok_or("unknown type")?),
            ("[", item) => Shape::List(self.item(item, types)?),
            ("w", item) => Shape::WrappedList(self.item(item, types)?),
            ("{", item) => Shape::Map(self.item(item, types)?),
            _ => return Err("unknown shape"),
        })
    }

    fn item(&mut self, code: &str, types: &HashMap<&'static str, TypeId>) -> Result<&'static Shape, &'static str> {
        let shape = self.parse(code, types)?;
        if let Some((_, kept)) = self.items.iter().find(|(s, _)| *s == shape) {
            return Ok(kept);
        }
        let kept: &'static Shape = Box::leak(Box::new(shape));
        self.items.push((shape, kept));
        Ok(kept)
    }

    fn keys(&mut self, list: &'static str) -> &'static [&'static str] {
        self.keys.entry(list).or_insert_with(|| Box::leak(list.split(',').collect::<Box<[_]>>()))
    }
}
