//! Quantities as integers: the thousandths that CPU is counted in, the bytes that memory is.
use pintle_api::quantity::Quantity;

/// `text` in thousandths, rounded up; `None` when it is not a quantity.
pub fn milli(text: &str) -> Option<i128> {
    let quantity = Quantity::parse(text).ok()?;
    // Thousandths of large amounts of memory do not fit in 64 bits.
    Some(match quantity.value() {
        value if value > i64::MAX / 1000 => i128::from(value) * 1000,
        _ => i128::from(quantity.milli_value()),
    })
}

/// `text` in whole units, rounded up; `None` when it is not a quantity.
pub fn value(text: &str) -> Option<i64> {
    Quantity::parse(text).ok().map(Quantity::value)
}
