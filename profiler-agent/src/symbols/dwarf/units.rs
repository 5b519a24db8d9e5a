//! The units of `.debug_info`: which of them an address lies in, and what
//! entries of one say about those of another.

use std::{collections::HashMap, sync::Arc};

use gimli::{
    Abbreviations, AttributeValue, DebugInfoOffset, Dwarf, Reader, Section, UnitHeader, UnitOffset,
    constants,
};

use super::{Slice, Stopped, Targets, Unit};
use crate::symbols::demangle::demangled;

/// Longest table of abbreviations and header of a line table, in bytes. Those
/// of the largest units of Chromium and LLVM stay below a fifth. gimli unfolds
/// them into up to 140 times that much memory.
const MAX_TABLE: usize = 512 << 10;

/// Most units that are looked at in one file; Chromium has 40,000.
const MAX_UNITS: usize = 256 << 10;

/// Units kept open because entries of others refer to them. Past that all are
/// closed.
const MAX_REFERRED: usize = 16;

/// How often a function may say that its name stands elsewhere.
const MAX_REFERENCES: usize = 8;

/// Longest name that is looked at, in bytes: what demangling makes shorter.
const MAX_NAME: usize = 16 << 10;

/// Names kept for entries that are referred to. Past that all are dropped.
const MAX_NAMES: usize = 16_384;

/// Where an entry is: in the shared file or not, and where in `.debug_info`.
type Place = (bool, usize);

type Header<'a> = UnitHeader<Slice<'a>>;

/// All units, closed, and those that others refer to.
pub(super) struct Units<'a> {
    dwarf: &'a Dwarf<Slice<'a>>,
    headers: Vec<Header<'a>>,
    shared: Vec<Header<'a>>,
    referred: HashMap<Place, Option<Arc<Unit<'a>>>>,
    names: HashMap<Place, Option<Arc<str>>>,
    /// That could not be opened.
    pub(super) damaged: usize,
}

impl<'a> Units<'a> {
    pub(super) fn new(dwarf: &'a Dwarf<Slice<'a>>) -> Self {
        let mut damaged = 0;
        let own = headers(dwarf, &mut damaged);
        let shared = dwarf.sup().map(|shared| headers(shared, &mut damaged));
        Self {
            dwarf,
            headers: own,
            shared: shared.unwrap_or_default(),
            referred: HashMap::new(),
            names: HashMap::new(),
            damaged,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.headers.len()
    }

    pub(super) fn dwarf(&self) -> &'a Dwarf<Slice<'a>> {
        self.dwarf
    }

    pub(super) fn open(&mut self, index: usize) -> Option<Unit<'a>> {
        let header = *self.headers.get(index)?;
        let unit = open(self.dwarf, header);
        self.damaged += usize::from(unit.is_none());
        unit
    }

    /// Indices of the addresses that lie in a unit. They are then done.
    pub(super) fn wanted(
        &self,
        unit: &Unit<'a>,
        targets: &mut Targets<'_>,
    ) -> Result<Vec<usize>, Stopped> {
        let mut wanted = Vec::new();
        let Some(root) = root(unit) else {
            return Ok(wanted);
        };
        each_range(
            self.dwarf,
            unit,
            root.attrs(),
            targets,
            |targets, begin, end| {
                for index in targets.within(begin, end) {
                    if !targets.found[index].is_done {
                        targets.mark_done(index);
                        wanted.push(index);
                    }
                }
            },
        )?;
        wanted.sort_unstable();
        Ok(wanted)
    }

