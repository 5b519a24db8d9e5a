//! What this kernel can do, found by doing it: every rung of every ladder is
//! loaded, attached and let go.

use std::collections::BTreeMap;

use aya::{Btf, Ebpf};
use profiler_abi::Offsets;
use profiler_proto::{Event, Frequency, pb};

use super::{
    LoadSettings, Programs, ThreadMap,
    btf::KernelBtf,
    error::BpfError,
    ladder::{CpuRung, IoRung, Ladder, LoadMode, OffcpuRung, attach_cpu_rung, attach_io_rung},
    offsets::kernel_offsets,
};

/// Tries every rung. Takes up to a second; what fails is told rung by rung.
pub fn probe(settings: &LoadSettings) -> Vec<pb::EventProbe> {
    match Kernel::read() {
        Ok(kernel) => kernel.probe(settings),
        Err(error) => Event::ALL
            .into_iter()
            .map(|event| pb::EventProbe {
                event: event.to_wire(),
                rungs: vec![pb::RungProbe {
                    mechanism: "all".to_owned(),
                    available: false,
                    reason: error.to_string(),
                    verified_instructions: BTreeMap::new(),
                }],
            })
            .collect(),
    }
}

struct Kernel {
    symbols: KernelBtf,
    btf: Btf,
    offsets: Offsets,
    has_io_start: bool,
}

impl Kernel {
    fn read() -> Result<Self, BpfError> {
        let symbols = KernelBtf::read()?;
        let offsets = kernel_offsets(&symbols)?;
        Ok(Self {
            btf: Btf::from_sys_fs().map_err(BpfError::KernelBtf)?,
            has_io_start: symbols.tracepoint_arguments("block_io_start")?.is_some(),
            symbols,
            offsets,
        })
    }

    fn probe(&self, settings: &LoadSettings) -> Vec<pb::EventProbe> {
        let cpu = CpuRung::ALL.map(|rung| {
            self.rung(settings, rung.name(), None, |ebpf, _| {
                attach_cpu_rung(ebpf, rung, Frequency::default()).map(drop)
            })
        });
        let offcpu = OffcpuRung::ALL.map(|rung| {
            self.rung(settings, rung.name(), Some(rung), |ebpf, ladder| {
                let mode = LoadMode {
                    sample_at_switch_out: rung == OffcpuRung::SwitchOut,
                };
                ladder.attach_offcpu(ebpf, mode, &self.btf).map(drop)
            })
        });
        let io = IoRung::ALL.map(|rung| {
            self.rung(settings, rung.name(), None, |ebpf, _| {
                if rung == IoRung::IoStart && !self.has_io_start {
                    return Err("no such tracepoint in this kernel (Linux 6.5 has it)".to_owned());
                }
                attach_io_rung(ebpf, rung, &self.btf)
            })
        });
        vec![
            event(Event::Cpu, cpu.into()),
            event(Event::OffCpu, offcpu.into()),
            event(Event::Io, io.into()),
        ]
    }

    /// Loads the object anew, attaches one rung and lets everything go.
    fn rung(
        &self,
        settings: &LoadSettings,
        mechanism: &str,
        forced: Option<OffcpuRung>,
        attach: impl FnOnce(&mut Ebpf, &Ladder) -> Result<(), String>,
    ) -> pb::RungProbe {
        let mut offsets = self.offsets;
        offsets.sample_at_switch_out = u64::from(forced == Some(OffcpuRung::SwitchOut));
        let attempt = || {
            let ladder = Ladder::new(&self.symbols, forced).map_err(|error| error.to_string())?;
            let thread_map = ThreadMap::choose(&self.symbols);
            let mut programs = Programs::load(&self.btf, &offsets, thread_map, settings.ring_bytes)
                .map_err(|error| error.to_string())?;
            attach(&mut programs.ebpf, &ladder)?;
            Ok::<_, String>(programs)
        };
        match attempt() {
            Ok(programs) => pb::RungProbe {
                mechanism: mechanism.to_owned(),
                available: true,
                reason: String::new(),
                verified_instructions: verified_instructions(&programs.ebpf),
            },
            Err(reason) => pb::RungProbe {
                mechanism: mechanism.to_owned(),
                available: false,
                reason,
                verified_instructions: BTreeMap::new(),
            },
        }
    }
}

fn event(event: Event, rungs: Vec<pb::RungProbe>) -> pb::EventProbe {
    pb::EventProbe {
        event: event.to_wire(),
        rungs,
    }
}

/// Instructions the verifier walked through, per loaded program (Linux 5.16).
fn verified_instructions(ebpf: &Ebpf) -> BTreeMap<String, u64> {
    ebpf.programs()
        .filter_map(|(name, program)| {
            let info = program.info().ok()?;
            let count = info.verified_instruction_count().unwrap_or(0);
            Some((name.to_owned(), u64::from(count)))
        })
        .collect()
}
