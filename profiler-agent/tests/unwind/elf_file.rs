//! Makes small ELF files, byte by byte.

/// Where the code of a made file is loaded. Not its place in the file, as LLD
/// lays files out.
pub(crate) const CODE: u64 = 0x20_0000;

/// Where the first section of data is loaded; each further one 64 KiB on.
pub(crate) const DATA: u64 = 0x80_0000;

const CODE_OFFSET: usize = 0x1000;

/// A section to be.
struct Part {
    name: &'static str,
    kind: u32,
    flags: u64,
    address: u64,
    bytes: Vec<u8>,
    link: u32,
}

/// A file to be.
pub(crate) struct ElfFile {
    machine: u16,
    entry: u64,
    /// Code; sections of code are parts of it.
    code: Vec<u8>,
    code_sections: Vec<(&'static str, u64, u64)>,
    parts: Vec<Part>,
    has_sections: bool,
}

impl ElfFile {
    pub(crate) fn x86_64() -> Self {
        Self {
            machine: 62,
            entry: 0,
            code: vec![0x90; 0x1000],
            code_sections: Vec::new(),
            parts: Vec::new(),
            has_sections: true,
        }
    }

    pub(crate) fn aarch64() -> Self {
        Self {
            machine: 183,
            ..Self::x86_64()
        }
    }

    /// How much code there is.
    pub(crate) fn size(mut self, size: usize) -> Self {
        self.code.resize(size, 0x90);
        self
    }

    /// Without section headers.
    pub(crate) fn without_sections(mut self) -> Self {
        self.has_sections = false;
        self
    }

    /// Where the program begins.
    pub(crate) fn entry(mut self, entry: u64) -> Self {
        self.entry = entry;
        self
    }

    /// Code at an address.
    pub(crate) fn code(mut self, address: u64, code: &[u8]) -> Self {
        let at = (address - CODE) as usize;
        self.code[at..at + code.len()].copy_from_slice(code);
        self
    }

    /// A section of code.
    pub(crate) fn code_section(mut self, name: &'static str, address: u64, code: &[u8]) -> Self {
        self.code_sections.push((name, address, code.len() as u64));
        self.code(address, code)
    }

    /// A section of data that is loaded; the first one at [`DATA`].
    pub(crate) fn data(mut self, name: &'static str, bytes: Vec<u8>) -> Self {
        let address = DATA + 0x1_0000 * self.parts.len() as u64;
        self.add(name, 1, 2, address, bytes);
        self
    }

    /// A section that is not loaded, with `sh_flags`.
    pub(crate) fn unloaded(mut self, name: &'static str, flags: u64, bytes: Vec<u8>) -> Self {
        self.add(name, 1, flags, 0, bytes);
        self
    }

    /// A symbol table.
    pub(crate) fn symbols(mut self, symbols: &[(&str, u64, u64)]) -> Self {
        let (mut table, mut names) = (vec![0; 24], vec![0]);
        for (name, address, size) in symbols {
            table.extend((names.len() as u32).to_le_bytes());
            table.extend([0x12, 0, 1, 0]);
            table.extend(address.to_le_bytes());
            table.extend(size.to_le_bytes());
            names.extend(name.as_bytes());
            names.push(0);
        }
        self.add(".strtab", 3, 0, 0, names);
        let strings = self.code_sections.len() + self.parts.len();
        self.add(".symtab", 2, 0, 0, table);
        self.parts.last_mut().unwrap().link = strings as u32;
        self
    }

    fn add(&mut self, name: &'static str, kind: u32, flags: u64, address: u64, bytes: Vec<u8>) {
        self.parts.push(Part {
            name,
            kind,
            flags,
            address,
            bytes,
            link: 0,
        });
    }

    /// The file's bytes.
    pub(crate) fn build(mut self) -> Vec<u8> {
        let mut sections = vec![[0; 10]];
        let mut names = vec![0];
        let mut name_of = |name: &str| {
            let at = names.len() as u64;
            names.extend(name.as_bytes());
            names.push(0);
            at
        };
        for (name, address, size) in &self.code_sections {
            let offset = CODE_OFFSET as u64 + address - CODE;
            sections.push([name_of(name), 1, 6, *address, offset, *size, 0, 0, 16, 0]);
        }
        let mut loads = vec![(1, 5, CODE_OFFSET, CODE, self.code.len())];
        let mut bytes = vec![0; CODE_OFFSET];
        bytes.append(&mut self.code);
        for part in &self.parts {
            bytes.resize(bytes.len().next_multiple_of(16), 0);
            let (offset, size) = (bytes.len(), part.bytes.len());
            if part.address != 0 {
                loads.push((1, 4, offset, part.address, size));
            }
            if part.name == ".eh_frame_hdr" {
                loads.push((0x6474_e550, 4, offset, part.address, size));
            }
            sections.push([
                name_of(part.name),
                part.kind.into(),
                part.flags,
                part.address,
                offset as u64,
                size as u64,
                part.link.into(),
                0,
                1,
                0,
            ]);
            bytes.extend(&part.bytes);
        }
        let at = name_of(".shstrtab");
        let size = names.len() as u64;
        sections.push([at, 3, 0, 0, bytes.len() as u64, size, 0, 0, 1, 0]);
        bytes.append(&mut names);
        let section_headers = bytes.len() as u64;
        for section in &sections {
            bytes.extend(section_header(section));
        }
        self.write_header(&mut bytes, section_headers, sections.len(), &loads);
        bytes
    }

    fn write_header(
        &self,
        bytes: &mut [u8],
        section_headers: u64,
        sections: usize,
        segments: &[(u32, u32, usize, u64, usize)],
    ) {
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(16, 0);
        header.extend([3, 0]);
        header.extend(self.machine.to_le_bytes());
        header.extend(1_u32.to_le_bytes());
        let section_headers = if self.has_sections {
            section_headers
        } else {
            0
        };
        for number in [self.entry, 64, section_headers] {
            header.extend(number.to_le_bytes());
        }
        header.extend([0; 4]);
        let (sections, names) = match self.has_sections {
            true => (sections, sections - 1),
            false => (0, 0),
        };
        for number in [64, 56, segments.len(), 64, sections, names] {
            header.extend((number as u16).to_le_bytes());
        }
        for (kind, flags, offset, address, size) in segments {
            header.extend(kind.to_le_bytes());
            header.extend(flags.to_le_bytes());
            for number in [*offset as u64, *address, *address] {
                header.extend(number.to_le_bytes());
            }
            for number in [*size as u64, *size as u64, 0x1000] {
                header.extend(number.to_le_bytes());
            }
        }
        bytes[..header.len()].copy_from_slice(&header);
    }
}

/// By `Elf64_Shdr`: two words of 4 bytes, four of 8, two of 4, two of 8.
fn section_header(fields: &[u64; 10]) -> Vec<u8> {
    let is_short = [
        true, true, false, false, false, false, true, true, false, false,
    ];
    let fields = fields.iter().zip(is_short);
    fields
        .flat_map(|(field, is_short)| {
            let size = if is_short { 4 } else { 8 };
            field.to_le_bytes()[..size].to_vec()
        })
        .collect()
}
