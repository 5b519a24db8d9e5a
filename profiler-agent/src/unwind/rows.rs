//! Rows of a file's code while they are collected: by pages, so that functions
//! may come in any order and nothing has to be sorted or held twice.
//!
//! Where functions overlap, the one that came first keeps its addresses, and
//! later ones get only what is left: a file that says two things of one address
//! says them always in the same order, and sources come best first.

use std::{collections::HashMap, ops::Range};

use profiler_abi::unwind::{
    GRANULE_BITS, GRANULES, MAX_PAGE_ROWS, MAX_PAGES, NO_RULE, PAGE_BITS, PageHead, Row, Rule,
};
use zerocopy::IntoBytes;

/// Addresses of a page.
const PAGE: u64 = 1 << PAGE_BITS;

/// Most pieces of functions that are looked at: each page that a function
/// touches is one. 30 times what the largest browsers have.
const MAX_PIECES: u64 = 1 << 26;

/// Index of the rule that says that a frame cannot be followed: always there.
pub(super) const UNSUPPORTED: u16 = 0;

/// There is more than the limits allow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Different rules, each once.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    indices: HashMap<Rule, u16>,
    /// The one that was asked for last, because neighbours are often alike.
    last: (Rule, u16),
}

impl Rules {
    pub(super) fn new() -> Self {
        let unsupported = Rule::default();
        Self {
            rules: vec![unsupported],
            indices: HashMap::from([(unsupported, UNSUPPORTED)]),
            last: (unsupported, UNSUPPORTED),
        }
    }

    /// The index of a rule; none where there are more than an index can name.
    pub(super) fn index(&mut self, rule: Rule) -> Option<u16> {
        if self.last.0 != rule {
            let index = match self.indices.get(&rule) {
                Some(index) => *index,
                None => self.insert(rule)?,
            };
            self.last = (rule, index);
        }
        Some(self.last.1)
    }

    fn insert(&mut self, rule: Rule) -> Option<u16> {
        let index = u16::try_from(self.rules.len()).ok()?;
        if index == NO_RULE {
            return None;
        }
        self.rules.push(rule);
        self.indices.insert(rule, index);
        Some(index)
    }

    /// The rule with an index.
    pub(super) fn get(&self, index: u16) -> Rule {
        let rule = self.rules.get(usize::from(index));
        rule.copied().unwrap_or_default()
    }

    pub(super) fn into_vec(self) -> Vec<Rule> {
        self.rules
    }
}

/// From an address on, up to the next row of its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CodeRow {
    pub(super) address: u64,
    pub(super) rule: u16,
}

/// Rows of one page, in order and without overlap.
#[derive(Debug, Default)]
struct Page {
    rows: Vec<Row>,
    /// One past the last address with a row.
    end: u32,
    /// One past the last address that anything has claimed.
    claimed: u32,
}

/// A piece of a function that does not lie behind all others of its page.
#[derive(Debug)]
struct Stray {
    page: u32,
    /// When it came.
    order: u32,
    end: u32,
    /// Of `stray_rows`.
    rows: Range<u32>,
}

/// What [`Rows::pack`] makes.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) pages: Vec<Option<Vec<u8>>>,
    pub(super) rows: u64,
    /// Pages with more rows than fit.
    pub(super) crowded: u64,
}

/// Rows by pages.
#[derive(Debug)]
pub(super) struct Rows {
    base: u64,
    pages: Vec<Page>,
    strays: Vec<Stray>,
    stray_rows: Vec<Row>,
    /// The page that was written to last.
    last: usize,
    bytes: usize,
    max_bytes: usize,
    pieces: u64,
}

