//! One session, read from top to bottom: arm, capture, finish.

use std::{
    fs, io, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use profiler_proto::{
    Capture, CaptureSpec, EndReason, Event, EventFacts, Facts, Ledger, OwnCost, UnwindFacts,
    chunks, encode_frame, pb,
};
use tokio::sync::mpsc::Sender;

pub use crate::bpf::ErrorKind;
use crate::{
    aggregate::Aggregate,
    assemble::{Parts, assemble},
    bpf::{BpfError, LoadSettings, Programs, offsets::start_ticks, online_cpus},
    ledger::LedgerInput,
    monotonic::{UtcOffset, now_ns},
    own_cost, reader,
    resolver::Resolver,
    sampling::Sampling,
    sideband::Sideband,
    symbols::shared::Symbols,
    unwind::shared::SharedUnwinder,
};

mod unwinding;

/// How often the ring buffer is read. At 999 Hz on 64 CPUs 20 ms are 1,300
/// samples, an eighth of a ring of 1 MiB; a wake-up costs about 10 us.
const READ_INTERVAL: Duration = Duration::from_millis(20);

/// How often the client hears of progress and sampling is adapted.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// How often CPUs and targets are looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What a session tells the one who started it.
#[derive(Debug)]
pub enum SessionEvent {
    /// How far it is.
    Progress(pb::Progress),
    /// One encoded frame of the capture.
    Frame(Vec<u8>),
}

/// What is the same for every session of an agent.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// About the kernel programs.
    pub load: LoadSettings,
    /// Samples kept per session; more are counted as lost.
    pub max_samples: usize,
    /// Where names come from.
    pub symbols: Arc<Symbols>,
    /// Where unwind tables come from.
    pub unwinder: Arc<SharedUnwinder>,
}

/// What remains of a session that has delivered.
#[derive(Debug)]
pub struct SessionSummary {
    /// Of its capture.
    pub ledger: Ledger,
}

/// Why a session delivered nothing.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The kernel programs.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A thread.
    #[error("start the resolver thread: {0}")]
    Thread(#[source] io::Error),
    /// The capture.
    #[error("encode the capture: {0}")]
    Encode(String),
    /// The client went away, or the session was aborted.
    #[error("the session was aborted")]
    Aborted,
}

impl SessionError {
    /// What a caller should make of it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Bpf(error) => error.kind(),
            Self::Thread(_) | Self::Encode(_) | Self::Aborted => ErrorKind::Internal,
        }
    }
}

/// Shared between the session's thread and whoever watches it.
#[derive(Debug)]
pub struct SessionControl {
    id: u64,
    spec: CaptureSpec,
    /// An [`EndReason`] on the wire, 0 while it goes on.
    stop: AtomicI32,
    aborted: AtomicBool,
    phase: AtomicI32,
    armed_ns: AtomicU64,
    samples: AtomicU64,
    lost: AtomicU64,
    map_bytes: AtomicU64,
    events: Mutex<Vec<EventFacts>>,
}

impl SessionControl {
    /// For a session that is about to be run.
    pub fn new(id: u64, spec: CaptureSpec) -> Arc<Self> {
        Arc::new(Self {
            id,
            spec,
            stop: AtomicI32::new(0),
            aborted: AtomicBool::new(false),
            phase: AtomicI32::new(pb::Phase::Arming as i32),
            armed_ns: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            map_bytes: AtomicU64::new(0),
            events: Mutex::new(Vec::new()),
        })
    }

    /// Number of the session, for the client's `Stop`.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Ends it early; what was captured is delivered. The first reason stays.
    pub fn stop(&self, reason: EndReason) {
        // A failure means that another reason was first.
        self.stop
            .compare_exchange(0, reason.to_wire(), Ordering::Relaxed, Ordering::Relaxed)
            .ok();
    }

