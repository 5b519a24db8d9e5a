//! Lines and inlined functions from DWARF 2 to 5, through gimli.
//!
//! Addresses are looked up many at a time, in one pass that keeps nothing but
//! what it found: memory goes with the addresses asked for, not with the size
//! of the file. What was read may be hostile. A pass therefore stops when its
//! time is over, follows nothing recursively, and refuses tables that gimli
//! would unfold into many times their size.

mod functions;
mod lines;
mod units;

use std::{borrow::Cow, ops::Range, sync::Arc};

use gimli::{DwarfSections, EndianSlice, NativeEndian, SectionId};

use super::sections::{Binary, Bytes};
use crate::{symbolize::Name, unwind::elf::ContentsError};

use self::units::Units;

type Slice<'a> = EndianSlice<'a, NativeEndian>;
type Unit<'a> = gimli::Unit<Slice<'a>>;

/// Most levels of inlined functions that are kept for one address.
const MAX_LEVELS: usize = 64;

/// Most bytes of names that a pass returns; more than a session keeps is of no
/// use.
const MAX_FOUND: usize = 32 << 20;

/// The sections that lines and functions are made of. Those of variables,
/// macros and indexes can take as much again and are left out.
const NEEDED: [SectionId; 9] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
];

/// The DWARF of one file, and of the file it shares with others if it does.
pub struct Debug {
    sections: DwarfSections<Bytes>,
    shared: Option<DwarfSections<Bytes>>,
}

/// What a pass found.
#[derive(Debug, Default)]
pub struct Pass {
    /// By address, in the order given: innermost inlined function first, the
    /// function that was compiled last; empty where nothing is known. Where
    /// only the line is known there is one without a function's name.
    pub names: Vec<Vec<Name>>,
    /// All units were read, in time, and nothing found was left out.
    pub is_whole: bool,
    /// Units that could not be read: damaged, or of a size no compiler makes.
    pub damaged: usize,
    /// Units that hold any of the addresses and say that their functions are in
    /// files of their own (`.dwo`), which are not read: there are lines only.
    pub split: usize,
}

/// Whether a file has DWARF, and the bytes it takes in the file. `.debug_line`
/// alone is of use too (`-gline-tables-only` has both).
pub fn bytes_of(file: &Binary) -> u64 {
    if !file.has(SectionId::DebugInfo.name()) {
        return 0;
    }
    let sizes = NEEDED.iter().map(|id| file.size_of(id.name()));
    sizes.fold(0, u64::saturating_add)
}

impl Debug {
    /// Reads the sections of a file, and of the one it shares with others
    /// (`.gnu_debugaltlink`); at most `limit` bytes, counted after unpacking.
    ///
    /// # Errors
    /// Fails where there are more, and where the file cannot be read.
    pub fn read(file: &Binary, shared: Option<&Binary>, limit: u64) -> Result<Self, ContentsError> {
        let mut left = limit;
        let sections = load(file, &mut left)?;
        let shared = shared.map(|file| load(file, &mut left)).transpose()?;
        Ok(Self { sections, shared })
    }

    /// Looks up addresses, which are sorted and distinct, as they stand in the
    /// ELF file. `code` are the addresses of its code: what a linker left out is
    /// described at addresses outside of it. `stop` is asked often.
    pub fn names(&self, addresses: &[u64], code: &[Range<u64>], stop: &dyn Fn() -> bool) -> Pass {
        let shared = self.shared.as_ref();
        let dwarf = self
            .sections
            .borrow_with_sup(shared, |bytes| EndianSlice::new(bytes, NativeEndian));
        let mut targets = Targets::new(addresses, code, stop);
        let mut pass = Pass::default();
        let mut units = Units::new(&dwarf);
        pass.is_whole = look_up(&mut units, &mut targets, &mut pass.split).is_ok();
        pass.damaged = units.damaged;
        let mut room = MAX_FOUND;
        pass.names = targets.into_names(&mut room);
        pass.is_whole &= room > 0;
        pass
    }
}

fn load(file: &Binary, left: &mut u64) -> Result<DwarfSections<Bytes>, ContentsError> {
    DwarfSections::load(|id| {
        if !NEEDED.contains(&id) {
            return Ok(Bytes::default());
        }
        let bytes = file.read(id.name(), *left)?;
        *left = left.saturating_sub(bytes.len() as u64);
        Ok(bytes)
    })
}

/// Goes through all units until every address is found.
fn look_up<'a>(
    units: &mut Units<'a>,
    targets: &mut Targets<'_>,
    split: &mut usize,
) -> Result<(), Stopped> {
    for index in 0..units.len() {
        targets.tick()?;
        if targets.all_found() {
            break;
        }
        let Some(unit) = units.open(index) else {
            continue;
        };
        let wanted = units.wanted(&unit, targets)?;
        if wanted.is_empty() {
            continue;
        }
        *split += usize::from(matches!(unit.dwo_name(), Ok(Some(_))));
        functions::find(units, &unit, targets)?;
        lines::find(&unit, units.dwarf(), &wanted, targets)?;
    }
    Ok(())
}

