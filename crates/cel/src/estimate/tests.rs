//! Costs that upstream's own tests name.
use super::Estimate;
use crate::schema::of_schema;
use crate::sizes::Sizes;
use crate::{Env, Type};
use serde_json::{Value, json};

#[track_caller]
fn check(env: &Env, sizes: Option<&Sizes>, source: &str, min: u64, max: u64) {
    let program = env.compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    assert_eq!(env.estimate(&program, sizes), Estimate { min, max }, "{source}");
}

/// The most that a rule on a value of this schema costs.
fn most(schema: &Value, rule: &str) -> u64 {
    let ty = of_schema(schema, false, "object").unwrap();
    let env = Env::new().variable("self", ty.clone()).variable("oldSelf", ty);
    let program = env.compile(rule).unwrap_or_else(|error| panic!("{rule}: {error}"));
    env.estimate(&program, Sizes::of_schema(schema, false).as_ref()).max
}

// upstream: cel-go checker/cost_test.go
#[test]
fn the_language_costs_what_it_costs_upstream() {
    let env = Env::new();
    for (source, min, max) in [
        ("\"Hello World!\"", 0, 0),
        ("[1, 2, 3]", 10, 10),
        ("{'a': 1, 'b': 2, 'c': 3}", 30, 30),
        ("[1, 2, 3].all(x, true)", 20, 20),
        ("'123'.matches('[0-9]')", 2, 2),
        ("true || false", 0, 0),
        ("1 < 2", 1, 1),
        ("1 == 2", 1, 1),
        ("2 in [1, 2, 3]", 13, 13),
        ("1 % 1", 1, 1),
        ("true ? 1 : 2", 0, 0),
        ("size(b'123')", 1, 1),
        ("string(1)", 1, 1),
        ("((5 != 6) == (1 == 2)) == ((3 <= 4) == (9 != 9))", 7, 7),
        ("[1,2,3,4,5].filter(x, x % 2 == 0)", 41, 101),
        ("[1,2,3,4,5].map(x, x)", 86, 86),
        ("[1,2,3,4,5].map(x, x).filter(x, x % 2 == 0)", 117, 177),
        ("[1,2,3,4,5].map(x, x).exists(x, x == 5) == true", 108, 118),
        ("[1,2,3,4,5].map(x, x).map(x, x)", 162, 162),
        ("[1,2,3,4,5].map(x, x)[4]", 87, 87),
        ("[[1,2],[1,2],[1,2],[1,2],[1,2]][4]", 61, 61),
        ("{'a': [1,2], 'b': [1,2], 'c': [1,2], 'd': [1,2], 'e': [1,2]}.b", 81, 81),
        ("[[1, 1], [2, 2], [3, 3], [4, 4], [5, 5]].all(y, y.all(y, y == 1))", 76, 136),
        ("[1,2,3,4,5].map(x, [x, x]).all(y, y.all(y, y == 1))", 157, 217),
        ("['a', 'ab', 'abc', 'abcd', 'abcde'].map(x, [x, x]).all(y, y.all(y, y.startsWith('a')))", 157, 217),
        ("[1,2,3,4,5].map(x, x).map(x, x) + [1]", 173, 173),
        ("[1,2,3].all(i, i in [1,2,3].map(j, j + j))", 20, 230),
        ("dyn([1,2,3]).all(i, i in dyn([1,2,3]).map(j, j + j))", 21, 234),
        ("{'hello': 'hi'}['hello'] != {'hello': 'bye'}['hello']", 63, 63),
        ("['hello', 'hi'][0] != ['hello', 'bye'][1]", 23, 23),
        ("type(1)", 1, 1),
        ("type(1) == int", 3, 1_844_674_407_370_955_266),
    ] {
        check(&env, None, source, min, max);
    }
}

