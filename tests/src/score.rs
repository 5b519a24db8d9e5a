//! How right the stacks of a workload are that is known to the last frame.

use std::collections::BTreeMap;

use crate::chain::{Edge, Frame, Pattern};

/// Where a thread's outermost frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `_start`, and what libc puts below it.
    Main,
    /// The same with musl, whose libc comes without unwind information: whether anything is above `main` cannot be known.
    Musl,
    /// Where libc starts a thread.
    Thread,
    /// There is nothing above the chain's first function, but perhaps a frame of libc.
    Own,
    /// A goroutine's, whose outermost function is the runtime's.
    Goroutine,
}

impl Root {
    /// Where symbols of libc are missing, its frames are known by their module; in a static program by
    /// their names.
    fn steps(self) -> &'static [&'static str] {
        match self {
            Self::Main => &[
                "_start",
                "__libc_start%/_start_c/libc_start%/@libc/@ld-musl *",
            ],
            Self::Musl => &["_start ?", "_start_c/libc_start%/@libc *"],
            Self::Thread => &[
                "clone%/__clone%/@libc/@ld-musl",
                "start_thread/start/@libc/@ld-musl",
            ],
            Self::Own => &["@libc/__start_context ?"],
            Self::Goroutine => &["runtime.goexit/runtime.goexit.abi0", "runtime.main ?"],
        }
    }
}

/// A chain of calls that a workload is known to make.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The function that does the work: the innermost of all such functions in a stack says which chain it is
    /// of. Also the name of the workload's spans of it, where it has some.
    pub leaf: String,
    /// It reaches the start of the thread.
    rooted: Pattern,
    exact: Pattern,
    /// Steps of the pattern that must have been taken: a stack of nothing but the frames above it is none.
    least: usize,
    scattered: Pattern,
}

impl Chain {
    /// The steps (see [`crate::chain`]) follow those of the root, and hold the leaf.
    pub fn new<S: AsRef<str>>(leaf: &str, root: Root, steps: &[S]) -> Self {
        let named = steps.iter().map(AsRef::as_ref);
        // Where nothing has to be above the chain, its first function is the root.
        let needed = usize::from(matches!(root, Root::Own | Root::Musl));
        let root = root.steps().iter().copied();
        let least = root.len() + 1;
        let rooted = root.clone().chain(named.clone().take(needed));
        Self {
            leaf: leaf.to_owned(),
            rooted: Pattern::new(rooted.chain(["% *"])),
            exact: Pattern::new(root.chain(named.clone())),
            least,
            scattered: Pattern::new(named).scattered(),
        }
    }
}

/// Functions that record what a workload does, and what they call.
const BOOKKEEPING: [&str; 2] = [
    "span_begin/span_end/run_delay_ns/clock_ns/truth_thread%/load/percent/rusty::clock_ns",
    "% *",
];

/// Whether a stack holds one of these functions.
fn is_bookkeeping(frames: &[Frame]) -> bool {
    let pattern = Pattern::new([BOOKKEEPING[0]]).scattered();
    pattern.matches(frames, Edge::Exact, Edge::Exact)
}

/// Nothing but libraries' frames, or nothing at all: where they were called from is not known.
fn is_stump(frames: &[Frame]) -> bool {
    let pattern = Pattern::new(["@lib/@ld-/@[vdso] *"]);
    pattern.matches(frames, Edge::Exact, Edge::Exact)
}

/// All that a workload does.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its chains.
    pub chains: Vec<Chain>,
    bookkeeping: Vec<Pattern>,
    also: Vec<Also>,
}

/// A stack of no chain that is right as well.
#[derive(Clone, Debug)]
struct Also {
    pattern: Pattern,
    /// Steps that must have been taken, as in [`Chain`].
    least: usize,
    /// Only where the profiler says that this is all of it.
    if_whole: bool,
}

impl Expected {
    /// `place` is the function from which spans are begun and ended, by the steps that lead there.
    pub fn new(chains: Vec<Chain>, places: &[(Root, &[&str])]) -> Self {
        let pattern = |(root, steps): &(Root, &[&str])| {
            let root = root.steps().iter().copied();
            Pattern::new(root.chain(steps.iter().copied()).chain(BOOKKEEPING))
        };
        Self {
            chains,
            bookkeeping: places.iter().map(pattern).collect(),
            also: Vec::new(),
        }
    }

    /// Stacks of no chain that are right as well.
    #[must_use]
    pub fn also(self, root: Root, steps: &[&str]) -> Self {
        self.and(root, steps, false)
    }

