//! One entry of the cache and how it is written: all numbers little-endian.
//!
//! ```text
//! magic      8 bytes, with the version
//! crc32c     u32, of all that follows
//! sources    16 bytes: what the names were made from
//! strings    u32 how many, then each: u32 bytes, UTF-8
//! places     u32 how many, then each: u64 offset in the file, u16 how many names,
//!            then each: u32 function, u32 file (indices of strings), u32 line
//! ```

use std::collections::HashMap;

use crate::symbolize::Name;

const MAGIC: &[u8; 8] = b"PRFNAM01";
const HEADER: usize = MAGIC.len() + size_of::<u32>();

/// Largest entry, in bytes on disk and, of the names, in memory. What does not
/// fit is left out.
pub(super) const MAX_ENTRY: usize = 8 << 20;

/// Names by offset in a file; none for a place that is known to have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    names: HashMap<u64, Vec<Name>>,
    bytes: usize,
}

impl Entry {
    /// The names of a place; `None`: not known.
    pub fn get(&self, offset: u64) -> Option<&[Name]> {
        self.names.get(&offset).map(Vec::as_slice)
    }

    /// Adds a place, or changes one, if there is room.
    pub fn insert(&mut self, offset: u64, names: Vec<Name>) {
        let bytes = bytes_of(&names);
        if self.bytes + bytes <= MAX_ENTRY {
            self.bytes += bytes;
            self.names.insert(offset, names);
        }
    }

    /// Bytes of memory that its names take, at most.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Places it has.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn encode(&self, sources: &[u8; 16]) -> Vec<u8> {
        let mut strings = Strings::default();
        let (mut places, mut count) = (Vec::new(), 0u32);
        let mut offsets: Vec<_> = self.names.keys().copied().collect();
        offsets.sort_unstable();
        for offset in offsets {
            let names = &self.names[&offset];
            let Ok(depth) = u16::try_from(names.len()) else {
                continue;
            };
            places.extend_from_slice(&offset.to_le_bytes());
            places.extend_from_slice(&depth.to_le_bytes());
            for name in names {
                for number in [
                    strings.index(&name.function),
                    strings.index(&name.file),
                    name.line,
                ] {
                    places.extend_from_slice(&number.to_le_bytes());
                }
            }
            count += 1;
        }
        let mut body = sources.to_vec();
        body.extend_from_slice(&(strings.indices.len() as u32).to_le_bytes());
        body.extend_from_slice(&strings.bytes);
        body.extend_from_slice(&count.to_le_bytes());
        body.extend_from_slice(&places);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// What was written, if it is undamaged and made from the same sources.
    pub(super) fn decode(bytes: &[u8], sources: &[u8; 16]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(HEADER)?;
        let checksum = header.strip_prefix(MAGIC)?.first_chunk()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let mut rest = body.strip_prefix(sources)?;
        let strings = read_strings(&mut rest)?;
        let mut entry = Self::default();
        for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
            let offset = u64::from_le_bytes(take(&mut rest)?);
            let depth = u16::from_le_bytes(take(&mut rest)?);
            let (mut place, mut room) = (Vec::new(), MAX_ENTRY - entry.bytes);
            for _ in 0..depth {
                let name = read_name(&mut rest, &strings)?;
                // Few bytes can stand for many.
                room = room.checked_sub(bytes_of(std::slice::from_ref(&name)))?;
                place.push(name);
            }
            entry.insert(offset, place);
        }
        rest.is_empty().then_some(entry)
    }

    /// The same for any bytes, as fuzzing wants it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let sources = bytes.get(HEADER..)?.first_chunk()?;
        Self::decode(bytes, sources)
    }
}

fn bytes_of(names: &[Name]) -> usize {
    /// Of a place in the table.
    const PLACE: usize = 64;
    let text = names
        .iter()
        .map(|name| name.function.len() + name.file.len());
    PLACE + size_of_val(names) + text.sum::<usize>()
}

fn read_strings<'a>(rest: &mut &'a [u8]) -> Option<Vec<&'a str>> {
    let mut strings = Vec::new();
    for _ in 0..u32::from_le_bytes(take(rest)?) {
        let len = u32::from_le_bytes(take(rest)?) as usize;
        let (text, after) = rest.split_at_checked(len)?;
        *rest = after;
        strings.push(str::from_utf8(text).ok()?);
    }
    Some(strings)
}

fn read_name(rest: &mut &[u8], strings: &[&str]) -> Option<Name> {
    let mut number = || Some(u32::from_le_bytes(take(rest)?));
    let (function, file, line) = (number()?, number()?, number()?);
    let text = |index: u32| Some((*strings.get(index as usize)?).to_owned());
    Some(Name {
        function: text(function)?,
        file: text(file)?,
        line,
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

/// Every string once.
#[derive(Default)]
struct Strings<'a> {
    bytes: Vec<u8>,
    indices: HashMap<&'a str, u32>,
}

impl<'a> Strings<'a> {
    fn index(&mut self, text: &'a str) -> u32 {
        let next = self.indices.len() as u32;
        *self.indices.entry(text).or_insert_with(|| {
            self.bytes
                .extend_from_slice(&(text.len() as u32).to_le_bytes());
            self.bytes.extend_from_slice(text.as_bytes());
            next
        })
    }
}
