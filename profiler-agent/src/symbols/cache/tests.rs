use tempfile::TempDir;

use super::*;
use crate::symbolize::Name;

fn key(name: &str, sources: u8) -> Key {
    Key {
        name: name.to_owned(),
        sources: [sources; 16],
    }
}

fn entry(places: u64) -> Entry {
    let mut entry = Entry::default();
    for place in 0..places {
        let names = (0..place % 3).map(|level| Name {
            function: format!("function {place}"),
            file: "/src/file.rs".to_owned(),
            line: level as u32,
        });
        entry.insert(place * 16, names.collect());
    }
    entry
}

fn cache(limit: u64) -> (TempDir, Cache) {
    let folder = TempDir::new().unwrap();
    let cache = Cache::open(&folder.path().join("a/b"), limit).unwrap();
    (folder, cache)
}

#[test]
fn what_is_kept_is_found_again() {
    let (_folder, cache) = cache(1 << 30);
    assert!(cache.load(&key("aa", 1)).is_empty());
    cache.store(&key("aa", 1), &entry(100)).unwrap();
    assert_eq!(cache.load(&key("aa", 1)), entry(100));
    assert_eq!(cache.load(&key("aa", 1)).get(32).unwrap().len(), 2);
    assert_eq!(cache.load(&key("aa", 1)).get(48), Some(&[][..]));
    assert_eq!(cache.load(&key("aa", 1)).get(33), None);
    // From another debug file, and in its place.
    assert!(cache.load(&key("aa", 2)).is_empty());
    cache.store(&key("aa", 2), &entry(3)).unwrap();
    assert_eq!(cache.load(&key("aa", 2)), entry(3));
    assert!(cache.load(&key("aa", 1)).is_empty());
}

#[test]
fn damaged_entries_are_as_good_as_none() {
    let (_folder, cache) = cache(1 << 30);
    let key = key("aa", 1);
    cache.store(&key, &entry(5)).unwrap();
    let path = cache.path(&key);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        assert!(cache.load(&key).is_empty(), "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(cache.load(&key).is_empty(), "cut at {at}");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(cache.load(&key), entry(5));
}

/// With the right checksum, as only somebody who can write there could make it.
#[test]
fn lying_entries_are_as_good_as_none() {
    let whole = entry(5).encode(&[1; 16]);
    for at in 12 + 16..whole.len() {
        for value in [0, 0x7f, 0xff] {
            let mut lying = whole.clone();
            lying[at] = value;
            let checksum = crc32c::crc32c(&lying[12..]);
            lying[8..12].copy_from_slice(&checksum.to_le_bytes());
            if let Some(entry) = Entry::decode(&lying, &[1; 16]) {
                assert!(entry.len() <= 5);
            }
        }
    }
}

#[test]
fn a_link_is_no_entry() {
    let (_folder, cache) = cache(1 << 30);
    let (real, link) = (key("aa", 1), key("bb", 1));
    cache.store(&real, &entry(5)).unwrap();
    std::os::unix::fs::symlink(cache.path(&real), cache.path(&link)).unwrap();
    assert!(cache.load(&link).is_empty());
    cache.store(&link, &entry(2)).unwrap();
    assert_eq!(cache.load(&link), entry(2));
    assert_eq!(cache.load(&real), entry(5));
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let (_folder, cache) = cache(200 << 10);
    let now = SystemTime::now();
    for number in 0..10u64 {
        let key = key(&number.to_string(), 1);
        cache.store(&key, &entry(500)).unwrap();
        let file = OpenOptions::new()
            .append(true)
            .open(cache.path(&key))
            .unwrap();
        let age = Duration::from_secs(3600 * (20 - number));
        file.set_times(FileTimes::new().set_modified(now - age))
            .unwrap();
    }
    let one = fs::metadata(cache.path(&key("0", 1))).unwrap().blocks() * 512;
    // Used again.
    assert!(!cache.load(&key("0", 1)).is_empty());
    let limited = Cache {
        limit: 3 * one,
        ..cache
    };
    limited.shrink().unwrap();
    let left: Vec<_> = (0..10u64)
        .filter(|number| limited.path(&key(&number.to_string(), 1)).exists())
        .collect();
    assert_eq!(left, [0, 8, 9]);
}

#[test]
fn unfinished_files_do_not_stay() {
    let (_folder, cache) = cache(1 << 30);
    let [old, new] = ["old", "new"].map(|name| {
        cache
            .folder()
            .join(format!("{TEMPORARY}{name}.{UNFINISHED}"))
    });
    for path in [&old, &new] {
        fs::write(path, b"x").unwrap();
    }
    let file = OpenOptions::new().append(true).open(&old).unwrap();
    let time = SystemTime::now() - 2 * STALE;
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
    cache.shrink().unwrap();
    assert!(!old.exists() && new.exists());
    // A write that fails leaves nothing.
    let failed = cache.write(&cache.folder().join("x"), |_| {
        Err(io::ErrorKind::Other.into())
    });
    assert!(failed.is_err());
    assert_eq!(cache.files().unwrap().len(), 1);
}

#[test]
fn files_of_others_stay() {
    let (_folder, cache) = cache(0);
    let others = [
        "notes.txt",
        "ab",
        "prog.debug",
        "x.unfinished",
        ".names",
        "ab.names.old",
    ];
    let own = ["ab.names", "ab-cd.names", "0f.debug", "0f.missing"];
    for name in others.iter().chain(&own) {
        fs::write(cache.folder().join(name), b"x").unwrap();
    }
    cache.shrink().unwrap();
    let left = |name: &&&str| cache.folder().join(name).exists();
    assert_eq!(others.iter().filter(left).count(), others.len());
    assert_eq!(own.iter().filter(left).count(), 0);
}

/// They are empty, and there may be one for every build-id.
#[test]
fn what_no_server_has_is_counted_and_forgotten() {
    let (_folder, cache) = cache(2 * LEAST_BYTES);
    let path = |number: u64| cache.folder().join(format!("{number}.{MISSING}"));
    for number in 0..4 {
        let file = File::create(path(number)).unwrap();
        let age = Duration::from_secs(3600 * (10 - number));
        let time = FileTimes::new().set_modified(SystemTime::now() - age);
        file.set_times(time).unwrap();
    }
    cache.shrink().unwrap();
    assert_eq!(
        [0, 1, 2, 3].map(|n| path(n).exists()),
        [false, false, true, true]
    );
    let file = File::options().append(true).open(path(3)).unwrap();
    let time = SystemTime::now() - MISSING_TIME - Duration::from_secs(60);
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
    cache.shrink().unwrap();
    assert_eq!([2, 3].map(|n| path(n).exists()), [true, false]);
}

#[test]
fn folders_that_others_may_use_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cache");
    fs::create_dir(&path).unwrap();
    for (mode, is_refused) in [(0o700, false), (0o755, true), (0o770, true), (0o707, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(Cache::open(&path, 1 << 20).is_err(), is_refused, "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(
        Cache::open(&link, 1 << 20),
        Err(CacheError::Open(_) | CacheError::System { .. })
    ));
    let made = folder.path().join("made/here");
    Cache::open(&made, 1 << 20).unwrap();
    assert_eq!(
        fs::metadata(made).unwrap().permissions().mode() & 0o777,
        0o700
    );
}
