//! Expressions and what they come to.
use pintle_cel::authorizer::{Authorizer, Check, Decision};
use pintle_cel::schema::of_schema;
use pintle_cel::{Activation, Budget, Env, Error, Type, Value};
use serde_json::{Value as Json, json};

fn eval_with(object: &Json, source: &str) -> Result<Json, String> {
    let env = Env::new().patching().variable("object", Type::Dyn);
    let program = env.compile(source).map_err(|error| error.to_string())?;
    let mut activation = Activation::new();
    activation.bind("object", Value::dynamic(object));
    let value = program.eval(&activation, &mut Budget::default()).map_err(|error| error.to_string())?;
    value.to_json().ok_or_else(|| value.type_name().to_owned())
}

fn eval(source: &str) -> Result<Json, String> {
    eval_with(&json!({}), source)
}

#[track_caller]
fn holds(source: &str) {
    assert_eq!(eval(source), Ok(json!(true)), "{source}");
}

#[test]
fn arithmetic_and_comparison_follow_the_language() {
    for source in [
        "google.protobuf.Timestamp == type(timestamp(1)) && type(duration('1s')) == google.protobuf.Duration",
        "1 + 2 * 3 == 7",
        "7 / 2 == 3 && -7 % 2 == -1",
        "1.5 + 1.5 == 3.0",
        "1 < 1.5 && 2u > 1",
        "'a' + 'b' == 'ab'",
        "[1, 2] + [3] == [1, 2, 3]",
        "{'a': dyn(1), 'b': [1]} == {'b': dyn([1]), 'a': 1}",
        "2 in [1, 2] && !('x' in {'a': 1})",
        "size('hé') == 2 && [1].size() == 1",
        "duration('1h30m') > duration('89m') && duration('90s').getMinutes() == 1",
        "timestamp('2024-01-02T03:04:05Z') + duration('1s') == timestamp('2024-01-02T03:04:06Z')",
        "timestamp('2024-01-02T03:04:05Z').getMonth() == 0",
        "string(1) == '1' && int('7') == 7 && double('1.5') == 1.5 && string(1.0) == '1'",
        "type(1) == int && type('a') == string && type([]) == list",
        "true ? 1 == 1 : 1 / 0 == 1",
    ] {
        holds(source);
    }
    assert_eq!(eval("1 / 0"), Err("division by zero".into()));
    assert_eq!(eval("[1][3]"), Err("index out of bounds: 3".into()));
    assert_eq!(eval_with(&json!({}), "object.x"), Err("no such key: x".into()));
}

#[test]
fn lists_are_sorted_by_keys() {
    holds("[{'a': 2}, {'a': 1}].sortBy(e, e.a)[0].a == 1 && [1, 2].sortBy(e, -e) == [2, 1]");
    holds("['bb', 'a', 'cc'].sortBy(e, e.size()) == ['a', 'bb', 'cc'] && [].sortBy(e, e) == []");
    assert_eq!(
        eval("'abc'.sortBy(e, e)").unwrap_err().lines().next().unwrap(),
        "ERROR: <input>:1:1: sortBy can only be applied to a list, identifier, comprehension, call or select expression"
    );
}

#[test]
fn what_is_wrong_is_told_as_upstream_tells_it() {
    for (source, first) in [
        ("[1,2].filter(x, x)", "1:13: found no matching overload for '_?_:_' applied to '(int, list(int), list(int))'"),
        ("[1,2].all(x, x)", "1:14: expected type 'bool' but found 'int'"),
        ("true || 'a'", "1:9: expected type 'bool' but found 'string'"),
        ("'abc'.matches('[')", "1:15: invalid matches argument"),
        ("timestamp('x') == timestamp('y')", "1:11: invalid timestamp argument"),
        ("duration('1x') == duration('1s')", "1:10: invalid duration argument"),
        ("optional.of(1).optMap(1, 2)", "1:23: optMap() variable name must be a simple identifier"),
        ("sets.nope([1])", "1:1: undeclared reference to 'sets' (in container '')"),
        ("[1].sortBy(1, 2)", "1:12: argument is not an identifier"),
        ("[1, 'a'].flatten()", "1:5: expected type 'int' but found 'string'"),
    ] {
        assert_eq!(eval(source).unwrap_err().lines().next().unwrap(), format!("ERROR: <input>:{first}"), "{source}");
    }
    // Literals are looked at when nothing else is wrong.
    assert!(eval("'abc'.matches('[') && 1").unwrap_err().starts_with("ERROR: <input>:1:23: expected type 'bool'"));
}