    /// Ends it and discards what was captured.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
    }

    /// How it stands.
    pub fn status(&self) -> pb::SessionStatus {
        pb::SessionStatus {
            session: self.id,
            spec: Some((&self.spec).into()),
            phase: self.phase.load(Ordering::Relaxed),
            elapsed_ns: self.elapsed_ns(),
            events: self.events().iter().map(Into::into).collect(),
            bpf_map_bytes: self.map_bytes.load(Ordering::Relaxed),
            samples: self.samples.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    fn events(&self) -> MutexGuard<'_, Vec<EventFacts>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed_ns(&self) -> u64 {
        match self.armed_ns.load(Ordering::Relaxed) {
            0 => 0,
            armed => now_ns().saturating_sub(armed),
        }
    }

    /// Why it is to end early, once somebody has asked for it.
    pub fn end_reason(&self) -> Option<EndReason> {
        match self.stop.load(Ordering::Relaxed) {
            0 => None,
            reason => Some(EndReason::from_wire(reason)),
        }
    }

    fn progress(&self, phase: pb::Phase) -> pb::Progress {
        self.phase.store(phase as i32, Ordering::Relaxed);
        pb::Progress {
            session: self.id,
            phase: phase as i32,
            elapsed_ns: self.elapsed_ns(),
            duration_ns: self.spec.duration.as_ns(),
            samples: self.samples.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            events: match phase {
                pb::Phase::Armed => self.events().iter().map(Into::into).collect(),
                _ => Vec::new(),
            },
        }
    }
}

/// Runs one session from attach to detach on the calling thread, which must not
/// be one of the async runtime's. A closed channel aborts it.
pub fn run(
    control: &SessionControl,
    settings: &SessionSettings,
    events: &Sender<SessionEvent>,
) -> Result<SessionSummary, SessionError> {
    let client = Client { control, events };
    client.report(pb::Phase::Arming)?;
    let cpu_before_ns = own_cost::cpu_ns();
    let mut session = Session::arm(control, settings)?;
    own_cost::release_memory();
    client.report(pb::Phase::Armed)?;
    let end_reason = session.capture(&client)?;
    let end_ns = session.programs.disable()?;
    client.report(pb::Phase::Finishing)?;
    let capture = session.finish(end_ns, end_reason, cpu_before_ns)?;
    client.deliver(&capture)?;
    let ledger = capture.ledger.clone();
    drop(capture);
    own_cost::release_memory();
    Ok(SessionSummary { ledger })
}

/// The one who started the session.
struct Client<'a> {
    control: &'a SessionControl,
    events: &'a Sender<SessionEvent>,
}

impl Client<'_> {
    fn send(&self, event: SessionEvent) -> Result<(), SessionError> {
        self.check()?;
        self.events
            .blocking_send(event)
            .map_err(|_| SessionError::Aborted)
    }

    fn check(&self) -> Result<(), SessionError> {
        if self.control.aborted.load(Ordering::Relaxed) || self.events.is_closed() {
            return Err(SessionError::Aborted);
        }
        Ok(())
    }

    /// A change of phase.
    fn report(&self, phase: pb::Phase) -> Result<(), SessionError> {
        self.send(SessionEvent::Progress(self.control.progress(phase)))
    }

    /// News that may be dropped: the sampling path waits for nobody.
    fn report_progress(&self) -> Result<(), SessionError> {
        self.check()?;
        let progress = self.control.progress(pb::Phase::Capturing);
        // A full channel means a slow client, which gets the next one.
        self.events.try_send(SessionEvent::Progress(progress)).ok();
        Ok(())
    }

    fn deliver(&self, capture: &Capture) -> Result<(), SessionError> {
        for chunk in chunks(capture) {
            let frame =
                encode_frame(&chunk).map_err(|error| SessionError::Encode(error.to_string()))?;
            self.send(SessionEvent::Frame(frame))?;
        }
        Ok(())
    }
}

struct Session<'a> {
    control: &'a SessionControl,
    programs: Programs,
    sideband: Option<Sideband>,
    resolver: Resolver,
    aggregate: Aggregate,
    sampling: Sampling,
    utc: UtcOffset,
    start_ns: u64,
    /// Target processes and when they started, in clock ticks.
    targets: Vec<(u32, u64)>,
    /// What could not be had.
    warnings: Vec<String>,
}

