//! What is known of one file: where its unwind information is, and the rows
//! that were asked for last.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use gimli::{BaseAddresses, DebugFrame, EhFrame, EndianSlice, LittleEndian, Vendor};

use super::{
    builds::Builds,
    cfi::{self, Found, Index, Work},
    code,
    pages::{PageReader, Pages, Source},
    search::SearchTable,
    step::Step,
};
use crate::unwind::{
    elf::{ElfImage, Machine, Place, ReadAt, Section},
    table::{self, BuildLimits, Table},
};

/// Most bytes of a `.debug_frame`, decompressed. That of a Go program of 50 MB
/// takes 2 MB.
const MAX_DEBUG_FRAME: u64 = 4 << 20;

/// What building the rows of a Go program may take: ten times what one of 50 MB does.
const GO_LIMITS: BuildLimits = BuildLimits {
    bytes: 4 << 20,
    time: Duration::from_secs(1),
};

/// Memory of an entry of the map beside its step.
const ROW_BYTES: usize = 64;

/// A file that is or was read.
#[derive(Default)]
pub(super) struct FileRules {
    layout: Option<Layout>,
    pages: RefCell<Pages>,
    /// By first address.
    rows: BTreeMap<u64, Row>,
    row_bytes: usize,
    /// When something of it was last used.
    pub used: u64,
}

/// Addresses from its key to `end` have this step.
struct Row {
    end: u64,
    used: u64,
    step: Step,
}

/// Where things are in the file.
struct Layout {
    image: ElfImage,
    eh_frame: Option<(Place, Search)>,
    second: Second,
}

/// How the entry for an address is found in `.eh_frame`.
enum Search {
    Table(SearchTable),
    /// There is no table that can be trusted, and no index yet.
    NoTable,
    Index(Index),
}

/// Where addresses are looked up that `.eh_frame` has nothing for.
enum Second {
    NotAsked,
    Nothing,
    DebugFrame {
        bytes: Vec<u8>,
        index: Index,
    },
    /// Go has its own tables, which are more reliable than its `.debug_frame`.
    Go(Table),
}

