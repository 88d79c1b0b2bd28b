//! Sets of completion indexes, written as upstream does: `1,3-5,7`.
use std::collections::BTreeSet;
use std::fmt;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(BTreeSet<usize>);

impl Indexes {
    /// Reads `1,3-5`, as far as below `completions`; what cannot be read is left out.
    pub fn parse(text: &str, completions: usize) -> Self {
        let mut indexes = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
                indexes.extend(first..last.saturating_add(1).min(completions));
            }
        }
        Indexes(indexes)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if `index` is among them.
    pub fn contains(&self, index: usize) -> bool {
        self.0.contains(&index)
    }

    /// How many of `others` are among them.
    pub fn count_of(&self, others: &Indexes) -> usize {
        self.0.intersection(&others.0).count()
    }

    /// Adds `index`; true if it is new.
    pub fn insert(&mut self, index: usize) -> bool {
        self.0.insert(index)
    }

    /// Adds all of `indexes`.
    pub fn extend(&mut self, indexes: impl IntoIterator<Item = usize>) {
        self.0.extend(indexes);
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            write!(out, "{separator}{first}")?;
            if last > first {
                // Two in a row are written one by one.
                write!(out, "{}{last}", if last == first + 1 { "," } else { "-" })?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_three_or_more_are_written_as_ranges() {
        let indexes = Indexes::parse("7,3-5,1,9,10", 20);
        assert_eq!(indexes.to_string(), "1,3-5,7,9,10");
        assert_eq!((indexes.len(), indexes.contains(4)), (7, true));
        assert_eq!(Indexes::parse("", 9).to_string(), "");
        assert_eq!(Indexes::parse("1-5,8", 4).to_string(), "1-3");
        assert_eq!(indexes.count_of(&Indexes::parse("1-4", 20)), 3);
    }
}