#[test]
fn what_fails_says_why_as_upstream_says_it() {
    for (source, why) in [
        ("int(dyn('x')) == 1", "type conversion error from 'string' to 'int'"),
        ("9223372036854775807 + dyn(1) > 0", "integer overflow"),
        ("uint(dyn(-1)) > 0u", "unsigned integer overflow"),
        ("dyn(0.0) / 0.0 > 1.0", "NaN values cannot be ordered"),
        (
            "ip(dyn('abc')).family() == 4",
            "IP Address \"abc\" parse error during conversion from string: ParseAddr(\"abc\"): unable to parse IP",
        ),
        ("cidr('10.0.0.0/8').containsIP(string(dyn('abc')))", "no such overload"),
        (
            "cidr(dyn('bogus')).prefixLength() == 1",
            "network address parse error during conversion from string: network address parse error during conversion from string: netip.ParsePrefix(\"bogus\"): no '/'",
        ),
    ] {
        assert_eq!(eval(source), Err(why.to_owned()), "{source}");
    }
    holds("'abc'.indexOf('b', 99) == -1 && 'abc'.lastIndexOf('b', 99) == -1");
    holds("url('https://a.b:80/x?y=z#q').getQuery() == {'y': ['z']}");
}

#[test]
fn errors_are_absorbed_where_the_other_side_decides() {
    holds("1 / 0 == 1 || true");
    holds("!(1 / 0 == 1 && false)");
    holds("[0, 1].exists(x, 1 / x == 1)");
    assert!(eval("[0, 1].all(x, 1 / x == 1)").is_err());
}

#[test]
fn comprehensions_with_one_and_two_variables() {
    for source in [
        "[1, 2, 3].all(x, x > 0) && [1, 2].exists(x, x == 2) && [1, 2].exists_one(x, x == 2)",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6] && [1, 2, 3].filter(x, x > 1) == [2, 3]",
        "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
        "{'a': 1}.all(k, k == 'a')",
        "{'a': 1}.all(k, v, k == 'a' && v == 1) && [5].exists(i, v, i == 0 && v == 5)",
        "[1, 2].transformList(i, v, i + v) == [1, 3]",
        "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v + 1) == {'b': 3}",
        "{'a': 'x'}.transformMapEntry(k, v, {v: k}) == {'x': 'a'}",
        "[[1, 2], [3]].map(l, l.map(x, x + 1)) == [[2, 3], [4]]",
    ] {
        holds(source);
    }
}

#[test]
fn optional_values_and_fields() {
    let object = json!({"a": {"b": 1}});
    for source in [
        "object.?a.?b.orValue(0) == 1 && object.?x.?b.orValue(0) == 0",
        "object.?a.b.hasValue() && !object.?x.b.hasValue()",
        "object.a[?'b'].value() == 1",
        "object.?a.optMap(a, a.b + 1).orValue(0) == 2",
        "has(object.a) && !has(object.x) && has(object.a.b)",
        "[?object.?x, 1] == [1] && {?'k': object.?x} == {}",
        "optional.none().or(optional.of(1)).value() == 1",
    ] {
        assert_eq!(eval_with(&object, source), Ok(json!(true)), "{source}");
    }
}

