//! No patch of any kind brings the server down, whatever it is applied to.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pintle_api::{facts, patch};
use serde_json::Value;

fuzz_target!(|input: &str| {
    let Some(input) = input.split_once('\n') else { return };
    let (Ok(target), Ok(change)) = (serde_json::from_str::<Value>(input.0), serde_json::from_str::<Value>(input.1)) else { return };
    patch::merge_patch(&mut target.clone(), change.clone());
    let _refused = patch::json_patch(&mut target.clone(), change.clone());
    if let Some(pod) = facts::lookup("", "v1", "Pod") {
        let _refused = patch::strategic::merge(&mut target.clone(), change, pod);
    }
});
