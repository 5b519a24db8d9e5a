//! Files that processes have mapped. Whoever owns one can change it while it
//! is read, or put it on a file system that never answers; neither may stop
//! the agent, which reading through a shared mapping would allow: a page that
//! is cut off a mapped file is a SIGBUS.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags};

use crate::{processes::Mapping, unwind::elf};

/// Most bytes of symbols that are copied of one file: those of a browser with
/// all its symbols, little beside a host's memory.
pub const MAX_COPY: u64 = 64 << 20;

/// Most bytes of notes that are looked through for a build-id.
const MAX_NOTES: u64 = 64 << 10;

/// File systems whose answers come from another host or program
/// (include/uapi/linux/magic.h): NFS, SMB, CIFS, SMB2, FUSE, Ceph, AFS, Coda.
const REMOTE: [u32; 8] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x00c3_6400,
    0x5346_414f,
    0x7375_7245,
];

/// Longest build-id: twice what any linker makes.
const MAX_BUILD_ID: usize = 64;

/// Seals of a copy.
const UNCHANGING: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE)
    .union(SealFlags::SEAL);

/// Why a mapped file is not read.
#[derive(Debug, thiserror::Error)]
pub enum MappedFileError {
    /// Reading it could take for ever.
    #[error("it is on a remote file system")]
    Remote,
    /// Others than root may change it, and there is too much to be copied.
    #[error("others than root may change it and its symbols take more than {MAX_COPY} bytes")]
    Changeable,
    /// There is nothing to be copied.
    #[error("it is not an ELF file of this machine")]
    NotElf,
    /// A device, a pipe or a directory.
    #[error("it is not a regular file")]
    NotRegular,
    /// Found by its path, but it is not the one that was mapped.
    #[error("another file is at its path by now")]
    Replaced,
    /// The system refuses.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<rustix::io::Errno> for MappedFileError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::System(errno.into())
    }
}

/// A regular file on a local file system, open for reading.
#[derive(Debug)]
pub struct MappedFile {
    file: File,
    /// Nobody but the host's root can change it.
    is_roots: bool,
    /// As the process sees it.
    path: PathBuf,
    /// The root directory in which that path holds; `None`: the host's.
    root: Option<Arc<OwnedFd>>,
}

impl MappedFile {
    /// Opens the file behind a mapping: through `map_files`, which is the
    /// mapped file itself even where it has been deleted or lies in a
    /// container; where that is not allowed (CAP_CHECKPOINT_RESTORE), by its
    /// path inside the process's root, where no link can lead out of it. Only
    /// regular files: the agent must not open a device or a pipe that a
    /// process has chosen.
    ///
    /// # Errors
    /// Fails where it is none, is on a remote file system, or is no longer there.
    pub fn open(pid: u32, mapping: &Mapping) -> Result<Self, MappedFileError> {
        let link = format!(
            "/proc/{pid}/map_files/{:x}-{:x}",
            mapping.start, mapping.end
        );
        let fd = match rustix::fs::open(&link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => fd,
            Err(_) => open_path(&root_of(pid)?, Path::new(&*mapping.path))?,
        };
        let (file, metadata) = open_regular(&fd)?;
        if metadata.ino() != mapping.file.inode {
            return Err(MappedFileError::Replaced);
        }
        let is_on_host = in_host_root(pid);
        Ok(Self {
            is_roots: only_root_writes(&metadata) && is_on_host,
            file,
            path: PathBuf::from(&*mapping.path),
            root: match is_on_host {
                true => None,
                false => Some(Arc::new(root_of(pid)?)),
            },
        })
    }

    /// Opens another file by its path in the root directory of the process
    /// that has mapped this one, out of which no link can lead.
    ///
    /// # Errors
    /// Fails where it is no regular file of a local file system.
    pub fn beside(&self, path: &Path) -> Result<Self, MappedFileError> {
        match &self.root {
            None => Self::on_host(path),
            Some(root) => Ok(Self {
                is_roots: false,
                root: Some(Arc::clone(root)),
                ..Self::in_root(root, path)?
            }),
        }
    }

