//! A file of code that processes have mapped, opened once for all of them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use super::elf::ReadAt;
use crate::{
    mapped_file::{MappedFile, MappedFileError},
    processes::Mapping,
    symbols::vdso,
};

/// What makes two files the same, however often they are opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BinaryId {
    /// It is one that only the host's root can change.
    BuildId {
        /// The GNU build-id.
        id: Arc<[u8]>,
        /// Of its length and its headers: tools that change a file leave it its
        /// build-id, and a copy may have been cut.
        shape: u64,
    },
    /// It has no build-id, or one that proves nothing: who can change a file, or
    /// makes a container, can give it the build-id of any other.
    File {
        /// Device and inode.
        inode: (u64, u64),
        /// Bytes.
        size: u64,
        /// Last change: seconds and nanoseconds since the epoch.
        changed: (i64, i64),
    },
    /// The code that the kernel maps into each process.
    Vdso,
}

/// Why a binary is not opened.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// The file.
    #[error(transparent)]
    File(#[from] MappedFileError),
    /// This process has no vDSO, or may not read its own memory.
    #[error("the vDSO of this process cannot be read")]
    NoVdso,
}

/// An open file of code.
#[derive(Debug)]
pub struct Binary {
    file: Arc<MappedFile>,
    id: BinaryId,
    build_id: Arc<[u8]>,
    path: Arc<str>,
}

impl Binary {
    /// Opens the file behind a mapping.
    ///
    /// # Errors
    /// Fails where it may not be read, or is no longer there.
    pub fn open(pid: u32, mapping: &Mapping) -> Result<Self, BinaryError> {
        let file = match MappedFile::open(pid, mapping) {
            Ok(file) => file,
            Err(error) => same_on_host(mapping).ok_or(error)?,
        };
        Self::new(file, &mapping.path)
    }

    /// A file that is open already, and its path in messages.
    ///
    /// # Errors
    /// Fails where the file system does not say what it is.
    pub fn new(file: MappedFile, path: &Arc<str>) -> Result<Self, BinaryError> {
        let build_id: Arc<[u8]> = file.build_id().into();
        let id = match file.is_roots() && !build_id.is_empty() {
            true => BinaryId::BuildId {
                id: Arc::clone(&build_id),
                shape: shape(&file),
            },
            false => file_id(&file).map_err(MappedFileError::System)?,
        };
        Ok(Self {
            file: Arc::new(file),
            id,
            build_id,
            path: Arc::clone(path),
        })
    }

    /// The vDSO, which is the same in all processes of 64 bits.
    ///
    /// # Errors
    /// Fails where this process has none, or may not read its own memory.
    pub fn vdso() -> Result<Self, BinaryError> {
        let file = vdso::image().ok_or(BinaryError::NoVdso)?;
        Ok(Self {
            build_id: file.build_id().into(),
            file: Arc::clone(file),
            id: BinaryId::Vdso,
            path: "[vdso]".into(),
        })
    }

    /// What makes it the same as another.
    pub fn id(&self) -> &BinaryId {
        &self.id
    }

    /// Its GNU build-id; empty: it has none.
    pub fn build_id(&self) -> &[u8] {
        &self.build_id
    }

    /// As the process sees it that it was first opened for.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> &MappedFile {
        &self.file
    }

    /// The same, to be kept.
    pub fn shared_file(&self) -> &Arc<MappedFile> {
        &self.file
    }
}

/// The file that a process that is gone had mapped, where the host has it at the
/// same path.
fn same_on_host(mapping: &Mapping) -> Option<MappedFile> {
    let file = MappedFile::on_host(Path::new(&*mapping.path)).ok()?;
    let metadata = file.file().metadata().ok()?;
    let is_same = metadata.ino() == mapping.file.inode && metadata.dev() == mapping.file.device;
    is_same.then_some(file)
}

/// Bytes of call frame information that tell a file from another.
const CALL_FRAMES: u64 = 64 << 10;