    /// The name that an entry gives a function: in its own attributes, or in
    /// those of the entry that it refers to.
    pub(super) fn name(
        &mut self,
        unit: &Unit<'a>,
        attributes: &[gimli::Attribute<Slice<'a>>],
        targets: &mut Targets<'_>,
    ) -> Result<Option<Arc<str>>, Stopped> {
        match own_name(self.dwarf, unit, attributes, targets)? {
            Named::Known(name) => Ok(Some(name)),
            Named::Elsewhere(value) => match self.place(unit, false, value) {
                Some(place) => self.name_at(place, MAX_REFERENCES, targets),
                None => Ok(None),
            },
            Named::Nowhere => Ok(None),
        }
    }

    fn name_at(
        &mut self,
        place: Place,
        references: usize,
        targets: &mut Targets<'_>,
    ) -> Result<Option<Arc<str>>, Stopped> {
        if let Some(name) = self.names.get(&place) {
            return Ok(name.clone());
        }
        let name = self.read_name(place, references, targets).transpose()?;
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        self.names.insert(place, name.clone());
        Ok(name)
    }

    /// Calls itself [`MAX_REFERENCES`] times at most.
    fn read_name(
        &mut self,
        place: Place,
        references: usize,
        targets: &mut Targets<'_>,
    ) -> Option<Result<Arc<str>, Stopped>> {
        let (is_shared, offset) = place;
        let unit = self.unit_around(place)?;
        let dwarf = self.dwarf_of(is_shared)?;
        let offset = DebugInfoOffset(offset).to_unit_offset(&unit.header)?;
        let entry = unit.entry(offset).ok()?;
        match own_name(dwarf, &unit, entry.attrs(), targets) {
            Err(stopped) => Some(Err(stopped)),
            Ok(Named::Known(name)) => Some(Ok(name)),
            Ok(Named::Elsewhere(value)) => {
                let references = references.checked_sub(1)?;
                let place = self.place(&unit, is_shared, value)?;
                self.name_at(place, references, targets).transpose()
            }
            Ok(Named::Nowhere) => None,
        }
    }

    /// Where a reference leads.
    fn place(
        &self,
        unit: &Unit<'a>,
        is_shared: bool,
        value: AttributeValue<Slice<'a>>,
    ) -> Option<Place> {
        match value {
            AttributeValue::UnitRef(UnitOffset(offset)) => {
                let start = unit.header.debug_info_offset()?.0;
                Some((is_shared, start.checked_add(offset)?))
            }
            AttributeValue::DebugInfoRef(offset) => Some((is_shared, offset.0)),
            AttributeValue::DebugInfoRefSup(offset) => Some((true, offset.0)),
            _ => None,
        }
    }

    fn dwarf_of(&self, is_shared: bool) -> Option<&'a Dwarf<Slice<'a>>> {
        match is_shared {
            true => self.dwarf.sup(),
            false => Some(self.dwarf),
        }
    }

    fn unit_around(&mut self, place: Place) -> Option<Arc<Unit<'a>>> {
        let (is_shared, offset) = place;
        let headers = if is_shared {
            &self.shared
        } else {
            &self.headers
        };
        let start = |header: &Header<'_>| header.debug_info_offset().map_or(0, |start| start.0);
        let after = headers.partition_point(|header| start(header) <= offset);
        let header = *headers.get(after.checked_sub(1)?)?;
        let key = (is_shared, start(&header));
        if let Some(unit) = self.referred.get(&key) {
            return unit.clone();
        }
        let unit = open(self.dwarf_of(is_shared)?, header).map(Arc::new);
        if self.referred.len() >= MAX_REFERRED {
            self.referred.clear();
        }
        self.referred.insert(key, unit.clone());
        unit
    }
}

enum Named<'a> {
    Known(Arc<str>),
    Elsewhere(AttributeValue<Slice<'a>>),
    Nowhere,
}

/// The linkage name, which tells overloads and namespaces apart, else that in
/// the source if no other entry may have a linkage name.
fn own_name<'a>(
    dwarf: &Dwarf<Slice<'a>>,
    unit: &Unit<'a>,
    attributes: &[gimli::Attribute<Slice<'a>>],
    targets: &mut Targets<'_>,
) -> Result<Named<'a>, Stopped> {
    let value = |wanted| {
        let attribute = attributes
            .iter()
            .find(|attribute| attribute.name() == wanted);
        attribute.map(|attribute| attribute.value())
    };
    let mut text = |value: Option<AttributeValue<Slice<'a>>>| {
        let Some(Ok(text)) = value.map(|value| dwarf.attr_string(unit, value)) else {
            return Ok(None);
        };
        let text = targets.text(text, MAX_NAME)?;
        Ok(Some(demangled(&text).into()))
    };
    let linkage =
        value(constants::DW_AT_linkage_name).or_else(|| value(constants::DW_AT_MIPS_linkage_name));
    if let Some(name) = text(linkage)? {
        return Ok(Named::Known(name));
    }
    let elsewhere =
        value(constants::DW_AT_abstract_origin).or_else(|| value(constants::DW_AT_specification));
    if let Some(reference) = elsewhere {
        return Ok(Named::Elsewhere(reference));
    }
    let name = text(value(constants::DW_AT_name))?;
    Ok(name.map_or(Named::Nowhere, Named::Known))
}

