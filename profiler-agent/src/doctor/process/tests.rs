use std::{fs, io::Write, os::unix::fs::symlink, path::PathBuf, process::Command};

use super::*;
use crate::symbols::process_file::perf_map_path;

#[test]
fn this_program_can_be_unwound_and_named() {
    let pid = std::process::id();
    let report = examine(pid, None).unwrap();
    assert_eq!((report.pid, report.bits), (pid, 64));
    assert!(!report.contained);
    let own = |mapping: &&CodeMapping| mapping.path == report.executable;
    let own = report.mappings.iter().find(own).unwrap();
    assert_eq!(own.unwind_state(), CheckState::Ok, "{own:?}");
    assert_eq!(own.unwind, ".eh_frame");
    assert_eq!(own.names_state(), CheckState::Ok);
    assert!(own.names.contains(&".symtab".to_owned()), "{own:?}");
    let vdso = report.mappings.iter().find(|m| m.path == vdso::NAME);
    let vdso = vdso.unwrap();
    assert_eq!(vdso.unwind, ".eh_frame", "{vdso:?}");
    assert_eq!(vdso.names, [".dynsym"]);
    assert_eq!(report.checks[0].state(), CheckState::Ok);
}

#[test]
fn a_process_that_is_not_there_is_told_from_a_thread_of_the_kernel() {
    assert!(matches!(
        examine(u32::MAX, None),
        Err(ProcessExamError::None(u32::MAX))
    ));
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id();
    std::thread::sleep(Duration::from_millis(100));
    let zombie = examine(pid, None).unwrap();
    assert!(zombie.mappings.is_empty() && !zombie.contained);
    assert_eq!(zombie.checks.len(), 1, "{zombie:?}");
    child.wait().unwrap();
    assert!(matches!(examine(pid, None), Err(ProcessExamError::None(_))));
    // Process 2 is kthreadd wherever the first PID namespace is seen.
    if fs::read("/proc/2/comm").is_ok_and(|comm| comm == b"kthreadd\n") {
        let report = examine(2, None).unwrap();
        assert!(report.mappings.is_empty());
        assert!(report.checks[0].advice.contains("thread of the kernel"));
    }
}

/// What is said of a perf map that a process named after this one has.
fn said(prepare: impl FnOnce(&PathBuf), pid: u32, is_needed: bool) -> Option<Check> {
    let path = PathBuf::from(perf_map_path(pid));
    prepare(&path);
    let mut owner = Owner::read(std::process::id()).unwrap();
    owner.pids = vec![pid];
    let check = perf_map_check(&PerfMapFile::open(&owner), is_needed);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.unwrap(),
    }
    check
}

#[test]
fn says_why_a_perf_map_is_not_read() {
    let write = |text: &'static str| {
        move |path: &PathBuf| {
            fs::File::create(path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap()
        }
    };
    let good = said(write("10 8 f\n20 8 g\n"), 5_000_001, true).unwrap();
    assert_eq!(good.state(), CheckState::Ok);
    assert!(good.found.ends_with("2 named ranges"), "{good:?}");
    let poor = said(write("10 8 f\nnonsense\n"), 5_000_002, true).unwrap();
    assert!(
        poor.found.contains("1 lines that are no entries"),
        "{poor:?}"
    );
    let link = |path: &PathBuf| symlink("/etc/hostname", path).unwrap();
    let link = said(link, 5_000_003, false).unwrap();
    assert!(link.found.contains("symbolic link"), "{link:?}");
    let none = said(|_| (), 5_000_004, true).unwrap();
    assert!(none.advice.contains("--perf-basic-prof"), "{none:?}");
    assert_eq!(said(|_| (), 5_000_005, false), None);
}

#[test]
fn a_text_file_that_is_mapped_has_neither() {
    let report = FileReport::of(
        &std::sync::Arc::new(crate::mapped_file::MappedFile::from_memory(b"some text").unwrap()),
        None,
        Instant::now() + TIME,
    );
    let mapping = report.onto(CodeMapping::default());
    assert_eq!(mapping.unwind_state(), CheckState::Failed);
    assert!(
        mapping.unwind_detail.contains("not an ELF file"),
        "{mapping:?}"
    );
    assert!(mapping.names.is_empty());
}