/// Where in a file the segment `PT_GNU_EH_FRAME` is, by its program headers of
/// `size` bytes each.
fn eh_frame_header(segments: &[u8], size: usize) -> Option<u64> {
    const PT_GNU_EH_FRAME: [u8; 4] = 0x6474_e550u32.to_le_bytes();
    let segment = segments
        .chunks_exact(size.max(1))
        .find(|segment| segment.starts_with(&PT_GNU_EH_FRAME))?;
    // `p_offset`.
    let offset = segment.get(8..16)?.try_into().ok()?;
    Some(u64::from_le_bytes(offset))
}

/// A hash of a file's length and of its ELF header, program headers and section
/// headers, which tell where everything is, and of the begin of its call frame
/// information.
fn shape(file: &MappedFile) -> u64 {
    /// Most bytes of a table of headers: 65,535 entries of 64 bytes.
    const MOST: u64 = 4 << 20;
    let mut hasher = DefaultHasher::new();
    file.len().hash(&mut hasher);
    let mut hash = |offset: u64, size: u64| {
        let mut bytes = vec![0; size.min(MOST).min(file.len()) as usize];
        // What cannot be read is the same zeroes for all.
        file.read_exact_at(&mut bytes, offset).ok();
        bytes.hash(&mut hasher);
        bytes
    };
    let header = hash(0, 64);
    let number = |at: usize, size: usize| {
        let mut word = [0; 8];
        if let Some(bytes) = header.get(at..at + size) {
            word[..size].copy_from_slice(bytes);
        }
        u64::from_le_bytes(word)
    };
    // `e_phoff`, `e_phentsize`, `e_phnum`; `e_shoff`, `e_shentsize`, `e_shnum`.
    let segments = hash(number(32, 8), number(54, 2) * number(56, 2));
    hash(number(40, 8), number(58, 2) * number(60, 2));
    // Call frame information begins there as a rule.
    if let Some(offset) = eh_frame_header(&segments, number(54, 2) as usize) {
        hash(offset, CALL_FRAMES);
    }
    hasher.finish()
}

fn file_id(file: &MappedFile) -> io::Result<BinaryId> {
    let metadata = file.file().metadata()?;
    Ok(BinaryId::File {
        inode: (metadata.dev(), metadata.ino()),
        size: metadata.len(),
        changed: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;

    use super::*;
    use crate::unwind::elf::ElfImage;

    /// This program.
    pub(in crate::unwind) fn own_program() -> Binary {
        let file = MappedFile::for_test(File::open("/proc/self/exe").unwrap(), true);
        Binary::new(file, &"this".into()).unwrap()
    }

    #[test]
    fn a_file_is_known_by_its_build_id_and_by_who_can_change_it() {
        let binary = own_program();
        assert!(!binary.build_id().is_empty());
        let other = MappedFile::for_test(File::open("/proc/self/exe").unwrap(), false);
        let other = Binary::new(other, &"other".into()).unwrap();
        assert_eq!(own_program().id(), binary.id());
        assert_eq!(other.build_id(), binary.build_id());
        assert!(matches!(other.id(), BinaryId::File { .. }), "{other:?}");
    }

    #[test]
    fn a_file_without_build_id_is_known_by_its_place_and_time() {
        let open = |path: &str| {
            let file = MappedFile::for_test(File::open(path).unwrap(), true);
            Binary::new(file, &path.into()).unwrap()
        };
        let id = open("/etc/passwd").id().clone();
        assert!(matches!(id, BinaryId::File { .. }));
        assert_eq!(open("/etc/passwd").id(), &id);
        assert_ne!(open("/etc/group").id(), &id);
    }

    #[test]
    fn the_vdso_is_an_elf_file() {
        let vdso = Binary::vdso().unwrap();
        assert!(!vdso.build_id().is_empty());
        let image = ElfImage::read(vdso.file()).unwrap();
        assert_eq!(image.address_of(0), Some(0));
    }
}