impl<'a> Session<'a> {
    fn arm(control: &'a SessionControl, settings: &SessionSettings) -> Result<Self, SessionError> {
        let spec = &control.spec;
        let mut programs = Programs::open(spec, &settings.load)?;
        let mut warnings = Vec::new();
        let sideband = unwinding::open_sideband(&mut warnings);
        let tables = unwinding::attach_tables(&settings.unwinder, &programs, &mut warnings);
        let resolver = Resolver::start(Arc::clone(&settings.symbols), tables, sideband.is_some())
            .map_err(SessionError::Thread)?;
        let sampling = Sampling::default();
        let targets = spec
            .target
            .pids
            .iter()
            .filter_map(|pid| Some((pid.get(), start_ticks(pid.get()).ok()?)))
            .collect();
        control
            .map_bytes
            .store(programs.map_bytes(), Ordering::Relaxed);
        *control.events() = programs.events().to_vec();
        let utc = UtcOffset::measure();
        let start_ns = programs.enable(sampling.threshold_ns())?;
        control.armed_ns.store(start_ns, Ordering::Relaxed);
        Ok(Self {
            control,
            programs,
            sideband,
            resolver,
            warnings,
            aggregate: Aggregate::new(spec.frequency, settings.max_samples),
            sampling,
            utc,
            start_ns,
            targets,
        })
    }

