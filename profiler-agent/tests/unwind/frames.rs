//! Makes call frame information, byte by byte (DWARF 5, 6.4 and 7.24).

/// Instructions of entries.
pub(crate) mod op {
    pub(crate) const SET_LOC: u8 = 0x01;
    pub(crate) const ADVANCE_4: u8 = 0x04;
    pub(crate) const OFFSET_EXTENDED: u8 = 0x05;
    pub(crate) const RESTORE_EXTENDED: u8 = 0x06;
    pub(crate) const UNDEFINED: u8 = 0x07;
    pub(crate) const SAME: u8 = 0x08;
    pub(crate) const REGISTER: u8 = 0x09;
    pub(crate) const REMEMBER: u8 = 0x0a;
    pub(crate) const RESTORE_STATE: u8 = 0x0b;
    pub(crate) const DEF_CFA: u8 = 0x0c;
    pub(crate) const DEF_CFA_REGISTER: u8 = 0x0d;
    pub(crate) const DEF_CFA_OFFSET: u8 = 0x0e;
    pub(crate) const DEF_CFA_EXPRESSION: u8 = 0x0f;
    pub(crate) const EXPRESSION: u8 = 0x10;
    pub(crate) const VAL_OFFSET: u8 = 0x14;
    pub(crate) const VAL_EXPRESSION: u8 = 0x16;
    pub(crate) const NEGATE_RA_STATE: u8 = 0x2d;
}

/// `DW_CFA_advance_loc`.
pub(crate) fn advance(delta: u8) -> u8 {
    0x40 | delta
}

/// `DW_CFA_offset` of a register, in units of the data alignment.
pub(crate) fn offset(register: u8, units: u8) -> [u8; 2] {
    [0x80 | register, units]
}

/// What functions on x86-64 begin with: the frame is what the call pushed.
pub(crate) const X86_64_BEGIN: [u8; 5] = [op::DEF_CFA, 7, 8, 0x90, 1];

/// And on aarch64: the frame is where the stack pointer points.
pub(crate) const AARCH64_BEGIN: [u8; 3] = [op::DEF_CFA, 31, 0];

/// A section under construction.
pub(crate) struct Frames {
    pub(crate) bytes: Vec<u8>,
    is_debug: bool,
    /// Code and data alignment, register of the return address.
    factors: [u8; 3],
    common: usize,
}

impl Frames {
    /// `.eh_frame` with one common entry.
    pub(crate) fn eh(augmentation: &str, factors: [u8; 3], instructions: &[u8]) -> Self {
        let mut frames = Self {
            bytes: Vec::new(),
            is_debug: false,
            factors,
            common: 0,
        };
        frames.common(augmentation, instructions);
        frames
    }

    pub(crate) fn x86_64() -> Self {
        Self::eh("zR", [1, 0x78, 16], &X86_64_BEGIN)
    }

    pub(crate) fn aarch64() -> Self {
        Self::eh("zR", [4, 0x78, 30], &AARCH64_BEGIN)
    }

    /// `.debug_frame` for x86-64.
    pub(crate) fn debug() -> Self {
        let mut frames = Self {
            is_debug: true,
            ..Self::eh("", [1, 0x78, 16], &[])
        };
        frames.bytes.clear();
        frames.common("", &X86_64_BEGIN);
        frames
    }

    /// A common entry; functions after it are of its kind.
    pub(crate) fn common(&mut self, augmentation: &str, instructions: &[u8]) {
        self.common = self.bytes.len();
        let mut body = if self.is_debug {
            vec![0xff; 4]
        } else {
            vec![0; 4]
        };
        body.push(if self.is_debug { 3 } else { 1 });
        body.extend(augmentation.as_bytes());
        body.push(0);
        body.extend(self.factors);
        if augmentation.contains('z') {
            // Pointers of 8 bytes, as they are.
            body.extend([1, 0]);
        }
        body.extend(instructions);
        self.entry(body);
    }

    pub(crate) fn function(mut self, start: u64, size: u64, instructions: &[u8]) -> Self {
        let distance = match self.is_debug {
            true => self.common,
            false => self.bytes.len() + 4 - self.common,
        };
        let mut body = (distance as u32).to_le_bytes().to_vec();
        body.extend(start.to_le_bytes());
        body.extend(size.to_le_bytes());
        if !self.is_debug {
            body.push(0);
        }
        body.extend(instructions);
        self.entry(body);
        self
    }

    fn entry(&mut self, mut body: Vec<u8>) {
        // To a multiple of 4 with DW_CFA_nop.
        body.resize(body.len().next_multiple_of(4), 0);
        self.bytes.extend((body.len() as u32).to_le_bytes());
        self.bytes.extend(body);
    }
}