#[test]
fn the_libraries_of_kubernetes() {
    for source in [
        "quantity('1Gi').isGreaterThan(quantity('500Mi')) && quantity('1').add(2).compareTo(quantity('3')) == 0",
        "isQuantity('1k') && !isQuantity('one')",
        "url('https://user@example.com:80/path?a=1&a=2').getHost() == 'example.com:80'",
        "url('https://[::1]:80/p').getHostname() == '::1' && url('/p?q=1').getQuery() == {'q': ['1']}",
        "isURL('https://x') && !isURL('../x')",
        "ip('127.0.0.1').isLoopback() && ip('::1').family() == 6 && isIP('10.0.0.1') && !isIP('10.0.0')",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.0.0.0/8').prefixLength() == 8",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.0', true).major() == 1 && !isSemver('v1')",
        "format.dns1123Label().validate('a-b') == optional.none()",
        "format.dns1123Label().validate('A').value().size() == 1",
        "'abc 123'.find('[0-9]+') == '123' && '1 2'.findAll('[0-9]') == ['1', '2'] && 'abc'.matches('^a')",
        "sets.contains([1, 2], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 1], [1])",
        "[3, 1, 2].sum() == 6 && [1, 2].isSorted() && [3, 1].max() == 3 && [1, 2, 1].indexOf(1) == 0",
        "'%s is %d and %.2f and %x'.format([dyn('a'), 1, 1.5, 255]) == 'a is 1 and 1.50 and ff'",
        "'%d %s %s'.format([1, 'a', {'b': true, 'c': 2}['c']]) == '1 a 2' && sign(quantity('1Mi')) == 1",
        "'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b' && 'abc'.substring(1, 2) == 'b'",
        "'Abc'.lowerAscii() == 'abc' && ' x '.trim() == 'x' && 'aXa'.replace('a', 'b') == 'bXb'",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
        "[3, 1, 1].distinct().sort() == [1, 3] && [[1], [2]].flatten() == [1, 2] && lists.range(2) == [0, 1]",
    ] {
        holds(source);
    }
}

#[test]
fn what_does_not_compile_says_why_as_upstream_does() {
    let error = |source: &str| {
        let env = Env::new().variable("object", Type::Dyn).variable("n", Type::Int);
        env.compile(source).unwrap_err().to_string()
    };
    assert_eq!(
        error("nothing > 1"),
        "ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')\n | nothing > 1\n | ^"
    );
    assert!(error("n > 'a'").contains("found no matching overload for '_>_' applied to '(int, string)'"));
    assert!(error("'abc'.reverse() == 'cba'").contains("'reverse' applied to 'string.()'"));
    assert!(error("quantity('1').sign() == 1").contains("'sign' applied to 'kubernetes.Quantity.()'"));
    assert!(error("[1, 'a'] == []").contains("expected type 'int' but found 'string'"));
    assert!(error("n.x == 1").contains("type 'int' does not support field selection"));
    assert!(error("n == 1 || 2").contains("expected type 'bool' but found 'int'"));
    assert!(error("object.x ==").contains("Syntax error"));
    assert!(error("'a'.matches('(')").contains("invalid matches argument"));
    assert!(error("[1, 'a'] == []").contains("expected type 'int' but found 'string'"));
    assert!(error("frobnicate(1)").contains("undeclared reference to 'frobnicate'"));
    let deep = format!("{}1{}", "(".repeat(2000), ")".repeat(2000));
    assert!(error(&deep).contains("expression recursion limit exceeded"));
}

fn schema() -> Json {
    json!({"type": "object", "properties": {
        "replicas": {"type": "integer"},
        "ratio": {"type": "number"},
        "until": {"type": "string", "format": "date-time"},
        "wait": {"type": "string", "format": "duration"},
        "namespace": {"type": "string"},
        "foo-bar": {"type": "string"},
        "port": {"x-kubernetes-int-or-string": true},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "entries": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
    }})
}

#[test]
fn schemas_type_what_an_expression_sees() {
    let ty = of_schema(&schema(), true, "object").unwrap();
    let env = Env::new().variable("self", ty.clone());
    let object = json!({"kind": "K", "metadata": {"name": "n"}, "replicas": 3, "ratio": 1,
        "until": "2030-01-01T00:00:00Z", "wait": "5s", "namespace": "x", "foo-bar": "y", "port": "http",
        "labels": {"a-b": "c"}, "set": ["b", "a"], "entries": [{"k": "x", "v": 1}, {"k": "y", "v": 2}]});
    for source in [
        "self.replicas == 3 && self.ratio == 1.0 && self.metadata.name == 'n' && self.kind == 'K'",
        "self.until > timestamp('2024-01-01T00:00:00Z') && self.wait == duration('5s')",
        "self.__namespace__ == 'x' && self.namespace == 'x' && has(self.namespace) && self.foo__dash__bar == 'y' && self.labels['a-b'] == 'c'",
        "self.port == 'http' && type(self.port) == string",
        "self.set == ['b', 'a'] && self.set + ['a', 'c'] == ['b', 'a', 'c']",
        "self.entries.exists(e, e.v == 2)",
    ] {
        let program = env.compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        let mut activation = Activation::new();
        activation.bind("self", Value::typed(&object, &ty));
        assert_eq!(program.eval_bool(&activation, &mut Budget::default()), Ok(true), "{source}");
    }
    let error = env.compile("self.z == 'foo'").unwrap_err().to_string();
    assert!(error.contains("undefined field 'z'"), "{error}");
    assert!(env.compile("self.replicas == 'x'").is_err());
}