impl FileRules {
    /// Reads where things are. A file that is not ELF has no rules.
    pub(super) fn read(file: &dyn ReadAt, machine: Machine) -> Self {
        let mut this = Self::default();
        let image = ElfImage::read(file).ok();
        if let Some(image) = image.filter(|image| image.machine == machine) {
            let source = Source {
                file,
                pages: &this.pages,
            };
            this.layout = Some(Layout::read(image, source));
        }
        this
    }

    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        let layout = self.layout.as_ref().map_or(0, Layout::bytes);
        size_of::<Self>() + self.pages.borrow().bytes() + self.row_bytes + layout
    }

    /// When each row was last used.
    pub(super) fn uses(&self) -> impl Iterator<Item = u64> {
        self.rows.values().map(|row| row.used)
    }

    /// Forgets the rows that were not used since.
    pub(super) fn forget_before(&mut self, since: u64) {
        self.rows.retain(|_, row| row.used >= since);
        let kept = self.rows.values();
        self.row_bytes = kept.map(|row| ROW_BYTES + row.step.bytes()).sum();
    }

    /// Whether something was built of all of it.
    pub(super) fn has_built(&self) -> bool {
        self.layout.as_ref().is_some_and(Layout::has_built)
    }

    /// The address that the file gives to what a mapping of `offset` begins with.
    pub(super) fn address_of(&self, offset: u64) -> Option<u64> {
        self.layout.as_ref()?.image.address_of(offset)
    }

    /// How to leave a frame at `pc`, an address of the file. Unless `exact`, it
    /// is a return address: the call before it counts.
    pub(super) fn step(
        &mut self,
        file: &dyn ReadAt,
        pc: u64,
        exact: bool,
        now: u64,
        work: &mut Work,
        builds: &mut Builds,
    ) -> &Step {
        let address = pc.wrapping_sub(u64::from(!exact));
        let start = match self.known(address) {
            Some(start) => start,
            None => self.find(file, address, work, builds),
        };
        if work.is_exhausted {
            return &Step::Unsupported;
        }
        if builds.is_refused {
            return &Step::Unknown;
        }
        let Some(row) = self.rows.get_mut(&start) else {
            return &Step::Unknown;
        };
        row.used = now;
        // A handler returns to the trampoline's first byte, and what is before
        // that may be another function.
        if row.end == pc && !matches!(row.step, Step::SignalReturn) && self.returns(file, pc) {
            return &Step::SignalReturn;
        }
        self.rows
            .get(&start)
            .map_or(&Step::Unknown, |row| &row.step)
    }

    /// Start of the row that holds for an address.
    fn known(&self, address: u64) -> Option<u64> {
        let (start, row) = self.rows.range(..=address).next_back()?;
        (address < row.end).then_some(*start)
    }

    fn returns(&self, file: &dyn ReadAt, pc: u64) -> bool {
        let layout = self.layout.as_ref();
        layout.is_some_and(|layout| code::returns_from_signal(&layout.image, file, pc))
    }

    fn find(
        &mut self,
        file: &dyn ReadAt,
        address: u64,
        work: &mut Work,
        builds: &mut Builds,
    ) -> u64 {
        let source = Source {
            file,
            pages: &self.pages,
        };
        let found = self
            .layout
            .as_mut()
            .and_then(|layout| layout.find(source, address, work, builds));
        let Found { start, end, step } = found.unwrap_or_else(|| Found {
            start: address,
            end: address.saturating_add(1),
            step: Step::Unknown,
        });
        if work.is_exhausted || builds.is_refused {
            // Another stack may have enough left for it, or come later.
            return start;
        }
        let bytes = |step: &Step| ROW_BYTES + step.bytes();
        self.row_bytes += bytes(&step);
        let row = Row { end, used: 0, step };
        if let Some(replaced) = self.rows.insert(start, row) {
            self.row_bytes = self.row_bytes.saturating_sub(bytes(&replaced.step));
        }
        start
    }
}

impl Layout {
    fn read(mut image: ElfImage, source: Source<'_>) -> Self {
        let eh_frame = image.eh_frame(source.file).map(|place| {
            let table = image
                .eh_frame_hdr()
                .and_then(|header| SearchTable::read(source, header));
            let search = match table {
                Some(table) => Search::Table(table),
                None => Search::NoTable,
            };
            (place, search)
        });
        // Most files have 30 sections, a hostile one 16,384.
        image.sections.retain(|section| {
            code::is_linkage(section) || section.name == ".debug_frame" || is_go(section)
        });
        image.sections.truncate(8);
        image.sections.shrink_to_fit();
        Self {
            image,
            eh_frame,
            second: Second::NotAsked,
        }
    }

    fn has_built(&self) -> bool {
        let is_second = |section: &Section| section.name == ".debug_frame" || is_go(section);
        let is_asked = !matches!(self.second, Second::NotAsked);
        matches!(self.eh_frame, Some((_, Search::Index(_))))
            || is_asked && self.image.sections.iter().any(is_second)
    }

    fn bytes(&self) -> usize {
        let eh_frame = match &self.eh_frame {
            Some((_, Search::Index(index))) => index.bytes(),
            _ => 0,
        };
        let second = match &self.second {
            Second::DebugFrame { bytes, index } => bytes.capacity() + index.bytes(),
            Second::Go(table) => table.bytes(),
            Second::NotAsked | Second::Nothing => 0,
        };
        let segments = size_of_val(&*self.image.segments);
        let sections = size_of_val(&*self.image.sections);
        eh_frame + second + segments + sections
    }