    /// Opens a file of the host.
    ///
    /// # Errors
    /// As [`Self::beside`].
    pub fn on_host(path: &Path) -> Result<Self, MappedFileError> {
        // The agent itself may be in a container that sees the host's processes.
        let root = match root_of(1) {
            Ok(root) => root,
            Err(_) => rustix::fs::open("/", ROOT_FLAGS, Mode::empty())?,
        };
        Self::in_root(&root, path)
    }

    /// Opens a file in a folder of the agent's own, whose path is the agent's,
    /// not that of the host.
    ///
    /// # Errors
    /// As [`Self::beside`].
    pub fn in_folder(folder: &Path, name: &str) -> Result<Self, MappedFileError> {
        let root = rustix::fs::open(folder, ROOT_FLAGS, Mode::empty())?;
        Ok(Self {
            path: folder.join(name),
            ..Self::in_root(&root, Path::new(name))?
        })
    }

    fn in_root(root: &OwnedFd, path: &Path) -> Result<Self, MappedFileError> {
        let (file, metadata) = open_regular(&open_path(root, path)?)?;
        Ok(Self {
            is_roots: only_root_writes(&metadata),
            file,
            path: path.to_owned(),
            root: None,
        })
    }

    /// The open file, which may change at any time unless [`Self::is_roots`].
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether nobody but the host's root can change it.
    pub fn is_roots(&self) -> bool {
        self.is_roots
    }

    /// Where it is, as the process sees it; empty where it is the agent's own.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether [`Self::path`] is one of the host.
    pub fn is_on_host(&self) -> bool {
        self.root.is_none()
    }

    /// A file of the agent's own that holds `bytes` and does not change.
    ///
    /// # Errors
    /// Fails where there is no memory for it.
    pub fn from_memory(bytes: &[u8]) -> Result<Self, MappedFileError> {
        let file = File::from(create_memory_file()?);
        file.write_all_at(bytes, 0)?;
        rustix::fs::fcntl_add_seals(&file, UNCHANGING)?;
        Ok(Self {
            file,
            is_roots: true,
            path: PathBuf::new(),
            root: None,
        })
    }

    /// Who owns it.
    ///
    /// # Errors
    /// Fails where the file system does not say.
    pub fn owner(&self) -> io::Result<u32> {
        Ok(self.file.metadata()?.uid())
    }

    /// A descriptor whose file does not change under a mapping of it, and the
    /// bytes of memory it holds: the file itself where it is root's, else a
    /// sealed copy of what names are made of, with holes for code and data.
    ///
    /// # Errors
    /// Fails where the copy would hold more than [`MAX_COPY`] bytes.
    pub fn unchanging(&self) -> Result<(OwnedFd, u64), MappedFileError> {
        if self.is_roots {
            return Ok((self.file.try_clone()?.into(), 0));
        }
        let copy = File::from(create_memory_file()?);
        copy.set_len(self.file.metadata()?.len())?;
        let mut bytes = 0;
        for (offset, size) in symbol_parts(&self.file).ok_or(MappedFileError::NotElf)? {
            bytes = size.saturating_add(bytes);
            if bytes > MAX_COPY {
                return Err(MappedFileError::Changeable);
            }
            copy_part(&self.file, &copy, offset, size)?;
        }
        rustix::fs::fcntl_add_seals(&copy, UNCHANGING)?;
        Ok((copy.into(), bytes))
    }

    /// The GNU build-id of an ELF file, empty where it has none or is not ELF.
    pub fn build_id(&self) -> Vec<u8> {
        read_build_id(&self.file).unwrap_or_default()
    }
}