/// The time is over.
#[derive(Debug)]
struct Stopped;

/// The source location of a call or of an instruction.
#[derive(Clone, Debug, Default)]
struct Location {
    file: Option<Arc<str>>,
    line: u32,
}

/// One function that holds an address.
#[derive(Clone, Debug)]
struct Level {
    name: Option<Arc<str>>,
    /// Where it was called, if it was inlined.
    call: Location,
}

/// What is known of one address.
#[derive(Clone, Debug, Default)]
struct Found {
    /// Outermost first.
    levels: Vec<Level>,
    /// Which function's levels these are: its place in the section.
    holder: Option<usize>,
    location: Location,
    /// A unit says that the address is its own.
    is_done: bool,
}

/// The addresses asked for.
struct Targets<'a> {
    addresses: &'a [u64],
    code: &'a [Range<u64>],
    found: Vec<Found>,
    open: usize,
    ticks: u32,
    stop: &'a dyn Fn() -> bool,
}

impl<'a> Targets<'a> {
    fn new(addresses: &'a [u64], code: &'a [Range<u64>], stop: &'a dyn Fn() -> bool) -> Self {
        Self {
            addresses,
            code,
            found: vec![Found::default(); addresses.len()],
            open: addresses.len(),
            ticks: 0,
            stop,
        }
    }

    /// To be called for every piece of work whose amount the file determines.
    fn tick(&mut self) -> Result<(), Stopped> {
        /// About 10 microseconds of work.
        const TICKS: u32 = 64;
        let is_time = self.ticks.is_multiple_of(TICKS);
        self.ticks = self.ticks.wrapping_add(1);
        match is_time && (self.stop)() {
            true => Err(Stopped),
            false => Ok(()),
        }
    }

    /// A text up to `limit` bytes of it. How long one is the file determines too,
    /// and all of it was searched for its end.
    fn text<'s>(&mut self, text: Slice<'s>, limit: usize) -> Result<Cow<'s, str>, Stopped> {
        /// About 10 microseconds of searching.
        const LONG: usize = 64 << 10;
        self.tick()?;
        if text.len() >= LONG && (self.stop)() {
            return Err(Stopped);
        }
        let text = text.slice();
        Ok(String::from_utf8_lossy(&text[..text.len().min(limit)]))
    }

    /// Which of the addresses lie in a range that starts in code.
    fn within(&self, begin: u64, end: u64) -> Range<usize> {
        if end <= begin || !self.code.iter().any(|code| code.contains(&begin)) {
            return 0..0;
        }
        let first = self.addresses.partition_point(|address| *address < begin);
        let rest = &self.addresses[first..];
        first..first + rest.partition_point(|address| *address < end)
    }

    fn mark_done(&mut self, index: usize) {
        let found = &mut self.found[index];
        self.open -= usize::from(!found.is_done);
        found.is_done = true;
    }

    fn all_found(&self) -> bool {
        self.open == 0
    }

    /// Nothing where there is no room left, which is then 0.
    fn into_names(self, room: &mut usize) -> Vec<Vec<Name>> {
        let names = |found: Found| {
            *room = room.saturating_sub(found.bytes());
            match *room {
                0 => Vec::new(),
                _ => found.into_names(),
            }
        };
        self.found.into_iter().map(names).collect()
    }
}

impl Found {
    /// What its names take.
    fn bytes(&self) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_deref().map_or(0, str::len);
        let level = |level: &Level| size_of::<Name>() + text(&level.name) + text(&level.call.file);
        let levels: usize = self.levels.iter().map(level).sum();
        levels + size_of::<Name>() + text(&self.location.file)
    }

    fn into_names(self) -> Vec<Name> {
        let mut location = self.location;
        let mut names = Vec::with_capacity(self.levels.len().max(1));
        for level in self.levels.into_iter().rev() {
            let at = std::mem::replace(&mut location, level.call);
            names.push(Name {
                function: level.name.as_deref().unwrap_or_default().to_owned(),
                file: at.file.as_deref().unwrap_or_default().to_owned(),
                line: at.line,
            });
        }
        if names.is_empty() && location.file.is_some() {
            names.push(Name {
                function: String::new(),
                file: location.file.as_deref().unwrap_or_default().to_owned(),
                line: location.line,
            });
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_long_ones_end_a_pass_that_is_over() {
        let long = vec![b'x'; 1 << 20];
        let text = |len: usize| EndianSlice::new(&long[..len], NativeEndian);
        let mut targets = Targets::new(&[], &[], &|| false);
        assert_eq!(targets.text(text(1 << 20), 100).unwrap().len(), 100);
        let mut targets = Targets::new(&[], &[], &|| true);
        // The first tick asks.
        assert!(targets.text(text(3), 100).is_err());
        assert_eq!(targets.text(text(3), 100).unwrap(), "xxx");
        assert!(targets.text(text(1 << 20), 100).is_err());
    }
}