    fn find(
        &mut self,
        source: Source<'_>,
        address: u64,
        work: &mut Work,
        builds: &mut Builds,
    ) -> Option<Found> {
        let found = self.in_eh_frame(source, address, work, builds);
        if found.is_some() || builds.is_refused {
            return found;
        }
        let here = |step| Found {
            start: address,
            end: address.saturating_add(1),
            step,
        };
        if let Some(step) = code::known(&self.image, source.file, address) {
            return Some(here(step));
        }
        if let Second::NotAsked = self.second {
            self.second = builds.build(|| Second::read(&self.image, source.file))?;
        }
        match &self.second {
            Second::DebugFrame { bytes, index } => {
                let section = debug_frame(bytes, self.image.machine);
                let offset = index.find(address)?;
                let machine = self.image.machine;
                let bases = BaseAddresses::default();
                let row = cfi::row(&section, &bases, offset, address, machine, work);
                row.ok()?.1
            }
            Second::Go(table) => table.rule(address).map(|rule| here(Step::Row(rule))),
            Second::NotAsked | Second::Nothing => None,
        }
    }

    fn in_eh_frame(
        &mut self,
        source: Source<'_>,
        address: u64,
        work: &mut Work,
        builds: &mut Builds,
    ) -> Option<Found> {
        let machine = self.image.machine;
        let (place, search) = self.eh_frame.as_mut()?;
        let (section, bases) = eh_frame(source, *place, machine);
        if let Search::Table(table) = search {
            let hit = table.find(source, address)?;
            let offset = hit.entry.checked_sub(place.address);
            let offset = offset.and_then(|offset| usize::try_from(offset).ok());
            let row = offset.map(|at| cfi::row(&section, &bases, at, address, machine, work));
            match row {
                Some(Ok((function, found))) if function == hit.function => return found,
                // The table lies: from now on the entries themselves are asked.
                _ => *search = Search::NoTable,
            }
        }
        if let Search::NoTable = search {
            let image = &self.image;
            *search = Search::Index(builds.build(|| index_of(image, source, *place))?);
        }
        let Search::Index(index) = search else {
            return None;
        };
        let offset = index.find(address)?;
        let row = cfi::row(&section, &bases, offset, address, machine, work);
        row.ok()?.1
    }
}

impl Second {
    fn read(image: &ElfImage, file: &dyn ReadAt) -> Self {
        if image.sections.iter().any(is_go) {
            return table::build(file, &GO_LIMITS).map_or(Self::Nothing, Self::Go);
        }
        let contents = image
            .section(".debug_frame")
            .and_then(|section| image.contents(file, section, MAX_DEBUG_FRAME).ok());
        let Some(bytes) = contents else {
            return Self::Nothing;
        };
        let section = debug_frame(&bytes, image.machine);
        let index = Index::build(&section, &BaseAddresses::default(), lowest_code(image));
        Self::DebugFrame { bytes, index }
    }
}

/// In programs that can be loaded anywhere the name has a prefix.
fn is_go(section: &Section) -> bool {
    section.name.ends_with(".gopclntab")
}

fn index_of(image: &ElfImage, source: Source<'_>, place: Place) -> Index {
    let (section, bases) = eh_frame(source, place, image.machine);
    Index::build(&section, &bases, lowest_code(image))
}

fn lowest_code(image: &ElfImage) -> u64 {
    let starts = image.code().map(|segment| segment.address);
    starts.min().unwrap_or_default()
}

fn eh_frame(
    source: Source<'_>,
    place: Place,
    machine: Machine,
) -> (EhFrame<PageReader<'_>>, BaseAddresses) {
    let mut section = EhFrame::from(source.section(place.offset, place.size));
    if machine == Machine::Aarch64 {
        section.set_vendor(Vendor::AArch64);
    }
    let bases = BaseAddresses::default().set_eh_frame(place.address);
    (section, bases)
}

fn debug_frame(bytes: &[u8], machine: Machine) -> DebugFrame<EndianSlice<'_, LittleEndian>> {
    let mut section = DebugFrame::new(bytes, LittleEndian);
    if machine == Machine::Aarch64 {
        section.set_vendor(Vendor::AArch64);
    }
    section
}
