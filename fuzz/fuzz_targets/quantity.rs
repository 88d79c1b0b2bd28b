//! A quantity that parses prints as text that parses to the same quantity.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pintle_api::quantity::Quantity;

fuzz_target!(|text: &str| {
    if let Ok(quantity) = Quantity::parse(text) {
        let printed = quantity.to_string();
        assert_eq!(Quantity::parse(&printed).expect("its own text parses"), quantity);
    }
});
