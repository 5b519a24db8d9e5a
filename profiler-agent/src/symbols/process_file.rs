//! Files that a process writes about itself, such as a map of the code that
//! its just-in-time compiler makes. Anybody may put a file where one is
//! expected: it is opened inside the process's root, without following any
//! link, and believed only where the process's own user or root owns it.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::mapped_file::{MappedFileError, open_regular};

/// Longest `/proc/PID/status` that is read; it has about 1.5 KiB.
const MAX_STATUS_BYTES: u64 = 64 << 10;

/// Whom a process is, for its own files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Process id where the agent is.
    pub pid: u32,
    /// Its real, effective, saved and file system user.
    pub users: Vec<u32>,
    /// Its ids in the PID namespaces it is in, its own namespace first.
    pub pids: Vec<u32>,
}

/// Why a file of a process is not read.
#[derive(Debug, thiserror::Error)]
pub enum ProcessFileError {
    /// There is none.
    #[error("there is none")]
    Missing,
    /// A link is on the way: it could lead anywhere.
    #[error("it is a symbolic link, or lies behind one")]
    Link,
    /// Somebody else may have made it.
    #[error("it belongs to user {0}, not to the process's user or root")]
    Foreign(u32),
    /// It cannot be read safely.
    #[error(transparent)]
    Unsafe(MappedFileError),
    /// The system refuses.
    #[error(transparent)]
    System(io::Error),
}

impl Owner {
    /// Reads who a process is.
    ///
    /// # Errors
    /// Fails where it is gone or may not be looked at.
    pub fn read(pid: u32) -> io::Result<Self> {
        let mut status = String::new();
        File::open(format!("/proc/{pid}/status"))?
            .take(MAX_STATUS_BYTES)
            .read_to_string(&mut status)?;
        Ok(Self::parse(pid, &status))
    }

    fn parse(pid: u32, status: &str) -> Self {
        let numbers = |field: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let numbers = line.unwrap_or_default().split_ascii_whitespace();
            numbers.filter_map(|number| number.parse().ok()).collect()
        };
        // Outermost namespace first, from the reader's on.
        let mut pids = numbers("NSpid:");
        pids.reverse();
        if !pids.contains(&pid) {
            pids.push(pid);
        }
        Self {
            pid,
            users: numbers("Uid:"),
            pids,
        }
    }

    /// Whether a file of this user is the process's own or root's.
    pub fn may_own(&self, user: u32) -> bool {
        user == 0 || self.users.contains(&user)
    }

    /// Opens a file by its path inside the process's root.
    ///
    /// # Errors
    /// Fails where it is not there, or is not to be believed.
    pub fn open(&self, path: &Path) -> Result<(File, Metadata), ProcessFileError> {
        let root = rustix::fs::open(
            format!("/proc/{}/root", self.pid),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(not_opened)?;
        let resolve =
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve);
        let fd = fd.map_err(not_opened)?;
        let (file, metadata) = open_regular(&fd).map_err(ProcessFileError::Unsafe)?;
        if !self.may_own(metadata.uid()) {
            return Err(ProcessFileError::Foreign(metadata.uid()));
        }
        Ok((file, metadata))
    }
}

fn not_opened(errno: Errno) -> ProcessFileError {
    match errno {
        Errno::NOENT | Errno::NOTDIR => ProcessFileError::Missing,
        Errno::LOOP => ProcessFileError::Link,
        errno => ProcessFileError::System(errno.into()),
    }
}

/// Whether the process is in a PID namespace or has a root of its own, as
/// those of containers.
pub fn is_contained(owner: &Owner) -> bool {
    let root = |pid: u32| {
        let metadata = fs::metadata(format!("/proc/{pid}/root")).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let has_own_root = |its| root(std::process::id()) != Some(its);
    owner.pids.len() > 1 || root(owner.pid).is_some_and(has_own_root)
}

/// Path of the file that Linux's `perf` looks for: named after the id the
/// process has in its own PID namespace (tools/perf/Documentation/jit-interface.txt).
pub fn perf_map_path(pid: u32) -> OsString {
    format!("/tmp/perf-{pid}.map").into()
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// This process.
    pub(crate) fn own() -> Owner {
        Owner::read(std::process::id()).unwrap()
    }

    #[test]
    fn reads_ids_in_all_namespaces() {
        let status = "Name:\tx\nUid:\t1000\t1001\t1002\t1003\nNSpid:\t4711\t12\t1\n";
        let owner = Owner::parse(4711, status);
        assert_eq!(owner.users, [1000, 1001, 1002, 1003]);
        assert_eq!(owner.pids, [1, 12, 4711]);
        assert!(owner.may_own(1001) && owner.may_own(0) && !owner.may_own(1004));
        assert_eq!(Owner::parse(7, "nonsense").pids, [7]);
        assert!(!is_contained(&own()));
    }

    #[test]
    fn opens_own_regular_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "x").unwrap();
        symlink(path("file"), path("link")).unwrap();
        symlink(dir.path(), path("around")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("fifo"),
            rustix::fs::FileType::Fifo,
            mode,
            0,
        )
        .unwrap();
        let owner = own();
        let open = |name: &str| owner.open(&path(name));
        open("file").unwrap();
        assert!(matches!(open("none"), Err(ProcessFileError::Missing)));
        assert!(matches!(open("link"), Err(ProcessFileError::Link)));
        assert!(matches!(open("around/file"), Err(ProcessFileError::Link)));
        for name in ["fifo", "."] {
            assert!(matches!(
                open(name),
                Err(ProcessFileError::Unsafe(MappedFileError::NotRegular))
            ));
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can give files away");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let owner = Owner {
            users: vec![1000; 4],
            ..own()
        };
        owner.open(file.path()).unwrap();
        for (user, expected) in [(1000, true), (1001, false)] {
            std::os::unix::fs::chown(file.path(), Some(user), None).unwrap();
            let opened = owner.open(file.path());
            assert_eq!(opened.is_ok(), expected, "{user}");
            if let Err(error) = opened {
                assert!(matches!(error, ProcessFileError::Foreign(1001)));
            }
        }
    }
}
