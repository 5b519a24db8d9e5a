//! With files made by the compiler and the tools of this machine. Where it has
//! none a test says so and is over.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::*;
use crate::symbols::{debug_files::hex, demangle::MAX_NAME};

/// Three functions, two of them inlined, and a static one that `.dynsym` does
/// not have. `MARK` leaves the address of an instruction in section `marks`.
pub(crate) const SOURCE: &str = r#"
#define MARK asm volatile("1: nop\n.pushsection marks,\"a\"\n.quad 1b\n.popsection")
#define INLINE static inline __attribute__((always_inline))
INLINE void innermost(void) {
    MARK;
}
INLINE void middle(void) {
    innermost();
}
__attribute__((noinline)) static void outermost(void) {
    middle();
    MARK;
}
int main(void) {
    outermost();
    return 0;
}
"#;
const INNERMOST: [u32; 3] = [5, 8, 11];
const AFTER: u32 = 12;

/// A folder in which files are made.
pub(crate) struct Bench {
    folder: TempDir,
}

impl Bench {
    /// `None` where there is no compiler.
    pub(crate) fn new() -> Option<Self> {
        if let Err(error) = Command::new("gcc").arg("--version").output() {
            eprintln!("skipped: gcc: {error}");
            return None;
        }
        Some(Self {
            folder: TempDir::new().unwrap(),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a tool in the folder.
    pub(crate) fn run(&self, line: &str) {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        let output = command.args(words).current_dir(self.folder.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(output.status.success(), "{line}: {output:?}");
    }

    pub(crate) fn compile(&self, source: &str, flags: &str) {
        fs::create_dir_all(self.path("app")).unwrap();
        fs::write(self.path("prog.c"), source).unwrap();
        self.run(&format!("gcc -O1 -g -no-pie {flags} -o app/prog prog.c"));
    }

    /// The program, as if a process had mapped it whose root is this folder.
    pub(crate) fn program(&self) -> Arc<MappedFile> {
        Arc::new(MappedFile::for_test_in(self.folder.path(), "/app/prog"))
    }

    pub(crate) fn sources(&self) -> Sources {
        Sources::of(&self.program(), None).unwrap()
    }

    /// Where its debug file would be, by its build-id.
    pub(crate) fn by_build_id(&self) -> PathBuf {
        let build_id = hex(self.sources().build_id());
        let folder = self.path("usr/lib/debug/.build-id").join(&build_id[..2]);
        fs::create_dir_all(&folder).unwrap();
        folder.join(format!("{}.debug", &build_id[2..]))
    }
}

/// Where in the file the instructions are whose addresses are in section `marks`.
pub(crate) fn offsets(sources: &Sources) -> Vec<u64> {
    let image = sources.binary.image();
    let offset = |address: u64| image.offset_of(address).unwrap();
    marks(sources).into_iter().map(offset).collect()
}

/// The addresses in section `marks`.
fn marks(sources: &Sources) -> Vec<u64> {
    let marks = sources.binary.read("marks", 1 << 10).unwrap();
    let marks = marks.as_chunks::<8>().0.iter();
    marks.map(|mark| u64::from_ne_bytes(*mark)).collect()
}

fn names(sources: &Sources) -> Vec<Vec<Name>> {
    let addresses = marks(sources);
    let (tables, _) = sources.tables().unwrap();
    let symbols = tables.names(&ElfSymbolizer::default(), Places::Addresses(&addresses));
    let debug = match sources.read_debug(1 << 30).unwrap() {
        Some(debug) => sources.debug_names(&debug, &addresses, &|| false).names,
        None => vec![Vec::new(); addresses.len()],
    };
    let both = symbols.into_iter().zip(debug);
    both.map(|(symbol, debug)| merged(symbol, debug)).collect()
}

pub(crate) fn check_whole(names: &[Vec<Name>]) {
    let functions = ["innermost", "middle", "outermost"];
    assert_eq!(names[0].len(), 3, "{names:?}");
    for ((name, function), line) in names[0].iter().zip(functions).zip(INNERMOST) {
        assert_eq!((name.function.as_str(), name.line), (function, line));
        assert!(name.file.ends_with("/prog.c"), "{name:?}");
        assert!(name.file.starts_with('/'), "{name:?}");
    }
    let [after] = &names[1][..] else {
        panic!("{names:?}");
    };
    assert_eq!((after.function.as_str(), after.line), ("outermost", AFTER));
}

fn check_none(names: &[Vec<Name>]) {
    assert_eq!(names, [vec![], vec![]]);
}

#[test]
fn inlined_functions_have_names_and_lines() {
    let Some(bench) = Bench::new() else { return };
    for flags in [
        "-gdwarf-2",
        "-gdwarf-3",
        "-gdwarf-4",
        "-gdwarf-5",
        "-gz=zlib",
        "-O2 -ffunction-sections",
    ] {
        bench.compile(SOURCE, flags);
        eprintln!("{flags}");
        check_whole(&names(&bench.sources()));
    }
}

#[test]
fn debug_files_are_found_by_build_id() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "");
    let debug = bench.by_build_id();
    bench.run(&format!(
        "objcopy --only-keep-debug app/prog {}",
        debug.display()
    ));
    bench.run("strip app/prog");
    check_whole(&names(&bench.sources()));
    // Another one's is not its own.
    bench.compile(&SOURCE.replace("return 0", "return 1"), "");
    let other = bench.by_build_id();
    assert_ne!(debug, other);
    bench.run("strip app/prog");
    fs::rename(debug, other).unwrap();
    check_none(&names(&bench.sources()));
}

#[test]
fn debug_files_are_found_by_link() {
    let Some(bench) = Bench::new() else { return };
    for place in ["app", "app/.debug", "usr/lib/debug/app"] {
        for flags in ["", "-Wl,--build-id=none"] {
            bench.compile(SOURCE, flags);
            fs::create_dir_all(bench.path(place)).unwrap();
            let debug = format!("{place}/prog.debug");
            bench.run(&format!("objcopy --only-keep-debug app/prog {debug}"));
            bench.run("strip app/prog");
            bench.run(&format!("objcopy --add-gnu-debuglink={debug} app/prog"));
            eprintln!("{place} {flags}");
            check_whole(&names(&bench.sources()));
            let mut bytes = fs::read(bench.path(&debug)).unwrap();
            bytes.push(0);
            fs::write(bench.path(&debug), bytes).unwrap();
            match flags {
                // The same build-id says more than a checksum.
                "" => check_whole(&names(&bench.sources())),
                _ => check_none(&names(&bench.sources())),
            }
            fs::remove_file(bench.path(&debug)).unwrap();
        }
    }
}

#[test]
fn links_do_not_lead_out_of_a_root() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "");
    let outside = TempDir::new().unwrap();
    let real = outside.path().join("prog.debug");
    bench.run(&format!(
        "objcopy --only-keep-debug app/prog {}",
        real.display()
    ));
    let debug = bench.by_build_id();
    bench.run("strip app/prog");
    let above = format!("{}{}", "../".repeat(32), real.display());
    for target in [real.as_path(), Path::new(&above)] {
        symlink(target, &debug).unwrap();
        assert!(debug.exists());
        check_none(&names(&bench.sources()));
        fs::remove_file(&debug).unwrap();
    }
    // A folder on the way.
    let folder = debug.parent().unwrap();
    fs::remove_dir(folder).unwrap();
    symlink(outside.path(), folder).unwrap();
    fs::rename(&real, outside.path().join(debug.file_name().unwrap())).unwrap();
    assert!(debug.exists());
    check_none(&names(&bench.sources()));
    // The same inside is followed.
    fs::remove_file(folder).unwrap();
    fs::create_dir(bench.path("elsewhere")).unwrap();
    let inside = bench.path("elsewhere").join(debug.file_name().unwrap());
    fs::copy(outside.path().join(debug.file_name().unwrap()), inside).unwrap();
    symlink("/elsewhere", folder).unwrap();
    check_whole(&names(&bench.sources()));
}

