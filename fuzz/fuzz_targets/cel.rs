//! An expression is refused, or it compiles and its evaluation ends: within its budget, with a value or an error.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pintle_cel::{Activation, Budget, Env, Type, Value};
use std::sync::LazyLock;

static ENV: LazyLock<Env> = LazyLock::new(|| Env::new().variable("self", Type::Dyn));
static OBJECT: LazyLock<serde_json::Value> = LazyLock::new(|| {
    serde_json::json!({"a": 1, "b": -2.5, "s": "text", "l": [1, 2, 3], "m": {"k": "v", "é": null}, "t": true,
        "q": "1500m", "ip": "10.0.0.1", "cidr": "10.0.0.0/8", "v": "1.2.3", "url": "https://a.example:8080/x?y=z"})
});

fuzz_target!(|source: &str| {
    if let Ok(program) = ENV.compile(source) {
        let mut activation = Activation::new();
        activation.bind("self", Value::dynamic(&OBJECT));
        let _outcome = program.eval(&activation, &mut Budget::new(100_000));
    }
});