    /// The same, for stacks that look alike when their root is missing: right only if they are said to be whole.
    #[must_use]
    pub fn also_if_whole(self, root: Root, steps: &[&str]) -> Self {
        self.and(root, steps, true)
    }

    fn and(mut self, root: Root, steps: &[&str], if_whole: bool) -> Self {
        let least = root.steps().len() + 1;
        let steps = root.steps().iter().chain(steps).copied();
        self.also.push(Also {
            pattern: Pattern::new(steps),
            least,
            if_whole,
        });
        self
    }

    /// The leaf of the chains that a stack can be of.
    fn leaf(&self, frames: &[Frame]) -> Option<&str> {
        frames.iter().rev().find_map(|frame| {
            let is_leaf = |chain: &&Chain| chain.leaf == frame.function;
            Some(self.chains.iter().find(is_leaf)?.leaf.as_str())
        })
    }

    fn verdict(&self, observed: &Observed) -> Verdict<'_> {
        let frames = observed.frames.as_slice();
        let leaf = self.leaf(frames);
        let candidates = || {
            let fits = move |chain: &&Chain| leaf.is_none_or(|leaf| chain.leaf == leaf);
            self.chains.iter().filter(fits)
        };
        // A stack that ends within the chain is one of the moments before and after the call.
        let matches = |start| {
            candidates().any(|chain| {
                let end = Edge::Behind(chain.least);
                chain.exact.matches(frames, start, end)
            })
        };
        let bookkeeping = |start| {
            let mut patterns = self.bookkeeping.iter();
            leaf.is_none()
                && is_bookkeeping(frames)
                && patterns.any(|one| one.matches(frames, start, Edge::Exact))
        };
        let also = |start| {
            let mut allowed = self
                .also
                .iter()
                .filter(|also| observed.claims_whole || !also.if_whole);
            let is = |also: &Also| {
                let end = Edge::Behind(also.least);
                also.pattern.matches(frames, start, end)
            };
            leaf.is_none() && allowed.any(is)
        };
        let right = |start| matches(start) || bookkeeping(start) || also(start);
        let clean = !frames.is_empty() && right(Edge::Exact);
        let right_as_far_as_it_goes = clean || right(Edge::Anywhere) || is_stump(frames);
        let rooted = clean
            || candidates().any(|chain| chain.rooted.matches(frames, Edge::Exact, Edge::Exact));
        let scattered = |chain: &Chain| {
            let pattern = &chain.scattered;
            leaf.is_some() && pattern.matches(frames, Edge::Exact, Edge::Exact)
        };
        let chained = clean || candidates().any(scattered);
        Verdict {
            leaf,
            rooted,
            chained: rooted && chained,
            clean,
            wrong: !right_as_far_as_it_goes || (observed.claims_whole && !clean),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict<'a> {
    leaf: Option<&'a str>,
    rooted: bool,
    chained: bool,
    clean: bool,
    wrong: bool,
}

/// The user part of a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Root first.
    pub frames: Vec<Frame>,
    /// The profiler says that this is all of it.
    pub claims_whole: bool,
    /// Measurements.
    pub count: u64,
    /// What they stand for.
    pub weight: u64,
}

/// Samples of one chain, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All.
    pub samples: u64,
    /// Those that reach the start of the thread.
    pub rooted: u64,
    /// Of those, the ones that hold the whole chain in order, whatever may be between.
    pub chained: u64,
    /// Of those, the ones that hold nothing else.
    pub clean: u64,
    /// Those with a frame too many, too few or in the wrong place, though the profiler does not say so. What is
    /// cut and says so is not wrong.
    pub wrong: u64,
}

impl Tally {
    fn add(&mut self, verdict: Verdict<'_>, count: u64) {
        let counted = |holds: bool| if holds { count } else { 0 };
        self.samples += count;
        self.rooted += counted(verdict.rooted);
        self.chained += counted(verdict.chained);
        self.clean += counted(verdict.clean);
        self.wrong += counted(verdict.wrong);
    }

    /// Percent of the samples.
    pub fn percent(&self, part: u64) -> f64 {
        100.0 * part as f64 / self.samples.max(1) as f64
    }
}

/// How right the stacks of a workload are.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// All samples.
    pub all: Tally,
    /// Those of each chain, by its leaf.
    pub chains: BTreeMap<String, Tally>,
    /// Those in none: on the way to a chain or back, in bookkeeping, or unrecognisable.
    pub in_no_chain: u64,
    /// The most frequent stacks that are not clean, with their number.
    pub unclean: Vec<(String, u64)>,
}

