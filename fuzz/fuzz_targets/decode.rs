//! What a body decodes to is a fixed point: decoding it again changes nothing and finds nothing wrong with it.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pintle_api::{decode, facts};

fuzz_target!(|json: &[u8]| {
    for (group, kind) in [("", "Pod"), ("", "Service"), ("apps", "Deployment"), ("networking.k8s.io", "Ingress")] {
        let Some(ty) = facts::lookup(group, "v1", kind) else { continue };
        let Ok(first) = decode::decode(json, ty) else { continue };
        let again = decode::decode_value(first.value.clone(), ty).expect("what was decoded decodes");
        assert_eq!(again.value, first.value);
        assert!(again.strict_errors.is_empty(), "{:?}", again.strict_errors);
    }
});
