//! Where things are in an ELF file: read piece by piece, never mapped, because
//! whoever owns the file may cut it at any time, and believed nowhere: every
//! size is checked against the file before anything is allocated.
//!
//! Format: System V gABI, chapters 4 and 5, and elf.h.

mod build_id;
mod contents;
mod read_at;
mod symbols;

use std::io;

pub use self::{contents::ContentsError, read_at::ReadAt, symbols::Symbol};

/// Most program headers: what the kernel executes has at most 64 KiB of them.
const MAX_SEGMENTS: u64 = 1170;

/// Most section headers that are looked at. Linked files have fewer than 100.
const MAX_SECTIONS: u64 = 16_384;

/// Most bytes of section names that are looked at.
const MAX_NAMES: u64 = 1 << 20;

/// Longest section name that is kept.
const MAX_NAME: usize = 128;

/// Largest page of a supported machine (aarch64): a mapping begins at most this
/// much before the segment it is for.
const MAX_PAGE: u64 = 64 << 10;

/// Why a file is not read as ELF.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It is something else.
    #[error("it is not an ELF file")]
    NotElf,
    /// It is for 32 bits or of the other byte order.
    #[error("it is not an ELF file of 64 bits in little-endian order")]
    Class,
    /// It is for a machine that is not supported: its `e_machine`.
    #[error("it is for another machine ({0})")]
    Machine(u16),
    /// It cannot be read.
    #[error("its {what} cannot be read: {error}")]
    Read {
        /// Which part.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
}

/// What code a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// `EM_X86_64`.
    X86_64,
    /// `EM_AARCH64`.
    Aarch64,
}

/// A part of the file that is loaded, of type `PT_LOAD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is in the file, in bytes.
    pub offset: u64,
    /// Where it is loaded, before relocation.
    pub address: u64,
    /// Bytes of it that are in the file.
    pub size: u64,
    /// Whether it is code.
    pub executable: bool,
}

impl Segment {
    /// Whether an address is in the part that comes from the file.
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.address) < self.size
    }

    /// One past its last address.
    pub fn end(&self) -> u64 {
        self.address.saturating_add(self.size)
    }
}

/// A section of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name; at most 128 bytes of it.
    pub name: String,
    /// Its `sh_type`.
    pub kind: u32,
    /// Its `sh_flags`.
    pub flags: u64,
    /// Where it is loaded, before relocation; 0 if it is not.
    pub address: u64,
    /// Where it is in the file, in bytes.
    pub offset: u64,
    /// Bytes of it that are in the file.
    pub size: u64,
    /// Its `sh_link`.
    pub link: u32,
}

impl Section {
    /// `SHF_ALLOC`: it is loaded.
    pub fn is_loaded(&self) -> bool {
        const SHF_ALLOC: u64 = 2;
        self.flags & SHF_ALLOC != 0
    }

    /// `SHF_COMPRESSED`: it begins with an `Elf64_Chdr`.
    pub fn is_compressed(&self) -> bool {
        const SHF_COMPRESSED: u64 = 1 << 11;
        self.flags & SHF_COMPRESSED != 0
    }

    /// `SHF_EXECINSTR`: it is code.
    pub fn is_code(&self) -> bool {
        const SHF_EXECINSTR: u64 = 4;
        self.flags & SHF_EXECINSTR != 0
    }
}

/// A place in the file that is loaded at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In the file, in bytes.
    pub offset: u64,
    /// Before relocation.
    pub address: u64,
    /// Bytes there.
    pub size: u64,
}

/// What the headers of an ELF file say, without what they describe.
#[derive(Clone, Debug)]
pub struct ElfImage {
    /// What code it holds.
    pub machine: Machine,
    /// Where a program starts, before relocation; 0 for a library.
    pub entry: u64,
    /// What is loaded, at most the 1170 that the kernel takes.
    pub segments: Vec<Segment>,
    /// Sections, where there still are headers of them.
    pub sections: Vec<Section>,
    /// Where `PT_GNU_EH_FRAME` says that `.eh_frame_hdr` is.
    eh_frame_hdr: Option<Place>,
    /// Segments of type `PT_NOTE`.
    notes: Vec<Place>,
}