impl Score {
    /// Judges samples.
    pub fn of(expected: &Expected, samples: &[Observed]) -> Self {
        let mut score = Self::default();
        // Stacks repeat: each is judged once.
        let mut stacks: BTreeMap<(&[Frame], bool), u64> = BTreeMap::new();
        for sample in samples {
            *stacks
                .entry((&sample.frames, sample.claims_whole))
                .or_default() += sample.count;
        }
        let mut unclean = Vec::new();
        for ((frames, claims_whole), count) in stacks {
            let observed = Observed {
                frames: frames.to_vec(),
                claims_whole,
                ..Observed::default()
            };
            let verdict = expected.verdict(&observed);
            score.all.add(verdict, count);
            match verdict.leaf {
                Some(leaf) => {
                    let chain = score.chains.entry(leaf.to_owned()).or_default();
                    chain.add(verdict, count);
                }
                None => score.in_no_chain += count,
            }
            if !verdict.clean {
                unclean.push((shown(&observed), count));
            }
        }
        unclean.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        unclean.truncate(5);
        score.unclean = unclean;
        score
    }

    /// Farthest that a chain's share of the samples is from its share of the truth, in points of 100.
    /// `truth` gives the CPU time of a leaf, 0 where it is not known.
    pub fn share_error(&self, truth: impl Fn(&str) -> f64) -> f64 {
        let known = |leaf: &&String| truth(leaf) > 0.0;
        let leaves: Vec<_> = self.chains.keys().filter(known).collect();
        let all_cpu: f64 = leaves.iter().map(|leaf| truth(leaf)).sum();
        let all_samples: u64 = leaves.iter().map(|leaf| self.chains[*leaf].samples).sum();
        let error = |leaf: &&String| {
            let sampled = self.chains[*leaf].samples as f64 / all_samples.max(1) as f64;
            100.0 * (sampled - truth(leaf) / all_cpu).abs()
        };
        leaves.iter().map(error).fold(0.0, f64::max)
    }
}