impl Rows {
    /// Rows for code in `addresses`, of at most `max_bytes`.
    pub(super) fn new(addresses: Range<u64>, max_bytes: usize) -> Result<Self, Full> {
        let base = addresses.start & !(PAGE - 1);
        let pages = addresses.end.saturating_sub(base).div_ceil(PAGE);
        if pages > MAX_PAGES.into() {
            return Err(Full);
        }
        Ok(Self {
            base,
            pages: (0..pages).map(|_| Page::default()).collect(),
            strays: Vec::new(),
            stray_rows: Vec::new(),
            last: 0,
            bytes: 0,
            max_bytes,
            pieces: 0,
        })
    }

    /// The address of page 0.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Whether both ends of a function have rules already.
    pub(super) fn covers(&self, function: &Range<u64>) -> bool {
        let has_rule = |address: u64| {
            let relative = address.checked_sub(self.base)?;
            let page = self.pages.get(usize::try_from(relative / PAGE).ok()?)?;
            let pc = (relative % PAGE) as u16;
            if u32::from(pc) >= page.end {
                return None;
            }
            let at = page.rows.partition_point(|row| row.pc <= pc);
            let row = page.rows.get(at.checked_sub(1)?)?;
            (row.rule != NO_RULE).then_some(())
        };
        let ends = [function.start, function.end.saturating_sub(1)];
        ends.into_iter().all(|address| has_rule(address).is_some())
    }

    /// Adds the rows of a function, in ascending order, the first one at its
    /// start. What lies outside of the addresses is left out.
    pub(super) fn add(&mut self, function: Range<u64>, rows: &[CodeRow]) -> Result<(), Full> {
        let last = self.base.saturating_add(self.pages.len() as u64 * PAGE);
        let (mut from, end) = (function.start.max(self.base), function.end.min(last));
        let mut rest = rows;
        while from < end {
            let page = (from - self.base) / PAGE;
            let page_start = self.base + page * PAGE;
            let to = end.min(page_start.saturating_add(PAGE));
            // The row that holds at `from`, and those up to `to`.
            let skip = rest.partition_point(|row| row.address <= from);
            rest = rest.get(skip.saturating_sub(1)..).unwrap_or_default();
            let count = rest.partition_point(|row| row.address < to);
            let piece = rest.get(..count).unwrap_or_default().iter();
            let piece = piece.map(|row| Row {
                pc: (row.address.max(from) - page_start) as u16,
                rule: row.rule,
            });
            let end = (to - page_start) as u32;
            self.add_piece(page as usize, (from - page_start) as u32, end, piece)?;
            from = to;
        }
        Ok(())
    }

    fn add_piece(
        &mut self,
        index: usize,
        start: u32,
        end: u32,
        rows: impl Iterator<Item = Row>,
    ) -> Result<(), Full> {
        self.pieces += 1;
        if self.pieces > MAX_PIECES {
            return Err(Full);
        }
        if index != self.last {
            // Most likely nothing more comes for that page.
            let before = std::mem::replace(&mut self.last, index);
            self.pages[before].rows.shrink_to_fit();
        }
        let page = &mut self.pages[index];
        if start < page.claimed {
            let from = self.stray_rows.len();
            self.stray_rows.extend(rows);
            let to = self.stray_rows.len();
            self.strays.push(Stray {
                page: index as u32,
                order: self.strays.len() as u32,
                end,
                rows: from as u32..to as u32,
            });
            self.bytes += size_of::<Stray>() + (to - from) * size_of::<Row>();
        } else {
            let before = page.rows.len();
            if start > page.end {
                push(&mut page.rows, page.end as u16, NO_RULE);
            }
            rows.for_each(|row| push(&mut page.rows, row.pc, row.rule));
            page.end = end;
            self.bytes += (page.rows.len() - before) * size_of::<Row>();
        }
        page.claimed = page.claimed.max(end);
        if self.bytes > self.max_bytes {
            return Err(Full);
        }
        Ok(())
    }

