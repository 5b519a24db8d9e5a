//! An ELF file whose sections are wanted, and how they come into memory.

use std::{
    ops::{Deref, Range},
    sync::Arc,
};

use memmap2::{Mmap, MmapOptions};

use crate::{
    mapped_file::{MappedFile, build_id_note},
    unwind::elf::{ContentsError, ElfError, ElfImage, Section},
};

/// The bytes of a section.
#[derive(Debug, Default)]
pub enum Bytes {
    /// There is none.
    #[default]
    Empty,
    /// In memory of the agent's own.
    Held(Vec<u8>),
    /// In the file, because nobody but root can change it.
    Mapped(Mmap),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::Held(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }
}

impl Bytes {
    /// Bytes of the agent's own memory.
    pub fn held(&self) -> u64 {
        match self {
            Self::Held(bytes) => bytes.len() as u64,
            Self::Empty | Self::Mapped(_) => 0,
        }
    }
}

/// An ELF file and what its headers say.
pub struct Binary {
    file: Arc<MappedFile>,
    image: ElfImage,
}

impl Binary {
    /// Reads the headers of a file.
    ///
    /// # Errors
    /// Fails where it is not an ELF file of a supported machine.
    pub fn new(file: Arc<MappedFile>) -> Result<Self, ElfError> {
        let image = ElfImage::read(file.file())?;
        Ok(Self { file, image })
    }

    /// The file itself.
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    /// What its headers say.
    pub fn image(&self) -> &ElfImage {
        &self.image
    }

    /// The GNU build-id; empty where there is none.
    pub fn build_id(&self) -> Vec<u8> {
        /// Most bytes of notes that are looked through.
        const MAX_NOTES: u64 = 64 << 10;
        let build_id = self.image.build_id(self.file.file());
        if !build_id.is_empty() {
            return build_id;
        }
        // What dwz makes has sections only.
        let notes = self.read(".note.gnu.build-id", MAX_NOTES);
        let note = notes.ok().and_then(|notes| build_id_note(&notes));
        note.unwrap_or_default()
    }

    /// Addresses of its code.
    pub fn code(&self) -> Vec<Range<u64>> {
        let code = self.image.code();
        code.map(|segment| segment.address..segment.end()).collect()
    }

    /// Whether a section has any bytes in this file.
    pub fn has(&self, name: &str) -> bool {
        self.size_of(name) > 0
    }

    /// Bytes that a section takes in the file.
    pub fn size_of(&self, name: &str) -> u64 {
        self.image.section(name).map_or(0, |section| section.size)
    }

    /// The bytes of a section, unpacked, if they are at most `limit`; none
    /// where there is no such section. Those of a file that only root can
    /// change are mapped, others are copied.
    ///
    /// # Errors
    /// Fails where there are more, or where they cannot be read.
    pub fn read(&self, name: &str, limit: u64) -> Result<Bytes, ContentsError> {
        const SHF_COMPRESSED: u64 = 1 << 11;
        let Some(section) = self.image.section(name).filter(|section| section.size > 0) else {
            return Ok(Bytes::Empty);
        };
        if section.size > limit {
            return Err(ContentsError::TooLarge(name.to_owned(), limit));
        }
        if self.file.is_roots()
            && section.flags & SHF_COMPRESSED == 0
            && let Some(mapped) = self.map(section)
        {
            return Ok(Bytes::Mapped(mapped));
        }
        let contents = self.image.contents(self.file.file(), section, limit)?;
        Ok(Bytes::Held(contents))
    }

    fn map(&self, section: &Section) -> Option<Mmap> {
        let len = usize::try_from(section.size).ok()?;
        let mut options = MmapOptions::new();
        // SAFETY: the section lies within the file, as `ElfImage` has checked,
        // and nobody but the host's root can write to the file or cut it.
        unsafe {
            options
                .offset(section.offset)
                .len(len)
                .map(self.file.file())
        }
        .ok()
    }
}
