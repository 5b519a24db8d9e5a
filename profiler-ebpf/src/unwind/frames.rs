//! From a frame to its caller, again and again.

use aya_ebpf::helpers::bpf_probe_read_user;
use profiler_abi::{
    INTERRUPTED, MAX_USER_FRAMES, RUNS_INTERPRETER, StackRecord, stack_end,
    unwind::{Rule, cfa, mapping_kind, runtime_kind, saved},
};

use super::{
    cache,
    lookup::{find_mapping, find_rule},
    registers::{RETURN_ADDRESS_MASK, load_ucontext},
    state::State,
};
use crate::stack;

/// Frames that one call walks. More make the calls fewer, and the function more
/// work for the verifier.
pub(crate) const FRAMES_PER_CALL: u32 = 4;

/// How far above the stack pointer a frame pointer may be: a whole stack of the
/// usual limit, 8 MiB. Beyond, the register holds something else.
const LONGEST_FRAME: u64 = 8 << 20;

/// Walks some frames. Returns 1 where there may be more, 0 at the end. A
/// function of its own to the verifier, which therefore checks these frames for
/// all; and so the depth costs it nothing, on any kernel, with or without
/// `bpf_loop`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn unwind_frames(slot: u32) -> u32 {
    let (Some(state), Some(record)) = (State::of(slot), stack::scratch(slot)) else {
        return 0;
    };
    for _ in 0..FRAMES_PER_CALL {
        // SAFETY: per-CPU memory that only this kind of program uses.
        if !unsafe { frame(slot, state, record) } {
            return 0;
        }
    }
    1
}

/// Writes the frame and goes to its caller. False: the walk has ended.
#[inline(always)]
unsafe fn frame(slot: u32, state: *mut State, record: *mut StackRecord) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let len = (*state).len as usize;
        if len >= MAX_USER_FRAMES {
            return State::stop(state, stack_end::CUT);
        }
        // A call that does not return ends on the next function's first byte.
        let address = (*state).pc - u64::from((*state).exact == 0);
        let is_cached = cache::find(state, address);
        if !is_cached && !look_up(slot, state, address) {
            return false;
        }
        let interrupted = (*state).exact != 0 && len != 0;
        let runs_code =
            (*state).has_rule != 0 && Rule::from_words((*state).rule).runtime != runtime_kind::NONE;
        (*record).frames[len] = (*state).pc
            | if interrupted { INTERRUPTED } else { 0 }
            | if runs_code { RUNS_INTERPRETER } else { 0 };
        (*state).len = len as u32 + 1;
        if (*state).has_rule != 0 {
            by_rule(slot, state)
        } else {
            by_frame_pointer(state)
        }
    }
}

/// Finds the rule of an address, if it has one. False: the walk has ended.
#[inline(always)]
unsafe fn look_up(slot: u32, state: *mut State, address: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if (address < (*state).map_start || address >= (*state).map_end)
            && find_mapping(slot, address) == 0
        {
            return outside(state);
        }
        let kind = (*state).map_kind;
        if kind == mapping_kind::PENDING {
            return State::hand_over(state, stack_end::NO_TABLE);
        }
        (*state).has_rule = 0;
        if kind == mapping_kind::TABLE && find_rule(slot, address) != 0 {
            if Rule::from_words((*state).rule).cfa == cfa::UNSUPPORTED {
                return State::hand_over_all(state, stack_end::UNSUPPORTED);
            }
            (*state).has_rule = 1;
            cache::keep(state, address);
        }
        true
    }
}

/// The address lies in no mapping that is known.
#[inline(always)]
unsafe fn outside(state: *mut State) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if (*state).guessed != 0 {
            // In code without frame pointers the register holds anything.
            return State::stop(state, stack_end::FRAME_POINTERS);
        }
        let end = if (*state).mapping_count == 0 {
            stack_end::NO_TABLE
        } else {
            stack_end::NO_MAPPING
        };
        State::hand_over(state, end)
    }
}

#[inline(always)]
unsafe fn by_rule(slot: u32, state: *mut State) -> bool {
    // SAFETY: the caller's promise; the helpers check what they read.
    unsafe {
        let rule = Rule::from_words((*state).rule);
        if rule.runtime != 0 {
            (*state).runtime_seen = 1;
        }
        let offset = i64::from(rule.cfa_offset) as u64;
        let sp = (*state).sp;
        let frame = match rule.cfa {
            cfa::STACK_POINTER => sp.wrapping_add(offset),
            cfa::FRAME_POINTER => (*state).fp.wrapping_add(offset),
            cfa::END => return State::stop(state, whole(state)),
            cfa::SIGNAL => {
                if load_ucontext(slot, sp.wrapping_add(offset)) == 0 {
                    return State::stop(state, stack_end::UNREADABLE);
                }
                (*state).exact = 1;
                (*state).exact_len = (*state).len;
                return true;
            }
            cfa::PLT => {
                let pushed = ((*state).pc & 15) as i64 >= i64::from(rule.parameter);
                sp.wrapping_add(offset).wrapping_add(u64::from(pushed) << 3)
            }
            cfa::REGISTER => {
                if (*state).exact == 0 {
                    return State::hand_over_all(state, stack_end::UNSUPPORTED);
                }
                // 32 registers; the program counter is none that a frame is based on.
                let register = (*state).registers[rule.parameter as usize & 31];
                register.wrapping_add(offset)
            }
            _ => {
                let base = if rule.cfa == cfa::AT_STACK_POINTER {
                    sp
                } else {
                    (*state).fp
                };
                let Ok(stored) = read(base.wrapping_add(offset)) else {
                    return State::stop(state, stack_end::UNREADABLE);
                };
                stored.wrapping_add(i64::from(rule.parameter) as u64)
            }
        };
        go_to_caller(state, rule, frame)
    }
}

