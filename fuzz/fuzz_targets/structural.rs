//! A schema of a custom resource is refused, or whatever object it meets is pruned, defaulted and judged; a second time
//! changes nothing.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pintle_api::structural::{Schema, default, lists, prune, values};
use pintle_api::field::Path;
use serde_json::Value;

fuzz_target!(|input: &str| {
    let Some(input) = input.split_once('\n') else { return };
    let (Ok(schema), Ok(mut object)) = (serde_json::from_str::<Value>(input.0), serde_json::from_str::<Value>(input.1)) else { return };
    let Ok(schema) = Schema::parse(&schema) else { return };
    prune::prune(&mut object, Some(&schema));
    let pruned = object.clone();
    assert!(prune::prune(&mut object, Some(&schema)).into_sorted().is_empty());
    assert_eq!(object, pruned);
    default::default(&mut object, &schema);
    let defaulted = object.clone();
    default::default(&mut object, &schema);
    assert_eq!(object, defaulted);
    let _errors = (values::validate(&object, &schema, "", None), lists::validate(&object, &schema, &Path::root("x")));
});
