//! Reads what the programs need to know of the running kernel from its BTF:
//! where structure members are and how many arguments a tracepoint has.
//! (Format: Documentation/bpf/btf.rst.)

use std::{collections::HashMap, fs, io, path::Path};

/// Where the kernel shows its own BTF (Linux 5.4 with CONFIG_DEBUG_INFO_BTF).
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;

/// Deepest nesting of types that is followed; the kernel's is below 20.
const MAX_DEPTH: u32 = 64;

/// Why something could not be read from BTF.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error(
        "read {KERNEL_BTF}: {0}; this kernel was built without CONFIG_DEBUG_INFO_BTF=y, or /sys is not mounted"
    )]
    Read(#[source] io::Error),
    /// Not what the format says.
    #[error("{KERNEL_BTF} is not BTF as this program knows it: {0}")]
    Format(&'static str),
    /// The kernel has no such member.
    #[error("this kernel's BTF has no {0}")]
    Missing(String),
}

/// A parsed BTF blob: the blob and an index into it.
pub struct KernelBtf {
    data: Vec<u8>,
    strings: usize,
    /// Byte position of each type; type 0 is void.
    types: Vec<usize>,
    by_name: HashMap<(u32, Box<str>), u32>,
}

/// A member of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// From the start of the outermost structure, bytes.
    pub offset: u64,
    /// Of a bit field: bits from there.
    pub bit: u32,
    type_id: u32,
}

struct Type {
    kind: u32,
    vlen: usize,
    kind_flag: bool,
    size_or_type: u32,
    /// Position of what follows the common part.
    body: usize,
}

impl KernelBtf {
    /// Reads and indexes the running kernel's BTF. About 20 ms.
    pub fn read() -> Result<Self, BtfError> {
        Self::parse(fs::read(Path::new(KERNEL_BTF)).map_err(BtfError::Read)?)
    }

    fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let mut btf = Self {
            data,
            strings: 0,
            types: vec![0],
            by_name: HashMap::new(),
        };
        let cut = BtfError::Format("its header is cut");
        let magic = btf.data.get(..2).ok_or(cut)?;
        if u16::from_le_bytes([magic[0], magic[1]]) != MAGIC {
            return Err(BtfError::Format("wrong magic"));
        }
        let header = btf.word(4)? as usize;
        let types = header + btf.word(8)? as usize;
        let end = types + btf.word(12)? as usize;
        btf.strings = header + btf.word(16)? as usize;
        let mut position = types;
        while position < end {
            position = btf.index_type(position)?;
        }
        Ok(btf)
    }

    /// Enters the type at `position` into the index; returns where the next begins.
    fn index_type(&mut self, position: usize) -> Result<usize, BtfError> {
        let id = self.types.len() as u32;
        self.types.push(position);
        let this = self.type_at(position)?;
        if matches!(
            this.kind,
            KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_TYPEDEF | KIND_FUNC
        ) {
            let name = self.string(self.word(position)?)?;
            if !name.is_empty() {
                let key = (this.kind, name.into());
                self.by_name.entry(key).or_insert(id);
            }
        }
        let extra = match this.kind {
            // INT, VAR, DECL_TAG
            1 | 14 | 17 => 4,
            KIND_ARRAY => 12,
            // STRUCT, UNION, DATASEC, ENUM64
            KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * this.vlen,
            // ENUM, FUNC_PROTO
            KIND_ENUM | 13 => 8 * this.vlen,
            // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
            2 | 7..=12 | 16 | 18 => 0,
            _ => return Err(BtfError::Format("a kind of type newer than this program")),
        };
        Ok(this.body + extra)
    }

    fn word(&self, position: usize) -> Result<u32, BtfError> {
        let bytes = self
            .data
            .get(position..position + 4)
            .ok_or(BtfError::Format("it is cut"))?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&self, offset: u32) -> Result<&str, BtfError> {
        let bytes = self
            .data
            .get(self.strings + offset as usize..)
            .ok_or(BtfError::Format("a name lies outside of it"))?;
        let end = bytes
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(BtfError::Format("a name does not end"))?;
        std::str::from_utf8(&bytes[..end]).map_err(|_| BtfError::Format("a name is not UTF-8"))
    }

    fn type_at(&self, position: usize) -> Result<Type, BtfError> {
        let info = self.word(position + 4)?;
        Ok(Type {
            kind: info >> 24 & 0x1f,
            vlen: info as usize & 0xffff,
            kind_flag: info >> 31 == 1,
            size_or_type: self.word(position + 8)?,
            body: position + 12,
        })
    }

    fn type_by_id(&self, id: u32) -> Result<Type, BtfError> {
        let position = self
            .types
            .get(id as usize)
            .filter(|_| id != 0)
            .ok_or(BtfError::Format("it refers to a type it does not have"))?;
        self.type_at(*position)
    }

    /// The type behind typedefs and qualifiers.
    fn stripped(&self, mut id: u32) -> Result<Type, BtfError> {
        for _ in 0..MAX_DEPTH {
            let this = self.type_by_id(id)?;
            match this.kind {
                // TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG
                8..=11 | 18 => id = this.size_or_type,
                _ => return Ok(this),
            }
        }
        Err(BtfError::Format("a type contains itself"))
    }

    fn find_member(
        &self,
        type_id: u32,
        name: &str,
        depth: u32,
    ) -> Result<Option<Member>, BtfError> {
        let this = self.stripped(type_id)?;
        if depth == 0 || !matches!(this.kind, KIND_STRUCT | KIND_UNION) {
            return Ok(None);
        }
        for i in 0..this.vlen {
            let at = this.body + 12 * i;
            let member_name = self.string(self.word(at)?)?;
            let member_type = self.word(at + 4)?;
            let bits = self.word(at + 8)?;
            let bits = if this.kind_flag {
                bits & 0xff_ffff
            } else {
                bits
            };
            let offset = u64::from(bits / 8);
            if member_name == name {
                return Ok(Some(Member {
                    offset,
                    bit: bits % 8,
                    type_id: member_type,
                }));
            }
            if member_name.is_empty()
                && let Some(inner) = self.find_member(member_type, name, depth - 1)?
            {
                return Ok(Some(Member {
                    offset: offset + inner.offset,
                    ..inner
                }));
            }
        }
        Ok(None)
    }

    /// Finds `structure.path`; the path may go through embedded structures
    /// ("sched_info.run_delay") and looks into anonymous ones by itself.
    pub fn member(&self, structure: &str, path: &str) -> Result<Member, BtfError> {
        let missing = || BtfError::Missing(format!("{structure}.{path}"));
        let mut type_id = self.id(KIND_STRUCT, structure).ok_or_else(missing)?;
        let (mut offset, mut bit) = (0, 0);
        for name in path.split('.') {
            let member = self
                .find_member(type_id, name, MAX_DEPTH)?
                .ok_or_else(missing)?;
            offset += member.offset;
            bit = member.bit;
            type_id = member.type_id;
        }
        Ok(Member {
            offset,
            bit,
            type_id,
        })
    }

    /// Offset of `structure.path` in bytes.
    pub fn offset(&self, structure: &str, path: &str) -> Result<u64, BtfError> {
        Ok(self.member(structure, path)?.offset)
    }

    fn id(&self, kind: u32, name: &str) -> Option<u32> {
        self.by_name.get(&(kind, name.into())).copied()
    }

    /// Whether the kernel has this function in its BTF.
    pub fn has_function(&self, name: &str) -> bool {
        self.id(KIND_FUNC, name).is_some()
    }

    /// Number of arguments of a tracepoint, `None` where the kernel has no
    /// such tracepoint.
    pub fn tracepoint_arguments(&self, name: &str) -> Result<Option<usize>, BtfError> {
        let Some(typedef) = self.id(KIND_TYPEDEF, &format!("btf_trace_{name}")) else {
            return Ok(None);
        };
        let pointer = self.stripped(typedef)?;
        if pointer.kind != KIND_PTR {
            return Err(BtfError::Format(
                "a tracepoint that is not a function pointer",
            ));
        }
        let prototype = self.stripped(pointer.size_or_type)?;
        // The first parameter is the registered data, not an argument.
        Ok(Some(prototype.vlen.saturating_sub(1)))
    }

    /// Value of an enumerator of a named enum.
    pub fn enumerator(&self, name: &str, enumerator: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::Missing(format!("enum {name} {enumerator}"));
        let this = self.type_by_id(self.id(KIND_ENUM, name).ok_or_else(missing)?)?;
        for i in 0..this.vlen {
            let at = this.body + 8 * i;
            if self.string(self.word(at)?)? == enumerator {
                return self.word(at + 4);
            }
        }
        Err(missing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header, `struct inner { u32 at 4 }` anonymous in `struct outer` at 8.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0field\0int\0";
        let mut types = Vec::new();
        let mut push = |words: &[u32]| {
            for word in words {
                types.extend_from_slice(&word.to_le_bytes());
            }
        };
        push(&[13, 1 << 24, 4, 32]); // 1: int
        push(&[0, KIND_STRUCT << 24 | 1, 8, 7, 1, 32]); // 2: struct { field @ bit 32 }
        push(&[1, KIND_STRUCT << 24 | 1, 16, 0, 2, 64]); // 3: struct outer { <2> @ bit 64 }
        let mut blob = Vec::new();
        blob.extend_from_slice(&MAGIC.to_le_bytes());
        blob.extend_from_slice(&[1, 0]);
        for word in [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            blob.extend_from_slice(&word.to_le_bytes());
        }
        blob.extend_from_slice(&types);
        blob.extend_from_slice(strings);
        blob
    }

    #[test]
    fn finds_members_of_anonymous_structures() {
        let btf = KernelBtf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", "field").unwrap(), 12);
        assert!(matches!(
            btf.offset("outer", "none"),
            Err(BtfError::Missing(_))
        ));
    }

    #[test]
    fn refuses_every_cut() {
        let blob = sample();
        for len in 0..blob.len() - 1 {
            let cut = KernelBtf::parse(blob[..len].to_vec());
            let failed = cut.is_err() || cut.is_ok_and(|btf| btf.offset("outer", "field").is_err());
            // The last string is the name of a type nobody asks for.
            assert!(failed || len > blob.len() - 6, "cut at {len}");
        }
    }
}
