//! Bytes that decode as an object come back as the same object after encoding; others are refused without harm.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pintle_api::{facts, protobuf};

fuzz_target!(|message: &[u8]| {
    let _refused = protobuf::decode(message, ("v1", "Pod"));
    let Some(ty) = facts::lookup("", "v1", "Pod") else { return };
    if let Ok(pod) = protobuf::decode_message(message, ty) {
        let encoded = protobuf::encode_message(&pod, ty);
        assert_eq!(protobuf::decode_message(&encoded, ty).expect("its own bytes decode"), pod);
    }
});
