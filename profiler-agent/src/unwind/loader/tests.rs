use std::{
    fs::File,
    process::{Child, Command},
};

use profiler_abi::unwind::{CHUNK_BYTES, HEAP_REF_BITS, MappingEntry, ProcessEntry, mapping_kind};
use zerocopy::FromBytes;

use super::*;
use crate::{
    mapped_file::MappedFile,
    processes::tests::own_key,
    unwind::{
        binary::tests::own_program,
        kernel_maps::{
            self,
            tests::{lookup, session_maps},
        },
        space,
    },
};

/// A session, and a second look into its map of processes.
struct Test {
    unwinder: Arc<Unwinder>,
    tables: SessionTables,
    processes: OwnedFd,
}

/// `None` where this process may make no maps.
fn session(settings: UnwindSettings) -> Option<Test> {
    let (chunks, processes) = session_maps()?;
    let unwinder = Unwinder::new(settings).unwrap();
    let maps = SessionMaps {
        chunks,
        processes: processes.try_clone().unwrap(),
    };
    Some(Test {
        tables: unwinder.attach(maps).unwrap(),
        unwinder,
        processes,
    })
}

impl Test {
    fn entry(&self, pid: u32) -> Option<ProcessEntry> {
        lookup(&self.processes, pid)
    }

    /// The list as the kernel programs see it.
    fn list(&self, pid: u32) -> Vec<MappingEntry> {
        self.read(&self.entry(pid).unwrap())
    }

    fn read(&self, entry: &ProcessEntry) -> Vec<MappingEntry> {
        let len = entry.mapping_count as usize * size_of::<MappingEntry>();
        let bytes = self.unwinder.shared.heap.peek(entry.mappings, len);
        <[MappingEntry]>::ref_from_bytes(&bytes).unwrap().to_vec()
    }

    fn wait(&self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..1200 {
            if is_so(self) {
                return;
            }
            thread::sleep(Duration::from_millis(25));
        }
        panic!("{:?}\n{:?}", self.tables.report(), self.unwinder.status());
    }
}

fn mapping(start: u64, end: u64, kind: MappingKind) -> CodeMapping {
    CodeMapping {
        start,
        end,
        offset: 0,
        kind,
    }
}

fn process(pid: u32, mappings: Vec<CodeMapping>) -> LoadProcess {
    LoadProcess {
        pid,
        start_ns: 5,
        exec_id: 0,
        mappings,
        runtime: None,
    }
}

fn text_file() -> Arc<Binary> {
    let file = MappedFile::for_test(File::open("/etc/passwd").unwrap(), true);
    Arc::new(Binary::new(file, &"/etc/passwd".into()).unwrap())
}

#[test]
fn a_process_is_shown_at_once_and_with_tables_when_they_are_there() {
    let Some(test) = session(UnwindSettings::default()) else {
        return;
    };
    let program = Arc::new(own_program());
    let mappings = vec![
        mapping(0x9000, 0xa000, MappingKind::Vdso),
        mapping(0x7000, 0x8000, MappingKind::Jit),
        mapping(0x1000, 0x2000, MappingKind::File(text_file())),
        mapping(0x4000, 0x5000, MappingKind::File(Arc::clone(&program))),
    ];
    let started = Instant::now();
    test.tables.load(process(7, mappings));
    assert!(started.elapsed() < Duration::from_secs(1));
    let first = test.entry(7).unwrap();
    assert_eq!((first.start_ns, first.mapping_count), (5, 4));
    test.wait(|test| test.tables.report().complete == 1);
    let list = test.list(7);
    assert!(list.is_sorted_by_key(|entry| entry.start));
    let kinds: Vec<u32> = list.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds[0], mapping_kind::NO_TABLE);
    assert_eq!(kinds[2..], [mapping_kind::JIT, mapping_kind::TABLE]);
    // The vDSO's addresses begin at 0.
    assert_eq!(list[3].bias, list[3].start);
    assert_ne!(list[3].table, 0);
    let last = test.entry(7).unwrap();
    assert_ne!(last.generation, first.generation);
    let report = test.tables.report();
    assert_eq!(
        report.refused_files,
        [("/etc/passwd".into(), Refusal::NotElf)]
    );
    assert_eq!(report.refused[&Refusal::NotElf], 1);
    assert_eq!(report.processes_without_table, 0);
    assert!(report.tables_built >= 1 && report.table_bytes > 0);
}

