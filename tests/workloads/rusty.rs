//! Rust as `cargo build --release` makes it, below rusty::main -> rusty::drive:
//!   rusty::sort_items -> core's sort -> rusty::compare_cost                    a closure that is called back by std
//!   rusty::draw_all -> <rusty::Circle as rusty::Shape>::draw -> rusty::shape_cost      a trait object
//!   rusty::fail -> rusty::fail_inside -> std's panic machinery, caught          -> rusty::caught_cost afterwards
//! and in a thread of std: rusty::body -> rusty::thread_cost.
//! Records spans as the workloads in C do.

use std::fmt::Write as _;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

#[repr(C)]
struct Time {
    seconds: i64,
    ns: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut Time) -> i32;
    fn signal(signal: i32, handler: extern "C" fn(i32)) -> usize;
    fn alarm(seconds: u32) -> u32;
    fn gettid() -> i32;
}

const SIGTERM: i32 = 15;
const MONOTONIC: i32 = 1;
const THREAD_CPU: i32 = 3;
const ROUNDS: u32 = 300_000;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: i32) {
    STOP.store(true, Ordering::Relaxed);
}

#[inline(never)]
fn clock_ns(clock: i32) -> u64 {
    let mut time = Time { seconds: 0, ns: 0 };
    // SAFETY: `time` is a valid timespec for the length of the call.
    unsafe { clock_gettime(clock, &raw mut time) };
    time.seconds.cast_unsigned() * 1_000_000_000 + time.ns.cast_unsigned()
}

/// What a thread did: names, and its clocks at begin and end.
struct Spans(Vec<(&'static str, [u64; 4])>);

impl Spans {
    fn new() -> Self {
        let mut spans = Self(Vec::with_capacity(200_000));
        spans.measure("begin", || ());
        spans
    }

    fn measure(&mut self, name: &'static str, work: impl FnOnce()) {
        let start = (clock_ns(MONOTONIC), clock_ns(THREAD_CPU));
        work();
        let end = (clock_ns(MONOTONIC), clock_ns(THREAD_CPU));
        if self.0.len() < self.0.capacity() {
            self.0.push((name, [start.0, start.1, end.0, end.1]));
        }
    }

    /// As truth.h writes it.
    fn json(&self, tid: i32, comm: &str) -> String {
        let mut text = format!("{{\"tid\":{tid},\"comm\":\"{comm}\",\"spans\":[");
        for (at, (name, [from, cpu_from, to, cpu_to])) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(
                text,
                "{comma}{{\"name\":\"{name}\",\"bytes\":0,\
                 \"start\":{{\"time_ns\":{from},\"cpu_ns\":{cpu_from},\"delay_ns\":0}},\
                 \"end\":{{\"time_ns\":{to},\"cpu_ns\":{cpu_to},\"delay_ns\":0}}}}"
            )
            .expect("text grows");
        }
        text + "]}"
    }
}

#[inline(always)]
fn churn(start: u64, rounds: u32) -> u64 {
    let mut value = black_box(start);
    for round in 0..rounds {
        value = (value ^ (value >> 29))
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
            .wrapping_add(u64::from(round));
    }
    value
}

#[inline(never)]
fn compare_cost(a: u64, b: u64) -> std::cmp::Ordering {
    black_box(churn(a.wrapping_mul(31) ^ b, 20_000));
    a.cmp(&b)
}

#[inline(never)]
fn shape_cost(x: u64) -> u64 {
    churn(x, ROUNDS) + 1
}

#[inline(never)]
fn caught_cost(x: u64) -> u64 {
    churn(x, ROUNDS) + 2
}

#[inline(never)]
fn thread_cost(x: u64) -> u64 {
    churn(x, ROUNDS) + 3
}

#[inline(never)]
fn sort_items(seed: u64) {
    let mut items: Vec<u64> = (0..40).map(|at| churn(seed + at, 1) % 1000).collect();
    items.sort_by(|a, b| compare_cost(*a, *b));
    black_box(items);
}

trait Shape {
    fn draw(&self, x: u64) -> u64;
}

struct Circle(u64);

impl Shape for Circle {
    #[inline(never)]
    fn draw(&self, x: u64) -> u64 {
        black_box(shape_cost(x + self.0)) ^ 1
    }
}

struct Square;

impl Shape for Square {
    #[inline(never)]
    fn draw(&self, x: u64) -> u64 {
        x
    }
}

#[inline(never)]
fn draw_all(shapes: &[Box<dyn Shape>], x: u64) -> u64 {
    let sum: u64 = shapes.iter().fold(0, |sum, shape| sum ^ shape.draw(x));
    black_box(sum) ^ 1
}

#[inline(never)]
fn fail_inside(x: u64) -> u64 {
    if black_box(x) == x {
        std::panic::panic_any(x);
    }
    x
}

#[inline(never)]
fn fail(x: u64) -> u64 {
    let caught = catch_unwind(AssertUnwindSafe(|| black_box(fail_inside(x)) + 1));
    let caught = caught.unwrap_or_else(|_| caught_cost(x));
    black_box(caught) ^ 1
}

#[inline(never)]
fn drive(spans: &mut Spans) {
    let shapes: Vec<Box<dyn Shape>> = vec![Box::new(Square), Box::new(Circle(5))];
    let mut state = 7;
    while !STOP.load(Ordering::Relaxed) {
        state = churn(state, 2);
        match state % 100 {
            0..6 => spans.measure("rusty::compare_cost", || sort_items(state >> 8)),
            6..60 => spans.measure("rusty::shape_cost", || {
                black_box(draw_all(&shapes, state >> 8));
            }),
            _ => spans.measure("rusty::caught_cost", || {
                black_box(fail(state >> 8));
            }),
        }
    }
}

#[inline(never)]
fn body() -> String {
    let mut spans = Spans::new();
    while !STOP.load(Ordering::Relaxed) {
        spans.measure("rusty::thread_cost", || {
            black_box(thread_cost(1));
        });
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    spans.measure("end", || ());
    // SAFETY: takes nothing and cannot fail.
    spans.json(unsafe { gettid() }, "body")
}

fn main() {
    std::panic::set_hook(Box::new(|_| ()));
    // SAFETY: the handler does nothing but store to an atomic.
    unsafe {
        signal(SIGTERM, on_signal);
        alarm(120);
    }
    let thread = std::thread::spawn(body);
    let mut spans = Spans::new();
    println!("ready");
    drive(&mut spans);
    spans.measure("end", || ());
    let other = thread.join().expect("the thread ends well");
    if let Some(path) = std::env::var_os("TRUTH") {
        let pid = std::process::id();
        let main = spans.json(pid.cast_signed(), "rusty");
        let text = format!("{{\"pid\":{pid},\"threads\":[{main},{other}]}}");
        std::fs::write(path, text).expect("the truth can be written");
    }
}
