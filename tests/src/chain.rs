//! Patterns of stacks, and whether a stack is one.
//!
//! A pattern is a list of steps, root first. A step is one frame, or as many as its last characters say:
//!
//! | step | is |
//! | --- | --- |
//! | `main` | a frame of function `main` |
//! | `app::%` | of a function whose name begins so; `%` alone is any frame |
//! | `@libc.so` | of a module whose file name begins so, whatever the function |
//! | `a/b/@c` | any of these |
//! | `a *` | as many of these as there are |
//! | `a ?` | one or none |

/// A frame as a profiler shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// Plain name of the function, see [`plain_name`]; empty where it has none.
    pub function: String,
    /// File name of the module, without its folder; empty where unknown.
    pub module: String,
}

impl Frame {
    /// A frame; of the name only what [`plain_name`] leaves, of the module only the file name.
    pub fn new(function: &str, module: &str) -> Self {
        let module = module.trim_end_matches(" (deleted)");
        Self {
            function: plain_name(function),
            module: module.rsplit('/').next().unwrap_or(module).to_owned(),
        }
    }
}

impl std::fmt::Display for Frame {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.function.is_empty() {
            write!(out, "@{}", self.module)
        } else {
            out.write_str(&self.function)
        }
    }
}

/// A function's name without what compilers and profilers add: arguments, return type, hash, clone and version.
pub fn plain_name(function: &str) -> String {
    let mut name = function.trim();
    if let Some((before, _)) = name.split_once(" [clone") {
        name = before;
    }
    let mut name = without_arguments(name);
    for mark in [
        ".cold",
        ".part.",
        ".constprop.",
        ".isra.",
        ".lto_priv.",
        "@@",
        "@GLIBC",
    ] {
        if let Some(at) = name.find(mark) {
            name.truncate(at);
        }
    }
    if let Some((before, hash)) = name.rsplit_once("::h")
        && hash.len() == 16
        && hash.chars().all(|c| c.is_ascii_hexdigit())
    {
        name = before.to_owned();
    }
    name.trim().to_owned()
}

/// Drops the argument list and what follows it, and, before it, the return type that templates are shown with.
fn without_arguments(name: &str) -> String {
    let mut depth = 0_i32;
    let mut start = 0;
    for (at, c) in name.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if !name[..at].ends_with('-') => depth -= 1,
            // `(anonymous namespace)`, `{lambda(int)#1}` and `operator()` are no argument lists.
            '(' if depth == 0 && is_argument_list(name, at) => return name[start..at].to_owned(),
            '{' | '(' => depth += 1,
            '}' | ')' => depth -= 1,
            ' ' if depth == 0 && !name[..at].ends_with("operator") && !name.starts_with('<') => {
                start = at + 1;
            }
            _ => {}
        }
    }
    name[start.min(name.len())..].to_owned()
}

fn is_argument_list(name: &str, at: usize) -> bool {
    !name[..at].is_empty()
        && !name[at..].starts_with("(anonymous namespace)")
        && !name[at..].starts_with("(.*")
        && !name[at..].starts_with("(*")
        && !name[..at].ends_with("operator")
        && !name[..at].ends_with('.')
}

/// One frame of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Want {
    Any,
    Function(String),
    FunctionBegin(String),
    Module(String),
}

impl Want {
    fn parse(text: &str) -> Self {
        if text == "%" {
            Self::Any
        } else if let Some(module) = text.strip_prefix('@') {
            Self::Module(module.to_owned())
        } else if let Some(begin) = text.strip_suffix('%') {
            Self::FunctionBegin(begin.to_owned())
        } else {
            Self::Function(text.to_owned())
        }
    }