#[test]
fn what_is_no_file_is_not_opened() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "");
    let debug = bench.by_build_id();
    bench.run("strip app/prog");
    bench.run(&format!("mkfifo {}", debug.display()));
    check_none(&names(&bench.sources()));
}

#[test]
fn mini_debug_info_names_static_functions() {
    let Some(bench) = Bench::new() else { return };
    if Command::new("xz").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no xz");
    }
    bench.compile(SOURCE, "");
    bench.run("objcopy -S --keep-symbol=outermost app/prog mini");
    bench.run("strip app/prog");
    check_none(&names(&bench.sources()));
    bench.run("xz -k mini");
    bench.run("objcopy --add-section .gnu_debugdata=mini.xz app/prog");
    for names in names(&bench.sources()) {
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].function, "outermost");
    }
    // What was unpacked is in memory, beside what may be copied of the file.
    let size = fs::metadata(bench.path("mini")).unwrap().len();
    let (_, bytes) = bench.sources().tables().unwrap();
    assert!((size..2 * size).contains(&bytes), "{bytes} of {size}");
}

#[test]
fn mini_debug_info_is_bounded() {
    let Some(bench) = Bench::new() else { return };
    if Command::new("xz").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no xz");
    }
    bench.compile(SOURCE, "");
    bench.run("strip app/prog");
    // 128 MiB of nothing in 20 KiB, what needs a dictionary of 1 GiB, what is cut, what is no xz.
    File::create(bench.path("bomb"))
        .unwrap()
        .set_len(128 << 20)
        .unwrap();
    bench.run("xz -0 bomb");
    fs::write(bench.path("wide"), b"x").unwrap();
    bench.run("xz --lzma2=preset=0,dict=1GiB wide");
    let cut = fs::read(bench.path("bomb.xz")).unwrap();
    fs::write(bench.path("cut.xz"), &cut[..1000]).unwrap();
    fs::write(bench.path("text.xz"), b"no xz").unwrap();
    fs::copy(bench.path("app/prog"), bench.path("stripped")).unwrap();
    for name in ["bomb", "wide", "cut", "text"] {
        bench.run(&format!(
            "objcopy --add-section .gnu_debugdata={name}.xz stripped app/prog"
        ));
        let sources = bench.sources();
        let error = debug_data::unpacked(&sources.binary).err().unwrap();
        eprintln!("{name}: {error}");
        check_none(&names(&sources));
    }
}