/// Opens what an `O_PATH` descriptor stands for, where that is a regular file
/// on a local file system.
///
/// # Errors
/// Fails where it is not.
pub fn open_regular(fd: &OwnedFd) -> Result<(File, fs::Metadata), MappedFileError> {
    // Asked first: the file's own attributes may never come.
    if REMOTE.contains(&(rustix::fs::fstatfs(fd)?.f_type as u32)) {
        return Err(MappedFileError::Remote);
    }
    let metadata = File::from(fd.try_clone()?).metadata()?;
    if !metadata.is_file() {
        return Err(MappedFileError::NotRegular);
    }
    // An O_PATH descriptor cannot be read; our own link to it can.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    Ok((file.into(), metadata))
}

impl elf::ReadAt for MappedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }

    fn len(&self) -> u64 {
        elf::ReadAt::len(&self.file)
    }
}

const ROOT_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn root_of(pid: u32) -> io::Result<OwnedFd> {
    let path = format!("/proc/{pid}/root");
    Ok(rustix::fs::open(path, ROOT_FLAGS, Mode::empty())?)
}

fn open_path(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?)
}

fn only_root_writes(metadata: &fs::Metadata) -> bool {
    const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
    metadata.uid() == 0 && metadata.mode() & GROUP_OR_OTHERS_WRITE == 0
}

/// Whether a process sees the same root directory as the host's first one,
/// or, where the agent may not look at that, as the agent itself. The root user
/// of a container is not the host's.
fn in_host_root(pid: u32) -> bool {
    let root = |process: &str| {
        let metadata = fs::metadata(format!("/proc/{process}/root/")).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let host = root("1").or_else(|| root("self"));
    host.is_some_and(|host| root(&pid.to_string()) == Some(host))
}

fn create_memory_file() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let name = c"profiler-elf";
    // Kernels before 6.3 do not know NOEXEC_SEAL; later ones may insist on it.
    rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(name, flags))
        .map_err(Into::into)
}

fn copy_part(mut from: &File, mut to: &File, offset: u64, size: u64) -> io::Result<()> {
    from.seek(SeekFrom::Start(offset))?;
    to.seek(SeekFrom::Start(offset))?;
    // One that has been cut meanwhile ends early; the rest stays a hole.
    io::copy(&mut from.take(size), &mut to)?;
    Ok(())
}

/// Where things are in an ELF file of this machine's byte order, by elf.h.
struct Elf {
    header: [u8; 64],
    is_64: bool,
}

/// One entry of a table of an ELF file: what it describes, and where that is.
struct Part {
    kind: u64,
    offset: u64,
    size: u64,
}

/// Longest entry of a table in an ELF file.
const MAX_ENTRY: usize = 64;

impl Elf {
    fn read(file: &File) -> Option<Self> {
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0).ok()?;
        let is_64 = match header.strip_prefix(b"\x7fELF")?.first()? {
            1 => false,
            2 => true,
            _ => return None,
        };
        Some(Self { header, is_64 })
    }

    /// Size of addresses and offsets.
    fn word(&self) -> usize {
        if self.is_64 { 8 } else { 4 }
    }

    /// Of `Elf32_Phdr` and `Elf64_Phdr`.
    fn segments(&self, file: &File) -> Option<Vec<Part>> {
        match self.is_64 {
            false => self.table(file, [28, 42, 44], [0, 4, 16]),
            true => self.table(file, [32, 54, 56], [0, 8, 32]),
        }
    }

    /// Of `Elf32_Shdr` and `Elf64_Shdr`.
    fn sections(&self, file: &File) -> Option<Vec<Part>> {
        match self.is_64 {
            false => self.table(file, [32, 46, 48], [4, 16, 20]),
            true => self.table(file, [40, 58, 60], [4, 24, 32]),
        }
    }

    /// The table whose start, entry size and length are in the header at
    /// `places`, of entries with kind, offset and size at `fields`. Tables come
    /// first among what is found, as a part of kind 0.
    fn table(&self, file: &File, places: [usize; 3], fields: [usize; 3]) -> Option<Vec<Part>> {
        let start = number(&self.header, places[0], self.word())?;
        let entry_size = number(&self.header, places[1], 2)?;
        let count = number(&self.header, places[2], 2)?;
        let mut parts = vec![Part {
            kind: 0,
            offset: start,
            size: entry_size * count,
        }];
        for index in 0..count {
            let mut entry = [0; MAX_ENTRY];
            let used = entry.get_mut(..entry_size as usize)?;
            let at = start.checked_add(index * entry_size)?;
            file.read_exact_at(used, at).ok()?;
            parts.push(Part {
                kind: number(&entry, fields[0], 4)?,
                offset: number(&entry, fields[1], self.word())?,
                size: number(&entry, fields[2], self.word())?,
            });
        }
        Some(parts)
    }
}

