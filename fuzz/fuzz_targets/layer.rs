//! No image layer writes outside the directory it is unpacked into, and none brings the runtime down.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|tar: &[u8]| {
    let parent = tempfile::tempdir().expect("a directory");
    let root = parent.path().join("root");
    std::fs::create_dir(&root).expect("a directory");
    let _refused = pintle_runtime::image::layer::unpack(tar, &root);
    assert_eq!(std::fs::read_dir(parent.path()).expect("readable").count(), 1, "something escaped");
});
