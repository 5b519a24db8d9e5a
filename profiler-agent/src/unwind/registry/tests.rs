use std::{fs::File, ops::Deref};

use profiler_abi::unwind::{CHUNK_BYTES, TableHead};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::{
    mapped_file::MappedFile,
    unwind::{binary::tests::own_program, heap::Attachment, kernel_maps::tests::session_maps},
};

/// With a session, so that its heap has memory.
struct Running {
    registry: Arc<Registry>,
    _attached: Attachment,
}

impl Deref for Running {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.registry
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.registry.stop();
    }
}

/// `None` where this process may make no maps.
fn registry(cpu: Duration, budget: usize) -> Option<Running> {
    let (chunks, _) = session_maps()?;
    let heap = Heap::new(budget);
    let attached = heap.attach(chunks).unwrap();
    let bell = Arc::new(Bell::default());
    Some(Running {
        registry: Registry::start(&heap, cpu, &bell).unwrap(),
        _attached: attached,
    })
}

fn wait(slot: &Slot) -> Lookup {
    for _ in 0..600 {
        match slot.lookup(0) {
            Lookup::Pending => thread::sleep(Duration::from_millis(50)),
            known => return known,
        }
    }
    panic!("a table is built within 30 s");
}

/// A binary of this content that is known by its place.
fn binary(content: &[u8]) -> Arc<Binary> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let open = MappedFile::for_test(File::open(file.path()).unwrap(), true);
    Arc::new(Binary::new(open, &"made".into()).unwrap())
}

/// Something small with a table.
fn vdso() -> Arc<Binary> {
    Arc::new(Binary::vdso().unwrap())
}

const CPU: Duration = Duration::from_secs(20);

#[test]
fn a_table_in_the_heap_is_what_was_built() {
    let Some(registry) = registry(CPU, 64 << 20) else {
        return;
    };
    let binary = vdso();
    let slot = registry.slot(&binary).unwrap();
    let again = registry.slot(&vdso()).unwrap();
    assert!(Arc::ptr_eq(&slot, &again), "one for both");
    let Lookup::Table { head, place } = wait(&slot) else {
        panic!("{:?}", slot.lookup(0));
    };
    let table = table::build(binary.file(), &registry.limits).unwrap();
    assert_eq!(place, 0u64.wrapping_sub(table.base));
    let status = registry.status();
    assert_eq!((status.ready, status.built, status.waiting), (1, 1, 0));
    assert!(status.bytes >= table.bytes() && status.bytes < table.bytes() + 4096);
    let sizes = slot::sizes(&table);
    assert_eq!(sizes.iter().sum::<usize>(), table.bytes());
    // The heap's first block, behind the 8 bytes that stay unused.
    assert_eq!(head, 1);
    let blocks = registry.heap.allocate(&sizes).unwrap();
    let loaded = slot::load(
        table.clone(),
        ElfImage::read(binary.file()).unwrap(),
        blocks,
    );
    let bytes = loaded.unwrap().head(sizes[0]);
    let (read, rest) = TableHead::read_from_prefix(&bytes).unwrap();
    assert_eq!(read.pages as usize, table.pages.len());
    assert_eq!(read.rules as usize, table.rules.len());
    let rules = &bytes[read.rules_offset as usize..];
    assert!(rules.starts_with(table.rules.as_bytes()));
    for (page, bytes) in table.pages.iter().zip(rest.chunks_exact(4)) {
        assert_eq!(page.is_some(), bytes != [0; 4]);
    }
}

#[test]
fn binaries_without_tables_are_refused_with_a_reason() {
    let Some(registry) = registry(CPU, 64 << 20) else {
        return;
    };
    let text = binary(b"no code at all");
    let slot = registry.slot(&text).unwrap();
    assert_eq!(wait(&slot), Lookup::Refused(Refusal::NotElf));
    assert_eq!(slot.stage(), Stage::Settled);
    let again = registry.slot(&text).unwrap();
    assert_eq!(wait(&again), Lookup::Refused(Refusal::NotElf));
    assert_eq!(
        registry.status().refused,
        BTreeMap::from([(Refusal::NotElf, 1)])
    );
}