/// Offset and size of everything that symbols are made of.
fn symbol_parts(file: &File) -> Option<Vec<(u64, u64)>> {
    const SHT_SYMTAB: u64 = 2;
    const SHT_STRTAB: u64 = 3;
    const SHT_DYNSYM: u64 = 11;
    let elf = Elf::read(file)?;
    let segments = elf.segments(file)?.into_iter().take(1);
    let sections = elf.sections(file)?.into_iter().enumerate();
    let sections = sections.filter(|(index, section)| {
        *index == 0 || matches!(section.kind, SHT_SYMTAB | SHT_STRTAB | SHT_DYNSYM)
    });
    let parts = segments.chain(sections.map(|(_, section)| section));
    let header = (0, elf.header.len() as u64);
    Some(
        [header]
            .into_iter()
            .chain(parts.map(|part| (part.offset, part.size)))
            .collect(),
    )
}

/// Looks through the notes of an ELF file.
fn read_build_id(file: &File) -> Option<Vec<u8>> {
    const PT_NOTE: u64 = 4;
    let segments = Elf::read(file)?.segments(file)?;
    segments
        .iter()
        .filter(|segment| segment.kind == PT_NOTE)
        .find_map(|segment| {
            let mut notes = vec![0; segment.size.min(MAX_NOTES) as usize];
            file.read_exact_at(&mut notes, segment.offset).ok()?;
            build_id_note(&notes)
        })
}

/// The unsigned number of `size` bytes at `at`.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    match *field {
        [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
        [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
        _ => Some(u64::from_ne_bytes(field.try_into().ok()?)),
    }
}

/// The running kernel's build-id, from its notes; empty where they are hidden.
pub fn kernel_build_id() -> Vec<u8> {
    fs::read("/sys/kernel/notes")
        .ok()
        .and_then(|notes| build_id_note(&notes))
        .unwrap_or_default()
}

