//! The canonical form of a capture: equal captures are equal in every byte.

use std::hash::Hash;

use crate::capture::{Capture, DeviceStatistics, ThreadAccount};
use crate::dictionary::{Dictionary, Table};
use crate::profile::{
    AttributesId, FrameId, MappingId, ProcessId, Profile, StackId, StrId, ThreadId,
};
use crate::relabel::Relabel;

impl Capture {
    /// Brings the capture into canonical form: the dictionary sorted by content and without
    /// entries that nothing uses, profiles sorted by event, samples, accounts and devices sorted,
    /// accounts of one thread and statistics of one device and operation added up.
    ///
    /// Two captures with the same content are equal after this, whatever ids they used and in
    /// whatever order they were put together.
    pub fn canonicalize(&mut self) {
        let used = Used::by(self);
        let (dictionary, relabel) = sort_dictionary(&self.dictionary, &used);
        self.dictionary = dictionary;
        for profile in &mut self.profiles {
            for sample in &mut profile.samples {
                relabel.sample(sample);
            }
        }
        for account in &mut self.accounts {
            relabel.account(account);
        }
        for device in &mut self.devices {
            relabel.device(device);
        }
        sort_profiles(&mut self.profiles);
        sort_accounts(&mut self.accounts);
        sort_devices(&mut self.devices);
        self.ledger.events.sort_by_key(|ledger| ledger.event);
        self.facts.events.sort_by_key(|facts| facts.event);
    }
}

/// Which entries of each table are used, by id.
struct Used {
    strings: Vec<bool>,
    mappings: Vec<bool>,
    frames: Vec<bool>,
    stacks: Vec<bool>,
    attributes: Vec<bool>,
    processes: Vec<bool>,
    threads: Vec<bool>,
}

fn mark(used: &mut [bool], id: usize) {
    if let Some(used) = used.get_mut(id) {
        *used = true;
    }
}

/// The entries of a table that are used.
fn used_entries<'a, T: Hash + Eq>(
    table: &'a Table<T>,
    used: &'a [bool],
) -> impl Iterator<Item = (usize, &'a T)> {
    let ids = used.iter().enumerate().filter(|(_, used)| **used);
    ids.filter_map(|(id, _)| Some((id, table.get(u32::try_from(id).ok()?)?)))
}

impl Used {
    fn by(capture: &Capture) -> Self {
        let dictionary = &capture.dictionary;
        let none = |entries: usize| vec![false; entries + 1];
        let mut used = Self {
            strings: none(dictionary.strings.len()),
            mappings: none(dictionary.mappings.len()),
            frames: none(dictionary.frames.len()),
            stacks: none(dictionary.stacks.len()),
            attributes: none(dictionary.attributes.len()),
            processes: none(dictionary.processes.len()),
            threads: none(dictionary.threads.len()),
        };
        used.mark_roots(capture);
        used.mark_reachable(dictionary);
        used
    }

    fn mark_roots(&mut self, capture: &Capture) {
        let samples = capture.profiles.iter().flat_map(|p| &p.samples);
        for sample in samples {
            mark(&mut self.threads, sample.thread.index());
            mark(&mut self.stacks, sample.stack.index());
            mark(&mut self.attributes, sample.attributes.index());
        }
        for account in &capture.accounts {
            mark(&mut self.threads, account.thread.index());
        }
        for device in &capture.devices {
            for id in [device.host, device.device, device.operation] {
                mark(&mut self.strings, id.index());
            }
        }
    }

