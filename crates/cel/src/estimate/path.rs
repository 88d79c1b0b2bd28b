//! The way from a variable to a value: names of fields, and `@items`, `@values`, `@keys` and `@indices`.
use std::cell::RefCell;
use std::rc::Rc;

/// A path. Paths that begin alike share their names as slices do in Go, where a second continuation may overwrite the first:
/// upstream's estimator looks sizes up by such paths, late enough that estimates show it.
#[derive(Clone, Debug)]
pub(super) struct Path<'n> {
    /// As many as there is room for.
    names: Rc<RefCell<Vec<&'n str>>>,
    len: usize,
}

impl<'n> Path<'n> {
    pub(super) fn of(name: &'n str) -> Self {
        Path { names: Rc::new(RefCell::new(vec![name])), len: 1 }
    }

    /// `path` and one more name.
    pub(super) fn append(path: Option<&Path<'n>>, name: &'n str) -> Self {
        let Some(path) = path else { return Path::of(name) };
        let mut names = path.names.borrow_mut();
        if path.len < names.len() {
            names[path.len] = name;
            return Path { names: path.names.clone(), len: path.len + 1 };
        }
        // Room for twice as many, as Go's append makes it for slices this short.
        let mut longer = names.clone();
        longer.resize(2 * path.len, "");
        longer[path.len] = name;
        Path { names: Rc::new(RefCell::new(longer)), len: path.len + 1 }
    }

    /// A path of its own to the elements of the list at `self`.
    pub(super) fn items(&self) -> Self {
        let mut names = self.names();
        names.push("@items");
        Path { len: names.len(), names: Rc::new(RefCell::new(names)) }
    }

    pub(super) fn names(&self) -> Vec<&'n str> {
        self.names.borrow()[..self.len].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_continuation_overwrites_the_first_where_there_is_room() {
        let item = Path::append(Some(&Path::append(Some(&Path::of("self")), "list")), "@items");
        let first = Path::append(Some(&item), "a");
        assert_eq!(first.names(), ["self", "list", "@items", "a"]);
        let second = Path::append(Some(&item), "b");
        assert_eq!((first.names()[3], second.names()[3]), ("b", "b"));
        // `first` is full: what continues it has a place of its own.
        let third = Path::append(Some(&first), "c");
        Path::append(Some(&item), "d");
        assert_eq!(third.names(), ["self", "list", "@items", "b", "c"]);
    }
}
