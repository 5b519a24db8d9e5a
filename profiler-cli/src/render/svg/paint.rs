//! Colours of a flame graph, and the legend that says what they mean.

use std::collections::BTreeSet;

use inferno::flamegraph::color;
use profiler_proto::Event;

use crate::naming::Role;

/// A range of colours; names are spread over it so that neighbours can be told apart.
#[derive(Clone, Copy)]
pub(super) struct Tint {
    from: color::Color,
    to: color::Color,
}

impl Tint {
    /// Halfway to white.
    fn lighter(self) -> Self {
        let half = |part: u8| part + (255 - part) / 2;
        let lighter = |c: color::Color| rgb(half(c.r), half(c.g), half(c.b));
        Self {
            from: lighter(self.from),
            to: lighter(self.to),
        }
    }
}

/// A colour by its parts.
pub(super) const fn rgb(r: u8, g: u8, b: u8) -> color::Color {
    color::Color { r, g, b }
}

/// Command names and markers.
pub(super) const GREY: Tint = Tint {
    from: rgb(206, 206, 202),
    to: rgb(224, 224, 220),
};
const AMBER: Tint = Tint {
    from: rgb(240, 140, 60),
    to: rgb(250, 205, 95),
};
const RED: Tint = Tint {
    from: rgb(222, 100, 78),
    to: rgb(240, 140, 118),
};
const BLUE: Tint = Tint {
    from: rgb(120, 172, 228),
    to: rgb(168, 208, 245),
};
const DEEP_BLUE: Tint = Tint {
    from: rgb(98, 136, 210),
    to: rgb(130, 164, 226),
};
const GREEN: Tint = Tint {
    from: rgb(122, 196, 128),
    to: rgb(178, 224, 150),
};
const TEAL: Tint = Tint {
    from: rgb(84, 176, 170),
    to: rgb(124, 204, 190),
};
const VIOLET: Tint = Tint {
    from: rgb(170, 142, 214),
    to: rgb(204, 182, 234),
};
const OLIVE: Tint = Tint {
    from: rgb(168, 190, 96),
    to: rgb(200, 216, 136),
};
const PINK: Tint = Tint {
    from: rgb(220, 132, 182),
    to: rgb(238, 172, 206),
};

/// What a box is drawn as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Paint {
    /// The command name of a thread.
    Thread,
    /// A frame, in a wait for a CPU or not.
    Frame {
        /// What it is.
        role: Role,
        /// Whether the thread waited for a CPU.
        runnable: bool,
    },
}

impl Paint {
    /// inferno colours by name, and hides one of these at the end of a name: with it, names that are the
    /// same can have different colours.
    pub(super) fn annotation(self) -> &'static str {
        match self {
            Self::Thread => "_[i]",
            Self::Frame { role, runnable } => match (role.is_kernel(), runnable) {
                (false, false) => "",
                (true, false) => "_[k]",
                (false, true) => "_[w]",
                (true, true) => "_[j]",
            },
        }
    }

    /// Its colours. Inlined functions have a paler shade of those around them.
    pub(super) fn tint(self, event: Event) -> Tint {
        let Self::Frame { role, runnable } = self else {
            return GREY;
        };
        match (role, event, runnable) {
            (Role::Gap { .. }, _, _) => GREY,
            (Role::User, Event::Cpu, _) | (Role::User, _, true) => AMBER,
            (Role::Kernel, Event::Cpu, _) | (Role::Kernel, _, true) => RED,
            (Role::User, Event::OffCpu, _) => BLUE,
            (Role::Kernel, Event::OffCpu, _) => DEEP_BLUE,
            (Role::User, Event::Io, _) => GREEN,
            (Role::Kernel, Event::Io, _) => TEAL,
            (Role::Interpreted, _, false) => VIOLET,
            (Role::Jit, _, false) => OLIVE,
            (Role::Interpreted | Role::Jit, _, true) => PINK,
            (Role::Inlined, _, _) => Self::Frame {
                role: Role::User,
                runnable,
            }
            .tint(event)
            .lighter(),
        }
    }
}

/// What the legend says, with the paints whose colours stand before it: user and kernel always, the others
/// where the picture has them.
fn legend(event: Event, drawn: &BTreeSet<Paint>) -> Vec<(Vec<Paint>, &'static str)> {
    const ROLES: [(Role, &str); 5] = [
        (Role::User, "user"),
        (Role::Inlined, "inlined"),
        (Role::Jit, "JIT"),
        (Role::Interpreted, "script"),
        (Role::Kernel, "kernel"),
    ];
    let is_common = |role: Role| matches!(role, Role::User | Role::Kernel);
    let has = |role: Role| {
        drawn
            .iter()
            .any(|paint| matches!(paint, Paint::Frame { role: one, .. } if *one == role))
    };
    let roles = ROLES
        .iter()
        .filter(|(role, _)| is_common(*role) || has(*role));
    let paint = |role, runnable| Paint::Frame { role, runnable };
    if event != Event::OffCpu {
        return roles
            .map(|(role, name)| (vec![paint(*role, false)], *name))
            .collect();
    }
    let roles: Vec<Role> = roles.map(|(role, _)| *role).collect();
    let all = |runnable| roles.iter().map(|role| paint(*role, runnable)).collect();
    vec![(all(false), "blocked"), (all(true), "runnable")]
}

/// The colour of a name: the same one in every graph.
pub(super) fn shade(tint: Tint, name: &str) -> color::Color {
    // FNV-1a: https://datatracker.ietf.org/doc/html/draft-eastlake-fnv
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let position = i32::from((hash >> 24) as u8);
    let mix = |from: u8, to: u8| {
        let value = i32::from(from) + (i32::from(to) - i32::from(from)) * position / 255;
        u8::try_from(value).unwrap_or(to)
    };
    rgb(
        mix(tint.from.r, tint.to.r),
        mix(tint.from.g, tint.to.g),
        mix(tint.from.b, tint.to.b),
    )
}

/// Coloured squares with their meaning, to the left of the title.
pub(super) fn legend_svg(event: Event, drawn: &BTreeSet<Paint>, font_size: usize) -> String {
    const SQUARE: usize = 11;
    // Right of "Reset Zoom", which appears in the corner.
    let mut x = 100;
    let baseline = font_size * 2;
    let top = baseline + 1 - SQUARE;
    // inferno draws the search button almost invisible.
    let mut svg = String::from("<style>#search { opacity:0.5 }</style><g id=\"legend\">");
    for (paints, meaning) in legend(event, drawn) {
        for paint in paints {
            let color::Color { r, g, b } = shade(paint.tint(event), "");
            svg += &format!(
                "<rect x=\"{x}\" y=\"{top}\" width=\"{SQUARE}\" height=\"{SQUARE}\" fill=\"rgb({r},{g},{b})\"/>"
            );
            x += SQUARE + 1;
        }
        x += 4;
        svg += &format!("<text x=\"{x}\" y=\"{baseline}\">{meaning}</text>");
        x += (meaning.len() + 2) * font_size * 6 / 10;
    }
    svg + "</g>"
}