impl ElfImage {
    /// Reads the headers. Sections that cannot be read are left out, because
    /// nothing that runs depends on them.
    ///
    /// # Errors
    /// Fails where it is not an ELF file of a supported machine, or where its
    /// program headers cannot be read.
    pub fn read(file: &dyn ReadAt) -> Result<Self, ElfError> {
        let mut header = [0; 64];
        let read = |error| ElfError::Read {
            what: "header",
            error,
        };
        file.read_exact_at(&mut header[..6], 0).map_err(read)?;
        match header[..6] {
            [0x7f, b'E', b'L', b'F', 2, 1] => {}
            [0x7f, b'E', b'L', b'F', ..] => return Err(ElfError::Class),
            _ => return Err(ElfError::NotElf),
        }
        file.read_exact_at(&mut header, 0).map_err(read)?;
        let machine = match u16_at(&header, 18) {
            62 => Machine::X86_64,
            183 => Machine::Aarch64,
            other => return Err(ElfError::Machine(other)),
        };
        let mut image = Self {
            machine,
            entry: u64_at(&header, 24),
            segments: Vec::new(),
            sections: Vec::new(),
            eh_frame_hdr: None,
            notes: Vec::new(),
        };
        image.read_segments(file, &header)?;
        image.sections = read_sections(file, &header).unwrap_or_default();
        Ok(image)
    }

    fn read_segments(&mut self, file: &dyn ReadAt, header: &[u8]) -> Result<(), ElfError> {
        const SIZE: u64 = 56;
        const PT_LOAD: u32 = 1;
        const PT_NOTE: u32 = 4;
        const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
        let count = u64::from(u16_at(header, 56)).min(MAX_SEGMENTS);
        let mut bytes = vec![0; (count * SIZE) as usize];
        file.read_exact_at(&mut bytes, u64_at(header, 32))
            .map_err(|error| ElfError::Read {
                what: "program headers",
                error,
            })?;
        for entry in bytes.chunks_exact(SIZE as usize) {
            let offset = u64_at(entry, 8);
            let place = Place {
                offset,
                address: u64_at(entry, 16),
                size: u64_at(entry, 32).min(file.len().saturating_sub(offset)),
            };
            match u32_at(entry, 0) {
                PT_LOAD => self.segments.push(Segment {
                    offset,
                    address: place.address,
                    size: place.size,
                    executable: u32_at(entry, 4) & 1 != 0,
                }),
                PT_NOTE => self.notes.push(place),
                PT_GNU_EH_FRAME => self.eh_frame_hdr = Some(place),
                _ => {}
            }
        }
        Ok(())
    }

    /// The address at which a byte of the file is loaded, before relocation,
    /// for a mapping of code that begins there. Such a mapping begins at a page,
    /// so up to a page before its segment.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let nearest = |segment: &&Segment| {
            let before = segment.offset.saturating_sub(offset);
            let end = segment.offset.saturating_add(segment.size);
            (before < MAX_PAGE && offset < end).then_some(before)
        };
        let segment = self
            .segments
            .iter()
            .filter(|segment| nearest(segment).is_some())
            .min_by_key(|segment| (!segment.executable, nearest(segment)))?;
        Some(
            segment
                .address
                .wrapping_sub(segment.offset)
                .wrapping_add(offset),
        )
    }

    /// Where in the file the bytes of an address are.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|s| s.contains(address))?;
        segment
            .offset
            .checked_add(address.wrapping_sub(segment.address))
    }

    /// Whether an address is code that comes from the file.
    pub fn is_code(&self, address: u64) -> bool {
        self.code().any(|segment| segment.contains(address))
    }

    /// Segments of code.
    pub fn code(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.executable)
    }

    /// The first section with a name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// `.eh_frame_hdr`, by program header or else by section.
    pub fn eh_frame_hdr(&self) -> Option<Place> {
        self.eh_frame_hdr
            .or_else(|| self.section(".eh_frame_hdr").map(Place::from))
    }

    /// `.eh_frame`: by section; where there are no section headers, from where
    /// `.eh_frame_hdr` says that it begins to the end of its segment.
    pub fn eh_frame(&self, file: &dyn ReadAt) -> Option<Place> {
        const SHT_NOBITS: u32 = 8;
        let section = self.section(".eh_frame");
        if let Some(section) = section.filter(|s| s.kind != SHT_NOBITS && s.size > 0) {
            return Some(section.into());
        }
        let header = self.eh_frame_hdr()?;
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, header.offset).ok()?;
        // Version 1 and DW_EH_PE_pcrel | DW_EH_PE_sdata4: what every linker writes.
        let distance = match bytes {
            [1, 0x1b, _, _, distance @ ..] => i32::from_le_bytes(distance),
            _ => return None,
        };
        let address = header
            .address
            .wrapping_add(4)
            .wrapping_add_signed(distance.into());
        let segment = self.segments.iter().find(|s| s.contains(address))?;
        Some(Place {
            offset: self.offset_of(address)?,
            address,
            size: segment.end() - address,
        })
    }
}

