//! ELF files made for a test: code, call frame information, section headers.

use crate::unwind::elf::Machine;

/// Address of the file's first byte.
pub(super) const BASE: u64 = 0x40_0000;

/// Address of the code.
pub(super) const CODE: u64 = BASE + 0x1000;

/// DWARF's numbers of what an instruction does (DWARF 5, 7.24).
pub(super) mod op {
    pub(crate) const UNDEFINED: u8 = 0x07;
    pub(crate) const DEF_CFA: u8 = 0x0c;
    pub(crate) const DEF_CFA_EXPRESSION: u8 = 0x0f;
    pub(crate) const OFFSET: u8 = 0x80;
    pub(crate) const ADVANCE: u8 = 0x40;
}

/// A file in the making.
pub(super) struct Image {
    machine: Machine,
    code: Vec<u8>,
    eh_frame: Vec<u8>,
    sections: Vec<(&'static str, u64, Vec<u8>)>,
}

impl Image {
    /// With code that does nothing, and a common entry whose instructions begin
    /// every function.
    pub(super) fn new(machine: Machine, common: &[u8]) -> Self {
        let return_address = match machine {
            Machine::X86_64 => 16,
            Machine::Aarch64 => 30,
        };
        // Version 1, no augmentation, factors 1 and -8 (signed).
        let mut entry = vec![0, 0, 0, 0, 1, 0, 1, 0x78, return_address];
        entry.extend_from_slice(common);
        let mut this = Self {
            machine,
            code: vec![0x90; 0x1000],
            eh_frame: Vec::new(),
            sections: Vec::new(),
        };
        this.add_entry(&entry);
        this
    }

    /// A function at an offset of the code.
    pub(super) fn function(mut self, offset: u64, size: u64, instructions: &[u8]) -> Self {
        // From here to the common entry, which is the first of all.
        let mut entry = (self.eh_frame.len() as u32 + 4).to_le_bytes().to_vec();
        entry.extend_from_slice(&(CODE + offset).to_le_bytes());
        entry.extend_from_slice(&size.to_le_bytes());
        entry.extend_from_slice(instructions);
        self.add_entry(&entry);
        self
    }

    /// Machine code at an offset of the code.
    pub(super) fn code(mut self, offset: usize, code: &[u8]) -> Self {
        self.code[offset..offset + code.len()].copy_from_slice(code);
        self
    }

    /// A section that is loaded at an offset of the code, over what is there.
    pub(super) fn section(mut self, name: &'static str, offset: u64, bytes: &[u8]) -> Self {
        self.sections.push((name, CODE + offset, bytes.to_vec()));
        self.code(offset as usize, bytes)
    }

    /// Of the entry that comes next in `.eh_frame`.
    pub(super) fn next_entry(&self) -> u64 {
        CODE + self.code.len() as u64 + self.eh_frame.len() as u64
    }

    fn add_entry(&mut self, entry: &[u8]) {
        let len = entry.len().next_multiple_of(4);
        self.eh_frame.extend_from_slice(&(len as u32).to_le_bytes());
        self.eh_frame.extend_from_slice(entry);
        // Padding does nothing.
        let padded = self.eh_frame.len().next_multiple_of(4);
        self.eh_frame.resize(padded, 0);
    }

    /// The file: its header, one segment of everything, and section headers.
    pub(super) fn build(mut self) -> Vec<u8> {
        let eh_frame = (".eh_frame", self.next_entry_of_nothing(), self.eh_frame);
        self.sections.push(eh_frame);
        let mut file = vec![0; 0x1000];
        file.extend_from_slice(&self.code);
        file.extend_from_slice(&self.sections.last().unwrap().2);
        let mut names = vec![0];
        let mut headers = vec![[0u8; 64]];
        for (name, address, bytes) in &self.sections {
            let kind = 1;
            headers.push(section(names.len(), kind, *address, bytes.len() as u64));
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        let kind = 3;
        headers.push(section(
            0,
            kind,
            BASE + file.len() as u64,
            names.len() as u64,
        ));
        file.extend_from_slice(&names);
        let at = file.len() as u64;
        file.extend(headers.iter().flatten());
        let machine: u16 = match self.machine {
            Machine::X86_64 => 62,
            Machine::Aarch64 => 183,
        };
        put(&mut file, 0, b"\x7fELF\x02\x01");
        put(&mut file, 18, &machine.to_le_bytes());
        put(&mut file, 32, &64u64.to_le_bytes());
        put(&mut file, 40, &at.to_le_bytes());
        put(&mut file, 56, &1u16.to_le_bytes());
        put(&mut file, 58, &64u16.to_le_bytes());
        put(&mut file, 60, &(headers.len() as u16).to_le_bytes());
        put(&mut file, 62, &(headers.len() as u16 - 1).to_le_bytes());
        // PT_LOAD, readable and executable.
        put(&mut file, 64, &[1, 0, 0, 0, 5]);
        put(&mut file, 80, &BASE.to_le_bytes());
        let size = file.len() as u64;
        put(&mut file, 96, &size.to_le_bytes());
        file
    }

    fn next_entry_of_nothing(&self) -> u64 {
        CODE + self.code.len() as u64
    }
}

fn section(name: usize, kind: u32, address: u64, size: u64) -> [u8; 64] {
    let mut header = [0; 64];
    header[..4].copy_from_slice(&(name as u32).to_le_bytes());
    header[4..8].copy_from_slice(&kind.to_le_bytes());
    header[16..24].copy_from_slice(&address.to_le_bytes());
    header[24..32].copy_from_slice(&(address - BASE).to_le_bytes());
    header[32..40].copy_from_slice(&size.to_le_bytes());
    header
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}
