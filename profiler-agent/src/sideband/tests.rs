use std::{
    collections::HashSet,
    fs::File,
    os::fd::AsRawFd,
    process::{Command, Stdio},
    ptr, thread,
    time::Duration,
};

use super::*;

/// `None` where this process may not follow others.
fn open() -> Option<Sideband> {
    // SAFETY: takes and returns integers.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    let cpus: Vec<u32> = (0..cpus as u32).collect();
    match Sideband::open(&cpus) {
        Ok(sideband) => Some(sideband),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// Everything up to now, after which the session ends.
fn finish(mut sideband: Sideband) -> (Vec<SideRecord>, Images) {
    let mut records = sideband.drain().records;
    let (rest, status) = sideband.finish();
    assert_eq!((status.lost, status.malformed), (0, 0));
    records.extend(rest.records);
    assert!(records.is_sorted_by_key(|record| record.time_ns));
    let mut images = Images::default();
    for record in records.clone() {
        images.apply(record);
    }
    (records, images)
}

#[test]
fn a_storm_of_short_processes_is_followed() {
    let Some(mut sideband) = open() else {
        return;
    };
    let start_ns = now_ns();
    let mut images = Images::default();
    let mut children = HashSet::new();
    let mut until_ns = start_ns;
    for round in 0..100 {
        let child = Command::new("/bin/true").stdin(Stdio::null()).spawn();
        let mut child = child.unwrap();
        children.insert(child.id());
        child.wait().unwrap();
        if round % 8 == 0 {
            let drained = sideband.drain();
            assert!(drained.until_ns >= until_ns);
            let times = || drained.records.iter().map(|record| record.time_ns);
            // Nothing of a time that was said to be known comes later.
            assert!(times().all(|time| (until_ns..drained.until_ns).contains(&time)));
            until_ns = drained.until_ns;
            drained.records.into_iter().for_each(|r| images.apply(r));
        }
    }
    let (rest, status) = sideband.finish();
    rest.records.into_iter().for_each(|r| images.apply(r));
    assert_eq!((status.lost, status.malformed), (0, 0));
    for pid in &children {
        let image = images.image_at(*pid, rest.until_ns).unwrap();
        assert!(image.is_complete(), "{image:?}");
        assert_eq!(&*image.comm, "true");
        assert!(image.since_ns > start_ns);
        let program = image.program.as_ref().unwrap();
        assert!(program.path.ends_with("/true"), "{}", program.path);
        let paths = || image.mappings().iter().map(|mapping| &*mapping.name.path);
        assert!(paths().any(|path| path.contains("libc")), "{image:?}");
        assert!(paths().any(|path| path == "[vdso]"), "{image:?}");
        let is_named =
            |mapping: &ImageMapping| mapping.name.file.inode != 0 || mapping.name.path == "[vdso]";
        assert!(image.mappings().iter().all(is_named), "{image:?}");
    }
}

#[test]
fn a_fork_runs_what_its_parent_had_mapped() {
    let Some(sideband) = open() else {
        return;
    };
    let map = map_this_program();
    // SAFETY: the child does nothing but end.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe { libc::_exit(0) };
    }
    assert!(child > 0);
    // SAFETY: the child is this process's own and not waited for elsewhere.
    unsafe { libc::waitpid(child, ptr::null_mut(), 0) };
    let (records, images) = finish(sideband);
    let pid = child as u32;
    let times = || records.iter().filter(|r| r.pid == pid).map(|r| r.time_ns);
    let image = images.image_at(pid, times().max().unwrap()).unwrap();
    assert_eq!(image.builds_on, Some(std::process::id()));
    assert!(!image.is_complete());
    assert!(image.mapping_at(map, times().min().unwrap()).is_some());
}

#[test]
fn code_that_a_process_loads_later_is_known() {
    let Some(sideband) = open() else {
        return;
    };
    let before = now_ns();
    let map = map_this_program();
    let after = now_ns();
    let (_, images) = finish(sideband);
    let image = images.image_at(std::process::id(), now_ns()).unwrap();
    let mapping = image.mapping_at(map + 1, after).unwrap();
    assert!((before..after).contains(&mapping.since_ns));
    assert_eq!((mapping.start, mapping.offset), (map, 0));
    let program = std::env::current_exe().unwrap();
    assert_eq!(mapping.name.path, program.to_str().unwrap());
}

/// Address of a page of it, as code; stays mapped.
fn map_this_program() -> u64 {
    let file = File::open("/proc/self/exe").unwrap();
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a new mapping at an address the kernel chooses.
    let map = unsafe {
        libc::mmap(
            ptr::null_mut(),
            4096,
            protection,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(map, libc::MAP_FAILED);
    map as u64
}

#[test]
fn cpus_that_go_and_come_are_followed() {
    let Some(mut sideband) = open() else {
        return;
    };
    let cpus: Vec<u32> = sideband.rings.keys().copied().collect();
    thread::sleep(Duration::from_millis(2));
    assert!(sideband.follow_hotplug(&cpus[..1]).is_empty());
    assert_eq!(sideband.rings.len(), 1);
    thread::sleep(Duration::from_millis(2));
    let errors = sideband.follow_hotplug(&[&cpus[..], &[u32::MAX >> 1]].concat());
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(sideband.rings.len(), cpus.len());
    assert!(sideband.status().ring_bytes > 0);
}
