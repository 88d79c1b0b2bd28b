//! What rules cost when they are evaluated, as upstream's own tests have it.
// upstream: apiextensions-apiserver pkg/apiserver/schema/cel/celcoststability_test.go
use pintle_cel::schema::of_schema;
use pintle_cel::{Activation, Budget, Env, REQUEST_BUDGET, Value};
use serde_json::{Value as Json, json};

/// Evaluates rules, which all hold, on an object and compares what they cost.
#[track_caller]
fn cost(schema: &Json, object: &Json, rules: &[(&str, u64)]) {
    let Some(ty) = of_schema(schema, true, "object") else { panic!("an object") };
    let env = Env::new().variable("self", ty.clone());
    let mut wrong = Vec::new();
    for (rule, cost) in rules {
        let program = env.compile(rule).unwrap_or_else(|error| panic!("{rule}: {error}"));
        let (mut activation, mut budget) = (Activation::new(), Budget::default());
        activation.bind("self", Value::typed(object, &ty));
        let held = program.eval_bool(&activation, &mut budget);
        let spent = REQUEST_BUDGET - budget.left();
        if held != Ok(true) || spent != *cost {
            wrong.push(format!("{rule}: {held:?}, costs {spent} and not {cost}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn schema(properties: Json) -> Json {
    json!({"type": "object", "properties": properties})
}

#[test]
fn of_scalars() {
    let text = json!({"type": "string"});
    let types = json!({"s": text, "t": text, "i": {"type": "integer"}, "j": {"type": "integer"}, "n": {"type": "number"},
        "d": {"type": "string", "format": "duration"}, "w": {"type": "string", "format": "date-time"},
        "b": {"type": "string", "format": "byte"}, "e": {"type": "string", "enum": ["Pending"]}});
    let object = json!({"s": "Rook takes 👑", "t": "Rook takes 👑", "i": 5, "j": 5, "n": 10.0, "d": "1h2m3s4ms",
        "w": "2011-08-18T19:03:37.010000000+01:00", "b": "QUI=", "e": "Pending"});
    let rules = [
        ("self.i == 5 && 5 == self.i && self.i == self.j", 11),
        ("type(self.i) == int", 4),
        ("self.i + 1 == 5 + 1", 5),
        ("self.n == 10.0", 3),
        ("double(self.i) < self.n", 6),
        ("double(5) < 10.0", 1),
        ("self.s == 'Rook takes 👑' && 'Rook takes 👑' == self.s && self.s == self.t", 14),
        ("self.s.startsWith('Rook')", 4),
        ("!self.s.startsWith('knight')", 5),
        ("self.s.matches('^[^0-9]*$')", 8),
        ("!self.s.matches('^[0-9]*$')", 7),
        ("size(self.s) == 12", 4),
        ("self.s.charAt(3) == 'k'", 4),
        ("self.s.indexOf('o', 2) == 2", 4),
        ("self.s.replace(' ', 'x') == 'Rookxtakesx👑'", 7),
        ("self.s.split(' ') == ['Rook', 'takes', '👑']", 6),
        ("self.s.substring(4, 10).trim() == 'takes'", 6),
        ("self.s.lowerAscii() == self.s.lowerAscii()", 10),
        ("'%o %o %o'.format([7, 8, 9]) == '7 10 11'", 2),
        ("self.b == b'AB'", 3),
        ("self.d == duration('1h2m') + duration('3s4ms')", 4),
        ("self.d.getHours() == 1", 4),
        ("type(self.d) == google.protobuf.Duration", 4),
        ("self.w == timestamp('2011-08-18T00:00:00.000+01:00') + duration('19h3m37s10ms')", 4),
        ("self.e in ['Pending', 'Available']", 2),
        ("int(self.n) == self.i + 5", 7),
        ("optional.of('a') != optional.of('b')", 3),
        ("optional.of('a').or(optional.of('a')).hasValue()", 2),
        ("optional.none().or(optional.of('a')).hasValue()", 3),
        ("optional.of('a').optMap(v, v == 'value').hasValue()", 8),
        ("isQuantity('200M')", 1),
        ("quantity('200M') == quantity('0.2G') && quantity('0.2G') == quantity('200M')", 6),
        ("quantity('200M').compareTo(quantity('0.2G')) == 0", 4),
    ];
    cost(&schema(types), &object, &rules);
}

#[test]
fn of_lists() {
    let list = |items: Json| json!({"type": "array", "items": items});
    let sets = |items: Json| json!({"type": "array", "items": items, "x-kubernetes-list-type": "set"});
    let types = json!({"a": list(json!({"type": "integer"})), "b": list(json!({"type": "integer"})),
        "array": list(json!({"type": "integer"})), "s": sets(json!({"type": "string"})), "big": sets(json!({"type": "integer"})),
        "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": schema(json!({"k": {"type": "string"}, "v": {"type": "string"}, "v2": {"type": "string"}}))}});
    let object = json!({"a": [1, 2, 3], "b": [1, 2, 3], "array": [1, 1, 2, 2, 3, 3, 4, 5], "s": ["a", "b", "c"],
        "big": (0..1000).collect::<Vec<_>>(),
        "m": [{"k": "a1", "v": "b1"}, {"k": "a2", "v": "b2"}, {"k": "a3", "v": "b3", "v2": "z"}]});
    let rules = [
        ("1 in self.a", 5),
        ("self.b[0] in self.a", 8),
        ("self.a + self.b == [1, 2, 3, 1, 2, 3]", 6),
        ("self.a + [4, 5] == [1, 2, 3, 4, 5]", 4),
        ("has(self.a) && has(self.b)", 2),
        ("sets.contains(self.s, ['a'])", 6),
        ("sets.equivalent(self.s, ['a', 'b', 'c'])", 21),
        ("sets.intersects(self.big, [1])", 1003),
        ("!sets.equivalent(self.big, [1, 2, 3])", 6004),
        ("self.array.all(e, e > 0)", 43),
        ("self.array.exists(e, e > 2)", 36),
        ("self.array.exists_one(e, e > 4)", 22),
        ("!self.array.all(e, e < 2)", 21),
        ("!self.array.exists(e, e < 0)", 52),
        ("!self.array.exists_one(e, e == 2)", 25),
        ("size(self.array.filter(e, e%2 == 0)) == 3", 68),
        ("self.array.map(e, e * 20).filter(e, e > 50).exists(e, e == 60)", 194),
        ("self.array.all(i, e, e > 0)", 43),
        ("self.array.existsOne(i, e, e > 4)", 22),
        ("self.array.transformList(i, e, e > 2, e * 2).size() > 0", 77),
        ("self.array.transformList(i, e, e * 2).size() > 0", 117),
        ("has(self.m[0].v)", 3),
        ("self.m.all(m, m.k.startsWith('a'))", 21),
        ("self.m.all(m, !has(m.v2) || m.v2 == 'z')", 21),
        ("self.m.exists_one(m, m.k == 'a3')", 15),
        ("self.m.map(m, m.v).exists(v, v == 'b1')", 55),
        ("self.m.filter(m, has(m.v2) && m.v2 == 'z').map(m, m.v2).size() == 1", 39),
        ("self.m.exists(m, m.v2 == 'z')", 24),
        ("!self.m.all(m, m.v2 != 'z')", 22),
        ("self.m[?0].hasValue()", 4),
        ("lists.range(4) == [0,1,2,3]", 16),
        ("[5,1,2,3].reverse() == [3,2,1,5]", 16),
        ("[1,2,3,4].slice(1, 3) == [2, 3]", 14),
        ("[4, 3, 2, 1].sort() == [1, 2, 3, 4]", 44),
        ("['d', 'a', 'b', 'c'].sort() == ['a', 'b', 'c', 'd']", 45),
        ("[].sortBy(e, e) == []", 14),
        ("[-3, 1, -5, -2, 4].sortBy(e, -(e * e)) == [-5, 4, -3, -2, 1]", 145),
        ("['a', 'c', 'b', 'first'].sortBy(e, e == 'first' ? '' : e) == ['first', 'a', 'b', 'c']", 104),
        (
            "[{'name': 'foo'}, {'name': 'bar'}, {'name': 'baz'}].sortBy(e, e.name) == \
             [{'name': 'bar'}, {'name': 'baz'}, {'name': 'foo'}]",
            75,
        ),
        ("[].sort() == []", 11),
        ("['c', 'a', 'a', 'b', 'a', 'b', 'c', 'c'].distinct() == ['c', 'a', 'b']", 146),
    ];
    cost(&schema(types), &object, &rules);
}

#[test]
fn of_maps_and_objects() {
    let map = |values: Json| json!({"type": "object", "additionalProperties": values});
    let text = || json!({"type": "string"});
    let types = json!({"val": map(json!({"type": "integer"})), "m": map(map(text())), "t": map(text()),
        "obj": schema(json!({"field": text(), "absentField": text()})),
        "something": {"x-kubernetes-int-or-string": true}});
    let object = json!({"val": {"b": 1, "d": 2}, "m": {"x": {"y": "b"}}, "t": {"k": "v"}, "obj": {"field": "a"},
        "something": "25%"});
    let rules = [
        ("'b' in self.val", 3),
        ("!has(self.val.a)", 3),
        ("has(self.val.b)", 2),
        ("self.val.all(k, self.val[k] > 0)", 17),
        ("!self.val.exists(k, self.val[k] == 3)", 20),
        ("self.val.exists_one(k, self.val[k] == 2)", 14),
        ("size(self.val.filter(k, self.val[k] > 1)) == 1", 26),
        ("self.val.all(k, v, v > 0)", 13),
        ("!self.val.exists(k, v, v == 3)", 16),
        ("self.val.transformMap(k, v, v > 1, v + 1).size() == 1", 14),
        ("self.val.transformMap(k, v, v + 1).size() == 2", 15),
        ("self.val.transformMapEntry(k, v, v > 1, {k + '2': v + 1}).size() == 1", 45),
        ("self.val.transformMapEntry(k, v, {k + '2': v + 1}).size() == 2", 77),
        ("self.obj.field == 'a'", 4),
        ("self.m['x']['y'] == 'b'", 5),
        ("self.m.map(k, k).map(k, k).size() == 1", 32),
        ("self.m.map(k, self.m[k].map(m, m)).size() == 1", 34),
        ("self.obj.?field == optional.of('a')", 5),
        ("self.obj.?absentField == optional.none()", 4),
        ("self.obj.?field.orValue('v') == 'a'", 4),
        ("self.t[?'k'] == optional.of('v')", 5),
        ("type(self.something) == int ? self.something == 1 : self.something == '25%'", 7),
    ];
    cost(&schema(types), &object, &rules);
}
