//! One CPU's event and the ring its records come through.

use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::perf_event::{self, Attr, SOFTWARE, time_enabled};

/// `PERF_COUNT_SW_DUMMY`.
const DUMMY: u64 = 9;
/// `PERF_SAMPLE_TID | PERF_SAMPLE_TIME`.
const TID_AND_TIME: u64 = 1 << 1 | 1 << 2;
/// Bits `mmap`, `comm`, `task`, `watermark`, `sample_id_all`, `mmap2`,
/// `comm_exec`, `use_clockid`.
const FLAGS: u64 = 1 << 8 | 1 << 9 | 1 << 13 | 1 << 14 | 1 << 18 | 1 << 23 | 1 << 24 | 1 << 25;

/// Pages of a ring: 20 ms of 80 new processes on one CPU; on a machine where
/// less may be locked, less.
const PAGES: [usize; 4] = [32, 16, 8, 4];

/// Where the positions are in `struct perf_event_mmap_page`.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

/// The event and its ring.
#[derive(Debug)]
pub(super) struct Ring {
    event: OwnedFd,
    /// `time_enabled` at the last look.
    enabled_ns: u64,
    memory: NonNull<u8>,
    page: usize,
    /// Of the data, a power of two.
    size: usize,
    tail: u64,
}

// SAFETY: the mapping is this ring's own and outlives every use of it.
unsafe impl Send for Ring {}

impl Ring {
    /// Follows what all processes do on a CPU.
    ///
    /// # Errors
    /// Fails with what the kernel says.
    pub(super) fn open(cpu: u32) -> io::Result<Self> {
        let event = open_event(cpu)?;
        let page = rustix::param::page_size();
        let mut refused = io::Error::from(io::ErrorKind::OutOfMemory);
        for pages in PAGES {
            match map(&event, page * (1 + pages)) {
                Ok(memory) => {
                    let ring = Self {
                        event,
                        enabled_ns: 0,
                        memory,
                        page,
                        size: page * pages,
                        tail: 0,
                    };
                    return Ok(ring);
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// Whether the event has been enabled since the last look.
    pub(super) fn is_alive(&mut self) -> bool {
        time_enabled(&self.event)
            .is_ok_and(|enabled_ns| mem::replace(&mut self.enabled_ns, enabled_ns) != enabled_ns)
    }

    /// Bytes of locked memory.
    pub(super) fn bytes(&self) -> usize {
        self.page + self.size
    }

    /// Moves what the ring holds to the end of `bytes`, and makes room for more.
    pub(super) fn take(&mut self, bytes: &mut Vec<u8>) {
        let head = self.position(DATA_HEAD).load(Ordering::Acquire);
        let count = usize::try_from(head.wrapping_sub(self.tail)).unwrap_or(usize::MAX);
        // The kernel never writes over what was not taken.
        let count = count.min(self.size);
        let from = (self.tail % self.size as u64) as usize;
        let first = count.min(self.size - from);
        self.copy(from, first, bytes);
        self.copy(0, count - first, bytes);
        self.tail = head;
        self.position(DATA_TAIL).store(head, Ordering::Release);
    }

    fn copy(&self, from: usize, count: usize, bytes: &mut Vec<u8>) {
        debug_assert!(from + count <= self.size);
        bytes.reserve(count);
        // SAFETY: in the data part of the mapping, which begins behind the
        // first page; the kernel does not write there until the tail moves.
        // `bytes` has room for it and is not part of the mapping.
        unsafe {
            self.memory
                .add(self.page + from)
                .as_ptr()
                .copy_to_nonoverlapping(bytes.as_mut_ptr().add(bytes.len()), count);
            bytes.set_len(bytes.len() + count);
        }
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: an aligned word of the first page of the mapping, which the
        // kernel and this process access atomically only.
        unsafe { AtomicU64::from_ptr(self.memory.add(offset).as_ptr().cast()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `open` with this length, and used by nobody else.
        let failed = unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes()) } != 0;
        if failed {
            tracing::warn!("unmap a ring: {}", io::Error::last_os_error());
        }
    }
}

fn map(event: &OwnedFd, len: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address the kernel chooses.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            event.as_raw_fd(),
            0,
        )
    };
    match NonNull::new(memory.cast()) {
        Some(address) if memory != libc::MAP_FAILED => Ok(address),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open_event(cpu: u32) -> io::Result<OwnedFd> {
    let attr = Attr {
        kind: SOFTWARE,
        config: DUMMY,
        sample_type: TID_AND_TIME,
        flags: FLAGS,
        // Nobody waits for a wake-up: one when the ring is full.
        wakeup: u32::MAX,
        clockid: libc::CLOCK_MONOTONIC,
        ..Attr::default()
    };
    perf_event::open(attr, cpu)
}
