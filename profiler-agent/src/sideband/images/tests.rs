use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn mapping(start: u64, end: u64, offset: u64, path: &str) -> SideEvent {
    SideEvent::Mmap(SideMapping {
        start,
        end,
        offset,
        file: FileId {
            device: 1,
            inode: 1,
        },
        path: path.to_owned(),
    })
}

fn exec(comm: &str) -> SideEvent {
    SideEvent::Exec {
        comm: comm.to_owned(),
    }
}

fn images(records: impl IntoIterator<Item = (u64, u32, SideEvent)>) -> Images {
    let mut images = Images::default();
    for (time_ns, pid, event) in records {
        images.apply(SideRecord {
            time_ns,
            pid,
            event,
        });
    }
    images
}

fn path(image: &Image, address: u64, time_ns: u64) -> Option<&str> {
    Some(&image.mapping_at(address, time_ns)?.name.path)
}

#[test]
fn a_program_begins_with_nothing_mapped() {
    let images = images([
        (1, 7, exec("old")),
        (2, 7, mapping(0x1000, 0x2000, 0, "old")),
        (5, 7, exec("new")),
        (6, 7, mapping(0x3000, 0x4000, 0, "new")),
    ]);
    assert!(images.image_at(7, 0).is_none());
    let (old, new) = (
        images.image_at(7, 4).unwrap(),
        images.image_at(7, 5).unwrap(),
    );
    assert_eq!((&*old.comm, path(old, 0x1000, 4)), ("old", Some("old")));
    assert_eq!((&*new.comm, path(new, 0x1000, 9)), ("new", None));
    assert_eq!(new.program.as_ref().unwrap().path, "new");
    assert_ne!(old.generation, new.generation);
    assert!(new.is_complete());
}

#[test]
fn a_child_has_what_its_parent_had_when_it_was_forked() {
    let images = images([
        (1, 7, exec("shell")),
        (2, 7, mapping(0x1000, 0x2000, 0, "shell")),
        (3, 8, SideEvent::Fork { parent: 7 }),
        (4, 7, mapping(0x5000, 0x6000, 0, "later")),
        (5, 8, mapping(0x7000, 0x8000, 0, "own")),
        (6, 9, SideEvent::Fork { parent: 6 }),
        (
            7,
            8,
            SideEvent::Comm {
                comm: "child".to_owned(),
            },
        ),
    ]);
    let child = images.image_at(8, 9).unwrap();
    assert!(child.is_complete());
    assert_eq!(&*child.comm, "child");
    assert_eq!(path(child, 0x1000, 9), Some("shell"));
    assert_eq!(path(child, 0x5000, 9), None);
    assert_eq!(path(child, 0x7000, 9), Some("own"));
    let parent = images.image_at(7, 9).unwrap();
    assert_eq!(path(parent, 0x7000, 9), None);
    let stranger = images.image_at(9, 9).unwrap();
    assert_eq!(stranger.builds_on, Some(6));
    assert!(!stranger.is_complete());
}

#[test]
fn of_an_older_process_changes_are_known() {
    let images = images([
        (1, 7, mapping(0x1000, 0x2000, 0, "lib")),
        (2, 8, SideEvent::Fork { parent: 7 }),
        (3, 9, SideEvent::Fork { parent: 8 }),
    ]);
    for pid in 7..10 {
        let image = images.image_at(pid, 9).unwrap();
        assert_eq!(image.builds_on, Some(7));
        assert_eq!(path(image, 0x1000, 9), Some("lib"));
    }
}

#[test]
fn a_mapping_takes_the_place_of_what_it_lies_on() {
    let images = images([
        (1, 7, exec("x")),
        (2, 7, mapping(0x1000, 0x5000, 0x10, "a")),
        (5, 7, mapping(0x2000, 0x3000, 0, "b")),
        (8, 7, mapping(0x4000, 0x6000, 0, "c")),
    ]);
    let image = images.image_at(7, 9).unwrap();
    let now: Vec<_> = image
        .mappings()
        .iter()
        .map(|m| (m.start, m.end, m.offset))
        .collect();
    let expected = [
        (0x1000, 0x2000, 0x10),
        (0x2000, 0x3000, 0),
        (0x3000, 0x4000, 0x2010),
        (0x4000, 0x6000, 0),
    ];
    assert_eq!(now, expected);
    assert_eq!(path(image, 0x2800, 4), Some("a"));
    assert_eq!(path(image, 0x2800, 5), Some("b"));
    assert_eq!(path(image, 0x4800, 7), Some("a"));
    assert_eq!(path(image, 0x5800, 7), Some("c"), "better than nothing");
}

