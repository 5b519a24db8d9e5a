use std::{fs, process::Command, sync::Arc};

use super::*;
use crate::{mapped_file::MappedFile, symbols::sources::Sources};

/// Builds a program that tells what its own code is called. `None`: there is no
/// Go here.
fn build(flags: &[&str]) -> Option<(Vec<u8>, String)> {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("frames");
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/symbols/gopclntab/testdata/frames.go"
    );
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .args(flags)
        .arg(source)
        .status();
    match built {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: no Go here");
            return None;
        }
        built => assert!(built.unwrap().success()),
    }
    let told = Command::new(&program).output().unwrap();
    assert!(told.status.success());
    let told = String::from_utf8(told.stdout).unwrap();
    Some((fs::read(&program).unwrap(), told))
}

/// Type parameters are told without their values.
fn as_told(function: &str) -> String {
    match (function.find('['), function.rfind(']')) {
        (Some(from), Some(to)) => format!("{}[...]{}", &function[..from], &function[to + 1..]),
        _ => function.to_owned(),
    }
}

#[test]
fn says_what_the_runtime_of_a_stripped_program_says() {
    let stripped = "-ldflags=-s -w";
    for flags in [&[stripped][..], &[stripped, "-buildmode=pie"]] {
        let Some((file, told)) = build(flags) else {
            return;
        };
        let image = ElfImage::read(&file).unwrap();
        let go = GoNames::find(&file, image.clone()).unwrap();
        assert!(go.has_inlined(), "{flags:?}");
        assert!(told.lines().count() > 1000, "{flags:?}");
        for line in told.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [offset, function, path, number] = fields[..] else {
                panic!("{line}");
            };
            let address = image.address_of(offset.parse().unwrap()).unwrap();
            let names = go.names(&file, address);
            assert_eq!(names[0].file, path, "{line}");
            assert_eq!(names[0].line.to_string(), number, "{line}");
            // The runtime itself has no name for the very first function.
            if !function.is_empty() {
                assert_eq!(as_told(&names[0].function), function, "{line}");
            }
        }
    }
}

#[test]
fn calls_that_were_inlined_are_told_apart() {
    let Some((file, _)) = build(&[]) else {
        return;
    };
    let image = ElfImage::read(&file).unwrap();
    let main = image.symbols_with_prefix(&file, "main.main");
    let main = main.iter().find(|symbol| symbol.name == "main.main");
    let main = main.unwrap();
    let go = GoNames::find(&file, image).unwrap();
    let chains = (main.address..main.address + main.size).map(|address| {
        let names = go.names(&file, address);
        let functions = names.iter().map(|name| name.function.as_str());
        functions.collect::<Vec<_>>().join(" < ")
    });
    let chains: Vec<String> = chains.collect();
    for chain in ["main.main", "strings.Split < main.main"] {
        assert!(chains.iter().any(|found| found == chain), "{chain}");
    }
    assert_eq!(go.names(&file, 1), []);
    assert_eq!(go.names(&file, u64::MAX), []);
}

#[test]
fn a_stripped_program_lacks_no_debug_file() {
    let Some((file, told)) = build(&["-ldflags=-s -w"]) else {
        return;
    };
    let mapped = Arc::new(MappedFile::from_memory(&file).unwrap());
    let sources = Sources::of(&mapped, None).unwrap();
    assert!(!sources.lacks_debug_file());
    let line = told.lines().find(|line| line.contains("\tmain.show\t"));
    let offset = line.unwrap().split('\t').next().unwrap().parse().unwrap();
    let names = sources.go_names(offset);
    assert_eq!(names.last().unwrap().function, "main.show");
    assert!(names[0].line > 0);
    assert_eq!(sources.go_names(u64::MAX), []);
}

#[test]
fn a_program_that_is_cut_does_no_harm() {
    let Some((file, _)) = build(&["-ldflags=-s -w"]) else {
        return;
    };
    let image = ElfImage::read(&file).unwrap();
    let go = GoNames::find(&file, image.clone()).unwrap();
    let text = image.section(".text").unwrap().address;
    for part in 0..40 {
        let cut = file[..file.len() / 40 * part].to_vec();
        for address in (text..text + 100_000).step_by(997) {
            go.names(&cut, address);
        }
    }
}

#[test]
fn what_go_has_not_made_has_no_table() {
    let program = fs::File::open("/proc/self/exe").unwrap();
    let image = ElfImage::read(&program).unwrap();
    assert!(matches!(
        GoNames::find(&program, image),
        Err(GoError::NotGo)
    ));
}