fn headers<'a>(dwarf: &Dwarf<Slice<'a>>, damaged: &mut usize) -> Vec<Header<'a>> {
    let mut headers = Vec::new();
    let mut units = dwarf.units();
    while headers.len() < MAX_UNITS {
        match units.next() {
            Ok(Some(header)) => headers.push(header),
            Ok(None) => return headers,
            Err(_) => break,
        }
    }
    *damaged += 1;
    headers
}

fn open<'a>(dwarf: &Dwarf<Slice<'a>>, header: Header<'a>) -> Option<Unit<'a>> {
    let mut table = *dwarf.debug_abbrev.reader();
    table.skip(header.debug_abbrev_offset().0).ok()?;
    if !is_sane_table(table).ok()? {
        return None;
    }
    let abbreviations = dwarf.abbreviations(&header).ok()?;
    if let Some(lines) = line_table(&header, &abbreviations) {
        let mut table = *dwarf.debug_line.reader();
        table.skip(lines).ok()?;
        if header_of_lines(table).ok()? > MAX_TABLE {
            return None;
        }
    }
    Unit::new_with_abbreviations(dwarf, header, abbreviations).ok()
}

/// Whether a table of abbreviations ends before it is too long. Each has a
/// code, a tag, a byte that says whether it has children, and pairs of
/// attribute and form up to a pair of zeros (DWARF 5, 7.5.3).
fn is_sane_table(mut table: Slice<'_>) -> gimli::Result<bool> {
    let before = table.len();
    while table.read_uleb128()? != 0 {
        table.read_uleb128()?;
        table.read_u8()?;
        loop {
            let (name, form) = (table.read_uleb128()?, table.read_uleb128()?);
            if form == u64::from(constants::DW_FORM_implicit_const.0) {
                table.read_sleb128()?;
            }
            if before - table.len() > MAX_TABLE {
                return Ok(false);
            }
            if (name, form) == (0, 0) {
                break;
            }
        }
    }
    Ok(true)
}

/// Where the root of a unit says that its lines are.
fn line_table(header: &Header<'_>, abbreviations: &Abbreviations) -> Option<usize> {
    let mut entries = header.entries(abbreviations);
    match entries
        .next_dfs()
        .ok()??
        .attr_value(constants::DW_AT_stmt_list)?
    {
        AttributeValue::DebugLineRef(offset) => Some(offset.0),
        _ => None,
    }
}

/// Size of the header of a line table (DWARF 5, 6.2.4).
fn header_of_lines(mut table: Slice<'_>) -> gimli::Result<usize> {
    let (_, format) = table.read_initial_length()?;
    if table.read_u16()? >= 5 {
        table.skip(2)?;
    }
    table.read_length(format)
}

fn root<'a>(unit: &Unit<'a>) -> Option<gimli::DebuggingInformationEntry<Slice<'a>>> {
    unit.entry(unit.header.root_offset()).ok()
}

/// Calls `each` with every range of addresses that an entry has. gimli's own
/// way to them adds what may overflow.
pub(super) fn each_range<'a, 't>(
    dwarf: &Dwarf<Slice<'a>>,
    unit: &Unit<'a>,
    attributes: &[gimli::Attribute<Slice<'a>>],
    targets: &mut Targets<'t>,
    mut each: impl FnMut(&mut Targets<'t>, u64, u64),
) -> Result<(), Stopped> {
    let (mut begin, mut end, mut size) = (None, None, None);
    for attribute in attributes {
        let value = attribute.value();
        match attribute.name() {
            constants::DW_AT_low_pc => begin = dwarf.attr_address(unit, value).ok().flatten(),
            constants::DW_AT_high_pc => match value {
                AttributeValue::Udata(value) => size = Some(value),
                value => end = dwarf.attr_address(unit, value).ok().flatten(),
            },
            constants::DW_AT_ranges => {
                if let Ok(Some(mut ranges)) = dwarf.attr_ranges(unit, value) {
                    while let Ok(Some(range)) = ranges.next() {
                        targets.tick()?;
                        each(targets, range.begin, range.end);
                    }
                    return Ok(());
                }
            }
            _ => {}
        }
    }
    if let Some(begin) = begin
        && let Some(end) = size.map_or(end, |size| begin.checked_add(size))
    {
        each(targets, begin, end);
    }
    Ok(())
}