#[test]
fn without_cpu_time_tables_are_built_later() {
    let Some(registry) = registry(Duration::ZERO, 64 << 20) else {
        return;
    };
    let slot = registry.slot(&vdso()).unwrap();
    assert_eq!(wait(&slot), Lookup::Refused(Refusal::CpuBudget));
    assert_eq!(slot.stage(), Stage::Later);
    registry.inner().cpu = CpuBudget::new(CPU, Instant::now());
    registry.tend(Instant::now());
    assert_eq!(
        slot.lookup(0),
        Lookup::Refused(Refusal::CpuBudget),
        "not yet"
    );
    let later = Instant::now() + Duration::from_secs(5);
    registry.tend(later);
    for _ in 0..600 {
        if slot.stage() == Stage::Settled {
            break;
        }
        // Where it is tried again, nothing changes before it is there.
        assert_ne!(slot.lookup(0), Lookup::Pending);
        thread::sleep(Duration::from_millis(10));
    }
    assert!(matches!(slot.lookup(0), Lookup::Table { .. }));
}

#[test]
fn what_found_the_queue_full_is_tried_again() {
    let Some(registry) = registry(CPU, 64 << 20) else {
        return;
    };
    let text = Arc::new(Slot::new(&binary(b"first of many")));
    // No thread takes any of them before the lock is free.
    let mut inner = registry.inner();
    inner
        .queue
        .extend((0..MAX_WAITING).map(|_| Arc::clone(&text)));
    let slot = Arc::new(Slot::new(&vdso()));
    registry.enqueue(&mut inner, &slot, &vdso());
    assert_eq!(slot.lookup(0), Lookup::Refused(Refusal::Busy));
    assert_eq!(slot.stage(), Stage::Later);
    inner.known.insert(
        vdso().id().clone(),
        Known {
            slot: Arc::clone(&slot),
            idle_since: None,
        },
    );
    drop(inner);
    registry.work.notify_all();
    for _ in 0..600 {
        if slot.stage() == Stage::Settled {
            break;
        }
        registry.tend(Instant::now() + Duration::from_secs(1));
        thread::sleep(Duration::from_millis(10));
    }
    assert!(matches!(slot.lookup(0), Lookup::Table { .. }));
}

#[test]
fn a_bounded_number_of_files_is_kept_open() {
    let places = Arc::new(());
    let binary = vdso();
    let mut kept: Vec<_> = (0..MAX_KEPT).map(|_| keep(&places, &binary)).collect();
    assert!(kept.iter().all(Option::is_some));
    assert!(keep(&places, &binary).is_none());
    kept.pop();
    assert!(keep(&places, &binary).is_some());
}

#[test]
fn tables_that_nobody_uses_are_forgotten_after_a_while() {
    let Some(registry) = registry(CPU, 64 << 20) else {
        return;
    };
    let slot = registry.slot(&vdso()).unwrap();
    wait(&slot);
    let now = Instant::now();
    registry.tend(now);
    registry.tend(now + 2 * IDLE_TIME);
    assert_eq!(registry.status().ready, 1, "used");
    drop(slot);
    registry.tend(now + 3 * IDLE_TIME);
    registry.tend(now + 3 * IDLE_TIME + IDLE_TIME / 2);
    assert_eq!(registry.status().ready, 1, "grace");
    drop(registry.slot(&vdso()).unwrap());
    registry.tend(now + 5 * IDLE_TIME);
    assert_eq!(registry.status().ready, 1, "used meanwhile");
    registry.tend(now + 6 * IDLE_TIME);
    assert_eq!(registry.status().ready, 0);
    assert_eq!(registry.status().built, 1);
}

#[test]
fn what_is_used_stays_and_what_is_not_makes_room() {
    let program = own_program();
    let limits = BuildLimits::default();
    let bytes = table::build(program.file(), &limits).unwrap().bytes();
    // Room for this program's table and not for anything beside it.
    let chunk_count = (bytes + LIST_BYTES).div_ceil(CHUNK_BYTES);
    let budget = chunk_count * CHUNK_BYTES;
    let Some(registry) = registry(CPU, budget) else {
        return;
    };
    let filler_bytes = budget - bytes - LIST_BYTES.max(budget / LIST_SHARE);
    let first = registry.slot(&Arc::new(program)).unwrap();
    if !matches!(wait(&first), Lookup::Table { .. }) {
        println!("skipped: {:?}", first.lookup(0));
        return;
    }
    assert!(registry.leaves_room(filler_bytes));
    assert!(!registry.leaves_room(filler_bytes + 8));
    assert!(
        matches!(registry.evict(bytes), Err(Refusal::MemoryBudget)),
        "it is used"
    );
    drop(first);
    registry.evict(bytes).unwrap();
    assert_eq!((registry.status().ready, registry.status().evicted), (0, 1));
    assert!(registry.leaves_room(bytes));
}
