//! Symbols of a few names, found without reading a whole symbol table into
//! memory: first the string table is searched for the name, then the symbols
//! for those that point at what was found.

use super::{ElfImage, ReadAt, Section, u16_at, u32_at, u64_at};

/// Bytes read at a time.
const WINDOW: usize = 256 << 10;

/// Bytes of a symbol: `Elf64_Sym`.
const SYMBOL: usize = 24;

/// Most places of a string table that are looked for in symbols, and most
/// symbols that are found.
const MAX_FOUND: usize = 64;

/// Symbol tables that are looked through: a file has `.symtab` and `.dynsym`.
const MAX_TABLES: usize = 2;

/// Most bytes of a table that are looked through: ten times what the largest
/// interpreters and Go programs have. A hostile file need not even store them.
const MAX_TABLE: u64 = 128 << 20;

/// Longest name of a symbol that is kept.
const MAX_NAME: usize = 256;

/// A symbol with an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Before relocation.
    pub address: u64,
    /// In bytes; 0 where it is not known.
    pub size: u64,
}

impl ElfImage {
    /// Symbols of `.symtab` and `.dynsym` whose names begin with `prefix`; at
    /// most 64 of each table. What cannot be read has none.
    pub fn symbols_with_prefix(&self, file: &dyn ReadAt, prefix: &str) -> Vec<Symbol> {
        const SHT_SYMTAB: u32 = 2;
        const SHT_DYNSYM: u32 = 11;
        let mut found = Vec::new();
        let tables = self.sections.iter();
        let tables = tables.filter(|section| matches!(section.kind, SHT_SYMTAB | SHT_DYNSYM));
        for table in tables.take(MAX_TABLES) {
            if let Some(names) = self.sections.get(table.link as usize) {
                let names = find_names(file, names, prefix);
                find_symbols(file, table, &names, &mut found);
            }
        }
        found.sort_by(|a, b| (a.address, &a.name).cmp(&(b.address, &b.name)));
        found.dedup_by(|a, b| a.address == b.address && a.name == b.name);
        found
    }
}

/// Places in a string table where a name with this prefix begins.
fn find_names(file: &dyn ReadAt, table: &Section, prefix: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let mut before: u8 = 0;
    let finder = memchr::memmem::Finder::new(prefix);
    for_windows(file, table, MAX_NAME, |at, bytes, next| {
        for place in finder.find_iter(&bytes[..next.saturating_add(prefix.len()).min(bytes.len())])
        {
            let previous = match place {
                0 => before,
                _ => bytes[place - 1],
            };
            if previous == 0 && place < next && found.len() < MAX_FOUND {
                let name = &bytes[place..bytes.len().min(place + MAX_NAME)];
                let end = name.iter().position(|byte| *byte == 0);
                let name = String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]);
                found.push(((at + place as u64) as u32, name.into_owned()));
            }
        }
        before = bytes[next - 1];
    });
    found
}

/// Symbols with one of these names that have an address.
fn find_symbols(
    file: &dyn ReadAt,
    table: &Section,
    names: &[(u32, String)],
    found: &mut Vec<Symbol>,
) {
    const SHN_UNDEF: u16 = 0;
    if names.is_empty() {
        return;
    }
    let most = found.len() + MAX_FOUND;
    for_windows(file, table, 0, |_, bytes, _| {
        for symbol in bytes.chunks_exact(SYMBOL) {
            let place = u32_at(symbol, 0);
            let Ok(name) = names.binary_search_by_key(&place, |(place, _)| *place) else {
                continue;
            };
            if u16_at(symbol, 6) != SHN_UNDEF && found.len() < most {
                found.push(Symbol {
                    name: names[name].1.clone(),
                    address: u64_at(symbol, 8),
                    size: u64_at(symbol, 16),
                });
            }
        }
    });
}

/// Calls `see(at, bytes, next)` for each window of a section: `at` is where it
/// begins in the section, the next one begins `next` bytes on, and `bytes`
/// holds up to `overlap` more. Ends where it cannot be read.
fn for_windows(
    file: &dyn ReadAt,
    section: &Section,
    overlap: usize,
    mut see: impl FnMut(u64, &[u8], usize),
) {
    let step = WINDOW - WINDOW % SYMBOL;
    let size = section.size.min(MAX_TABLE);
    let mut buffer = vec![0; step + overlap];
    let mut at = 0;
    while at < size {
        let left = size - at;
        let bytes = &mut buffer[..left.min((step + overlap) as u64) as usize];
        let from = section.offset.saturating_add(at);
        if file.read_exact_at(bytes, from).is_err() {
            return;
        }
        see(at, bytes, left.min(step as u64) as usize);
        at += step as u64;
    }
}
