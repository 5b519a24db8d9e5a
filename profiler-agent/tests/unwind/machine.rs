//! Files of this machine, every row compared with gimli's evaluation. All of
//! them: `cargo run --release -p profiler-agent --example unwind_sweep -- /usr`.

use std::{fs::File, path::Path};

use profiler_agent::unwind::table::{BuildLimits, build};

use crate::reference::compare;

fn check(path: &Path) {
    let file = File::open(path).unwrap();
    let table = build(&file, &BuildLimits::default()).unwrap();
    let compared = compare(&file, &table).unwrap();
    let path = path.display();
    assert_eq!(compared.different, 0, "{path}: {:#?}", compared.differences);
    assert!(compared.rows > 100, "{path}: {compared:?}");
    assert!(
        compared.unsupported * 1000 < compared.rows,
        "{path}: {compared:?}"
    );
    assert_eq!(compared.overlapping, 0, "{path}");
}

#[test]
fn this_program() {
    check(&std::env::current_exe().unwrap());
}

#[test]
fn libraries_that_most_programs_use() {
    const NAMES: [&str; 6] = [
        "libc.so.6",
        "libm.so.6",
        "libcrypto.so.3",
        "libstdc++.so.6",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    ];
    const FOLDERS: [&str; 4] = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
    ];
    let paths = FOLDERS
        .iter()
        .flat_map(|folder| NAMES.map(|name| Path::new(folder).join(name)));
    paths
        .filter(|path| path.is_file())
        .for_each(|path| check(&path));
}
