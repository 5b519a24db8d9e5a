//! Capture files written by each version must stay readable.

use std::fs::File;
use std::path::PathBuf;

use profiler_proto::{Capture, FORMAT_VERSION, read_capture, write_capture};

use super::common;

fn path(version: u32) -> PathBuf {
    let name = format!("tests/golden/v{version}.capture");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn canonical(mut capture: Capture) -> Capture {
    capture.canonicalize();
    capture
}

#[test]
fn files_of_all_versions_still_read_the_same() {
    for version in 1..=FORMAT_VERSION {
        let read = read_capture(File::open(path(version)).unwrap()).unwrap();
        assert_eq!(canonical(read), canonical(common::capture()), "{version}");
    }
}

#[test]
fn what_was_read_writes_the_same_again() {
    let read = read_capture(File::open(path(1)).unwrap()).unwrap();
    let mut bytes = Vec::new();
    write_capture(&read, &mut bytes).unwrap();
    assert_eq!(read_capture(bytes.as_slice()).unwrap(), read);
}

/// A file of a released version is never written again, so this refuses to replace one.
#[test]
#[ignore = "writes the golden file of a new version"]
fn write_golden_file() {
    let file = File::create_new(path(FORMAT_VERSION)).unwrap();
    write_capture(&common::capture(), file).unwrap();
}