impl From<&Section> for Place {
    fn from(section: &Section) -> Self {
        Self {
            offset: section.offset,
            address: section.address,
            size: section.size,
        }
    }
}

/// The section headers, by `e_shoff`. With more than fit its fields, how many
/// there are and which one has the names stands in the first one.
fn read_sections(file: &dyn ReadAt, header: &[u8]) -> Option<Vec<Section>> {
    const SIZE: u64 = 64;
    const SHT_NOBITS: u32 = 8;
    const SHN_XINDEX: u16 = 0xffff;
    let start = u64_at(header, 40);
    if start == 0 || u64::from(u16_at(header, 58)) != SIZE {
        return None;
    }
    let mut first = [0; SIZE as usize];
    file.read_exact_at(&mut first, start).ok()?;
    let count = match u16_at(header, 60) {
        0 => u64_at(&first, 32),
        count => count.into(),
    };
    let names = match u16_at(header, 62) {
        SHN_XINDEX => u32_at(&first, 40),
        names => names.into(),
    };
    let mut bytes = vec![0; (count.min(MAX_SECTIONS) * SIZE) as usize];
    file.read_exact_at(&mut bytes, start).ok()?;
    let entry = |index: usize| bytes.chunks_exact(SIZE as usize).nth(index);
    let names = entry(names as usize)
        .and_then(|section| read_names(file, u64_at(section, 24), u64_at(section, 32)))
        .unwrap_or_default();
    let sections = bytes.chunks_exact(SIZE as usize).map(|entry| {
        let (kind, offset) = (u32_at(entry, 4), u64_at(entry, 24));
        let there = match kind {
            SHT_NOBITS => 0,
            _ => file.len().saturating_sub(offset),
        };
        Section {
            name: name_at(&names, u32_at(entry, 0) as usize),
            kind,
            flags: u64_at(entry, 8),
            address: u64_at(entry, 16),
            offset,
            size: u64_at(entry, 32).min(there),
            link: u32_at(entry, 40),
        }
    });
    Some(sections.collect())
}

fn read_names(file: &dyn ReadAt, offset: u64, size: u64) -> Option<Vec<u8>> {
    let size = size.min(MAX_NAMES).min(file.len().saturating_sub(offset));
    let mut names = vec![0; size as usize];
    file.read_exact_at(&mut names, offset).ok()?;
    Some(names)
}

fn name_at(names: &[u8], at: usize) -> String {
    let bytes = names.get(at..).unwrap_or_default();
    let end = bytes.iter().take(MAX_NAME).position(|byte| *byte == 0);
    let name = &bytes[..end.unwrap_or(bytes.len().min(MAX_NAME))];
    String::from_utf8_lossy(name).into_owned()
}

/// The number at a place; 0 where the bytes end before.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    array_at(bytes, at).map_or(0, u16::from_le_bytes)
}

/// The number at a place; 0 where the bytes end before.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    array_at(bytes, at).map_or(0, u32::from_le_bytes)
}

/// The number at a place; 0 where the bytes end before.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    array_at(bytes, at).map_or(0, u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
