//! The kernel programs of one session: loading them, choosing what this kernel
//! can do (the ladders), their maps.

pub mod btf;
mod error;
mod ladder;
pub mod offsets;
mod perf;
mod probe;

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::Program,
};
use aya_log::EbpfLogger;
use profiler_abi::{COUNTERS, ChosenWait, Control, Counter, Counters, IoKey, IoTotals, Offsets};
use profiler_proto::{CaptureSpec, Event, EventFacts};

use self::{btf::KernelBtf, ladder::Ladder, perf::Sampler};
pub use self::{
    error::{BpfError, ErrorKind},
    ladder::{CpuRung, IoRung, OffcpuRung},
    perf::online_cpus,
    probe::probe,
};
use crate::{monotonic::now_ns, own_cost::fdinfo_field, unwind::loader::SessionMaps};

/// The programs with per-thread state in task storage (Linux 5.11).
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/profiler.bpf.o"));
/// The same with a hash by thread id.
static HASH_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/profiler-hash.bpf.o"));

/// Wait for programs that still run on other CPUs when a session is disabled,
/// where the kernel has no way to tell.
const SETTLE: Duration = Duration::from_millis(5);

/// What is set per session beside the target.
#[derive(Clone, Copy, Debug)]
pub struct LoadSettings {
    /// Size of the ring buffer: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Rung of the off-CPU ladder to use, `None`: the best that works.
    pub offcpu_rung: Option<OffcpuRung>,
}

/// Where the kernel programs keep what they know of a thread.
#[derive(Clone, Copy, Debug)]
enum ThreadMap {
    /// With the task itself.
    TaskStorage,
    /// In a hash of this size, allocated beforehand.
    Hash {
        /// Threads it has room for.
        threads: u32,
    },
}

impl ThreadMap {
    /// Task storage came with Linux 5.11, but allocates with `kmalloc` until
    /// 6.4, which the scheduler, where we make it, must not do. Since then it
    /// has an allocator of its own, in one of two forms.
    fn choose(btf: &KernelBtf) -> Self {
        let allocator = |member| btf.offset("bpf_local_storage_map", member).is_ok();
        if allocator("selem_ma") || allocator("use_kmalloc_nolock") {
            Self::TaskStorage
        } else {
            let threads = (host_threads() * 2).next_power_of_two();
            Self::Hash {
                threads: threads.clamp(16_384, 262_144),
            }
        }
    }
}

/// Kernel memory of an object's maps: `memlock` of their descriptors.
fn map_memory(ebpf: &Ebpf) -> u64 {
    ebpf.maps()
        .filter_map(|(_, map)| match map {
            Map::Array(data)
            | Map::ArrayOfMaps(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::PerCpuArray(data)
            | Map::RingBuf(data)
            | Map::Unsupported(data) => Some(data),
            // Kinds that the object does not have.
            _ => None,
        })
        .filter_map(|data| fdinfo_number(data.fd().as_fd().as_raw_fd(), "memlock:"))
        .sum()
}

/// Threads on the host: the fourth field of `/proc/loadavg` is
/// `runnable/existing`.
fn host_threads() -> u32 {
    std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|load| load.split(' ').nth(3)?.split('/').nth(1)?.parse().ok())
        .unwrap_or(0)
}

/// Loaded and attached programs. Dropping this detaches and frees everything.
pub struct Programs {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    copies: RingBuf<MapData>,
    control: Control,
    sampler: Option<Sampler>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    map_bytes: u64,
    events: Vec<EventFacts>,
}

impl Programs {
    /// Loads and attaches what `spec` asks for. Nothing is counted yet. Events
    /// that this kernel does not allow are told in [`Self::events`]; that none
    /// can be had is an error.
    pub fn open(spec: &CaptureSpec, settings: &LoadSettings) -> Result<Self, BpfError> {
        let btf = KernelBtf::read()?;
        let mut offsets = offsets::kernel_offsets(&btf)?;
        offsets::add_target(&mut offsets, &spec.target, &btf)?;
        let ladder = Ladder::new(&btf, settings.offcpu_rung)?;
        let thread_map = ThreadMap::choose(&btf);
        drop(btf);
        let kernel = Btf::from_sys_fs().map_err(BpfError::KernelBtf)?;
        let mut refused = None;
        for mode in ladder.load_modes(spec.events.contains(&Event::OffCpu)) {
            offsets.sample_at_switch_out = u64::from(mode.sample_at_switch_out);
            let mut programs = Self::load(&kernel, &offsets, thread_map, settings.ring_bytes)?;
            programs.set_target(spec)?;
            programs.attach(spec, &ladder, mode, &kernel)?;
            if programs.has_all(&spec.events) {
                return Ok(programs);
            }
            // The next mode may give off-CPU another way; else this is the best.
            refused = refused.or(Some(programs));
        }
        match refused {
            Some(programs) if programs.events.iter().any(|event| event.available) => Ok(programs),
            Some(programs) => Err(BpfError::nothing_available(&programs.events)),
            None => Err(BpfError::nothing_available(&[])),
        }
    }

