//! Perf events of one CPU: opening them, and how long they have been enabled.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

/// Begin of `struct perf_event_attr` (include/uapi/linux/perf_event.h), as long
/// as `PERF_ATTR_SIZE_VER3`, which every kernel since 3.19 accepts.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Attr {
    pub(crate) kind: u32,
    /// Set by [`open`].
    pub(crate) size: u32,
    pub(crate) config: u64,
    /// A period, or with the bit `freq` a frequency.
    pub(crate) sample: u64,
    pub(crate) sample_type: u64,
    /// Set by [`open`].
    pub(crate) read_format: u64,
    pub(crate) flags: u64,
    pub(crate) wakeup: u32,
    pub(crate) bp_type: u32,
    pub(crate) config1: u64,
    pub(crate) config2: u64,
    pub(crate) branch_sample_type: u64,
    pub(crate) sample_regs_user: u64,
    pub(crate) sample_stack_user: u32,
    pub(crate) clockid: i32,
}

const _: () = assert!(size_of::<Attr>() == 96);

/// `PERF_TYPE_SOFTWARE`.
pub(crate) const SOFTWARE: u32 = 1;
/// `PERF_FORMAT_TOTAL_TIME_ENABLED`.
const TIME_ENABLED: u64 = 1;
/// `PERF_FLAG_FD_CLOEXEC`.
const CLOEXEC: libc::c_ulong = 8;

/// Opens an event of all tasks on one CPU.
///
/// # Errors
/// Fails with what the kernel says.
pub(crate) fn open(attr: Attr, cpu: u32) -> io::Result<OwnedFd> {
    let attr = Attr {
        size: size_of::<Attr>() as u32,
        read_format: TIME_ENABLED,
        ..attr
    };
    // SAFETY: the kernel reads `attr.size` bytes of `attr`, which lives on.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            -1 as libc::pid_t,
            cpu as libc::c_int,
            -1 as libc::c_int,
            CLOEXEC,
        )
    };
    let fd = RawFd::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Nanoseconds for which an event has been enabled.
///
/// # Errors
/// Fails where the event is in an error state, as when its CPU went offline.
pub(crate) fn time_enabled(event: &OwnedFd) -> io::Result<u64> {
    // A read gives { u64 value; u64 time_enabled; }, or nothing for an event
    // in an error state.
    let mut bytes = [0u8; 16];
    if rustix::io::read(event, &mut bytes)? != bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut enabled = [0u8; 8];
    enabled.copy_from_slice(&bytes[8..]);
    Ok(u64::from_ne_bytes(enabled))
}
