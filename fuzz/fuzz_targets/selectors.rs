//! A selector that parses prints as text that parses to the same conditions.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pintle_api::selector::{FieldSelector, LabelSelector};

fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        let printed = selector.to_string();
        assert_eq!(LabelSelector::parse(&printed).expect("its own text parses").to_string(), printed);
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let again = FieldSelector::parse(&selector.to_string()).expect("its own text parses");
        // The terms are sorted as they were written, and `a==1` may be written `a=1`.
        let sorted = |selector: &FieldSelector| {
            let mut terms: Vec<_> = selector.terms().iter().map(|t| (t.field.clone(), t.equal, t.value.clone())).collect();
            terms.sort();
            terms
        };
        assert_eq!(sorted(&again), sorted(&selector));
    }
});
