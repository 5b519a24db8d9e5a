//! The few bpf(2) calls that tables need: making a chunk of the heap, and
//! writing elements of a session's maps. Layouts by include/uapi/linux/bpf.h.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
};

use profiler_abi::unwind::CHUNK_BYTES;
use zerocopy::{Immutable, IntoBytes};

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_UPDATE_BATCH: libc::c_long = 26;

const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Begin of `union bpf_attr` for `BPF_MAP_CREATE`, up to the map's name.
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

const _: () = assert!(size_of::<Create>() == 44);

/// `union bpf_attr` for operations on one element.
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Element>() == 32);

/// `union bpf_attr` for operations on many elements.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Batch>() == 56);

/// Whether an element must be there already to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// It is made where it is missing.
    Any,
    /// Only what is there is changed.
    Existing,
}

/// A chunk of the heap: an array map of one element. Its memory is mapped only
/// while it is written or read, because what is mapped counts as this process's
/// memory beside being the kernel's.
#[derive(Debug)]
pub(super) struct Chunk {
    map: OwnedFd,
}

impl Chunk {
    /// Makes one. Without type information, so that kernel 6.1 takes it as
    /// equal to the template of an array of maps whose value is an array of
    /// integers.
    pub(super) fn create() -> io::Result<Self> {
        let attr = Create {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: size_of::<u32>() as u32,
            value_size: CHUNK_BYTES as u32,
            max_entries: 1,
            map_flags: BPF_F_MMAPABLE,
            inner_map_fd: 0,
            numa_node: 0,
            name: *b"unwind_chunk\0\0\0\0",
        };
        Ok(Self {
            map: create_map(&attr)?,
        })
    }

    /// Writes `bytes` at `offset`. The caller owns that part: nobody else
    /// writes there or looks there for sense.
    ///
    /// # Errors
    /// Fails where they would not fit, or the memory cannot be mapped.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let window = Window::open(&self.map, offset, bytes.len())?;
        // SAFETY: in bounds of the window; `bytes` is ordinary memory and so
        // never part of it, to which no reference is ever made.
        unsafe {
            window
                .start()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        Ok(())
    }

    /// What stands at `offset`.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(super) fn read(&self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        let window = Window::open(&self.map, offset, len)?;
        let mut bytes = vec![0; len];
        // SAFETY: as in `write`.
        unsafe {
            window
                .start()
                .copy_to_nonoverlapping(bytes.as_mut_ptr(), len);
        }
        Ok(bytes)
    }
}

/// The pages of a chunk that hold a part of it, mapped.
struct Window {
    memory: NonNull<u8>,
    len: usize,
    /// Where the part begins in them.
    offset: usize,
}

impl Window {
    /// `len` bytes of a chunk from `offset` on.
    fn open(map: &OwnedFd, offset: usize, len: usize) -> io::Result<Self> {
        let end = offset.checked_add(len).filter(|end| *end <= CHUNK_BYTES);
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        let page = rustix::param::page_size();
        let first = offset / page * page;
        let len = (end - first).next_multiple_of(page);
        // SAFETY: a new mapping at an address the kernel chooses, of pages that
        // the map has: a chunk is a multiple of every page size.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                first as libc::off_t,
            )
        };
        match NonNull::new(memory.cast()) {
            Some(address) if memory != libc::MAP_FAILED => Ok(Self {
                memory: address,
                len,
                offset: offset - first,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: `offset` is in the first of the pages.
        unsafe { self.memory.add(self.offset).as_ptr() }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: mapped by `open` with this length, and used by nobody else.
        let failed = unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len) } != 0;
        if failed {
            tracing::warn!("unmap a chunk: {}", io::Error::last_os_error());
        }
    }
}

/// Writes the element `key`.
///
/// # Errors
/// `NotFound` for [`Write::Existing`] where there is none; else what the kernel says.
pub(super) fn update<V: IntoBytes + Immutable>(
    map: &OwnedFd,
    key: u32,
    value: &V,
    write: Write,
) -> io::Result<()> {
    let flags = match write {
        Write::Any => 0,
        Write::Existing => 2,
    };
    element(
        MAP_UPDATE_ELEM,
        map,
        key,
        value.as_bytes().as_ptr() as u64,
        flags,
    )
}

/// Puts chunks into an array of maps, by number. After each call the kernel
/// waits for programs that run, so that one call for all is much faster;
/// kernels that have none (before 5.14) get one for each.
///
/// # Errors
/// Fails with what the kernel says; some may have been put in by then.
pub(super) fn put_chunks(map: &OwnedFd, chunks: &[(u32, &Chunk)]) -> io::Result<()> {
    let keys: Vec<u32> = chunks.iter().map(|(number, _)| *number).collect();
    let fd = |(_, chunk): &(u32, &Chunk)| chunk.map.as_raw_fd();
    let fds: Vec<RawFd> = chunks.iter().map(fd).collect();
    let attr = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: fds.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    if chunks.len() > 1 {
        // SAFETY: `keys` and `fds` have `count` elements each and live on.
        let all = unsafe {
            bpf(
                MAP_UPDATE_BATCH,
                (&raw const attr).cast(),
                size_of::<Batch>(),
            )
        };
        if all.is_ok() {
            return Ok(());
        }
    }
    let mut elements = keys.iter().zip(&fds);
    elements.try_for_each(|(key, fd)| update(map, *key, fd, Write::Any))
}