#[test]
fn larger_debug_information_is_not_read() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "-gz=zlib");
    let sources = bench.sources();
    assert!(sources.has_debug());
    assert!(sources.read_debug(10).is_err());
    // Its sections are as large when packed; unpacked they are larger.
    let packed = dwarf::bytes_of(&sources.binary);
    assert!(sources.read_debug(packed).is_err());
    assert!(sources.read_debug(packed * 100).is_ok());
}

/// Little in the file, and much in memory.
#[test]
fn copied_debug_information_is_bounded_after_unpacking() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "");
    let zeros = File::create(bench.path("zeros")).unwrap();
    zeros.set_len(MAX_COPIED_DEBUG + 1).unwrap();
    bench.run("objcopy --update-section .debug_str=zeros app/prog");
    bench.run("objcopy --compress-debug-sections=zlib app/prog");
    let sources = bench.sources();
    assert!(dwarf::bytes_of(&sources.binary) < MAX_COPIED_DEBUG / 100);
    assert!(sources.read_debug(u64::MAX).is_err());
}

#[test]
fn a_pass_ends_when_it_is_told_to() {
    let Some(bench) = Bench::new() else { return };
    bench.compile(SOURCE, "");
    let sources = bench.sources();
    let debug = sources.read_debug(1 << 30).unwrap().unwrap();
    let pass = sources.debug_names(&debug, &marks(&sources), &|| true);
    assert!(!pass.is_whole);
}

#[test]
fn functions_in_files_of_their_own_are_said_to_be_missing() {
    let Some(bench) = Bench::new() else { return };
    for flags in ["-gsplit-dwarf -gdwarf-4", "-gsplit-dwarf -gdwarf-5"] {
        bench.compile(SOURCE, flags);
        let sources = bench.sources();
        let debug = sources.read_debug(1 << 30).unwrap().unwrap();
        let pass = sources.debug_names(&debug, &marks(&sources), &|| false);
        assert_eq!((pass.split, pass.is_whole, pass.damaged), (1, true, 0));
        let names = names(&sources);
        assert_eq!(names[0].len(), 1, "{names:?}");
        assert_eq!(
            (names[0][0].function.as_str(), names[0][0].line),
            ("outermost", INNERMOST[0])
        );
    }
}

#[test]
fn long_names_are_cut() {
    let Some(bench) = Bench::new() else { return };
    let long = "f".repeat(100_000);
    bench.compile(&SOURCE.replace("middle", &long), "");
    let names = names(&bench.sources());
    assert_eq!(names[0][1].function.len(), MAX_NAME + "...".len());
    assert_eq!(names[0][2].function, "outermost");
}

