//! A selector that parses prints as text that parses to the same text.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pintle_api::selector::{FieldSelector, LabelSelector};

fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        let printed = selector.to_string();
        assert_eq!(LabelSelector::parse(&printed).expect("its own text parses").to_string(), printed);
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let printed = selector.to_string();
        assert_eq!(FieldSelector::parse(&printed).expect("its own text parses").to_string(), printed);
    }
});