#[test]
fn lists_that_are_sets_or_maps_compare_without_order() {
    let ty = of_schema(&schema(), false, "object").unwrap();
    let env = Env::new().variable("self", ty.clone()).variable("oldSelf", ty.clone());
    let (new, old) = (json!({"set": ["a", "b"]}), json!({"set": ["b", "a"]}));
    let mut activation = Activation::new();
    activation.bind("self", Value::typed(&new, &ty));
    activation.bind("oldSelf", Value::typed(&old, &ty));
    let program = env.compile("self.set == oldSelf.set").unwrap();
    assert!(program.uses("oldSelf"));
    assert_eq!(program.eval_bool(&activation, &mut Budget::default()), Ok(true));
}

#[test]
fn work_is_limited() {
    let env = Env::new().variable("object", Type::Dyn);
    let program = env.compile("object.l.all(a, object.l.all(b, object.l.all(c, a + b + c >= 0)))").unwrap();
    let object = json!({"l": (0..200).collect::<Vec<i32>>()});
    let mut activation = Activation::new();
    activation.bind("object", Value::dynamic(&object));
    let mut budget = Budget::default();
    assert_eq!(program.eval_bool(&activation, &mut budget), Err(Error::CallTooExpensive));
    let mut small = Budget::new(100);
    assert_eq!(program.eval_bool(&activation, &mut small), Err(Error::OutOfBudget));
}

#[test]
fn dotted_variables_are_read_as_fields() {
    let env = Env::new().variable("variables.limit", Type::Int);
    let program = env.compile("variables.limit > 1").unwrap();
    assert_eq!(program.variables().collect::<Vec<_>>(), ["variables.limit"]);
    let mut activation = Activation::new();
    activation.bind("variables.limit", Value::Int(2));
    assert_eq!(program.eval_bool(&activation, &mut Budget::default()), Ok(true));
    activation.bind_outcome("variables.limit", Err(Error::Failed("broken".into())));
    assert_eq!(program.eval_bool(&activation, &mut Budget::default()), Err(Error::Failed("broken".into())));
    assert!(env.compile("variables.other > 1").is_err());
}

struct OnlyPods;

impl Authorizer for OnlyPods {
    fn authorize(&self, check: &Check) -> Decision {
        Decision { allowed: check.resource == "pods" && check.verb == "get", reason: "r".into(), error: String::new() }
    }
}

#[test]
fn the_authorizer_is_asked() {
    let env = Env::new().variable("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"));
    let mut activation = Activation::new();
    activation.bind("authorizer", Value::authorizer(&OnlyPods));
    for (source, want) in [
        ("authorizer.group('').resource('pods').namespace('a').check('get').allowed()", true),
        ("authorizer.group('').resource('pods').check('list').allowed()", false),
        ("authorizer.path('/healthz').check('get').reason() == 'r'", true),
    ] {
        let program = env.compile(source).unwrap();
        assert_eq!(program.eval_bool(&activation, &mut Budget::default()), Ok(want), "{source}");
    }
}

#[test]
fn objects_are_constructed_by_name() {
    let env = Env::new().constructible(Type::object("Object", [("metadata", Type::Dyn), ("spec", Type::Dyn)]));
    let program = env.compile("Object{metadata: Object.metadata{labels: {'a': 'b'}}, ?spec: optional.none()}").unwrap();
    let value = program.eval(&Activation::new(), &mut Budget::default()).unwrap();
    assert_eq!(value.to_json(), Some(json!({"metadata": {"labels": {"a": "b"}}})));
    assert!(env.compile("Object{nothing: 1}").is_err());
}
