use super::*;

const CODE: u64 = 0x1000;

/// Frames by letters: `f` one inside a call, `E` the outermost one of a call,
/// `-` a call without frames, a digit a note.
fn runtime(text: &str) -> Vec<RuntimeFrame> {
    let frame = |letter| match letter {
        'f' => (CODE, 0),
        'E' => (CODE, RuntimeFrame::ENTRY),
        '-' => (0, RuntimeFrame::ENTRY),
        note => (0, u64::from(note.to_digit(10).unwrap())),
    };
    let frames = text.chars().map(frame);
    frames
        .map(|(code, place)| RuntimeFrame { code, place })
        .collect()
}

/// Native frames by letters: `I` runs interpreted code.
fn native(text: &str) -> Vec<Place> {
    let place = |letter| match letter {
        'I' => Place::Interpreter,
        _ => Place::Native,
    };
    text.chars().map(place).collect()
}

/// The merged stack: letters of the native frames, indices of the others.
fn merged(text: &str, is_whole: bool, frames: &str) -> (String, usize, usize) {
    let merge = merge(&native(text), is_whole, &runtime(frames));
    let letters = merge.frames.iter().map(|frame| match frame {
        Merged::Native(index) => text[*index..=*index].to_owned(),
        Merged::Runtime(index) => index.to_string(),
    });
    (letters.collect(), merge.calls_left, merge.frames_left)
}

fn is(text: &str, calls_left: usize, frames_left: usize) -> (String, usize, usize) {
    (text.to_owned(), calls_left, frames_left)
}

#[test]
fn one_call_for_each_frame() {
    assert_eq!(merged("aIbIcId", true, "EEE"), is("a0b1c2d", 0, 0));
    assert_eq!(merged("aIbIcId", false, "EEE"), is("a0b1c2d", 0, 0));
    assert_eq!(merged("abc", true, ""), is("abc", 0, 0));
}

#[test]
fn several_frames_in_one_call() {
    assert_eq!(merged("aIbIc", true, "ffEfE"), is("a012b34c", 0, 0));
    assert_eq!(merged("IIz", true, "fEE"), is("012z", 0, 0));
}

#[test]
fn a_call_without_frames_stays() {
    assert_eq!(merged("aIbIcId", true, "E-E"), is("a0bIc2d", 1, 0));
    assert_eq!(merged("IbI", true, "-fE"), is("Ib12", 1, 0));
}

#[test]
fn a_call_that_has_only_begun_has_no_frame() {
    assert_eq!(merged("IbIcId", true, "EE"), is("Ib0c1d", 1, 0));
    assert_eq!(merged("IbIcId", false, "EE"), is("Ib0c1d", 1, 0));
    assert_eq!(merged("Ib", true, ""), is("Ib", 1, 0));
}

#[test]
fn a_stack_without_root_keeps_the_frames_of_its_callers() {
    assert_eq!(merged("aIb", false, "EEfE"), is("a0b123", 0, 3));
    assert_eq!(merged("ab", false, "fE"), is("ab01", 0, 2));
}

#[test]
fn frames_that_a_whole_stack_has_no_call_for_stand_beside_its_outermost_one() {
    assert_eq!(merged("aIbIcd", true, "EfEE"), is("a0b123cd", 0, 1));
    assert_eq!(merged("ab", true, "EE"), is("ab01", 0, 2));
}

#[test]
fn an_interpreter_that_was_not_read_to_its_end_is_paired_from_the_leaf() {
    assert_eq!(merged("aIbIcId", true, "fEf1"), is("a01b2cId", 1, 0));
    let cut = merge(&native("aIbI"), true, &runtime("E2"));
    assert_eq!(
        cut.frames,
        [
            Merged::Native(0),
            Merged::Runtime(0),
            Merged::Native(2),
            Merged::Native(3)
        ]
    );
    assert_eq!(cut.note, frame_note::UNREADABLE);
    assert_eq!(merged("aIb", true, "3"), is("aIb", 1, 0));
}

/// Whatever is put in comes out: each native frame that runs no interpreted
/// code, and each frame of the interpreter, once and in order.
#[test]
fn nothing_is_lost_or_invented() {
    let mut state = 7_u32;
    let mut next = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    for _ in 0..20_000 {
        let natives: String = (0..next(12))
            .map(|_| ['a', 'I'][next(2) as usize])
            .collect();
        let mut frames: String = (0..next(12))
            .map(|_| ['f', 'E', '-'][next(3) as usize])
            .collect();
        if next(3) == 0 {
            frames.push(['1', '2', '3'][next(3) as usize]);
        }
        let runtime = runtime(&frames);
        let merge = merge(&native(&natives), next(2) == 0, &runtime);
        let taken = merge.frames.iter().filter_map(|frame| match frame {
            Merged::Runtime(index) => Some(*index),
            Merged::Native(_) => None,
        });
        let there = (0..runtime.len()).filter(|index| runtime[*index].code != 0);
        assert!(taken.eq(there), "{natives} {frames}");
        let kept: Vec<usize> = merge
            .frames
            .iter()
            .filter_map(|frame| match frame {
                Merged::Native(index) => Some(*index),
                Merged::Runtime(_) => None,
            })
            .collect();
        assert!(kept.is_sorted_by(|a, b| a < b), "{natives} {frames}");
        let plain = natives.match_indices('a').map(|(index, _)| index);
        assert!(
            plain.clone().all(|index| kept.contains(&index)),
            "{natives} {frames}"
        );
        assert_eq!(kept.len(), plain.count() + merge.calls_left);
    }
}
