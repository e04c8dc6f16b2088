//! Runs the measured part of a benchmark as one call that is never inlined, so that `perf/instructions` can
//! count its instructions.

use std::hint::black_box;

use criterion::Bencher;

/// The environment variable that `perf/instructions` sets. A benchmark then runs a fixed number of iterations
/// and prints that number.
const COUNTED: &str = "MILLSTREAM_BENCH_COUNTED";

/// Iterations before the counted ones. The memory store of the benchmarks is full after 259 batches, and
/// drops its oldest from then on.
const WARM_UP: u32 = 300;

/// Counted iterations. A hundred average out what happens only at every tenth.
const ITERATIONS: u32 = 100;

/// Runs `work` repeatedly, like `Bencher::iter`. An iteration handles `number` of `unit`.
pub fn iter<R>(bencher: &mut Bencher<'_>, number: usize, unit: &str, mut work: impl FnMut() -> R) {
    if std::env::var_os(COUNTED).is_none() {
        return bencher.iter(|| one_iteration(&mut work));
    }
    for _ in 0..WARM_UP {
        black_box(work());
    }
    for _ in 0..ITERATIONS {
        black_box(one_iteration(&mut work));
    }
    println!("counted {ITERATIONS} of {number} {unit}");
    bencher.iter(|| ());
}

/// Callgrind collects from the start to the end of this function.
#[inline(never)]
fn one_iteration<R>(work: &mut impl FnMut() -> R) -> R {
    work()
}