    fn is(&self, frame: &Frame) -> bool {
        match self {
            Self::Any => true,
            Self::Function(name) => frame.function == *name,
            Self::FunctionBegin(begin) => frame.function.starts_with(begin.as_str()),
            Self::Module(begin) => frame.module.starts_with(begin.as_str()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    Once,
    Optional,
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    any_of: Vec<Want>,
    repeat: Repeat,
}

impl Step {
    fn parse(text: &str) -> Self {
        let (names, repeat) = match text.rsplit_once(' ') {
            Some((names, "*")) => (names, Repeat::Any),
            Some((names, "?")) => (names, Repeat::Optional),
            _ => (text, Repeat::Once),
        };
        Self {
            any_of: names.split('/').map(Want::parse).collect(),
            repeat,
        }
    }

    fn is(&self, frame: &Frame) -> bool {
        self.any_of.iter().any(|want| want.is(frame))
    }
}

/// Where a stack may begin or end in a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Where the pattern does.
    Exact,
    /// Anywhere in it.
    Anywhere,
    /// Behind so many of its steps, or later. No different from [`Self::Anywhere`] for the start.
    Behind(usize),
}

/// A pattern of stacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Step>);

impl Pattern {
    /// Of steps, see the module's documentation.
    pub fn new<S: AsRef<str>>(steps: impl IntoIterator<Item = S>) -> Self {
        let steps = steps.into_iter().map(|step| Step::parse(step.as_ref()));
        Self(steps.collect())
    }

    /// The same steps, with any frames before, between and after them.
    #[must_use]
    pub fn scattered(&self) -> Self {
        let anything = Step::parse("% *");
        let mut steps = vec![anything.clone()];
        for step in &self.0 {
            steps.extend([step.clone(), anything.clone()]);
        }
        Self(steps)
    }

    /// Whether the frames, root first, are such a stack, all of them.
    pub fn matches(&self, frames: &[Frame], start: Edge, end: Edge) -> bool {
        // A state is how many steps have been taken.
        let steps = &self.0;
        let mut states = vec![false; steps.len() + 1];
        match start {
            Edge::Exact => states[0] = true,
            Edge::Anywhere | Edge::Behind(_) => states.fill(true),
        }
        self.skip(&mut states);
        for frame in frames {
            let mut next = vec![false; steps.len() + 1];
            for (at, step) in steps.iter().enumerate() {
                if states[at] && step.is(frame) {
                    next[at + 1] = true;
                    next[at] |= step.repeat == Repeat::Any;
                }
            }
            self.skip(&mut next);
            states = next;
        }
        match end {
            Edge::Exact => states[steps.len()],
            Edge::Anywhere => states.contains(&true),
            Edge::Behind(taken) => states.iter().skip(taken).any(|reached| *reached),
        }
    }

    /// Steps that need no frame may be passed over.
    fn skip(&self, states: &mut [bool]) {
        for (at, step) in self.0.iter().enumerate() {
            if states[at] && step.repeat != Repeat::Once {
                states[at + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(text: &str) -> Vec<Frame> {
        let parse = |frame: &str| match frame.split_once('@') {
            Some((function, module)) => Frame::new(function, module),
            None => Frame::new(frame, "program"),
        };
        text.split_whitespace().map(parse).collect()
    }

    fn is(steps: &[&str], stack: &str) -> bool {
        Pattern::new(steps).matches(&frames(stack), Edge::Exact, Edge::Exact)
    }

    #[test]
    fn names_become_plain() {
        for (given, plain) in [
            ("main", "main"),
            ("_start", "_start"),
            ("app::cmp(int, int) const", "app::cmp"),
            (
                "void std::__sort<int*, f(int)>(int*, f)",
                "std::__sort<int*, f(int)>",
            ),
            (
                "app::(anonymous namespace)::f(int)",
                "app::(anonymous namespace)::f",
            ),
            (
                "std::function<int (int)>::operator()(int) const",
                "std::function<int (int)>::operator()",
            ),
            (
                "core::ops::FnOnce::call_once::h0123456789abcdef",
                "core::ops::FnOnce::call_once",
            ),
            ("app::exc(int) [clone .cold]", "app::exc"),
            ("level_2.part.0", "level_2"),
            ("clock_gettime@@GLIBC_2.17", "clock_gettime"),
            ("main.(*pool).run", "main.(*pool).run"),
            ("<app::S as app::T>::run", "<app::S as app::T>::run"),
            ("?", "?"),
        ] {
            assert_eq!(plain_name(given), plain, "{given}");
        }
        let frame = Frame::new("f(int)", "/tmp/x/libodd.so (deleted)");
        assert_eq!(frame, Frame::new("f", "libodd.so"));
    }

    #[test]
    fn every_frame_counts() {
        let steps = ["_start", "main", "drive"];
        assert!(is(&steps, "_start main drive"));
        assert!(!is(&steps, "_start main"));
        assert!(!is(&steps, "_start main drive x"));
        assert!(!is(&steps, "_start drive main"));
        assert!(!is(&steps, "_start main main drive"));
    }

    #[test]
    fn repeats_choices_and_modules() {
        let steps = ["main", "@libc *", "cmp/std::%", "leaf ?"];
        assert!(is(&steps, "main cmp"));
        assert!(is(&steps, "main qsort@libc.so.6 ?@libc.so.6 cmp leaf"));
        assert!(is(&steps, "main std::sort leaf"));
        assert!(!is(&steps, "main qsort@libm.so.6 cmp leaf"));
        assert!(!is(&steps, "main qsort@libc.so.6 leaf"));
        assert!(is(&["% *", "leaf"], "a b leaf"));
    }

    #[test]
    fn edges() {
        let pattern = Pattern::new(["a", "b ?", "c", "d"]);
        let matches = |text, start, end| pattern.matches(&frames(text), start, end);
        assert!(matches("a c", Edge::Exact, Edge::Anywhere));
        assert!(!matches("c d", Edge::Exact, Edge::Anywhere));
        assert!(matches("c d", Edge::Anywhere, Edge::Exact));
        assert!(matches("c", Edge::Anywhere, Edge::Anywhere));
        assert!(!matches("a d", Edge::Anywhere, Edge::Anywhere));
        assert!(matches("", Edge::Anywhere, Edge::Anywhere));
        assert!(
            matches("a", Edge::Exact, Edge::Behind(2)),
            "the second is optional"
        );
        assert!(!matches("a b", Edge::Exact, Edge::Behind(3)));
    }

    #[test]
    fn scattered_steps_may_have_others_between() {
        let pattern = Pattern::new(["a", "c"]).scattered();
        let matches = |text| pattern.matches(&frames(text), Edge::Exact, Edge::Exact);
        assert!(matches("x a b c d"));
        assert!(matches("a c"));
        assert!(!matches("c a"));
    }
}