// upstream: cel-go checker/cost_test.go
#[test]
fn variables_cost_by_their_type_and_size() {
    let with = |ty: Type| Env::new().variable("self", ty.clone()).variable("other", ty);
    let sized = |schema: Value| (with(of_schema(&schema, false, "object").unwrap()), Sizes::of_schema(&schema, false));
    let map = |ty| Type::map(Type::String, ty);
    check(&with(map(Type::String)), None, "self['key']", 2, 2);
    check(&with(map(map(Type::Int))), None, "has(self.a.b)", 2, 2);
    check(&with(Type::Bool), None, "self || other || self || other", 1, 4);
    check(&with(Type::Bool), None, "self && other && self && other", 1, 4);
    check(&with(Type::String), None, "self.size()", 2, 2);
    check(
        &with(Type::String),
        None,
        "self.endsWith('abcdefghijklmnopqrstuvwxyz') == other.endsWith('abcdefghijklmnopqrstuvwxyz')",
        9,
        9,
    );
    check(&with(Type::Timestamp), None, "string(self) == string(other)", 5, 1_844_674_407_370_955_268);
    check(&with(Type::Timestamp), None, "self == other", 3, 3);
    check(&with(map(Type::Int)), None, "type(self.val1) == int", 5, 1_844_674_407_370_955_268);
    check(
        &with(map(Type::Timestamp)),
        None,
        "self.val1 == timestamp('2011-08-18T00:00:00.000+01:00') + duration('19h3m37s10ms')",
        6,
        6,
    );
    check(&with(map(Type::Bool)), None, "self.val1 != self.val2", 5, 5);
    // Characters of the schema count as four bytes each, bytes as one.
    let (env, sizes) = sized(json!({"type": "string", "maxLength": 125}));
    for (source, min, max) in [
        ("self.matches('[0-9]')", 3, 103),
        ("bytes(self)", 1, 51),
        ("bytes(self) == bytes(self)", 3, 302),
        ("self.contains(other)", 2, 2502),
        (r"self.matches('\\d+a\\d+b')", 3, 103),
        ("self.startsWith(other)", 2, 52),
    ] {
        check(&env, sizes.as_ref(), source, min, max);
    }
    let (env, sizes) = sized(json!({"type": "string", "format": "byte", "maxLength": 500}));
    check(&env, sizes.as_ref(), "string(self)", 1, 51);
    check(&env, sizes.as_ref(), "string(self) == string(self)", 3, 152);
    let list = |items: Value, max: u64| json!({"type": "array", "maxItems": max, "items": items});
    let (env, sizes) = sized(list(list(json!({"type": "boolean"}), 10), 50));
    check(&env, sizes.as_ref(), "self.all(x, x.all(y, true))", 2, 1752);
    let (env, sizes) = sized(list(json!({"type": "boolean"}), 10));
    check(&env, sizes.as_ref(), "(self + other).all(x, true)", 4, 64);
    check(&env, sizes.as_ref(), "(1 > 2 ? self : other).all(y, true)", 3, 33);
    let (env, sizes) = sized(list(json!({"type": "string", "maxLength": 2}), 5));
    // The elements of what is made on the way count as large as the variable, where that is a list itself.
    check(&env, sizes.as_ref(), "self.map(x, [x, x]).all(y, y.all(y, y.startsWith('a')))", 13, 283);
}

