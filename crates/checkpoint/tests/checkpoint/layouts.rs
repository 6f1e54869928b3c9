//! What one layout writes any other layout reads.

use crate::common::{Whole, boxes, folder, save, state};
use proptest::prelude::*;
use strand_checkpoint::{Dtype, Kind, Reader, step_folder};
use tokio::runtime::Runtime;

fn tensor() -> impl Strategy<Value = (Whole, usize)> {
    const KINDS: &[Kind] = &[Kind::Parameter, Kind::ExpAvg, Kind::ExpAvgSq, Kind::Master];
    const DTYPES: &[Dtype] = &[Dtype::F64, Dtype::F32, Dtype::Bf16, Dtype::F16];
    let shape = prop::collection::vec(1u64..9, 0..4);
    let (kind, dtype) = (prop::sample::select(KINDS), prop::sample::select(DTYPES));
    (shape, kind, dtype, 0usize..3).prop_map(|(shape, kind, dtype, axis)| {
        let name = String::new();
        (Whole { name, kind, dtype, shape }, axis)
    })
}

fn tensors() -> impl Strategy<Value = Vec<(Whole, usize)>> {
    prop::collection::vec(tensor(), 1..6).prop_map(|mut tensors| {
        for (number, (tensor, _)) in tensors.iter_mut().enumerate() {
            tensor.name = format!("layers.{number}.weight");
        }
        tensors
    })
}

/// A random box of a shape, empty ones among them.
fn random_box(shape: &[u64], dice: &[u64]) -> (Vec<u64>, Vec<u64>) {
    let pick = |axis: usize| {
        let offset = dice[axis * 2] % (shape[axis] + 1);
        (offset, dice[axis * 2 + 1] % (shape[axis] - offset + 1))
    };
    (0..shape.len()).map(pick).unzip()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_layout_reads_what_any_other_wrote(
        tensors in tensors(),
        (dp, tp, other_dp, other_tp) in (1u64..4, 1u64..5, 1u64..4, 1u64..5),
        other_axis in 0usize..3,
        dice in prop::collection::vec(0u64..1000, 6),
    ) {
        let runtime = Runtime::new().expect("a runtime");
        let (_guard, run) = folder();
        runtime.block_on(async {
            let written = save(&run, &state(1, dp, tp), &tensors).await.expect("saved");
            let reader = Reader::open(&run.join(&step_folder(1))).await.expect("opens");
            prop_assert_eq!(reader.manifest(), &written);
            for (tensor, _) in &tensors {
                let mut wanted = boxes(&tensor.shape, other_axis, other_dp, other_tp);
                let (offset, extent) = random_box(&tensor.shape, &dice);
                wanted.push((0, offset, extent));
                for (_, offset, extent) in wanted {
                    let read = reader.read_slice(&tensor.name, tensor.kind, &offset, &extent).await;
                    prop_assert_eq!(read.expect("read"), tensor.slice(&offset, &extent));
                }
                let whole = reader.read_tensor(&tensor.name, tensor.kind).await.expect("read");
                prop_assert_eq!(whole, tensor.values());
            }
            Ok(())
        })?;
    }
}

/// Parts of several blocks and requests: 24 MiB a part, read by columns and in the middle.
#[tokio::test]
async fn large_parts_are_read_by_blocks() {
    let (_guard, run) = folder();
    let tensor = Whole {
        name: "big".into(),
        kind: Kind::Parameter,
        dtype: Dtype::Bf16,
        shape: vec![6, 1024, 4096],
    };
    save(&run, &state(1, 1, 2), &[(tensor.clone(), 0)]).await.expect("saved");
    let reader = Reader::open(&run.join(&step_folder(1))).await.expect("opens");
    let values = tensor.values();
    let whole = reader.read_tensor("big", Kind::Parameter).await.expect("read");
    assert!(whole == values, "the whole tensor differs");
    let columns = reader.read_slice("big", Kind::Parameter, &[0, 0, 1000], &[6, 1024, 7]).await;
    let expected: Vec<u8> = values.chunks(8192).flat_map(|row| &row[2000..2014]).copied().collect();
    assert!(columns.expect("read") == expected, "columns differ");
    let middle = reader.read_slice("big", Kind::Parameter, &[2, 1000, 0], &[2, 1, 4096]).await;
    let row = |plane: usize| &values[(plane * 1024 + 1000) * 8192..][..8192];
    assert!(middle.expect("read") == [row(2), row(3)].concat(), "rows differ");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let (_guard, run) = folder();
    let tensor =
        Whole { name: "w".into(), kind: Kind::Parameter, dtype: Dtype::F32, shape: vec![4, 4] };
    save(&run, &state(1, 1, 1), &[(tensor, 0)]).await.expect("saved");
    let reader = Reader::open(&run.join(&step_folder(1))).await.expect("opens");
    let error = reader.read_tensor("w", Kind::ExpAvg).await.expect_err("refused");
    assert!(error.to_string().contains("no tensor `w` (exp_avg)"), "{error}");
    let error =
        reader.read_slice("w", Kind::Parameter, &[2, 0], &[3, 4]).await.expect_err("refused");
    assert!(
        error.to_string().contains("shape [4, 4] has no slice at [2, 0] of size [3, 4]"),
        "{error}"
    );
    let error = reader.read_slice("w", Kind::Parameter, &[0], &[4]).await.expect_err("refused");
    assert_eq!(error.exit_code(), 5);
    assert!(error.hint().is_some());
}