    fn load(
        kernel: &Btf,
        offsets: &Offsets,
        thread_map: ThreadMap,
        ring_bytes: u32,
    ) -> Result<Self, BpfError> {
        // The programs log at debug level; where nobody listens the verifier
        // removes it.
        let log_level = log::max_level() as u8;
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(kernel))
            // Task storage, which aya knows but has no type for.
            .allow_unsupported_maps()
            .override_global("OFFSETS", offsets, true)
            .override_global("AYA_LOG_LEVEL", &log_level, true)
            .map_max_entries("EVENTS", ring_bytes);
        let object = match thread_map {
            ThreadMap::TaskStorage => OBJECT,
            ThreadMap::Hash { threads } => {
                loader.map_max_entries("THREADS", threads);
                HASH_OBJECT
            }
        };
        let mut ebpf = loader.load(object).map_err(BpfError::Load)?;
        let map_bytes = map_memory(&ebpf);
        let ring = take_ring(&mut ebpf, "EVENTS")?;
        let copies = take_ring(&mut ebpf, "COPIES")?;
        let logger = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| tracing::debug!("kernel programs do not log: {error}"))
            .ok();
        Ok(Self {
            ebpf,
            ring,
            copies,
            control: Control::default(),
            sampler: None,
            logger,
            map_bytes,
            events: Vec::new(),
        })
    }

    fn has_all(&self, events: &[Event]) -> bool {
        events.iter().all(|event| {
            self.events
                .iter()
                .any(|facts| facts.event == *event && facts.available)
        })
    }

    fn set_target(&mut self, spec: &CaptureSpec) -> Result<(), BpfError> {
        if !spec.target.pids.is_empty() {
            let mut pids: HashMap<_, u32, u64> = self.map("PIDS", HashMap::try_from)?;
            for pid in &spec.target.pids {
                let ticks = offsets::process_start(pid.get())?;
                pids.insert(pid.get(), ticks, 0)
                    .map_err(BpfError::map("PIDS"))?;
            }
        }
        if !spec.target.comms.is_empty() {
            let mut comms: HashMap<_, [u8; 16], u32> = self.map("COMMS", HashMap::try_from)?;
            for comm in &spec.target.comms {
                let mut padded = [0u8; 16];
                padded[..comm.as_str().len()].copy_from_slice(comm.as_str().as_bytes());
                comms.insert(padded, 1, 0).map_err(BpfError::map("COMMS"))?;
            }
        }
        Ok(())
    }

    /// Opens a map by name as one of aya's types.
    fn map<'a, M>(
        &'a mut self,
        name: &'static str,
        open: impl FnOnce(&'a mut Map) -> Result<M, aya::maps::MapError>,
    ) -> Result<M, BpfError> {
        let map = self.ebpf.map_mut(name).ok_or(BpfError::Object(name))?;
        open(map).map_err(BpfError::map(name))
    }

    fn attach(
        &mut self,
        spec: &CaptureSpec,
        ladder: &Ladder,
        mode: ladder::LoadMode,
        kernel: &Btf,
    ) -> Result<(), BpfError> {
        ladder::attach_tracepoint(&mut self.ebpf, "sched_process_exec", kernel)
            .map_err(BpfError::FollowExecs)?;
        if spec.target.follow_forks {
            ladder::attach_tracepoint(&mut self.ebpf, "sched_process_fork", kernel)
                .map_err(BpfError::FollowForks)?;
        }
        for event in &spec.events {
            let outcome = match event {
                Event::Cpu => {
                    ladder
                        .attach_cpu(&mut self.ebpf, spec.frequency)
                        .map(|(sampler, rung)| {
                            self.sampler = Some(sampler);
                            rung.name()
                        })
                }
                Event::OffCpu => ladder
                    .attach_offcpu(&mut self.ebpf, mode, kernel)
                    .map(OffcpuRung::name),
                Event::Io => ladder.attach_io(&mut self.ebpf, kernel).map(IoRung::name),
            };
            self.events.push(match outcome {
                Ok(mechanism) => EventFacts {
                    event: *event,
                    available: true,
                    mechanism: mechanism.to_owned(),
                    reason: String::new(),
                    parameters: Default::default(),
                },
                Err(reason) => EventFacts {
                    event: *event,
                    available: false,
                    mechanism: String::new(),
                    reason,
                    parameters: Default::default(),
                },
            });
        }
        Ok(())
    }

    /// How each event asked for is measured, or why it is not.
    pub fn events(&self) -> &[EventFacts] {
        &self.events
    }

    /// Whether the event is measured.
    pub fn has(&self, event: Event) -> bool {
        self.has_all(&[event])
    }

    /// Begins the session: from here on everything counts. Returns when that was.
    pub fn enable(&mut self, offcpu_threshold_ns: u64) -> Result<u64, BpfError> {
        let now = now_ns();
        self.control = Control {
            enabled: 0,
            session_start_ns: now,
            session_end_ns: 0,
            offcpu_threshold_ns,
            io_probability: 1 << 32,
        };
        // Twice: a program may see a half of one update, and must not see the
        // session enabled without its start.
        self.write_control()?;
        self.control.enabled = 1;
        self.write_control()?;
        if let Some(sampler) = &mut self.sampler {
            sampler.begin();
        }
        Ok(now)
    }

    /// Ends the session and waits until no program counts any more. Returns
    /// when the session ended.
    pub fn disable(&mut self) -> Result<u64, BpfError> {
        let now = now_ns();
        self.control.enabled = 0;
        self.control.session_end_ns = now;
        self.write_control()?;
        if let Some(sampler) = &mut self.sampler {
            sampler.end();
        }
        wait_for_programs();
        Ok(now)
    }

    /// Changes the sampling of waits and requests.
    pub fn set_sampling(
        &mut self,
        offcpu_threshold_ns: u64,
        io_probability: u64,
    ) -> Result<(), BpfError> {
        self.control.offcpu_threshold_ns = offcpu_threshold_ns;
        self.control.io_probability = io_probability;
        self.write_control()
    }

    fn write_control(&mut self) -> Result<(), BpfError> {
        let control = self.control;
        let mut map: Array<_, Control> = self.map("CONTROL", Array::try_from)?;
        map.set(0, control, 0).map_err(BpfError::map("CONTROL"))
    }

    /// Hands every record in the ring buffers to `each`. A copy of a stack was
    /// sent before its sample, and comes after it here.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        while let Some(record) = self.ring.next() {
            each(&record);
        }
        while let Some(record) = self.copies.next() {
            each(&record);
        }
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// The maps through which unwind tables are loaded.
    pub fn table_maps(&self) -> Result<SessionMaps, BpfError> {
        let fd = |name: &'static str| {
            let data = match self.ebpf.map(name) {
                Some(Map::ArrayOfMaps(data) | Map::HashMap(data)) => data,
                _ => return Err(BpfError::Object(name)),
            };
            data.fd()
                .as_fd()
                .try_clone_to_owned()
                .map_err(BpfError::Descriptor)
        };
        Ok(SessionMaps {
            chunks: fd("CHUNKS")?,
            processes: fd("PROCESSES")?,
        })
    }

    /// Chosen waits whose threads were not seen to resume before the end.
    pub fn left_over_waits(&mut self) -> Result<u64, BpfError> {
        let map: PerCpuArray<_, ChosenWait> = self.map("CHOSEN", PerCpuArray::try_from)?;
        let per_cpu = map.get(&0, 0).map_err(BpfError::map("CHOSEN"))?;
        Ok(per_cpu.iter().filter(|wait| wait.pending != 0).count() as u64)
    }

    /// Sums of the ledger's counters over CPUs.
    pub fn counters(&mut self) -> Result<CounterSums, BpfError> {
        let map: PerCpuArray<_, Counters> = self.map("COUNTERS", PerCpuArray::try_from)?;
        let per_cpu = map.get(&0, 0).map_err(BpfError::map("COUNTERS"))?;
        let mut sums = [0; COUNTERS];
        for cpu in per_cpu.iter() {
            for (sum, value) in sums.iter_mut().zip(cpu.values) {
                *sum += value;
            }
        }
        Ok(CounterSums(sums))
    }

    /// Exact totals of block I/O.
    pub fn io_totals(&mut self) -> Result<Vec<(IoKey, IoTotals)>, BpfError> {
        let map: HashMap<_, IoKey, IoTotals> = self.map("IO_TOTALS", HashMap::try_from)?;
        map.iter()
            .collect::<Result<_, _>>()
            .map_err(BpfError::map("IO_TOTALS"))
    }

    /// Runs the task iterator of an ended session: one account record per
    /// thread of the target, as bytes.
    pub fn thread_accounts(&mut self) -> Result<Vec<u8>, BpfError> {
        let failed = |source: io::Error| BpfError::Accounts(source);
        let Some(Program::Iter(program)) = self.ebpf.program_mut("thread_accounts") else {
            return Err(BpfError::Object("program thread_accounts"));
        };
        let id = program
            .attach()
            .map_err(|error| failed(io::Error::other(error)))?;
        let mut file: File = program
            .take_link(id)
            .map_err(|error| failed(io::Error::other(error)))?
            .into_file()
            .map_err(|error| failed(io::Error::other(error)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Sampling events' enabled time in the session, summed over CPUs.
    pub fn cpu_enabled_ns(&self) -> u64 {
        self.sampler.as_ref().map_or(0, Sampler::enabled_ns)
    }

    /// Gives sampling back to CPUs that came online.
    pub fn follow_hotplug(&mut self) {
        if let Some(sampler) = &mut self.sampler {
            for error in sampler.follow_hotplug() {
                tracing::warn!("{error}");
            }
        }
    }

    /// Runs of an event's programs that the kernel skipped because the program
    /// was running on that CPU already (Linux 5.12). It does not count those of
    /// perf events.
    pub fn recursion_misses(&self, event: Event) -> u64 {
        self.ebpf
            .programs()
            .filter(|(name, _)| match event {
                Event::Cpu => false,
                Event::OffCpu => name.starts_with("sched_") || name.starts_with("offcpu_"),
                Event::Io => name.starts_with("block_"),
            })
            .filter_map(|(name, _)| self.program_number(name, "recursion_misses:"))
            .sum()
    }

    /// Kernel memory of this session's maps.
    pub fn map_bytes(&self) -> u64 {
        self.map_bytes
    }

    /// Time and runs of all programs, where the kernel's bpf_stats are on.
    pub fn run_cost(&self) -> (u64, u64) {
        self.ebpf.programs().fold((0, 0), |(ns, runs), (name, _)| {
            let number = |key| self.program_number(name, key).unwrap_or(0);
            (ns + number("run_time_ns:"), runs + number("run_cnt:"))
        })
    }

    fn program_number(&self, program: &str, key: &str) -> Option<u64> {
        let program = self.ebpf.program(program)?;
        fdinfo_number(program.fd().ok()?.as_fd().as_raw_fd(), key)
    }
}

fn take_ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, BpfError> {
    ebpf.take_map(name)
        .ok_or(BpfError::Object(name))
        .and_then(|map| RingBuf::try_from(map).map_err(BpfError::map(name)))
}

/// Returns when every program that ran at the time of the call has ended. They
/// run as RCU readers, and this command is `synchronize_rcu()` for everybody.
fn wait_for_programs() {
    /// `MEMBARRIER_CMD_GLOBAL` (include/uapi/linux/membarrier.h).
    const GLOBAL: libc::c_int = 1;
    // SAFETY: takes integers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result != 0 {
        // Not on kernels with nohz_full CPUs. Programs take microseconds.
        std::thread::sleep(SETTLE);
    }
}

/// A number in `/proc/self/fdinfo/FD`.
fn fdinfo_number(fd: i32, key: &str) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    fdinfo_field(&info, key)
}

/// The ledger's counters, summed over CPUs.
#[derive(Clone, Copy, Debug)]
pub struct CounterSums([u64; COUNTERS]);

impl CounterSums {
    /// One of them.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }
}