    /// Each table before the ones that it refers to.
    fn mark_reachable(&mut self, dictionary: &Dictionary) {
        for (_, thread) in used_entries(&dictionary.threads, &self.threads) {
            mark(&mut self.processes, thread.process.index());
            mark(&mut self.strings, thread.comm.index());
        }
        for (_, process) in used_entries(&dictionary.processes, &self.processes) {
            for id in [
                process.comm,
                process.executable,
                process.cgroup,
                process.container,
                process.host,
            ] {
                mark(&mut self.strings, id.index());
            }
        }
        for (_, set) in used_entries(&dictionary.attributes, &self.attributes) {
            for id in set.as_slice().iter().filter_map(|one| one.string()) {
                mark(&mut self.strings, id.index());
            }
        }
        for (_, stack) in used_entries(&dictionary.stacks, &self.stacks) {
            for frame in stack.user.iter().chain(&stack.kernel) {
                mark(&mut self.frames, frame.index());
            }
        }
        for (_, frame) in used_entries(&dictionary.frames, &self.frames) {
            mark(&mut self.mappings, frame.mapping.index());
            for line in &frame.lines {
                mark(&mut self.strings, line.function.index());
                mark(&mut self.strings, line.file.index());
            }
        }
        for (_, mapping) in used_entries(&dictionary.mappings, &self.mappings) {
            mark(&mut self.strings, mapping.path.index());
        }
    }
}

/// A dictionary of the used entries, and where each went.
///
/// Strings come first and are sorted, so that the order of their new ids is that of their content;
/// the same then holds for every table that refers to tables before it.
fn sort_dictionary(old: &Dictionary, used: &Used) -> (Dictionary, Relabel) {
    let mut to = Relabel::default();
    let mut new = Dictionary::new();
    (new.strings, to.strings) =
        sort_table(&old.strings, &used.strings, Clone::clone, StrId::from_raw);
    (new.mappings, to.mappings) = sort_table(
        &old.mappings,
        &used.mappings,
        |mapping| to.mapping(mapping),
        MappingId::from_raw,
    );
    (new.frames, to.frames) = sort_table(
        &old.frames,
        &used.frames,
        |frame| to.frame(frame),
        FrameId::from_raw,
    );
    (new.stacks, to.stacks) = sort_table(
        &old.stacks,
        &used.stacks,
        |stack| to.stack(stack),
        StackId::from_raw,
    );
    (new.attributes, to.attributes) = sort_table(
        &old.attributes,
        &used.attributes,
        |set| to.attribute_set(set),
        AttributesId::from_raw,
    );
    (new.processes, to.processes) = sort_table(
        &old.processes,
        &used.processes,
        |process| to.process(process),
        ProcessId::from_raw,
    );
    (new.threads, to.threads) = sort_table(
        &old.threads,
        &used.threads,
        |thread| to.thread(thread),
        ThreadId::from_raw,
    );
    (new, to)
}

/// The used entries of a table, relabelled and sorted, and the new id of each old one.
fn sort_table<T: Hash + Ord, I: Copy + Default>(
    table: &Table<T>,
    used: &[bool],
    relabel: impl Fn(&T) -> T,
    id: impl Fn(u32) -> I,
) -> (Table<T>, Vec<I>) {
    let entries = used_entries(table, used);
    let mut entries: Vec<_> = entries.map(|(old, entry)| (relabel(entry), old)).collect();
    entries.sort_unstable();
    let mut sorted = Table::default();
    let mut ids = vec![I::default(); used.len()];
    for (entry, old) in entries {
        ids[old] = id(sorted.intern(entry));
    }
    (sorted, ids)
}

fn sort_profiles(profiles: &mut Vec<Profile>) {
    profiles.sort_by_key(|profile| profile.event);
    profiles.dedup_by(|later, first| {
        let same = later.event == first.event;
        if same {
            first.samples.append(&mut later.samples);
        }
        same
    });
    for profile in profiles {
        profile.samples.sort_unstable();
    }
}

fn sort_accounts(accounts: &mut Vec<ThreadAccount>) {
    accounts.sort_unstable();
    accounts.dedup_by(|later, first| {
        let same = later.thread == first.thread;
        if same {
            first.add(later);
        }
        same
    });
}

fn sort_devices(devices: &mut Vec<DeviceStatistics>) {
    devices.sort_unstable();
    devices.dedup_by(|later, first| {
        let same = later.key() == first.key();
        if same {
            first.add(later);
        }
        same
    });
}
