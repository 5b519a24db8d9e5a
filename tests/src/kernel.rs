//! What the kernel knows: loaded programs and maps, and what a process holds.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Polls until the condition holds.
///
/// # Errors
/// Fails where the condition does, or where it does not come to hold in `limit`.
pub fn until(limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !holds()? {
        if Instant::now() > end {
            bail!("did not come about in {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// BPF programs and maps in the kernel, by id, with their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Programs.
    pub programs: BTreeMap<u32, String>,
    /// Maps.
    pub maps: BTreeMap<u32, String>,
}

impl Loaded {
    /// All of them, whoever loaded them.
    ///
    /// # Errors
    /// Fails where the kernel does not tell.
    pub fn now() -> Result<Self> {
        let name = |name: Option<&str>| name.unwrap_or("?").to_owned();
        let mut loaded = Self::default();
        // What goes away while the list is read is not there any more.
        for program in aya::programs::loaded_programs().flatten() {
            let name = name(program.name_as_str());
            loaded.programs.insert(program.id(), name);
        }
        for map in aya::maps::loaded_maps().flatten() {
            loaded.maps.insert(map.id(), name(map.name_as_str()));
        }
        Ok(loaded)
    }

    /// Those that a process holds, whether as such or by what they are attached with.
    ///
    /// # Errors
    /// Fails where the process has ended.
    pub fn by(pid: u32) -> Result<Self> {
        let mut held = Self::default();
        let folder = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            // One that was closed meanwhile holds nothing.
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            let id = |key: &str| {
                let value = text.lines().find_map(|line| line.strip_prefix(key));
                value.and_then(|value| value.trim().parse().ok())
            };
            held.programs
                .extend(id("prog_id:").map(|id| (id, String::new())));
            held.maps
                .extend(id("map_id:").map(|id| (id, String::new())));
        }
        Ok(Self::now()?.among(&held))
    }

    /// Those that are also among the others.
    pub fn among(mut self, others: &Self) -> Self {
        self.programs
            .retain(|id, _| others.programs.contains_key(id));
        self.maps.retain(|id, _| others.maps.contains_key(id));
        self
    }

    /// Those that were not there before.
    pub fn since(mut self, before: &Self) -> Self {
        self.programs
            .retain(|id, _| !before.programs.contains_key(id));
        self.maps.retain(|id, _| !before.maps.contains_key(id));
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty()
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryAndFiles {
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Open file descriptors.
    pub files: usize,
    /// Of those, BPF programs.
    pub bpf_programs: usize,
    /// Of those, BPF maps.
    pub bpf_maps: usize,
    /// Of those, perf events and BPF links.
    pub attachments: usize,
    /// Threads.
    pub threads: usize,
}

impl MemoryAndFiles {
    /// The smaller of each.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            rss_bytes: self.rss_bytes.min(other.rss_bytes),
            files: self.files.min(other.files),
            bpf_programs: self.bpf_programs.min(other.bpf_programs),
            bpf_maps: self.bpf_maps.min(other.bpf_maps),
            attachments: self.attachments.min(other.attachments),
            threads: self.threads.min(other.threads),
        }
    }

    /// Of a process.
    ///
    /// # Errors
    /// Fails where it has ended.
    pub fn of(pid: u32) -> Result<Self> {
        let mut held = Self {
            rss_bytes: rss_bytes(pid)?,
            files: 0,
            bpf_programs: 0,
            bpf_maps: 0,
            attachments: 0,
            threads: fs::read_dir(format!("/proc/{pid}/task"))?.count(),
        };
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            held.files += 1;
            // One that was closed meanwhile has no target.
            let target = fs::read_link(entry?.path()).unwrap_or_default();
            match target.to_string_lossy().as_ref() {
                "anon_inode:bpf-prog" => held.bpf_programs += 1,
                "anon_inode:bpf-map" => held.bpf_maps += 1,
                "anon_inode:[perf_event]" | "anon_inode:bpf_link" => held.attachments += 1,
                _ => {}
            }
        }
        Ok(held)
    }
}

fn rss_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .with_context(|| format!("{path} has no VmRSS"))?
        .parse()?;
    Ok(kib * 1024)
}

/// CPU time and run delay of a thread, nanoseconds.
///
/// # Errors
/// Fails where the thread has ended.
pub fn schedstat(pid: u32, tid: u32) -> Result<(u64, u64)> {
    let path = format!("/proc/{pid}/task/{tid}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(cpu), Some(delay)) => Ok((cpu?, delay?)),
        _ => bail!("{path} has less than two numbers: {text}"),
    }
}

/// When a process started, in clock ticks since boot: field 22 of its `stat`.
///
/// # Errors
/// Fails where it has ended.
pub fn proc_start_ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The command name, field 2, may hold blanks and parentheses.
    let (_, fields) = stat.rsplit_once(") ").context("no command name")?;
    let field = fields.split(' ').nth(19).context("too few fields")?;
    Ok(field.parse()?)
}
