//! Real programs, stopped at places that nobody chose: their registers, stack
//! and mappings, as the kernel programs would have copied them.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    mem::MaybeUninit,
    os::unix::fs::MetadataExt,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use profiler_abi::{INTERRUPTED, REGISTERS, STACK_COPY_BYTES};

use super::super::{Code, CopiedStack, Mapping, Registers, StackWalker, Walk};

/// A program that runs until this is dropped.
pub(super) struct Program {
    child: Child,
    /// Traced thread; 0: none yet.
    thread: libc::pid_t,
    files: HashMap<(u64, u64), (u64, File)>,
    random: u64,
}

/// What was there when a thread was stopped.
pub(super) struct Stopped<'a> {
    pub registers: Registers,
    pub memory: Vec<u8>,
    pub mappings: Vec<Mapping<'a>>,
    /// Of each mapping.
    pub paths: Vec<String>,
}

impl Stopped<'_> {
    pub(super) fn walk(&self, walker: &mut StackWalker) -> Walk {
        let stack = CopiedStack {
            registers: &self.registers,
            memory: &self.memory,
        };
        walker.walk(&stack, self.mappings.as_slice())
    }

    /// `file+0xoffset` of a return address or, for a leaf, of the program counter.
    pub(super) fn place(&self, address: u64) -> String {
        let address = address & !INTERRUPTED;
        let mut mappings = self.mappings.iter().zip(&self.paths);
        match mappings.find(|(mapping, _)| (mapping.start..mapping.end).contains(&address)) {
            Some((mapping, path)) => {
                let file = path.rsplit('/').next().unwrap_or_default();
                format!("{file}+{:#x}", address - mapping.start + mapping.offset)
            }
            None => format!("{address:#x}"),
        }
    }
}

impl Program {
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            thread: 0,
            files: HashMap::new(),
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From now on this thread is stopped, and not the program's first.
    pub(super) fn follow(&mut self, thread: u32) {
        self.thread = thread as libc::pid_t;
        trace(libc::PTRACE_SEIZE, self.thread, 0).unwrap();
    }

    /// Stops the thread after some time below 2 ms, calls `see` and lets it go
    /// on. `None` once it has exited.
    pub(super) fn stop<T>(&mut self, see: impl FnOnce(&Stopped<'_>) -> T) -> Option<T> {
        let seen = self.see(see)?;
        trace(libc::PTRACE_CONT, self.thread, 0).ok()?;
        Some(seen)
    }

    /// As `stop`, but leaves the program as it is for another tracer to see.
    pub(super) fn stop_and_leave<T>(&mut self, see: impl FnOnce(&Stopped<'_>) -> T) -> Option<T> {
        let seen = self.see(see)?;
        // It comes before the next instruction.
        self.signal(libc::SIGSTOP);
        trace(libc::PTRACE_DETACH, self.thread, 0).ok()?;
        Some(seen)
    }

    /// After `stop_and_leave`: lets the program go on.
    pub(super) fn take_back(&mut self) {
        self.signal(libc::SIGCONT);
        self.follow(self.thread as u32);
    }

    fn signal(&self, number: libc::c_int) {
        // SAFETY: sends a signal to our own child, which has not been waited for.
        unsafe { libc::kill(self.thread, number) };
    }

    fn see<T>(&mut self, see: impl FnOnce(&Stopped<'_>) -> T) -> Option<T> {
        if self.thread == 0 {
            self.follow(self.pid());
        }
        // Knuth's MMIX generator.
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_micros(self.random >> 53));
        trace(libc::PTRACE_INTERRUPT, self.thread, 0).ok()?;
        wait(self.thread)?;
        let registers = registers(self.thread)?;
        let start = registers.get(7)?;
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.thread)).ok()?;
        let lines: Vec<MapsLine<'_>> = maps.lines().filter_map(MapsLine::parse).collect();
        for line in &lines {
            open(&mut self.files, self.thread, line);
        }
        let stopped = Stopped {
            memory: memory(self.thread, start),
            registers,
            mappings: lines.iter().map(|line| line.mapping(&self.files)).collect(),
            paths: lines.iter().map(|line| line.path.to_owned()).collect(),
        };
        Some(see(&stopped))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        // A process has not ended before its traced threads have been waited for.
        while self.thread != 0 && wait(self.thread).is_some() {}
        self.child.wait().ok();
    }
}

