//! The library that the kernel maps into every process. Its file is nowhere,
//! but all processes of 64 bits share one image, and the agent has it mapped
//! too.

use std::{
    fs::File,
    io::{self, BufReader},
    os::unix::fs::FileExt,
    sync::{Arc, OnceLock},
};

use rustix::fs::{Mode, OFlags};

use crate::{
    mapped_file::{MappedFile, MappedFileError, open_regular},
    processes::{Mapping, Paths, parse_maps},
};

/// What the kernel calls its mapping.
pub const NAME: &str = "[vdso]";

/// Most bytes copied. It has two or three pages.
const MAX_BYTES: u64 = 1 << 20;

/// The image as a file: for its names and its unwind tables. Offsets in it are
/// those of the mapping. Read once; `None` where the kernel has none.
pub fn image() -> Option<&'static Arc<MappedFile>> {
    static IMAGE: OnceLock<Option<Arc<MappedFile>>> = OnceLock::new();
    IMAGE
        .get_or_init(|| {
            read()
                .inspect_err(|error| tracing::debug!("no copy of {NAME}: {error}"))
                .ok()
        })
        .as_ref()
}

fn read() -> io::Result<Arc<MappedFile>> {
    let mut lines = BufReader::new(File::open("/proc/self/maps")?);
    let (mappings, _) = parse_maps(&mut lines, &mut Paths::default())?;
    let mapping = mappings.iter().find(|mapping| &*mapping.path == NAME);
    let bytes = copy(mapping.ok_or(io::ErrorKind::NotFound)?)?;
    let file = MappedFile::from_memory(&bytes).map_err(io::Error::other)?;
    Ok(Arc::new(file))
}

fn copy(mapping: &Mapping) -> io::Result<Vec<u8>> {
    let size = mapping.end.saturating_sub(mapping.start).min(MAX_BYTES);
    let mut bytes = vec![0; size as usize];
    File::open("/proc/self/mem")?.read_exact_at(&mut bytes, mapping.start)?;
    Ok(bytes)
}

/// Whether a process shares the image: one of 32 bits has another.
///
/// # Errors
/// Fails where its program cannot be read, or lies on a remote file system,
/// which may never answer.
pub fn is_shared_with(pid: u32) -> Result<bool, MappedFileError> {
    const CLASS: u64 = 4;
    const CLASS_64: u8 = 2;
    let mut class = [0];
    let program = format!("/proc/{pid}/exe");
    let link = rustix::fs::open(program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (program, _) = open_regular(&link)?;
    program.read_exact_at(&mut class, CLASS)?;
    Ok(class[0] == CLASS_64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::elf::ElfImage;

    #[test]
    fn is_a_library_with_unwind_information_and_names() {
        let file = image().unwrap();
        let elf = ElfImage::read(&**file).unwrap();
        assert!(elf.eh_frame(&**file).is_some_and(|place| place.size > 0));
        let symbols = elf.symbols_with_prefix(&**file, "__vdso_clock_gettime");
        assert_eq!(symbols.len(), 1);
        assert!(elf.is_code(symbols[0].address));
        let offset = elf.offset_of(symbols[0].address).unwrap();
        let (copy, copied) = file.unchanging().unwrap();
        assert_eq!(copied, 0);
        assert!(offset < File::from(copy).metadata().unwrap().len());
        assert!(is_shared_with(std::process::id()).unwrap());
    }
}