/// The frame's canonical address is known: takes what is saved there.
#[inline(always)]
unsafe fn go_to_caller(state: *mut State, rule: Rule, frame: u64) -> bool {
    // SAFETY: the caller's promise; the helpers check what they read.
    unsafe {
        // The leaf of a function that has not touched the stack may be as high
        // as its caller, where the return address is in a register.
        let advances = frame > (*state).sp || (frame == (*state).sp && (*state).exact != 0);
        let switched = rule.cfa == cfa::FRAME_POINTER && rule.parameter == cfa::SWITCHED;
        if !advances && !switched {
            return State::stop(state, stack_end::NO_PROGRESS);
        }
        let fp_at = match rule.frame_pointer {
            saved::AT_CFA => frame.wrapping_add(i64::from(rule.frame_pointer_offset) as u64),
            saved::AT_FRAME_POINTER => (*state)
                .fp
                .wrapping_add(i64::from(rule.frame_pointer_offset) as u64),
            _ => 0,
        };
        let pc_at = frame.wrapping_add(i64::from(rule.return_address_offset) as u64);
        let mut pc = 0;
        if rule.return_address == saved::LINK_REGISTER {
            if (*state).exact == 0 {
                return State::stop(state, stack_end::NO_PROGRESS);
            }
            pc = (*state).registers[30];
        }
        if rule.return_address == saved::AT_CFA && fp_at.wrapping_add(8) == pc_at {
            // Side by side, as most functions have them.
            let Ok(both) = bpf_probe_read_user(fp_at as *const [u64; 2]) else {
                return State::stop(state, stack_end::UNREADABLE);
            };
            (*state).fp = both[0];
            pc = both[1];
        } else {
            if rule.return_address == saved::AT_CFA {
                let Ok(saved) = read(pc_at) else {
                    return State::stop(state, stack_end::UNREADABLE);
                };
                pc = saved;
            }
            if fp_at != 0 {
                let Ok(saved) = read(fp_at) else {
                    return State::stop(state, stack_end::UNREADABLE);
                };
                (*state).fp = saved;
            }
        }
        (*state).guessed = 0;
        arrive(state, frame, pc)
    }
}

/// No rule: the frame pointer is all there is. It leads to the caller's frame
/// pointer and the return address.
#[inline(always)]
unsafe fn by_frame_pointer(state: *mut State) -> bool {
    // SAFETY: the caller's promise; the helpers check what they read.
    unsafe {
        let fp = (*state).fp;
        let distance = fp.wrapping_sub((*state).sp);
        if distance > LONGEST_FRAME || fp % 8 != 0 {
            return State::stop(state, no_frame_pointer(state));
        }
        let Ok(both) = bpf_probe_read_user(fp as *const [u64; 2]) else {
            return State::stop(state, no_frame_pointer(state));
        };
        (*state).fp = both[0];
        (*state).by_frame_pointer += 1;
        (*state).guessed = 1;
        arrive(state, fp.wrapping_add(16), both[1])
    }
}

/// How a walk ends whose frame pointer leads nowhere.
#[inline(always)]
unsafe fn no_frame_pointer(state: *mut State) -> u8 {
    // SAFETY: the caller's promise.
    unsafe {
        if (*state).fp == 0 || (*state).map_kind == mapping_kind::JIT {
            stack_end::FRAME_POINTERS
        } else {
            stack_end::NO_RULE
        }
    }
}

#[inline(always)]
unsafe fn arrive(state: *mut State, sp: u64, pc: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let pc = pc & RETURN_ADDRESS_MASK;
        if pc == 0 {
            // Whoever made the stack marked its end so.
            return State::stop(state, whole(state));
        }
        (*state).pc = pc;
        (*state).sp = sp;
        (*state).exact = 0;
        true
    }
}

/// The outermost frame was reached: proven, unless the way led over frame
/// pointers alone at the end.
#[inline(always)]
unsafe fn whole(state: *mut State) -> u8 {
    // SAFETY: the caller's promise.
    if unsafe { (*state).guessed } != 0 {
        stack_end::FRAME_POINTERS
    } else {
        stack_end::WHOLE
    }
}

#[inline(always)]
unsafe fn read(address: u64) -> Result<u64, i32> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const u64) }
}