/// Finds `NT_GNU_BUILD_ID` in ELF notes: name size, description size, type,
/// name, description, each padded to 4 bytes.
pub(crate) fn build_id_note(mut notes: &[u8]) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u64 = 3;
    loop {
        let name_size = number(notes, 0, 4)? as usize;
        let size = number(notes, 4, 4)? as usize;
        let kind = number(notes, 8, 4)?;
        let name = notes.get(12..)?.get(..name_size)?;
        let start = 12 + name_size.next_multiple_of(4);
        let description = notes.get(start..)?.get(..size)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return (size <= MAX_BUILD_ID).then(|| description.to_vec());
        }
        notes = notes.get(start + size.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;
    use crate::processes::{Paths, parse_maps};

    impl MappedFile {
        /// A file as if a process had mapped it.
        pub(crate) fn for_test(file: File, is_roots: bool) -> Self {
            Self {
                file,
                is_roots,
                path: PathBuf::new(),
                root: None,
            }
        }

        /// A file as if a process had mapped it whose root directory is `root`.
        pub(crate) fn for_test_in(root: &Path, path: &str) -> Self {
            let root = rustix::fs::open(root, ROOT_FLAGS, Mode::empty()).unwrap();
            let file = Self::in_root(&root, Path::new(path)).unwrap();
            Self {
                is_roots: false,
                root: Some(Arc::new(root)),
                ..file
            }
        }
    }

    /// This program, and where one of its functions is in it.
    pub(crate) fn own_function(function: *const ()) -> (Mapping, u64) {
        let address = function as u64;
        let maps = fs::read("/proc/self/maps").unwrap();
        let (mappings, _) = parse_maps(&mut &*maps, &mut Paths::default()).unwrap();
        let mapping = mappings
            .into_iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&address))
            .unwrap();
        let offset = address - mapping.start + mapping.offset;
        (mapping, offset)
    }

    #[test]
    fn opens_what_this_process_has_mapped() {
        let (mapping, _) = own_function(opens_what_this_process_has_mapped as *const ());
        let pid = std::process::id();
        MappedFile::open(pid, &mapping).unwrap();
        let mut other = mapping;
        other.start += 1;
        other.file.inode += 1;
        assert!(matches!(
            MappedFile::open(pid, &other),
            Err(MappedFileError::Replaced)
        ));
    }

    #[test]
    fn a_copy_cannot_be_changed() {
        let program = File::open("/proc/self/exe").unwrap();
        let len = program.metadata().unwrap().len();
        let mapped = MappedFile::for_test(program, false);
        let (copy, bytes) = mapped.unchanging().unwrap();
        let copy = File::from(copy);
        assert_eq!(copy.metadata().unwrap().len(), len);
        assert!((1..len).contains(&bytes), "{bytes} of {len}");
        assert!(copy.set_len(0).is_err());
        assert!(copy.write_at(b"x", 0).is_err());
    }

    #[test]
    fn what_somebody_has_made_too_large_is_not_copied() {
        let (mut header, mut section) = ([0; 64], [0; 64]);
        header[..5].copy_from_slice(b"\x7fELF\x02");
        header[40] = 64;
        header[58] = 64;
        header[60] = 1;
        section[4] = 3;
        section[32..40].copy_from_slice(&(MAX_COPY + 1).to_ne_bytes());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&header).unwrap();
        file.write_all(&section).unwrap();
        let copied = |is_roots| {
            let file = file.try_clone().unwrap();
            MappedFile::for_test(file, is_roots).unchanging()
        };
        assert!(matches!(copied(false), Err(MappedFileError::Changeable)));
        assert!(matches!(copied(true), Ok((_, 0))));
    }

    #[test]
    fn reads_the_build_id_of_this_program() {
        let program = File::open("/proc/self/exe").unwrap();
        let expected = blazesym::helper::read_elf_build_id("/proc/self/exe").unwrap();
        assert_eq!(
            MappedFile::for_test(program, true).build_id(),
            expected.unwrap().into_owned()
        );
        let text = File::open("/proc/self/status").unwrap();
        assert_eq!(MappedFile::for_test(text, true).build_id(), []);
    }

    #[test]
    fn headers_that_lead_nowhere_have_no_build_id() {
        let mut header = vec![0xff; 128];
        header[..5].copy_from_slice(b"\x7fELF\x02");
        for class in 0..4 {
            header[4] = class;
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&header).unwrap();
            assert_eq!(MappedFile::for_test(file, true).build_id(), []);
        }
    }

    #[test]
    fn reads_the_build_id_among_other_notes() {
        let mut notes = Vec::new();
        for (name, kind, description) in [
            (&b"Linux\0"[..], 257u32, &b"x"[..]),
            (b"GNU\0", 3, b"12345678901234567890"),
        ] {
            notes.extend_from_slice(&(name.len() as u32).to_ne_bytes());
            notes.extend_from_slice(&(description.len() as u32).to_ne_bytes());
            notes.extend_from_slice(&kind.to_ne_bytes());
            for part in [name, description] {
                notes.extend_from_slice(part);
                notes.resize(notes.len().next_multiple_of(4), 0);
            }
        }
        assert_eq!(
            build_id_note(&notes).as_deref(),
            Some(&b"12345678901234567890"[..])
        );
        for len in 0..notes.len() {
            assert_eq!(build_id_note(&notes[..len]), None, "cut at {len}");
        }
    }
}