/// A stack in one line; of a deep one the ends.
fn shown(observed: &Observed) -> String {
    const ENDS: usize = 14;
    let frames = &observed.frames;
    let join = |frames: &[Frame]| {
        let names: Vec<_> = frames.iter().map(Frame::to_string).collect();
        names.join(";")
    };
    let whole = if observed.claims_whole {
        ""
    } else {
        "[not whole];"
    };
    if frames.len() <= 2 * ENDS {
        return format!("{whole}{}", join(frames));
    }
    let (root, leaf) = (&frames[..ENDS], &frames[frames.len() - ENDS..]);
    let left_out = frames.len() - 2 * ENDS;
    format!("{whole}{};({left_out} more);{}", join(root), join(leaf))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        let steps = |leaf| ["main", "drive", "@libc *", "callback", leaf];
        let chain = |leaf| Chain::new(leaf, Root::Main, &steps(leaf));
        Expected::new(
            vec![chain("hot"), chain("cold")],
            &[(Root::Main, &["main", "drive"])],
        )
    }

    fn observed(stack: &str, claims_whole: bool, count: u64) -> Observed {
        let parse = |frame: &str| match frame.split_once('@') {
            Some((function, module)) => Frame::new(function, module),
            None => Frame::new(frame, "program"),
        };
        Observed {
            frames: stack.split_whitespace().map(parse).collect(),
            claims_whole,
            count,
            weight: 0,
        }
    }

    const ROOT: &str = "_start __libc_start_main@libc.so.6 @libc.so.6";

    fn tally(stack: &str, claims_whole: bool) -> Tally {
        let stack = stack.replace("ROOT", ROOT);
        Score::of(&expected(), &[observed(&stack, claims_whole, 1)]).all
    }

    fn of(rooted: u64, chained: u64, clean: u64, wrong: u64) -> Tally {
        Tally {
            samples: 1,
            rooted,
            chained,
            clean,
            wrong,
        }
    }

    #[test]
    fn a_right_stack_is_right_in_every_way() {
        let right = of(1, 1, 1, 0);
        assert_eq!(
            tally("ROOT main drive qsort@libc.so.6 callback hot", true),
            right
        );
        assert_eq!(
            tally("ROOT main drive @libc.so.6 callback cold", true),
            right
        );
        // Before the work, after it, and while it is written down.
        assert_eq!(tally("ROOT main drive @libc.so.6 callback", true), right);
        assert_eq!(tally("ROOT main", true), right);
        assert_eq!(
            tally("ROOT main drive span_begin pread@libc.so.6", true),
            right
        );
    }

    #[test]
    fn an_invented_frame_is_wrong() {
        let stack = "ROOT main drive qsort@libc.so.6 invented callback hot";
        assert_eq!(tally(stack, true), of(1, 1, 0, 1));
        assert_eq!(tally(stack, false), of(1, 1, 0, 1));
        assert_eq!(
            tally("invented ROOT main drive callback hot", true),
            of(0, 0, 0, 1)
        );
    }

    #[test]
    fn a_skipped_frame_is_wrong() {
        assert_eq!(
            tally("ROOT main drive qsort@libc.so.6 hot", true),
            of(1, 0, 0, 1)
        );
        assert_eq!(
            tally("ROOT main drive qsort@libc.so.6 hot", false),
            of(1, 0, 0, 1)
        );
    }

    #[test]
    fn the_wrong_order_is_wrong() {
        assert_eq!(tally("ROOT drive main callback hot", true), of(1, 0, 0, 1));
    }

    #[test]
    fn what_is_cut_is_wrong_only_if_it_is_said_to_be_whole() {
        assert_eq!(
            tally("drive qsort@libc.so.6 callback hot", false),
            of(0, 0, 0, 0)
        );
        assert_eq!(
            tally("drive qsort@libc.so.6 callback hot", true),
            of(0, 0, 0, 1)
        );
        assert_eq!(tally("hot", false), of(0, 0, 0, 0));
        assert_eq!(tally("", false), of(0, 0, 0, 0));
        assert_eq!(tally("", true), of(0, 0, 0, 1));
    }

    #[test]
    fn a_stump_is_no_thread() {
        let chain = Chain::new("work", Root::Thread, &["body", "work"]);
        let expected = Expected::new(vec![chain], &[]).also(Root::Thread, &["body", "@libc *"]);
        let judge = |stack: &str| Score::of(&expected, &[observed(stack, false, 1)]).all;
        assert_eq!(judge("@libc.so.6 nanosleep@libc.so.6"), of(1, 0, 0, 0));
        assert_eq!(
            judge("@libc.so.6 @libc.so.6 body nanosleep@libc.so.6"),
            of(1, 1, 1, 0)
        );
    }

    #[test]
    fn what_looks_like_a_stump_is_right_if_it_is_whole() {
        let chain = Chain::new("work", Root::Main, &["main", "work"]);
        let expected = Expected::new(vec![chain], &[]).also_if_whole(Root::Own, &["@ld-linux"]);
        let judge = |whole| Score::of(&expected, &[observed("@ld-linux.so", whole, 1)]).all;
        assert_eq!(judge(true), of(1, 1, 1, 0));
        assert_eq!(judge(false), of(0, 0, 0, 0));
    }

    #[test]
    fn another_thread_or_nothing_that_is_known_is_wrong() {
        assert_eq!(tally("ROOT main elsewhere", true), of(1, 0, 0, 1));
        assert_eq!(tally("elsewhere", false), of(0, 0, 0, 1));
    }

    #[test]
    fn shares_are_held_against_the_truth() {
        let hot = format!("{ROOT} main drive callback hot");
        let cold = format!("{ROOT} main drive callback cold");
        let score = Score::of(
            &expected(),
            &[
                observed(&hot, true, 70),
                observed(&cold, true, 20),
                observed(&cold.replace("main", "x"), true, 10),
                observed(&format!("{ROOT} main drive"), true, 5),
            ],
        );
        let error = score.share_error(|leaf| if leaf == "hot" { 60.0 } else { 40.0 });
        assert!((error - 10.0).abs() < 1e-9, "{error}");
        assert_eq!((score.all.samples, score.in_no_chain), (105, 5));
        assert_eq!(score.chains["cold"].clean, 20);
        assert_eq!(score.unclean.len(), 1);
        assert_eq!(score.unclean[0].1, 10);
        assert_eq!(score.all.percent(score.all.clean).round(), 90.0);
    }

    #[test]
    fn a_thread_without_symbols_of_libc_has_a_root() {
        let chain = Chain::new("work", Root::Thread, &["body", "work"]);
        let expected = Expected::new(vec![chain], &[]);
        let judge = |stack: &str| Score::of(&expected, &[observed(stack, true, 1)]).all;
        assert_eq!(judge("@libc.so.6 @libc.so.6 body work"), of(1, 1, 1, 0));
        assert_eq!(
            judge("clone3@libc.so.6 start_thread@libc.so.6 body work"),
            of(1, 1, 1, 0)
        );
        assert_eq!(judge("start_thread@libc.so.6 body work"), of(0, 0, 0, 1));
    }
}
