//! Capture files written before must stay readable.

use std::fs::File;
use std::path::PathBuf;

use profiler_proto::{Capture, read_capture, write_capture};

use super::common::{Agent, capture_of};

/// The files, oldest first, and what the agents of their time could say. What is added to the
/// messages makes a new file, not a new version of the format.
const FILES: [(&str, Agent); 2] = [
    ("v1.capture", Agent::FramePointers),
    ("v1-tables.capture", Agent::Tables),
];

fn path(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.join("tests/golden").join(name)
}

fn canonical(mut capture: Capture) -> Capture {
    capture.canonicalize();
    capture
}

#[test]
fn files_of_all_times_still_read_the_same() {
    for (name, agent) in FILES {
        let read = read_capture(File::open(path(name)).unwrap()).unwrap();
        assert_eq!(canonical(read), canonical(capture_of(agent)), "{name}");
    }
}

#[test]
fn what_was_read_writes_the_same_again() {
    for (name, _) in FILES {
        let read = read_capture(File::open(path(name)).unwrap()).unwrap();
        let mut bytes = Vec::new();
        write_capture(&read, &mut bytes).unwrap();
        assert_eq!(read_capture(bytes.as_slice()).unwrap(), read);
    }
}

/// A file that was released is never written again, so this refuses to replace one.
#[test]
#[ignore = "writes a new golden file"]
fn write_golden_file() {
    let (name, agent) = FILES[FILES.len() - 1];
    let file = File::create_new(path(name)).unwrap();
    write_capture(&capture_of(agent), file).unwrap();
}