// upstream: apiserver pkg/cel/library/cost_test.go; cel-go ext/lists_test.go
#[test]
fn the_libraries_cost_what_they_cost_upstream() {
    let env = Env::new().patching().variable("authorizer", crate::types::AUTHORIZER);
    for (source, min, max) in [
        ("[1, 2, 3, 4, 5].sum()", 15, 15),
        ("[uint(1), uint(2), uint(3), uint(4), uint(5)].max()", 20, 20),
        ("[true, true, true, true, true].indexOf(true)", 15, 15),
        ("'abc 123 abc 123 abc 123 abc 123 abc 123 abc 123 '.indexOf('123')", 5, 5),
        ("url('https:://kubernetes.io/').getHost()", 4, 4),
        ("url('https:://kubernetes.io/') == url('https:://kubernetes.io/')", 7, 9),
        ("ip('192.168.0.1')", 2, 2),
        ("ip('2001:db8:3333:4444:5555:6666:7777:8888').family()", 5, 5),
        ("ip('192.168.0.1') == ip('192.168.0.1')", 5, 5),
        ("ip.isCanonical('127.0.0.1')", 2, 2),
        ("cidr('192.168.0.0/16').masked()", 3, 3),
        ("cidr('192.168.0.0/16').ip()", 3, 3),
        ("cidr('192.168.0.0/16').containsCIDR(cidr('192.0.0.0/30'))", 7, 11),
        ("'ABCDEFGHIJ abcdefghij'.lowerAscii() == 'abcdefghij ABCDEFGHIJ'.lowerAscii()", 7, 9),
        ("strings.quote('ABCDEFGHIJ abcdefghij') == strings.quote('ABCDEFGHIJ abcdefghij')", 7, 11),
        ("'abc 123 def 123'.replace('123', '456', 1)", 3, 3),
        ("'abc 123 def 123'.split(' ', 1)", 3, 3),
        ("'abc 123 def 123'.substring(5, 8)", 2, 2),
        ("'  abc 123 def 123  '.trim()", 2, 2),
        ("'abc 123 def 123'.findAll('123', 1)", 2, 2),
        ("jsonpatch.escapeKey('abc/def~ abc/def~')", 2, 2),
        ("authorizer.path('/healthz')", 2, 2),
        (
            "authorizer.group('apps').resource('deployments').subresource('status').namespace('test').name('backend')",
            6,
            6,
        ),
        (
            "authorizer.group('').resource('pods').fieldSelector('spec.nodeName=example-node-name.fully.qualified.domain.name.example.com')",
            1821,
            1821,
        ),
        ("authorizer.path('/healthz').check('get').allowed()", 350_003, 350_003),
        ("quantity('200M') == quantity('0.2G') && quantity('0.2G') == quantity('200M')", 3, 6),
        ("quantity('50k').add(20).sub(quantity('100k')).sub(-50000).asInteger() > 0", 7, 7),
        ("format.named('dns1123Subdomain').value().validate('my-name')", 34, 34),
        ("format.named('dns1123Label').value() == format.named('dns1123Label').value()", 5, 11),
        ("sets.contains([], [])", 21, 21),
        ("sets.contains([1, 2, 3, 4], [2, 3])", 29, 29),
        ("!sets.contains([1], [1, 2])", 24, 24),
        ("semver('1234.56789012345.67890123456789')", 4, 4),
        ("semver('1.0.0').compareTo(semver('1.2.3'))", 3, 3),
        ("{'a': 1, 'b': 2}.all(k, v, v > 0)", 37, 41),
        ("{'a': 1, 'b': 2}.exists(k, v, v > 0)", 39, 43),
        ("{'a': 1, 'b': 2}.existsOne(k, v, v > 0)", 38, 40),
        ("{'a': 1, 'b': 2}.transformMap(k, v, v + 1)", 71, 71),
        ("{'a': 1, 'b': 2}.transformMap(k, v, v < 5, v + 1)", 67, 75),
        ("{'a': 1, 'b': 2}.transformMapEntry(k, v, {k: v + 1})", 131, 131),
        ("{'a': 1, 'b': 2}.transformMapEntry(k, v, v < 5, {k: v + 1})", 67, 135),
        ("[1, 2].existsOne(i, v, v > 0)", 18, 20),
        ("[1, 2].transformList(i, v, v + 1)", 49, 49),
        ("[1, 2].transformList(i, v, v < 5, v + 1)", 27, 53),
        ("lists.range(4) == [0, 1, 2, 3]", 26, 26),
        ("lists.range(4 / 2) == [0, 1]", u64::MAX, u64::MAX),
        ("[1, 1, 1].distinct() == [1]", 50, 50),
        ("[1, 2, 3].slice(1, 3) == [2, 3]", 34, 34),
        ("[3, 2, 1].reverse() == [1, 2, 3]", 35, 35),
    ] {
        check(&env, None, source, min, max);
    }
}

