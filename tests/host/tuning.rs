//! Tiles that were measured: what they are kept as, and which plans take them.

use crate::plan::{PORTABLE, ordinary};
use wgpu_attention::{
    AttentionOptions, AttentionShape, Capabilities, ForwardTile, Kernel, Plan, Problem, Tuning,
};

const KNOWN: &str = "\
head_dim=64 value_dim=64 element=f32 rows=256 threads=128 rows_each=2 keys_each=4 ahead=false
head_dim=64 value_dim=64 element=bf16 rows=1 threads=8 rows_each=1 keys_each=2 ahead=true
";

fn tuned(shape: &AttentionShape, capabilities: &Capabilities, text: &str) -> Plan {
    let problem = Problem::new(shape, &AttentionOptions::default()).unwrap();
    Plan::tuned(problem, capabilities, None, &text.parse().unwrap()).unwrap()
}

#[test]
fn a_tuning_is_the_text_that_it_is_kept_as() {
    let tuning: Tuning = KNOWN.parse().unwrap();
    assert_eq!(tuning.to_string(), KNOWN);
    // The last word on a shape counts.
    let again = format!("{KNOWN}{}", KNOWN.lines().next().unwrap().replace("=128", "=32"));
    assert_eq!(again.parse::<Tuning>().unwrap().to_string().lines().count(), 2);
    assert_eq!("".parse::<Tuning>().unwrap(), Tuning::default());
    for damaged in [
        "nonsense",
        "head_dim=64",
        "head_dim=64 value_dim=64 element=f64 rows=256 threads=128 rows_each=2 keys_each=4 ahead=false",
        "head_dim=64 value_dim=64 element=f32 rows=-1 threads=128 rows_each=2 keys_each=4 ahead=false",
        "head_dim=64 value_dim=64 element=f32 rows=256 threads=128 keys_each=4 rows_each=2 ahead=false",
        "head_dim=64 value_dim=64 element=f32 rows=256 threads=128 rows_each=2 keys_each=4 ahead=1",
        "head_dim=64 value_dim=64 element=f32 rows=256 threads=128 rows_each=2 keys_each=4 ahead=false more=1",
    ] {
        let refused = damaged.parse::<Tuning>().unwrap_err().to_string();
        let says = "tuning: expected lines of head_dim, value_dim, element, rows, threads, rows_each, keys_each, ahead as";
        assert!(refused.starts_with(says) && refused.contains(damaged), "{refused}");
    }
}

/// Where one of forward and one of tiled may be measured.
const SOFTWARE: Capabilities = Capabilities { processors: 2, ..PORTABLE };
const GPU: Capabilities = Capabilities { workgroup_memory: 32 << 10, ..PORTABLE };

#[test]
fn plans_like_the_one_that_was_measured_take_its_tile() {
    let long = AttentionShape { q_len: 300, ..ordinary() };
    let plan = tuned(&long, &SOFTWARE, KNOWN);
    let tile = ForwardTile { threads: 128, rows_each: 2, keys_each: 4, ahead: false };
    assert!(plan.tuned && plan.tiles.forward_tile() == Some(tile), "{plan}");
    assert!(plan.to_string().contains("each 2 rows and 4 keys at a time, as measured\n"), "{plan}");
    for other in [
        AttentionShape { q_len: 60, ..long.clone() },
        AttentionShape { head_dim: 60, ..long.clone() },
        AttentionShape { value_dim: 60, ..long.clone() },
        AttentionShape { raw_scores: Some(wgpu_attention::Layout::Bhsd), ..long.clone() },
    ] {
        let plan = tuned(&other, &SOFTWARE, KNOWN);
        assert!(!plan.tuned && !plan.to_string().contains("measured"), "{plan}");
        let problem = Problem::new(&other, &AttentionOptions::default()).unwrap();
        assert_eq!(plan, Plan::new(problem, &SOFTWARE, None).unwrap());
    }
}

#[test]
fn a_tile_that_a_device_or_shape_has_no_room_for_is_passed_over() {
    let long = AttentionShape { q_len: 300, ..ordinary() };
    let like = "head_dim=64 value_dim=64 element=f32 rows=256";
    let small = Capabilities { workgroup_invocations: 64, ..PORTABLE };
    for (tile, capabilities) in [
        ("threads=128 rows_each=2 keys_each=4 ahead=false", &small),
        ("threads=0 rows_each=2 keys_each=4 ahead=false", &SOFTWARE),
        ("threads=48 rows_each=2 keys_each=4 ahead=false", &SOFTWARE),
        ("threads=512 rows_each=2 keys_each=4 ahead=false", &SOFTWARE),
        ("threads=64 rows_each=3 keys_each=4 ahead=false", &SOFTWARE),
        ("threads=64 rows_each=0 keys_each=4 ahead=false", &SOFTWARE),
        ("threads=64 rows_each=2 keys_each=8 ahead=false", &SOFTWARE),
        ("threads=64 rows_each=2 keys_each=4294967295 ahead=false", &SOFTWARE),
        // Of 28 keys and values of 16 vectors each has 28 to hold.
        ("threads=32 rows_each=1 keys_each=4 ahead=true", &SOFTWARE),
    ] {
        let plan = tuned(&long, capabilities, &format!("{like} {tile}"));
        assert!(!plan.tuned && plan.kernel == Kernel::Forward, "{tile}: {plan}");
    }
    let text = format!("{like} threads=64 rows_each=1 keys_each=4 ahead=true");
    let tile = tuned(&long, &SOFTWARE, &text).tiles.forward_tile();
    assert!(tile.is_some_and(|tile| tile.ahead));
    // Of 4 x 4 a loop takes too few columns for four of them to cover 128.
    let wide = AttentionShape { q_len: 300, ..AttentionShape::new(1, 1, 1, 128) };
    let text = "head_dim=128 value_dim=128 element=f32 rows=256 threads=64 rows_each=4 keys_each=4 ahead=false";
    assert!(!tuned(&wide, &SOFTWARE, text).tuned);
}

#[test]
fn a_gpu_takes_tiles_of_tiled() {
    let long = AttentionShape { q_len: 300, ..ordinary() };
    let like = "head_dim=64 value_dim=64 element=f32 rows=256";
    for (tile, is_taken) in [
        ("threads=128 rows_each=8 keys_each=8 ahead=false", true),
        ("threads=64 rows_each=8 keys_each=8 ahead=false", true),
        ("threads=256 rows_each=4 keys_each=4 ahead=false", true),
        ("threads=256 rows_each=8 keys_each=8 ahead=false", false),
        ("threads=128 rows_each=4 keys_each=8 ahead=false", false),
        ("threads=128 rows_each=8 keys_each=4 ahead=true", false),
        ("threads=0 rows_each=8 keys_each=4 ahead=false", false),
        ("threads=32 rows_each=8 keys_each=4 ahead=false", false),
        ("threads=128 rows_each=2 keys_each=4 ahead=false", false),
    ] {
        let plan = tuned(&long, &GPU, &format!("{like} {tile}"));
        assert_eq!((plan.kernel, plan.tuned), (Kernel::Tiled, is_taken), "{tile}: {plan}");
    }
    // Eight rows of 256 columns are more than registers hold.
    let wide = AttentionShape { q_len: 300, ..AttentionShape::new(1, 1, 1, 256) };
    let tile = "rows=256 threads=128 rows_each=8 keys_each=4 ahead=false";
    let text = format!("head_dim=256 value_dim=256 element=f32 {tile}");
    assert!(!tuned(&wide, &GPU, &text).tuned);
}