#[test]
fn equal_processes_share_a_list() {
    let Some(test) = session(UnwindSettings::default()) else {
        return;
    };
    let jit = || vec![mapping(0x1000, 0x2000, MappingKind::Jit)];
    let runtime = Some(b"interpreter".to_vec());
    for pid in [7, 8] {
        test.tables.load(LoadProcess {
            runtime: runtime.clone(),
            ..process(pid, jit())
        });
    }
    test.tables.load(process(9, jit()));
    let [seven, eight, nine] = [7, 8, 9].map(|pid| test.entry(pid).unwrap());
    assert_eq!(seven, eight);
    assert_ne!(seven.runtime, 0);
    assert_eq!(
        nine,
        ProcessEntry {
            runtime: 0,
            ..seven
        }
        .sealed()
    );
    let bytes = test.unwinder.shared.heap.peek(seven.runtime, 11);
    assert_eq!(bytes, b"interpreter");
    let report = test.tables.report();
    assert_eq!(
        (report.processes, report.list_bytes),
        (3, size_of::<MappingEntry>())
    );
    assert_eq!(report.processes_without_table, 3);
}

#[test]
fn what_the_kernel_removed_at_exec_does_not_come_back_by_itself() {
    let Some(test) = session(UnwindSettings::default()) else {
        return;
    };
    let code = || vec![mapping(0x1000, 0x2000, MappingKind::Vdso)];
    // The list changes when the table is there; whether it is by now or not,
    // the entry has to stay away.
    test.tables.load(process(7, code()));
    kernel_maps::delete(&test.processes, 7).unwrap();
    test.wait(|test| test.unwinder.status().tables.ready == 1);
    thread::sleep(4 * REFRESH_INTERVAL);
    assert_eq!(test.entry(7), None);
    test.tables.load(process(7, code()));
    assert_eq!(test.entry(7).unwrap().mapping_count, 1);
}

#[test]
fn only_the_process_that_is_meant_is_forgotten() {
    let Some(test) = session(UnwindSettings::default()) else {
        return;
    };
    test.tables
        .load(process(7, vec![mapping(1, 2, MappingKind::Jit)]));
    test.tables.forget(7, 4);
    assert!(test.entry(7).is_some());
    test.tables.load(LoadProcess {
        start_ns: 6,
        ..process(7, vec![mapping(3, 4, MappingKind::Jit)])
    });
    test.tables.forget(7, 5);
    assert_eq!(test.list(7)[0].start, 3);
    test.tables.forget(7, 6);
    assert_eq!(test.entry(7), None);
    assert_eq!(test.tables.report().processes, 0);
}

#[test]
fn processes_that_are_gone_are_swept_away() {
    let Some(test) = session(UnwindSettings::default()) else {
        return;
    };
    let key = own_key();
    test.tables.load(LoadProcess {
        start_ns: key.start_ns,
        ..process(key.pid, vec![])
    });
    // Of the same id, but an earlier process.
    let child = Sleeper(Command::new("sleep").arg("60").spawn().unwrap());
    test.tables.load(process(child.0.id(), vec![]));
    let session = &test.tables.session;
    session.sweep(Instant::now());
    assert_eq!(session.processes(), 2, "seen a moment ago");
    session.sweep(Instant::now() + Duration::from_secs(11));
    assert_eq!(test.entry(child.0.id()), None);
    assert!(test.entry(key.pid).is_some());
}

struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn mappings_that_lie_on_others_are_left_out_and_equal_neighbours_joined() {
    let Some(test) = session(UnwindSettings::default()) else {
        return;
    };
    let jit = |start, end| mapping(start, end, MappingKind::Jit);
    let mappings = vec![
        jit(30, 40),
        jit(10, 20),
        jit(15, 25),
        jit(20, 30),
        jit(50, 50),
        jit(60, 55),
        jit(u64::MAX - 1, u64::MAX),
    ];
    test.tables.load(process(7, mappings));
    let ranges: Vec<_> = test.list(7).iter().map(|e| (e.start, e.end)).collect();
    assert_eq!(ranges, [(10, 40), (u64::MAX - 1, u64::MAX)]);
    assert_eq!(test.tables.report().mappings_overlapping, 3);
}

/// Each with a hole behind it.
fn holes(count: u64) -> Vec<CodeMapping> {
    let jit = |n| mapping(2 * n, 2 * n + 1, MappingKind::Jit);
    (1..=count).map(jit).collect()
}