    /// Pages as the kernel programs read them. `go_on` is asked now and then,
    /// because one that has to be put in order takes a fraction of a millisecond.
    pub(super) fn pack<E>(mut self, mut go_on: impl FnMut() -> Result<(), E>) -> Result<Packed, E> {
        let mut packed = Packed {
            pages: Vec::with_capacity(self.pages.len()),
            rows: 0,
            crowded: 0,
        };
        self.strays.sort_by_key(|stray| (stray.page, stray.order));
        let mut strays = self.strays.as_slice();
        let mut canvas = Canvas::default();
        for (index, page) in self.pages.drain(..).enumerate() {
            let mut rows = page.rows;
            let count = strays.partition_point(|stray| stray.page as usize <= index);
            let (mine, others) = strays.split_at(count);
            strays = others;
            if !mine.is_empty() {
                go_on()?;
                canvas.clear();
                canvas.paint(&rows, page.end);
                for stray in mine {
                    let rows = stray.rows.start as usize..stray.rows.end as usize;
                    canvas.paint(&self.stray_rows[rows], stray.end);
                }
                rows = canvas.rows();
            } else if !rows.is_empty() && u64::from(page.end) < PAGE {
                push(&mut rows, page.end as u16, NO_RULE);
            }
            if rows.len() > MAX_PAGE_ROWS {
                packed.crowded += 1;
                rows.clear();
            }
            if rows.iter().all(|row| row.rule == NO_RULE) {
                packed.pages.push(None);
                continue;
            }
            packed.rows += rows.len() as u64;
            packed.pages.push(Some(pack_page(&rows)));
        }
        Ok(packed)
    }
}

/// Adds a row unless the one before says the same.
fn push(rows: &mut Vec<Row>, pc: u16, rule: u16) {
    if rows.last().is_none_or(|last| last.rule != rule) {
        rows.push(Row { pc, rule });
    }
}

/// A page's bytes, for rows that begin at its first address.
fn pack_page(rows: &[Row]) -> Vec<u8> {
    let mut head = PageHead {
        granules: [0; GRANULES + 1],
        pad: 0,
    };
    for (granule, first) in head.granules.iter_mut().enumerate() {
        let start = granule << GRANULE_BITS;
        let count = rows.partition_point(|row| usize::from(row.pc) <= start);
        *first = count.saturating_sub(1) as u16;
    }
    let len = size_of::<PageHead>() + size_of_val(rows);
    let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(rows.as_bytes());
    bytes.resize(len.next_multiple_of(8), 0);
    bytes
}

/// The rule of each address of a page, where pieces overlap or came in no order.
#[derive(Debug, Default)]
struct Canvas {
    rules: Vec<u16>,
    /// For each address one that is not before the next unpainted one's end of
    /// the painted run it is in; itself where it is unpainted.
    next: Vec<u32>,
}

impl Canvas {
    fn clear(&mut self) {
        self.rules.clear();
        self.rules.resize(PAGE as usize, NO_RULE);
        self.next.clear();
        self.next.extend(0..=PAGE as u32);
    }

    /// Paints what is unpainted yet, up to `end`.
    fn paint(&mut self, rows: &[Row], end: u32) {
        let ends = rows.iter().skip(1).map(|row| row.pc.into()).chain([end]);
        for (row, end) in rows.iter().zip(ends) {
            if row.rule == NO_RULE {
                continue;
            }
            let mut at = self.unpainted(row.pc.into());
            while at < end {
                self.rules[at as usize] = row.rule;
                self.next[at as usize] = at + 1;
                at = self.unpainted(at + 1);
            }
        }
    }

    /// The first unpainted address from `at` on. Halves the way there for the
    /// next time (as union-find does), so that painting over and over is cheap.
    fn unpainted(&mut self, mut at: u32) -> u32 {
        while self.next[at as usize] != at {
            let next = self.next[at as usize];
            self.next[at as usize] = self.next[next as usize];
            at = next;
        }
        at
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (pc, rule) in self.rules.iter().enumerate() {
            push(&mut rows, pc as u16, *rule);
        }
        rows
    }
}