// upstream: apiextensions-apiserver pkg/apiserver/schema/cel/compilation_test.go, TestCostEstimation
#[test]
fn rules_cost_by_the_limits_of_their_schema() {
    // The type of the elements, the rule, its cost without limits, the limit, the cost with it.
    type Case = (&'static str, &'static str, u64, u64, u64);
    let typed = |ty: &str| match ty {
        "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        "duration" | "date" | "date-time" => json!({"type": "string", "format": ty}),
        "array" => json!({"type": "array", "items": {"type": "number"}}),
        "map" => json!({"type": "object", "additionalProperties": {"type": "number"}}),
        "object" => json!({"type": "object", "required": ["required"],
            "properties": {"required": {"type": "string"}, "optional": {"type": "string"}}}),
        ty => json!({"type": ty}),
    };
    let judge = |cases: &[Case], schema: &dyn Fn(&str, Option<u64>) -> Value| {
        for (ty, rule, free, limit, limited) in cases {
            assert_eq!(most(&schema(ty, None), rule), *free, "{ty}: {rule}");
            assert_eq!(most(&schema(ty, Some(*limit)), rule), *limited, "{ty} of {limit}: {rule}");
        }
    };
    let arrays = [
        ("number", "self.all(x, true)", 4_718_591, 10, 32),
        ("string", "self.all(x, true)", 3_145_727, 20, 62),
        ("boolean", "self.all(x, true)", 1_887_437, 5, 17),
        ("array", "self.all(x, true)", 3_145_727, 100, 302),
        ("object", "self.all(x, true)", 555_128, 50, 152),
        ("number", "self[1] == 0.0", 2, 5000, 2),
        ("string", "self[1] == self[1]", 314_577, 8, 314_577),
        ("number", "self.all(x, x == 0.0)", 6_291_454, 3 * 1024 * 2048, 25_165_826),
        ("number", "self[3] == 0.0", 2, 0, 2),
        ("int-or-string", "self.all(x, true)", 4_718_591, 10, 32),
        ("int-or-string", "self[0] == 5", 3, 10, 3),
        ("object", "self[0] == null", 2, 422, 2),
        ("array", "self[0][0] == -1.0", 3, 51, 3),
        ("map", "self.all(x, x.y == 25.2)", 6_291_452, 12, 74),
        ("map", "self[0].x > 2.0", 4, 3000, 4),
        ("duration", "self.all(x, true)", 2_359_295, 5, 17),
        ("duration", "self[0].getHours() == 2", 4, 525, 4),
        ("date", "self.all(x, true)", 725_936, 15, 47),
        ("date-time", "self.all(x, true)", 428_963, 25, 77),
        ("date-time", "self[2].getMinutes() == 45", 4, 99, 4),
    ];
    judge(&arrays, &|ty, max| json!({"type": "array", "items": typed(ty), "maxItems": max}));
    let maps = [
        ("number", "self.all(x, true)", 1_348_169, 10, 32),
        ("string", "self.all(x, true)", 1_179_647, 3, 11),
        ("boolean", "self.all(x, true)", 943_718, 100, 302),
        ("number", "self['x'] == 0.0", 2, 0, 2),
        ("int-or-string", "self.all(x, true)", 1_348_169, 15, 47),
        ("object", "self.all(x, true)", 428_963, 20, 62),
        ("map", "self.all(x, true)", 1_179_647, 10, 32),
        ("array", "self.all(x, true)", 1_179_647, 25, 77),
        ("duration", "self.all(x, true)", 1_048_577, 5, 17),
        ("date", "self.all(x, true)", 524_288, 10, 32),
        ("date-time", "self.all(x, true)", 349_526, 25, 77),
        ("integer", "oldSelf.size() == self.size()", 5, 10, 5),
        ("date-time", "self['a'] == self['b']", 8, 7, 8),
        ("duration", "self['c'] == self['d']", 8, 42, 8),
    ];
    judge(&maps, &|ty, max| json!({"type": "object", "additionalProperties": typed(ty), "maxProperties": max}));
    let texts = [
        ("", "self.contains('test')", 314_574, 10, 5),
        ("", "self.startsWith('test')", 2, 15, 2),
        ("", "size(self + 'hello') > size('hello')", 314_578, 4, 7),
        ("", "self.matches('x')", 314_574, 50, 22),
        ("", "''.matches('(((((((((())))))))))[0-9]')", 7, 10, 7),
        ("", "self.matches('')", 1, 100, 1),
        ("", "self == 'x'", 2, 0, 1),
        ("byte", "self == b'x'", 2, 0, 1),
        ("", "self.find('[0-9]+') == ''", 629_147, 10, 11),
        ("", "self.lowerAscii() == 'lower!'", 314_575, 10, 6),
    ];
    judge(&texts, &|format, max| json!({"type": "string", "format": format, "maxLength": max}));
    let all_limited = [
        ("", "self.join(' ') == 'aa bb'", 329_853_068_905, 10, 43),
        ("", "self.isSorted() == true", 329_854_432_052, 10, 52),
    ];
    judge(
        &all_limited,
        &|_, max| json!({"type": "array", "maxItems": max, "items": {"type": "string", "maxLength": max}}),
    );
    let values = [("", "self.all(x, x.contains(self[x]))", 2_752_507, 10, 72)];
    judge(
        &values,
        &|_, max| json!({"type": "object", "maxProperties": max, "additionalProperties": {"type": "string", "maxLength": max}}),
    );
    let nested = [("", "self.all(x, x['y'].required == 'z')", 7_340_027, 10, 72)];
    judge(&nested, &|_, max| {
        json!({"type": "array", "maxItems": max, "items": {"type": "object", "maxProperties": max,
            "additionalProperties": typed("object")}})
    });
    let parts = [
        ("", "self.str.replace(self.before, self.after) == 'does not matter'", 629_154, 4, 12),
        ("", "self.str.split(self.str) == []", 629_160, 10, 22),
    ];
    judge(&parts, &|_, max| {
        json!({"type": "object", "properties": {"str": {"type": "string", "maxLength": max},
            "before": {"type": "string", "maxLength": 2}, "after": {"type": "string", "maxLength": 4}}})
    });
    let choices = [("", "self.contains('A')", 2, 1000, 401)];
    judge(&choices, &|_, max| json!({"type": "string", "enum": ["A", "B", "C", "LongValue"], "maxLength": max}));
    let either = [("", "isQuantity(self)", 314_574, 20, 9)];
    judge(&either, &|_, max| json!({"x-kubernetes-int-or-string": true, "maxLength": max}));
    let many = most(&json!({"type": "array", "items": {"type": "number"}}), "self.all(x, self.all(y, true))");
    assert!(many > 10_000_000, "{many}");
}

#[test]
fn long_chains_of_operators_are_estimated_or_refused_but_never_overflow_the_stack() {
    let sum = |terms: usize| vec!["1"; terms].join(" + ") + " > 0";
    check(&Env::new(), None, &sum(250), 250, 250);
    for terms in [251, 7_000, 20_000] {
        let refused = Env::new().compile(&sum(terms)).map(|_| ()).unwrap_err().to_string();
        assert_eq!(refused, "ERROR: <input>:-1:0: max recursion depth exceeded");
    }
    check(&Env::new(), None, &vec!["true"; 5000].join(" && "), 0, 0);
}