/// Whatever the bytes of the debug information are, a pass ends, without a
/// panic and in little time.
#[test]
fn damaged_debug_information_does_no_harm() {
    let Some(bench) = Bench::new() else { return };
    for flags in ["-gdwarf-4", "-gdwarf-5"] {
        bench.compile(SOURCE, flags);
        let whole = fs::read(bench.path("app/prog")).unwrap();
        let sources = bench.sources();
        let sections: Vec<_> = [
            ".debug_info",
            ".debug_abbrev",
            ".debug_line",
            ".debug_rnglists",
        ]
        .into_iter()
        .filter_map(|name| sources.binary.image().section(name).cloned())
        .collect();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let start = std::time::Instant::now();
        for round in 0..150 {
            let mut bytes = whole.clone();
            let section = &sections[next(sections.len() as u64) as usize];
            for _ in 0..1 + next(8) {
                let at = section.offset + next(section.size);
                bytes[at as usize] = if round % 2 == 0 {
                    0xff
                } else {
                    next(256) as u8
                };
            }
            if round % 7 == 0 {
                bytes.truncate((section.offset + next(section.size)) as usize);
            }
            let file = MappedFile::from_memory(&bytes).unwrap();
            let Ok(damaged) = Sources::of(&Arc::new(file), None) else {
                continue;
            };
            if let Ok(Some(debug)) = damaged.read_debug(1 << 24) {
                let pass = damaged.debug_names(&debug, &marks(&sources), &|| false);
                assert!(pass.names.iter().all(|names| names.len() < 200));
            }
        }
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }
}

#[test]
fn what_cplusplus_and_its_lambdas_are_called() {
    let Some(bench) = Bench::new() else { return };
    if Command::new("g++").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no g++");
    }
    let source = r#"
#define MARK asm volatile("1: nop\n.pushsection marks,\"a\"\n.quad 1b\n.popsection")
namespace outer {
template <typename T> struct Box {
    __attribute__((noinline)) void open(T) { auto inner = [] { MARK; }; inner(); MARK; }
}; }
int main() { outer::Box<int>().open(1); }
"#;
    fs::create_dir_all(bench.path("app")).unwrap();
    fs::write(bench.path("prog.cc"), source).unwrap();
    bench.run("g++ -O1 -g -no-pie -o app/prog prog.cc");
    let names = names(&bench.sources());
    let inner = names.iter().find(|names| names.len() == 2).unwrap();
    assert!(inner[0].function.contains("lambda"), "{names:?}");
    assert_eq!(inner[1].function, "outer::Box<int>::open(int)");
}

/// What dwz moves to a file of its own are the functions of headers.
#[test]
fn debug_information_may_be_shared_with_other_files() {
    let Some(bench) = Bench::new() else { return };
    if Command::new("dwz").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no dwz");
    }
    fs::create_dir_all(bench.path("app")).unwrap();
    fs::create_dir_all(bench.path("usr/lib/debug/.dwz")).unwrap();
    let source = r#"
#include <algorithm>
#include <map>
#include <string>
#include <vector>
#define MARK asm volatile("1: nop\n.pushsection marks,\"a\"\n.quad 1b\n.popsection")
int main(int count, char **) {
    std::map<std::string, int> map;
    std::vector<int> all;
    for (int i = 0; i < count; i++) { map[std::to_string(i)]++; all.push_back(i); }
    std::for_each(all.begin(), all.end(), [](int &i) { MARK; i++; });
    return all[0] + (int)map.size();
}
"#;
    for name in ["prog", "other"] {
        fs::write(
            bench.path("prog.cc"),
            source.replace("i++;", &format!("i++; /* {name} */")),
        )
        .unwrap();
        bench.run(&format!("g++ -O2 -g -no-pie -o app/{name} prog.cc"));
    }
    let before = names(&bench.sources());
    assert!(before[0].len() >= 3, "{before:?}");
    assert!(
        before[0][1].function.starts_with("std::for_each<")
            || before[0][1].function.contains("for_each"),
        "{before:?}"
    );
    let shared = "usr/lib/debug/.dwz/shared.debug";
    bench.run(&format!("dwz -m {shared} -M /{shared} app/prog app/other"));
    let sources = bench.sources();
    assert!(sources.shared.is_some());
    assert_eq!(names(&sources), before);
    fs::remove_file(bench.path(shared)).unwrap();
    let poorer = names(&bench.sources());
    assert_eq!(poorer[0].last(), before[0].last());
}

#[test]
fn symbols_and_debug_information_complete_each_other() {
    let name = |function: &str, line| Name {
        function: function.to_owned(),
        file: "f.c".to_owned(),
        line,
    };
    let chain = || vec![name("inner", 1), name("f", 2)];
    assert_eq!(merged(None, chain()), chain());
    assert_eq!(
        merged(Some("f.cold".to_owned()), chain()),
        [name("inner", 1), name("f.cold", 2)]
    );
    assert_eq!(
        merged(Some("f".to_owned()), vec![name("", 3)]),
        [name("f", 3)]
    );
    assert_eq!(merged(None, vec![name("", 3)]), []);
    assert_eq!(merged(None, vec![]), []);
}