#[test]
fn a_process_with_as_many_mappings_as_there_can_be_harms_no_other() {
    let Some(test) = session(UnwindSettings::default()) else {
        return;
    };
    let most = process::MAX_LIST as u64;
    test.tables.load(process(7, holes(most)));
    test.wait(|test| test.tables.report().lists >= 1);
    let entry = test.entry(7).unwrap();
    assert_eq!(u64::from(entry.mapping_count), most);
    assert_eq!(
        entry.mappings % (1 << HEAP_REF_BITS),
        0,
        "a chunk of its own"
    );
    test.tables.load(process(8, holes(65_530)));
    test.tables.load(process(9, holes(65_530)));
    // Files stay, of which it has none.
    assert_eq!(test.entry(9).unwrap().mapping_count, 0);
    assert_eq!(test.tables.report().mappings_cut, 65_530);
    test.tables.load(process(10, holes(30)));
    // The first chunk is full by now, and another one comes.
    test.wait(|test| {
        test.entry(10)
            .is_some_and(|entry| entry.mapping_count == 30)
    });
}

#[test]
fn a_full_heap_cuts_large_lists_and_shows_small_ones() {
    let settings = UnwindSettings {
        budget_bytes: CHUNK_BYTES,
        ..UnwindSettings::default()
    };
    let Some(test) = session(settings) else {
        return;
    };
    test.tables
        .load(process(7, holes(process::MAX_LIST as u64)));
    test.wait(|test| test.entry(7).is_some());
    assert_eq!(test.tables.report().mappings_cut, process::MAX_LIST as u64);
    test.tables.load(process(8, holes(30)));
    assert_eq!(test.list(8).len(), 30);
}

#[test]
fn a_process_whose_new_list_finds_no_room_is_hidden_until_there_is() {
    let settings = UnwindSettings {
        budget_bytes: CHUNK_BYTES,
        ..UnwindSettings::default()
    };
    let Some(test) = session(settings) else {
        return;
    };
    test.tables.load(process(7, holes(30)));
    let heap = &test.unwinder.shared.heap;
    let mut filler = Vec::new();
    for size in [64 << 10, 4 << 10, 64] {
        while let Some(blocks) = heap.allocate(&[size]) {
            filler.push(blocks);
        }
    }
    assert!(test.entry(7).is_some());
    test.tables.load(process(7, holes(31)));
    assert_eq!(test.entry(7), None);
    drop(filler);
    test.wait(|test| test.entry(7).is_some_and(|entry| entry.mapping_count == 31));
}

#[test]
fn a_session_that_ends_leaves_nothing_behind() {
    let Some(test) = session(UnwindSettings::default()) else {
        return;
    };
    test.tables.load(process(7, holes(30)));
    let Test {
        unwinder, tables, ..
    } = test;
    assert_eq!(unwinder.status().processes, 1);
    drop(tables);
    assert_eq!(unwinder.status().processes, 0);
    let is_free = || {
        let heap = unwinder.status().heap;
        heap.used == heap.quarantined
    };
    for _ in 0..200 {
        if is_free() {
            return;
        }
        thread::sleep(Duration::from_millis(25));
    }
    panic!("{:?}", unwinder.status());
}

#[test]
fn what_a_program_reads_is_never_another_process() {
    let settings = UnwindSettings {
        budget_bytes: CHUNK_BYTES,
        ..UnwindSettings::default()
    };
    let Some(test) = session(settings) else {
        return;
    };
    // So many lists that places are used again as soon as they may be.
    let until = Instant::now() + 2 * space::QUARANTINE;
    let code = |pid: u64, round: u64| -> Vec<CodeMapping> {
        let jit = |n: u64| (pid << 40) + (n << 20) + 2 * round;
        (1..200)
            .map(|n| mapping(jit(n), jit(n) + 1, MappingKind::Jit))
            .collect()
    };
    let mut read = 0u64;
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0u64.. {
                let pid = round % 4 + 1;
                test.tables.load(process(pid as u32, code(pid, round)));
                thread::sleep(Duration::from_millis(2));
                if Instant::now() >= until {
                    break;
                }
            }
        });
        while Instant::now() < until {
            for pid in 1..5 {
                let Some(entry) = test.entry(pid) else {
                    continue;
                };
                // As long as a program could take.
                thread::sleep(Duration::from_millis(5));
                let list = test.read(&entry);
                let is_own = |entry: &MappingEntry| entry.start >> 40 == u64::from(pid);
                assert!(
                    list.len() == 199 && list.iter().all(is_own),
                    "{pid}: {list:?}"
                );
                read += 1;
            }
        }
    });
    let report = test.tables.report();
    assert!(
        read > 100 && report.lists_without_room > 0,
        "{read} {report:?}"
    );
}