#[test]
fn code_made_piece_by_piece_is_one_mapping() {
    let pieces = (0..1000).map(|n| (n, 7, mapping(n * 16, n * 16 + 16, n * 16, "//anon")));
    let mut images = images(pieces);
    let image = images.image_at(7, 1000).unwrap();
    assert_eq!(image.mappings().len(), 1);
    let generation = image.generation;
    let again = SideRecord {
        time_ns: 2000,
        pid: 7,
        event: mapping(160, 320, 160, "//anon"),
    };
    images.apply(again);
    assert_eq!(images.image_at(7, 2000).unwrap().generation, generation);
}

#[test]
fn processes_that_ended_are_forgotten_after_a_while() {
    let mut images = images([
        (1, 7, exec("x")),
        (2, 7, SideEvent::Exit),
        (3, 8, exec("y")),
        (4, 8, SideEvent::Exit),
        // The first thread of 8 ended, but not the process.
        (5, 8, mapping(0, 1, 0, "z")),
    ]);
    assert!(images.image_at(7, 3).is_some());
    let late = |time_ns| SideRecord {
        time_ns,
        pid: 9,
        event: exec("w"),
    };
    images.apply(late(KEPT_NS));
    assert!(images.image_at(7, 3).is_some());
    images.apply(late(KEPT_NS + SECOND));
    assert!(images.image_at(7, 3).is_none());
    assert!(images.image_at(8, 6).is_some());
}

#[test]
fn a_process_id_that_is_used_again_is_another_process() {
    let images = images([
        (1, 7, exec("x")),
        (2, 7, SideEvent::Exit),
        (3, 8, exec("y")),
        (4, 7, SideEvent::Fork { parent: 8 }),
        (KEPT_NS + 3, 8, exec("z")),
    ]);
    assert_eq!(&*images.image_at(7, 2).unwrap().comm, "x");
    assert_eq!(&*images.image_at(7, 5).unwrap().comm, "y");
}

#[test]
fn losses_leave_gaps() {
    let images = images([
        (1, 7, exec("x")),
        (2, 0, SideEvent::Lost { count: 3 }),
        (3, 8, SideEvent::Fork { parent: 7 }),
        (4, 9, exec("y")),
    ]);
    let complete = |pid| images.image_at(pid, 9).unwrap().is_complete();
    assert_eq!(
        [complete(7), complete(8), complete(9)],
        [false, false, true]
    );
}

#[test]
fn memory_is_bounded() {
    let pids = MAX_PROCESSES as u32 + 10;
    let mut images = images((0..pids).map(|pid| (1, pid, exec("x"))));
    let status = images.status();
    assert_eq!((status.processes, status.left_out), (MAX_PROCESSES, 10));
    let record = |n: u64| SideRecord {
        time_ns: 2,
        pid: (n % 64) as u32,
        event: mapping(n * 32, n * 32 + 16, 0, "jit"),
    };
    (0..1_000_000).for_each(|n| images.apply(record(n)));
    let status = images.status();
    assert!(status.bytes < 2 * MAX_BYTES, "{}", status.bytes);
    assert!(status.left_out > 100_000);
    assert!(!images.image_at(0, 3).unwrap().is_complete());
}

#[test]
fn bytes_are_given_back() {
    let mut images = images([(1, 7, exec("x"))]);
    let before = images.status().bytes;
    for n in 0..1000 {
        for (pid, event) in [
            (8, SideEvent::Fork { parent: 7 }),
            (8, mapping(0, 16, 0, "a")),
            (8, exec("z")),
            (8, mapping(0, 16, 0, "b")),
            (8, SideEvent::Exit),
        ] {
            let time_ns = n * SECOND;
            images.apply(SideRecord {
                time_ns,
                pid,
                event,
            });
        }
    }
    assert!(images.status().bytes < before + 20_000);
    images.processes.clear();
    assert_eq!(images.status().bytes, 0);
}

proptest! {
    /// Whatever comes, mappings are sorted and do not overlap, and the newest
    /// one that holds an address is found.
    #[test]
    fn mappings_are_as_if_made_page_by_page(
        made in prop::collection::vec((0u64..40, 1u64..12, 0u64..3), 1..60),
    ) {
        let mut pages = [None; 64];
        let mut records = vec![(0, 7, exec("x"))];
        for (n, (start, len, name)) in made.into_iter().enumerate() {
            let path = name.to_string();
            let offset = 1000 * name + start;
            records.push((n as u64 + 1, 7, mapping(start, start + len, offset, &path)));
            pages[start as usize..(start + len) as usize].fill(Some(name));
        }
        let end = records.len() as u64;
        let images = images(records);
        let image = images.image_at(7, end).unwrap();
        for pair in image.mappings().windows(2) {
            prop_assert!(pair[0].end <= pair[1].start);
        }
        for (page, name) in pages.iter().enumerate() {
            let found = image.mapping_at(page as u64, end);
            let expected = name.map(|name| (name.to_string(), 1000 * name + page as u64));
            let found = found.map(|m| (m.name.path.clone(), m.offset + page as u64 - m.start));
            prop_assert_eq!(found, expected);
        }
    }
}