/// An executable line of `/proc/PID/maps`.
struct MapsLine<'a> {
    start: u64,
    end: u64,
    offset: u64,
    inode: u64,
    path: &'a str,
}

impl<'a> MapsLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let is_code = fields.next()?.contains('x');
        let number = |text| u64::from_str_radix(text, 16).ok();
        let this = Self {
            start: number(start)?,
            end: number(end)?,
            offset: number(fields.next()?)?,
            inode: fields.nth(1)?.parse().ok()?,
            path: fields.next().unwrap_or_default(),
        };
        (is_code && this.path != "[vsyscall]").then_some(this)
    }

    fn mapping<'f>(&self, files: &'f HashMap<(u64, u64), (u64, File)>) -> Mapping<'f> {
        let file = || files.get(&(self.start, self.inode));
        Mapping {
            start: self.start,
            end: self.end,
            offset: self.offset,
            code: match file() {
                _ if self.path == "[vdso]" => Code::Vdso,
                Some((id, file)) if self.inode != 0 => Code::File { id: *id, file },
                _ => Code::Jit,
            },
        }
    }
}

fn open(files: &mut HashMap<(u64, u64), (u64, File)>, pid: libc::pid_t, line: &MapsLine<'_>) {
    let key = (line.start, line.inode);
    if line.inode != 0 && !files.contains_key(&key) {
        let link = format!("/proc/{pid}/map_files/{:x}-{:x}", line.start, line.end);
        if let Ok(file) = File::open(link).or_else(|_| File::open(line.path)) {
            let metadata = file.metadata().unwrap();
            let id = metadata.dev().wrapping_mul(1 << 40) ^ metadata.ino();
            files.insert(key, (id, file));
        }
    }
}

fn trace(request: libc::c_uint, thread: libc::pid_t, data: usize) -> io::Result<()> {
    // SAFETY: the requests made here take no pointers but to what lives across the call.
    match unsafe { libc::ptrace(request, thread, 0usize, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Waits until the thread has stopped; signals go on to it.
fn wait(thread: libc::pid_t) -> Option<()> {
    loop {
        let mut status = 0;
        // SAFETY: the status is a local variable.
        let result = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        if result != thread || !libc::WIFSTOPPED(status) {
            return None;
        }
        if status >> 16 == libc::PTRACE_EVENT_STOP {
            return Some(());
        }
        let signal = libc::WSTOPSIG(status) as usize;
        trace(libc::PTRACE_CONT, thread, signal).ok()?;
    }
}

fn registers(thread: libc::pid_t) -> Option<Registers> {
    let mut user = MaybeUninit::<libc::user_regs_struct>::zeroed();
    trace(libc::PTRACE_GETREGS, thread, user.as_mut_ptr() as usize).ok()?;
    // SAFETY: zeroed is a valid value of these integers, and the kernel has written them.
    let user = unsafe { user.assume_init() };
    let by_number = [
        user.rax, user.rdx, user.rcx, user.rbx, user.rsi, user.rdi, user.rbp, user.rsp, user.r8,
        user.r9, user.r10, user.r11, user.r12, user.r13, user.r14, user.r15, user.rip,
    ];
    let mut values = [0; REGISTERS];
    values[..by_number.len()].copy_from_slice(&by_number);
    Some(Registers::new(&values, u64::MAX))
}

/// The stack from an address on, at most what a copy holds.
pub(super) fn memory(pid: libc::pid_t, start: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; STACK_COPY_BYTES];
    let local = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: start as *mut _,
        iov_len: bytes.len(),
    };
    // SAFETY: `local` is the buffer; the kernel checks the other process's addresses.
    let read = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    bytes.truncate(read.max(0) as usize);
    bytes
}

/// The kernel's vDSO, which is the same in every process.
pub(super) fn vdso() -> Vec<u8> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut lines = maps.lines().filter_map(MapsLine::parse);
    let line = lines.find(|line| line.path == "[vdso]").unwrap();
    let len = (line.end - line.start) as usize;
    // SAFETY: the mapping stays for as long as the process lives, and is readable.
    unsafe { std::slice::from_raw_parts(line.start as *const u8, len) }.to_vec()
}