/// Removes the element `key`, if there is one.
///
/// # Errors
/// Fails with what else the kernel says.
pub(super) fn delete(map: &OwnedFd, key: u32) -> io::Result<()> {
    match element(MAP_DELETE_ELEM, map, key, 0, 0) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `value` is the address of a value as long as the map's, or 0 where the call
/// takes none.
fn element(
    command: libc::c_long,
    map: &OwnedFd,
    key: u32,
    value: u64,
    flags: u64,
) -> io::Result<()> {
    let attr = Element {
        map_fd: map.as_raw_fd() as u32,
        pad: 0,
        key: &raw const key as u64,
        value,
        flags,
    };
    // SAFETY: `key` and what `value` names live until the call returns.
    unsafe { bpf(command, (&raw const attr).cast(), size_of::<Element>()) }?;
    Ok(())
}

fn create_map(attr: &Create) -> io::Result<OwnedFd> {
    // SAFETY: the attributes hold no addresses.
    let fd = unsafe { bpf(MAP_CREATE, ptr::from_ref(attr).cast(), size_of::<Create>()) }?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attr` must point to `size` bytes of `union bpf_attr`, and addresses in it
/// to memory as large as `command` reads or writes.
unsafe fn bpf(command: libc::c_long, attr: *const u8, size: usize) -> io::Result<RawFd> {
    // SAFETY: the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size) };
    match RawFd::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use profiler_abi::unwind::{MAX_CHUNKS, ProcessEntry};
    use zerocopy::FromBytes;

    use super::*;

    const BPF_MAP_TYPE_HASH: u32 = 1;
    const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
    const BPF_F_NO_PREALLOC: u32 = 1;

    const MAP_LOOKUP_ELEM: libc::c_long = 1;

    /// Reads the element `key`; `None` where there is none.
    pub(in crate::unwind) fn lookup<V: FromBytes + IntoBytes>(
        map: &OwnedFd,
        key: u32,
    ) -> Option<V> {
        let mut value = V::new_zeroed();
        let place = value.as_mut_bytes().as_mut_ptr() as u64;
        match element(MAP_LOOKUP_ELEM, map, key, place, 0) {
            Ok(()) => Some(value),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
                None
            }
        }
    }

    /// Maps like those of the kernel object; `None` where this process may
    /// make none.
    pub(in crate::unwind) fn session_maps() -> Option<(OwnedFd, OwnedFd)> {
        let template = match Chunk::create() {
            Ok(chunk) => chunk,
            Err(error) => {
                println!("skipped: making BPF maps: {error}");
                return None;
            }
        };
        let name = [0; 16];
        let chunks = create_map(&Create {
            map_type: BPF_MAP_TYPE_ARRAY_OF_MAPS,
            key_size: 4,
            value_size: 4,
            max_entries: MAX_CHUNKS as u32,
            map_flags: 0,
            inner_map_fd: template.map.as_raw_fd() as u32,
            numa_node: 0,
            name,
        });
        let processes = create_map(&Create {
            map_type: BPF_MAP_TYPE_HASH,
            key_size: 4,
            value_size: size_of::<ProcessEntry>() as u32,
            max_entries: 1024,
            map_flags: BPF_F_NO_PREALLOC,
            inner_map_fd: 0,
            numa_node: 0,
            name,
        });
        Some((chunks.unwrap(), processes.unwrap()))
    }

    #[test]
    fn elements_are_written_read_and_removed() {
        let Some((_, processes)) = session_maps() else {
            return;
        };
        let entry = ProcessEntry {
            start_ns: 7,
            ..ProcessEntry::default()
        };
        let missing = update(&processes, 1, &entry, Write::Existing).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        update(&processes, 1, &entry, Write::Any).unwrap();
        update(&processes, 1, &entry, Write::Existing).unwrap();
        assert_eq!(lookup(&processes, 1), Some(entry));
        delete(&processes, 1).unwrap();
        delete(&processes, 1).unwrap();
        assert_eq!(lookup::<ProcessEntry>(&processes, 1), None);
    }

    #[test]
    fn chunks_go_into_an_array_of_maps_one_and_many() {
        let Some((array, _)) = session_maps() else {
            return;
        };
        let chunks = [0; 3].map(|_| Chunk::create().unwrap());
        let number = |key| lookup::<u32>(&array, key);
        put_chunks(&array, &[(3, &chunks[0])]).unwrap();
        put_chunks(&array, &[(5, &chunks[1]), (4, &chunks[2])]).unwrap();
        let numbers = [3, 4, 5].map(|key| number(key).unwrap());
        assert!(numbers[0] < numbers[2] && numbers[2] < numbers[1]);
        delete(&array, 3).unwrap();
        assert_eq!(number(3), None);
        let beyond = MAX_CHUNKS as u32;
        assert!(put_chunks(&array, &[(0, &chunks[0]), (beyond, &chunks[1])]).is_err());
    }

    #[test]
    fn a_chunk_keeps_its_bounds() {
        let Some(_) = session_maps() else {
            return;
        };
        let chunk = Chunk::create().unwrap();
        for offset in [0, 4095, 70_000, CHUNK_BYTES - 2] {
            chunk.write(offset, b"ab").unwrap();
            assert_eq!(chunk.read(offset, 2).unwrap(), b"ab");
        }
        assert_eq!(chunk.read(4094, 4).unwrap(), b"\0ab\0");
        let all = chunk.read(0, CHUNK_BYTES).unwrap();
        assert_eq!(all.iter().filter(|byte| **byte != 0).count(), 8);
        for offset in [CHUNK_BYTES - 1, CHUNK_BYTES, usize::MAX] {
            assert!(chunk.write(offset, b"ab").is_err());
            assert!(chunk.read(offset, 2).is_err());
        }
    }
}