    /// Reads until the time is over or somebody ends it.
    fn capture(&mut self, client: &Client<'_>) -> Result<EndReason, SessionError> {
        let end = Instant::now() + self.control.spec.duration.get();
        let mut next_report = Instant::now() + REPORT_INTERVAL;
        let mut next_watch = Instant::now() + WATCH_INTERVAL;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(EndReason::Duration);
            }
            thread::sleep(READ_INTERVAL.min(end - now));
            self.read();
            if let Some(reason) = self.control.end_reason() {
                return Ok(reason);
            }
            if now >= next_report {
                next_report = now + REPORT_INTERVAL;
                self.adapt()?;
                client.report_progress()?;
            }
            if now >= next_watch {
                next_watch = now + WATCH_INTERVAL;
                self.follow_hotplug();
                if self.targets_have_exited() {
                    return Ok(EndReason::TargetExited);
                }
            }
        }
    }

    fn read(&mut self) {
        let Self {
            programs,
            sideband,
            resolver,
            aggregate,
            ..
        } = self;
        let held = aggregate.take_held_copies();
        programs.drain(|bytes| match reader::parse(bytes) {
            Ok(record) => aggregate.add(record, resolver),
            Err(error) => {
                tracing::debug!("{error}");
                aggregate.add_malformed();
            }
        });
        aggregate.add_held_copies(held, resolver);
        // Read after the samples, it tells all that happened before them.
        resolver.commit(sideband.as_mut().map(Sideband::drain));
    }

    fn follow_hotplug(&mut self) {
        self.programs.follow_hotplug();
        if let Some(sideband) = &mut self.sideband
            && let Ok(cpus) = online_cpus()
        {
            for error in sideband.follow_hotplug(&cpus) {
                tracing::warn!("{error}");
            }
        }
    }

    /// Keeps sampling within its budget, and the client informed.
    fn adapt(&mut self) -> Result<(), SessionError> {
        let counters = self.programs.counters()?;
        if self.sampling.adapt(&counters) {
            self.programs
                .set_sampling(self.sampling.threshold_ns(), self.sampling.io_probability())?;
        }
        let samples = Event::ALL
            .into_iter()
            .map(|event| self.aggregate.store().delivered(event))
            .sum();
        self.control.samples.store(samples, Ordering::Relaxed);
        let lost = crate::ledger::lost_in_kernel(&counters);
        self.control.lost.store(lost, Ordering::Relaxed);
        Ok(())
    }

    /// Whether every process asked for is gone. Their children, where they are
    /// followed, may live on.
    fn targets_have_exited(&self) -> bool {
        !self.targets.is_empty()
            && !self.control.spec.target.follow_forks
            && self
                .targets
                .iter()
                .all(|(pid, ticks)| start_ticks(*pid).ok() != Some(*ticks))
    }

    /// Collects what the kernel programs hold, detaches them and builds the
    /// capture.
    fn finish(
        mut self,
        end_ns: u64,
        end_reason: EndReason,
        cpu_before_ns: u64,
    ) -> Result<Capture, SessionError> {
        let mut warnings = mem::take(&mut self.warnings);
        let cpu_enabled_ns = self.programs.cpu_enabled_ns();
        self.read();
        if let Err(error) = self.read_accounts() {
            warnings.push(format!("threads that still live have no account: {error}"));
        }
        let counters = self.programs.counters()?;
        let left_over_waits = self.programs.left_over_waits()?;
        let io_totals = if self.programs.has(Event::Io) {
            self.programs.io_totals().unwrap_or_else(|error| {
                warnings.push(format!("no device statistics: {error}"));
                Vec::new()
            })
        } else {
            Vec::new()
        };
        let recursions = Event::ALL.map(|event| self.programs.recursion_misses(event));
        let mut facts = self.facts(end_ns, end_reason);
        drop(self.programs);
        if let Some(sideband) = self.sideband {
            let (told, status) = sideband.finish();
            self.resolver.commit(Some(told));
            warnings.extend(unwinding::sideband_warning(&status));
        }
        let mut resolved = self.resolver.finish();
        warnings.append(&mut resolved.warnings);
        let input = LedgerInput {
            counters: &counters,
            left_over_waits,
            aggregate: &self.aggregate,
            cpu_enabled_ns,
            recursions,
            spec: &self.control.spec,
            facts: &facts.events,
        };
        let ledger = input.ledger();
        warnings.extend(input.warnings());
        warnings.extend(resolved.unwind.iter().flat_map(unwinding::warnings));
        if self.aggregate.refused_stacks() > 0 {
            warnings.push(format!(
                "{} stacks were not kept: the different ones had filled their memory",
                self.aggregate.refused_stacks()
            ));
        }
        facts.warnings = warnings;
        facts.unwind = unwinding::facts(&resolved, &counters, &self.aggregate);
        facts.own_cost.agent_cpu_ns = own_cost::cpu_ns().saturating_sub(cpu_before_ns);
        let measured: Vec<Event> = ledger.events.iter().map(|event| event.event).collect();
        let parts = Parts {
            aggregate: &self.aggregate,
            resolved: &resolved,
            io_totals: &io_totals,
            utc: self.utc,
            events: &measured,
        };
        Ok(assemble(&parts, facts, ledger))
    }

    /// The accounts of all threads that still live, straight from the kernel.
    fn read_accounts(&mut self) -> Result<(), SessionError> {
        if !self.programs.has(Event::OffCpu) {
            return Ok(());
        }
        let bytes = self.programs.thread_accounts()?;
        for record in reader::records(&bytes) {
            match record {
                Ok(record) => self.aggregate.add(record, &mut self.resolver),
                Err(error) => {
                    tracing::debug!("{error}");
                    self.aggregate.add_malformed();
                }
            }
        }
        Ok(())
    }

    /// What the session costs while its programs are loaded. CPU time is filled
    /// in at the end.
    fn own_cost(&self) -> OwnCost {
        let (bpf_run_ns, bpf_runs) = self.programs.run_cost();
        OwnCost {
            agent_cpu_ns: 0,
            agent_rss_bytes: own_cost::rss_bytes(),
            bpf_map_bytes: self.control.map_bytes.load(Ordering::Relaxed),
            bpf_run_ns,
            bpf_runs,
        }
    }

    fn facts(&self, end_ns: u64, end_reason: EndReason) -> Facts {
        let system = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let mut events = self.programs.events().to_vec();
        for event in &mut events {
            event.parameters = self
                .sampling
                .parameters(event.event, self.control.spec.frequency);
        }
        Facts {
            host: text(system.nodename()),
            kernel: text(system.release()),
            architecture: text(system.machine()),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            online_cpus: thread::available_parallelism().map_or(0, |n| n.get() as u32),
            start_ns: self.utc.to_utc_ns(self.start_ns),
            end_ns: self.utc.to_utc_ns(end_ns),
            spec: self.control.spec.clone(),
            events,
            own_cost: self.own_cost(),
            end_reason,
            warnings: Vec::new(),
            memory_bytes: memory_bytes(),
            command: None,
            unwind: UnwindFacts::default(),
        }
    }
}

/// The host's memory, 0 where `/proc` does not say.
fn memory_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}
